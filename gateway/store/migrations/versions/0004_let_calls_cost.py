"""Let calls cost, and tell once of a budget that runs out.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tools", sa.Column("cost", sa.JSON(), nullable=True))
    op.add_column(
        "budget_windows",
        sa.Column("alerted", sa.SmallInteger(), nullable=False, server_default="0"),
    )


def downgrade() -> None:
    op.drop_column("budget_windows", "alerted")
    op.drop_column("tools", "cost")
