"""The `gateway` command: which module holds which subcommand.

Only the module of the command that is given is imported, so that `gateway opa install` does not
wait for a database library, nor `gateway demo` before it has started its sample server.

Exit codes: 0 done, 1 refused or invalid, 2 wrong usage, 3 cannot tell.
"""

import gc
import importlib
import sys
from importlib.metadata import version
from typing import Annotated

import typer

COMMANDS = {
    "demo": "gateway.commands.demo",
    "init": "gateway.commands.init",
    "serve": "gateway.commands.serve",
    "project": "gateway.commands.project",
    "opa": "gateway.commands.opa",
    "policy": "gateway.commands.policy",
    "anchor": "gateway.commands.anchor",
    "backup": "gateway.commands.backup",
    "db": "gateway.commands.db",
    "openapi": "gateway.commands.openapi",
    "apply": "gateway.commands.apply",
    "diff": "gateway.commands.apply",
    "export": "gateway.commands.apply",
    "connect": "gateway.commands.connect",
    "keys": "gateway.commands.keys",
    "server": "gateway.commands.server",
    "stop": "gateway.commands.stop",
    "approvals": "gateway.commands.approvals",
    "traces": "gateway.commands.traces",
    "log": "gateway.commands.log",
    "verify": "gateway.commands.verify",
}


def command_line(*names: str) -> typer.Typer:
    """The command line with these subcommands."""
    root = typer.Typer(
        name="gateway",
        help="A policy-as-code gateway between AI agents and the tools they call.",
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
    )
    root.callback()(_root)
    for module in dict.fromkeys(COMMANDS[name] for name in names):
        root.add_typer(importlib.import_module(module).app)
    return root


def as_click(*names: str) -> object:
    """The same as what typer makes of it: commands in ``.commands``, for who lists them."""
    return typer.main.get_command(command_line(*names))


def main() -> None:
    """Run the command line of this process; never returns."""
    # What imports make stays: looking through it for garbage is a fifteenth of a start.
    gc.set_threshold(100_000)
    given = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    names = [given] if given in COMMANDS else list(COMMANDS)
    command_line(*names)(prog_name="gateway")


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("policy-gateway"))
        raise typer.Exit


def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_say_version, is_eager=True),
    ] = False,
) -> None:
    pass
