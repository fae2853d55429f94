"""Keep consents to upstreams, and servers' own certificate authorities.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("servers", sa.Column("tls_ca", sa.Text(), nullable=True))
    op.create_table(
        "consents",
        sa.Column("server_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("asked_by", sa.String(), nullable=False),
        sa.Column("asked_until", sa.String(), nullable=False),
        sa.Column("state_sha256", sa.String(), nullable=True),
        sa.Column("verifier_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("granted_at", sa.String(), nullable=True),
        sa.Column("expires_at", sa.String(), nullable=True),
        sa.Column("scope", sa.Text(), nullable=True),
        sa.Column("tokens_sealed", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["server_id"], ["servers.id"], name="fk_consents_server_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_consents_project_id"),
        sa.PrimaryKeyConstraint("server_id", name="pk_consents"),
        sa.UniqueConstraint("state_sha256", name="uq_consents_state_sha256"),
    )
    op.create_index("ix_consents_project_id", "consents", ["project_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_consents_project_id", table_name="consents")
    op.drop_table("consents")
    op.drop_column("servers", "tls_ca")
