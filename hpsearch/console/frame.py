"""One frame of the live view, as lines of rich text that fit a width and a height."""

from rich.console import OverflowMethod
from rich.text import Text

from hpsearch.console.progress import Progress, Running, integer, text
from hpsearch.console.summary import Hints
from hpsearch.console.words import duration, many, number, one_line, pairs, sparkline

STYLES = {"running": "cyan", "complete": "green", "pruned": "yellow", "failed": "red"}
MIN_BAR = 10
ROOMY = 72
TAIL = len("  1000/1000 trials  59m59s  ETA 59m59s")


def frame(
    progress: Progress, hints: Hints, width: int, height: int, now: float, *, ascii_only: bool = False
) -> list[Text]:
    """At most ``height`` lines of at most ``width`` cells; slots that do not fit are counted in the last slot line."""
    head = [_progress_line(progress, width, now, ascii_only), _counts_line(progress), _best_line(progress)]
    cut: OverflowMethod = "crop" if ascii_only else "ellipsis"
    foot = [
        _rungs_line(progress),
        _failure_line(progress, hints, width, cut),
        _database_line(progress),
        _draining_line(progress),
    ]
    below = [line for line in foot if line is not None]
    room = height - len(head) - len(below)
    lines = [*head, *_slot_lines(progress, width, room, ascii_only), *below]
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow=cut)
    return lines[: max(height, 1)]


def _progress_line(progress: Progress, width: int, now: float, ascii_only: bool) -> Text:
    total = f"/{progress.total}" if progress.total is not None else ""
    tail = f"  {progress.n_done}{total} trials  {_seconds(progress.elapsed_s(now))}"
    eta = progress.eta_s(now)
    if eta is not None and not progress.draining:
        tail += f"  ETA {_seconds(eta)}"
    if width >= ROOMY:
        tail = tail.ljust(TAIL)  # the bar's length should not follow the length of the numbers
    name = one_line(progress.name)
    fraction = progress.fraction(now)
    line = Text()
    if fraction is None:
        return line.append(name, style="bold").append(tail)
    room = width - len(tail) - 2
    name = name[: max(room - MIN_BAR, 8)]
    bar = max(min(room - len(name), 40), MIN_BAR)
    done = min(int(fraction * bar + 1e-9), bar)
    full, rest = ("#", "-") if ascii_only else ("━", "─")
    line.append(name, style="bold").append("  ")
    return line.append(full * done, style="green").append(rest * (bar - done), style="dim").append(tail)


def _seconds(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole}s" if whole < 60 else duration(whole)


def _counts_line(progress: Progress) -> Text:
    line = Text()
    states = {"running": len(progress.running), **{s: progress.counts[s] for s in ("complete", "pruned", "failed")}}
    for state, n in states.items():
        line.append("  " if line else "").append(f"{n} {state}", style=STYLES[state] if n else "dim")
    earlier = integer(progress.study, "done")
    if earlier:
        line.append(f"  {earlier} from earlier runs", style="dim")
    how = ", ".join(one_line(text(progress.study, key)) for key in ("sampler", "pruner") if text(progress.study, key))
    return line.append(f"  {how}", style="dim") if how else line


def _best_line(progress: Progress) -> Text:
    line = Text()
    best = progress.best
    if best is None:
        return line.append("best    ", style="bold").append("none yet", style="dim")
    names = ", ".join(one_line(name) for name in progress.metric_names)
    line.append("best    ", style="bold").append(many(best.values), style="bold green")
    return line.append(f" {names}  trial {best.trial}  ").append(pairs(best.params), style="dim")


def _slot_lines(progress: Progress, width: int, room: int, ascii_only: bool) -> list[Text]:
    """A heading and a line a slot; running ones first when they do not all fit."""
    if room < 2:
        return []
    slots = _slots(progress)
    hidden = 0
    if len(slots) > room - 1:
        slots.sort(key=lambda slot: slot[2] is None)
        hidden = len(slots) - (room - 2)
        slots = slots[: room - 2]
    names = [_slot_name(worker, slot, progress) for worker, slot, _ in slots]
    column = min(max((len(name) for name in names), default=4), 20)
    metric = one_line(progress.metric_names[0])[:12]
    lines = [Text(f"{'slot':<{column}}  {'trial':>7}  {'step':>7}  {metric:>12}", style="dim")]
    spark = max(min(width - column - 36, 30), 0)
    for name, (_, _, running) in zip(names, slots, strict=True):
        lines.append(_slot_line(name[:column].ljust(column), running, spark, ascii_only))
    if hidden:
        lines.append(Text(f"and {hidden} more", style="dim"))
    return lines


def _slot_line(name: str, running: Running | None, spark: int, ascii_only: bool) -> Text:
    if running is None:
        return Text(name).append(f"  {'idle':>7}", style="dim")
    trial = f"{running.trial}.{running.attempt}" if running.attempt > 1 else str(running.trial)
    step = "-" if running.step is None else str(running.step)
    line = Text(f"{name}  {trial:>7}  {step:>7}  {number(running.value):>12}  ")
    return line.append(sparkline(running.values, spark, ascii_only=ascii_only), style="cyan")


def _slots(progress: Progress) -> list[tuple[str, int, Running | None]]:
    held = {(running.worker, running.slot): running for running in progress.running.values()}
    known = {(worker, slot) for worker, fields in progress.workers.items() for slot in range(integer(fields, "slots"))}
    numbers = progress.worker_numbers
    places = sorted(known | set(held), key=lambda place: (numbers.get(place[0], len(numbers)), place))
    return [(worker, slot, held.get((worker, slot))) for worker, slot in places]


def _slot_name(worker: str, slot: int, progress: Progress) -> str:
    """``host:port/0`` without the scheme; the local cluster's workers by their number, which reads better."""
    address = worker.rpartition("://")[2]
    if address.startswith("127.0.0.1:") and worker in progress.worker_numbers:
        address = f"local{progress.worker_numbers[worker]}"
    return f"{one_line(address)}/{slot}"


def _rungs_line(progress: Progress) -> Text | None:
    rungs = progress.rungs()
    if not rungs:
        return None
    line = Text().append("rungs   ", style="bold")
    return line.append("  ".join(f"step {rung.step}: {rung.n_pruned}/{rung.n_reached} pruned" for rung in rungs))


def _failure_line(progress: Progress, hints: Hints, width: int, cut: OverflowMethod) -> Text | None:
    failure = progress.last_failure
    if failure is None:
        return None
    command = hints.command(f"logs {failure.trial}")
    line = Text().append("failed  ", style="bold red").append(f"trial {failure.trial}: {one_line(failure.reason)}")
    # The command must stay whole: the reason gives way.
    line.truncate(max(width - len(command) - 2, 12), overflow=cut)
    return line.append("  ").append(command, style="bold")


def _database_line(progress: Progress) -> Text | None:
    if not progress.storage_waiting:
        return None
    said = one_line(progress.storage_waiting)
    return Text(f"the database does not answer ({said}): training goes on, results are kept", style="yellow")


def _draining_line(progress: Progress) -> Text | None:
    if not progress.draining:
        return None
    return Text(f"{one_line(progress.draining)}: waiting for running trials; Ctrl-C again kills them", style="yellow")
