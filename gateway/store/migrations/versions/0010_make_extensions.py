"""Make extensions and their events.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "extensions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("server_id", sa.String(), nullable=False),
        sa.Column("agents", sa.JSON(), nullable=False),
        sa.Column("on_failure", sa.String(), nullable=False),
        sa.Column("events_per_minute", sa.Integer(), nullable=False),
        sa.Column("require_signature", sa.Boolean(), nullable=False),
        sa.Column("keep_chat_history", sa.Boolean(), nullable=False),
        sa.Column("entra", sa.JSON(), nullable=True),
        sa.Column("signing_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["keys.id"], name="fk_extensions_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_extensions_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_extensions"),
    )
    op.create_index("ix_extensions_project_id", "extensions", ["project_id"], unique=False)
    op.create_table(
        "extension_agents",
        sa.Column("extension_id", sa.String(), nullable=False),
        sa.Column("external_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("agent_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_extension_agents_project_id"
        ),
        sa.PrimaryKeyConstraint("extension_id", "external_id", name="pk_extension_agents"),
    )
    op.create_index(
        "ix_extension_agents_project_id", "extension_agents", ["project_id"], unique=False
    )
    op.create_table(
        "extension_activity",
        sa.Column("extension_id", sa.String(), nullable=False),
        sa.Column("last_seen", sa.String(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("failed_open", sa.BigInteger(), nullable=False),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("extension_id", name="pk_extension_activity"),
    )
    op.create_table(
        "events",
        sa.Column("sender", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=True),
        sa.Column("basis", sa.String(), nullable=True),
        sa.Column("trace_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("sender", "event_id", name="pk_events"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_events_trace_id", "events", ["trace_id"], unique=False)


def downgrade() -> None:
    op.drop_table("events")
    op.drop_table("extension_activity")
    op.drop_table("extension_agents")
    op.drop_table("extensions")
