"""Who may call, what may be called, and under which rules."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    true,
)

from gateway.store.tables.shared import metadata, project

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
    Column("changes", BigInteger, nullable=False, server_default="0"),  # to anything in it
)

keys = Table(
    "keys",
    metadata,
    Column("id", String, primary_key=True),
    project(),
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
    project(),
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
    project(),
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
    project(),
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
    project(),
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
    project(),
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
    project(),
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
    project(),
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
    project(),
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
