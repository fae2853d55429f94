"""Letting a call through that nothing could decide, where its extension says so; never silently."""

from collections.abc import Sequence
from dataclasses import replace

from gateway.extensions.asked import Asked, event_of
from gateway.extensions.control_plane import ControlPlane
from gateway.extensions.reports import Claim, Entry
from gateway.extensions.told import Told
from gateway.ids import new_id
from gateway.records.calls import said_of
from gateway.refusals import Refused
from gateway.trace.record import Draft, bounded
from gateway.values import Risk

_LET_THROUGH = frozenset({Risk.LOW, Risk.MEDIUM})


async def fail_open(plane: ControlPlane, asked: Asked, said: Told) -> Told:
    """``said`` itself, or that the call may pass: then it is on disk, and to be anchored at once.

    Raises what the writer raises; without a record nothing passes.
    """
    tool = asked.event.tool
    risk = plane.known_risk(asked.caller, tool.name, tool.description) if tool else None
    if risk not in _LET_THROUGH or said.reason_code == "rate_limited":
        return said
    try:
        plane.pipeline.emergency_stop.check(asked.caller)
    except Refused:
        return said
    event_id = new_id("evt")
    claim = Claim(asked.sender.key.project_id, asked.sender.key.id, event_id, event_id)

    def drafts(trace_id: str) -> Sequence[Draft]:
        return [_draft(asked, said, trace_id, risk)]

    claimed = await plane.reports.write(Entry(claim, drafts))
    return replace(said, trace_id=claimed.trace_id, decision="PASSED", failed_open=True)


def _draft(asked: Asked, said: Told, trace_id: str, risk: Risk) -> Draft:
    caller, tool = asked.caller, asked.event.tool
    return Draft(
        kind="decision",
        id=trace_id,
        project_id=caller.project.id,
        fields={
            "decision": "ALLOW",
            "effect": "forward",
            "failed_open": True,
            "reason_code": said.reason_code,
            "risk": risk.value,
            "anchor": "urgent",
            "server": caller.server.id,
            "agent": caller.agent.id if caller.agent else None,
            "tool": bounded(tool.name) if tool is not None else None,
            "key": caller.key.id,
            **said_of(event_of(asked, risk)),
        },
        payloads={"event": asked.kept} if asked.kept else {},
        call_id=trace_id,
        retention_days=caller.project.retention_days,
    )
