"""An OPA of its own for policy that is only tried: replays, samples.

It sees no environment of ours, has a limit of memory, and each question has a limit of time. Its
policy is compiled under the gateway's capabilities first, so there is no builtin that reaches the
network, and it is configured to fetch nothing.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from gateway import assets
from gateway.frozen import frozen
from gateway.http1.client import Client, Http1Error, UnixAddress
from gateway.policy import launch
from gateway.policy.opa import OpaOptions
from gateway.policy.opa_command import run_opa
from gateway.policy.sources import BundleFault
from gateway.values import Json

_GROUP = 256
_GROUP_BYTES = 1 << 20
"""Questions that go together take half the time of the same ones asked alone: nearly all of a
decision's cost is HTTP and JSON."""
_GROUP_SECONDS = 30.0
_GROUPS_AT_ONCE = (os.cpu_count() or 1) + 1
"""OPA spends one core on a group; one more is written and read meanwhile."""
_CONNECTIONS = 8
_SECONDS = 5.0
"""For one question. In production it would have 250 ms; here eight share a machine at work."""
_TIMED = 200
_START_SECONDS = 30.0
_NO_ANSWER = "OPA did not answer"
_POLL = 0.02
_LARGEST_ANSWER = 16 << 20
_DECISION = b"gateway/decision"
_DECISIONS = b"gateway/group/decisions"
_INPUT = b'{"input":'
_HEAD = (
    b"POST /v1/data/%b?strict-builtin-errors=true&metrics=true HTTP/1.1\r\n"
    b"Host: opa\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


@frozen
class Tried:
    """What a bundle says of one input. Without an action there is no decision: a refusal."""

    action: str | None
    policy_ids: tuple[str, ...] = ()
    obligations: Json = None
    error: str = ""


@frozen
class Side:
    """One bundle's answers, in the order of the questions."""

    answers: list[Tried]
    microseconds: list[int]
    """That the evaluation took, of a sample of the questions, asked alone and one by one."""


def decide_all(archive: bytes, questions: Sequence[bytes], opa: Path) -> list[Tried]:
    """Ask a bundle each question, ``{"input": …}``, and return its answers in their order.

    Raises `BundleFault` when OPA does not take the bundle or does not start.
    """

    async def decide() -> list[Tried]:
        async with _running(archive, opa) as client:
            return await _answers(client, questions)

    return asyncio.run(decide())


def decide_both(
    before: bytes, after: bytes, questions: Sequence[bytes], opa: Path
) -> tuple[Side, Side]:
    """Ask two bundles the same questions, each in an OPA of its own, at the same time."""

    async def decide() -> tuple[Side, Side]:
        async with _both_running(before, after, opa) as (old, new):
            answers = await asyncio.gather(_answers(old, questions), _answers(new, questions))
            sample = questions[:: max(1, len(questions) // _TIMED)]
            times: tuple[list[int], list[int]] = ([], [])
            for question in sample:
                # In turn, so that whatever else the machine does befalls both alike.
                times[0].append(await _microseconds(old, question))
                times[1].append(await _microseconds(new, question))
            return Side(answers[0], times[0]), Side(answers[1], times[1])

    return asyncio.run(decide())


async def _answers(client: Client, questions: Sequence[bytes]) -> list[Tried]:
    groups = list(_groups(questions))
    answers: list[list[Tried]] = [[]] * len(groups)
    waiting = iter(enumerate(groups))

    async def ask_on() -> None:
        for place, group in waiting:
            answers[place] = await _together(client, group) or await _one_by_one(client, group)

    await asyncio.gather(*(ask_on() for _ in range(_GROUPS_AT_ONCE)))
    return list(itertools.chain.from_iterable(answers))


def _groups(questions: Iterable[bytes]) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    for question in questions:
        if group and (len(group) == _GROUP or size + len(question) > _GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(question)
        size += len(question)
    if group:
        yield group


async def _together(client: Client, questions: Sequence[bytes]) -> list[Tried] | None:
    """The answers to a group in one request; None when it has to be asked one by one.

    It has when one of its questions ends in an error, which would otherwise be everybody's, and
    when the bundle is older than `data.gateway.group`.
    """
    if not all(question.startswith(_INPUT) for question in questions):
        return None
    calls = b",".join(
        b'{"id":"%d","input":%b' % (place, question[len(_INPUT) :])
        for place, question in enumerate(questions)
    )
    status, answer = await _post(
        client, _DECISIONS, b'{"input":{"calls":[%b]}}' % calls, _GROUP_SECONDS
    )
    results = answer.get("result")
    if status != 200 or not isinstance(results, dict) or len(results) != len(questions):
        return None
    return [_read(results.get(str(place))) for place in range(len(questions))]


async def _one_by_one(client: Client, questions: Sequence[bytes]) -> list[Tried]:
    answers = [Tried(None)] * len(questions)
    waiting = iter(enumerate(questions))

    async def ask_on() -> None:
        for place, question in waiting:
            answers[place] = await _ask(client, question)

    await asyncio.gather(*(ask_on() for _ in range(_CONNECTIONS)))
    return answers


async def _ask(client: Client, question: bytes) -> Tried:
    status, answer = await _post(client, _DECISION, question, _SECONDS)
    if status != 200:
        return Tried(None, error="; ".join(_fault(e) for e in answer.get("errors") or [answer]))
    return _read(answer.get("result"))


async def _microseconds(client: Client, question: bytes) -> int:
    _, answer = await _post(client, _DECISION, question, _SECONDS)
    return int(answer.get("metrics", {}).get("timer_rego_query_eval_ns", 0)) // 1000


async def _post(
    client: Client, document: bytes, question: bytes, seconds: float
) -> tuple[int, dict[str, Any]]:
    """Status and answer; status 0 and a code when there is none."""
    head = _HEAD % (document, len(question))
    due = time.monotonic() + seconds
    try:
        response = await client.request(head, question, deadline=due, max_body=_LARGEST_ANSWER)
    except Http1Error as error:
        return 0, {"code": f"{_NO_ANSWER}: {error}"}
    return response.status, orjson.loads(response.body)


def _read(result: Any) -> Tried:
    if not isinstance(result, dict) or not isinstance(result.get("action"), str):
        return Tried(None, error="the decision is undefined")
    return Tried(
        action=result["action"],
        policy_ids=tuple(result.get("policy_ids", ())),
        obligations=result.get("obligations"),
    )


def _fault(error: dict[str, Any]) -> str:
    """Which error and where. OPA's message is left out: it may quote an argument."""
    where = error.get("location") or {}
    place = f" at {where['file'].lstrip('/')}:{where['row']}" if "file" in where else ""
    return f"{error.get('code', 'error')}{place}"


@asynccontextmanager
async def _running(archive: bytes, opa: Path) -> AsyncIterator[Client]:
    # A socket's path may have 107 bytes, less than some temporary folders have.
    with tempfile.TemporaryDirectory(prefix="gateway-", dir="/tmp") as aside:
        folder = Path(aside)
        (folder / "bundle.tar.gz").write_bytes(archive)
        await asyncio.to_thread(_compiles, folder, opa)
        with (folder / "said").open("wb") as said:
            process = await asyncio.create_subprocess_exec(
                *_command(opa),
                cwd=folder,
                env=_environment(),
                stdin=PIPE,
                stdout=DEVNULL,
                stderr=said,
                start_new_session=True,
            )
        client = Client(UnixAddress(str(folder / "s")))
        try:
            await _until_it_answers(client, process, folder)
            yield client
        finally:
            client.close()
            # The group: where the launcher stays (see it), OPA is its child.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@asynccontextmanager
async def _both_running(
    before: bytes, after: bytes, opa: Path
) -> AsyncIterator[tuple[Client, Client]]:
    """Two of them, which compile side by side: half of a short replay is their start."""
    async with AsyncExitStack() as stack:
        # Both ends are awaited: one that still starts while the other fails must be ended too.
        old, new = await asyncio.gather(
            stack.enter_async_context(_running(before, opa)),
            stack.enter_async_context(_running(after, opa)),
            return_exceptions=True,
        )
        if isinstance(old, BaseException):
            raise old
        if isinstance(new, BaseException):
            raise new
        yield old, new


def _compiles(folder: Path, opa: Path) -> None:
    capabilities = assets.asset("rego") / "capabilities.json"
    words = ("eval", "--bundle", "bundle.tar.gz", "--capabilities", capabilities, "true")
    done = run_opa(opa, *words, folder=folder)
    if done.returncode != 0:
        raise BundleFault((done.stdout or done.stderr).decode(errors="replace").strip())


def _command(opa: Path) -> Iterable[str]:
    options = OpaOptions()
    limits = [str(os.getpid()), str(options.memory_bytes), options.lifeline]
    launcher = [sys.executable, "-I", "-S", launch.__file__, *limits, str(opa)]
    return launcher + [
        *("run", "--server", "--skip-version-check", "--log-level", "error"),
        # Whose bundle it is has been seen to: it was built here, or found under its digest.
        *("--bundle", "bundle.tar.gz", "--skip-verify"),
        *("--addr", "unix://s", "--unix-socket-perm", "600"),
    ]


def _environment() -> dict[str, str]:
    return {"GOGC": "1000", "GOMEMLIMIT": str(OpaOptions().memory_bytes // 2)}


async def _until_it_answers(client: Client, process: Process, folder: Path) -> None:
    due = time.monotonic() + _START_SECONDS
    while time.monotonic() < due and process.returncode is None:
        if (folder / "s").exists():
            asked = await _ask(client, b"{}")
            if not asked.error.startswith(_NO_ANSWER):
                return
        await asyncio.sleep(_POLL)
    said = (folder / "said").read_text(errors="replace")
    raise BundleFault(f"OPA did not start: {said[-500:].strip()}")
