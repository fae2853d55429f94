"""An OPA of its own for policy that is only tried: replays, samples.

It sees no environment of ours, has a limit of memory, and each question has a limit of time. Its
policy is compiled under the gateway's capabilities first, so there is no builtin that reaches the
network, and it is configured to fetch nothing.
"""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gateway import assets
from gateway.http1 import Client, Http1Error, UnixAddress
from gateway.policy import launch
from gateway.policy.opa import OpaOptions
from gateway.policy.opa_command import run_opa
from gateway.policy.sources import BundleFault
from gateway.values import Json

_CONNECTIONS = 8
_SECONDS = 5.0
"""For one question. In production it would have 250 ms; here eight share a machine at work."""
_START_SECONDS = 30.0
_NO_ANSWER = "OPA did not answer"
_POLL = 0.02
_LARGEST_ANSWER = 4 << 20
_HEAD = (
    b"POST /v1/data/gateway/decision?strict-builtin-errors=true&metrics=true HTTP/1.1\r\n"
    b"Host: opa\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Tried:
    """What a bundle says of one input. Without an action there is no decision: a refusal."""

    action: str | None
    policy_ids: tuple[str, ...] = ()
    obligations: Json = None
    error: str = ""
    microseconds: int = 0
    """That OPA spent on the evaluation itself."""


def decide_all(archive: bytes, questions: Sequence[bytes], opa: Path) -> list[Tried]:
    """Ask a bundle each question, ``{"input": …}``, and return its answers in their order.

    Raises `BundleFault` when OPA does not take the bundle or does not start.
    """
    return asyncio.run(_decide_all(archive, questions, opa))


def decide_both(
    before: bytes, after: bytes, questions: Sequence[bytes], opa: Path
) -> tuple[list[Tried], list[Tried]]:
    """Ask two bundles the same questions, each in an OPA of its own, at the same time."""

    async def both() -> list[list[Tried]]:
        asked = [_decide_all(archive, questions, opa) for archive in (before, after)]
        return list(await asyncio.gather(*asked))

    first, second = asyncio.run(both())
    return first, second


async def _decide_all(archive: bytes, questions: Sequence[bytes], opa: Path) -> list[Tried]:
    answers = [Tried(None)] * len(questions)
    async with _running(archive, opa) as client:
        waiting = iter(enumerate(questions))

        async def ask_on() -> None:
            for place, question in waiting:
                answers[place] = await _ask(client, question)

        await asyncio.gather(*(ask_on() for _ in range(_CONNECTIONS)))
    return answers


async def _ask(client: Client, question: bytes) -> Tried:
    head = _HEAD % len(question)
    due = time.monotonic() + _SECONDS
    try:
        response = await client.request(head, question, deadline=due, max_body=_LARGEST_ANSWER)
    except Http1Error as error:
        return Tried(None, error=f"{_NO_ANSWER}: {error}")
    return _read(response.status, response.body)


def _read(status: int, body: bytes) -> Tried:
    answer = orjson.loads(body)
    if status != 200:
        return Tried(None, error="; ".join(_fault(e) for e in answer.get("errors") or [answer]))
    result = answer.get("result")
    if not isinstance(result, dict) or not isinstance(result.get("action"), str):
        return Tried(None, error="the decision is undefined")
    return Tried(
        action=result["action"],
        policy_ids=tuple(result.get("policy_ids", ())),
        obligations=result.get("obligations"),
        microseconds=answer["metrics"]["timer_rego_query_eval_ns"] // 1000,
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
    return {"GOGC": "400", "GOMEMLIMIT": str(OpaOptions().memory_bytes // 2)}


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
