"""Request → Caller: who calls, from the key alone."""

from collections.abc import Callable

from gateway.refusals import Unauthenticated
from gateway.registry.directory import Directory, ProjectView
from gateway.values import Agent, AgentId, Caller, Key, KeyId, ProjectId, Request, Role, ServerId

CHALLENGE = 'Bearer realm="mcp-gateway"'


def bearer(headers: tuple[tuple[bytes, bytes], ...]) -> str | None:
    """The bearer token, or None; raises `Unauthenticated` when the header is given twice."""
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        return None
    if len(values) > 1:
        raise Unauthenticated(400, "The Authorization header is given more than once.")
    scheme, _, token = values[0].decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


class Authenticate:
    """``take(key_id)`` answers how many seconds a key that calls too often must wait, or 0."""

    def __init__(
        self, directory: Directory, now: Callable[[], str], take: Callable[[str], float]
    ) -> None:
        self._directory = directory
        self._now = now
        self._take = take

    def __call__(self, request: Request) -> Caller:
        key = self.identify(request)
        wait = self._take(key.id)
        if wait > 0:
            raise Unauthenticated(
                429, "Too many calls with this key; wait and try again.", retry_after=int(wait) + 1
            )
        return self._caller(key, request)

    def again(self, project_id: ProjectId, key_id: KeyId, request: Request) -> Caller:
        """Who made a call that was kept, as that key stands now. Raises `Unauthenticated`."""
        key = self._directory.view(project_id).keys.get(key_id)
        if key is None or (key.expires_at is not None and key.expires_at <= self._now()):
            raise Unauthenticated(401, "The key is unknown, expired or revoked.", CHALLENGE)
        return self._caller(key, request)

    def _caller(self, key: Key, request: Request) -> Caller:
        view = self._directory.view(key.project_id)
        agent, asserted = self._agent(key, view, request)
        server = view.servers.get(ServerId(request.server_id))
        if server is None:
            raise Unauthenticated(404, "No such server.")
        if key.role is not Role.PROJECT or (
            key.server_ids is not None and server.id not in key.server_ids
        ):
            raise Unauthenticated(403, "This key may not call this server.")
        return Caller(view.project, key, agent, asserted, server)

    def identify(self, request: Request) -> Key:
        """The key of the request, alive; raises `Unauthenticated`."""
        token = bearer(request.headers)
        if token is None:
            raise Unauthenticated(401, "Send your key as `Authorization: Bearer <key>`.", CHALLENGE)
        key = self._directory.key_of(token)
        if key is None or (key.expires_at is not None and key.expires_at <= self._now()):
            raise Unauthenticated(
                401,
                "The key is unknown, expired or revoked.",
                f'{CHALLENGE}, error="invalid_token", '
                'error_description="The key is unknown, expired or revoked."',
            )
        return key

    def _agent(self, key: Key, view: ProjectView, request: Request) -> tuple[Agent | None, bool]:
        named = [value for name, value in request.headers if name == b"x-agent-id"]
        if len(named) > 1:
            raise Unauthenticated(400, "The X-Agent-Id header is given more than once.")
        agent = None if key.agent_id is None else view.agents.get(key.agent_id)
        asserted = False
        if named:
            name = named[0].decode("latin-1")
            other = view.agents_by_name.get(name) or view.agents.get(AgentId(name))
            if agent is None or other is None or other.id != agent.id:
                if other is None or other.name not in key.may_assert:
                    raise Unauthenticated(403, "This key may not speak for that agent.")
                agent, asserted = other, True
        if agent is not None and agent.state == "REVOKED":
            raise Unauthenticated(
                401, "The key's agent is revoked.", f'{CHALLENGE}, error="invalid_token"'
            )
        return agent, asserted
