"""What the look verbs print, as lines: pure, from what the views answered."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from hpsearch.cli.table import table
from hpsearch.console.plain import jsonable
from hpsearch.console.words import count, duration, many, number, one_line, pairs, shortened

if TYPE_CHECKING:
    from hpsearch.storage import AttemptRow
    from hpsearch.views import StudySummary, TrialView

STATE_WORDS = {"fail": "failed"}  # Optuna's word, and ours
MAX_RUNNING = 20


def metric_names(study: "StudySummary") -> tuple[str, ...]:
    """Names of the study's values; made up where Optuna's tools made the study."""
    if study.metric_names:
        return study.metric_names
    n = len(study.directions)
    return ("value",) if n == 1 else tuple(f"value_{index}" for index in range(n))


def count_words(study: "StudySummary") -> str:
    """``31 complete, 27 pruned, 2 failed``."""
    words = [f"{n} {STATE_WORDS.get(state, state)}" for state, n in study.counts.items() if n]
    return ", ".join(words) or "no trials yet"


def overview(studies: Sequence["StudySummary"], width: int | None) -> list[str]:
    """A line a study."""
    rows = [
        (one_line(study.name), "running" if study.running else "-", count_words(study), many(study.best_values))
        for study in studies
    ]
    return table(("study", "state", "trials", "best"), rows, width=width, flexible=frozenset({0, 2}))


def study_page(study: "StudySummary", trials: Sequence["TrialView"], now: float, width: int | None) -> list[str]:
    """One study: state, counts, best, and the trials that run now."""
    lines = [("study", one_line(study.name))]
    if study.running:
        since = f" for {duration(now - study.started)}" if study.started else ""
        lines.append(("state", f"running{since} ({one_line(study.holder)})"))
    else:
        lines.append(("state", "not running"))
    lines.append(("trials", f"{study.n_trials}: {count_words(study)}"))
    lines.append(("best", _best_words(study, trials)))
    running = [trial for trial in trials if trial.state == "running"] if study.running else []
    for label, trial in zip(["now"] + [""] * MAX_RUNNING, running[:MAX_RUNNING], strict=False):
        lines.append((label, _running_words(trial, now)))
    if len(running) > MAX_RUNNING:
        lines.append(("", f"and {len(running) - MAX_RUNNING} more"))
    written = [f"{label:<9}{text}".rstrip() for label, text in lines]
    if width is not None:
        written = [shortened(line, width) for line in written]
    if not study.running and study.command:
        unfinished = study.counts.get("running", 0) + study.counts.get("waiting", 0)
        # Never cut: it is there to be pasted.
        written.append(f"{'resume' if unfinished else 'command':<9}{one_line(study.command)}")
    return written


def _best_words(study: "StudySummary", trials: Sequence["TrialView"]) -> str:
    if study.best is None:
        return "none yet" if len(study.directions) == 1 else "several objectives: `hpsearch best` has the Pareto front"
    params = next((trial.params for trial in trials if trial.number == study.best), {})
    value = f"{one_line(metric_names(study)[0])} {many(study.best_values)}"
    return f"{value}, trial {study.best}  {pairs(params)}".rstrip()


def _running_words(trial: "TrialView", now: float) -> str:
    parts = [f"trial {trial.number}"]
    if len(trial.attempts) > 1:
        parts.append(f"attempt {trial.attempts[-1].attempt}")
    parts.append(duration(_seconds(trial, now)))
    if trial.last_step is not None:
        parts.append(f"step {trial.last_step}: {number(trial.last_value)}")
    return ", ".join(parts)


def _seconds(trial: "TrialView", now: float) -> float | None:
    """How long all attempts of a trial took, waiting in between not counted."""
    if trial.attempts:
        return sum((row.ended or now) - row.started for row in trial.attempts)
    return None if trial.started is None else (trial.ended or now) - trial.started


def trials_table(trials: Sequence["TrialView"], now: float, width: int | None) -> list[str]:
    """A line a trial. The value of one that did not complete is the last that it reported."""
    heads = ("trial", "state", "value", "steps", "attempts", "time", "parameters", "reason")
    rows = [
        (
            str(trial.number),
            STATE_WORDS.get(trial.state, trial.state),
            many(trial.values) if trial.values else number(trial.last_value),
            str(trial.steps),
            str(len(trial.attempts)),
            duration(_seconds(trial, now)),
            pairs(trial.params),
            "" if trial.state == "complete" or trial.reason == trial.state else one_line(trial.reason),
        )
        for trial in trials
    ]
    return table(heads, rows, width=width, right=frozenset({0, 2, 3, 4, 5}), flexible=frozenset({6, 7}))


def trial_json(trial: "TrialView", resumed: Mapping[int, tuple[int, str]]) -> str:
    """One trial as a line of strict JSON; ``resumed`` as in :func:`trial_page`."""
    fields = {**asdict(trial), "reason": trial.reason}
    for row in fields["attempts"]:
        row["from_step"], row["checkpoint"] = resumed.get(row["attempt"], (0, ""))
    return json.dumps(jsonable(fields), allow_nan=False)


def trial_page(
    study: "StudySummary", trial: "TrialView", now: float, resumed: Mapping[int, tuple[int, str]] | None = None
) -> list[str]:
    """One trial: its result, parameters, and the chain of its attempts.

    ``resumed`` holds, by attempt, the step that it began with and the checkpoint that it loaded, "" for none.
    """
    lines = [f"trial {trial.number} of {one_line(study.name)}: {STATE_WORDS.get(trial.state, trial.state)}"]
    if trial.values:
        names = metric_names(study)
        lines += [f"{one_line(name)} {number(value)}" for name, value in zip(names, trial.values, strict=False)]
    if trial.last_step is not None:
        last = f"last report {number(trial.last_value)} at step {trial.last_step}"
        lines.append(f"{last}, {count(trial.steps, 'report')} in all")
    lines += _parameter_lines(trial.params)
    for row in trial.attempts:
        lines += ["", *_attempt_lines(row, now, (resumed or {}).get(row.attempt))]
    if trial.attempts and trial.attempts[-1].traceback:
        lines += ["", *(one_line(line) for line in trial.attempts[-1].traceback.rstrip().splitlines())]
    return lines


def _parameter_lines(params: Mapping[str, object]) -> list[str]:
    width = max((len(one_line(key)) for key in params), default=0)
    return [f"  {one_line(key):<{width}}  {number(value, digits=10)}" for key, value in params.items()]


def _attempt_lines(row: "AttemptRow", now: float, resumed: tuple[int, str] | None) -> list[str]:
    took = duration((row.ended or now) - row.started)
    if row.state == "running":
        head = f"attempt {row.attempt}: running for {took}"
    else:
        reason = f": {one_line(row.reason)}" if row.reason else ""
        head = f"attempt {row.attempt}: {row.cause} after {took}{reason}"
    lines = [head, f"  on {one_line(row.host)}, slot {row.slot} of {one_line(row.worker)}"]
    if resumed is not None:
        step, checkpoint = resumed
        lines.append(f"  from step {step}, {one_line(checkpoint)}" if checkpoint else "  from the start: no checkpoint")
    if row.log_path:
        lines.append(f"  log {one_line(row.log_path)}")
    return lines
