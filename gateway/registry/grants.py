"""Approvals as admission sees them: spend one, give it back, or ask for one. Inside a transaction.

A grant is spent by a single conditional statement, so of two calls that race for it one passes.
"""

from collections.abc import Iterable, Mapping, Sequence

import orjson
from sqlalchemy import Connection, func, insert, select, update

from gateway.clock import after
from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.keyring import Keyring, encrypt
from gateway.registry import outbox
from gateway.rounds import Continuation
from gateway.store.database import only_one
from gateway.store.tables import agents, approvals, keys
from gateway.trace.record import bounded
from gateway.values import Approved, Caller, CallId, Decision, Json

MAX_PENDING = 20
"""Approvals that one agent may have waiting: more would bury the one that matters."""


@frozen
class Standing:
    """An approval for this exact call that was decided or waits, and has not expired."""

    id: str
    state: str
    expires_at: str


@frozen
class Terms:
    """How an approval is given, by the obligations of the policies that ask for it."""

    approvers: tuple[str, ...] | None
    """The people who alone may approve; None: every approver."""
    quorum: int
    """How many people must approve."""
    reason_required: bool

    @classmethod
    def of(cls, decision: Decision) -> "Terms":
        said = {str(one.get("type")): one for one in decision.verdict.obligations}
        approvers = said.get("approvers")
        return cls(
            approvers=None if approvers is None else tuple(approvers["names"]),
            quorum=int(said.get("quorum", {}).get("count", 1)),
            reason_required="reason" in said,
        )


class TooManyPending(Exception):
    """The agent has `MAX_PENDING` approvals waiting already."""


def dump_lossless(value: Mapping[str, Json]) -> bytes:
    """JSON with numbers as they were sent."""
    return orjson.dumps(value, default=lambda number: orjson.Fragment(bytes(number)))


