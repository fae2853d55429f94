"""Make the sinks' cursors.

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sink_cursors",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("log", sa.SmallInteger(), nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_sink_cursors"),
    )


def downgrade() -> None:
    op.drop_table("sink_cursors")
