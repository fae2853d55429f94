"""What flows through the gateway: frozen values, each step's the next step's argument.

First what is configured; then one tool call on its way from bytes to an answer, in the order of
`gateway.pipeline`, where each value holds the one before it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any, Literal, NewType

from gateway.event import Event
from gateway.flows import ByteStream, EventStream
from gateway.frozen import frozen
from gateway.oauth import OAuthClient
from gateway.rounds import Continuation

ProjectId = NewType("ProjectId", str)
AgentId = NewType("AgentId", str)
ServerId = NewType("ServerId", str)
ToolId = NewType("ToolId", str)
KeyId = NewType("KeyId", str)
ApprovalId = NewType("ApprovalId", str)
BudgetId = NewType("BudgetId", str)
StopId = NewType("StopId", str)
CallId = NewType("CallId", str)
"""A call's id is also its trace id, `trc_…`."""

Json = Any  # as the strict parser made it: dict, list, str, int, `jiter.LosslessFloat`, …

ArgumentFault = Callable[[Mapping[str, Json]], str | None]
"""What is wrong with the arguments of a call, or None."""
HeaderFault = Callable[[Mapping[str, Json], Iterable[tuple[bytes, bytes]]], str | None]
"""How a call's headers disagree with its arguments, or None."""


class Action(StrEnum):
    """What a policy may say of a call, from the mildest to the strictest."""

    ALLOW = "ALLOW"
    LOG_ONLY = "LOG_ONLY"
    REQUIRE_APPROVAL = "REQUIRE_APPROVAL"
    DENY = "DENY"


class Risk(StrEnum):
    """How much harm a tool can do, from the least to the most."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"


class Role(StrEnum):
    """What a key, or a person, may do; the table is in `gateway.api.routes`."""

    PROJECT = "project"
    ADMIN = "admin"
    APPROVER = "approver"
    AUDITOR = "auditor"
    EXTENSION = "extension"


class Enforcement(StrEnum):
    """`monitor` records what would have happened; stops, pins and the parser bind all the same."""

    ENFORCE = "enforce"
    MONITOR = "monitor"


class Era(StrEnum):
    """MCP's two families of revisions: with a handshake (to 2025-11-25), or without."""

    LEGACY = "legacy"
    MODERN = "modern"


# --- what is configured ---------------------------------------------------------------------


@frozen
class Project:
    """A project and its settings; `slug` is immutable because policies are routed by it."""

    id: ProjectId
    slug: str
    name: str
    default_action: Action
    enforcement: Enforcement
    deny_style: Literal["error", "result"]
    on_tool_change: Literal["block", "alert"]
    unknown_tools: Literal["deny", "ask", "allow"]
    hide_denied_tools: bool
    """Lists of tools leave out what the caller may surely not call."""
    weakening: Literal["allowed", "second_person", "forbidden"] | None
    key_approvers: bool
    approval_ttl_seconds: int
    record_inputs: Literal["all", "log_only", "none"]
    retention_days: int
    breaker_repeats: int | None = None
    """Identical calls of an agent or key in a minute, beyond which its circuit breaker opens."""
    breaker_refusals: int | None = None
    """Refusals in a minute, likewise."""
    breaker_action: Literal["ask", "pause", "suspend"] = "ask"


@frozen
class Key:
    """An API key as stored: its secret is known only as SHA-256 and only to the registry."""

    id: KeyId
    project_id: ProjectId
    role: Role
    name: str
    owner: str
    agent_id: AgentId | None
    server_ids: frozenset[ServerId] | None
    """None: every server of the project."""
    may_assert: frozenset[str]
    agent_ids: frozenset[AgentId]
    """The agents it is bound to or may name: stopping any of them refuses this key."""
    expires_at: str | None
    """RFC 3339, UTC."""


@frozen
class Agent:
    id: AgentId
    project_id: ProjectId
    name: str
    owner: str
    state: Literal["ACTIVE", "PAUSED", "SUSPENDED", "REVOKED"]


@frozen
class Server:
    """An MCP server behind the gateway. `revision` counts changes of URL, credential, transport."""

    id: ServerId
    project_id: ProjectId
    slug: str
    name: str
    url: str
    transport: Literal["streamable_http", "sse", "stdio"]
    template: str | None
    """The connector template (`salesforce`, …), None for a custom server."""
    params: Mapping[str, Json]
    status: Literal["PENDING_APPROVAL", "ACTIVE", "BLOCKED"]
    enforcement: Enforcement | None
    """None: the project's."""
    allow_private_network: bool
    auth_headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    """The upstream's credential, opened; never logged, never part of an input."""
    revision: int
    oauth: OAuthClient | None = None
    """Where its credential is a token that the gateway gets and renews."""
    tls_ca: str | None = None
    """PEM; None: what the system trusts."""


