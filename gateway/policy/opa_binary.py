"""Finds the pinned OPA, and puts it in place when it is missing.

Only the exact version will do: 1.21.0 to 1.22.0 answered some rules wrongly, 1.22.1 rejected good
policies, and before 1.22 there is no `rego.v2` (OPA's CHANGELOG).
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from gateway import assets

OPA_VERSION = "1.22.2"
RELEASES = "https://github.com/open-policy-agent/opa/releases/download"
MODULE = "github.com/open-policy-agent/opa"
MODULE_HASH = "h1:WzqReKk2VjcvBN/NQTlcIxKqFPKpzIdb6KYMHzPEbe0="
"""Of the module's content, as Go's checksum database has it for v1.22.2."""

PINNED_SUMS: dict[str, str] = {}
"""SHA-256 of release assets, by name; whoever moves the pin fills it. An asset that is not listed
is held to the sum that its release publishes."""

_ASSETS = {
    ("linux", "x86_64"): "opa_linux_amd64_static",
    ("linux", "aarch64"): "opa_linux_arm64_static",
    ("darwin", "x86_64"): "opa_darwin_amd64",
    ("darwin", "arm64"): "opa_darwin_arm64_static",
}
_ASIDE = ".new-"
_TIMEOUT = httpx.Timeout(10, connect=3)
_DOWNLOAD_SECONDS = 300
_BUILD_SECONDS = 1200
_MOST_BYTES = 256 << 20

Progress = Callable[[str], None]


class OpaMissing(Exception):
    """No OPA could be had; the message says what was tried and what to do."""


class WrongOpa(OpaMissing):
    """A program was found, and it is not the pinned OPA; the message says why not."""


class _SourceFailed(Exception):
    """One way of getting OPA did not work; the next is tried."""


def tools_dir() -> Path:
    """Where `install` puts OPA: ``.tools`` in a checkout, else in the user's data folder.

    ``GATEWAY_TOOLS_DIR`` overrides both.
    """
    if chosen := os.environ.get("GATEWAY_TOOLS_DIR"):
        return Path(chosen)
    if folder := assets.checkout():
        return folder / ".tools"
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "policy-gateway" / "tools"


def proved_dir() -> Path:
    """Where an installation marks the policies that passed all their tests."""
    return tools_dir() / "proved"


def find() -> Path:
    """Return the pinned OPA: ``GATEWAY_OPA_BIN``, then PATH, then the tools folder.

    ``GATEWAY_OPA_BIN`` is an order: when it is set, nothing else is looked at. Raises `WrongOpa`
    when only other versions are there, `OpaMissing` when there is none.
    """
    chosen = os.environ.get("GATEWAY_OPA_BIN")
    if chosen:
        return _checked(Path(chosen), "GATEWAY_OPA_BIN")
    wrong: list[str] = []
    for path, origin in _candidates():
        try:
            return _checked(path, origin)
        except WrongOpa as error:
            wrong.append(str(error))
    if wrong:
        raise WrongOpa("; ".join(wrong))
    raise OpaMissing(f"OPA {OPA_VERSION} is not installed; run `gateway opa install`")


def install(
    progress: Progress,
    *,
    releases: str = RELEASES,
    go: str = "go",
    timeout: httpx.Timeout = _TIMEOUT,
) -> Path:
    """Return the pinned OPA, fetching or building it when it is not there.

    The order: what `find` finds, the release's static binary, `go install`. A download is compared
    with `PINNED_SUMS`, or else with the sum published beside it, which proves only that it arrived
    whole from the release's host over https. A build is compared with `MODULE_HASH`, which pins
    the source. The binary appears under its name only when it is whole and answers the pinned
    version. Raises `OpaMissing` (`WrongOpa` when ``GATEWAY_OPA_BIN`` names another program).
    """
    failed: list[str] = []
    try:
        return find()
    except WrongOpa as error:
        if os.environ.get("GATEWAY_OPA_BIN"):
            raise
        failed.append(str(error))
        progress(str(error))
    except OpaMissing:
        pass
    folder = tools_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, progress), tempfile.TemporaryDirectory(dir=folder, prefix=_ASIDE) as aside:
        _sweep(folder, Path(aside))
        place = folder / "opa"
        if place.exists() and _version(place) == OPA_VERSION:
            return place  # another install finished while this one waited
        ways: tuple[Callable[[], Path], ...] = (
            lambda: _download(Path(aside), progress, releases, timeout),
            lambda: _build(Path(aside), progress, go),
        )
        for way in ways:
            try:
                made = _checked(way(), "the new binary")
            except (_SourceFailed, WrongOpa) as error:
                failed.append(str(error))
                progress(str(error))
            else:
                made.rename(place)
                progress(f"OPA {OPA_VERSION} is at {place}")
                return place
    raise OpaMissing(_what_to_do(failed, folder))


def _candidates() -> Iterator[tuple[Path, str]]:
    if on_path := shutil.which("opa"):
        yield Path(on_path), "on PATH"
    if (ours := tools_dir() / "opa").exists():
        yield ours, "in the tools folder"


def _checked(path: Path, origin: str) -> Path:
    version = _version(path)
    if version != OPA_VERSION:
        found = f"is version {version}" if version else "does not answer `opa version`"
        raise WrongOpa(f"{path} ({origin}) {found}; this gateway needs exactly {OPA_VERSION}")
    return path.resolve()


def _version(path: Path) -> str | None:
    try:
        done = subprocess.run(
            [path, "version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    first = done.stdout.partition("\n")[0]
    return first.removeprefix("Version: ").strip() if first.startswith("Version: ") else None


@contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the folder's lock; it ends with the process, however that ends."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another install is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sweep(folder: Path, aside: Path) -> None:
    """Under the lock, every other unfinished folder belongs to a process that died."""
    for left in folder.glob(f"{_ASIDE}*"):
        if left != aside:
            shutil.rmtree(left, ignore_errors=True)


def _download(aside: Path, progress: Progress, releases: str, timeout: httpx.Timeout) -> Path:
    asset = _ASSETS.get((sys.platform, platform.machine()))
    if asset is None:
        raise _SourceFailed(f"no official binary for {sys.platform} {platform.machine()}")
    url = f"{releases}/v{OPA_VERSION}/{asset}"
    progress(f"downloading {url}")
    try:
        with httpx.Client(timeout=timeout, follow_redirects=True) as client:
            if releases.startswith("https:"):
                client.event_hooks = {"request": [_stay_on_https]}
            wanted = PINNED_SUMS.get(asset) or _published_sum(client, f"{url}.sha256")
            path, found = _fetch(client, url, aside / "opa", progress)
    except httpx.HTTPError as error:
        raise _SourceFailed(f"{url}: {str(error) or type(error).__name__}") from error
    if found != wanted:
        path.unlink()
        raise _SourceFailed(f"{url}: SHA-256 is {found}, not {wanted}; the file was thrown away")
    path.chmod(0o755)
    return path


def _stay_on_https(request: httpx.Request) -> None:
    if request.url.scheme != "https":
        raise _SourceFailed(f"{request.url} was redirected to, and is not https")


def _published_sum(client: httpx.Client, url: str) -> str:
    response = client.get(url)
    response.raise_for_status()
    words = response.text.split()
    if not words or len(words[0]) != 64:
        raise _SourceFailed(f"{url} holds no SHA-256")
    return words[0].lower()


def _fetch(client: httpx.Client, url: str, path: Path, progress: Progress) -> tuple[Path, str]:
    """Stream the body to `path`; return it with the body's SHA-256 in hex."""
    digest, size, started, said = hashlib.sha256(), 0, time.monotonic(), 0.0
    with client.stream("GET", url) as response, path.open("wb") as file:
        response.raise_for_status()
        for chunk in response.iter_bytes():
            digest.update(chunk)
            file.write(chunk)
            size += len(chunk)
            seconds = time.monotonic() - started
            # A host that drips, or never ends, keeps every single read in time.
            if seconds > _DOWNLOAD_SECONDS or size > _MOST_BYTES:
                raise _SourceFailed(f"{url}: gave up after {size >> 20} MB and {seconds:.0f} s")
            if seconds - said >= 1:
                said = seconds
                progress(f"downloading OPA {OPA_VERSION}, {size >> 20} MB so far")
        file.flush()
        os.fsync(file.fileno())
    return path, digest.hexdigest()


