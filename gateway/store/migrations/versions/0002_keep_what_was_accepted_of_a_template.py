"""Keep what was accepted of a template.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("servers", sa.Column("template_version", sa.String(), nullable=True))
    op.add_column("servers", sa.Column("template_accepted", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("servers", "template_accepted")
    op.drop_column("servers", "template_version")
