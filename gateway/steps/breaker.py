"""Pinned → Steady: an agent that runs in circles is noticed, and asked about or paused.

Two things open the breaker of an agent, or of a key without one: the identical call more than n
times within a minute, and more than n refusals within a minute. Both limits are the project's and
off by default. What is counted is kept in memory: after a restart it is counted anew.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import structlog

from gateway.mcp.digests import call_digest
from gateway.refusals import Refused
from gateway.registry.breaker_trips import Trip
from gateway.values import Call, Caller, Enforcement, Pinned, Steady

SECONDS = 60.0
_REMEMBERED = 10_000
_COUNTED_CODES = frozenset({-32602, -31002, -31003, -31005})
"""Refusals that an agent brings about itself; waiting for a person or for a lifted stop is none."""

_log = structlog.get_logger(__name__)


class Breaker:
    """Refuses or asks at once; `trip` hands each opening on to whoever makes it durable."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._trips: deque[Trip] = deque()
        self._seen: dict[tuple[str, str], deque[float]] = {}
        self._open_until: dict[str, float] = {}

    def watch(self, pinned: Pinned) -> Steady:
        """Raises `Refused` while the agent's breaker is open and does not merely ask."""
        call = pinned.call
        project = call.caller.project
        if project.breaker_repeats is not None and not call.is_retry:
            self._count(call.caller, _identity(call), "repeats", project.breaker_repeats)
        if not self._open_until or not _binds(call.caller) or not self._is_open(call.caller):
            return Steady(pinned)
        if project.breaker_action == "ask":
            return Steady(replace(pinned, must_ask=True))
        raise Refused("breaker_open")

    def refused(self, call: Call, refused: Refused) -> None:
        """Count a refusal."""
        most = call.caller.project.breaker_refusals
        if most is not None and refused.code in _COUNTED_CODES:
            self._count(call.caller, "refused", "refusals", most)

    def trip(self) -> Trip | None:
        """The oldest opening that is not on the trail yet."""
        return self._trips.popleft() if self._trips else None

    def trip_again(self, trip: Trip) -> None:
        """It could not be written now."""
        self._trips.appendleft(trip)

    def close(self, *whos: str) -> None:
        """These begin anew: they are stopped by now, until a person lets them go on."""
        for who in whos:
            self._open_until.pop(who, None)
        self._seen = {seen: times for seen, times in self._seen.items() if seen[0] not in whos}

    def _is_open(self, caller: Caller) -> bool:
        now = self._now()
        return any(self._open_until.get(who, 0.0) > now for who in _whos(caller))

    def _count(
        self, caller: Caller, what: str, cause: Literal["repeats", "refusals"], most: int
    ) -> None:
        now = self._now()
        for who in _whos(caller):
            times = self._times((who, what), most)
            times.append(now)
            if len(times) > most and now - times[0] < SECONDS:
                self._open(caller, who, cause, most, now)
                return  # what the agent's breaker does is enough

    def _times(self, counted: tuple[str, str], most: int) -> deque[float]:
        times = self._seen.get(counted)
        if times is None or times.maxlen != most + 1:
            if len(self._seen) >= _REMEMBERED:
                self._forget()
            times = self._seen[counted] = deque(times or (), maxlen=most + 1)
        return times

    def _forget(self) -> None:
        over = self._now() - SECONDS
        kept = {counted: times for counted, times in self._seen.items() if times[-1] > over}
        if len(kept) >= _REMEMBERED:
            # More kinds of calls in a minute than are worth remembering: the oldest half goes.
            kept = dict(sorted(kept.items(), key=lambda item: item[1][-1])[len(kept) // 2 :])
        self._seen = kept

    def _open(
        self,
        caller: Caller,
        who: str,
        cause: Literal["repeats", "refusals"],
        limit: int,
        now: float,
    ) -> None:
        is_new = self._open_until.get(who, 0.0) <= now
        self._open_until[who] = now + SECONDS
        if not is_new:
            return
        agent = caller.agent
        key = caller.key
        trip = Trip(
            project_id=caller.project.id,
            agent_id=agent.id if agent is not None and who == agent.id else None,
            key_id=key.id,
            cause=cause,
            limit=limit,
            action=caller.project.breaker_action,
            enforced=_binds(caller),
        )
        _log.warning("the circuit breaker opened", who=who, cause=cause, limit=limit)
        self._trips.append(trip)


def _whos(caller: Caller) -> tuple[str, ...]:
    """Whose breakers a call counts on: its agent's and its key's."""
    return (caller.key.id,) if caller.agent is None else (caller.agent.id, caller.key.id)


def _binds(caller: Caller) -> bool:
    enforcement = caller.server.enforcement or caller.project.enforcement
    return enforcement is not Enforcement.MONITOR


def _identity(call: Call) -> str:
    named = f"{call.caller.server.id}\n{call_digest(call.params)}"
    return hashlib.sha256(named.encode()).hexdigest()
