"""A signed-in person at work: every page reads and changes things through the API's own table.

Roles, validation, second persons and the trail are therefore those of `gateway.api.routes`; the
dashboard adds none of its own and goes around none.
"""

from collections.abc import Mapping
from dataclasses import field
from functools import cache
from typing import TypeVar, cast

import jiter
import orjson
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from gateway.api.call import ApiCall, Instead, Waiting
from gateway.api.context import ApiContext
from gateway.api.endpoint import Route
from gateway.api.errors import FORESEEN, ApiError, details_of, error_of, faulty
from gateway.api.models import Listing
from gateway.api.routes import ROUTES
from gateway.frozen import frozen
from gateway.mcp.strictness import check_values
from gateway.registry import sessions
from gateway.registry.core import Change
from gateway.registry.sessions import Session
from gateway.values import Json, Key, KeyId, ProjectId, Role

Answer = TypeVar("Answer", bound=BaseModel)


@frozen
class Person:
    """Who is signed in."""

    session: Session = field(repr=False)

    @property
    def name(self) -> str:
        """As the trail names them."""
        return self.session.user.name

    @property
    def role(self) -> Role:
        return self.session.user.role

    @property
    def project_id(self) -> ProjectId:
        return self.session.user.project_id

    @property
    def key(self) -> Key:
        """What handlers know a caller by: a key that has no secret, with the user's own id."""
        user = self.session.user
        return Key(
            id=KeyId(user.id),
            project_id=user.project_id,
            role=user.role,
            name=user.name,
            owner=user.name,
            agent_id=None,
            server_ids=None,
            may_assert=frozenset(),
            agent_ids=frozenset(),
            expires_at=None,
        )


@frozen
class PersonCall(ApiCall):
    """An operation that a person asks for, in place of a key."""

    person: Person = field(kw_only=True)

    def _still_alive(self, change: Change) -> None:
        sessions.must_live(change, self.person.session)


@frozen
class Desk:
    context: ApiContext
    person: Person

    def may(self, method: str, path: str) -> bool:
        """Whether the person's role may use this operation; False where there is none."""
        route = _table().get((method, path))
        return route is not None and self.person.role in route.roles

    async def read(
        self,
        path: str,
        kind: type[Answer],
        ids: Mapping[str, str] | None = None,
        /,
        **query: str | int | None,
    ) -> Answer:
        """The answer to a GET. Raises `ApiError`."""
        given = {name: str(value) for name, value in query.items() if value not in (None, "")}
        found = await self._do("GET", path, ids or {}, given, None)
        # A page of a list may be a plain `Listing` with the same members.
        assert isinstance(found, kind.__bases__[0] if issubclass(kind, Listing) else kind)
        return cast(Answer, found)

    async def change(
        self,
        method: str,
        path: str,
        ids: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> BaseModel | None:
        """Make a change; `gateway.api.call.Waiting` when a second person must confirm it.

        Raises `ApiError`, whose details name the fields with a fault.
        """
        found = await self._do(method, path, ids or {}, query or {}, body)
        assert not isinstance(found, Response)
        return found

    async def download(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        ids: Mapping[str, str] | None = None,
    ) -> Response:
        """What an operation answers that is no JSON. Raises `ApiError`."""
        found = await self._do(method, path, ids or {}, query or {}, body)
        assert isinstance(found, Response)
        return found

    async def _do(
        self,
        method: str,
        path: str,
        ids: Mapping[str, str],
        query: Mapping[str, str],
        body: Mapping[str, object] | None,
    ) -> BaseModel | Response | None:
        route = _table().get((method, path))
        if route is None:
            raise ApiError(404, "There is no such page.")
        if self.person.role not in route.roles:
            raise ApiError(403, f"Your role, {self.person.role}, may not do this.")
        document: Mapping[str, Json] = {}
        arguments: list[BaseModel] = []
        try:
            if route.query is not None:
                arguments.append(route.query.model_validate(query))
            if route.body is not None:
                raw = orjson.dumps(body or {})
                document = _strictly(raw)
                arguments.append(route.body.model_validate_json(raw))
        except ValidationError as fault:
            raise faulty(details_of(fault)) from None
        call = PersonCall(
            context=self.context,
            key=self.person.key,
            key_digest=b"",
            path=ids,
            document=document,
            status=route.status,
            person=self.person,
        )
        try:
            return await route.handler(call, *arguments)
        except Instead as waiting:
            return Waiting.model_validate_json(waiting.body)
        except FORESEEN as fault:
            raise error_of(fault) from fault


@cache
def _table() -> Mapping[tuple[str, str], Route]:
    return {(route.method, route.path): route for route in ROUTES}


def body_of(method: str, path: str) -> type[BaseModel]:
    """The model of an operation's body: what its form is made from."""
    model = _table()[method, path].body
    assert model is not None
    return model


def _strictly(raw: bytes) -> dict[str, Json]:
    document: dict[str, Json] = jiter.from_json(
        raw, allow_inf_nan=False, catch_duplicate_keys=True, float_mode="lossless-float"
    )
    try:
        check_values(document)
    except FORESEEN as fault:
        raise error_of(fault) from fault
    return document
