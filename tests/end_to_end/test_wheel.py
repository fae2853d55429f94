"""The wheel, in an environment that has nothing else, runs the demonstration."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.demonstration import need_opa, running

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # The build backend comes from the lock, so nothing is fetched to build.
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


def run(*words: str | Path) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_what_is_not_code_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("rego", "connector_templates"):
        here = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.is_file()
        }
        inside = {n.removeprefix("gateway/_assets/") for n in names if f"_assets/{folder}/" in n}
        assert inside == here
    assert "gateway/_assets/opa-config.yaml" in names
    pages = [path for path in (ROOT / "gateway/dashboard").rglob("*") if path.is_file()]
    shown = {
        path.relative_to(ROOT).as_posix()
        for path in pages
        if path.suffix in (".html", ".css", ".js", ".svg")
    }
    assert shown <= set(names)
    assert [name for name in names if not name.startswith(("gateway/", "policy_gateway-"))] == []
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.sqlite("the wheel alone has no driver")
def test_the_wheel_alone_runs_the_demonstration(wheel: Path, tmp_path: Path) -> None:
    need_opa()
    environment = tmp_path / "an empty environment"
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--require-hashes", "--requirement", ROOT / "requirements.lock")
    run(*pip, "--no-deps", wheel)
    with running(tmp_path / "demo", python=python, cwd=tmp_path) as it:
        answer = httpx.post(
            it.demo.proxy_url,
            headers={
                "Authorization": f"Bearer {it.demo.project_key}",
                "Accept": "application/json, text/event-stream",
            },
            json={
                "jsonrpc": "2.0",
                "id": 1,
                "method": "tools/call",
                "params": {"name": "bulk_export", "arguments": {"object_name": "Account"}},
            },
            trust_env=False,
        )
        where = Path(f"/proc/{it.process.pid}/cmdline")
        assert not where.exists() or os.fsencode(str(environment)) in where.read_bytes()
    assert answer.json()["error"]["code"] == -31003
