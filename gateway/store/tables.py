"""The tables. Times are RFC 3339 text in UTC with microseconds, so that they sort as text."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    true,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _project() -> Column[str]:
    return Column("project_id", String, ForeignKey("projects.id"), nullable=False, index=True)


projects = Table(
    "projects",
    metadata,
    Column("id", String, primary_key=True),
    Column("slug", String, nullable=False, unique=True),
    Column("name", String, nullable=False),
    Column("default_action", String, nullable=False),
    Column("enforcement", String, nullable=False),
    Column("deny_style", String, nullable=False),
    Column("on_tool_change", String, nullable=False),
    Column("unknown_tools", String, nullable=False),
    Column("hide_denied_tools", Boolean, nullable=False, server_default=true()),
    Column("weakening", String),
    Column("key_approvers", Boolean, nullable=False),
    Column("approval_ttl_seconds", Integer, nullable=False),
    Column("record_inputs", String, nullable=False),
    Column("retention_days", Integer, nullable=False),
    Column("breaker_repeats", Integer),
    Column("breaker_refusals", Integer),
    Column("breaker_action", String, nullable=False, server_default="ask"),
    Column("created_at", String, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String, primary_key=True),
    _project(),
    Column("secret_sha256", LargeBinary, nullable=False, unique=True),
    Column("role", String, nullable=False),
    Column("name", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("agent_id", String, ForeignKey("agents.id")),
    Column("server_ids", JSON),
    Column("may_assert", JSON, nullable=False),
    Column("expires_at", String),
    Column("state", String, nullable=False),  # ACTIVE · REVOKED
    Column("created_by", String, nullable=False),
    Column("rotated_by", String),
    Column("created_at", String, nullable=False),
)

users = Table(
    "users",
    metadata,
    Column("id", String, primary_key=True),
    _project(),
    Column("name", String, nullable=False),  # as owners of keys and agents are named
    Column("folded_name", String, nullable=False),
    Column("role", String, nullable=False),  # admin · approver · auditor
    Column("password_hash", String, nullable=False),  # argon2id, in PHC's form
    Column("password_set_by", String, nullable=False),  # somebody else knows it until it is changed
    Column("failures", Integer, nullable=False),  # wrong passwords since the last right one
    Column("locked_until", String),
    Column("signed_in_at", String),
    Column("created_by", String, nullable=False),
    Column("created_at", String, nullable=False),
    Column("external_id", String, index=True, unique=True),  # who signs in elsewhere
    UniqueConstraint("project_id", "folded_name"),
)

user_sessions = Table(
    "user_sessions",
    metadata,
    Column("id", String, primary_key=True),
    Column("token_sha256", LargeBinary, nullable=False, unique=True),
    Column("user_id", String, ForeignKey("users.id"), nullable=False, index=True),
    Column("opened_at", String, nullable=False),
    Column("seen_at", String, nullable=False),
    Column("expires_at", String, nullable=False),  # however much it is used
)

agents = Table(
    "agents",
    metadata,
    Column("id", String, primary_key=True),
    _project(),
    Column("name", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("description", Text, nullable=False),
    Column("state", String, nullable=False),  # ACTIVE · PAUSED · SUSPENDED · REVOKED
    Column("created_at", String, nullable=False),
    UniqueConstraint("project_id", "name"),
)

servers = Table(
    "servers",
    metadata,
    Column("id", String, primary_key=True),
    _project(),
    Column("slug", String, nullable=False),
    Column("name", String, nullable=False),
    Column("description", Text, nullable=False),
    Column("server_url", String, nullable=False),
    Column("transport", String, nullable=False),
    Column("connector_type", String, nullable=False),
    Column("params", JSON, nullable=False),
    Column("template_version", String),  # that an administrator accepted
    Column("template_accepted", JSON),  # its policies and parameters then
    Column("status", String, nullable=False),  # PENDING_APPROVAL · ACTIVE · BLOCKED
    Column("enforcement", String),
    Column("is_proxied", Boolean, nullable=False),
    Column("allow_private_network", Boolean, nullable=False),
    Column("auth_type", String, nullable=False),
    Column("auth_sealed", LargeBinary),
    Column("tls_ca", Text),  # PEM
    Column("revision", Integer, nullable=False),
    Column("scanned_at", String),
    Column("created_at", String, nullable=False),
    UniqueConstraint("project_id", "slug"),
)

consents = Table(
    "consents",
    metadata,
    Column("server_id", String, ForeignKey("servers.id"), primary_key=True),
    _project(),
    Column("state", String, nullable=False),  # PENDING · GRANTED · LOST
    Column("asked_by", String, nullable=False),  # a key or a user
    Column("asked_until", String, nullable=False),
    Column("state_sha256", String, unique=True),  # of what the browser brings back, once
    Column("verifier_sealed", LargeBinary),  # PKCE's
    Column("granted_at", String),
    Column("expires_at", String),  # the access token
    Column("scope", Text),
    Column("tokens_sealed", LargeBinary),
)

tools = Table(
    "tools",
    metadata,
    Column("id", String, primary_key=True),
    _project(),
    Column("server_id", String, ForeignKey("servers.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("pin", String, nullable=False),  # ACCEPTED · PENDING · CHANGED · GONE · SUSPECT
    Column("accepted", Text),  # the definition, as canonical JSON
    Column("accepted_sha256", String),
    Column("current", Text, nullable=False),
    Column("current_sha256", String, nullable=False),
    Column("description_sha256", String, nullable=False),
    Column("risk_computed", String, nullable=False),
    Column("risk_reasons", JSON, nullable=False),
    Column("accepted_risk", String),  # risk_computed when it was accepted
    Column("risk_override", String),
    Column("cost", JSON),  # of a call: price, argument, decimal_string, cap
    Column("first_seen", String, nullable=False),
    Column("last_seen", String, nullable=False),
    UniqueConstraint("server_id", "name"),
)

rules = Table(
    "rules",
    metadata,
    Column("id", String, primary_key=True),
    _project(),
    Column("action", String, nullable=False),
    Column("agent_id", String),
    Column("server_id", String),
    Column("mcp_tool_id", String),
    Column("tool_pattern", String),
    Column("min_risk", String),
    Column("expires_at", String),
    Column("reason", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("created_at", String, nullable=False),
)

overrides = Table(
    "overrides",
    metadata,
    Column("id", String, primary_key=True),
    _project(),
    Column("server_id", String, ForeignKey("servers.id"), nullable=False),
    Column("policy_id", String, nullable=False),
    Column("action", String, nullable=False),
    Column("agent_id", String),
    Column("reason", Text, nullable=False),
    Column("expires_at", String, nullable=False),
    Column("created_at", String, nullable=False),
)

proposals = Table(
    "proposals",
    metadata,
    # Changes that loosen and wait for a second person.
    Column("id", String, primary_key=True),
    _project(),
    Column("kind", String, nullable=False),
    Column("subject", String),
    Column("body", JSON, nullable=False),
    Column("before", JSON),
    Column("state", String, nullable=False),  # OPEN · CONFIRMED · REJECTED
    Column("proposed_by", String, nullable=False),
    Column("proposed_key", String, nullable=False),
    Column("created_at", String, nullable=False),
    Column("expires_at", String, nullable=False),
    Column("decided_by", String),
    Column("decided_at", String),
    Column("decision_reason", Text),
)

budgets = Table(
    "budgets",
    metadata,
    Column("id", String, primary_key=True),
    _project(),
    Column("scope", String, nullable=False),
    Column("target_id", String),
    Column("dimension", String, nullable=False),
    Column("window", String, nullable=False),
    Column("limit", BigInteger, nullable=False),
    Column("on_exceed", String, nullable=False),
    Column("warn_at", Integer, nullable=False),  # per cent
    Column("created_at", String, nullable=False),
)

budget_windows = Table(
    "budget_windows",
    metadata,
    Column("budget_id", String, primary_key=True),
    Column("window_start", String, primary_key=True),
    Column("used", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("alerted", SmallInteger, nullable=False, server_default="0"),  # 1 near · 2 at its limit
    sqlite_with_rowid=False,
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", String, primary_key=True),
    _project(),
    Column("key_id", String, nullable=False),
    Column("agent_id", String),
    Column("server_id", String, nullable=False),
    Column("tool_name", String, nullable=False),
    Column("definition_sha256", String, nullable=False),
    Column("server_revision", Integer, nullable=False),
    Column("digest", String, nullable=False),  # of the exact call
    Column("risk", String, nullable=False),
    Column("policy_ids", JSON, nullable=False),
    Column("reason", Text, nullable=False),
    Column("call_sealed", LargeBinary, nullable=False),  # params, for the approver's eyes
    Column("trace_id", String, nullable=False),  # of the call that asked
    Column("state", String, nullable=False),  # PENDING · APPROVED · DENIED · WITHDRAWN
    Column("approvers", JSON),  # who alone may approve, by name; null: every approver
    Column("quorum", Integer, nullable=False, server_default="1"),  # people who must approve
    Column("reason_required", Boolean, nullable=False, server_default=false()),
    Column("askers", JSON, nullable=False, server_default="[]"),  # who had a hand in the key
    Column("votes", JSON, nullable=False, server_default="[]"),  # {person, by, at, reason}
    Column("spent_by", String),  # the call that used the grant
    Column("rounds", Integer, nullable=False, server_default="0"),  # it went on for; -1: no more
    Column("created_at", String, nullable=False),
    Column("expires_at", String, nullable=False),
    Column("decided_by", String),
    Column("decided_at", String),
    Column("decision_reason", Text),
    Index("ix_approvals_digest", "digest"),
    Index("ix_approvals_trace_id", "trace_id"),
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", String, primary_key=True),
    _project(),
    Column("name", String, nullable=False),
    Column("kind", String, nullable=False),  # webhook · slack · teams · email
    Column("target", String, nullable=False),  # what lists show of it
    Column("target_sealed", LargeBinary, nullable=False),  # URL or address, signing secret
    Column("allow_private_network", Boolean, nullable=False),
    Column("events", JSON(none_as_null=True)),  # null: all of them
    Column("created_at", String, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", String, primary_key=True),
    _project(),
    Column("notification_id", String, ForeignKey("notifications.id"), nullable=False, index=True),
    Column("body", Text, nullable=False),
    Column("state", String, nullable=False),  # PENDING · SENT · FAILED
    Column("attempts", Integer, nullable=False),
    Column("due_at", String, nullable=False),
    Column("created_at", String, nullable=False),
    Column("sent_at", String),
    Column("error", Text),
    Index("ix_outbox_state_due_at", "state", "due_at"),
)

stops = Table(
    "stops",
    metadata,
    Column("id", String, primary_key=True),
    _project(),
    Column("scope", String, nullable=False),  # all · server · agent
    Column("target_id", String),
    Column("reason", Text, nullable=False),
    Column("raised_by", String, nullable=False),
    Column("stopped_at", String, nullable=False),
    Column("lifted_at", String),
    Column("lifted_by", String),
    Column("lift_reason", Text),
)

logs = Table(
    "logs",
    metadata,
    Column("log", SmallInteger, primary_key=True),
    Column("origin", String, nullable=False, unique=True),
    Column("created_at", String, nullable=False),
    # A log that is damaged, or behind what was signed of it, is sealed; the next one goes on.
    Column("sealed_at", String),
    Column("sealed_reason", Text),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("log", SmallInteger, primary_key=True),
    Column("size", BigInteger, primary_key=True),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),  # signed (C2SP tlog-checkpoint)
    Column("ts", String, nullable=False),
    Column("kept", Boolean, nullable=False),  # anchored; others are thinned to one a minute
    sqlite_with_rowid=False,
)

trace = Table(
    "trace",
    metadata,
    Column("log", SmallInteger, primary_key=True),
    Column("idx", BigInteger, primary_key=True),
    # The columns below are an index into body, nothing more; body is what was hashed.
    Column("id", String, nullable=False),
    Column("call_id", String),
    Column("project_id", String, nullable=False),
    Column("pseq", BigInteger, nullable=False),
    Column("ts", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("decision", String),
    Column("reason_code", String),
    Column("risk", String),
    Column("agent_id", String),
    Column("server_id", String),
    Column("tool", String),
    Column("body", LargeBinary, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Index("ix_trace_project_id_ts", "project_id", "ts"),
    Index("ix_trace_call_id", "call_id"),
    UniqueConstraint("log", "project_id", "pseq"),
)

tree_tiles = Table(
    "tree_tiles",
    metadata,
    Column("log", SmallInteger, primary_key=True),
    Column("level", SmallInteger, primary_key=True),  # 1: 256 leaves, 2: 65,536, …
    Column("n", BigInteger, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

payloads = Table(
    "payloads",
    metadata,
    Column("log", SmallInteger, primary_key=True),
    Column("idx", BigInteger, primary_key=True),
    Column("field", String, primary_key=True),
    Column("payload_key", String, nullable=False),  # <project>/<yyyy-mm>
    Column("sealed", LargeBinary, nullable=False),  # AES-GCM over commitment nonce + value
    Column("expires_at", String, nullable=False, index=True),
)

payload_keys = Table(
    "payload_keys",
    metadata,
    Column("id", String, primary_key=True),  # <project>/<yyyy-mm>
    Column("wrapped", LargeBinary, nullable=False),
    Column("created_at", String, nullable=False),
)

open_calls = Table(
    "open_calls",
    metadata,
    # Admitted and not settled: what a restart has to settle as unknown.
    Column("call_id", String, primary_key=True),
    Column("project_id", String, nullable=False),
    Column("agent_id", String),
    Column("server_id", String, nullable=False),
    Column("tool", String, nullable=False),
    Column("risk", String, nullable=False),
    Column("holds", JSON, nullable=False),  # [[budget_id, window_start, amount], …]
    Column("approval_id", String),
    Column("admitted_at", String, nullable=False),
    sqlite_with_rowid=False,
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key_id", String, primary_key=True),
    Column("idempotency_key", String, primary_key=True),
    Column("request_sha256", String, nullable=False),
    Column("status", Integer, nullable=False),
    Column("response_sealed", LargeBinary, nullable=False),
    Column("created_at", String, nullable=False),
)

extensions = Table(
    "extensions",
    metadata,
    Column("id", String, ForeignKey("keys.id"), primary_key=True),  # also that of its key
    _project(),
    Column("name", String, nullable=False),
    Column("type", String, nullable=False),  # salesforce · copilot · servicenow · webhook · custom
    Column("scopes", JSON, nullable=False),
    Column("server_id", String, nullable=False),
    Column("agents", JSON, nullable=False),  # ids
    Column("on_failure", String, nullable=False),  # block · by_risk
    Column("events_per_minute", Integer, nullable=False),
    Column("require_signature", Boolean, nullable=False),
    Column("keep_chat_history", Boolean, nullable=False),
    Column("entra", JSON),
    Column("signing_sealed", LargeBinary, nullable=False),
    Column("created_at", String, nullable=False),
)

extension_agents = Table(
    "extension_agents",
    metadata,
    # A platform's own name of an agent, and the agent that stands for it here.
    Column("extension_id", String, primary_key=True),
    Column("external_id", String, primary_key=True),
    _project(),
    Column("agent_id", String, nullable=False),
)

extension_activity = Table(
    "extension_activity",
    metadata,
    Column("extension_id", String, primary_key=True),
    Column("last_seen", String, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("failed_open", BigInteger, nullable=False),
    Column("last_error", String),
)

events = Table(
    "events",
    metadata,
    # Each event that a sender named, so that sent again it is answered as before.
    Column("sender", String, primary_key=True),
    Column("event_id", String, primary_key=True),
    Column("project_id", String, nullable=False),
    Column("digest", String),  # of the event; null while only its outcome has come
    Column("basis", String),  # of what decided it
    Column("trace_id", String, nullable=False),
    Column("created_at", String, nullable=False),
    Index("ix_events_trace_id", "trace_id"),
    sqlite_with_rowid=False,
)
