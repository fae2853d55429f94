"""`gateway policy`: the policy author's loop, by the code that builds the server's bundle."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import orjson
import typer

from gateway import keyring
from gateway.assets import AssetMissing
from gateway.commands import policy_history
from gateway.commands.options import CANNOT_TELL, REFUSED, AsJson, DataDir, told_plainly
from gateway.data_dir.state import KEYS, NotInitialised
from gateway.policy import opa_binary
from gateway.policy.authoring import AuthoringFault, Route, begin
from gateway.policy.bundles import build_bundle
from gateway.policy.check import check as find_flaws
from gateway.policy.check import with_policies
from gateway.policy.flaws import Flaw
from gateway.policy.opa_binary import OpaMissing
from gateway.policy.sources import BundleFault
from gateway.policy.trial import Report, run_tests
from gateway.registry.tool_schemas import write_tool_schemas
from gateway.settings import Settings, SettingsFault

app = typer.Typer()
policy = typer.Typer(help="Write, check, test and try policies.", no_args_is_help=True)
app.add_typer(policy, name="policy")

Folders = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Folders of policy; otherwise those of GATEWAY_POLICY_DIRS, or the current one.",
        exists=True,
        file_okay=False,
        show_default=False,
    ),
]
_CANNOT = (OpaMissing, AssetMissing, SettingsFault)


@policy.callback()
def _policy() -> None:
    pass


@policy.command()
def new(
    name: Annotated[str, typer.Argument(help="The policy's name: small letters, digits and _.")],
    route: Annotated[
        str,
        typer.Option(
            "--route",
            help="Which calls it sees: all, project/SLUG, server/SLUG, agent/NAME or tool/NAME.",
        ),
    ] = "all",
    folder: Annotated[
        Path | None,
        typer.Option("--dir", help="Folder of policy to write into; otherwise as for check."),
    ] = None,
) -> None:
    """Begin a policy: Rego with METADATA, a test and a sample call, ready to run."""
    with told_plainly(AuthoringFault, *_CANNOT):
        place = folder or _folders(None)[0]
        made = begin(name, Route.read(route), place)
    for path in made:
        typer.echo(path)


@policy.command()
def check(folders: Folders = None, as_json: AsJson = False) -> None:
    """Check format, types, capabilities, and what deceives although it compiles."""
    with told_plainly(BundleFault, *_CANNOT, code=CANNOT_TELL):
        flaws = find_flaws(_folders(folders), opa_binary.find())
    errors = sum(flaw.level == "error" for flaw in flaws)
    _tell_flaws(flaws, as_json)
    raise typer.Exit(REFUSED if errors else 0)


@policy.command("test")
def try_out(
    folders: Folders = None,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Tell which lines no test reaches.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="Least coverage of each file, in percent.", max=100),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the policies' tests, and their samples through the whole router."""
    with told_plainly(*_CANNOT, code=CANNOT_TELL):
        opa, chosen = opa_binary.find(), _folders(folders)
    measured = coverage or threshold is not None
    with told_plainly(BundleFault):
        report = run_tests(chosen, opa, coverage=measured)
    _tell_report(report, as_json)
    enough = threshold is None or report.percent >= threshold
    if not enough:
        typer.echo(f"gateway: a file is covered by less than {threshold:g} %", err=True)
    raise typer.Exit(REFUSED if report.failures or not report.passed or not enough else 0)


@policy.command()
def build(
    folders: Folders = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path(
        "bundle.tar.gz"
    ),
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Build the bundle that the gateway would serve, signed as there if its keys are here."""
    with told_plainly(*_CANNOT, keyring.KeyringFault, code=CANNOT_TELL):
        opa, chosen = opa_binary.find(), _folders(folders)
        keys = Settings.read(data_dir=data_dir).data_dir / KEYS
        key = keyring.load(keys).bundle if keys.is_dir() else bytes(32)
    with told_plainly(BundleFault, OSError):
        bundle = build_bundle(with_policies(chosen)[0], opa=opa, key=key)
        output.write_bytes(bundle.archive)
    told = {"file": str(output), "revision": bundle.revision, "digest": bundle.digest}
    if as_json:
        typer.echo(orjson.dumps(told))
        return
    for name, value in told.items():
        typer.echo(f"{name:9} {value}")


@policy.command()
def schemas(
    folder: Annotated[
        Path | None,
        typer.Option("--dir", help="Folder of policy to write into; otherwise as for check."),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Write the arguments of the tools that were scanned, for policies to be checked against."""
    with told_plainly(*_CANNOT, NotInitialised, keyring.KeyringFault, code=CANNOT_TELL):
        place = folder or _folders(None)[0]
        with policy_history.reading(Settings.read(data_dir=data_dir)) as (connection, _):
            written = write_tool_schemas(connection, place / "schemas")
    if as_json:
        told = {"files": [str(path) for path in written.files], "skipped": written.skipped}
        typer.echo(orjson.dumps(told))
        return
    for path in written.files:
        typer.echo(path)
    for name, why in written.skipped.items():
        typer.echo(f"{name}: {why}", err=True)


policy.command()(policy_history.replay)
policy.command()(policy_history.explain)


def _folders(given: list[Path] | None) -> list[Path]:
    return given or list(Settings.read().policy_dirs) or [Path()]


def _tell_flaws(flaws: Iterable[Flaw], as_json: bool) -> None:
    if as_json:
        typer.echo(orjson.dumps({"flaws": list(flaws)}))
        return
    for flaw in flaws:
        typer.echo(f"{flaw.file}:{flaw.line}: {flaw.level}: {flaw.message} [{flaw.rule}]")


def _tell_report(report: Report, as_json: bool) -> None:
    if as_json:
        typer.echo(orjson.dumps(report))
        return
    for failure in report.failures:
        typer.echo(failure)
    for file in report.coverage:
        missed = f", not lines {_as_ranges(file.missed)}" if file.missed else ""
        typer.echo(f"{file.file}: {file.percent:g} % covered{missed}")
    typer.echo(f"{report.passed} passed, {len(report.failures)} failed")


def _as_ranges(lines: Iterable[int]) -> str:
    """``3-5, 9``."""
    found: list[list[int]] = []
    for line in lines:
        if found and line == found[-1][1] + 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in found)
