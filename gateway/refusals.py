"""Every reason for which the gateway refuses a call.

One table. A code is what an MCP client sees as ``error.code``; it lies outside the range that
MCP and JSON-RPC reserve (-32768 to -32000). A reason is the word that the trace, the API and the
dashboard use; each reason belongs to one code::

    Refused
     ├─ -32602 arguments    invalid_arguments (JSON-RPC's own code: nothing of ours fits better)
     ├─ -32020 headers      header_mismatch (MCP's own code)
     ├─ -31001 stopped      emergency_stop, key_revoked, agent_paused, server_blocked,
     │                      server_pending
     ├─ -31002 tool         tool_changed, tool_gone, tool_pending, unknown_tool
     ├─ -31003 denied       policy_denied, too_large_to_decide
     ├─ -31004 approval     approval_required, approval_denied, approval_expired
     ├─ -31005 budget       budget_exceeded, amount_refused
     ├─ -31006 upstream     upstream_error, upstream_auth, caller_left
     ├─ -31007 unreachable  upstream_unreachable
     ├─ -31008 engine       policy_unavailable
     ├─ -31009 withheld     answer_too_large, answer_unreadable, answer_withheld,
     │                      question_denied
     ├─ -31010 fault        internal, stop_unreadable, not_forwarded, trace_unavailable
     └─ -31011 rate         rate_limited, breaker_open
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.frozen import frozen

Retryable = Literal["no", "yes", "later", "after_decision", "at_reset"]


@frozen
class Reason:
    """One row of the table: the code, whether a retry can help, and the sentence for the caller."""

    code: int
    retryable: Retryable
    message: str


REASONS: dict[str, Reason] = {
    "invalid_arguments": Reason(-32602, "no", "The arguments do not fit the tool's schema."),
    "header_mismatch": Reason(
        -32020, "no", "A header that repeats an argument does not say what the body says."
    ),
    "emergency_stop": Reason(-31001, "no", "Stopped by an operator's emergency stop."),
    "key_revoked": Reason(-31001, "no", "The key was revoked or expired while the call waited."),
    "agent_paused": Reason(-31001, "no", "This agent is paused or suspended."),
    "server_blocked": Reason(-31001, "no", "This server is blocked by an administrator."),
    "server_pending": Reason(-31001, "no", "This server waits for an administrator's approval."),
    "tool_changed": Reason(-31002, "no", "The tool's definition changed since it was accepted."),
    "tool_gone": Reason(-31002, "no", "The tool was withdrawn by its server; accept it anew."),
    "tool_pending": Reason(-31002, "no", "The tool is new and not yet accepted."),
    "unknown_tool": Reason(-31002, "no", "No accepted tool of this server has this name."),
    "policy_denied": Reason(-31003, "no", "Denied by policy."),
    "too_large_to_decide": Reason(-31003, "no", "The call is too large to be decided."),
    "approval_required": Reason(-31004, "after_decision", "A person must approve this call."),
    "approval_denied": Reason(-31004, "no", "An approver denied this call."),
    "approval_expired": Reason(
        -31004, "after_decision", "The approval expired before it was used; another is asked for."
    ),
    "budget_exceeded": Reason(-31005, "at_reset", "A budget is used up."),
    "amount_refused": Reason(-31005, "no", "The call names no amount that may be charged."),
    "upstream_error": Reason(-31006, "no", "The tool's server failed to answer properly."),
    "upstream_auth": Reason(-31006, "no", "The tool's server refused the gateway's credential."),
    "caller_left": Reason(-31006, "no", "The caller hung up; whether the call ran is not known."),
    "upstream_unreachable": Reason(-31007, "later", "The tool's server cannot be reached."),
    "policy_unavailable": Reason(-31008, "yes", "The policy engine cannot decide now."),
    "answer_too_large": Reason(-31009, "no", "The call was made; its answer is too large."),
    "answer_unreadable": Reason(-31009, "no", "The call was made; its answer cannot be checked."),
    "answer_withheld": Reason(-31009, "no", "The call was made; a policy withholds its answer."),
    "question_denied": Reason(
        -31009, "no", "The call was made; policy denies what its server asks the client for."
    ),
    "internal": Reason(-31010, "yes", "The gateway failed; nothing was sent."),
    "stop_unreadable": Reason(
        -31010, "yes", "Whether an operator stopped this cannot be read; nothing was sent."
    ),
    "not_forwarded": Reason(-31010, "yes", "The call was admitted too late and was not sent."),
    "trace_unavailable": Reason(-31010, "yes", "The trace cannot be written; nothing was sent."),
    "rate_limited": Reason(-31011, "later", "Too many calls with this key."),
    "breaker_open": Reason(
        -31011, "later", "Too many identical or refused calls; the breaker is open."
    ),
}


@dataclass(eq=False)
class Refused(Exception):
    """The one exception by which a call is refused before it leaves.

    ``reason`` is a key of `REASONS`; ``data`` is merged into ``error.data`` and must hold JSON
    values that the caller may see. ``detail`` goes to the erasable payload only.
    """

    reason: str
    data: dict[str, Any] = field(default_factory=dict)
    detail: str = ""
    leaf: bytes = b""
    """The leaf hash of its record, once it is on disk."""
    decided: object = None
    """The `gateway.values.Decision` it rests on, when the policy had been asked."""

    def __post_init__(self) -> None:
        Exception.__init__(self, self.reason)

    @property
    def code(self) -> int:
        return REASONS[self.reason].code

    @property
    def message(self) -> str:
        return REASONS[self.reason].message

    @property
    def retryable(self) -> bool:
        return REASONS[self.reason].retryable != "no"


@dataclass(eq=False)
class Unauthenticated(Exception):
    """The caller is nobody, or may not call this server; answered by HTTP status, not traced.

    ``challenge`` is the value of ``WWW-Authenticate`` for a 401 (RFC 6750, section 3).
    """

    status: int
    message: str
    challenge: str = ""
    retry_after: int = 0

    def __post_init__(self) -> None:
        Exception.__init__(self, self.message)
