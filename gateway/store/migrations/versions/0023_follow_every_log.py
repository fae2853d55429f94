"""Follow every log, each from its own place.

Revision ID: 0023
Revises: 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    # A sink that stood in a log had sent all of the logs before it.
    query = sa.text(
        "SELECT c.name AS name, l.log AS log, CASE WHEN l.log = c.log THEN c.idx ELSE "
        "(SELECT coalesce(max(t.idx) + 1, 0) FROM trace t WHERE t.log = l.log) END AS idx "
        "FROM sink_cursors c JOIN logs l ON l.log <= c.log"
    )
    places = [dict(row) for row in connection.execute(query).mappings()]
    op.drop_table("sink_cursors")
    made = op.create_table(
        "sink_cursors",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("log", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "log", name="pk_sink_cursors"),
    )
    op.bulk_insert(made, places)


def downgrade() -> None:
    op.drop_table("sink_cursors")
    op.create_table(
        "sink_cursors",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("log", sa.SmallInteger(), nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_sink_cursors"),
    )
