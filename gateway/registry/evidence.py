"""Writes evidence: a project's records with their proofs, for whoever has to believe nobody.

The log only grows, so what a checkpoint covers is read page by page, without holding one snapshot
of the database for as long as a million records take.
"""

import json
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import IO, Any

import orjson
from cryptography.exceptions import InvalidTag
from sqlalchemy import Connection, Engine, Row, Select, select

from gateway.frozen import frozen
from gateway.keyring import Keyring
from gateway.registry.faults import Conflict
from gateway.registry.records import Place, walk
from gateway.registry.traces import Filter
from gateway.store import tables
from gateway.trace import payloads, receipts, rekeying
from gateway.trace.bundle import FORMAT, MANIFEST
from gateway.trace.checkpoint import Signed, latest, newest
from gateway.trace.log import LOG_ITSELF, stored_hashes
from gateway.trace.merkle import Hashes, Root, consistency_proof, inclusion_proof, roots
from gateway.trace.names import named
from gateway.trace.note import VerifierKey
from gateway.trace.payloads import PayloadErased, PayloadKey, PayloadKeys

_PAGE = 500
_LEAVES = 8192
_HEADS_LOOKED_AT = 256
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""Of every file in the zip: the same question gives the same bytes."""
_README = """Evidence of a policy gateway's log.

Check it with `gateway-verify THIS --trust-key KEY`. The key must come from somebody you trust, not
from this bundle. docs/evidence.md of the project says what each check means and what none can show.
"""

_t = tables.trace.c


@frozen
class Wanted:
    """What a bundle is to hold."""

    filter: Filter
    disclose: bool = False
    """With the payloads that are still there, and the nonces that show them to be the ones."""
    leaves: bool = False
    """With every leaf hash of the log: 32 bytes for each record of all projects, no content."""
    policies: bool = False
    previous_sizes: tuple[int, ...] = ()
    """Sizes of checkpoints seen earlier, which the newest is to be shown to extend."""


@frozen
class Written:
    records: int
    digests: tuple[str, ...]
    """Of the policy bundles that decided, as records name them."""


@frozen
class Proven:
    """One record and its place under a signed head."""

    row: Row[Any]
    signed: Signed
    proof: tuple[bytes, ...]


def prove(connection: Connection, rows: Sequence[Row[Any]]) -> list[Proven]:
    """The way from each record to its log's newest checkpoint. Raises `Conflict` without one."""
    proven = []
    for row in rows:
        signed = latest(connection, row.log)
        if signed is None or row.idx >= signed.checkpoint.size:
            raise Conflict("The record lies behind the last checkpoint of a log that was sealed.")
        root = roots(stored_hashes(connection, row.log))
        try:
            proof = inclusion_proof(row.idx, signed.checkpoint.size, root)
        except ValueError as fault:
            raise Conflict(f"The record cannot be proven: {fault}.") from None
        proven.append(Proven(row, signed, tuple(proof)))
    return proven


def tlog_proof(proven: Proven) -> str:
    """The proof as one text that needs nothing else (c2sp.org/tlog-proof)."""
    lines = ["c2sp.org/tlog-proof@v1", f"index {proven.row.idx}"]
    lines += [_base64(one) for one in proven.proof]
    return "\n".join(lines) + "\n\n" + proven.signed.note


def numbers(connection: Connection) -> list[int]:
    """Of every log, oldest first."""
    return list(connection.execute(select(tables.logs.c.log).order_by(tables.logs.c.log)).scalars())


@frozen
class _Part:
    """One log in a bundle."""

    signed: Signed
    about: Sequence[Row[Any]]
    """Its records of no project: where it came from, and which logs and ends of projects it names.
    """
    before: int
    """Records of the logs before it."""


