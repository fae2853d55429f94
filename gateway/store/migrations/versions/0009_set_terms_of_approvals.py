"""Keep on which terms an approval is given, and by whom.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_COLUMNS = ("approvers", "quorum", "reason_required", "askers", "votes")


def upgrade() -> None:
    op.add_column("approvals", sa.Column("approvers", sa.JSON(), nullable=True))
    op.add_column(
        "approvals", sa.Column("quorum", sa.Integer(), nullable=False, server_default="1")
    )
    op.add_column(
        "approvals",
        sa.Column("reason_required", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.add_column("approvals", sa.Column("askers", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("approvals", sa.Column("votes", sa.JSON(), nullable=False, server_default="[]"))


def downgrade() -> None:
    for name in reversed(_COLUMNS):
        op.drop_column("approvals", name)
