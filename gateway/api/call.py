"""One API call as a handler sees it: who asks, and how to read and change things for them."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TypeVar

import orjson
from pydantic import BaseModel
from sqlalchemy import Connection, delete, insert, select

from gateway.api.context import ApiContext
from gateway.api.errors import ApiError, unauthenticated
from gateway.api.models import Output
from gateway.clock import after
from gateway.frozen import frozen
from gateway.keyring import decrypt, encrypt
from gateway.registry import proposals
from gateway.registry.core import Actor, Change
from gateway.registry.weakening import NeedsSecondPerson
from gateway.store import tables
from gateway.store.tables import idempotency
from gateway.values import Json, Key, ProjectId

Result = TypeVar("Result")
Answer = TypeVar("Answer", bound=BaseModel | None)

_REMEMBERED_SECONDS = 86_400


class Instead(Exception):
    """Another answer than the route's own: that of before for a request that was made before, or
    the proposal that was stored for a change that needs a second person."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


class Waiting(Output):
    """The answer to a change that loosens and is not made until another person confirms it."""

    proposal_id: str
    expires_at: str
    message: str = "This loosens: nothing is changed until another administrator confirms it."


@frozen
class Idempotency:
    """The `Idempotency-Key` of a write, and the digest of all that the write says."""

    key: str
    request_sha256: str

    @classmethod
    def of(cls, key: str, method: str, asked: str, body: bytes) -> "Idempotency":
        """`asked` is the path with its query."""
        parts = hashlib.sha256(orjson.dumps([method, asked]))
        parts.update(body)
        return cls(key, parts.hexdigest())


@frozen
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
        `Instead` when it was given before, and when a second person must confirm the change.
        """
        once = self.idempotency

        def remembering(change: Change) -> Answer | Waiting:
            self._still_alive(change)
            if once is None:
                return _made(change, fn)
            self._recall(change, once)
            answer = _made(change, fn)
            status = 202 if isinstance(answer, Waiting) else self.status
            self._remember(change, once, status, answer)
            return answer

        answer = await self.context.registry.change(Actor.of(self.key), remembering)
        if isinstance(answer, Waiting):
            raise Instead(202, dump(answer))
        return answer

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
        raise Instead(row.status, body)

    def _remember(
        self, change: Change, once: Idempotency, status: int, answer: BaseModel | None
    ) -> None:
        # Sealed, because the answer may hold a secret that is shown only once.
        sealed = encrypt(change.keyring.data, dump(answer), self._seal_context(once))
        change.connection.execute(
            insert(idempotency).values(
                key_id=self.key.id,
                idempotency_key=once.key,
                request_sha256=once.request_sha256,
                status=status,
                response_sealed=sealed,
                created_at=change.now,
            )
        )

    def _seal_context(self, once: Idempotency) -> bytes:
        return f"idempotency/{self.key.id}/{once.key}".encode()


def _made(change: Change, fn: Callable[[Change], Answer]) -> Answer | Waiting:
    """The change's answer. What loosens and may not yet be made becomes a proposal instead."""
    try:
        return fn(change)
    except NeedsSecondPerson as needed:
        # It was refused before it wrote anything; a scan that came before it is true all the same.
        row = proposals.propose(change, needed.wish)
        return Waiting(proposal_id=row.id, expires_at=row.expires_at)


def dump(answer: BaseModel | None) -> bytes:
    """The answer's JSON; nothing for none."""
    return b"" if answer is None else answer.model_dump_json().encode()
