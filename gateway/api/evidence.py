"""Proofs, checkpoints, evidence bundles, exports and erasure: `/traces/{id}/proof` and the like."""

import asyncio
import csv
import io
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import IO, Annotated, Any, Literal

import orjson
from pydantic import BaseModel, Field
from sqlalchemy import Connection, Row, select
from starlette.responses import Response, StreamingResponse

from gateway.api.call import ApiCall
from gateway.api.models import Output, Query
from gateway.api.traces import Searched, Wanted
from gateway.registry import erasure, evidence, traces
from gateway.registry.core import Actor, Change
from gateway.registry.erasure import Erasing
from gateway.registry.faults import Missing
from gateway.registry.fields import Input
from gateway.registry.records import Place, walk
from gateway.store import tables
from gateway.trace.checkpoint import Signed
from gateway.trace.note import VerifierKey

ZIP = "application/zip"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
_FORMULA = ("=", "+", "-", "@", "|", "%")
_CONTROL = ("\t", "\r", "\n")
_CHUNK = 256 * 1024
_PAGE = 1_000
_t = tables.trace.c
_COLUMNS = [
    *("log", "idx", "id", "call_id", "ts", "kind", "decision", "reason_code", "risk", "agent_id"),
    *("server_id", "tool", "pseq"),
]
_Sizes = Annotated[tuple[Annotated[int, Field(ge=1, le=1 << 53)], ...], Field(max_length=64)]


class CheckpointOut(Output):
    origin: str
    size: int
    root: str
    """Hex."""
    ts: str
    note: str
    """Signed, as C2SP's tlog-checkpoint has it."""
    verifier_key: str
    """For information: what an auditor trusts must come from elsewhere."""


class ProofOut(Output):
    index: int
    leaf: str
    record: str
    """The bytes that were hashed, as text."""
    proof: list[str]
    """Hex, from the leaf to the root (RFC 6962, section 2.1.1)."""
    checkpoint: CheckpointOut
    tlog_proof: str
    """All of it as one text (c2sp.org/tlog-proof)."""


class ProofsOut(Output):
    trace_id: str
    proofs: list[ProofOut]


class EvidenceBody(Wanted, Input):
    disclose: Annotated[
        bool, Field(description="With what the records commit to: arguments, persons, reasons")
    ] = False
    leaves: Annotated[
        bool, Field(description="With every leaf hash of the log, which proves it complete")
    ] = False
    policies: Annotated[bool, Field(description="With the bundles that decided")] = False
    previous_sizes: Annotated[
        _Sizes, Field(description="Sizes of earlier checkpoints; proved to be extended")
    ] = ()


class ExportQuery(Searched, Query):
    format: Literal["csv", "ndjson"] = "ndjson"


class ErasedOut(BaseModel):
    trace_id: str
    erased: int
    bytes_gone: bool
    """False while somebody reads an older state of the database; then within seconds after."""


async def proof(call: ApiCall) -> ProofsOut:
    """Where a call's records lie in the log, so that nobody has to be believed."""
    await call.context.checkpoint()

    def read(connection: Connection) -> ProofsOut:
        rows = traces.get(connection, call.project_id, call.path["id"])
        proofs = [_proof(call, one) for one in evidence.prove(connection, rows)]
        return ProofsOut(trace_id=call.path["id"], proofs=proofs)

    return await call.read(read)


async def checkpoint(call: ApiCall) -> CheckpointOut:
    signed = await call.context.checkpoint()
    if signed is None:
        raise Missing("checkpoint")
    return _checkpoint(call, signed)


async def bundle(call: ApiCall, body: EvidenceBody) -> Response:
    """A zip, made in a file without a name and streamed from there."""
    wanted = evidence.Wanted(
        filter=body.as_filter(),
        disclose=body.disclose,
        leaves=body.leaves,
        policies=body.policies,
        previous_sizes=body.previous_sizes,
    )
    await _note_reading(call, "audit_read.evidence", body.model_dump(mode="json"))
    await call.context.checkpoint()
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the answer has been sent
    try:
        with call.context.making.one(call.key.id) as told:
            await _write(call, wanted, file, told)
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    headers = {
        "Content-Disposition": 'attachment; filename="evidence.zip"',
        "Content-Length": str(size),
        "Cache-Control": "no-store",
    }
    return StreamingResponse(_chunks(file), headers=headers, media_type=ZIP)


async def _write(
    call: ApiCall, wanted: evidence.Wanted, file: IO[bytes], told: Callable[[int, int], None]
) -> None:
    registry = call.context.registry
    writer = evidence.BundleWriter(
        registry.reader, registry.keyring, call.project_id, wanted, call.now, file, told
    )
    written = await asyncio.to_thread(writer.write)
    if wanted.policies:
        for digest in written.digests:
            archive = await call.context.policy_bundle(digest)
            if archive is not None:
                await asyncio.to_thread(writer.add_policy, digest, archive)


