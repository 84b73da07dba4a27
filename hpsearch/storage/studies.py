"""A study's row: found, made, deleted with all that hangs on it."""

from collections.abc import Sequence

import sqlalchemy as sa
from optuna.study import StudyDirection

from hpsearch.storage import schema


def find_study(connection: sa.Connection, name: str) -> int | None:
    """The row of the study of that name, locked for this transaction where the database can."""
    query = sa.select(schema.STUDIES.c.study_id).where(schema.STUDIES.c.study_name == name)
    row: int | None = connection.scalar(query.with_for_update())
    return row


def insert_study(connection: sa.Connection, name: str, directions: Sequence[StudyDirection]) -> int:
    """Make a study as stock Optuna would; IntegrityError if the name is taken."""
    inserted = connection.execute(sa.insert(schema.STUDIES).returning(schema.STUDIES.c.study_id), {"study_name": name})
    study: int = inserted.scalar_one()
    for table in schema.OURS_OF_A_STUDY:
        # SQLite gives the id of a study that Optuna's tools deleted to the next one, and leaves our rows behind.
        connection.execute(sa.delete(table).where(table.c.study_id == study))
    connection.execute(
        sa.insert(schema.DIRECTIONS),
        [{"study_id": study, "direction": d, "objective": i} for i, d in enumerate(directions)],
    )
    return study


def delete_study(connection: sa.Connection, name: str) -> None:
    """Delete the study and everything of it; nothing happens if there is none."""
    study = find_study(connection, name)
    if study is None:
        return
    trials = sa.select(schema.TRIALS.c.trial_id).where(schema.TRIALS.c.study_id == study)
    for table in schema.OF_A_TRIAL:
        connection.execute(sa.delete(table).where(table.c.trial_id.in_(trials)))
    for table in (schema.TRIALS, *schema.OF_A_STUDY, *schema.OURS_OF_A_STUDY, schema.STUDIES):
        connection.execute(sa.delete(table).where(table.c.study_id == study))


def study_names(connection: sa.Connection) -> tuple[str, ...]:
    """All of them, in the order they were made; none if the tables are not there."""
    if not sa.inspect(connection).has_table(schema.STUDIES.name):
        return ()
    query = sa.select(schema.STUDIES.c.study_name).order_by(schema.STUDIES.c.study_id)
    return tuple(connection.scalars(query))
