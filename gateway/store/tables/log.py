"""The log, its tree, and what is kept beside it."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from gateway.store.tables.shared import metadata

logs = Table(
    "logs",
    metadata,
    Column("log", SmallInteger, primary_key=True),
    Column("slot", SmallInteger, nullable=False, server_default="0"),
    Column("origin", String, nullable=False, unique=True),
    Column("created_at", String, nullable=False),
    # A log that is damaged, or behind what was signed of it, is sealed; the next one goes on.
    Column("sealed_at", String),
    Column("sealed_reason", Text),
)

log_slots = Table(
    "log_slots",
    metadata,
    Column("slot", SmallInteger, primary_key=True, autoincrement=False),
    Column("holder", String, nullable=False),  # empty when it was given back
    Column("epoch", BigInteger, nullable=False),  # one more with each holder; see trace/slots.py
    Column("until", String, nullable=False),
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

LISTED_BY = (
    *("project_id", "ts", "idx", "kind", "decision", "reason_code", "risk", "agent_id"),
    *("server_id", "tool", "policies"),
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
    Column("policies", Text),  # ids, each between line breaks
    Column("body", LargeBinary, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    # All that a list may be narrowed by: a row is looked up only once it fits.
    Index("ix_trace_listed", *LISTED_BY),
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

cold_tiles = Table(
    "cold_tiles",
    metadata,
    # 256 records of a log that are in cold storage and no longer in `trace`; see gateway/cold.
    Column("log", SmallInteger, primary_key=True),
    Column("n", BigInteger, primary_key=True),
    Column("first_ts", String, nullable=False),
    Column("last_ts", String, nullable=False),
    Column("projects", Text, nullable=False),  # ids, each between line breaks
    Column("bytes", BigInteger, nullable=False),  # in both of its objects
    Index("ix_cold_tiles_last_ts", "last_ts"),
    sqlite_with_rowid=False,
)

cold_heads = Table(
    "cold_heads",
    metadata,
    # A project's last record in cold storage: its sequence goes on from there.
    Column("log", SmallInteger, primary_key=True),
    Column("project_id", String, primary_key=True),
    Column("pseq", BigInteger, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

cold_strays = Table(
    "cold_strays",
    metadata,
    # Records in cold storage that are not where the time in their call's id, or their own, says.
    Column("id", String, primary_key=True),
    Column("log", SmallInteger, primary_key=True),
    Column("idx", BigInteger, primary_key=True),
    sqlite_with_rowid=False,
)

payloads = Table(
    "payloads",
    metadata,
    Column("log", SmallInteger, primary_key=True),
    Column("idx", BigInteger, primary_key=True),
    Column("field", String, primary_key=True),
    Column("payload_key", String, nullable=False),  # <project>/until-<yyyy-mm>
    Column("sealed", LargeBinary, nullable=False),  # AES-GCM over commitment nonce + value
    Column("expires_at", String, nullable=False, index=True),
)

payload_keys = Table(
    "payload_keys",
    metadata,
    Column("id", String, primary_key=True),  # <project>/until-<yyyy-mm>
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
    Column("slot", SmallInteger, nullable=False, server_default="0"),  # of whoever admitted it
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
