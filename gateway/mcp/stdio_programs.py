"""The programs that may run as MCP servers: what the operator's own file says, and nobody else.

A server of transport `stdio` names one of them (``stdio:NAME``); no API body holds a command.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.frozen import frozen
from gateway.settings import PREFIX, Settings, SettingsFault

SCHEME: Final = "stdio:"
_FILE: Final = "file:"
_ENVIRONMENT: Final = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME: Final = r"^[a-z][a-z0-9_]{0,63}$"
_SHORTEST_SECRET: Final = 8
_VARIABLE: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_OF_ETC: Final = (
    *("ssl", "pki", "ca-certificates", "resolv.conf", "hosts", "nsswitch.conf", "localtime"),
    *("alternatives", "ld.so.cache", "passwd", "group"),
)
_HOME: Final = "/tmp/home"
_SCRATCH_BYTES: Final = 256 * 1024 * 1024


@frozen
class Program:
    """What one entry of the file asks to be run."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    secrets: tuple[bytes, ...] = field(repr=False)
    """Of `env`, what was a reference: no answer and no log line may tell it."""
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    network: bool = False
    memory_bytes: int = 2 << 30
    processes: int = 16
    projects: frozenset[str] | None = None
    """The slugs of those that may use it; None: every project of the deployment."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    command: Annotated[str, Field(pattern=r"^/[^\x00]*$")]
    args: list[Annotated[str, Field(pattern=r"^[^\x00]*$")]] = []
    env: dict[Annotated[str, Field(pattern=_VARIABLE)], str] = {}
    read: list[Annotated[str, Field(pattern=r"^/[^\x00]*$")]] = []
    write: list[Annotated[str, Field(pattern=r"^/[^\x00]*$")]] = []
    network: bool = False
    memory_mib: Annotated[int, Field(ge=32)] = 2048
    processes: Annotated[int, Field(ge=1, le=1000)] = 16
    projects: list[Annotated[str, Field(min_length=1)]] | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    servers: dict[Annotated[str, Field(pattern=_NAME)], _Entry]


@frozen
class Programs:
    by_name: Mapping[str, Program]
    bwrap: str | None
    """bubblewrap, where it can be used."""
    unsafe: bool
    """The operator lets programs run without isolation, where there is no bubblewrap."""

    def warnings(self) -> dict[str, str]:
        """What readiness says of programs; nothing when none is set up."""
        if not self.by_name:
            return {}
        if self.bwrap is not None:
            return {"stdio": "ok"}
        if self.unsafe:
            return {"stdio": "GATEWAY_STDIO_UNSAFE: servers run as the gateway, without isolation"}
        return {"stdio": "refused: bubblewrap cannot be used here, so no stdio server is started"}


def read_programs(settings: Settings) -> Programs:
    """Read the operator's file and see how programs can be kept apart. Raises `SettingsFault`."""
    path, unsafe = settings.stdio_servers, settings.stdio_unsafe
    if path is None:
        return Programs({}, None, unsafe)
    try:
        entries = _File.model_validate(yaml.safe_load(path.read_bytes())).servers
    except (OSError, yaml.YAMLError) as fault:
        raise SettingsFault([f"{PREFIX}STDIO_SERVERS: {path}: {fault}"]) from None
    except ValidationError as fault:
        raise SettingsFault(_faults(path, fault)) from None
    faults: list[str] = []
    programs = {}
    for name, entry in entries.items():
        try:
            programs[name] = _program(name, entry, settings.data_dir)
        except ValueError as wrong:
            faults.append(f"{PREFIX}STDIO_SERVERS: {path}: {name}: {wrong}")
    if faults:
        raise SettingsFault(faults)
    return Programs(programs, _usable_bwrap(), unsafe)


