"""No secret leaves the place that it is kept in: not into logs, metrics, answers or the database.

A gateway serves calls of every kind, all of which carry marks; then everything that it wrote, and
everything that it answers without being asked for them, is searched for the marks.
"""

import base64
import json
import os
import resource
import secrets
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.registry.core import Actor
from gateway.registry.credentials import BearerAuth, seal
from gateway.registry.keys import NewKey, create
from gateway.values import ProjectId
from tests import places
from tests.builders import SECRET, a_body, a_state
from tests.end_to_end.demonstration import need_opa
from tests.faults.upstream import Upstream, an_upstream
from tests.gateway_process import GatewayProcess, a_gateway

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
POLICY = """# METADATA
# title: What the calls of this test meet
package policies.all.scan

import rego.v2

# METADATA
# title: Findings
findings contains {"action": action, "policy_id": "scan", "reason": input.arguments.object} if {
	some word, action in {"deny": "DENY", "log": "LOG_ONLY", "ask": "REQUIRE_APPROVAL"}
	startswith(object.get(input.arguments, "note", ""), word)
}

# METADATA
# title: A fault, which quotes the input
# description: Two values for one complete rule.
findings contains {"action": "DENY", "policy_id": "fault", "reason": torn} if {
	startswith(object.get(input.arguments, "note", ""), "fault")
}

torn := input.arguments.object

torn := input.arguments.note if startswith(object.get(input.arguments, "note", ""), "fault")
"""
RESPONSES = """# METADATA
# title: Answers that a policy cannot judge
# schemas:
#   - input: schema.response.input
package policies.response.all.torn

import rego.v2

# METADATA
# title: Findings
findings contains {"policy_id": "torn", "reason": judged, "obligations": [{"type": "block"}]} if {
	contains(json.marshal(input.body), "unjudged")
}

judged := json.marshal(input.body)

judged := "two values" if contains(json.marshal(input.body), "unjudged")
"""


@dataclass
class Marks:
    """What must not be found, by what it is."""

    secret: dict[str, str] = field(default_factory=dict)

    def new(self, what: str) -> str:
        self.secret[what] = f"mark{secrets.token_hex(12)}"
        return self.secret[what]

    def found_in(self, text: bytes) -> list[str]:
        return [what for what, mark in self.secret.items() if _in_any_form(mark, text)]


def _in_any_form(mark: str, text: bytes) -> bool:
    """As it is, in hex, or in base64 wherever it begins there."""
    raw = mark.encode()
    inner = [base64.b64encode(bytes(shift) + raw)[4:-4] for shift in range(3)]
    return any(form in text for form in (raw, raw.hex().encode(), *inner))


@dataclass
class Site:
    gateway: GatewayProcess
    upstream: Upstream
    marks: Marks
    admin: str

    def api(self, key: str | None = None) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"{self.gateway.base_url}/api/v1",
            headers={"Authorization": f"Bearer {key or self.admin}"},
            timeout=120,
            trust_env=False,
        )

    async def call(self, behaviour: str, note: str = "", **more: Any) -> dict[str, Any]:
        """A call whose arguments are marked; the error, or nothing."""
        what = f"the arguments of {behaviour} {note}"
        arguments = {"object": f"{behaviour}-{self.marks.new(what)}", **more}
        if note:
            arguments["note"] = f"{note} {self.marks.secret[what]}"
        return await self.send(a_body(arguments=arguments))

    async def send(self, body: bytes, **headers: str) -> dict[str, Any]:
        usual = {**JSON, "Accept": "application/json, text/event-stream"}
        async with self.api(SECRET) as http:
            answer = await http.post(
                self.gateway.proxy_url, content=body, headers={**usual, **headers}
            )
        lines = [line.removeprefix("data:") for line in answer.text.splitlines() if "{" in line]
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            message = json.loads(lines[-1])
        else:
            message = json.loads(answer.text) if answer.text.startswith("{") else {}
        return dict(message.get("error") or {})


def prepared(folder: Path, upstream: Upstream, marks: Marks) -> str:
    """A data directory; returns an admin's key."""
    token = BearerAuth(type="bearer", token=marks.new("an upstream's bearer token"))
    with a_state(folder) as world:
        sealed = seal(world.state.keyring, "srv_1", token)
        world.set(
            *("servers", "srv_1"),
            server_url=upstream.url,
            auth_type="bearer",
            auth_sealed=sealed,
        )
        by = Actor.operator(ProjectId("prj_1"))
        new = NewKey.model_validate({"role": "admin", "name": "a", "owner": "Alex"})
        _, key = world.state.registry.change_now(by, lambda change: create(change, new))
    marks.secret |= {"the agent's key": SECRET, "the administrator's key": key}
    return key


