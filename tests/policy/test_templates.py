"""Templates: every fault told at once, parameters bounded, coverage as the bundle spells names."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from gateway import assets
from gateway.policy.templates import Catalogue, TemplateFault, forms, read_template
from tests.policy.world import the_opa

ROOT = Path(__file__).parents[2]


def a_template(folder: Path, **given: Any) -> Path:
    """A template called ``acme`` with one policy; ``given`` replaces members of its file."""
    (folder / "acme" / "writes").mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "title": "Acme",
        "version": "1.0.0",
        "description": "A template for tests.",
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "limit": {"type": "integer", "minimum": 1, "maximum": 10, "default": 5},
                "own_domains": {"type": "array", "items": {"type": "string"}, "default": []},
            },
        },
        "policies": [
            {
                "id": "acme-writes",
                "package": "connectors.acme.writes",
                "title": "Writes",
                "action": "DENY",
                "covers": "Writing.",
                "tools": ["*write*", "put_?"],
            }
        ],
    }
    path = folder / "acme" / "template.yaml"
    path.write_text(yaml.safe_dump(document | given))
    return folder / "acme"


def test_the_projects_own_templates_are_without_faults() -> None:
    catalogue = Catalogue(assets.asset("connector_templates"))
    assert catalogue.faults() == {}
    counts = {name: len(found.policies) for name, found in catalogue.templates().items()}
    assert counts == {"copilot": 7, "salesforce": 6, "servicenow": 7}


def test_every_fault_of_a_file_is_told_with_file_and_field(tmp_path: Path) -> None:
    folder = a_template(tmp_path, version="one", owner="me", policies=[{"id": "A"}])
    with pytest.raises(TemplateFault) as fault:
        read_template(folder)
    said = str(fault.value)
    assert str(folder / "template.yaml") in said
    for field in ("version:", "owner:", "policies.0.id:", "policies.0.action:", "policies.0.tools"):
        assert field in said


def test_what_members_alone_do_not_show_is_told_too(tmp_path: Path) -> None:
    folder = a_template(tmp_path)
    document = yaml.safe_load((folder / "template.yaml").read_text())
    policy = document["policies"][0]
    document["policies"] += [policy, policy | {"id": "b", "package": "connectors.acme.gone"}]
    document["policies"] += [policy | {"id": "c", "package": "policies.all.writes"}]
    document["parameters"]["properties"]["limit"]["default"] = 11
    document["parameters"]["properties"]["own_domains"]["default"] = ["com"]
    (folder / "template.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(TemplateFault) as fault:
        read_template(folder)
    said = str(fault.value)
    for part in ("there twice", "no folder gone", "policies.3.package", "limit", "own_domains.0"):
        assert part in said
    for broken in ({"limit": {"type": "integer"}}, {"limit": {"type": "wrong", "default": 1}}):
        document["parameters"]["properties"] = broken
        (folder / "template.yaml").write_text(yaml.safe_dump(document))
        with pytest.raises(TemplateFault, match=r"parameters\.properties\.limit"):
            read_template(folder)


def test_a_template_with_a_fault_is_not_offered_and_comes_back_when_mended(tmp_path: Path) -> None:
    folder = a_template(tmp_path)
    catalogue = Catalogue(tmp_path)
    assert list(catalogue.templates()) == ["acme"]
    good = (folder / "template.yaml").read_text()
    (folder / "template.yaml").write_text("title: [")
    assert catalogue.get("acme") is None
    assert "acme" in catalogue.faults()
    (folder / "template.yaml").write_text(good.replace("1.0.0", "1.1.0"))
    found = catalogue.get("acme")
    assert found is not None
    assert found.version == "1.1.0"
    (folder / "template.yaml").unlink()
    assert catalogue.get("acme") is None


@pytest.mark.parametrize(
    "domain",
    ["*", "*.example.com", "com", "co.uk", "github.io", "EXAMPLE.com", "example.com\n", "a b.com"],
)
def test_a_domain_that_strangers_share_is_no_parameter(tmp_path: Path, domain: str) -> None:
    template = read_template(a_template(tmp_path))
    assert template.faults({"own_domains": ["example.com", domain]}).keys() == {
        "params.own_domains.1"
    }
    assert template.faults({"own_domains": ["example.com", "mail.example.co.uk"]}) == {}


def test_parameters_are_held_to_the_schema_all_at_once(tmp_path: Path) -> None:
    template = read_template(a_template(tmp_path))
    assert template.faults(template.defaults) == {}
    wrong = template.faults({"limit": 11, "own_domains": "example.com", "more": 1})
    assert wrong.keys() == {"params.limit", "params.own_domains", "params"}


def test_globs_and_rego_agree_on_the_spellings_of_a_name() -> None:
    """What the API calls covered is found by the same names that the Rego library tries."""
    names = ["run_query", "CRM__Run_Query", "a___b", "x.y/z:Write", "send_work_iq", "a__b_WORK_IQ"]
    names += [
        "",
        " ",
        "__",
        "tab\tname",
        "p__ q ",
        "_work_iq",
        "a____b",
        "a:__b",
        "x _work_iq",
        "a  b.c\t",
    ]
    query = "[data.lib.tool_names.forms(name) | some name in input]"
    done = subprocess.run(
        [the_opa(), "eval", "-f", "raw", "-d", ROOT / "rego" / "lib", "--stdin-input", query],
        input=orjson.dumps(names),
        capture_output=True,
        check=True,
    )
    assert [frozenset(found) for found in orjson.loads(done.stdout)] == list(map(forms, names))


def test_a_policy_covers_names_with_and_without_prefix_in_any_case(tmp_path: Path) -> None:
    template = read_template(a_template(tmp_path))
    for name in ("write", "OverWrite_all", "crm__put_x", "PUT_1"):
        assert template.covering(name) == ["acme-writes"], name
    for name in ("read", "put_12", "crm_put_x"):
        assert template.covering(name) == [], name


@pytest.mark.parametrize("name", ["copilot", "salesforce", "servicenow"])
def test_no_tool_that_the_rego_finds_is_told_as_uncovered(name: str) -> None:
    """The file's globs are what the API calls covered; the samples say what Rego finds."""
    folder = assets.asset("connector_templates") / name
    template = read_template(folder)
    samples = [
        sample
        for path in sorted((folder / "samples").glob("*.json"))
        for sample in orjson.loads(path.read_bytes()).values()
    ]
    assert samples
    found = {sample["tool"] for sample in samples if sample["policy_ids"]}
    assert [tool for tool in found if not template.covering(tool)] == []


def test_a_folder_that_cannot_be_listed_now_leaves_what_was_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    catalogue = Catalogue(ROOT / "connector_templates")
    read = catalogue.templates()
    assert read

    def out_of_descriptors(_: Path) -> Iterator[Path]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Path, "iterdir", out_of_descriptors)
    assert catalogue.templates() == read
    with pytest.raises(OSError, match="Too many"):
        Catalogue(ROOT / "connector_templates").templates()
