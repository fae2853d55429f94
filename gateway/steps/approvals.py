"""Affordable → Approved: whether the call needs a grant, and the digest that a grant must bear.

A grant is for exactly this call: its digest covers who asks, the server with its configuration's
revision, the tool's definition, the policies that asked and on which terms, and the whole of
`params`. Whether there is such a grant is asked where it is spent, inside `gateway.admission`.
"""

import hashlib

import orjson

from gateway.mcp.continuations import bound
from gateway.mcp.digests import call_digest
from gateway.registry.grants import Terms
from gateway.values import Affordable, Approved


class Approvals:
    def find(self, affordable: Affordable) -> Approved:
        decision = affordable.decision
        call = decision.call
        may_ask = any(budget.on_exceed == "APPROVAL" for budget in affordable.budgets)
        if not decision.asks_approval and not may_ask:
            return Approved(affordable, needs_grant=False, digest="")
        caller = call.caller
        tool = decision.pinned.tool
        terms = Terms.of(decision)
        covered = [
            caller.project.id,
            caller.agent.id if caller.agent else caller.key.id,
            caller.asserted,
            caller.server.id,
            caller.server.revision,
            call.tool_name,
            tool.definition_sha256 if tool else "",
            sorted(decision.verdict.policy_ids) if decision.asks_approval else [],
            # A grant given on milder terms is none: who may approve, and how many must.
            [terms.approvers, terms.quorum, terms.reason_required],
            call_digest(bound(call.params, call.continues)),
        ]
        digest = hashlib.sha256(orjson.dumps(covered)).hexdigest()
        return Approved(affordable, needs_grant=decision.asks_approval, digest=digest)