@frozen
class BundleWriter:
    """Writes one bundle into a zip; blocks, for as long as it has records."""

    reader: Engine
    keyring: Keyring = field(repr=False)
    project_id: str
    wanted: Wanted
    now: str
    file: IO[bytes]
    told: Callable[[int, int], None] = lambda _read, _of: None
    """Told now and then, on the writing thread, how many records are read, and of how many."""

    def write(self) -> Written:
        """All but the policy bundles, which `add_policy` brings."""
        with self.reader.connect() as connection, connection.begin():
            parts: list[_Part] = []
            size = 0
            for one in newest(connection):
                parts.append(_Part(one, self._about(connection, one), size))
                size += one.checkpoint.size
        named_sizes = _named(parts)
        digests: set[str] = set()
        count = 0
        with zipfile.ZipFile(self.file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as bundle:
            for part in parts:
                sizes = named_sizes.get(part.signed.checkpoint.origin, set())
                count += self._log(bundle, part, size, sizes, digests)
                self.told(part.before + part.signed.checkpoint.size, size)
            _put(bundle, MANIFEST, _json(self._manifest(count)))
            _put(bundle, "README.txt", _README.encode())
        return Written(count, tuple(sorted(digests)))

    def add_policy(self, digest: str, archive: bytes) -> None:
        with zipfile.ZipFile(self.file, "a", zipfile.ZIP_STORED) as bundle:
            _put(bundle, f"policy/{digest.replace(':', '-')}.tar.gz", archive)

    def _manifest(self, count: int) -> dict[str, Any]:
        asked = self.wanted.filter
        narrowing = {
            name: getattr(asked, name)
            for name in ("decision", "agent_id", "server_id", "tool", "risk", "kind", "policy_id")
            if getattr(asked, name) is not None
        }
        return {
            "format": FORMAT,
            "made_at": self.now,
            "made_by": "policy-gateway",
            "project": self.project_id,
            "from": asked.since(self.now),
            "to": asked.end,
            "filter": narrowing,
            "disclosed": self.wanted.disclose,
            "records": count,
        }

    def _about(self, connection: Connection, signed: Signed) -> list[Row[Any]]:
        anchored = receipts.of_log(connection, signed.log, signed.checkpoint.size)
        return _about_the_log(connection, signed, self.project_id, {one.size for one in anchored})

    def _log(
        self,
        bundle: zipfile.ZipFile,
        part: _Part,
        of: int,
        named_sizes: set[int],
        digests: set[str],
    ) -> int:
        signed = part.signed
        folder = f"logs/{signed.log}"
        key = VerifierKey.of(signed.checkpoint.origin, self.keyring.log)
        told = {"origin": signed.checkpoint.origin, "verifier_key": str(key)}
        _put(bundle, f"{folder}/log.json", _json(told))
        _put(bundle, f"{folder}/checkpoint.txt", signed.note.encode())
        root = roots(self._hashes(signed.log))
        with self.reader.connect() as connection:
            count = 0
            with bundle.open(_info(f"{folder}/entries.jsonl"), "w", force_zip64=True) as out:
                for line in self._entries(connection, part, of, root, digests):
                    out.write(line)
                    count += 1
            proofs = {
                str(earlier): _proof(proof)
                for earlier in sorted({*self.wanted.previous_sizes, *named_sizes})
                if (proof := _extension(earlier, signed.checkpoint.size, root))
            }
            _put(bundle, f"{folder}/consistency.json", _json(proofs))
            if keys := _hand_overs(connection, signed, root):
                _put(bundle, f"{folder}/keys.json", _json({"keys": keys}))
            _put(bundle, f"{folder}/anchors.json", _json(_anchors(connection, signed, root)))
            if self.wanted.leaves:
                with bundle.open(_info(f"{folder}/leaves.bin"), "w", force_zip64=True) as out:
                    for block in _leaves(connection, signed):
                        out.write(block)
        return count

    def _hashes(self, number: int) -> Hashes:
        """Each tile read by itself: a snapshot as old as the bundle would keep the journal long."""

        def hashes(level: int, start: int, count: int) -> Sequence[bytes]:
            with self.reader.connect() as connection, connection.begin():
                return stored_hashes(connection, number)(level, start, count)

        return hashes

    def _entries(
        self, connection: Connection, part: _Part, of: int, root: Root, digests: set[str]
    ) -> Iterator[bytes]:
        signed, about = part.signed, list(part.about)
        size = signed.checkpoint.size
        keys = _Opening(PayloadKeys(self.keyring))
        for page in self._pages(connection, signed):
            until = page[-1].idx
            page = sorted([*page, *(r for r in about if r.idx <= until)], key=lambda r: r.idx)
            about = [r for r in about if r.idx > until]
            yield from self._lines(connection, page, size, root, keys, digests)
            self.told(part.before + until + 1, of)
        yield from self._lines(connection, about, size, root, keys, digests)

    def _pages(self, connection: Connection, signed: Signed) -> Iterator[list[Row[Any]]]:
        conditions = self.wanted.filter.conditions(self.now)
        query: Select[Any] = select(_t.log, _t.idx, _t.pseq, _t.body).where(
            _t.idx < signed.checkpoint.size, *conditions
        )
        after = Place()
        while True:
            with connection.begin():
                page, after = walk(
                    connection, query, signed.log, self.project_id, after, limit=_PAGE
                )
            if not page:
                return
            yield list(page)

    def _lines(
        self,
        connection: Connection,
        page: Sequence[Row[Any]],
        size: int,
        root: Root,
        keys: "_Opening",
        digests: set[str],
    ) -> Iterator[bytes]:
        if not page:
            return
        with connection.begin():
            kept = _kept(connection, page)
            for row in page:
                record = orjson.loads(row.body)
                if isinstance(digest := record.get("policy"), str):
                    digests.add(digest)
                mine = kept.get(row.idx, [])
                line: dict[str, Any] = {
                    "index": row.idx,
                    "record": row.body.decode(),
                    "proof": _proof(_path(row.idx, size, root)),
                }
                if self.wanted.disclose:
                    line["disclosed"] = keys.disclosed(connection, mine)
                there = {stored.field for stored in mine}
                line["erased"] = sorted(set(record.get("payload", {})) - there)
                yield _json(line)


class _Opening:
    """Opens payloads, each month's key once."""

    def __init__(self, keys: PayloadKeys) -> None:
        self._keys = keys
        self._opened: dict[str, PayloadKey] = {}

    def disclosed(self, connection: Connection, rows: Sequence[Row[Any]]) -> dict[str, Any]:
        found = {}
        for stored in rows:
            place = payloads.context(stored.log, stored.idx, stored.field)
            try:
                key = self._opened.get(stored.payload_key)
                if key is None:
                    key = self._keys.for_reading(connection, stored.payload_key)
                    self._opened[stored.payload_key] = key
                nonce, value = payloads.unseal(key, stored.sealed, place)
            except (PayloadErased, InvalidTag):
                continue  # it is told as not disclosed; the record stays proven
            found[stored.field] = {"nonce": _base64(nonce), "value": _base64(value)}
        return found


def _path(index: int, size: int, root: Root) -> list[bytes]:
    """Nothing in a log that is damaged: evidence shows the damage, and is not kept from showing."""
    try:
        return inclusion_proof(index, size, root)
    except ValueError:
        return []


def _extension(old: int, new: int, root: Root) -> list[bytes]:
    try:
        return consistency_proof(old, new, root)
    except ValueError:
        return []


def _hand_overs(connection: Connection, signed: Signed, root: Root) -> list[dict[str, Any]]:
    """Where the log went on under another key, so that who trusts the old one trusts the new."""
    size = signed.checkpoint.size
    with connection.begin():
        changes = list(rekeying.changes(connection, signed.log, size))
    return [
        {
            "index": one.index,
            "record": one.record.decode(),
            "proof": _proof(_path(one.index, one.index + 1, root)),
            "note": one.signed.note,
            "consistency": _proof(_extension(one.index + 1, size, root)),
        }
        for one in changes
    ]


def _anchors(connection: Connection, signed: Signed, root: Root) -> dict[str, Any]:
    """Where heads were anchored, each with the proof that this head extends it."""
    size = signed.checkpoint.size
    with connection.begin():
        found = receipts.of_log(connection, signed.log, size)
    told = [
        {**one.document(), "consistency": _proof(_extension(one.size, size, root))} for one in found
    ]
    return {"anchors": told}


def _kept(connection: Connection, page: Sequence[Row[Any]]) -> Mapping[int, list[Row[Any]]]:
    p = tables.payloads.c
    places = [row.idx for row in page]
    query = select(tables.payloads).where(p.log == page[0].log, p.idx.in_(places))
    found: dict[int, list[Row[Any]]] = {}
    for stored in connection.execute(query.order_by(p.idx, p.field)):
        found.setdefault(stored.idx, []).append(stored)
    return found


def _about_the_log(
    connection: Connection, signed: Signed, project_id: str, anchored: set[int]
) -> list[Row[Any]]:
    """The records that say where the log came from, which logs there are, and where the project's
    records end: in all, and below the newest anchor.
    """
    query: Select[Any] = select(_t.log, _t.idx, _t.pseq, _t.body, _t.kind).where(
        _t.log == signed.log, _t.project_id == LOG_ITSELF, _t.idx < signed.checkpoint.size
    )
    latest_ones = query.order_by(_t.pseq.desc()).limit(_HEADS_LOOKED_AT)
    heads = [row for row in connection.execute(latest_ones) if row.kind == "heads"]
    found = [row for row in connection.execute(query.order_by(_t.pseq).limit(1))]
    found = [row for row in found if row.kind in ("recovery", "genesis")] + heads[:1]
    if anchored:
        below = query.where(_t.idx == max(anchored) - 1, _t.kind == "heads")
        found += connection.execute(below).all()
    found += [row for row in heads if _names(row, project_id)][:1]
    return sorted({row.idx: row for row in found}.values(), key=lambda row: row.idx)


def _names(row: Row[Any], project_id: str) -> bool:
    lines = orjson.loads(row.body).get("projects", ())
    return any(line.startswith(f"{project_id} ") for line in lines)


def _named(parts: Sequence[_Part]) -> dict[str, set[int]]:
    """The sizes at which each log is named in the bundle: it has to show that it extends them."""
    found: dict[str, set[int]] = {}
    for part in parts:
        for row in part.about:
            for one in named(orjson.loads(row.body)):
                found.setdefault(one.origin, set()).add(one.size)
    return found


def _leaves(connection: Connection, signed: Signed) -> Iterator[bytes]:
    size, start = signed.checkpoint.size, 0
    while start < size:
        count = min(_LEAVES, size - start)
        with connection.begin():
            yield b"".join(stored_hashes(connection, signed.log)(0, start, count))
        start += count


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _LONG_AGO)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o600 << 16
    return info


def _put(bundle: zipfile.ZipFile, name: str, content: bytes) -> None:
    bundle.writestr(_info(name), content)


def _json(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _proof(proof: Sequence[bytes]) -> list[str]:
    return [_base64(one) for one in proof]


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()
