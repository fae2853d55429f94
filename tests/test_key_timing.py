"""How long a key is looked at says nothing of it: a digest is looked up, nothing is compared.

No time is measured here. What is compared is the way that a key takes through the code.
"""

import ast
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

import pytest
from starlette.requests import Request

from gateway.api.endpoint import authenticated
from gateway.api.errors import ApiError
from gateway.listeners import shows_token
from gateway.refusals import Unauthenticated
from gateway.steps.authenticate import Authenticate
from gateway.values import Role
from tests.api.world import World, a_world
from tests.builders import a_request

PACKAGE = Path(__file__).parent.parent / "gateway"
SECRETS = {
    *("secret", "secret_", "token", "access_token", "csrf", "signature", "signing_secret"),
    *("password", "credential"),
}
NO_SECRET = {"wanted == token"}
"""A progress token, which whoever asks has chosen."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with a_world(tmp_path_factory.mktemp("keys")) as made:
        yield made


def way(check: Callable[[], object]) -> list[str]:
    """The functions that it goes through, in order, those written in C too."""
    taken: list[str] = []

    def note(frame: FrameType, event: str, called: object) -> None:
        if event == "call":
            taken.append(f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}")
        elif event == "c_call":
            taken.append(getattr(called, "__qualname__", ""))

    sys.setprofile(note)
    try:
        check()
    finally:
        sys.setprofile(None)
    return taken


def _at_the_api(world: World, secret: str) -> None:
    headers = [(b"authorization", f"Bearer {secret}".encode())]
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": headers})
    try:
        authenticated(world.context, request)
    except ApiError as fault:
        assert fault.status == 401  # noqa: PT017 - a living key is no fault


def _at_the_proxy(world: World, secret: str) -> None:
    step = Authenticate(world.state.directory, world.state.clock.now, lambda _: 0.0)
    headers = ((b"authorization", f"Bearer {secret}".encode()),)
    try:
        step.identify(replace(a_request(), headers=headers))
    except Unauthenticated as fault:
        assert fault.status == 401  # noqa: PT017


@pytest.mark.parametrize("door", [_at_the_api, _at_the_proxy])
def test_a_wrong_key_takes_the_same_way_however_much_of_it_is_right(
    world: World, door: Callable[[World, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()  # a new second's text is written once, by whoever comes first
    monkeypatch.setattr(world.state.clock, "_source", lambda: now)
    right = world.keys[Role.PROJECT]
    wrong = [right[:-1] + "!", right[:12] + "x" * (len(right) - 12), "y" * len(right)]
    ways = [way(partial(door, world, secret)) for secret in wrong]
    assert ways[0] == ways[1] == ways[2]
    lookup = "Directory.key_of"
    alike = [one.rpartition(":")[2] for one in ways[0]]
    living = [one.rpartition(":")[2] for one in way(partial(door, world, right))]
    end = alike.index(lookup) + alike[alike.index(lookup) :].index("dict.get") + 1
    assert alike[:end] == living[:end]


def test_a_key_is_hashed_and_never_compared(world: World) -> None:
    class Watched(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        __hash__ = None  # type: ignore[assignment]

        def startswith(self, *_: object) -> bool:
            raise AssertionError("looked into")

    found = world.state.directory.key_of(Watched(world.keys[Role.ADMIN]))
    assert found is not None
    assert found.role is Role.ADMIN
    assert world.state.directory.key_of(Watched("gwa_nobody")) is None


def test_the_management_token_is_compared_in_constant_time() -> None:
    token = b"t" * 43
    ways = [
        way(partial(shows_token, f"Bearer {given}", token)) for given in ("t" * 42 + "x", "y" * 43)
    ]
    assert ways[0] == ways[1]
    assert "compare_digest" in ways[0]


def test_no_secret_is_compared_with_an_operator() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Compare):
                continue
            for one, operator in zip(node.comparators, node.ops, strict=True):
                if isinstance(operator, ast.Eq | ast.NotEq):
                    sides = {_name(node.left), _name(one)}
                    said = ast.unparse(node)
                    assert not sides & SECRETS or said in NO_SECRET, f"{path}:{node.lineno}: {said}"


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
