"""`gateway policy replay` and `explain`: recorded decisions, made again.

Both read the data directory itself and only read, so they work beside a running gateway and need
no key of it; whoever may read the directory may read what it holds.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import orjson
import typer
from sqlalchemy import Connection, select
from sqlalchemy.exc import OperationalError

from gateway import clock, keyring
from gateway.assets import AssetMissing
from gateway.background.shared_policy import fetch
from gateway.cold.place import cold_store
from gateway.cold.reading import reading_also
from gateway.commands.options import (
    CANNOT_TELL,
    REFUSED,
    AsJson,
    DataDir,
    printable,
    told_plainly,
)
from gateway.commands.replay_report import as_markdown, as_text
from gateway.data_dir.state import KEYS, NotInitialised, is_made
from gateway.keyring import Keyring, KeyringFault
from gateway.policy import opa_binary
from gateway.policy.archive import archived
from gateway.policy.bundles import build_bundle, last_good
from gateway.policy.check import with_folders
from gateway.policy.explain import Explanation
from gateway.policy.explain import explain as explain_question
from gateway.policy.opa_binary import OpaMissing
from gateway.policy.replay import Input, Replay, as_document, at_revision
from gateway.policy.replay import replay as replay_inputs
from gateway.policy.sources import BundleFault
from gateway.records.calls import MAX_IDS
from gateway.registry import recorded
from gateway.registry.faults import Missing
from gateway.registry.recorded import Recorded
from gateway.settings import Settings, SettingsFault
from gateway.store import tables
from gateway.store.database import reading_engine
from gateway.trace.record import bounded

STRICTER, LOOSER = 4, 8
_BUNDLES = "bundles"
_UNITS = {"m": 60, "h": 3600, "d": 86_400}
_CANNOT = (
    *(OpaMissing, AssetMissing, SettingsFault, NotInitialised, KeyringFault, Missing),
    OperationalError,
)


class NothingToReplay(Exception):
    """There is no bundle that serves, or no input was kept in that time."""


def replay(
    since: Annotated[
        str, typer.Option("--since", help="How far back: 30m, 24h, 7d, or a time in RFC 3339.")
    ] = "7d",
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            help="The candidate: a folder of policy, or a git revision of the folders of "
            "GATEWAY_POLICY_DIRS; otherwise these folders as they are.",
        ),
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", help="Slug of the only project to look at.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", help="How many of the newest calls at most.", min=1)
    ] = 10_000,
    as_json: AsJson = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, as for a pull request.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Tell what a candidate would have changed for the calls of the last days.

    Exit codes: 0 nothing, 4 something stricter, 8 something looser, 12 both; 1 the candidate does
    not build, 3 there is nothing to replay.
    """
    start = _start(since)
    with told_plainly(*_CANNOT, NothingToReplay, code=CANNOT_TELL):
        settings, opa = Settings.read(data_dir=data_dir), opa_binary.find()
        with reading(settings) as (connection, keys):
            of = None if project is None else _project_id(connection, project)
            decisions = list(recorded.since(connection, keys, start, limit, of))
        serving = last_good(settings.data_dir / _BUNDLES)
        if serving is None:
            raise NothingToReplay(f"{settings.data_dir} has no bundle that served")
        inputs, unkept = _replayable(decisions)
        if not inputs:
            raise NothingToReplay(f"no input since {start} is kept ({unkept} are not)")
    with told_plainly(BundleFault), _candidate(settings, against) as folders:
        key = keyring.load(settings.data_dir / KEYS).bundle
        candidate = build_bundle(with_folders(folders)[0], opa=opa, key=key)
        result = replay_inputs(serving.archive, candidate.archive, inputs, opa)
    if as_json:
        typer.echo(orjson.dumps({**as_document(result), "not_replayable": unkept}))
    else:
        typer.echo((as_markdown if markdown else as_text)(result, unkept))
    raise typer.Exit(_code(result))


