"""Who calls: from the key alone, and what is told to whoever may not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from gateway.refusals import Unauthenticated
from gateway.steps.authenticate import Authenticate
from gateway.store import tables
from gateway.values import Caller
from tests.builders import SECRET, World, a_request, a_state

TOKEN = (b"authorization", b"Bearer " + SECRET.encode())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With a second agent, `helper`, that the key may name, and a third that it may not."""
    path: Path = tmp_path_factory.mktemp("data")
    with a_state(path) as world:
        rows = [
            {"id": f"agt_{name}", "project_id": "prj_1", "name": name, "owner": "olga"}
            | {"description": "", "state": "ACTIVE", "created_at": "2026-01-01T00:00:00Z"}
            for name in ("helper", "stranger")
        ]
        world.change(lambda c: c.execute(insert(tables.agents), rows))
        world.set("keys", "key_1", may_assert=["helper"])
        yield world


@pytest.fixture(autouse=True)
def as_it_was(world: World) -> Iterator[None]:
    yield
    unchanged = {"state": "ACTIVE", "role": "project", "server_ids": None, "expires_at": None}
    world.set("keys", "key_1", **unchanged)
    world.set("agents", "agt_1", state="ACTIVE")


def call(world: World, *headers: tuple[bytes, bytes], wait: float = 0.0, **request: Any) -> Caller:
    authenticate = Authenticate(world.state.directory, world.state.clock.now, lambda _: wait)
    return authenticate(a_request(headers=headers or (TOKEN,), **request))


def refusal(world: World, *headers: tuple[bytes, bytes], **given: Any) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as caught:
        call(world, *headers, **given)
    return caught.value


def test_the_agent_of_a_call_is_its_keys(world: World) -> None:
    caller = call(world)
    assert caller.agent is not None
    assert (caller.agent.name, caller.asserted, caller.server.slug) == ("clerk", False, "crm")


@pytest.mark.parametrize(
    "value", [b"", b"Bearer", b"Bearer gwp_wrong", b"Basic x", b"Bearer  ", b"Token x"]
)
def test_no_key_or_a_bad_one_is_401_with_a_challenge(world: World, value: bytes) -> None:
    refused = refusal(world, (b"authorization", value))
    assert refused.status == 401
    assert refused.challenge.startswith('Bearer realm="mcp-gateway"')


def test_without_a_header_it_is_401_and_with_two_it_is_400(world: World) -> None:
    assert refusal(world, (b"accept", b"*/*")).status == 401
    assert refusal(world, TOKEN, TOKEN).status == 400


def test_the_scheme_may_be_written_in_any_case(world: World) -> None:
    assert call(world, (b"authorization", b"bEARER " + SECRET.encode())).key.id == "key_1"


@pytest.mark.parametrize(
    "change", [{"state": "REVOKED"}, {"expires_at": "2026-01-01T00:00:00.000000Z"}]
)
def test_a_revoked_or_expired_key_is_401(world: World, change: dict[str, Any]) -> None:
    world.set("keys", "key_1", **change)
    assert refusal(world).status == 401


@pytest.mark.parametrize("role", ["admin", "approver", "auditor"])
def test_only_a_project_key_makes_calls(world: World, role: str) -> None:
    world.set("keys", "key_1", role=role)
    assert refusal(world).status == 403


def test_a_key_without_that_server_is_403_and_no_such_server_404(world: World) -> None:
    assert refusal(world, server_id="srv_2").status == 404
    world.set("keys", "key_1", server_ids=["srv_9"])
    assert refusal(world).status == 403


def test_a_key_that_calls_too_often_is_429_and_told_how_long_to_wait(world: World) -> None:
    refused = refusal(world, wait=1.5)
    assert (refused.status, refused.retry_after) == (429, 2)


def test_a_key_may_name_an_agent_of_its_list_and_the_call_says_so(world: World) -> None:
    for name in (b"helper", b"agt_helper"):
        caller = call(world, TOKEN, (b"x-agent-id", name))
        assert caller.agent is not None
        assert (caller.agent.id, caller.asserted) == ("agt_helper", True)


@pytest.mark.parametrize("name", [b"clerk", b"agt_1"])
def test_naming_its_own_agent_asserts_nothing(world: World, name: bytes) -> None:
    assert not call(world, TOKEN, (b"x-agent-id", name)).asserted


@pytest.mark.parametrize("name", [b"stranger", b"agt_stranger", b"nobody", b"", b"Helper"])
def test_any_other_name_is_403(world: World, name: bytes) -> None:
    assert refusal(world, TOKEN, (b"x-agent-id", name)).status == 403


def test_two_names_are_400(world: World) -> None:
    name = (b"x-agent-id", b"helper")
    assert refusal(world, TOKEN, name, name).status == 400


def test_a_revoked_agent_is_401(world: World) -> None:
    world.set("agents", "agt_1", state="REVOKED")
    assert refusal(world).status == 401
