"""Composing, checking and building, with a real OPA."""

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import orjson
import pytest

from gateway import assets
from gateway.policy import bundles
from gateway.policy.bundles import Bundle, build_bundle, keep, last_good, last_tried, sources_of
from gateway.policy.sources import BundleFault, Source, the_sources
from tests.policy.world import KEY, the_opa

ROUTER = 'package gateway\n\nimport rego.v2\n\ndecision := {"action": "DENY", "data": data.lib}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("gateway", "lib", "policies"):
        (tmp_path / name).mkdir()
    (tmp_path / "gateway/decision.rego").write_text(ROUTER)
    (tmp_path / "lib/data.json").write_text('{"words": ["a", "\u2028<&>"], "n": 0.10}')
    return tmp_path


def _build(folder: Path) -> Bundle:
    sources = [Source(name, folder / name, (name,)) for name in ("gateway", "lib", "policies")]
    return build_bundle(sources, opa=the_opa(), key=KEY)


def _contents(bundle: Bundle) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(bundle.archive)) as tar:
        files = {member.name.lstrip("/"): tar.extractfile(member) for member in tar}
        return {name: file.read() for name, file in files.items() if file is not None}


def test_a_bundle_holds_policies_data_and_a_manifest_that_says_where_they_came_from(
    folder: Path,
) -> None:
    (folder / "gateway/decision_test.rego").write_text("package gateway_test\n")
    (folder / "gateway/README.md").write_text("not policy")
    bundle = _build(folder)
    files = _contents(bundle)
    assert set(files) == {
        *("gateway/decision.rego", "data.json", ".manifest", ".signatures.json"),
    }
    manifest = orjson.loads(files[".manifest"])
    assert manifest["revision"] == bundle.revision
    assert (manifest["roots"], manifest["rego_version"]) == ([""], 2)
    assert set(manifest["metadata"]["sources"]) == {"gateway", "lib", "policies"}
    assert sources_of(bundle) == manifest["metadata"]["sources"]
    said = b'{"bundle":{"hides":false,"methods":[],"responses":[]},'
    assert files["data.json"] == said + b'"lib":{"n":0.10,"words":["a","\\u2028<&>"]}}'


def test_the_same_sources_give_the_same_bytes(folder: Path) -> None:
    first = _build(folder)
    os.utime(folder / "gateway/decision.rego", (1, 1))
    (folder / "gateway/decision.rego").chmod(0o755)
    assert _build(folder) == first
    (folder / "lib/data.json").write_text("{}")
    changed = _build(folder)
    assert changed.revision != first.revision
    assert changed.digest != first.digest


def test_opa_accepts_the_signature_of_our_key_and_of_no_other(folder: Path) -> None:
    packed = folder / "bundle.tar.gz"
    packed.write_bytes(_build(folder).archive)

    def load(secret: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(the_opa()), "run", "--bundle", str(packed), "--signing-alg", "HS256"]
            + ["--verification-key", secret],
            input="data.lib.words\nexit\n",
            capture_output=True,
            text=True,
            check=False,
        )

    good, bad = load(bundles.signing_secret(KEY)), load("00" * 32)
    assert good.returncode == 0, good.stderr
    assert "\\u2028" in good.stdout
    assert bad.returncode != 0


def test_a_policy_that_does_not_compile_is_named_with_its_row(folder: Path) -> None:
    (folder / "policies/broken.rego").write_text("package policies.broken\n\nx := y\n")
    with pytest.raises(BundleFault, match=r"policies/broken.rego:3: .*var y is unsafe"):
        _build(folder)


def test_a_policy_cannot_read_a_field_that_no_input_has(folder: Path) -> None:
    (folder / "policies/typo.rego").write_text(
        "# METADATA\n# schemas:\n#   - input: schema.input\npackage policies.typo\n\n"
        "import rego.v2\n\nx if input.tool.nmae\n"
    )
    with pytest.raises(BundleFault, match="nmae"):
        _build(folder)


