"""Scans of servers: their tools read, then assessed; and how far the running ones are."""

from dataclasses import dataclass, field
from typing import Literal

import structlog

from gateway.frozen import frozen
from gateway.mcp.scan import ScanFailed, scan
from gateway.mcp.upstream import Upstreams
from gateway.policy.engine import EngineFault
from gateway.policy.risk import RiskAssessor
from gateway.registry.faults import Unready
from gateway.registry.pins import Assessment, Scan
from gateway.values import Server, ServerId

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Progress:
    """How far a scan is."""

    tools: int = 0
    """Read so far; how many there are only the server knows."""
    step: Literal["reading", "assessing"] = "reading"

    def read(self, tools: int) -> None:
        self.tools = tools


@frozen
class Scans:
    """Belongs to the event loop."""

    upstreams: Upstreams
    risks: RiskAssessor
    running: dict[ServerId, Progress] = field(default_factory=dict)
    """Of several scans of one server the one that began last."""

    async def scan(self, server: Server) -> Scan:
        """Walk the server's tools and have them assessed. Raises `Unready`."""
        progress = self.running[server.id] = Progress()
        try:
            return await self._scan(server, progress)
        except ScanFailed as failed:
            raise Unready(str(failed)) from None
        except EngineFault as fault:
            _log.error("tools cannot be assessed", why=str(fault))
            raise Unready("The policy engine cannot assess the tools now; try again.") from None
        finally:
            if self.running.get(server.id) is progress:
                del self.running[server.id]

    async def _scan(self, server: Server, progress: Progress) -> Scan:
        walked = await scan(self.upstreams, server, told=progress.read)
        progress.step = "assessing"
        assessed = await self.risks.risks(walked.definitions)
        names = [str(definition.get("name")) for definition in walked.definitions]
        assessments = {
            name: Assessment(one.risk, one.reasons)
            for name, one in zip(names, assessed, strict=True)
        }
        return Scan(walked.definitions, assessments, server.revision, walked.complete)
