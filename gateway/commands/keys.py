"""`gateway keys`: the deployment's own keys, while the gateway is stopped."""

from collections.abc import Callable
from typing import Annotated, Literal

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection

from gateway import keyring
from gateway.commands.foreseen import FORESEEN
from gateway.commands.options import AsJson, DataDir, told_plainly
from gateway.commands.over_api import tell
from gateway.data_dir.state import KEYS, State, open_by
from gateway.registry.core import Actor, Change
from gateway.registry.faults import Conflict
from gateway.registry.rewrapping import rewrap
from gateway.settings import Settings
from gateway.telemetry.logs import log_to_stderr
from gateway.trace import rekeying, slots
from gateway.trace.note import VerifierKey

app = typer.Typer()
keys = typer.Typer(help="The deployment's own keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@keys.callback()
def _keys() -> None:
    pass


@keys.command()
def rotate(
    which: Annotated[
        Literal["data", "log", "bundle", "seal"],
        typer.Argument(
            help="data: wraps what is kept encrypted; log: signs the trace's heads; bundle: signs "
            "policies; seal: protects what clients carry for us."
        ),
    ],
    data_dir: DataDir = None,
    json: AsJson = False,
) -> None:
    """Replace a key by a new one; recorded in every project. The gateway must be stopped.

    A rotation that was cut short leaves a gateway that runs; give the command again to end it.
    """
    with told_plainly(*FORESEEN, OSError):
        settings = Settings.read(data_dir=data_dir)
        log_to_stderr(settings.log_level)
        with open_by(settings) as state:
            _must_be_alone(state)
            folder = settings.data_dir / KEYS
            following = keyring.stage(folder, which)
            # Recorded first: a key that changed unseen would be worse than a record too many.
            _record(state, which)
            note = _TURN[which](state, following)
            keyring.follow(folder, which)
    tell({"key": which, "note": note}, ("key", "note"), json)


def _must_be_alone(state: State) -> None:
    """Another gateway would go on sealing and signing with the key that is replaced."""
    slot, now = state.log.slot, state.clock.now()
    others = state.registry.read_now(lambda connection: slots.others(connection, slot, now))
    if others:
        raise Conflict(
            f"{others} other gateways have the database open; stop them, and wait "
            f"{slots.LEASE_SECONDS:.0f} s for one that was killed"
        )


def _data(state: State, following: bytes) -> str:
    def all_of_it(connection: Connection) -> int:
        # What the old key wrapped is to be in no file any more.
        state.vacated.erased()
        return rewrap(connection, state.keyring, AESGCM(following))

    count = state.writer.change_now(all_of_it)
    return f"{count} values are sealed anew; backups made before open with their own key"


def _log(state: State, following: bytes) -> str:
    new = Ed25519PrivateKey.from_private_bytes(following)
    signed = state.writer.change_now(
        lambda connection: rekeying.hand_over(connection, state.log, state.keyring.log, new)
    )
    # Before the old key is gone: the next start looks there for a head that its key has signed.
    state.checkpoints.publish(signed)
    if state.checkpoints.outside_fault:
        raise OSError(f"the log keeps its key; {state.checkpoints.outside_fault}")
    return str(VerifierKey.of(state.log.origin, new))


def _bundle(state: State, following: bytes) -> str:
    return (
        "the next start signs and loads the policy anew; an OPA that you run yourself is given the "
        "key by `gateway opa sidecar`"
    )


def _seal(state: State, following: bytes) -> str:
    return "sessions, tasks and states that clients hold end; they begin new ones"


_TURN: dict[str, Callable[[State, bytes], str]] = {
    "data": _data,
    "log": _log,
    "bundle": _bundle,
    "seal": _seal,
}


def _record(state: State, which: str) -> None:
    def note(change: Change) -> None:
        change.record("deployment_key.rotated", which, codes={"key_of": which})

    for view in state.directory.projects():
        state.registry.change_now(Actor.operator(view.project.id), note)
