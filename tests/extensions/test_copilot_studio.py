"""Copilot Studio's webhook: its shapes, its tokens, and that whatever fails blocks."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import httpx
import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.egress.guard import EgressRefused
from gateway.extensions import copilot_studio
from gateway.extensions.copilot_studio import REASON_CODES
from gateway.extensions.entra import BadToken, EntraTokens, KeySets
from gateway.refusals import REASONS, Refused
from gateway.registry.platforms import Entra
from gateway.settings import LOOPBACK_NETWORKS
from gateway.values import Action, Role
from tests.api.world import World
from tests.extensions.events import records
from tests.pipeline_world import at_once
from tests.serving import serving

pytestmark = pytest.mark.anyio

TENANT = "11111111-1111-4111-8111-111111111111"
APP = "22222222-2222-4222-8222-222222222222"
ISSUER = f"https://login.microsoftonline.com/{TENANT}/v2.0"
ENTRA = {"tenant_id": TENANT, "audience": "https://gateway.example.com", "app_id": APP}


def a_request(**changes: Any) -> dict[str, Any]:
    """As the platform was seen to send it, spelling and unknown fields included."""
    request = {
        "plannerContext": {
            "userMessage": "Delete the old account, my PIN is 4711",
            "thought": "I should delete it",
            "chatHistory": [
                {"id": "m1", "role": "user", "content": "my PIN is 4711", "timestamp": "t"}
            ],
            "previousToolsOutputs": [
                {"toolId": "t", "toolName": "n", "outputs": {"pin": "4711"}, "timestamp": "t"}
            ],
        },
        "toolDefinition": {
            "id": "cra65_otpdemo.action.ExcelOnlineBusiness-Createtable",
            "type": "PrebuiltToolDefinition",
            "name": "Create-table",
            "description": "Make a table",
            "inputParameters": [{"name": "table", "description": "", "type": {"$kind": "String"}}],
            "outputParameters": [],
        },
        "inputValues": {"table": "A1:B2"},
        "conversationMetadata": {
            "agent": {
                "id": "bot-1",
                "name": "A bot",
                "tenantId": TENANT,
                "environmentId": "env",
                "version": "1",
                "isPublished": True,
            },
            "user": {"id": "user-1", "tenantId": TENANT},
            "trigger": {"id": None, "schemaName": None},
            "conversationId": "c-1",
            "planId": "p-1",
            "planStepId": "s-1",
            "parentAgentComponentId": None,
            "messageId": "m-1",
            "channelId": "pva-studio",
            "incomingClientIp": "192.0.2.7",
        },
    }
    return {**request, **changes}


class Copilot:
    """An extension and the platform that calls it."""

    def __init__(self, world: World, **given: Any) -> None:
        self.world = world
        scopes = ["decide", "traces:read"]
        self.row, self.key, _ = world.extension(
            **{"name": "cs", "type": "copilot", "scopes": scopes} | given
        )
        self.bearer = self.key

    async def post(self, path: str, body: bytes | None, correlation: str = "c0") -> httpx.Response:
        headers = {"x-ms-correlation-id": correlation, "content-type": "application/json"}
        async with self.world.client(self.bearer) as client:
            base = f"extensions/{self.row.id}/copilot-studio/"
            return await client.post(
                f"{base}{path}?api-version=2025-09-01", content=body, headers=headers
            )

    async def analyse(self, request: Any = None, correlation: str = "c0") -> dict[str, Any]:
        answer = await self.post(
            "analyze-tool-execution", orjson.dumps(request or a_request()), correlation
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def decided(self) -> list[dict[str, Any]]:
        self.world.state.writer.change_now(lambda _: None)
        return self.world.line.world.records("decision")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not decide; see `soon` for the tests that are about time."""
    monkeypatch.setattr(copilot_studio, "DECIDE_SECONDS", 30.0)
    monkeypatch.setattr(copilot_studio, "RECORD_SECONDS", 30.0)


def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copilot_studio, "DECIDE_SECONDS", 0.3)


@pytest.fixture
def copilot(world: World) -> Copilot:
    return Copilot(world)


