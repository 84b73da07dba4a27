"""The checker of the proofs: silent about a sound run, and never silent about one that lost or doubled something."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.checker import Database, Expected, TrialRow, check, redone
from harness.job import oracle
from harness.matrix import Fault, recovery_s
from harness.oplog import Entry, OpLog, read

EXPECTED = Expected(n_trials=3, n_epochs=2, max_attempts=2, seed=7)


def sound() -> tuple[list[Entry], Database]:
    """A run in which coordinator 11 died and coordinator 12 ended what was left; trial 1 has two attempts."""
    trials, attempts, metrics, events = [], [], {}, []
    entries: list[Entry] = []

    def say(pid: int, op: str, phase: str, **fields: Any) -> None:
        entries.append({"at": float(len(entries)), "pid": pid, "op": op, "phase": phase, **fields})

    def work(pid: int, trial: int, attempt: int, params: dict[str, Any], steps: dict[int, float]) -> None:
        say(pid, "ask", "acknowledged", trial=trial, attempt=attempt, params={**params, "seed": 7})
        for step, value in steps.items():
            said = {"trial": trial, "attempt": attempt, "step": step}
            say(99, "epoch", "begun", **said)
            say(99, "report", "invoked", **said, value=value)
            say(pid, "record", "invoked", **said, value=value)
            say(pid, "commit", "invoked")
            say(pid, "commit", "acknowledged", ticket=len(entries))
            say(99, "report", "acknowledged", **said, value=value)
            metrics[trial, attempt, step, "twice"] = 2 * value

    def end(pid: int, token: int, trial: int, attempt: int, value: float) -> None:
        attempts.append({"trial": trial, "attempt": attempt, "state": "ended", "cause": "returned"})
        say(pid, "tell", "invoked", trial=trial)
        say(pid, "tell", "acknowledged", trial=trial, attempt=attempt, kind="trial.completed", values=[value])
        events.append({"token": token, "serial": len(events), "kind": "trial.completed", "trial": trial})

    for number in range(3):
        params = {"x": 0.25 * number, "kind": "red"}
        steps = dict(enumerate(oracle({**params, "seed": 7}, 2)))
        trials.append(
            TrialRow(number=number, state="COMPLETE", values=(steps[1],), params=params, steps=steps),
        )
    first, second, third = ((dict(trial.params), dict(trial.steps)) for trial in trials)
    say(11, "notice", "study.started")
    work(11, 0, 1, *first)
    end(11, 1, 0, 1, first[1][1])
    work(11, 1, 1, second[0], {0: second[1][0]})
    attempts.append({"trial": 1, "attempt": 1, "state": "ended", "cause": "lost"})
    say(12, "notice", "study.started")
    work(12, 1, 2, second[0], {1: second[1][1]})
    end(12, 2, 1, 2, second[1][1])
    work(12, 2, 1, *third)
    end(12, 2, 2, 1, third[1][1])
    return entries, Database(trials=trials, attempts=attempts, metrics=metrics, events=events)


Plant = Callable[[list[Entry], Database], Database]
PLANTED: dict[str, tuple[str, Plant]] = {}


def planted(invariant: str) -> Callable[[Plant], Plant]:
    def keep(plant: Plant) -> Plant:
        PLANTED[plant.__name__] = invariant, plant
        return plant

    return keep


def changed(database: Database, index: int, **changes: Any) -> Database:
    """The database with another trial in the place of one."""
    trials = list(database.trials)
    trials[index] = replace(trials[index], **changes)
    return replace(database, trials=trials)


@planted("I1")
def a_trial_too_few(_: list[Entry], database: Database) -> Database:
    return replace(database, trials=database.trials[:2], attempts=[a for a in database.attempts if a["trial"] < 2])


@planted("I1")
def a_trial_left_running(_: list[Entry], database: Database) -> Database:
    return changed(database, 2, state="RUNNING")


@planted("I1")
def a_trial_left_waiting(_: list[Entry], database: Database) -> Database:
    return changed(database, 2, state="WAITING", values=())


@planted("I1")
def a_trial_failed_by_the_infrastructure(_: list[Entry], database: Database) -> Database:
    return changed(database, 0, state="FAIL")


@planted("I2")
def a_lost_report(_: list[Entry], database: Database) -> Database:
    return changed(database, 1, steps={1: database.trials[1].steps[1]})


@planted("I2")
def a_changed_report(_: list[Entry], database: Database) -> Database:
    return changed(database, 1, steps={**database.trials[1].steps, 0: 0.5})


@planted("I2")
def a_lost_second_metric(_: list[Entry], database: Database) -> Database:
    return replace(database, metrics={key: value for key, value in database.metrics.items() if key[:3] != (1, 1, 0)})


@planted("I2")
def a_lost_tell(_: list[Entry], database: Database) -> Database:
    return changed(database, 0, state="RUNNING")


@planted("I2")
def a_told_value_changed(_: list[Entry], database: Database) -> Database:
    return changed(database, 0, values=(0.5,))


@planted("I2")
def a_launched_trial_with_other_parameters(_: list[Entry], database: Database) -> Database:
    return changed(database, 2, params={**database.trials[2].params, "x": 0.75})


@planted("I2")
def a_lost_trial_that_was_launched(_: list[Entry], database: Database) -> Database:
    return replace(database, trials=database.trials[:2])


@planted("I3")
def a_trial_told_twice(entries: list[Entry], database: Database) -> Database:
    entries.append(next(entry for entry in entries if (entry["op"], entry["phase"]) == ("tell", "acknowledged")))
    return database


@planted("I3")
def a_completion_on_record_twice(_: list[Entry], database: Database) -> Database:
    return replace(database, events=[*database.events, {**database.events[-1], "serial": 77}])


@planted("I3")
def two_attempts_that_returned(_: list[Entry], database: Database) -> Database:
    return replace(database, attempts=[{**row, "cause": "returned"} for row in database.attempts])


@planted("I3")
def an_attempt_that_never_ended(_: list[Entry], database: Database) -> Database:
    last = {**database.attempts[-1], "cause": None}
    return replace(database, attempts=[*database.attempts[:-1], last])


@planted("I3")
def a_gap_in_the_chain(_: list[Entry], database: Database) -> Database:
    return replace(database, attempts=[row for row in database.attempts if row["cause"] != "lost"])


@planted("I3")
def one_attempt_too_many(_: list[Entry], database: Database) -> Database:
    lost = {"trial": 1, "state": "ended", "cause": "lost"}
    rows = [row for row in database.attempts if row["trial"] != 1]
    last = {"trial": 1, "attempt": 3, "state": "ended", "cause": "returned"}
    return replace(database, attempts=[*rows, {**lost, "attempt": 1}, {**lost, "attempt": 2}, last])


@planted("I3")
def two_executions_of_one_attempt(entries: list[Entry], database: Database) -> Database:
    entries.append(next(entry for entry in reversed(entries) if entry["op"] == "ask"))
    return database


@planted("I4")
def a_step_missing_that_nobody_acknowledged(entries: list[Entry], database: Database) -> Database:
    entries[:] = [entry for entry in entries if entry["op"] != "report"]
    return changed(database, 0, steps={1: database.trials[0].steps[1]})


@planted("I4")
def a_step_past_the_end(_: list[Entry], database: Database) -> Database:
    return changed(database, 0, steps={**database.trials[0].steps, 2: 0.5})


@planted("I4")
def a_value_that_is_not_the_oracles(entries: list[Entry], database: Database) -> Database:
    entries[:] = [entry for entry in entries if entry["op"] != "report"]
    return changed(database, 2, steps={**database.trials[2].steps, 0: 0.5})


@planted("I4")
def a_result_that_is_not_the_oracles(entries: list[Entry], database: Database) -> Database:
    entries[:] = [entry for entry in entries if entry["op"] != "tell"]
    return changed(database, 2, values=(0.5,))


@planted("I5")
def a_line_by_a_coordinator_that_was_replaced(_: list[Entry], database: Database) -> Database:
    return replace(database, events=[*database.events, {"token": 1, "serial": 9, "kind": "worker.lost", "trial": None}])


@planted("I5")
def a_commit_by_a_coordinator_that_was_replaced(entries: list[Entry], database: Database) -> Database:
    for phase in ("invoked", "acknowledged"):
        entries.append({"at": 999.0, "pid": 11, "op": "commit", "phase": phase, "ticket": 1})
    return database


@planted("I5")
def a_record_of_an_attempt_that_was_replaced(entries: list[Entry], database: Database) -> Database:
    entries.append({"at": 999.0, "pid": 12, "op": "record", "phase": "invoked", "trial": 1, "attempt": 1, "step": 1})
    return database


@planted("I6")
def a_number_twice(_: list[Entry], database: Database) -> Database:
    return changed(database, 2, number=1)


@planted("I6")
def a_number_missing(_: list[Entry], database: Database) -> Database:
    return changed(database, 2, number=3)


@planted("I6")
def what_the_database_says_itself(_: list[Entry], database: Database) -> Database:
    return replace(database, faults=["row 3 missing from index sqlite_autoindex_trials_1"])


def test_a_sound_run_has_no_violation() -> None:
    assert check(*sound(), EXPECTED) == []


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_found(name: str) -> None:
    invariant, plant = PLANTED[name]
    entries, database = sound()
    found = check(entries, plant(entries, database), EXPECTED)
    assert invariant in {violation.invariant for violation in found}


def test_a_commit_begun_before_the_take_over_and_logged_after_it_is_none() -> None:
    """Between a commit and its line in the log a coordinator may be frozen; what it had done then was its right."""
    entries, database = sound()
    at = next(index for index, entry in enumerate(entries) if entry["pid"] == 12)
    entries.insert(at, {"at": 0.0, "pid": 11, "op": "commit", "phase": "invoked"})
    entries.append({"at": 999.0, "pid": 11, "op": "commit", "phase": "acknowledged", "ticket": 1})
    assert check(entries, database, EXPECTED) == []


def test_epochs_begun_again_are_counted_by_trial() -> None:
    entries, _ = sound()
    assert redone(entries) == 0
    epochs = [entry for entry in entries if entry["op"] == "epoch"]
    assert redone([*entries, epochs[0], epochs[1], epochs[-1]]) == 2


def test_recovery_ends_with_the_first_acknowledged_operation() -> None:
    entries = [
        {"at": 1.0, "op": "report", "phase": "acknowledged"},
        {"at": 3.0, "op": "report", "phase": "invoked"},
        {"at": 3.5, "op": "tell", "phase": "acknowledged"},
    ]
    assert recovery_s(entries, Fault(0.5, 2.0)) == 1.5
    assert recovery_s(entries, Fault(0.5, 4.0)) is None


def test_a_line_cut_short_by_a_kill_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "operations.jsonl"
    OpLog(path).say("ask", "invoked")
    with path.open("ab") as file:
        file.write(b'{"op": "ask", "pha')
    assert [entry["op"] for entry in read(path)] == ["ask"]
