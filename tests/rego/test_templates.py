"""The connector templates as they are built: real tools through the whole router, and texts."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gateway.policy.bundles import build_bundle
from gateway.policy.sources import the_sources
from tests.rego.conftest import REGO, ROOT
from tests.rego.test_router import Document, a_document
from tests.rego.tools_of_platforms import EXPECTED, UNCOVERED

TEMPLATES = ROOT / "connector_templates"
NAMES = {"salesforce": 6, "copilot": 7, "servicenow": 7}
PARAMS = {"salesforce": {}, "copilot": {"internal_domains": ["corp.example"]}, "servicenow": {}}

Decide = Callable[[list[Document]], list[Document]]


def the_template(name: str) -> Document:
    template: Document = yaml.safe_load((TEMPLATES / name / "template.yaml").read_text())
    return template


def samples() -> Iterator[tuple[str, str, Document]]:
    for path in sorted(TEMPLATES.glob("*/samples/*.json")):
        for name, sample in json.loads(path.read_text()).items():
            assert name == path.stem
            yield path.parts[-3], name, sample


SAMPLES = list(samples())


@pytest.fixture(scope="module")
def decide(opa: str, tmp_path_factory: pytest.TempPathFactory) -> Decide:
    """Decides many inputs in one run of OPA, on the bundle that the gateway would serve."""
    built = tmp_path_factory.mktemp("templates") / "bundle.tar.gz"
    built.write_bytes(build_bundle(the_sources(), opa=Path(opa), key=b"k" * 32).archive)

    def run(documents: list[Document]) -> list[Document]:
        query = "[decided | some one in input; decided := data.gateway.decision with input as one]"
        command: list[str | Path] = [
            opa,
            "eval",
            "--bundle",
            built,
            "--strict-builtin-errors",
            "--stdin-input",
            query,
        ]
        done = subprocess.run(
            [*command, "--format", "json"],
            input=json.dumps(documents),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        decided: list[Document] = json.loads(done.stdout)["result"][0]["expressions"][0]["value"]
        assert len(decided) == len(documents)
        return decided

    return run


def a_call(template: str, tool: str, arguments: object, params: Document | None = None) -> Document:
    """A whole input of a project whose default is ALLOW."""
    document = a_document(tool=tool) | {"arguments": arguments}
    document["server"] |= {
        "template": template,
        "params": PARAMS[template] if params is None else params,
    }
    return document


def test_every_sample_is_decided_as_it_says(decide: Decide) -> None:
    documents = [a_call(t, s["tool"], s["arguments"], s["params"]) for t, _, s in SAMPLES]
    found = [(d["action"], d["policy_ids"]) for d in decide(documents)]
    assert found == [(s["action"], sorted(s["policy_ids"])) for _, _, s in SAMPLES]


@pytest.mark.parametrize("template", NAMES)
def test_each_policy_has_a_sample_that_it_decides(template: str) -> None:
    decided = {
        one for name, _, sample in SAMPLES if name == template for one in sample["policy_ids"]
    }
    assert decided == {policy["id"] for policy in the_template(template)["policies"]}


@pytest.mark.parametrize("template", NAMES)
def test_real_tools_get_the_action_of_their_kind(decide: Decide, template: str) -> None:
    calls = EXPECTED[template]
    decisions = decide([a_call(template, tool, arguments) for tool, arguments, _ in calls])
    wrong = {
        tool: (decision["action"], action)
        for (tool, _, action), decision in zip(calls, decisions, strict=True)
        if decision["action"] != action
    }
    assert wrong == {}


@pytest.mark.parametrize("template", NAMES)
def test_prefixes_suffixes_and_capitals_change_nothing(decide: Decide, template: str) -> None:
    spellings: list[Callable[[str], str]] = [
        str.upper,
        lambda tool: f"{tool.removesuffix('_work_iq')}_work_iq",
        lambda tool: f"gw___{tool}",
        lambda tool: f"corp-gw__{tool}",
        lambda tool: f"cra65_demo.action.{tool}",
    ]
    for spell in spellings:
        calls = EXPECTED[template]
        decisions = decide(
            [a_call(template, spell(tool), arguments) for tool, arguments, _ in calls]
        )
        wrong = {
            spell(tool): decision["action"]
            for (tool, _, action), decision in zip(calls, decisions, strict=True)
            if decision["action"] != action
        }
        assert wrong == {}


def test_nothing_that_harms_is_allowed_without_arguments_or_with_odd_ones(
    opa: str, decide: Decide
) -> None:
    source = REGO / "gateway" / "risk" / "real_tools_test.rego"
    wanted = "data.gateway.real_tools_test"
    done = subprocess.run(
        [
            opa,
            "eval",
            "--format",
            "raw",
            "--data",
            source,
            f"[x | x := {wanted}[_][_]; is_string(x)]",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    harmless = {"ALLOW"}
    platform = {tool: t for t, calls in EXPECTED.items() for tool, _, _ in calls}
    names = [name for name in json.loads(done.stdout) if name not in UNCOVERED]
    assert [name for name in names if name not in platform] == []
    reading = {
        tool for calls in EXPECTED.values() for tool, _, action in calls if action in harmless
    }
    odd: list[object] = [{}, {"path": 5}, {"x": [None, True, {"y": "z"}]}, {"id": "a@b"}]
    asked = [(n, arguments) for n in names if n not in reading for arguments in odd]
    decisions = decide([a_call(platform[n], n, arguments) for n, arguments in asked])
    allowed = [n for (n, _), d in zip(asked, decisions, strict=True) if d["action"] == "ALLOW"]
    assert allowed == []


KEYS = [
    *("query", "soql", "fields", "whereClause", "limit", "offset", "fetchAll", "sobject-name"),
    *("object", "type", "attributes", "url", "relationship-path", "operation", "to", "attendees"),
    *("members", "userId", "scope", "path", "entityUrls", "body", "@odata.id", "table", "method"),
    *("approval", "state", "text", "ccRecipients"),
]

ODD: list[object] = [
    *(None, True, 0, -1, 1e300, 10**18, [], {}, [[]], [None], {"": None}, [5, "x"]),
    *("", " ", "\x00", "é", "{", "{}", "[[", '["a", 5]', "'", "%", "%zz", "/", "//", "https://"),
    *("@", "a@b", "users('", "--", "/*", "LIMIT", "x" * 3000),
    {"a": {"b": [1, {"c": "d@e"}]}},
]


@pytest.mark.parametrize("template", NAMES)
def test_no_argument_of_whatever_type_is_an_error(decide: Decide, template: str) -> None:
    tools = sorted({tool for tool, _, _ in EXPECTED[template]})[::4] + ["unheard_of", "rest_api"]
    asked = [
        (tool, arguments)
        for tool in [*tools, "do_action", "sendMail", "create_record", "soqlQuery"]
        for odd in ODD
        for arguments in (dict.fromkeys(KEYS, odd), {"a": [dict.fromkeys(KEYS, odd)]})
    ]
    decisions = decide([a_call(template, tool, arguments) for tool, arguments in asked])
    writers = ("do_action", "sendMail") if template == "copilot" else ("create_record",)
    actions = {
        d["action"] for (tool, _), d in zip(asked, decisions, strict=True) if tool in writers
    }
    assert "ALLOW" not in actions


@pytest.mark.parametrize("template", NAMES)
@pytest.mark.parametrize("params", [{"unknown": 1}, {}])
def test_a_missing_or_unknown_parameter_is_no_fault(
    decide: Decide, template: str, params: Document
) -> None:
    tool = {"salesforce": "soqlQuery", "copilot": "ask", "servicenow": "list_users"}[template]
    arguments = {"query": "SELECT Id FROM Account"}
    assert decide([a_call(template, tool, arguments, params)])[0]["action"] in {"ALLOW", "LOG_ONLY"}


@pytest.mark.parametrize("broken", [None, 5, "x", True, [5], {"a": 1}, -1], ids=str)
def test_a_parameter_of_another_type_opens_nothing(decide: Decide, broken: object) -> None:
    fields = {"object": "User", "table": "sys_user"}
    asked = [
        ("salesforce", "soqlQuery", {"query": "SELECT Id FROM A LIMIT 9000"}, "bulk_row_limit"),
        ("salesforce", "create_record", fields, "protected_objects"),
        ("copilot", "SendEmail", {"to": "ann@corp.example"}, "internal_domains"),
        ("servicenow", "create_record", fields, "admin_tables"),
    ]
    decisions = decide([a_call(t, tool, args, {key: broken}) for t, tool, args, key in asked])
    assert {decision["action"] for decision in decisions} == {"DENY"}


@pytest.mark.parametrize(("template", "number"), NAMES.items())
def test_the_policies_are_those_that_the_template_names(
    opa: str, template: str, number: int
) -> None:
    policies = the_template(template)["policies"]
    assert len(policies) == number
    assert labels_of(opa, template) == {
        policy["package"]: {"policy": policy["id"], "action": policy["action"]}
        for policy in policies
    }


@pytest.mark.parametrize("template", NAMES)
def test_the_readme_says_what_the_template_does(template: str) -> None:
    text = (TEMPLATES / template / "README.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9_-]+)` \| `?(.+?)`? \| (.+) \|$", text, re.MULTILINE)
    described = the_template(template)
    parameters = described["parameters"]["properties"].items()
    assert rows == [
        *((p["id"], p["action"], p["covers"].strip()) for p in described["policies"]),
        *(
            (name, json.dumps(one["default"]), one["description"].strip())
            for name, one in parameters
        ),
    ]


@pytest.mark.parametrize("template", NAMES)
def test_the_parameters_have_a_schema_with_defaults_that_pass_it(template: str) -> None:
    schema = the_template(template)["parameters"]
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate({k: one["default"] for k, one in schema["properties"].items()}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"unheard_of": 1}, schema)


DOMAINS = {
    "corp.example": True,
    "eu.corp.co.uk": True,
    "acme.de": True,
    "contoso.onmicrosoft.com": True,
    "xn--bcher-kva.example": True,
    "*": False,
    "*.corp.example": False,
    "com": False,
    "co.uk": False,
    "com.au": False,
    "gmail.com": False,
    "onmicrosoft.com": False,
    "ann@corp.example": False,
    "cοrp.example": False,
    "": False,
}


@pytest.mark.parametrize(("domain", "usable"), DOMAINS.items())
def test_the_schema_and_the_policy_take_the_same_domains(
    decide: Decide, domain: str, usable: bool
) -> None:
    schema = the_template("copilot")["parameters"]
    validator = jsonschema.Draft7Validator(schema)
    assert validator.is_valid({"internal_domains": [domain]}) is usable
    params = {"internal_domains": ["corp.example", domain]}
    decision = decide([a_call("copilot", "SendEmail", {"to": "ann@corp.example"}, params)])[0]
    assert (decision["action"] == "LOG_ONLY") is usable


def test_the_schema_lists_the_shared_domains_of_the_library(opa: str) -> None:
    query = ["--data", str(REGO / "lib" / "addresses"), "data.lib.addresses.shared"]
    done = subprocess.run(
        [opa, "eval", "--format", "raw", *query], check=True, capture_output=True, text=True
    )
    items = the_template("copilot")["parameters"]["properties"]["internal_domains"]["items"]
    assert items["not"]["anyOf"][1]["enum"] == json.loads(done.stdout)


@pytest.mark.parametrize("template", NAMES)
def test_a_policy_names_the_tools_that_it_finds_something_in(decide: Decide, template: str) -> None:
    globs = {policy["id"]: policy["tools"] for policy in the_template(template)["policies"]}
    calls = EXPECTED[template]
    decisions = decide([a_call(template, tool, arguments) for tool, arguments, _ in calls])
    for (tool, _, _), decision in zip(calls, decisions, strict=True):
        for policy in decision["policy_ids"]:
            if policy != "gateway.default":
                assert covered(tool, globs[policy]), (tool, policy)


def covered(tool: str, globs: list[str]) -> bool:
    whole = tool.lower().removesuffix("_work_iq")
    last = re.split(r"__+|[./:]", whole)[-1]
    return any(fnmatchcase(form, g.lower()) for form in (whole, last) for g in globs)


def labels_of(opa: str, template: str) -> dict[str, Any]:
    """Package to the labels of its `findings`, of every package that has them."""
    found = {}
    for path in sorted((TEMPLATES / template).glob("*/*.rego")):
        if path.name.endswith("_test.rego"):
            continue
        command = [opa, "inspect", "--annotations", "--format", "json", str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        for item in json.loads(done.stdout)["annotations"]:
            if item["path"][-1]["value"] == "findings":
                package = ".".join(part["value"] for part in item["path"][1:-1])
                found[package] = item["annotations"]["labels"]
    return found
