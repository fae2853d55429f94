"""Finding and installing OPA; a local server plays the release host, scripts play the programs."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from gateway.policy import opa_binary
from gateway.policy.opa_binary import (
    MODULE,
    MODULE_HASH,
    OPA_VERSION,
    OpaMissing,
    WrongOpa,
    find,
    install,
)

QUICK = httpx.Timeout(3)
NOWHERE = "http://127.0.0.1:9"


def _script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def _an_opa(path: Path, version: str = OPA_VERSION) -> Path:
    return _script(path, f"echo 'Version: {version}'")


@pytest.fixture(autouse=True)
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tools folder, and a PATH with nothing of ours on it."""
    folder = tmp_path / "tools folder"
    monkeypatch.setenv("GATEWAY_TOOLS_DIR", str(folder))
    monkeypatch.delenv("GATEWAY_OPA_BIN", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    return folder


@pytest.fixture
def said() -> list[str]:
    return []


# --- find ---


def test_the_named_binary_comes_first_then_path_then_the_tools_folder(
    tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = _an_opa(tools / "opa")
    assert find() == ours
    on_path = _an_opa(tmp_path / "path" / "opa")
    assert find() == on_path
    named = _an_opa(tmp_path / "named")
    monkeypatch.setenv("GATEWAY_OPA_BIN", str(named))
    assert find() == named


def test_another_version_is_refused_with_the_reason(tmp_path: Path) -> None:
    _an_opa(tmp_path / "path" / "opa", "1.22.1")
    with pytest.raises(WrongOpa, match=r"path/opa \(on PATH\) is version 1\.22\.1; .* 1\.22\.2"):
        find()


def test_a_wrong_opa_on_path_does_not_hide_the_right_one(tmp_path: Path, tools: Path) -> None:
    _an_opa(tmp_path / "path" / "opa", "1.20.0")
    ours = _an_opa(tools / "opa")
    assert find() == ours


@pytest.mark.parametrize("text", ["exit 1", "echo hello", "printf '\\377'"])
def test_a_named_program_that_is_no_opa_is_refused_whatever_else_there_is(
    tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    _an_opa(tools / "opa")
    monkeypatch.setenv("GATEWAY_OPA_BIN", str(_script(tmp_path / "named", text)))
    with pytest.raises(WrongOpa, match="GATEWAY_OPA_BIN"):
        find()
    with pytest.raises(WrongOpa):
        install(print, releases=NOWHERE, go="no-go")


def test_no_opa_at_all_says_how_to_get_it() -> None:
    with pytest.raises(OpaMissing, match="gateway opa install"):
        find()


# --- install from a release ---

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def _release_host(answers: dict[str, Answer]) -> Iterator[str]:
    """Answers by the ending of the path: ``.sha256`` or anything else (``""``)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers[".sha256" if self.path.endswith(".sha256") else ""](self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # the client hung up on purpose

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def _body(body: bytes, *, length: int | None = None, status: int = 200) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


def _hang(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.recv(1)  # until the client gives up


BINARY = f"#!/bin/sh\necho 'Version: {OPA_VERSION}'\n".encode()


def _sum_of(body: bytes) -> Answer:
    return _body(f"{hashlib.sha256(body).hexdigest()}  opa_linux_amd64_static\n".encode())


def test_a_release_whose_sum_agrees_is_installed(tools: Path, said: list[str]) -> None:
    with _release_host({".sha256": _sum_of(BINARY), "": _body(BINARY)}) as host:
        path = install(said.append, releases=host, go="no-go", timeout=QUICK)
    assert path == tools / "opa"
    assert path.read_bytes() == BINARY
    assert find() == path
    assert any("downloading" in line for line in said)
    assert [p.name for p in tools.iterdir() if p.name not in ("opa", ".lock")] == []


def test_a_pinned_sum_outranks_the_published_one(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    pins = dict.fromkeys(opa_binary._ASSETS.values(), "0" * 64)
    monkeypatch.setattr(opa_binary, "PINNED_SUMS", pins)
    with (
        _release_host({".sha256": _sum_of(BINARY), "": _body(BINARY)}) as host,
        pytest.raises(OpaMissing, match="SHA-256"),
    ):
        install(said.append, releases=host, go="no-go", timeout=QUICK)


@pytest.mark.parametrize(
    ("sum_answer", "binary_answer", "complaint"),
    [
        (_sum_of(b"another"), _body(BINARY), "thrown away"),
        (_body(b"", status=404), _body(BINARY), "404"),
        (_body(b"<html>login</html>"), _body(BINARY), "no SHA-256"),
        (_sum_of(BINARY), _body(b"", status=404), "404"),
        (_sum_of(BINARY), _body(BINARY, length=len(BINARY) + 5), "peer closed"),
        (_sum_of(BINARY), _hang, "timed out"),
        (_hang, _body(BINARY), "timed out"),
        (_sum_of(b"#!/bin/sh\n"), _body(b"#!/bin/sh\n"), "does not answer"),
    ],
    ids=["sum", "no sum", "html", "404", "truncated", "hang", "hang at sum", "not an opa"],
)
def test_a_bad_download_never_becomes_the_binary(
    tools: Path, said: list[str], sum_answer: Answer, binary_answer: Answer, complaint: str
) -> None:
    with (
        _release_host({".sha256": sum_answer, "": binary_answer}) as host,
        pytest.raises(OpaMissing, match=complaint) as missing,
    ):
        install(said.append, releases=host, go="no-go", timeout=QUICK)
    assert [path.name for path in tools.iterdir()] == [".lock"]
    text = str(missing.value)
    assert "no-go" not in text or "go is not on PATH" in text
    assert str(tools / "opa") in text
    assert "GATEWAY_OPA_BIN" in text


def test_an_https_release_host_cannot_send_us_to_plain_http() -> None:
    request = httpx.Request("GET", "http://mirror.example/opa")
    with pytest.raises(opa_binary._SourceFailed, match="not https"):
        opa_binary._stay_on_https(request)


def test_a_wrong_opa_on_path_is_said_and_passed_over(tmp_path: Path, said: list[str]) -> None:
    _an_opa(tmp_path / "path" / "opa", "1.20.0")
    with _release_host({".sha256": _sum_of(BINARY), "": _body(BINARY)}) as host:
        install(said.append, releases=host, go="no-go", timeout=QUICK)
    assert "version 1.20.0" in said[0]


def test_installs_at_the_same_time_download_once(tools: Path) -> None:
    downloads: list[float] = []

    def once(handler: BaseHTTPRequestHandler) -> None:
        downloads.append(time.monotonic())
        _body(BINARY)(handler)

    with _release_host({".sha256": _sum_of(BINARY), "": once}) as host:
        paths: list[Path] = []

        def work() -> None:
            quiet: list[str] = []
            paths.append(install(quiet.append, releases=host, go="no-go", timeout=QUICK))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert paths == [tools / "opa"] * 4
    assert len(downloads) == 1


def test_what_an_install_that_died_left_behind_is_swept_away(tools: Path) -> None:
    left = tools / ".new-dead"
    left.mkdir(parents=True)
    (left / "opa").write_bytes(b"half of it")
    quiet: list[str] = []
    with _release_host({".sha256": _sum_of(BINARY), "": _body(BINARY)}) as host:
        install(quiet.append, releases=host, go="no-go", timeout=QUICK)
    assert not left.exists()


# --- install by building ---


def _a_go(path: Path, module_hash: str, *, code: int = 0) -> Path:
    return _script(
        path,
        f"""
case "$1" in
install)
  echo "asked for $*, GOOS=$GOOS" >&2
  sleep 1.2
  printf '#!/bin/sh\\necho "Version: {OPA_VERSION}"\\n' > "$GOBIN/opa"
  chmod 755 "$GOBIN/opa"
  exit {code} ;;
version)
  printf 'opa: go1.26\\n\\tpath\\t{MODULE}\\n'
  printf '\\tmod\\t{MODULE}\\tv{OPA_VERSION}\\t{module_hash}\\n' ;;
esac""",
    )


def test_without_a_release_host_go_builds_it(
    tmp_path: Path, tools: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOS", "plan9")
    go = _a_go(tmp_path / "go", MODULE_HASH)
    path = install(said.append, releases=NOWHERE, go=str(go), timeout=QUICK)
    assert path == find() == tools / "opa"
    assert any("1–3 minutes, 1 s so far" in line for line in said)


@pytest.mark.parametrize(
    ("module_hash", "code", "complaint"),
    [
        ("h1:other=", 0, "not github"),
        (MODULE_HASH + "x", 0, "not github"),
        (MODULE_HASH, 1, r"GOOS=\n"),
    ],
)
def test_a_build_that_fails_or_is_of_other_source_is_refused(
    tmp_path: Path, tools: Path, said: list[str], module_hash: str, code: int, complaint: str
) -> None:
    go = _a_go(tmp_path / "go", module_hash, code=code)
    with pytest.raises(OpaMissing, match=complaint):
        install(said.append, releases=NOWHERE, go=str(go), timeout=QUICK)
    assert not (tools / "opa").exists()