@frozen
class Cost:
    """What one call of a tool costs, in millionths of the project's unit."""

    price: int
    """At least this, whatever the call says."""
    argument: str | None
    """The argument that holds an amount; a call without a proper one is refused."""
    decimal_string: bool
    """The amount is sent as text (``"12.50"``), not as a number."""
    cap: int | None
    """The most that one call may name."""


@frozen
class Tool:
    """One tool as an administrator accepted it, and whether it still is that."""

    id: ToolId
    server_id: ServerId
    name: str
    pin: Literal["ACCEPTED", "PENDING", "CHANGED", "GONE", "SUSPECT"]
    definition_sha256: str
    """Hex, of the accepted definition's canonical form; of the current one while PENDING."""
    description_sha256: str
    risk: Risk
    risk_computed: Risk
    annotations: Mapping[str, Json]
    argument_fault: ArgumentFault
    """Compiled from the accepted inputSchema: what is wrong with the arguments, or None."""
    header_fault: HeaderFault | None = None
    """Likewise: how the headers that repeat arguments disagree with them. None: it names none."""
    output_schema: Json = None
    """The accepted outputSchema, where it has one."""
    cost: Cost | None = None


@frozen
class Rule:
    """A rule made in the dashboard or by API: live at a click, carried in the input."""

    id: str
    action: Action
    agent_id: AgentId | None
    server_id: ServerId | None
    tool_id: ToolId | None
    tool_pattern: str | None
    """A case-sensitive glob on the tool's name."""
    min_risk: Risk | None
    expires_at: str | None
    reason: str


@frozen
class Override:
    """A reasoned, expiring exception on one server to one template policy."""

    id: str
    server_id: ServerId
    policy_id: str
    action: Action
    agent_id: AgentId | None
    reason: str
    expires_at: str


WINDOW_PREFIX = {"minute": 16, "hour": 13, "day": 10, "month": 7}


@frozen
class Budget:
    id: BudgetId
    project_id: ProjectId
    scope: Literal["project", "agent", "server", "tool"]
    target_id: str | None
    dimension: Literal["requests", "cost"]
    window: Literal["minute", "hour", "day", "month"]
    limit: int
    """Calls, or millionths of the project's unit."""
    on_exceed: Literal["BLOCK", "WARN", "APPROVAL"]
    warn_at: int = 80
    """Per cent of the limit."""

    def draw(self, cost: int) -> int:
        """What a call of this cost (in millionths) draws on it."""
        return cost if self.dimension == "cost" else 1

    def window_at(self, now: str) -> str:
        """The window that holds the time, as its RFC 3339 prefix: ``2026-01-31T12`` is an hour."""
        return now[: WINDOW_PREFIX[self.window]]


@frozen
class Stop:
    """An emergency stop in force."""

    id: StopId
    project_id: ProjectId | None
    """None: every project (the stop file)."""
    scope: Literal["all", "server", "agent"]
    target_id: str | None
    reason: str


# --- one tool call ----------------------------------------------------------------------------


@frozen
class Request:
    """What came in at the door. Nothing in it is believed yet."""

    method: str
    server_id: str
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case, as ASGI gives them."""
    body: bytes
    client_ip: str
    gone: Callable[[], bool]
    """True once the caller has hung up; costs no I/O."""
    shows_pages: bool = False
    """The session's client declared, when it began, that it shows a person pages (legacy era)."""


@frozen
class Caller:
    """Who calls, and which server: from the key, never from the text of the call."""

    project: Project
    key: Key
    agent: Agent | None
    asserted: bool
    """The agent was named by the caller (`X-Agent-Id`), within the key's `may_assert`."""
    server: Server
    control_plane: bool = False
    """Asks by the Extension API, which a server that waits for approval does not close."""


@frozen
class Call:
    """One `tools/call`, parsed once and strictly. `request.body` is what will be sent."""

    id: CallId
    caller: Caller
    request: Request
    source: Literal["mcp", "decide", "extension", "sdk", "authzen"]
    era: Era
    rpc_id: str | int
    tool_name: str
    arguments: Mapping[str, Json]
    meta: Mapping[str, Json]
    """`params._meta` without the reserved keys."""
    task: Json | None
    input_responses: Json | None
    is_retry: bool
    """True only when a `requestState` that this gateway sealed was opened."""
    params: Mapping[str, Json]
    """All of `params`: what an approval's digest covers."""
    session: str | None
    """`Mcp-Session-Id`, or None."""
    event: Event | None = None
    """What the Extension API was told of it; None at the proxy."""
    continues: Continuation | None = None
    sent: Request | None = None
    """As the client sent it, with the names that it was given; `request` has the upstream's."""
    of_task: str | None = None
    """The gateway's own task that is being carried out."""


