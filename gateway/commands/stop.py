"""`gateway stop`: the emergency stop from a shell, over the API or without it."""

from typing import Annotated

import typer

from gateway.commands.foreseen import FORESEEN
from gateway.commands.options import (
    DEFAULT_URL,
    ApiUrl,
    AsJson,
    DataDir,
    KeyFile,
    told_plainly,
)
from gateway.commands.over_api import id_of, tell, the_api
from gateway.data_dir.state import KEYS, NotInitialised
from gateway.registry.stop_file import FILE_STOP, StopFile
from gateway.settings import Settings

app = typer.Typer()

Reason = Annotated[str, typer.Option("--reason", help="Why; it stands in the trace.")]
_RAISED = ("id", "stopped_at", "cancelled_calls", "denied_approvals", "refused_keys")
_LIFTED = ("id", "scope", "target_id", "stopped_at", "lifted_at", "lifted_by")


@app.command()
def stop(
    reason: Reason,
    everything: Annotated[bool, typer.Option("--all", help="Stop the whole project.")] = False,
    server: Annotated[str | None, typer.Option(help="Stop this server (id or slug).")] = None,
    agent: Annotated[str | None, typer.Option(help="Stop this agent (id or name).")] = None,
    all_projects: Annotated[
        bool,
        typer.Option("--all-projects", help="Stop every project, without the API: a file."),
    ] = False,
    lift: Annotated[
        str | None, typer.Option(help=f"Lift the stop with this id; {FILE_STOP}: of all projects.")
    ] = None,
    url: ApiUrl = DEFAULT_URL,
    key_file: KeyFile = None,
    data_dir: DataDir = None,
    json: AsJson = False,
) -> None:
    """Refuse all calls at once and cut those that run. In force when this returns.

    `--all-projects` needs only the data directory, and works whether a gateway runs or not.
    """
    given = (everything, server is not None, agent is not None, all_projects, lift is not None)
    if given.count(True) != 1:
        raise typer.BadParameter("give one of --all, --server, --agent, --all-projects, --lift")
    if all_projects or lift == FILE_STOP:
        _by_file(reason, data_dir, lift is not None, json)
        return
    with the_api(url, key_file) as api:
        if lift is not None:
            told = api.send("POST", f"/mcp/emergency-stop/{lift}/lift", {"reason": reason})
            tell(told, _LIFTED, json)
            return
        body: dict[str, object] = {"scope": "all", "reason": reason}
        if server is not None:
            target = id_of(api, "/mcp/servers", "srv_", server, "slug")
            body |= {"scope": "server", "target_id": target}
        if agent is not None:
            target = id_of(api, "/agents", "agt_", agent, "name")
            body |= {"scope": "agent", "target_id": target}
        tell(api.send("POST", "/mcp/emergency-stop", body), _RAISED, json)


def _by_file(reason: str, data_dir: DataDir, lift: bool, json: bool) -> None:
    with told_plainly(*FORESEEN, OSError):
        folder = Settings.read(data_dir=data_dir).data_dir
        if not (folder / KEYS).exists():
            raise NotInitialised(f"{folder} holds no gateway; give its --data-dir")
        stop_file = StopFile(folder)
        if lift:
            lifted = stop_file.remove()
            tell({"id": FILE_STOP, "lifted": lifted}, ("id", "lifted"), json)
        else:
            stop_file.write(reason)
            tell({"id": FILE_STOP, "scope": "all projects"}, ("id", "scope"), json)
