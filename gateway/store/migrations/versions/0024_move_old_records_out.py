"""Say what of the log is in cold storage.

Revision ID: 0024
Revises: 0023
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cold_tiles",
        sa.Column("log", sa.SmallInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("first_ts", sa.String(), nullable=False),
        sa.Column("last_ts", sa.String(), nullable=False),
        sa.Column("projects", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("log", "n", name="pk_cold_tiles"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_cold_tiles_last_ts", "cold_tiles", ["last_ts"])
    op.create_table(
        "cold_heads",
        sa.Column("log", sa.SmallInteger(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("pseq", sa.BigInteger(), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("log", "project_id", name="pk_cold_heads"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "cold_strays",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("log", sa.SmallInteger(), nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", "log", "idx", name="pk_cold_strays"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    tiles = sa.table("cold_tiles")
    if op.get_bind().execute(sa.select(sa.func.count()).select_from(tiles)).scalar_one():
        raise RuntimeError("records are in cold storage: an older version would not find them")
    op.drop_table("cold_strays")
    op.drop_table("cold_heads")
    op.drop_table("cold_tiles")
