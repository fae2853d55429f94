"""`gateway apply`, `diff` and `export` with a real gateway, a real MCP server, real faults."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from gateway import cli
from gateway.clock import rfc3339
from gateway.data_dir.state import open_state
from gateway.demo.crm_process import CrmProcess
from gateway.registry import projects
from gateway.registry.keys import NewKey
from gateway.registry.projects import NewProject
from tests.end_to_end.demonstration import END_SECONDS, START_SECONDS, environment, need_opa
from tests.places import place_of

PAGE = Path(__file__).parents[2] / "docs" / "configuration-as-code.md"
PROJECTS = 24
SECRETS = {
    "CRM_TOKEN": "a token",
    "SALESFORCE_USERNAME": "gateway",
    "SALESFORCE_PASSWORD": "a password",
}


@dataclass(frozen=True, slots=True)
class Gateway:
    url: str
    crm_url: str
    admin_keys: list[str]
    """Of a project each; a test takes one and leaves its project behind."""


@dataclass(frozen=True, slots=True)
class Project:
    """One project of the gateway, and the command line with its admin's key."""

    gateway: Gateway
    key: str
    folder: Path

    def run(self, *words: str | Path, key: str | None = None, url: str | None = None) -> Result:
        env = {
            "POLICY_GATEWAY_URL": url or self.gateway.url,
            "POLICY_GATEWAY_KEY": key or self.key,
        }
        command_line = cli.command_line("apply")
        given = [str(word) for word in words]
        return CliRunner(env=env).invoke(command_line, given, catch_exceptions=False)

    def write(self, text: str, name: str = "project.yaml") -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def applied(self, path: Path, *words: str) -> Result:
        result = self.run("apply", path, "--yes", *words)
        assert result.exit_code == 0, result.output
        return result

    def nothing_to_do(self, path: Path, *words: str) -> bool:
        result = self.run("diff", path, *words)
        return result.exit_code == 0 and "Nothing to do." in result.stdout

    def send(self, method: str, path: str, body: object = None) -> Any:
        with httpx.Client(
            base_url=f"{self.gateway.url}/api/v1",
            headers={"Authorization": f"Bearer {self.key}"},
            trust_env=False,
        ) as http:
            answer = http.request(method, path, json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def names(self, path: str, name: str = "name") -> list[str]:
        return [one[name] for one in self.send("GET", path)["items"]]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    need_opa()
    data_dir = tmp_path_factory.mktemp("gateway") / "data"
    keys = []
    with open_state(data_dir, create=True, place=place_of(data_dir)) as state:
        for number in range(PROJECTS):
            new = NewProject(name="P", slug=f"p{number}")
            admin = NewKey(role="admin", name="first", owner="Alex")
            keys.append(projects.create_now(state.registry, new, admin)[2])
    env = environment() | {
        "GATEWAY_PORT": "0",
        "GATEWAY_MANAGEMENT_PORT": "0",
        "GATEWAY_PRIVATE_UPSTREAMS": "127.0.0.0/8",
    }
    with CrmProcess() as crm:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--json", "--data-dir", str(data_dir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )
        try:
            assert process.stdout is not None
            readable, _, _ = select.select([process.stdout], [], [], START_SECONDS)
            line = process.stdout.readline() if readable else ""
            assert line, "the gateway did not start"
            crm_url = f"http://127.0.0.1:{crm.port()}/mcp"
            yield Gateway(json.loads(line)["base_url"], crm_url, keys)
        finally:
            process.terminate()
            process.communicate(timeout=END_SECONDS)


@pytest.fixture
def project(gateway: Gateway, tmp_path: Path) -> Project:
    return another(gateway, tmp_path)


def another(gateway: Gateway, folder: Path) -> Project:
    folder.mkdir(exist_ok=True)
    return Project(gateway, gateway.admin_keys.pop(), folder)


def example(project: Project) -> Path:
    """The page's example, with a server that exists and an override that has not expired."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    text = text.replace("https://crm.example.com/mcp", project.gateway.crm_url)
    text = text.replace("2027-01-31T00:00:00Z", rfc3339(time.time() + 30 * 86_400))
    secret = project.folder / "secrets" / "salesforce"
    secret.parent.mkdir()
    secret.write_text("a password\n")
    return project.write(text)


def test_the_pages_example_makes_a_project_that_exports_as_itself(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    first, second = another(gateway, tmp_path / "a"), another(gateway, tmp_path / "b")
    path = example(first)
    assert first.run("diff", path).exit_code == 1
    applied = first.applied(path)
    assert applied.stdout.splitlines()[-1].startswith("done: server crm: status")
    assert first.nothing_to_do(path, "--prune")
    assert first.applied(path).stdout == "Nothing to do.\n"

    exported = first.folder / "export.yaml"
    assert first.run("export", "--output", exported).exit_code == 0
    text = exported.read_text()
    assert all(f"${{env:{name}}}" in text for name in SECRETS)
    assert "a password" not in text
    assert "a token" not in text
    assert first.nothing_to_do(exported, "--prune")
    second.applied(exported)
    assert second.run("export").stdout == text

    made = {one["slug"]: one for one in second.send("GET", "/mcp/servers")["items"]}
    assert made["crm"]["status"] == "ACTIVE"
    assert made["salesforce"]["params"]["bulk_row_limit"] == 500
    exact = [r for r in second.send("GET", "/mcp/policies")["items"] if r["mcp_tool_id"]]
    assert [rule["action"] for rule in exact] == ["ALLOW"]


def test_each_change_is_in_the_trace_with_who_made_it(project: Project) -> None:
    path = project.write("version: 1\nagents: [{name: bot, owner: ada}]\nrules: [{action: DENY}]\n")
    project.applied(path)
    project.applied(project.write(path.read_text().replace("ada", "kim")))
    records = project.send("GET", "/traces?kind=event")["items"]
    made = [project.send("GET", f"/traces/{r['trace_id']}")["records"][0] for r in records]
    events = {record["record"]["event"]: record for record in made}
    assert {"agent.created", "rule.created", "agent.changed"} <= events.keys()
    changed = events["agent.changed"]
    assert changed["payloads"]["by"]["value"] == "Alex"
    assert changed["payloads"]["before"]["value"] == {"owner": "ada"}


def test_a_template_server_may_wait_for_its_url(project: Project) -> None:
    path = project.write(
        "version: 1\nservers:\n"
        "  - {slug: sn, name: SN, connector_type: servicenow, description: Tickets, "
        "enforcement: enforce, auth: {type: bearer, token: 'file:token'}}\n"
    )
    project.write("a token", "token")
    project.applied(path)
    assert project.nothing_to_do(path)
    (server,) = project.send("GET", "/mcp/servers")["items"]
    assert (server["slug"], server["server_url"], server["description"]) == ("sn", "", "Tickets")
    exported = project.run("export").stdout
    assert "server_url" not in exported
    assert "${env:SN_TOKEN}" in exported


def test_a_change_is_a_change_and_an_override_has_one_value(project: Project) -> None:
    until = rfc3339(time.time() + 86_400)
    text = (
        "version: 1\nservers:\n"
        "  - {slug: sf, name: SF, connector_type: salesforce, server_url: https://sf.example/}\n"
        "overrides:\n"
        f"  - {{policy: sf-bulk-export, server: sf, action: ALLOW, reason: x, expires_at: {until}}}"
        "\nbudgets: [{window: day, limit: 5}]\n"
    )
    project.applied(project.write(text))
    (budget,) = project.send("GET", "/budgets")["items"]
    (server,) = project.send("GET", "/mcp/servers")["items"]
    changed = text.replace("ALLOW", "DENY").replace("limit: 5", "limit: 6").replace("SF", "Sales")
    path = project.write(changed)
    told = project.applied(path).stdout
    assert "~ override sf-bulk-export on sf: action ALLOW -> DENY" in told
    assert "~ budget requests a day: limit 5 -> 6" in told
    assert project.send("GET", "/budgets")["items"][0]["id"] == budget["id"]
    overrides = project.send("GET", f"/mcp/servers/{server['id']}/overrides")["items"]
    assert [one["action"] for one in overrides] == ["DENY"]
    assert project.nothing_to_do(path, "--prune")

    # What an application leaves that died between the two requests of that change.
    body = {"policy_id": "sf-bulk-export", "action": "ALLOW", "reason": "x", "expires_at": until}
    project.send("POST", f"/mcp/servers/{server['id']}/overrides", body)
    project.applied(path)
    overrides = project.send("GET", f"/mcp/servers/{server['id']}/overrides")["items"]
    assert [one["action"] for one in overrides] == ["DENY"]


def test_a_credential_is_sent_anew_when_asked_for_and_no_block_is_lifted(project: Project) -> None:
    path = project.write(
        "version: 1\nservers:\n"
        f"  - {{slug: crm, name: CRM, server_url: '{project.gateway.crm_url}', status: ACTIVE, "
        "allow_private_network: true, auth: {type: bearer, token: 'file:token'}}\n"
    )
    project.write("a token", "token")
    project.applied(path)
    (before,) = project.send("GET", "/mcp/servers")["items"]
    told = project.applied(path, "--send-auth", "crm").stdout
    assert "~ server crm: its credential is sent" in told
    (after,) = project.send("GET", "/mcp/servers")["items"]
    assert (after["status"], after["revision"]) == ("ACTIVE", before["revision"] + 1)
    assert project.run("apply", path, "--yes", "--send-auth", "cmr").exit_code == 1

    project.send("PATCH", f"/mcp/servers/{after['id']}", {"status": "BLOCKED"})
    refused = project.run("apply", path, "--yes")
    assert refused.exit_code == 1
    assert f"{path}:3: somebody blocked the server crm" in refused.stderr


def test_an_origin_that_is_bound_to_a_template_is_told_before_anything_refers_to_it(
    project: Project,
) -> None:
    server = "{slug: %s, name: S, server_url: 'https://sf.example/', connector_type: %s}"
    project.applied(project.write(f"version: 1\nservers: [{server % ('a', 'salesforce')}]\n"))
    second = project.write(f"version: 1\nservers:\n  - {server % ('b', 'custom')}\n")
    for _ in range(2):
        refused = project.run("apply", second, "--yes")
        assert refused.exit_code == 1
        assert "salesforce" in refused.stderr


def test_pruning_deletes_and_says_before_what_is_not_managed(project: Project) -> None:
    both = "version: 1\nagents: [{name: bot, owner: a}, {name: old, owner: a}]\n"
    rules = "rules: [{action: DENY, agent: old}, {action: ALLOW, agent: bot}]\n"
    project.applied(project.write(both + rules))
    path = project.write("version: 1\nagents: [{name: bot, owner: a}]\nrules: []\n")
    listed = project.run("diff", path)
    assert listed.exit_code == 0
    assert "? agent old: not managed; --prune deletes it" in listed.stdout
    assert project.names("/mcp/policies", "action") == ["DENY", "ALLOW"]
    told = json.loads(project.applied(path, "--prune", "--json").stdout)
    assert [(step["kind"], step["noun"]) for step in told["steps"]] == [
        ("delete", "rule"),
        ("delete", "rule"),
        ("delete", "agent"),
    ]
    assert told["done"] == 3
    assert project.send("GET", "/mcp/policies")["items"] == []
    assert project.nothing_to_do(path, "--prune")
    states = {one["name"]: one["state"] for one in project.send("GET", "/agents")["items"]}
    assert states == {"bot": "ACTIVE", "old": "REVOKED"}


def test_what_the_roles_forbid_stays_forbidden(project: Project) -> None:
    path = project.write("version: 1\nagents: [{name: bot, owner: ada}]\n")
    body = {"role": "auditor", "name": "a", "owner": "Kim"}
    auditor = project.send("POST", "/keys", body)["key"]
    assert project.run("diff", path, key=auditor).exit_code == 1
    assert project.run("export", key=auditor).exit_code == 0
    refused = project.run("apply", path, "--yes", key=auditor)
    assert refused.exit_code == 1
    assert "role" in refused.stderr
    assert "0 of 1" in refused.stderr
    assert project.run("diff", path, key="gwa_" + "x" * 40).exit_code == 1
    assert project.names("/agents") == []


def test_nothing_is_done_when_something_is_missing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CRM_TOKEN", raising=False)
    server = "{slug: crm, name: C, server_url: 'https://c.example/', auth: {type: bearer, token: "
    text = f"version: 1\nagents: [{{name: bot, owner: ada}}]\nservers: [{server}"
    path = project.write(text + "'${env:CRM_TOKEN}'}}]\n")
    # A plan needs no secret; doing it does.
    assert project.run("diff", path).exit_code == 1
    refused = project.run("apply", path, "--yes")
    assert refused.exit_code == 1
    assert f"{path}:3: auth.token: the environment has no CRM_TOKEN" in refused.stderr
    unasked = project.run("apply", project.write("version: 1\nagents: [{name: b, owner: a}]\n"))
    assert unasked.exit_code == 1
    assert "--yes" in unasked.stderr
    dangling = project.write("version: 1\nrules: [{action: DENY, agent: nobody}]\n")
    assert "there is no agent nobody" in project.run("apply", dangling, "--yes").stderr
    assert project.run("apply", project.folder / "none.yaml").exit_code == 1
    assert project.run("apply").exit_code == 2
    assert project.names("/agents") == []
    nobody = project.run("diff", dangling, url="http://127.0.0.1:9")
    assert nobody.exit_code == 3
    assert "does not answer" in nobody.stderr


def test_what_loosens_waits_for_a_second_person_and_is_proposed_once(project: Project) -> None:
    text = (
        "version: 1\nservers:\n"
        "  - {slug: sf, name: SF, connector_type: salesforce, server_url: https://sf.example/, "
        "params: {bulk_row_limit: 5}, auth: {type: bearer, token: 'file:token'}}\n"
        "rules: [{action: DENY, tool_pattern: a}, {action: DENY, tool_pattern: b}]\n"
        "overrides:\n  - {policy: sf-bulk-export, server: sf, action: DENY, reason: x, "
        f"expires_at: {rfc3339(time.time() + 86_400)}}}\n"
        "budgets: [{window: day, limit: 5}]\n"
    )
    project.write("a token", "token")
    project.applied(project.write(text))
    kim = project.send("POST", "/keys", {"role": "admin", "name": "k", "owner": "Kim"})
    second = replace(project, key=kim["key"])
    own = second.send("POST", f"/keys/{kim['id']}/rotate")["key"]
    second = replace(project, key=own)

    path = project.write(
        text.replace("DENY, tool_pattern: a", "ALLOW, tool_pattern: a")
        .replace("DENY, reason", "ALLOW, reason")
        .replace("limit: 5}]", "limit: 6}]\nagents: [{name: bot, owner: ada}]")
        .replace("bulk_row_limit: 5", "bulk_row_limit: 6")
        .replace("name: SF", "name: Sales")
        .replace("https://sf.example/", "https://sf2.example/")
    )
    for _ in range(2):
        waits = project.run("apply", path, "--yes", "--json")
        assert waits.exit_code == 1
        assert len(set(json.loads(waits.stdout)["waiting"])) == 4
        assert "4 changes loosen and wait" in waits.stderr
        proposals = project.send("GET", "/proposals")["items"]
        assert len(proposals) == 4
    assert json.loads(waits.stdout)["done"] == 0
    (server,) = project.send("GET", "/mcp/servers")["items"]
    assert (server["name"], server["params"]["bulk_row_limit"]) == ("Sales", 5)
    assert project.names("/agents") == ["bot"]
    for proposal in proposals:
        second.send("POST", f"/proposals/{proposal['id']}/confirm", {"reason": "agreed"})
    # The overrides that were replaced are left, and to remove a DENY loosens too.
    assert second.run("apply", path, "--yes").exit_code == 1
    (removal,) = [p for p in project.send("GET", "/proposals")["items"] if p["state"] == "OPEN"]
    project.send("POST", f"/proposals/{removal['id']}/confirm", {"reason": "agreed"})
    assert project.nothing_to_do(path, "--prune")


@dataclass
class Between:
    """A reverse proxy whose next writes meet with something on their way."""

    target: str
    key: str
    before: list[Callable[[], int | None]] = field(default_factory=list)
    """For each write in turn: runs first; a status that it returns is the answer."""
    after: Callable[[int], None] = lambda _: None
    """Called with the number of each write that the gateway has done, before it is answered."""
    writes: int = 0

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("content-length", "0"))
        body = request.rfile.read(length)
        write = request.command != "GET"
        status = self.before.pop(0)() if write and self.before else None
        if status is not None:
            self._answer(request, status, b'{"error":{"message":"no"}}')
            return
        headers = {"Authorization": f"Bearer {self.key}"}
        if body:
            headers["Content-Type"] = "application/json"
        with httpx.Client(trust_env=False, timeout=30) as http:
            answer = http.request(
                request.command, self.target + request.path, content=body, headers=headers
            )
        if write:
            self.writes += 1
            self.after(self.writes)
        self._answer(request, answer.status_code, answer.content)

    def _answer(self, request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        try:
            request.send_response(status)
            request.send_header("Retry-After", "0")
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # its client was killed


@contextmanager
def between(project: Project) -> Iterator[tuple[Between, str]]:
    proxy = Between(project.gateway.url, project.key)

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            proxy.handle(self)

        do_GET = do_POST = do_PATCH = do_DELETE = do

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


AGENTS = "version: 1\nagents:\n" + "".join(f"  - {{name: a{n}, owner: o}}\n" for n in range(5))
RULES = "rules:\n" + "".join(f"  - {{agent: a{n}, action: DENY}}\n" for n in range(5))


@pytest.mark.parametrize("deadly", [1, 4, 8])
def test_a_repeat_finishes_what_a_kill_cut_short(project: Project, deadly: int) -> None:
    path = project.write(AGENTS + RULES)
    with between(project) as (proxy, url):
        words = [sys.executable, "-m", "gateway", "apply", str(path), "--yes", "--url", url]
        env = environment() | {"POLICY_GATEWAY_KEY": project.key}
        process = subprocess.Popen(
            words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

        def kill(write: int) -> None:
            if write == deadly:
                process.send_signal(signal.SIGKILL)
                process.wait(timeout=END_SECONDS)

        proxy.after = kill
        assert process.wait(timeout=START_SECONDS) == -signal.SIGKILL
    half = project.run("diff", path, "--json")
    assert len(json.loads(half.stdout)["steps"]) == 10 - deadly
    project.applied(path)
    assert project.nothing_to_do(path, "--prune")
    assert len(project.names("/agents")) == 5
    assert len(project.send("GET", "/mcp/policies")["items"]) == 5


def test_a_project_of_several_pages_is_seen_whole(project: Project) -> None:
    agents = "".join(f"  - {{name: a{n}, owner: o}}\n" for n in range(201))
    path = project.write(f"version: 1\nagents:\n{agents}")
    project.applied(path)
    assert project.nothing_to_do(path)


def test_a_lost_race_says_so_and_can_be_repeated(project: Project) -> None:
    path = project.write(AGENTS)
    with between(project) as (proxy, url):

        def be_faster() -> None:
            project.send("POST", "/agents", {"name": "a0", "owner": "somebody else"})

        proxy.before = [be_faster]
        lost = project.run("apply", path, "--yes", url=url)
    assert lost.exit_code == 1
    assert "run it again" in lost.stderr
    assert f"{path}:3: agent a0" in lost.stderr
    told = project.applied(path).stdout
    assert "~ agent a0: owner 'somebody else' -> o" in told
    assert project.nothing_to_do(path, "--prune")


def test_too_many_requests_are_waited_out_and_a_failing_gateway_is_not_judged(
    project: Project,
) -> None:
    path = project.write(AGENTS)
    with between(project) as (proxy, url):
        proxy.before = [lambda: 429, lambda: 429, lambda: None, lambda: 503]
        unknown = project.run("apply", path, "--yes", "--json", url=url)
        assert unknown.exit_code == 3
        assert json.loads(unknown.stdout)["done"] == 1
        assert project.run("apply", path, "--yes", url=url).exit_code == 0
    assert len(project.names("/agents")) == 5


@pytest.mark.parametrize(("word", "code"), [("y", 0), ("n", 1), ("meanwhile", 1)])
def test_a_person_is_asked_and_sees_what_will_be_done(
    project: Project, word: str, code: int
) -> None:
    path = project.write("version: 1\nagents: [{name: bot, owner: ada}]\n")
    env = environment() | {
        "POLICY_GATEWAY_KEY": project.key,
        "POLICY_GATEWAY_URL": project.gateway.url,
    }
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "apply", str(path)],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    os.close(slave)
    assert process.stdout is not None
    assert process.stdout.readline() == "+ agent bot\n"
    assert project.names("/agents") == []
    if word == "meanwhile":
        project.send("POST", "/agents", {"name": "bot", "owner": "kim"})
    os.write(master, b"n\n" if word == "n" else b"y\n")
    _, said = process.communicate(timeout=START_SECONDS)
    os.close(master)
    assert process.returncode == code, said
    assert ("changed meanwhile" in said) == (word == "meanwhile")
    owners = [one["owner"] for one in project.send("GET", "/agents")["items"]]
    assert owners == {"y": ["ada"], "n": [], "meanwhile": ["kim"]}[word]
