"""Trials that other programs put into the study while it runs: ``study.enqueue_trial``, ``add_trial``, a dashboard."""

from collections.abc import Callable

import sqlalchemy as sa
from optuna.trial import FrozenTrial

from hpsearch.storage import schema
from hpsearch.storage.mirror import Mirror
from hpsearch.storage.reading import load_trials

AT_ONCE = 500  # in one statement: databases limit its parameters


class Newcomers:
    """Finds them, gives each its number, hands it to the mirror.

    Optuna numbers a trial by how many the database holds, and does not see those that are still queued here. So the
    number that the newcomer brings may be taken; it then gets the next free one, before anybody knew it by the other:
    ``enqueue_trial`` returns nothing. Both sides lock the study's row, so no trial is made while the other one counts.

    Args:
        mirror: takes them over.
        study: its id in the mirror, and its row.
        last_row: the largest row of a trial that is known.
        on_adopted: told of each, on the writer thread, as the mirror has it.
    """

    def __init__(
        self, mirror: Mirror, study: tuple[int, int], last_row: int, on_adopted: Callable[[FrozenTrial], None]
    ) -> None:
        self._mirror = mirror
        self._study_id, self._row = study
        self._last_row = last_row
        self._on_adopted = on_adopted
        self._adopted: dict[int, FrozenTrial] = {}  # by row; the transaction of some may still be repeated

    def adopt(self, connection: sa.Connection) -> dict[int, int]:
        """Take over what is new, within the caller's transaction; mirror's ids and rows, until they are ``known``."""
        connection.execute(
            sa.select(schema.STUDIES.c.study_id).where(schema.STUDIES.c.study_id == self._row).with_for_update()
        )
        c = schema.TRIALS.c
        query = sa.select(c.trial_id, c.number).where(c.study_id == self._row, c.trial_id > self._last_row)
        found = {row.trial_id: row.number for row in connection.execute(query.order_by(c.trial_id))}
        unknown = [row for row in found if row not in self._adopted]
        for first in range(0, len(unknown), AT_ONCE):
            for trial in load_trials(connection, self._row, rows=unknown[first : first + AT_ONCE]):
                row = trial._trial_id
                self._adopted[row] = self._mirror.adopt(self._study_id, trial)
                self._on_adopted(self._adopted[row])
        for row, number in found.items():
            if number != self._adopted[row].number:
                connection.execute(
                    sa.update(schema.TRIALS).where(c.trial_id == row).values(number=self._adopted[row].number)
                )
        return {self._adopted[row]._trial_id: row for row in found}

    def known(self, rows: list[int]) -> None:
        """These are committed: trials of ours, or adopted ones."""
        self._last_row = max([self._last_row, *rows])
        self._adopted = {row: trial for row, trial in self._adopted.items() if row > self._last_row}


def close_gaps(connection: sa.Connection, study: int) -> None:
    """Number a study's trials 0, 1, 2, ... in their order, within the caller's transaction.

    A coordinator may die when a newcomer has got its number, and the trials before that are not written yet: nothing is
    on record then of what was numbered past them. Where something is, a trial was deleted by hand:
    all stays as it is.
    """
    c, ours = schema.TRIALS.c, schema.ATTEMPTS.c
    query = sa.select(c.trial_id, c.number).where(c.study_id == study).order_by(c.number, c.trial_id)
    rows = connection.execute(query).all()
    moved = [(number, row.trial_id) for number, row in enumerate(rows) if row.number != number]
    if not moved:
        return
    kept = sa.select(ours.trial).where(ours.study_id == study, ours.trial >= moved[0][0])
    if connection.scalar(kept.limit(1)) is None:
        for number, row_id in moved:
            connection.execute(sa.update(schema.TRIALS).where(c.trial_id == row_id).values(number=number))
