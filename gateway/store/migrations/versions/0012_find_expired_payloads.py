"""Find expired payloads without reading all.

Revision ID: 0012
Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_payloads_expires_at", "payloads", ["expires_at"])


def downgrade() -> None:
    op.drop_index("ix_payloads_expires_at", "payloads")
