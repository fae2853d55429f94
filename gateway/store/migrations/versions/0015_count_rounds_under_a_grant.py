"""Count the rounds that calls go on for under a grant.

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "approvals", sa.Column("rounds", sa.Integer(), nullable=False, server_default="0")
    )


def downgrade() -> None:
    op.drop_column("approvals", "rounds")
