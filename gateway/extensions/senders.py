"""Who sends events, and for whom they may speak: a key and an event become a `Caller`."""

from collections.abc import Callable

from gateway.extensions.events import EventIn
from gateway.frozen import frozen
from gateway.registry import extensions
from gateway.registry.core import Actor, Change, Registry
from gateway.registry.directory import ProjectView
from gateway.registry.faults import Forbidden, Missing
from gateway.registry.platforms import Extension
from gateway.values import Agent, AgentId, Caller, Key, ServerId


@frozen
class Sender:
    """An extension, or an agent of one's own that asks with a project key."""

    key: Key
    extension: Extension | None

    def must_have(self, scope: str) -> None:
        """Raises `Forbidden`. A project key may ask, and report what became of its own calls."""
        if self.extension is not None and scope not in self.extension.scopes:
            raise Forbidden(f"This extension has not the scope {scope}.")
        if self.extension is None and scope != "decide":
            raise Forbidden("A project key asks with mode decide; to report, use an extension.")


class Senders:
    def __init__(self, registry: Registry, view: Callable[[Key], ProjectView]) -> None:
        self._registry = registry
        self._view = view

    def sender(self, key: Key) -> Sender:
        return Sender(key, self._view(key).extensions.get(key.id))

    async def caller(self, sender: Sender, event: EventIn) -> Caller:
        """Raises `Forbidden` for an agent that is not its own, `Missing` for such a server."""
        if sender.extension is None:
            agent, asserted = self._own_agent(sender.key, event)
            server_id = event.server_id or _only(sender.key)
        else:
            server_id = sender.extension.server_id
            if event.server_id not in (None, server_id):
                raise Missing("server")  # another server's policies say nothing of it
            agent, asserted = await self._platforms_agent(sender.key, sender.extension, event)
        view = self._view(sender.key)
        server = view.servers.get(ServerId(server_id or ""))
        allowed = sender.key.server_ids
        if server is None or (allowed is not None and server.id not in allowed):
            raise Missing("server")
        # An administrator opens this door of a server by making an extension for it.
        opened = any(one.server_id == server.id for one in view.extensions.values())
        return Caller(view.project, sender.key, agent, asserted, server, control_plane=opened)

    def _own_agent(self, key: Key, event: EventIn) -> tuple[Agent | None, bool]:
        view = self._view(key)
        own = None if key.agent_id is None else view.agents.get(key.agent_id)
        if event.external_agent_id is not None:
            raise Forbidden("Only an extension may speak for a platform's agent.")
        if event.agent_id is None or (own is not None and event.agent_id in (own.id, own.name)):
            return own, False
        other = view.agents.get(AgentId(event.agent_id)) or view.agents_by_name.get(event.agent_id)
        if other is None or other.name not in key.may_assert:
            raise Forbidden("This key may not speak for that agent.")
        return other, True

    async def _platforms_agent(
        self, key: Key, extension: Extension, event: EventIn
    ) -> tuple[Agent | None, bool]:
        """An extension's word for an agent is as good as a caller's, so the agent is asserted;
        unless there is only one that it could mean."""
        agent_id: str | None = event.agent_id
        if agent_id is not None:
            if agent_id not in extension.agents | set(extension.named.values()):
                raise Forbidden("This extension may not speak for that agent.")
        elif event.external_agent_id is not None:
            agent_id = extension.named.get(event.external_agent_id)
            if agent_id is None:
                agent_id = await self._made(key, event.external_agent_id)
        elif len(extension.agents) == 1:
            agent_id = next(iter(extension.agents))
        if agent_id is None:
            return None, False
        agent = self._view(key).agents.get(AgentId(agent_id))
        if agent is None:
            raise Missing("agent")
        return agent, extension.agents != {agent.id}

    async def _made(self, key: Key, external_id: str) -> AgentId:
        def make(change: Change) -> AgentId:
            return extensions.agent_named(change, key.id, external_id)

        return await self._registry.change(Actor.of(key), make)


def _only(key: Key) -> str | None:
    """The server of a key that has one only."""
    if key.server_ids is not None and len(key.server_ids) == 1:
        return next(iter(key.server_ids))
    return None
