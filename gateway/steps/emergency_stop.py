"""Call → Cleared: no stop covers it, its agent may act, its server is active.

Works without OPA and without the network: everything it asks is in memory.
"""

from collections.abc import Callable

from gateway.refusals import Refused
from gateway.registry.directory import Directory
from gateway.registry.stop_file import stopped
from gateway.values import Call, Caller, Cleared, Stop


class EmergencyStop:
    """``stop_file`` tells the deployment-wide stop, as it was last read from its file."""

    def __init__(self, directory: Directory, stop_file: Callable[[], Stop | None]) -> None:
        self._directory = directory
        self._stop_file = stop_file

    def clear(self, call: Call) -> Cleared:
        """Raises `Refused`."""
        # Read before the questions: a stop that lands between them raises the epoch.
        epoch = self._directory.epoch
        self.check(call.caller)
        return Cleared(call, epoch)

    def everywhere(self) -> bool:
        """Whether the deployment-wide stop was in force when its file was last read."""
        return self._stop_file() is not None

    def check(self, caller: Caller) -> None:
        """The same questions for what is no tool call. Raises `Refused`."""
        # As last read, which is moments ago; admission reads it anew.
        stop = self._stop_file()
        view = self._directory.view(caller.project.id)
        agent_ids = caller.key.agent_ids
        if caller.agent is not None:
            agent_ids = agent_ids | {caller.agent.id}
        stop = stop or view.stop_for(caller.server.id, agent_ids)
        if not self._directory.sees():
            raise Refused("stop_unreadable", detail="what other gateways stopped cannot be read")
        if stop is not None:
            raise stopped(stop.id, stop.scope)
        for agent_id in agent_ids:
            agent = view.agents.get(agent_id)
            if agent is None or agent.state != "ACTIVE":
                raise Refused("agent_paused", {"agent_id": agent_id})
        if caller.key.id not in view.keys:
            raise Refused("key_revoked")
        server = view.servers.get(caller.server.id)
        if server is None or server.status == "BLOCKED":
            raise Refused("server_blocked")
        is_open = server.status == "ACTIVE" or caller.control_plane
        if not is_open or server.revision != caller.server.revision:
            raise Refused("server_pending")
