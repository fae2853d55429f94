"""The form of the files: everything wrong is said at once; what is left out is the default."""

from pathlib import Path

import pytest

from gateway.configuration.document import Document, read
from gateway.configuration.source import DocumentFault


def written(folder: Path, *texts: str) -> list[Path]:
    paths = [folder / f"{number}.yaml" for number, _ in enumerate(texts)]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


def a_document(folder: Path, *texts: str) -> Document:
    return read(written(folder, *(f"version: 1\n{text}" for text in texts)))


def faults(folder: Path, *texts: str) -> list[tuple[str, int, str, str]]:
    with pytest.raises(DocumentFault) as caught:
        read(written(folder, *texts))
    return [
        (Path(fault.file).name, fault.line, fault.field, fault.message)
        for fault in caught.value.faults
    ]


def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    first = """version: 1
agents:
  - {name: bot}
rules:
  - action: DENI
    reson: typing error
    tool: a
  - action: DENY
    min_risk: high
    expires_at: tomorrow
robots: []
"""
    second = """version: 2
budgets:
  - window: day
    limit: '5'
servers:
  - slug: Crm
    name: CRM
    server_url: ftp://x
overrides: yes
"""
    found = faults(tmp_path, first, second)
    assert [(file, line, field) for file, line, field, _ in found] == [
        ("0.yaml", 3, "agents[0].owner"),
        ("0.yaml", 5, "rules[0].action"),
        ("0.yaml", 6, "rules[0].reson"),
        ("0.yaml", 9, "rules[1].min_risk"),
        ("0.yaml", 10, "rules[1].expires_at"),
        ("0.yaml", 11, "robots"),
        ("1.yaml", 1, "version"),
        ("1.yaml", 4, "budgets[0].limit"),
        ("1.yaml", 6, "servers[0].slug"),
        ("1.yaml", 8, "servers[0].server_url"),
        ("1.yaml", 9, "overrides"),
    ]
    assert found[2][3] == "is no field here"
    assert found[0][3] == "is missing"


@pytest.mark.parametrize("text", ["", "[]", "just words", "version: true", "agents: []"])
def test_a_file_says_which_version_it_is(tmp_path: Path, text: str) -> None:
    assert faults(tmp_path, text)


def test_a_file_that_cannot_be_read_is_told_beside_the_faults_of_others(tmp_path: Path) -> None:
    paths = [tmp_path / "missing.yaml", *written(tmp_path, "version: 2\n")]
    with pytest.raises(DocumentFault) as caught:
        read(paths)
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("rules: [{action: DENY, tool: a}]", "needs its server"),
        ("servers: [{slug: a, name: A}]", "server_url is missing"),
        ("servers: [{slug: a, name: A, server_url: 'http://a/', params: {b: 1}}]", "template"),
        ("servers: [{slug: a, name: A, connector_type: copilot, params: {b: null}}]", "null"),
        ("rules: [{action: DENY, server: s, tool: a, tool_pattern: b}]", "either"),
        ("budgets: [{window: day, limit: 1, tool: a}]", "needs its server"),
        ("budgets: [{window: day, limit: 1, agent: a, server: s}]", "not for both"),
    ],
)
def test_what_cannot_be_together_is_refused(tmp_path: Path, entry: str, said: str) -> None:
    (fault,) = faults(tmp_path, f"version: 1\n{entry}\n")
    assert said in fault[3]
    assert fault[1] == 2


SERVER = "servers:\n  - slug: crm\n    name: CRM\n    server_url: https://crm.example/mcp\n"


@pytest.mark.parametrize("secret", ["s3cret", "file:", "${env:}", "x${env:A}", "${env:A}x", "$A"])
def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path, secret: str) -> None:
    text = f"version: 1\n{SERVER}    auth:\n      type: bearer\n      token: '{secret}'\n"
    (fault,) = faults(tmp_path, text)
    assert fault[:3] == ("0.yaml", 8, "servers[0].auth.token")
    assert "reference" in fault[3]
    assert "s3cret" not in fault[3]


def test_a_secrets_file_lies_beside_the_file_that_names_it(tmp_path: Path) -> None:
    auth = "    auth: {type: basic, username: kim, password: 'file:secrets/crm'}\n"
    (server,) = a_document(tmp_path, SERVER + auth).items
    assert server.auth["password"] == f"file:{tmp_path}/secrets/crm"
    assert server.auth["username"] == "kim"


def test_what_is_left_out_is_the_default_and_what_people_decide_is_not_managed(
    tmp_path: Path,
) -> None:
    (server,) = a_document(tmp_path, SERVER).items
    assert server.fields["auth_type"] == "none"
    assert server.fields["is_proxied"] is True
    assert "status" not in server.fields
    assert "connector_type" not in server.fields


def test_times_are_compared_whatever_their_spelling(tmp_path: Path) -> None:
    rule = "rules: [{action: DENY, expires_at: 2030-01-01T01:00:00+01:00}]"
    (item,) = a_document(tmp_path, rule).items
    assert item.fields["expires_at"] == "2030-01-01T00:00:00.000000Z"


def test_files_are_one_whole(tmp_path: Path) -> None:
    agent = "agents: [{name: bot, owner: ada}]"
    document = a_document(tmp_path, agent, "agents: []\nrules: [{action: DENY}]")
    assert [one.name for one in document.items] == ["bot", "every call"]
    assert document.nouns == {"agent", "rule"}


@pytest.mark.parametrize(
    "entry",
    [
        "agents: [{name: bot, owner: ada}]",
        "rules: [{action: DENY, tool_pattern: a}]",
        "budgets: [{window: day, limit: 1}]",
    ],
)
def test_the_same_thing_twice_is_refused_across_files(tmp_path: Path, entry: str) -> None:
    text = f"version: 1\n{entry}\n"
    (fault,) = faults(tmp_path, text, text)
    assert fault[:2] == ("1.yaml", 2)
    assert "0.yaml:2" in fault[3]


def test_rules_of_one_scope_may_differ(tmp_path: Path) -> None:
    text = (
        "rules:\n  - {action: LOG_ONLY}\n"
        "  - {action: DENY, expires_at: 2030-01-01T00:00:00Z, reason: freeze}\n"
    )
    assert len(a_document(tmp_path, text).items) == 2
