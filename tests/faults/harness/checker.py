"""What must hold after a run, whatever happened in it: a pure function of the operation log and the database.

The invariants are named I1 to I6; "acknowledged" is what a client was told, "invoked" what it asked for.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.job import oracle
from harness.oplog import Entry, of

INFRASTRUCTURE = {"lost", "stopped"}  # causes of attempts that end by no fault of the job


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial as stock Optuna reads it."""

    number: int
    state: str
    values: tuple[float, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Database:
    """A study as the database has it at the end."""

    trials: Sequence[TrialRow]
    attempts: Sequence[Mapping[str, Any]]  # hpsearch_attempt
    metrics: Mapping[tuple[int, int, int, str], float]  # trial, attempt, step, name
    events: Sequence[Mapping[str, Any]]  # hpsearch_event, in the order in which they were written
    faults: Sequence[str] = ()  # what the database's own checks say


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the study asked for."""

    n_trials: int
    n_epochs: int
    max_attempts: int  # of one trial
    seed: int


@dataclass(frozen=True)
class Violation:
    """An invariant that does not hold, and where."""

    invariant: str
    words: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.words}"


def check(entries: list[Entry], database: Database, expected: Expected) -> list[Violation]:
    """All violations; none is what a run has to show."""
    found = {
        "I1": _all_terminal(database, expected),
        "I2": _nothing_lost(entries, database),
        "I3": _one_winner(entries, database, expected),
        "I4": _equal_to_the_oracle(database, expected),
        "I5": _nothing_by_the_revoked(entries, database),
        "I6": _sound(database),
    }
    return [Violation(invariant, words) for invariant, many in found.items() for words in many]


def _all_terminal(database: Database, expected: Expected) -> Iterator[str]:
    if len(database.trials) != expected.n_trials:
        yield f"{len(database.trials)} trials, not {expected.n_trials}"
    for trial in database.trials:
        if trial.state != "COMPLETE":  # these jobs do not fail, and nothing that was done to them is their fault
            yield f"trial {trial.number} is {trial.state}"


def _nothing_lost(entries: list[Entry], database: Database) -> Iterator[str]:
    trials = {trial.number: trial for trial in database.trials}
    for ask in of(entries, "ask", "acknowledged"):
        trial = trials.get(ask["trial"])
        if trial is None or any(ask["params"].get(name) != value for name, value in trial.params.items()):
            yield f"trial {ask['trial']} was launched with {ask['params']} and is {trial}"
    for report in of(entries, "report", "acknowledged"):
        number, step, value = report["trial"], report["step"], report["value"]
        where = f"report of trial {number} attempt {report['attempt']} step {step}, acknowledged as {value}"
        if number not in trials or trials[number].steps.get(step) != value:
            yield f"{where}, is {trials[number].steps.get(step) if number in trials else None}"
        twice = database.metrics.get((number, report["attempt"], step, "twice"))
        if twice != 2 * value:
            yield f"{where}: its second metric is {twice}"
    for tell in of(entries, "tell", "acknowledged"):
        trial = trials.get(tell["trial"])
        state = {"trial.completed": "COMPLETE", "trial.pruned": "PRUNED", "trial.failed": "FAIL"}[tell["kind"]]
        if trial is None or trial.state != state or (state == "COMPLETE" and trial.values != tuple(tell["values"])):
            yield f"trial {tell['trial']} was told as {state} {tell['values']} and is {trial}"


def _one_winner(entries: list[Entry], database: Database, expected: Expected) -> Iterator[str]:
    told = Counter(tell["trial"] for tell in of(entries, "tell", "acknowledged"))
    yield from (f"trial {number} was told {n} times" for number, n in told.items() if n > 1)
    ends = Counter(event["trial"] for event in database.events if event["kind"] == "trial.completed")
    yield from (f"trial {number} is on record as completed {n} times" for number, n in ends.items() if n > 1)
    launched = Counter((ask["trial"], ask["attempt"]) for ask in of(entries, "ask", "acknowledged"))
    for (number, attempt), n in launched.items():
        if n > 1:
            yield f"attempt {attempt} of trial {number} names {n} executions"
    chains: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(database.attempts, key=lambda row: row["attempt"]):
        chains[row["trial"]].append(row)
    for trial in database.trials:
        chain = chains[trial.number]
        numbers = [row["attempt"] for row in chain]
        if numbers != list(range(1, len(chain) + 1)):
            yield f"the attempts of trial {trial.number} are {numbers}"
        if len(chain) > expected.max_attempts:
            yield f"trial {trial.number} has {len(chain)} attempts, more than {expected.max_attempts}"
        causes = [row["cause"] for row in chain]
        if trial.state == "COMPLETE" and (causes[-1:] != ["returned"] or not set(causes[:-1]) <= INFRASTRUCTURE):
            yield f"the attempts of trial {trial.number} ended as {causes}"


def _equal_to_the_oracle(database: Database, expected: Expected) -> Iterator[str]:
    for trial in database.trials:
        if trial.state != "COMPLETE":
            continue
        right = list(oracle({**trial.params, "seed": expected.seed}, expected.n_epochs))
        if missing := set(range(expected.n_epochs)) - set(trial.steps):
            yield f"trial {trial.number} is COMPLETE without steps {sorted(missing)}"
        for step, value in trial.steps.items():
            if not 0 <= step < expected.n_epochs or value != right[step]:
                yield f"trial {trial.number} step {step} is {value}, not {right[step : step + 1]}"
        if trial.values != (right[-1],):
            yield f"trial {trial.number} has {trial.values}, not {right[-1]}"


def _nothing_by_the_revoked(entries: list[Entry], database: Database) -> Iterator[str]:
    newest = 0
    for event in database.events:
        if event["token"] < newest:
            yield f"coordinator {event['token']} wrote {event['kind']!r} after coordinator {newest} had begun"
        newest = max(newest, event["token"])
    latest: dict[tuple[int, int], int] = {}  # pid, trial -> attempt
    coordinator = 0
    writing: dict[int, int] = {}  # pid -> the coordinator of the moment at which its commit began
    for entry in entries:
        match entry["op"], entry["phase"]:
            case "notice", "study.started":
                coordinator = entry["pid"]
            case "commit", "invoked":
                writing[entry["pid"]] = coordinator
            case "commit", "acknowledged":
                if (other := writing.get(entry["pid"], 0)) not in {0, entry["pid"]}:
                    yield f"coordinator {entry['pid']} committed ticket {entry['ticket']} after {other} had begun"
            case "ask", "acknowledged":
                latest[entry["pid"], entry["trial"]] = entry["attempt"]
            case "record", "invoked":
                if (current := latest.get((entry["pid"], entry["trial"]))) != entry["attempt"]:
                    yield f"trial {entry['trial']}: attempt {entry['attempt']} was recorded during attempt {current}"


def _sound(database: Database) -> Iterator[str]:
    numbers = [trial.number for trial in database.trials]
    if numbers != list(range(len(numbers))):
        yield f"the trials are numbered {numbers}"
    yield from database.faults


def redone(entries: list[Entry]) -> int:
    """Epochs that were begun again, of the trial that has most of them."""
    begun = Counter((entry["trial"], entry["step"]) for entry in of(entries, "epoch", "begun"))
    again: Counter[int] = Counter()
    for (trial, _), n in begun.items():
        again[trial] += n - 1
    return max(again.values(), default=0)
