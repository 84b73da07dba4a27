"""A coordinator numbers its transactions: a commit whose answer was lost is recognised, not repeated."""

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"


def upgrade() -> None:
    op.add_column("hpsearch_coordinator", sa.Column("serial", sa.Integer, nullable=False, server_default="0"))
