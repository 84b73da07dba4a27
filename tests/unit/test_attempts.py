"""The chain of a trial's attempts over all runs of the command."""

from pathlib import Path

import pytest
from cli_studies import open_store

from hpsearch.budget import Budgets, Standing
from hpsearch.coordinator.announcer import Announcer
from hpsearch.coordinator.attempts import Attempts
from hpsearch.events import Cause, EndAttempt, Ending, Launch, Notice, Seat
from hpsearch.storage import AttemptRow

UNCHARGED = {Cause.RETURNED, Cause.PRUNED, Cause.STOPPED, Cause.CANCELLED, Cause.PREEMPTED, Cause.LOST}


@pytest.mark.parametrize("cause", list(Cause))
def test_what_earlier_runs_charged_to_the_job(tmp_path: Path, cause: Cause) -> None:
    store = open_store(tmp_path, "small")
    store.study.ask()
    for attempt in (1, 2, 3):
        store.put_attempt(
            AttemptRow(trial=0, attempt=attempt, state="ended", cause=cause.value, started=0.0, ended=1.0)
        )
    store.close()
    again = open_store(tmp_path, "small")
    attempts = Attempts(again, Announcer(again, lambda notice: None), Standing(Budgets(trials=1)))
    history = attempts.history(0)
    assert history.n_attempts == 3
    assert history.n_charged == (0 if cause in UNCHARGED else 3)
    again.close()


def test_a_retry_says_where_it_goes_on(tmp_path: Path) -> None:
    said: list[Notice] = []
    store = open_store(tmp_path, "small")
    store.study.ask()
    attempts = Attempts(store, Announcer(store, said.append), Standing(Budgets(trials=1)))
    seat = Seat(worker="w", host="h", slot=0, rank=0, local_rank=0)
    lost = Ending(cause=Cause.LOST, reason="worker w is gone")
    for attempt in (1, 2):
        attempts.launched(Launch(trial=0, attempt=attempt, seats=(seat,), next_step=None), seat, "log")
        attempts.resumed(0, attempt, 12 * (attempt - 1), "somewhere" * (attempt - 1))
        if attempt == 2:
            attempts.saved(0, 17)
        attempts.ended(EndAttempt(trial=0, attempt=attempt, ending=lost, retry=True))
    assert [notice.kind for notice in said] == ["trial.retried", "trial.resumed", "trial.retried"]
    assert said[0].fields["goes_on"] == "from the start: it saved no checkpoint"
    assert (said[1].fields["step"], said[1].fields["checkpoint"]) == (12, "somewhere")
    assert said[2].fields["goes_on"] == "from step 18"
    store.close()
