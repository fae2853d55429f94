"""Make checkpoints, and let a log be sealed.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("log", sa.SmallInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("ts", sa.String(), nullable=False),
        sa.Column("kept", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("log", "size", name="pk_checkpoints"),
        sqlite_with_rowid=False,
    )
    op.add_column("logs", sa.Column("sealed_at", sa.String(), nullable=True))
    op.add_column("logs", sa.Column("sealed_reason", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("logs", "sealed_reason")
    op.drop_column("logs", "sealed_at")
    op.drop_table("checkpoints")
