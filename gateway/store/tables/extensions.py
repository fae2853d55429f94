"""What speaks for agents that are not proxied."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
)

from gateway.store.tables.shared import metadata, project

extensions = Table(
    "extensions",
    metadata,
    Column("id", String, ForeignKey("keys.id"), primary_key=True),  # also that of its key
    project(),
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
    project(),
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
    Index("ix_events_created_at", "created_at"),
    sqlite_with_rowid=False,
)