async def test_validate_says_what_the_platform_expects(copilot: Copilot) -> None:
    answer = await copilot.post("validate", None)
    assert (answer.status_code, answer.json()) == (200, {"isSuccessful": True, "status": "OK"})


async def test_an_allowed_call_is_not_blocked_and_says_nothing_else(copilot: Copilot) -> None:
    assert await copilot.analyse() == {"blockAction": False}
    copilot.world.line.policy.action = Action.LOG_ONLY
    assert await copilot.analyse(correlation="c1") == {"blockAction": False}
    first = copilot.decided()[0]
    assert (first["platform"], first["external_agent"]) == ("copilot", "bot-1")
    assert first["tool_id"] == "cra65_otpdemo.action.ExcelOnlineBusiness-Createtable"
    assert first["attested"] is False


async def test_a_denied_call_is_blocked_with_a_code_and_a_reason(copilot: Copilot) -> None:
    copilot.world.line.policy.action = Action.DENY
    said = await copilot.analyse()
    assert (said["blockAction"], said["reasonCode"]) == (True, 1003)
    assert said["reason"] == REASONS["policy_denied"].message
    assert orjson.loads(said["diagnostics"])["trace_id"] == copilot.decided()[0]["call"]


@pytest.mark.parametrize(
    "changes",
    [
        {"plannerContext": None},
        {"plannerContext": {"previousToolOutputs": []}},
        {"conversationMetadata": None},
        {"inputValues": None},
        {"toolDefinition": {"name": "only a name"}},
        {"toolDefinition": {"id": "only.an.id", "name": None, "description": None}},
        {"somethingNew": {"deep": [1]}},
    ],
)
async def test_what_may_be_missing_or_new_does_not_matter(
    copilot: Copilot, changes: dict[str, Any]
) -> None:
    assert await copilot.analyse(a_request(**changes)) == {"blockAction": False}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"toolDefinition":{"name":"a","name":"b"}}',
        b'{"toolDefinition":{}}',
        b'{"toolDefinition":"x"}',
        b'{"toolDefinition":{"name":"x"},"inputValues":[1]}',
        b'{"toolDefinition":{"name":"x"},"inputValues":{"a":1,"A":2}}',
        b" " * (1024 * 1024 + 1),
    ],
)
async def test_what_cannot_be_read_is_blocked(copilot: Copilot, body: bytes) -> None:
    answer = await copilot.post("analyze-tool-execution", body)
    assert answer.status_code == 200
    assert (answer.json()["blockAction"], answer.json()["reasonCode"]) == (True, 1010)
    assert copilot.decided() == []


async def test_the_tools_id_is_matched_as_well_as_its_name(copilot: Copilot) -> None:
    async with copilot.world.client() as client:
        rule = {"action": "DENY", "tool_pattern": "*ExcelOnlineBusiness-Createtable"}
        assert (await client.post("mcp/policies", json=rule)).status_code == 201
    decide = copilot.world.line.policy.decide

    async def by_rules(pinned: Any) -> Any:
        view = copilot.world.state.directory.view(copilot.world.project_id)
        caller = pinned.call.caller
        matching = view.matching_rules(
            caller.agent, caller.server, pinned.call.tool_name, None, "2026"
        )
        copilot.world.line.policy.action = Action.DENY if matching else Action.ALLOW
        return await decide(pinned)

    object.__setattr__(copilot.world.line.policy, "decide", by_rules)
    assert (await copilot.analyse())["reasonCode"] == 1003


async def test_a_call_that_needs_approval_is_blocked_and_then_passes_once(
    copilot: Copilot,
) -> None:
    copilot.world.line.policy.action = Action.REQUIRE_APPROVAL
    said = await copilot.analyse(correlation="c1")
    assert (said["blockAction"], said["reasonCode"]) == (True, 1004)
    approval = copilot.world.line.world.rows("SELECT id FROM approvals")[0][0]
    assert approval in said["reason"]
    async with copilot.world.client(copilot.world.key(Role.APPROVER, owner="Ann")[1]) as client:
        answer = await client.post(f"approvals/{approval}/approve", json={"reason": "fine"})
        assert answer.status_code == 200, answer.text
    other = a_request(inputValues={"table": "C1:D9"})
    assert (await copilot.analyse(other, "c2"))["blockAction"] is True
    assert await copilot.analyse(correlation="c3") == {"blockAction": False}
    assert (await copilot.analyse(correlation="c4"))["blockAction"] is True


