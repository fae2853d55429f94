"""What follows the log: anchors, sinks, and leases on what one process does at a time."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from gateway.store.tables.shared import metadata

anchors = Table(
    "anchors",
    metadata,
    Column("id", String, primary_key=True),
    Column("backend", String, nullable=False),
    Column("log", SmallInteger, nullable=False),
    Column("origin", String, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),  # the signed checkpoint
    Column("state", String, nullable=False),  # queued · sending · final
    Column("created_at", String, nullable=False),
    Column("final_at", String),
    Column("anchored_at", String),  # by the anchor's clock
    Column("tx_hash", String),
    Column("block", BigInteger),
    Column("proof", LargeBinary),  # a time-stamp response, the signed transaction
    UniqueConstraint("backend", "log", "size"),
)

anchor_transactions = Table(
    "anchor_transactions",
    metadata,
    # Every transaction that was ever signed, on disk before it is sent. Amounts are wei, as text.
    Column("hash", String, primary_key=True),
    Column("anchor_id", String, ForeignKey("anchors.id"), nullable=False, index=True),
    Column("nonce", BigInteger, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("gas", BigInteger, nullable=False),
    Column("max_fee", String, nullable=False),
    Column("tip", String, nullable=False),
    Column("created_at", String, nullable=False),
    Column("paid", String),  # by its receipt
    Column("paid_at", String),
)

anchor_backends = Table(
    "anchor_backends",
    metadata,
    Column("name", String, primary_key=True),
    Column("identity", JSON, nullable=False),  # chain, contract, writer, successor; URL; folder
    Column("enabled", Boolean, nullable=False),
    Column("condition", String, nullable=False),
    Column("detail", Text, nullable=False),
    Column("since", String, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("until", String, nullable=False),
)

sink_cursors = Table(
    "sink_cursors",
    metadata,
    Column("name", String, primary_key=True),  # as it is set
    Column("log", SmallInteger, primary_key=True, autoincrement=False),
    Column("idx", BigInteger, nullable=False),  # of the next record to send
)

policy_bundles = Table(
    "policy_bundles",
    metadata,
    # Where several gateways share the database: one builds, and all serve what was published last.
    Column("digest", String, primary_key=True),
    Column("revision", String, nullable=False),
    Column("archive", LargeBinary, nullable=False),
    Column("features", JSON, nullable=False),
    Column("tried", String, nullable=False),  # names all that was tried with it
    Column("made_by", String, nullable=False),
    Column("made_at", String, nullable=False),
    Column("published", BigInteger, unique=True),  # the highest is served
)