async def make_everything(site: Site) -> None:
    """All that an administrator makes that holds a secret."""
    marks = site.marks
    oauth = {
        "type": "oauth_client_credentials",
        "token_url": f"{site.upstream.url}/token",
        "client_id": "gateway",
        "client_secret": marks.new("an OAuth client's secret"),
    }
    basic = {"type": "basic", "username": "u", "password": marks.new("a server's password")}
    hook = f"http://127.0.0.1:{site.upstream.port}/{marks.new('the path of a webhook')}"
    made: list[tuple[str, dict[str, Any]]] = [
        *(
            ("mcp/servers", {"name": auth["type"], "server_url": site.upstream.url, "auth": auth})
            for auth in (basic, oauth)
        ),
        ("keys", {"role": "auditor", "name": "reader", "owner": "Vera"}),
        ("keys", {"role": "approver", "name": "yes", "owner": "Robin"}),
        ("extensions", {"name": "crm", "type": "custom", "scopes": ["decide", "webhook:ingest"]}),
        ("users", {"name": "Kim", "role": "auditor", "password": marks.new("a password") + "Aa1!"}),
        ("users", {"name": "Lee", "role": "auditor"}),
        ("notifications", {"name": "hook", "kind": "webhook", "url": hook}),
    ]
    async with site.api() as http:
        for path, body in made:
            if "server_url" in body or "url" in body:
                body["allow_private_network"] = True
            once = {"Idempotency-Key": f"once-{body['name']}"}
            answer = await http.post(f"/{path}", json=body, headers=once)
            assert answer.status_code == 201, answer.text
            for name in ("key", "signing_secret", "secret", "password"):
                if shown := answer.json().get(name):
                    marks.secret[f"{name} of {body['name']}"] = shown


BEHAVIOURS = (
    *("ok", "fails", "refuses", "garbage", "text", "chunks", "event", "half", "stream"),
    *("reset", "split", "flood", "hang"),
)
UNREADABLE = (
    '{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"a":"{0}","a":"{0}"}}}}',
    '{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"{0}":1e999}}}}',
    '{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":"{0}"}}',
    '{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"query_records",'
    '"arguments":{{"object":"{0}\\ud800"}}}}}}',
    '["{0}"]',
    "{0}",
)


async def make_calls(site: Site) -> None:
    """Calls of every kind, each with a mark of its own."""
    assert await site.call("ok") == {}
    for behaviour in BEHAVIOURS:
        await site.call(behaviour)
    for note in ("deny", "log", "ask", "fault", "unjudged"):
        refused = await site.call("ok", note)
        assert (refused == {}) == (note == "log"), (note, refused)
    assert (await site.call("ok", other="x" * 300_000))["code"] == -31003
    wrong = {"object": ["ok-" + site.marks.new("arguments of a wrong type")]}
    assert (await site.send(a_body(arguments=wrong)))["code"] == -32602
    for number, form in enumerate(UNREADABLE):
        body = form.format(site.marks.new(f"unreadable body {number}"))
        assert await site.send(body.encode())
    await site.send(b"{}", Authorization=f"Bearer gwp_{site.marks.new('a wrong key')}")
    url = f"{site.gateway.proxy_url}?key={site.marks.new('a query')}"
    async with site.api(SECRET) as http:
        await http.post(url, content=b"{}", headers={"Cookie": site.marks.new("a cookie")})


async def make_events(site: Site, key: str) -> None:
    """What platforms report and ask, and what administrators get wrong."""
    async with site.api(key) as http:
        for mode in ("decide", "record"):
            event = {
                **{"event_id": f"e-{mode}", "type": "tool_call", "mode": mode},
                **{"agent_id": "clerk", "tool": {"name": "query_records"}},
                "arguments": {"object": site.marks.new(f"the arguments of an event to {mode}")},
            }
            await http.post("/webhooks/ingest", json=event)
    async with site.api() as http:
        token = site.marks.new("a token in a body that is refused")
        auth = {"type": "bearer", "token": f"{token}\r\nX-Evil: 1"}
        body = {"name": "x", "server_url": "https://crm.example.com/mcp", "auth": auth}
        assert (await http.post("/mcp/servers", json=body)).status_code == 400
        torn = '{"name":"' + site.marks.new("a body of the API that is no JSON")
        assert (await http.post("/keys", content=torn.encode(), headers=JSON)).status_code == 400


