"""One API call as a handler sees it: who asks, and how to read and change things for them."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import orjson
from pydantic import BaseModel
from sqlalchemy import Connection, delete, insert, select

from gateway.api.context import ApiContext
from gateway.api.errors import ApiError, unauthenticated
from gateway.clock import after
from gateway.keyring import decrypt, encrypt
from gateway.registry.core import Actor, Change
from gateway.store import tables
from gateway.store.tables import idempotency
from gateway.values import Json, Key, ProjectId

Result = TypeVar("Result")
Answer = TypeVar("Answer", bound=BaseModel | None)

_REMEMBERED_SECONDS = 86_400


class Replay(Exception):
    """This very request was answered before; the same answer again, nothing is done twice."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The `Idempotency-Key` of a write, and the digest of all that the write says."""

    key: str
    request_sha256: str

    @classmethod
    def of(cls, key: str, method: str, path: str, body: bytes) -> "Idempotency":
        parts = hashlib.sha256(orjson.dumps([method, path]))
        parts.update(body)
        return cls(key, parts.hexdigest())


@dataclass(frozen=True, slots=True)
class ApiCall:
    """An authenticated call whose role may make it."""

    context: ApiContext
    key: Key
    key_digest: bytes = field(repr=False)
    """SHA-256 of the secret that was sent: a key rotated since has another."""
    path: Mapping[str, str]
    """The ids in the path; not known to exist."""
    document: Mapping[str, Json]
    """The body as the strict parser made it; empty without one."""
    status: int
    """Of the answer, if all goes well."""
    idempotency: Idempotency | None = field(default=None)

    @property
    def project_id(self) -> ProjectId:
        return self.key.project_id

    @property
    def now(self) -> str:
        return self.context.registry.clock.now()

    async def read(self, fn: Callable[[Connection], Result]) -> Result:
        """Run a function that only reads, off the event loop."""
        return await self.context.registry.read(fn)

    async def change(self, fn: Callable[[Change], Answer]) -> Answer:
        """Run a function that changes things, once per `Idempotency-Key`; it is durable after.

        Its answer is kept in the same transaction, so a crash leaves both or neither. Raises
        `Replay` when it was given before.
        """
        once = self.idempotency

        def remembering(change: Change) -> Answer:
            self._still_alive(change)
            if once is None:
                return fn(change)
            self._recall(change, once)
            answer = fn(change)
            self._remember(change, once, answer)
            return answer

        return await self.context.registry.change(Actor.of(self.key), remembering)

    def _still_alive(self, change: Change) -> None:
        # The key was looked up in memory; a revocation may have been committed since.
        k = tables.keys.c
        alive = select(k.id).where(
            k.id == self.key.id,
            k.state == "ACTIVE",
            k.secret_sha256 == self.key_digest,
            k.expires_at.is_(None) | (k.expires_at > change.now),
        )
        if change.connection.execute(alive).first() is None:
            raise unauthenticated("The key is unknown, expired or revoked.", invalid_token=True)

    def _recall(self, change: Change, once: Idempotency) -> None:
        i = idempotency.c
        expired = i.created_at < after(change.now, -_REMEMBERED_SECONDS)
        change.connection.execute(delete(idempotency).where(expired))
        query = select(idempotency).where(i.key_id == self.key.id, i.idempotency_key == once.key)
        row = change.connection.execute(query).first()
        if row is None:
            return
        if row.request_sha256 != once.request_sha256:
            raise ApiError(422, "This Idempotency-Key was used for another request.")
        body = decrypt(change.keyring.data, row.response_sealed, self._seal_context(once))
        raise Replay(row.status, body)

    def _remember(self, change: Change, once: Idempotency, answer: BaseModel | None) -> None:
        # Sealed, because the answer may hold a secret that is shown only once.
        sealed = encrypt(change.keyring.data, dump(answer), self._seal_context(once))
        change.connection.execute(
            insert(idempotency).values(
                key_id=self.key.id,
                idempotency_key=once.key,
                request_sha256=once.request_sha256,
                status=self.status,
                response_sealed=sealed,
                created_at=change.now,
            )
        )

    def _seal_context(self, once: Idempotency) -> bytes:
        return f"idempotency/{self.key.id}/{once.key}".encode()


def dump(answer: BaseModel | None) -> bytes:
    """The answer's JSON; nothing for none."""
    return b"" if answer is None else answer.model_dump_json().encode()
