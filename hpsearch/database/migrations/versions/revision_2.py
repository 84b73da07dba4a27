"""A coordinator's machine: two containers may share a name, and then take each other for dead."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    op.add_column("hpsearch_coordinator", sa.Column("machine", sa.Text))
