"""List traces by policy, and by anything else along one index.

Revision ID: 0019
Revises: 0018
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_COLUMNS = [
    *("project_id", "ts", "idx", "kind", "decision", "reason_code", "risk", "agent_id"),
    *("server_id", "tool", "policies"),
]
_BREAK = {"sqlite": "char(10)", "postgresql": "chr(10)"}
_JOINED = {
    "sqlite": "SELECT group_concat(value, char(10)) FROM json_each(CAST(body AS TEXT), '$.rules')",
    "postgresql": "SELECT string_agg(value, chr(10)) FROM jsonb_array_elements_text("
    "convert_from(body, 'UTF8')::jsonb -> 'rules') AS value",
}


def upgrade() -> None:
    op.add_column("trace", sa.Column("policies", sa.Text(), nullable=True))
    dialect = op.get_bind().dialect.name
    new_line, joined = _BREAK[dialect], _JOINED[dialect]
    # So many characters are never more bytes than an index entry has room for.
    op.execute(
        f"UPDATE trace SET policies = {new_line} || substr(({joined}), 1, 370) || {new_line} "
        "WHERE kind IN ('decision', 'message')"
    )
    op.create_index("ix_trace_listed", "trace", _COLUMNS)
    op.drop_index("ix_trace_project_id_ts", "trace")


def downgrade() -> None:
    op.create_index("ix_trace_project_id_ts", "trace", ["project_id", "ts"])
    op.drop_index("ix_trace_listed", "trace")
    op.drop_column("trace", "policies")
