"""Give logs slots, so that several gateways write beside each other.

Revision ID: 0018
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "log_slots",
        sa.Column("slot", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("slot", name="pk_log_slots"),
    )
    # What is there was all written by one process at a time.
    for table in ("logs", "open_calls"):
        slot = sa.Column("slot", sa.SmallInteger(), server_default="0", nullable=False)
        op.add_column(table, slot)


def downgrade() -> None:
    op.drop_column("open_calls", "slot")
    op.drop_column("logs", "slot")
    op.drop_table("log_slots")
