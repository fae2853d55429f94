"""What a call spends, waits for and is stopped by, and who is told of it."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    Text,
    false,
)

from gateway.store.tables.shared import metadata, project

budgets = Table(
    "budgets",
    metadata,
    Column("id", String, primary_key=True),
    project(),
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
    project(),
    Column("key_id", String, nullable=False),
    Column("agent_id", String),
    Column("server_id", String, nullable=False),
    Column("tool_name", String, nullable=False),
    Column("definition_sha256", String, nullable=False),
    Column("server_revision", Integer, nullable=False),
    Column("digest", String, nullable=False),  # of the exact call
    Column("risk", String, nullable=False),
    Column("policy_ids", JSON, nullable=False),
    Column("reason", Text, nullable=False),  # empty since it is sealed with the call
    Column("call_sealed", LargeBinary, nullable=False),  # params and reason, for approvers
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

tasks = Table(
    "tasks",
    metadata,
    # Calls that wait for a person and are carried out by the gateway itself.
    Column("id", String, primary_key=True),
    project(),
    Column("key_id", String, nullable=False),
    Column("server_id", String, nullable=False),
    Column("approval_id", String, nullable=False, index=True),
    Column("trace_id", String, nullable=False),  # of the call that asked
    Column("state", String, nullable=False),  # see gateway.registry.tasks
    Column("round", Integer, nullable=False),  # of questions that its tool asked
    Column("request_sealed", LargeBinary, nullable=False),
    Column("result_sealed", LargeBinary),  # result or error, or what the tool asks
    Column("told", Text, nullable=False),  # why it is where it is, for the client
    Column("call_id", String),  # under which it is carried out
    Column("lease_owner", String),
    Column("lease_until", String),
    Column("created_at", String, nullable=False),
    Column("updated_at", String, nullable=False),
    Column("expires_at", String, nullable=False),
    Index("ix_tasks_state_expires_at", "state", "expires_at"),
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", String, primary_key=True),
    project(),
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
    project(),
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
    project(),
    Column("scope", String, nullable=False),  # all · server · agent
    Column("target_id", String),
    Column("reason", Text, nullable=False),
    Column("raised_by", String, nullable=False),
    Column("stopped_at", String, nullable=False),
    Column("lifted_at", String),
    Column("lifted_by", String),
    Column("lift_reason", Text),
)
