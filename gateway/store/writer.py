"""The one writing thread: whatever waits at the same moment is committed together.

Work comes in two forms. `submit(batch, item)` is for what happens on every call: all items that
wait for the same batch function are handed to it in one go and share one commit, never each
other's fate: the function returns a result or an exception for each. `change(fn)` is for what a
person or an API key alters: the function runs in its own savepoint, so that its failure undoes
itself alone.

The commit is the only flush. A future is resolved after it, so whoever was told has it on disk.
If the shared transaction fails, nothing of it is durable and each piece is tried again by itself.

Where a server keeps the database, the connection may end while it commits. Then nobody knows what
became of it: whoever waits is told `CommitInDoubt`, nothing is tried again, and before the next
transaction memory is made anew from what the database has.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

import structlog
from sqlalchemy import Connection, Engine, RootTransaction
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gateway.frozen import frozen
from gateway.store.database import is_chosen, is_lost, is_servers, may_pass, take_turn
from gateway.store.postgresql import DatabaseAway
from gateway.telemetry.logs import fault_text

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_GROUP = 512
TRIES = 4
"""Of a transaction that another gateway's, or a server that was away, kept from its commit."""
PATIENCE_SECONDS = 0.01

_log = structlog.get_logger(__name__)


class WriterStopped(Exception):
    """The writer is closed; nothing was written."""


class CommitInDoubt(SQLAlchemyError):
    """The connection ended during the commit: what was to be written may be durable, or not."""


class Participant(Protocol):
    """State in memory that mirrors the database and must follow its transactions."""

    def begin(self, connection: Connection) -> None:
        """A transaction starts."""

    def mark(self) -> object:
        """Return a point in this transaction to come back to."""

    def rewind(self, mark: object) -> None:
        """Forget everything since the mark."""

    def committed(self, connection: Connection) -> None:
        """The transaction is durable; `connection` may be read outside of it."""

    def rolled_back(self) -> None:
        """Nothing of the transaction happened."""


BatchFunction = Callable[[Connection, Sequence[Any]], Sequence[Any]]


@frozen
class _Job:
    batch: BatchFunction | None
    item: Any
    """A call's value; for a change the function itself."""
    future: "asyncio.Future[Any] | Future[Any]"