async def test_the_same_request_sent_again_is_decided_once_though_the_chat_has_grown(
    copilot: Copilot,
) -> None:
    assert await copilot.analyse() == {"blockAction": False}
    grown = a_request(plannerContext={"userMessage": "now?", "chatHistory": []})
    assert await copilot.analyse(grown) == {"blockAction": False}
    assert len(copilot.decided()) == 1


async def test_requests_without_a_correlation_id_are_not_taken_for_each_other(
    copilot: Copilot,
) -> None:
    assert await copilot.analyse(correlation="") == {"blockAction": False}
    other = a_request(inputValues={"table": "C1:D9"})
    assert await copilot.analyse(other, "") == {"blockAction": False}


async def test_chat_is_kept_as_its_hash_unless_the_extension_keeps_it(world: World) -> None:
    for keeps in (False, True):
        copilot = Copilot(world, name=f"keeps {keeps}", keep_chat_history=keeps)
        await copilot.analyse()
        async with world.client(copilot.key) as client:
            trace_id = copilot.decided()[-1]["call"]
            text = (await client.get(f"traces/{trace_id}")).text
        assert ("4711" in text) == keeps
        assert "A1:B2" in text


# --- failure ---


async def unavailable() -> None:
    raise Refused("policy_unavailable")


async def never() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("failure", [unavailable, never])
@pytest.mark.parametrize("on_failure", ["block", "by_risk"])
async def test_without_a_decision_it_blocks_unless_the_risk_is_known_to_be_low(
    world: World, failure: Any, on_failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copilot = Copilot(world, on_failure=on_failure)
    assert await copilot.analyse(correlation="known") == {"blockAction": False}
    world.line.policy.meanwhile = failure
    if failure is never:
        soon(monkeypatch)
    before = len(copilot.decided())
    passed = await copilot.analyse(correlation="later")
    delete = a_request(toolDefinition={"name": "deleteIt", "description": ""})
    risky = await copilot.analyse(delete, "risky")
    assert (risky["blockAction"], risky["reasonCode"]) == (True, 1006)
    if on_failure == "block":
        assert passed["blockAction"] is True
        return
    assert passed == {"blockAction": False}
    let_through = [r for r in copilot.decided()[before:] if r.get("failed_open")]
    assert [(r["risk"], r["anchor"]) for r in let_through] == [("LOW", "urgent")]
    async with world.client() as client:
        listed = (await client.get("extensions")).json()["items"]
    assert next(one for one in listed if one["id"] == copilot.row.id)["failed_open"] == 1


async def test_a_stop_binds_where_nothing_can_decide(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    copilot = Copilot(world, on_failure="by_risk")
    assert await copilot.analyse(correlation="known") == {"blockAction": False}
    world.line.policy.meanwhile = never
    soon(monkeypatch)
    async with world.client() as client:
        await client.post("mcp/emergency-stop", json={"scope": "all", "reason": "x"})
    assert (await copilot.analyse(correlation="later"))["blockAction"] is True


async def test_a_verdict_that_comes_too_late_was_never_given(
    copilot: Copilot, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon(monkeypatch)
    gate = asyncio.Event()

    async def slowly() -> None:
        await gate.wait()

    async with copilot.world.client() as client:
        body = {"scope": "project", "window": "month", "limit": 9}
        budget = (await client.post("budgets", json=body)).json()["id"]
    copilot.world.line.policy.meanwhile = slowly
    assert (await copilot.analyse())["reasonCode"] == 1006
    gate.set()
    for _ in range(1000):
        await asyncio.sleep(0.01)
        if copilot.decided() and not copilot.world.line.pipeline.running:
            break
    trace_id = copilot.decided()[0]["call"]
    assert records(copilot.world, trace_id)[1]["fate"] == "not_forwarded"
    assert copilot.world.line.world.window(budget) == (0, 0)
    # Asked once more, the call is admitted anew: what was given back does not pass for nothing.
    monkeypatch.undo()
    copilot.world.line.policy.meanwhile = at_once
    assert await copilot.analyse() == {"blockAction": False}
    assert len(copilot.decided()) == 2
    assert copilot.world.line.world.window(budget) == (1, 0)


async def test_every_code_of_a_refusal_has_one_of_its_own(copilot: Copilot) -> None:
    ours = {reason.code for reason in REASONS.values() if reason.code > -31900}
    sent = ours - {-31006, -31007, -31009}  # those are of an upstream
    assert sent <= REASON_CODES.keys() | {-32602}
    assert len(set(REASON_CODES.values())) == len(REASON_CODES)


# --- who asks ---


async def test_errors_have_microsofts_form(copilot: Copilot) -> None:
    world, own = copilot.world, copilot.key
    for bearer, status in (
        (None, 401),
        ("ext_wrong", 401),
        (world.keys[Role.ADMIN], 403),
        (world.keys[Role.EXTENSION], 404),
    ):
        copilot.bearer = bearer  # type: ignore[assignment]
        for path in ("validate", "analyze-tool-execution"):
            answer = await copilot.post(path, b"{}")
            assert answer.status_code == status
            assert set(answer.json()) == {"errorCode", "message", "httpStatus", "diagnostics"}
            assert answer.json()["httpStatus"] == status
            assert isinstance(answer.json()["diagnostics"], str)
    copilot.bearer = own
    assert (await copilot.post("validate", None)).status_code == 200


async def test_without_the_scope_it_is_not_set_up_and_everything_is_blocked(world: World) -> None:
    copilot = Copilot(world, scopes=["webhook:ingest"])
    assert (await copilot.post("validate", None)).status_code == 403
    assert (await copilot.analyse())["blockAction"] is True


class Issuer:
    """Entra ID as far as we know it: a key, and tokens made with it."""

    def __init__(self) -> None:
        self.private = rsa.generate_private_key(65537, 2048)
        self.kid = "k1"

    @property
    def key_set(self) -> bytes:
        key = jwt.algorithms.RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return orjson.dumps({"keys": [{**key, "kid": self.kid, "use": "sig"}]})

    def token(self, **changes: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": ENTRA["audience"],
            "tid": TENANT,
            "azp": APP,
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            **changes,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, self.private, "RS256", {"kid": self.kid})


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def entra(world: World, issuer: Issuer) -> Copilot:
    world.upstream.keys = issuer.key_set
    copilot = Copilot(world, entra=ENTRA)
    copilot.bearer = issuer.token()
    return copilot


async def test_a_token_of_the_tenants_application_is_believed_and_keys_are_kept(
    entra: Copilot, issuer: Issuer
) -> None:
    for _ in range(3):
        assert (await entra.post("validate", None)).status_code == 200
    v1 = {"iss": f"https://sts.windows.net/{TENANT}/", "azp": None, "appid": APP.upper()}
    entra.bearer = issuer.token(**v1)
    assert await entra.analyse() == {"blockAction": False}
    keys = f"https://login.microsoftonline.com/{TENANT}/discovery/v2.0/keys"
    assert entra.world.upstream.key_sets == [keys]


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://login.microsoftonline.com/other/v2.0"},
        {"aud": "https://other.example.com"},
        {"tid": APP},
        {"azp": TENANT},
        {"azp": None},
        {"exp": 1},
        {"exp": None},
        {"nbf": 4102444800},
    ],
)
async def test_any_other_token_is_not(
    entra: Copilot, issuer: Issuer, changes: dict[str, Any]
) -> None:
    entra.bearer = issuer.token(**changes)
    assert (await entra.post("validate", None)).status_code == 401
    assert (await entra.post("analyze-tool-execution", b"{}")).status_code == 401


async def test_neither_is_one_signed_by_somebody_else_or_by_nobody(
    entra: Copilot, issuer: Issuer
) -> None:
    claims = jwt.decode(issuer.token(), options={"verify_signature": False})
    forged = Issuer().token()
    unsigned = jwt.encode(claims, "", "none", {"kid": "k1"})
    mac = jwt.encode(claims, "s" * 32, "HS256", {"kid": "k1"})
    nameless = jwt.encode(claims, issuer.private, "RS256")
    for token in (forged, unsigned, mac, nameless, "x", "", issuer.token()[:-4] + "AAAA"):
        entra.bearer = token
        assert (await entra.post("validate", None)).status_code == 401


async def test_where_tokens_are_expected_the_shared_secret_does_not_do(entra: Copilot) -> None:
    entra.bearer = entra.key
    assert (await entra.post("validate", None)).status_code == 401


async def test_when_the_issuer_cannot_be_reached_it_blocks_and_asks_again_next_time(
    entra: Copilot, issuer: Issuer
) -> None:
    entra.world.upstream.keys = b""
    answer = await entra.post("validate", None)
    assert (answer.status_code, answer.json()["httpStatus"]) == (503, 503)
    assert (await entra.analyse())["blockAction"] is True
    entra.world.upstream.keys = issuer.key_set
    assert await entra.analyse() == {"blockAction": False}


async def test_a_new_key_of_the_issuer_is_found_and_unknown_ones_are_not_asked_for_each_time(
    issuer: Issuer,
) -> None:
    asked: list[str] = []
    now = [0.0]
    current = issuer

    async def fetch(url: str) -> bytes:
        asked.append(url)
        return current.key_set

    tokens = EntraTokens(fetch, lambda: now[0])
    audience = ENTRA["audience"]
    entra = Entra(TENANT, audience, APP, (ISSUER,), "https://keys.example.com")
    await tokens.verify(issuer.token(), entra)
    later = Issuer()
    later.kid = "k2"
    for _ in range(5):
        with pytest.raises(BadToken):
            await tokens.verify(later.token(), entra)
    assert len(asked) == 1
    now[0], current = 60.0, later
    await tokens.verify(later.token(), entra)
    assert len(asked) == 2


async def test_a_signature_is_looked_at_once_and_a_token_known_for_no_other_purpose(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, decoded, current = [0.0], [0], issuer
    whole = jwt.decode

    def counted(*given: Any, **more: Any) -> Any:
        decoded[0] += 1
        return whole(*given, **more)

    async def fetch(url: str) -> bytes:
        return current.key_set

    monkeypatch.setattr(jwt, "decode", counted)
    tokens = EntraTokens(fetch, lambda: now[0])
    entra = Entra(TENANT, ENTRA["audience"], APP, (ISSUER,), "https://keys.example.com")
    token, over = issuer.token(), issuer.token(exp=int(time.time()) - 5)
    for _ in range(3):
        await tokens.verify(token, entra)
    assert decoded == [1]
    # Within the leeway a token that is over is good, and looked at each time.
    for _ in range(2):
        await tokens.verify(over, entra)
    assert decoded == [3]
    with pytest.raises(BadToken):
        await tokens.verify(token, replace(entra, app_id="another"))
    # The issuer took the key back: the next set of keys has another one of that name.
    now[0], current = 7 * 3600.0, Issuer()
    with pytest.raises(BadToken):
        await tokens.verify(token, entra)


async def test_keys_come_through_the_guard_of_what_leaves(issuer: Issuer) -> None:
    async def keys(_request: Request) -> Response:
        return Response(issuer.key_set, media_type="application/json")

    async with serving(Starlette(routes=[Route("/keys", keys)])) as port:
        allowed = KeySets(LOOPBACK_NETWORKS, frozenset())
        url = f"http://127.0.0.1:{port}/keys"
        assert await allowed(url) == issuer.key_set
        with pytest.raises(ValueError, match="404"):
            await allowed(f"http://127.0.0.1:{port}/none")
        with pytest.raises(EgressRefused):
            await KeySets((), frozenset())(url)