@frozen
class Cleared:
    """No stop covers the call, its agent may act and its server is active."""

    call: Call
    epoch: int
    """`Directory.epoch` at that moment."""


@frozen
class Pinned:
    """The tool is the one that an administrator accepted, or the project admits unknown ones."""

    cleared: Cleared
    tool: Tool | None
    must_ask: bool
    """An unknown tool under `unknown_tools: ask`: at least REQUIRE_APPROVAL."""

    @property
    def call(self) -> Call:
        return self.cleared.call


Steady = NewType("Steady", Pinned)
"""The agent does not run in circles, or must ask because it does."""


@frozen
class Verdict:
    """What OPA answered to `data.gateway.decision`, checked."""

    action: Action
    policy_ids: tuple[str, ...]
    reasons: tuple[str, ...]
    obligations: tuple[Mapping[str, Json], ...]
    bundle_digest: str
    """`sha256:<hex>` of the bundle that decided."""


@frozen
class Decision:
    """The policy's answer. `action` is what binds; in monitor mode `would` is what it said."""

    pinned: Pinned
    verdict: Verdict
    enforced: bool
    risk: Risk
    policy_input: bytes
    """The exact bytes OPA was asked with (`{"input": …}`): kept encrypted, replayed as they are."""

    @property
    def call(self) -> Call:
        return self.pinned.cleared.call

    @property
    def asks_approval(self) -> bool:
        asks = self.pinned.must_ask or self.verdict.action is Action.REQUIRE_APPROVAL
        return self.enforced and asks


@frozen
class Allowed:
    """The policy does not deny the call, or only watches."""

    decision: Decision

    @property
    def call(self) -> Call:
        return self.decision.pinned.cleared.call


@frozen
class Affordable:
    """No budget is surely over. Which budgets apply is decided here; holding them is not."""

    decision: Decision
    budgets: tuple[Budget, ...]
    cost: int = 0
    """Of the call, in millionths."""

    @property
    def call(self) -> Call:
        return self.decision.pinned.cleared.call


@frozen
class Approved:
    """Knows which grant the call needs, if any; `admit` spends it, or asks for it."""

    affordable: Affordable
    needs_grant: bool
    digest: str
    """Hex SHA-256 of the exact call and all that a grant is bound to."""

    @property
    def call(self) -> Call:
        return self.affordable.decision.pinned.cleared.call

    @property
    def decision(self) -> Decision:
        return self.affordable.decision


@frozen
class Hold:
    """What a budget keeps for a call until it is settled. `window` as `Budget.window_at`."""

    budget_id: BudgetId
    window: str
    amount: int


@frozen
class Permit:
    """The right to send one call, once, soon. Only `gateway.admission` makes one."""

    approved: Approved
    leaf: bytes
    """The decision record's leaf hash (RFC 6962, section 2.1)."""
    deadline: float
    """`time.monotonic()` after which it may not be sent."""
    epoch: int
    """`Directory.epoch` when it was admitted: while that stands, nothing was withdrawn."""
    holds: tuple["Hold", ...]
    warnings: tuple[str, ...] = ()
    """Budgets that are over and only warn."""
    grant: Continuation | None = None

    @property
    def call(self) -> Call:
        return self.approved.call


class Fate(StrEnum):
    """What is known of a call after its Permit."""

    ANSWERED = "answered"
    HANDED_OVER = "handed_over"
    """Who asked was told that it may; what comes of it is theirs to report."""
    NOT_FORWARDED = "not_forwarded"
    """No byte of it left."""
    UNKNOWN = "unknown"
    """It was sent, wholly or in part, and nobody knows whether it ran."""


@frozen
class Forwarded:
    """What the upstream answered: a head, and a body that is whole or still streaming.

    With `reason` there is neither, and it says what the caller is told; `status` is then what the
    upstream answered, if it did.
    """

    fate: Fate
    status: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes | None = None
    stream: EventStream | None = None
    reason: str = ""
    """A key of `gateway.refusals.REASONS` when there is no answer to relay."""


@frozen
class Answer:
    """What goes back to the caller."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes = b""
    stream: ByteStream | None = None