class Grants:
    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def spend(self, connection: Connection, approved: Approved, now: str) -> str | None:
        """Spend a grant for this call and return its id; None when there is none."""
        # Of calls that ask for the same on two gateways, the later sees what the earlier made.
        only_one(connection, approved.call.caller.project.id)
        oldest = (
            select(approvals.c.id)
            .where(
                approvals.c.digest == approved.digest,
                approvals.c.state == "APPROVED",
                approvals.c.expires_at > now,
                approvals.c.spent_by.is_(None),
            )
            .order_by(approvals.c.created_at, approvals.c.id)
            .limit(1)
            .scalar_subquery()
        )
        spent: str | None = connection.execute(
            update(approvals)
            .where(approvals.c.id == oldest, approvals.c.spent_by.is_(None))
            .values(spent_by=approved.call.id)
            .returning(approvals.c.id)
        ).scalar_one_or_none()
        return spent

    def go_on(self, connection: Connection, approved: Approved, now: str) -> str | None:
        """Let a call go on under the grant that it was first sent with, one round a call.

        Return the grant's id; None when it is not this call's, was withdrawn or ran out.
        """
        continues = approved.call.continues
        if continues is None:
            return None
        gone_on: str | None = connection.execute(
            update(approvals)
            .where(
                approvals.c.id == continues.approval_id,
                approvals.c.digest == approved.digest,
                approvals.c.state == "APPROVED",
                approvals.c.spent_by.is_not(None),
                approvals.c.rounds == continues.round,
                approvals.c.expires_at > now,
            )
            .values(rounds=continues.round + 1)
            .returning(approvals.c.id)
        ).scalar_one_or_none()
        return gone_on

    def go_back(self, connection: Connection, grants: Iterable[Continuation | None]) -> None:
        """The calls that went on surely did not leave: their rounds may be used again."""
        for grant in grants:
            if grant is not None and grant.round > 0:
                connection.execute(
                    update(approvals)
                    .where(approvals.c.id == grant.approval_id, approvals.c.rounds == grant.round)
                    .values(rounds=grant.round - 1)
                )

    def give_back(self, connection: Connection, calls: Sequence[CallId]) -> None:
        """The calls surely did not leave: their grants may be spent again, until they expire."""
        connection.execute(
            update(approvals).where(approvals.c.spent_by.in_(calls)).values(spent_by=None)
        )

    def standing(self, connection: Connection, approved: Approved, now: str) -> Standing | None:
        """The newest unexpired approval of this exact call that is pending or was denied."""
        row = connection.execute(
            select(approvals.c.id, approvals.c.state, approvals.c.expires_at)
            .where(
                approvals.c.digest == approved.digest,
                approvals.c.state.in_(("PENDING", "DENIED")),
                approvals.c.expires_at > now,
            )
            .order_by(approvals.c.created_at.desc(), approvals.c.id.desc())
            .limit(1)
        ).first()
        return None if row is None else Standing(row.id, row.state, row.expires_at)

    def expired(self, connection: Connection, approved: Approved, now: str) -> bool:
        """Whether the newest approval of this exact call ran out before it was used."""
        row = connection.execute(
            select(approvals.c.state, approvals.c.spent_by, approvals.c.expires_at)
            .where(approvals.c.digest == approved.digest)
            .order_by(approvals.c.created_at.desc(), approvals.c.id.desc())
            .limit(1)
        ).first()
        return (
            row is not None
            and row.state in ("PENDING", "APPROVED")
            and row.spent_by is None
            and row.expires_at <= now
        )

    def ask(self, connection: Connection, approved: Approved, now: str) -> Standing:
        """Make the approval that a person decides. Raises `TooManyPending`."""
        call = approved.call
        caller = call.caller
        agent_id = caller.agent.id if caller.agent else None
        asks = approvals.c.agent_id == agent_id if agent_id else approvals.c.key_id == caller.key.id
        waiting = connection.execute(
            select(func.count()).where(
                approvals.c.project_id == caller.project.id,
                approvals.c.state == "PENDING",
                approvals.c.expires_at > now,
                asks,
            )
        ).scalar_one()
        if waiting >= MAX_PENDING:
            raise TooManyPending
        approval_id = new_id("apr")
        expires_at = after(now, caller.project.approval_ttl_seconds)
        decision = approved.decision
        tool = decision.pinned.tool
        terms = Terms.of(decision)
        sealed = encrypt(self._keyring.data, _shown(decision), approval_id.encode())
        connection.execute(
            insert(approvals).values(
                id=approval_id,
                project_id=caller.project.id,
                key_id=caller.key.id,
                agent_id=agent_id,
                server_id=caller.server.id,
                tool_name=call.tool_name,
                definition_sha256=tool.definition_sha256 if tool else "",
                server_revision=caller.server.revision,
                digest=approved.digest,
                risk=decision.risk.value,
                policy_ids=list(decision.verdict.policy_ids),
                reason="",
                call_sealed=sealed,
                trace_id=call.id,
                state="PENDING",
                approvers=terms.approvers,
                quorum=terms.quorum,
                reason_required=terms.reason_required,
                askers=_askers(connection, caller),
                created_at=now,
                expires_at=expires_at,
            )
        )
        facts = {
            "agent": agent_id,
            "key": caller.key.id,
            "server": caller.server.id,
            "tool": bounded(call.tool_name),
            "risk": decision.risk.value,
            "expires_at": expires_at,
            "trace_id": call.id,
        }
        outbox.put(connection, caller.project.id, now, "approval.created", approval_id, facts)
        return Standing(approval_id, "PENDING", expires_at)


def _shown(decision: Decision) -> bytes:
    """Params and, a line below, why policy asks: it may quote them, and is erased with them."""
    reason = orjson.dumps("; ".join(decision.verdict.reasons))
    return dump_lossless(decision.call.params) + b"\n" + reason


def _askers(connection: Connection, caller: Caller) -> list[str]:
    """Everybody who had a hand in key or agent when they asked: none of them approves, not even
    once both have other owners."""
    k, a = keys.c, agents.c
    hands = connection.execute(
        select(k.owner, k.created_by, k.rotated_by).where(k.id == caller.key.id)
    ).all()
    named = {caller.key.agent_id, caller.agent.id if caller.agent else None} - {None}
    owners = connection.execute(select(a.owner).where(a.id.in_(named))).scalars()
    return sorted({person for row in hands for person in row if person} | set(owners))
