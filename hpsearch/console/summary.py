"""The last words of a run, the same in every mode: what came out, where to look next, how to go on."""

import re
import shlex
from dataclasses import dataclass

from hpsearch.console.progress import Progress, integer, mapping, real, sequence, text
from hpsearch.console.words import duration, many, number, one_line, shortened

MAX_REASON = 45
MAX_PARAMETERS = 20  # lines of the best trial's parameters; `hpsearch best` has them all
STATES = ("complete", "pruned", "failed", "unfinished")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """How a person asks about this study from the shell."""

    study: str = ""
    program: str = "hpsearch"
    where: str = ""  # options that the look verbs need here: "--storage URL --name N", often none
    storage: str = ""  # without its password; for optuna-dashboard

    def command(self, verb: str) -> str:
        """The command line of one look verb: ``hpsearch logs 7 --name digits``."""
        return " ".join(part for part in (self.program, verb, self.where) if part)


def summary(progress: Progress, hints: Hints) -> list[str]:
    """Lines for a person; empty when the run did not get as far as its end."""
    if progress.ended is None:
        return []
    fields = progress.ended.fields
    lines = ["", *_result(progress), *_best(progress)]
    lines += _labelled("look", _looks(progress, hints))
    resume = text(fields, "resume")
    if resume and (integer(mapping(fields, "counts"), "unfinished") or integer(fields, "exit_code") not in (0, 3)):
        lines += _labelled("resume", [one_line(resume)])
    return lines


def _result(progress: Progress) -> list[str]:
    assert progress.ended is not None
    fields = progress.ended.fields
    counts = mapping(fields, "counts")
    states = ", ".join(f"{n} {state}" for state in STATES if (n := integer(counts, state)))
    ended = sum(integer(counts, state) for state in STATES[:3])
    of_total = f"{ended} of {progress.total}" if progress.total else str(ended)
    trials = f"{of_total} in {duration(real(fields, 'duration_s'))}"
    return [
        f"{one_line(progress.name)}: {one_line(text(fields, 'reason')) or 'ended'}",
        *_labelled("trials", [f"{trials}: {states}" if states else trials]),
    ]


def _best(progress: Progress) -> list[str]:
    best = progress.best
    if best is None:
        return _labelled("best", ["none: no trial succeeded"])
    names = progress.metric_names
    if len(sequence(progress.study, "directions")) > 1:
        return _labelled("best", ["several objectives: `best` of the look commands lists the Pareto front"])
    lines = _labelled("best", [f"{one_line(names[0])} {many(best.values)}, trial {best.trial}"])
    shown = list(best.params.items())[:MAX_PARAMETERS]
    width = max((len(one_line(key)) for key, _ in shown), default=0)
    lines += [f"          {one_line(key):<{width}}  {number(value, digits=6)}" for key, value in shown]
    if len(best.params) > len(shown):
        lines.append(f"          and {len(best.params) - len(shown)} more")
    return lines


def _looks(progress: Progress, hints: Hints) -> list[str]:
    looks = [hints.command("trials")]
    if progress.best is not None:
        looks.insert(0, hints.command("best"))
    if progress.last_failure is not None:
        failure = progress.last_failure
        looks.append(f"{hints.command(f'logs {failure.trial}')}   # {shortened(one_line(failure.reason), MAX_REASON)}")
    if hints.storage:
        looks.append(f"optuna-dashboard {shlex.quote(_driven(hints.storage))}")
    return looks


def _driven(url: str) -> str:
    """A database's URL as Optuna's tools need it: with the PostgreSQL driver that hpsearch comes with."""
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)


def _labelled(label: str, lines: list[str]) -> list[str]:
    first, *rest = lines
    return [f"  {label:<6}  {first}", *(f"          {line}" for line in rest)]
