"""Count each project's changes, so that another gateway sees that there were some.

Revision ID: 0022
Revises: 0021
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    changes = sa.Column("changes", sa.BigInteger(), server_default="0", nullable=False)
    op.add_column("projects", changes)


def downgrade() -> None:
    op.drop_column("projects", "changes")
