"""Let circuit breakers open.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("projects", sa.Column("breaker_repeats", sa.Integer(), nullable=True))
    op.add_column("projects", sa.Column("breaker_refusals", sa.Integer(), nullable=True))
    op.add_column(
        "projects",
        sa.Column("breaker_action", sa.String(), nullable=False, server_default="ask"),
    )


def downgrade() -> None:
    for name in ("breaker_action", "breaker_refusals", "breaker_repeats"):
        op.drop_column("projects", name)