def explain(
    trace_id: Annotated[str, typer.Argument(help="The call's trace id, as X-Trace-Id has it.")],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make a recorded decision again from its input and its bundle, and tell what made it.

    Exit codes: 0 the decision is the recorded one, 1 it differs, 3 it cannot be made again.
    """
    with told_plainly(*_CANNOT, BundleFault, code=CANNOT_TELL):
        settings, opa = Settings.read(data_dir=data_dir), opa_binary.find()
        with reading(settings) as (connection, keys):
            decision = recorded.find(connection, keys, trace_id)
            question, digest = decision.question, decision.bundle_digest
            if question is None or digest is None:
                raise BundleFault(f"the input of {trace_id} is {decision.input_state}: cannot tell")
            shared = fetch(connection, digest)
        folder = settings.data_dir / _BUNDLES
        archive = shared.bundle.archive if shared else archived(folder, digest)
    with told_plainly(BundleFault):
        explanation = explain_question(archive, question, opa)
    same = _is_recorded(explanation, decision)
    if as_json:
        told = {"trace_id": trace_id, "same": same, "recorded": _recorded(decision)}
        fired = list(explanation.fired)
        typer.echo(orjson.dumps({**told, "decision": explanation.decision, "fired": fired}))
    else:
        _tell(decision, explanation)
    if not same:
        typer.echo(
            f"gateway: THE ANSWER DIFFERS: recorded {_told(decision.action, decision.policy_ids)}, "
            f"now {_told(*_decided(explanation))}",
            err=True,
        )
        raise typer.Exit(REFUSED)


def _start(since: str) -> str:
    if match := re.fullmatch(r"(\d{1,6})([mhd])", since):
        return clock.rfc3339(max(0.0, time.time() - int(match[1]) * _UNITS[match[2]]))
    try:
        return clock.rfc3339(clock.parse(since).timestamp())
    except ValueError:
        raise typer.BadParameter("--since takes 30m, 24h, 7d, or a time in RFC 3339") from None


@contextmanager
def reading(settings: Settings) -> Iterator[tuple[Connection, Keyring]]:
    if not is_made(settings.database):
        raise NotInitialised(
            f"{settings.data_dir} holds no gateway; name its folder with --data-dir"
        )
    store = cold_store(settings.cold_store, settings.cold_endpoint)
    engine = reading_also(reading_engine(settings.database), store)
    try:
        with engine.connect() as connection:
            yield connection, keyring.load(settings.data_dir / KEYS)
    finally:
        engine.dispose()


def _project_id(connection: Connection, slug: str) -> str:
    table = tables.projects.c
    found = connection.execute(select(table.id).where(table.slug == slug)).scalar_one_or_none()
    if found is None:
        raise Missing("project")
    return str(found)


def _replayable(decisions: Sequence[Recorded]) -> tuple[list[Input], int]:
    """The inputs that are kept, and how many decisions have none."""
    inputs = [Input(d.trace_id, d.tool, d.question) for d in decisions if d.question is not None]
    return inputs, len(decisions) - len(inputs)


@contextmanager
def _candidate(settings: Settings, against: str | None) -> Iterator[list[Path]]:
    """The folders of policy that the candidate is built of. Raises `BundleFault`."""
    folders = list(settings.policy_dirs)
    if against is None:
        yield folders
    elif Path(against).is_dir():
        yield [Path(against)]
    elif len(folders) > 1:
        raise BundleFault("a revision needs one folder in GATEWAY_POLICY_DIRS; there are several")
    else:
        with at_revision(folders[0] if folders else Path.cwd(), against) as folder:
            yield [folder]


def _code(result: Replay) -> int:
    return STRICTER * result.stricter + LOOSER * result.looser


def _decided(explanation: Explanation) -> tuple[str, tuple[str, ...]]:
    """Action and ids, as a record would name them."""
    decision = explanation.decision
    ids = [bounded(policy_id) for policy_id in decision["policy_ids"][:MAX_IDS]]
    return str(decision["action"]), tuple(ids)


def _is_recorded(explanation: Explanation, decision: Recorded) -> bool:
    return _decided(explanation) == (decision.action, decision.policy_ids)


def _recorded(decision: Recorded) -> dict[str, object]:
    return {
        "ts": decision.ts,
        "tool": decision.tool,
        "action": decision.action,
        "policy_ids": decision.policy_ids,
        "bundle": decision.bundle_digest,
    }


def _told(action: str, policy_ids: Sequence[str]) -> str:
    return printable(f"{action} by {', '.join(policy_ids) or 'nothing'}")


def _tell(decision: Recorded, explanation: Explanation) -> None:
    typer.echo(f"{decision.trace_id}  {decision.ts}  {printable(decision.tool)}")
    typer.echo(f"recorded  {_told(decision.action, decision.policy_ids)}")
    typer.echo(f"now       {_told(*_decided(explanation))}")
    for reason in explanation.decision.get("reasons", ()):
        typer.echo(f"          {printable(reason)}")
    for rule in explanation.fired:
        typer.echo(f"fired     {rule.file}:{rule.line}  {rule.title}")
        if rule.description:
            typer.echo(f"          {rule.description}")
    if not explanation.fired:
        typer.echo("fired     no rule of a policy")