def sandboxed(bwrap: str, program: Program) -> list[str]:
    """The command that runs the program with nothing in sight but the system and its own paths.

    Its processes see only each other, and no socket of this machine: network is the operator's
    to give. It has no capability and a file system of its own to write to.
    """
    argv = [bwrap, "--die-with-parent", "--new-session", "--unshare-all", "--cap-drop", "ALL"]
    argv += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
    if program.network:
        argv.append("--share-net")
    argv += ["--proc", "/proc", "--dev", "/dev", "--size", str(_SCRATCH_BYTES), "--tmpfs", "/tmp"]
    argv += ["--dir", _HOME]
    for place in (*_SYSTEM, *(f"/etc/{name}" for name in _OF_ETC)):
        if Path(place).is_symlink() and place in _SYSTEM:
            argv += ["--symlink", str(Path(place).readlink()), place]
        else:
            argv += ["--ro-bind-try", place, place]
    for readable in program.read:
        argv += ["--ro-bind", str(readable), str(readable)]
    for writable in program.write:
        argv += ["--bind", str(writable), str(writable)]
    return [*argv, "--chdir", _HOME, "--", *program.command]


def environment(program: Program, home: str = _HOME) -> dict[str, str]:
    """All that the program is told: nothing of the gateway's own environment."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        **program.env,
    }


def _program(name: str, entry: _Entry, data_dir: Path) -> Program:
    env, secrets = _environment(entry.env)
    read, write = tuple(map(Path, entry.read)), tuple(map(Path, entry.write))
    hidden = data_dir.resolve()
    for path in (*read, *write, *map(Path, _SYSTEM)):
        shown = path.resolve()
        if str(path) not in _SYSTEM and not shown.exists():
            raise ValueError(f"there is no {path}")
        if hidden.is_relative_to(shown) or shown.is_relative_to(hidden):
            raise ValueError(f"{path} would show it the gateway's data folder")
    if not os.access(entry.command, os.X_OK):
        raise ValueError(f"{entry.command} is no program that can be run")
    return Program(
        name=name,
        command=(entry.command, *entry.args),
        env=env,
        secrets=tuple(s for s in secrets if len(s) >= _SHORTEST_SECRET),
        read=read,
        write=write,
        network=entry.network,
        memory_bytes=entry.memory_mib << 20,
        processes=entry.processes,
        projects=None if entry.projects is None else frozenset(entry.projects),
    )


def _environment(asked: Mapping[str, str]) -> tuple[dict[str, str], list[bytes]]:
    env: dict[str, str] = {}
    secrets: list[bytes] = []
    for variable, value in asked.items():
        if variable.upper().startswith(PREFIX):
            raise ValueError(f"{variable} is the gateway's own; name it differently")
        env[variable] = _looked_up(value)
        if "\0" in env[variable]:
            raise ValueError(f"{variable} holds a NUL")
        if env[variable] != value:
            secrets.append(env[variable].encode())
    return env, secrets


def _looked_up(value: str) -> str:
    found = _ENVIRONMENT.fullmatch(value)
    if found is not None:
        if found[1].upper().startswith(PREFIX):
            raise ValueError(f"{found[1]} is the gateway's own and no server's")
        if found[1] not in os.environ:
            raise ValueError(f"the environment has no {found[1]}")
        return os.environ[found[1]]
    if not value.startswith(_FILE):
        return value
    try:
        return Path(value.removeprefix(_FILE)).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as fault:
        raise ValueError(f"cannot read the secret: {fault}") from None


def _faults(path: Path, fault: ValidationError) -> Iterable[str]:
    # What was given is not shown: it may be a secret.
    for one in fault.errors(include_input=False, include_context=False, include_url=False):
        place = ".".join(map(str, one["loc"])) or "the file"
        yield f"{PREFIX}STDIO_SERVERS: {path}: {place}: {one['msg']}"


def _usable_bwrap() -> str | None:
    """bubblewrap needs namespaces, which many containers forbid: so it is tried."""
    bwrap = shutil.which("bwrap")
    if bwrap is None or sys.platform != "linux":
        return None
    trial = Program("trial", (shutil.which("true") or "/bin/true",), {}, ())
    try:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                sandboxed(bwrap, trial), cwd=folder, env={}, capture_output=True, timeout=10
            )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return bwrap if done.returncode == 0 else None