@pytest.mark.parametrize("call", ['http.send({"url": "http://x"})', "opa.runtime()"])
def test_a_policy_cannot_reach_out(folder: Path, call: str) -> None:
    (folder / "policies/out.rego").write_text(f"package policies.out\n\nx := {call}\n")
    with pytest.raises(BundleFault, match="undefined function"):
        _build(folder)


@pytest.mark.parametrize(
    "package", ["gateway", "system.authz", "policies2.x", 'lib["policies"]', "connectors.sales"]
)
def test_a_source_cannot_fill_another_root(folder: Path, package: str) -> None:
    (folder / "policies/hijack.rego").write_text(f"package {package}\n\nimport rego.v2\n\nx := 1\n")
    with pytest.raises(BundleFault, match="outside policies"):
        _build(folder)


def test_data_stays_under_its_sources_root(folder: Path) -> None:
    (folder / "policies/limits").mkdir()
    (folder / "policies/limits/data.yaml").write_text("gateway: 1.50\n")
    data = orjson.loads(_contents(_build(folder))["data.json"])
    assert data["policies"] == {"limits": {"gateway": 1.5}}


def test_two_files_cannot_say_the_same_thing_of_data(folder: Path) -> None:
    (folder / "lib/words").mkdir()
    (folder / "lib/words/data.json").write_text("{}")
    with pytest.raises(BundleFault, match="words"):
        _build(folder)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "{", '{"a": NaN}'])
def test_ambiguous_data_is_refused(folder: Path, text: str) -> None:
    (folder / "lib/data.json").write_text(text)
    with pytest.raises(BundleFault, match=r"data\.json"):
        _build(folder)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_that_leaves_its_folder_is_refused(folder: Path, kind: str) -> None:
    secrets = folder / "secrets"
    secrets.mkdir()
    (secrets / "data.json").write_text('{"secret": 1}')
    if kind == "file":
        (folder / "policies/data.json").symlink_to(secrets / "data.json")
    else:
        (folder / "policies/more").symlink_to(secrets)
    with pytest.raises(BundleFault, match="link that leaves"):
        _build(folder)


def test_a_bundle_whose_router_has_no_answer_is_not_built(folder: Path) -> None:
    (folder / "gateway/decision.rego").write_text("package gateway\n\ny := 1\n")
    with pytest.raises(BundleFault, match=r"data\.gateway\.decision has no answer"):
        _build(folder)


def test_a_folder_that_does_not_exist_is_a_fault_not_an_empty_policy(folder: Path) -> None:
    with pytest.raises(BundleFault, match="nowhere: cannot be read"):
        build_bundle(the_sources([folder / "nowhere"]), opa=the_opa(), key=KEY)


def test_the_last_good_bundle_survives_a_restart(tmp_path: Path) -> None:
    assert last_good(tmp_path / "bundles") is None
    for n in (1, 2):
        content = b"%d" % n
        keep(Bundle(f"sha256:{n}", _digest(content), content), tmp_path / "bundles", "t")
    found = last_good(tmp_path / "bundles")
    assert found is not None
    assert (found.revision, found.archive) == ("sha256:2", b"2")
    assert last_tried(tmp_path / "bundles") == "t"


def test_a_stored_bundle_that_was_altered_does_not_serve(tmp_path: Path) -> None:
    keep(Bundle("sha256:1", _digest(b"x"), b"x"), tmp_path)
    (archive,) = tmp_path.glob("*.tar.gz")
    archive.write_bytes(b"y")
    assert last_good(tmp_path) is None


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_the_gateways_own_policy_makes_a_bundle() -> None:
    bundle = build_bundle(the_sources(), opa=the_opa(), key=KEY)
    assert any(name.startswith("gateway/") for name in _contents(bundle))
    assert assets.asset("rego").is_dir()
