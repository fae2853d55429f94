"""`gateway opa sidecar`; `install` is in `tests/policy/test_opa_binary.py`."""

import json
from pathlib import Path

from tests.test_cli import gateway


def test_a_folder_is_prepared_and_how_opa_is_started_on_it_is_told(tmp_path: Path) -> None:
    assert gateway("init", "--data-dir", tmp_path / "data").exit_code == 0
    folder = tmp_path / "own"
    told = gateway("opa", "sidecar", folder, "--data-dir", tmp_path / "data")
    assert told.exit_code == 0
    assert f"--config-file {folder}/opa-config.yaml" in told.stdout
    assert f"GATEWAY_BUNDLE_TOKEN_FILE={folder}/token" in told.stdout
    assert told.stdout.endswith(f"GATEWAY_OPA_URL=unix://{folder}/opa.sock\n")
    token = (tmp_path / "data" / "management.token").read_text()
    assert (folder / "token").read_text() == token
    again = gateway("opa", "sidecar", folder, "--data-dir", tmp_path / "data", "--json")
    assert json.loads(again.stdout)["url"] == f"unix://{folder}/opa.sock"
    assert (folder / "token").read_text() == token


def test_a_folder_that_no_url_can_name_or_without_keys_is_refused(tmp_path: Path) -> None:
    odd = tmp_path / "a b"
    told = gateway("opa", "sidecar", odd, "--data-dir", tmp_path / "data")
    assert told.exit_code == 1
    assert told.stderr.startswith(f"gateway: {odd}: OPA reads its path in a URL")
    long = tmp_path / ("x" * 110)
    assert "at most 107 bytes" in gateway("opa", "sidecar", long).stderr
    told = gateway("opa", "sidecar", tmp_path / "own", "--data-dir", tmp_path / "data")
    assert told.exit_code == 1
    assert "gateway init" in told.stderr
    assert not odd.exists()
    assert not (tmp_path / "own").exists()
