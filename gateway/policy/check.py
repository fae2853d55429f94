"""Checks policy folders as the gateway would, and for what deceives although it compiles.

OPA's own checks run over the whole bundle, by the code that builds it for the gateway; format and
our own rules (`gateway.policy.flaws`) over the folders that were asked about.
"""

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson

from gateway.policy.bundles import build_bundle
from gateway.policy.flaws import Flaw, Module, flaws_of
from gateway.policy.opa_command import run_opa
from gateway.policy.sources import BundleFault, Source, the_sources

_AT_ONCE = 4
_PLACE = re.compile(r"(?:^|: )(?P<file>[^:\n]+\.rego):(?P<line>\d+): (?P<what>.+)$")
_KEY = bytes(32)
"""Nothing that is built to be checked is served."""


def with_folders(folders: Sequence[Path]) -> tuple[list[Source], list[Source]]:
    """Every source of a bundle with these folders of policy, and those that the folders are.

    A folder that the gateway brings itself (a connector template, say) is not taken twice.
    """
    own = {source.folder.resolve(): source for source in the_sources()}
    further = [folder for folder in folders if folder.resolve() not in own]
    sources = the_sources(further)
    asked = {folder.resolve() for folder in folders}
    return sources, [source for source in sources if source.folder.resolve() in asked]


def rego_files(source: Source) -> list[Path]:
    """The source's policies and tests, in a fixed order."""
    return [
        path
        for path in sorted(source.folder.rglob("*.rego"))
        if not any(part.startswith(".") for part in path.relative_to(source.folder).parts)
    ]


def with_policies(folders: Sequence[Path]) -> tuple[list[Source], list[Path]]:
    """Every source of a bundle with these folders, and the Rego that the folders hold.

    Raises `BundleFault` when they hold none, or cannot be read.
    """
    sources, asked = with_folders(folders)
    files = [path for source in asked for path in rego_files(source)]
    if not files:
        # Silence would let a pull request pass whose check looks into the wrong folder.
        where = ", ".join(str(folder.resolve()) for folder in folders)
        raise BundleFault(f"no .rego file in {where}: name the folder that holds the policies")
    return sources, files


def check(folders: Sequence[Path], opa: Path) -> list[Flaw]:
    """Every flaw of the policies in these folders, by file and line.

    Raises `BundleFault` when that cannot be told: folders that cannot be read or hold no policy, an
    OPA that does not run.
    """
    sources, files = with_policies(folders)
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        parsed = list(threads.map(lambda path: _parsed(path, opa), files))
    broken = [flaw for one in parsed if not isinstance(one, Module) for flaw in one]
    if broken:
        return sorted(broken)
    modules = [one for one in parsed if isinstance(one, Module)]
    return sorted({*_unformatted(files, opa), *_unbuildable(sources, opa), *flaws_of(modules)})


def _parsed(path: Path, opa: Path) -> Module | list[Flaw]:
    done = run_opa(opa, "parse", "--format", "json", "--json-include", "locations,-comments", path)
    try:
        tree = orjson.loads(done.stdout or done.stderr)
    except ValueError:
        raise BundleFault(f"cannot parse {path}: {_text(done.stderr)}") from None
    if errors := tree.get("errors"):
        return [
            Flaw(str(path), int(e["location"]["row"]), e["code"].replace("_", "-"), e["message"])
            for e in errors
        ]
    return Module(str(path), tree)


def _unformatted(files: Iterable[Path], opa: Path) -> list[Flaw]:
    names = [str(path) for path in files]
    if not names:
        return []
    done = run_opa(opa, "fmt", "--list", *names)
    if done.returncode != 0:
        raise BundleFault(f"cannot run opa fmt: {_text(done.stderr)}")
    message = "not formatted: run `opa fmt --write` on it"
    return [Flaw(name, 1, "format", message) for name in _text(done.stdout).splitlines()]


def _unbuildable(sources: Sequence[Source], opa: Path) -> list[Flaw]:
    """What keeps the gateway from building its bundle with these sources."""
    try:
        build_bundle(sources, opa=opa, key=_KEY)
    except BundleFault as fault:
        return _told(str(fault), {source.name: source.folder for source in sources})
    return []


def _told(complaint: str, folders: dict[str, Path]) -> list[Flaw]:
    """OPA's complaint, a flaw for each place in it; files as their author knows them."""
    found: list[Flaw] = []
    for line in complaint.splitlines():
        if place := _PLACE.search(line):
            code, colon, what = place["what"].partition(": ")
            rule = code.replace("_", "-") if colon else "build"
            message = what if colon else place["what"]
            file = _original(place["file"], folders)
            found.append(Flaw(file, int(place["line"]), rule, message))
        elif found and line.strip():
            last = found[-1]
            message = f"{last.message} {line.strip()}"
            found[-1] = Flaw(last.file, last.line, last.rule, message)
    if found:
        return found
    file, _, message = complaint.partition(": ")
    return [Flaw(_original(file, folders), 0, "build", message or complaint)]


def _original(file: str, folders: dict[str, Path]) -> str:
    for name, folder in folders.items():
        if file.startswith(f"{name}/"):
            return str(folder / file.removeprefix(f"{name}/"))
    return file


def _text(output: bytes) -> str:
    return output.decode(errors="replace").strip()