class Writer:
    """Owns the writing connection; start it once, close it last."""

    def __init__(
        self,
        engine: Engine,
        participants: Sequence[Participant] = (),
        *,
        reload: Callable[[Connection], None] = lambda _: None,
        set_clock: Callable[[float], None] = lambda _: None,
    ) -> None:
        """``reload`` reads from the database all that the participants mirror of it; ``set_clock``
        is told the server's time in seconds as each transaction begins.
        """
        self._engine = engine
        self._reload = reload
        self._set_clock = set_clock
        self._in_doubt = False
        self._participants = tuple(participants)
        self._queue: deque[_Job] = deque()
        self._wake = threading.Event()
        self._door = threading.Lock()
        self._connection: Connection | None = None
        self._closing = False
        self._patience = False
        self._gathering = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self.failing = False
        """True while the last commit failed, or memory could not follow it: readiness says so."""

    @property
    def queued(self) -> int:
        """Pieces of work that wait for a commit."""
        return len(self._queue)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what is queued, then stop. Blocks."""
        with self._door:
            self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        left = list(self._queue)  # of a writer that never ran
        _deliver(left, [_stopped() for _ in left])
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()

    def submit(
        self, batch: Callable[[Connection, Sequence[Item]], Sequence[Any]], item: Item
    ) -> "asyncio.Future[Any]":
        """Queue one item; the future resolves once it is durable, or with its exception."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._put(_Job(batch, item, future), wake=False)
        if not self._gathering:
            # Whoever is resumed in the same turn of the loop goes along: a commit costs as much as
            # what ten calls write.
            self._gathering = True
            loop.call_soon(self._gathered)
        return future

    def submit_patiently(
        self, batch: Callable[[Connection, Sequence[Item]], Sequence[Any]], item: Item
    ) -> "asyncio.Future[Any]":
        """As `submit`, for what nobody waits for: it goes with the next commit that somebody does,
        or after `PATIENCE_SECONDS`.
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._put(_Job(batch, item, future), wake=False)
        if not self._patience:
            self._patience = True
            loop.call_later(PATIENCE_SECONDS, self._lose_patience)
        return future

    def change(self, fn: Callable[[Connection], Result]) -> "asyncio.Future[Result]":
        """Queue a function that alters the database in its own savepoint."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._put(_Job(None, fn, future))
        return future

    def change_now(self, fn: Callable[[Connection], Result]) -> Result:
        """As `change`, from a thread without an event loop; blocks until durable."""
        future: Future[Result] = Future()
        self._put(_Job(None, fn, future))
        return future.result()

    def _put(self, job: _Job, *, wake: bool = True) -> None:
        with self._door:  # or a job could come in behind the last look at the queue
            if self._closing:
                raise _stopped()
            self._queue.append(job)
        if wake:
            self._wake.set()

    def _gathered(self) -> None:
        self._gathering = False
        self._wake.set()

    def _lose_patience(self) -> None:
        self._patience = False
        self._wake.set()

    # --- the writing thread ---

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._queue:
                count = min(len(self._queue), MAX_GROUP)
                self._commit_group([self._queue.popleft() for _ in range(count)])
            if self._closing and not self._queue:
                return

    def _commit_group(self, jobs: list[_Job]) -> None:
        try:
            results = self._tried(jobs)
        except Exception as fault:  # noqa: BLE001 - whatever it was, nobody is told that it is done
            # A server that is away fails each of them, one time-out after the other.
            if len(jobs) == 1 or isinstance(fault, CommitInDoubt) or is_servers(fault):
                self.failing = True
                if is_servers(fault) and not isinstance(fault, CommitInDoubt):
                    fault = DatabaseAway(fault_text(fault))
                _log.error("write failed", error=fault_text(fault), pieces=len(jobs))
                results = [fault] * len(jobs)
            else:
                for job in jobs:  # a poisonous call must not take its neighbours along
                    self._commit_group([job])
                return
        _deliver(jobs, results)

    def _tried(self, jobs: list[_Job]) -> list[Any]:
        for _ in range(TRIES - 1):
            try:
                return self._transaction(jobs)
            except Exception as fault:
                if not may_pass(fault):
                    raise
        return self._transaction(jobs)

    def _transaction(self, jobs: list[_Job]) -> list[Any]:
        connection = self._connected()
        transaction = connection.begin()
        try:
            now = take_turn(connection, alone=any(job.batch is None for job in jobs))
            if now is not None:
                self._set_clock(now)
            if self._in_doubt:
                self._reload(connection)
                self._in_doubt = False
            for participant in self._participants:
                participant.begin(connection)
            results = self._work(connection, jobs)
            self._commit(connection, transaction)
        except BaseException:
            try:
                self._undo(connection, transaction)
            finally:
                for participant in self._participants:
                    participant.rolled_back()
            raise
        # Durable from here on: no fault may make it look as if it were not.
        self.failing = False
        for participant in self._participants:
            self._follow(participant, connection)
        if connection.in_transaction():
            connection.rollback()  # a participant read; the next transaction is one of its own
        return results

    def _commit(self, connection: Connection, transaction: RootTransaction) -> None:
        try:
            transaction.commit()
        except DBAPIError as fault:
            if not is_lost(connection):
                raise
            self._in_doubt = True
            raise CommitInDoubt(
                "the database's server went away during the commit: look whether it is done"
            ) from fault

    def _connected(self) -> Connection:
        """The one connection, kept: opening it anew costs more than a small transaction."""
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _undo(self, connection: Connection, transaction: RootTransaction) -> None:
        self._connection = None
        try:
            if transaction.is_active and not is_lost(connection):
                transaction.rollback()
            else:
                # COMMIT failed and may have left the transaction open: it ends with its connection.
                connection.invalidate()
        finally:
            connection.close()

    def _follow(self, participant: Participant, connection: Connection) -> None:
        try:
            participant.committed(connection)
        except Exception as fault:  # noqa: BLE001 - an exception here would have it written twice
            self.failing = self._in_doubt = True
            _log.error("memory cannot follow the database", error=fault_text(fault))

    def _work(self, connection: Connection, jobs: list[_Job]) -> list[Any]:
        """Run each batch function once, over all its items, in the order of its first item."""
        results: list[Any] = [None] * len(jobs)
        batches: dict[BatchFunction, list[int]] = {}
        for position, job in enumerate(jobs):
            if job.batch is None:
                results[position] = self._change(connection, job.item)
            else:
                batches.setdefault(job.batch, []).append(position)
        for batch, positions in batches.items():
            answers = batch(connection, [jobs[position].item for position in positions])
            for position, answer in zip(positions, answers, strict=True):
                results[position] = answer
        return results

    def _change(self, connection: Connection, fn: Callable[[Connection], Any]) -> Any:
        marks = [participant.mark() for participant in self._participants]
        savepoint = connection.begin_nested()
        try:
            result = fn(connection)
            savepoint.commit()
        except Exception as fault:
            if is_chosen(fault):
                raise  # the whole transaction is tried again, this change with it
            try:
                savepoint.rollback()
            except DBAPIError:  # a full disk: SQLite has undone the whole transaction by itself
                raise fault from None
            for participant, mark in zip(self._participants, marks, strict=True):
                participant.rewind(mark)
            return fault
        return result


def _stopped() -> WriterStopped:
    return WriterStopped("the gateway is shutting down; nothing was written")


def _deliver(jobs: list[_Job], results: list[Any]) -> None:
    waiting: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for job, result in zip(jobs, results, strict=True):
        if isinstance(job.future, asyncio.Future):
            waiting.setdefault(job.future.get_loop(), []).append((job.future, result))
        else:
            _resolve([(job.future, result)])
    for loop, pairs in waiting.items():
        with contextlib.suppress(RuntimeError):  # the loop has ended, and whoever asked with it
            loop.call_soon_threadsafe(_resolve, pairs)


def _resolve(pairs: Sequence[tuple["asyncio.Future[Any] | Future[Any]", Any]]) -> None:
    for future, result in pairs:
        if future.done():
            continue  # its task was cancelled; what is durable stays durable
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
