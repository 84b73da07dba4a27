"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column, Double, Integer, String, Text

revision = "1"
down_revision = None


def _study_column(*, primary: bool) -> Column[int]:
    parent = sa.ForeignKey("studies.study_id", ondelete="CASCADE")
    return Column("study_id", Integer, parent, primary_key=primary, nullable=False, autoincrement=False)


def _number_column(name: str) -> Column[int]:
    return Column(name, Integer, primary_key=True, autoincrement=False)


def upgrade() -> None:
    op.create_table(
        "hpsearch_study",
        _study_column(primary=True),
        Column("name", String(512), nullable=False),
        Column("spec_text", Text, nullable=False),
        Column("space_json", Text, nullable=False),
        Column("command", Text, nullable=False),
        Column("directory", Text, nullable=False),
        Column("version", String(64), nullable=False),
        Column("created", Double, nullable=False),
    )
    op.create_table(
        "hpsearch_coordinator",
        _study_column(primary=True),
        Column("token", Integer, nullable=False),
        Column("hold", String(32), nullable=False),
        Column("host", Text, nullable=False),
        Column("pid", Integer),
        Column("process_started", Double, nullable=False),
        Column("started", Double, nullable=False),
        Column("heartbeat", Double, nullable=False),
    )
    _create_attempts()
    _create_events_and_requests()
    op.create_table(
        "hpsearch_metric",
        _study_column(primary=True),
        _number_column("trial"),
        _number_column("attempt"),
        _number_column("step"),
        Column("name", String(512), primary_key=True),
        Column("value", Double),
    )


def _create_events_and_requests() -> None:
    op.create_table(
        "hpsearch_event",
        Column("event_id", Integer, primary_key=True),
        _study_column(primary=False),
        Column("token", Integer, nullable=False),
        Column("serial", Integer, nullable=False),
        Column("time", Double, nullable=False),
        Column("kind", String(64), nullable=False),
        Column("trial", Integer),
        Column("attempt", Integer),
        Column("text", Text, nullable=False),
        Column("fields", Text, nullable=False),
        sa.UniqueConstraint("study_id", "token", "serial"),
    )
    op.create_table(
        "hpsearch_request",
        Column("request_id", Integer, primary_key=True),
        _study_column(primary=False),
        Column("kind", String(64), nullable=False),
        Column("arguments", Text, nullable=False),
        Column("created", Double, nullable=False),
        Column("handled", Double),
    )
    op.create_index("hpsearch_request_open", "hpsearch_request", ["study_id", "handled"])


def _create_attempts() -> None:
    op.create_table(
        "hpsearch_attempt",
        _study_column(primary=True),
        _number_column("trial"),
        _number_column("attempt"),
        Column("state", String(16), nullable=False),
        Column("cause", String(32)),
        Column("reason", Text),
        Column("worker", Text, nullable=False),
        Column("host", Text, nullable=False),
        Column("slot", Integer, nullable=False),
        Column("pid", Integer),
        Column("started", Double, nullable=False),
        Column("ended", Double),
        Column("exit_code", Integer),
        Column("log_path", Text, nullable=False),
        Column("log_tail", Text, nullable=False),
        Column("traceback", Text, nullable=False),
    )