async def export(call: ApiCall, query: ExportQuery) -> Response:
    """Every record of the filter, oldest first, as it comes from the database."""
    wanted = query.as_searched(call)
    await _note_reading(call, "audit_read.export", query.model_dump(mode="json"))
    as_csv = query.format == "csv"
    lines = _csv(call, wanted) if as_csv else _ndjson(call, wanted)
    name = f"traces.{query.format}"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "no-store",
    }
    media_type = f"{CSV}; charset=utf-8" if as_csv else NDJSON
    return StreamingResponse(lines, headers=headers, media_type=media_type)


async def erase(call: ApiCall, body: Erasing) -> ErasedOut:
    """Delete what is kept of a call; its records and their proofs stay."""
    trace_id = call.path["id"]
    vacated = call.context.vacated
    # Before the change: nobody may wait on the writing thread for what is in cold storage.
    known = await call.read(lambda c: traces.get(c, call.project_id, trace_id))
    places = [(row.log, row.idx) for row in known]

    def change(change: Change) -> ErasedOut:
        count = erasure.erase(change, vacated, trace_id, body.reason, places)
        return ErasedOut(trace_id=trace_id, erased=count, bytes_gone=False)

    answer = await call.change(change)
    return answer.model_copy(update={"bytes_gone": not vacated.waiting})


# --- how things are shown ---


def _checkpoint(call: ApiCall, signed: Signed) -> CheckpointOut:
    one = signed.checkpoint
    key = VerifierKey.of(one.origin, call.context.registry.keyring.log)
    return CheckpointOut(
        origin=one.origin,
        size=one.size,
        root=one.root.hex(),
        ts=signed.ts,
        note=signed.note,
        verifier_key=str(key),
    )


def _proof(call: ApiCall, proven: evidence.Proven) -> ProofOut:
    return ProofOut(
        index=proven.row.idx,
        leaf=proven.row.leaf.hex(),
        record=proven.row.body.decode(),
        proof=[one.hex() for one in proven.proof],
        checkpoint=_checkpoint(call, proven.signed),
        tlog_proof=evidence.tlog_proof(proven),
    )


async def _note_reading(call: ApiCall, event: str, asked: dict[str, Any]) -> None:
    """Who took what out is on the trail before anything is given."""
    after = {name: value for name, value in asked.items() if value not in (None, (), [])}

    def note(change: Change) -> None:
        change.record(event, call.key.id, after=after)

    await call.context.registry.change(Actor.of(call.key), note)


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk


async def _pages(call: ApiCall, wanted: traces.Filter) -> AsyncIterator[Sequence[Row[Any]]]:
    """The records that there are now, a page at a time: no snapshot lives as long as the client."""
    now = call.now
    query = select(tables.trace).where(_t.ts <= now, *wanted.conditions(now))
    for number in await call.read(evidence.numbers):
        after = Place()
        while True:
            page, after = await call.read(
                partial(
                    walk,
                    query=query,
                    log=number,
                    project_id=call.project_id,
                    after=after,
                    limit=_PAGE,
                )
            )
            if not page:
                break
            yield page


async def _ndjson(call: ApiCall, wanted: traces.Filter) -> AsyncIterator[bytes]:
    """The records as they were hashed, each with its leaf."""
    async for page in _pages(call, wanted):
        yield b"".join(
            b'{"leaf":"%b","log":%d,"record":%b}\n' % (row.leaf.hex().encode(), row.log, row.body)
            for row in page
        )


async def _csv(call: ApiCall, wanted: traces.Filter) -> AsyncIterator[bytes]:
    yield csv_rows([[*_COLUMNS, "rules", "leaf"]])
    async for page in _pages(call, wanted):
        yield csv_rows([_cells(row) for row in page])


def _cells(row: Row[Any]) -> list[str]:
    rules = orjson.loads(row.body).get("rules") or ()
    values = [*(getattr(row, name) for name in _COLUMNS), " ".join(rules), row.leaf.hex()]
    return [harmless("" if value is None else str(value)) for value in values]


def harmless(cell: str) -> str:
    """A spreadsheet runs what begins like a formula; a quote before it makes it text."""
    runs = cell.startswith(_CONTROL) or cell.lstrip().startswith(_FORMULA)
    return f"'{cell}" if runs else cell


def csv_rows(rows: Sequence[Sequence[str]]) -> bytes:
    """Lines of CSV (RFC 4180)."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()