def _build(aside: Path, progress: Progress, go: str) -> Path:
    program = shutil.which(go)
    if program is None:
        raise _SourceFailed("go is not on PATH")
    # With another target set, go refuses to install into GOBIN.
    outer = {k: v for k, v in os.environ.items() if k not in ("GOOS", "GOARCH", "GOFLAGS")}
    environment = outer | {"GOBIN": str(aside), "CGO_ENABLED": "0"}
    command = [program, "install", "-trimpath", "-ldflags", "-s -w", f"{MODULE}@v{OPA_VERSION}"]
    with (aside / "go.log").open("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        _wait(process, progress)
        if process.returncode != 0:
            log.seek(0)
            raise _SourceFailed(f"`{' '.join(command)}` failed: {log.read()[-500:].strip()}")
    built = aside / "opa"
    details = subprocess.run(
        [program, "version", "-m", built], capture_output=True, text=True, check=False
    ).stdout
    wanted = f"\tmod\t{MODULE}\tv{OPA_VERSION}\t{MODULE_HASH}"
    if wanted not in details.splitlines():
        raise _SourceFailed(f"what go built is not {MODULE}@v{OPA_VERSION} with {MODULE_HASH}")
    return built


def _wait(process: "subprocess.Popen[bytes]", progress: Progress) -> None:
    started = time.monotonic()
    try:
        while True:
            seconds = time.monotonic() - started
            progress(f"building OPA {OPA_VERSION} with go, 1–3 minutes, {seconds:.0f} s so far")
            if seconds > _BUILD_SECONDS:
                raise _SourceFailed(f"go did not finish in {_BUILD_SECONDS // 60} minutes")
            try:
                process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                continue
            return
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _what_to_do(failed: list[str], folder: Path) -> str:
    tried = "".join(f"\n  - {reason}" for reason in failed)
    return (
        f"OPA {OPA_VERSION} cannot be put in place:{tried}\n"
        "Do one of these, then run the command again:\n"
        f"  - put the opa {OPA_VERSION} binary at {folder / 'opa'} (chmod 755); it is among\n"
        f"    {RELEASES}/v{OPA_VERSION}/\n"
        "  - set GATEWAY_OPA_BIN to an opa of that version\n"
        "  - install Go 1.26 or later and give it access to a module proxy (GOPROXY)"
    )