async def make_faults(site: Site) -> None:
    """Calls while the disk takes nothing, where it is the gateway's, and while there is no OPA."""
    if not places.shared():
        await fill_the_disk(site)
    os.kill(site.gateway.opa(), signal.SIGKILL)
    await site.call("ok", "no OPA")


async def fill_the_disk(site: Site) -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(site.gateway.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        assert (await site.call("ok", "a full disk"))["code"] == -31010
        async with site.api() as http:
            name = site.marks.new("a name that cannot be written")
            body = {"role": "auditor", "name": name, "owner": "Vera"}
            assert (await http.post("/keys", json=body)).status_code == 503
    finally:
        resource.prlimit(site.gateway.pid, resource.RLIMIT_FSIZE, unlimited)


async def answers_without_payloads(site: Site) -> dict[str, bytes]:
    """All that lists, exports and measures say; a record's own page rightly opens its payloads."""
    token = (site.gateway.log.with_suffix("") / "management.token").read_text()
    found = {}
    async with site.api() as http:
        for path in (
            *("mcp/servers", "keys", "users", "notifications", "extensions", "agents", "traces"),
            *("anchors", "policy/status", "proposals", "checkpoints/latest", "projects/current"),
            *("export?format=ndjson", "export?format=csv", "mcp/policies", "mcp/emergency-stop"),
        ):
            answer = await http.get(f"/{path}")
            assert answer.status_code == 200, (path, answer.text)
            found[path] = answer.content
        headers = {"Authorization": f"Bearer {token}"}
        for path in ("metrics", "readyz"):
            url = f"{site.gateway.management_url}/{path}"
            found[path] = (await http.get(url, headers=headers)).content
    return found


async def test_no_secret_is_in_logs_metrics_lists_or_the_database(tmp_path: Path) -> None:
    need_opa()
    marks = Marks()
    policies, data_dir = tmp_path / "policies", tmp_path / "data"
    policies.mkdir()
    (policies / "scan.rego").write_text(POLICY)
    (policies / "torn.rego").write_text(RESPONSES)
    settings = {"GATEWAY_POLICY_DIRS": str(policies), "GATEWAY_LOG_LEVEL": "debug"}
    async with an_upstream() as upstream:
        admin = prepared(data_dir, upstream, marks)
        options = ("--head-seconds", "3")
        async with a_gateway(data_dir, *options, settings=settings) as gateway:
            site = Site(gateway, upstream, marks, admin)
            await make_everything(site)
            await make_calls(site)
            await make_events(site, marks.secret["key of crm"])
            await make_faults(site)
            async with site.api() as http:
                asked = (await http.get("/approvals")).json()["items"]
            # Who approves reads why it is asked, though nobody else does.
            assert marks.secret["the arguments of ok ask"] in asked[0]["reason"]
            answers = await answers_without_payloads(site)
            marks.secret["the management listener's token"] = (
                data_dir / "management.token"
            ).read_text()
            told = b"".join(upstream.elsewhere)
            await gateway.end()
    found = {name: marks.found_in(text) for name, text in answers.items()}
    found["the log"] = marks.found_in(gateway.log.read_bytes())
    found["webhooks"] = marks.found_in(told)
    files = [path for path in data_dir.rglob("*") if path.is_file()]
    assert data_dir / "keys" / "data.key" in files
    found["the database"] = marks.found_in(places.stored(data_dir))
    for path in files:
        if path.name not in ("management.token", "token"):  # its own, and OPA's copy of it
            found[str(path.relative_to(data_dir))] = marks.found_in(path.read_bytes())
    assert {where: what for where, what in found.items() if what} == {}
    assert len(gateway.log.read_bytes().splitlines()) > 10


def test_a_mark_is_found_in_every_form() -> None:
    marks = Marks()
    mark = marks.new("it").encode()
    for form in (mark, mark.hex().encode(), *(base64.b64encode(b"x" * n + mark) for n in range(3))):
        assert marks.found_in(b"before" + form + b"after") == ["it"]
    assert marks.found_in(b"something else") == []
