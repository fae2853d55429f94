"""Others ask us: AuthZEN's questions and mcpsec's, answered like any call, or free of effects."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from gateway.values import Action
from tests.api.world import PUBLIC_URL, World
from tests.extensions.events import records

pytestmark = pytest.mark.anyio


def a_question(server: str, **changes: Any) -> dict[str, Any]:
    question = {
        "subject": {"type": "agent", "id": "clerk"},
        "action": {"name": "call"},
        "resource": {
            "type": "tool",
            "id": "getRecord",
            "properties": {"server": server, "arguments": {"id": "1"}},
        },
    }
    return {**question, **changes}


class Pep:
    """Another gateway, with a key of an agent named clerk."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.server = world.extension(name="tools")[0].server_id

    async def begin(self) -> None:
        async with self.world.client() as client:
            made = await client.post("agents", json={"name": "clerk", "owner": "o"})
            slug = (await client.get(f"mcp/servers/{self.server}")).json()["slug"]
        self.agent = made.json()["id"]
        self.slug = slug
        self.key = self.world.key(agent_id=self.agent)[1]

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        async with self.world.client(self.key) as client:
            return await client.post(PUBLIC_URL + path, json=body, headers=headers)

    async def ask(self, body: Any) -> dict[str, Any]:
        answer = await self.post("/access/v1/evaluation", body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@pytest.fixture
async def pep(world: World) -> Pep:
    made = Pep(world)
    await made.begin()
    return made


async def test_a_question_is_admitted_and_traced_like_a_call(pep: Pep) -> None:
    said = await pep.ask(a_question(pep.slug))
    assert said["decision"] is True
    decided = records(pep.world, said["context"]["trace_id"])[0]
    assert (decided["source"], decided["agent"]) == ("authzen", pep.agent)
    pep.world.line.policy.action = Action.DENY
    denied = await pep.ask(a_question(pep.server))
    assert (denied["decision"], denied["context"]["reason_code"]) == (False, "policy_denied")
    assert "policy" not in str(denied["context"].keys())
    pep.world.line.policy.action = Action.REQUIRE_APPROVAL
    waiting = await pep.ask(a_question(pep.slug))
    assert waiting["decision"] is False
    assert waiting["context"]["approval_id"].startswith("apr_")


async def test_a_dry_run_has_no_effects(pep: Pep) -> None:
    pep.world.line.policy.action = Action.REQUIRE_APPROVAL
    said = await pep.ask(a_question(pep.slug, context={"dry_run": True}))
    assert (said["decision"], said["context"]) == (False, {"reason_code": "approval_required"})
    assert pep.world.line.world.records("decision") == []
    assert pep.world.line.world.approvals() == []


async def test_the_callers_request_id_comes_back(pep: Pep) -> None:
    question = a_question(pep.slug)
    answer = await pep.post("/access/v1/evaluation", question, **{"X-Request-ID": "their-1"})
    assert answer.headers["X-Request-ID"] == "their-1"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"subject": {"type": "agent", "id": "somebody else"}}, 403),
        ({"subject": None}, 400),
        ({"action": {"name": "delete"}}, 400),
        ({"resource": {"type": "document", "id": "x"}}, 400),
        ({"resource": {"type": "tool", "id": "x", "properties": {"server": "none"}}}, 404),
        ({"resource": {"type": "tool", "id": "x"}}, 404),
    ],
)
async def test_what_is_no_question_of_ours_is_refused(
    pep: Pep, changes: dict[str, Any], status: int
) -> None:
    answer = await pep.post("/access/v1/evaluation", a_question(pep.slug, **changes))
    assert answer.status_code == status, answer.text


async def test_a_person_may_be_the_subject(pep: Pep) -> None:
    said = await pep.ask(a_question(pep.slug, subject={"type": "user", "id": "ann"}))
    assert said["decision"] is True


@pytest.mark.parametrize(
    ("semantic", "decisions"),
    [
        (None, [True, False, True]),
        ("deny_on_first_deny", [True, False]),
        ("permit_on_first_permit", [True]),
    ],
)
async def test_several_at_once_with_defaults_in_order(
    pep: Pep, semantic: str | None, decisions: list[bool]
) -> None:
    question = a_question(pep.slug)
    bad = {"action": {"name": "dance"}}
    many = {**question, "evaluations": [{}, bad, {"context": {"dry_run": True}}]}
    if semantic is not None:
        many["options"] = {"evaluations_semantic": semantic}
    answer = (await pep.post("/access/v1/evaluations", many)).json()
    assert [one["decision"] for one in answer["evaluations"]] == decisions
    if len(decisions) > 1:
        assert answer["evaluations"][1]["context"]["error"]["status"] == 400


async def test_without_evaluations_it_is_one_question(pep: Pep) -> None:
    answer = await pep.post("/access/v1/evaluations", a_question(pep.slug))
    assert answer.json()["decision"] is True


async def test_mcpsecs_question_is_answered_only_where_it_is_switched_on(pep: Pep) -> None:
    question = {"tool": "file", "function": "read", "parameters": {"path": "/etc/passwd"}}
    assert (await pep.post("/api/evaluate", question)).status_code == 404
    pep.world.context = replace(pep.world.context, evaluate_profile=pep.slug)
    allowed = (await pep.post("/api/evaluate", question)).json()
    assert allowed == {"verdict": "allow", "reason": "", "matched_policy": "test.policy"}
    pep.world.line.policy.action = Action.DENY
    denied = (await pep.post("/api/evaluate", question)).json()
    assert (denied["verdict"], denied["matched_policy"]) == ("deny", "test.policy")
    tools = {record["tool"] for record in pep.world.line.world.records("decision")}
    assert tools == {"file.read"}


async def test_an_extension_needs_the_scope(world: World, pep: Pep) -> None:
    _, key, _ = world.extension(name="r", scopes=["webhook:ingest"])
    async with world.client(key) as client:
        url = PUBLIC_URL + "/access/v1/evaluation"
        answer = await client.post(url, json=a_question(pep.slug))
    assert answer.status_code == 403


async def test_an_extension_is_told_nothing_of_a_server_that_is_not_its_own(
    world: World, pep: Pep
) -> None:
    row, key, _ = world.extension(name="other", scopes=["decide"])
    user = {"type": "user", "id": "u"}
    async with world.client(key) as client:
        url = f"{PUBLIC_URL}/access/v1/evaluation"
        found = [
            (await client.post(url, json=a_question(server, subject=user))).status_code
            for server in (row.server_id, pep.server, pep.slug, "none")
        ]
    assert found == [200, 404, 404, 404]


async def test_whoever_asks_too_often_is_told_when_to_come_back(world: World) -> None:
    row, key, _ = world.extension(name="slow", scopes=["decide"], events_per_minute=6)
    question = a_question(row.server_id, subject={"type": "user", "id": "u"})
    async with world.client(key) as client:
        url = f"{PUBLIC_URL}/access/v1/evaluation"
        assert (await client.post(url, json=question)).status_code == 200
        late = await client.post(url, json=question)
    assert (late.status_code, late.headers["Retry-After"]) == (429, "10")
