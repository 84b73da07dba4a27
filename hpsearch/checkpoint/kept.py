"""The checkpoints of one trial: which are kept, which one is loaded, and the reports that belong to them."""

import contextlib
import logging
import math
import secrets
import sys
from collections import deque
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpsearch.checkpoint.places import Manifest, Place, digest, number_of, step_of
from hpsearch.checkpoint.state import Tree, plain_state, restore, write_tree
from hpsearch.errors import CheckpointError

KEPT = 2  # the one before the last is there for a last one that is damaged, or whose step was never reported
MAX_REPORTS = 256  # that go with a checkpoint; the coordinator has older ones for sure

logger = logging.getLogger(__name__)

Report = tuple[int, float, Mapping[str, float]]  # step, value, more metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a load came to."""

    next_step: int = 0
    path: str = ""  # empty: a fresh start
    unsaid: tuple[Report, ...] = ()  # reports that never reached the coordinator


@dataclass(slots=True, kw_only=True)
class Checkpoints:
    """Saves and loads for one attempt.

    Args:
        place: of this trial alone. Ranks of one attempt at a time write to it: an attempt that was given up and still
            runs, on a host that is cut off, say, may save no more once the next one has.
        attempt: its number.
        rank, world_size: of this process.
        keep: how many of the newest stay, at least 2.
        goal: "minimize" or "maximize": the best one by the reported metric stays, too; "" for none.
        reported_through: the last step of this trial that the coordinator has on record; -1 for none.
        reports_expected: whether trials of this study report at all, as far as is known.
        reports: of this trial, filled by whoever makes them: a later attempt can say again what got lost.
    """

    place: Place
    attempt: int = 1
    rank: int = 0
    world_size: int = 1
    keep: int = KEPT
    goal: str = ""
    reported_through: int = -1
    reports_expected: bool = False
    reports: deque[Report] = field(default_factory=lambda: deque(maxlen=MAX_REPORTS))
    _best: tuple[str, float] | None = None  # name, value
    _saved: int = -1  # last step, by this attempt
    _found: int | None = None  # by which attempt the newest checkpoint was, when this one first looked

    # ------------------------------------------------------------------------------------------- save

    def save(self, state: Mapping[str, Any], step: int) -> str:
        """Write a checkpoint and forget what is no longer kept; returns where it is, "" on ranks that wrote nothing.

        Rank 0 writes. A state with sharded tensors is written by all ranks: each must call this.

        Raises:
            CheckpointError: the state cannot be kept, or the disk refuses; the earlier ones stay as they were.
        """
        tree, shards = plain_state(state)
        if self.rank != 0 and not shards:
            return ""
        beside: list[Path] = []
        try:
            return self._save(tree, shards, step, beside)
        except OSError as error:
            where = self.place.label("").rstrip("/")
            raise CheckpointError(f"cannot save a checkpoint in {where}: {error.strerror or error}") from error
        finally:
            if self.rank == 0 or not self.place.shared:  # what rank 0 is about to rename is not another's to clear away
                for path in beside:
                    self.place.discard(path)

    def reported(self, report: Report) -> None:
        """A report of a step that is saved already: the checkpoint cannot know of it, and a kill must not lose it."""
        if self.rank == 0 and report[0] == self._saved:
            with contextlib.suppress(OSError):
                self.place.note(report)

    def _save(self, tree: Tree, shards: Mapping[str, Any], step: int, beside: list[Path]) -> str:
        name, mark = self._name(step) if not shards else self._agreed_name(step)
        path = self.place.begin(mark)
        beside.append(path)

        def put() -> dict[str, str]:
            if self.rank == 0:
                tree_file = write_tree(path, tree)
                written[tree_file] = digest(path / tree_file)
            self.place.put(path, name, written)
            return written

        written: dict[str, str] = {}
        if not shards:
            files = put()
        else:
            from hpsearch.checkpoint.sharded import all_agree, write_shards

            written.update(write_shards(path, shards))
            files = {file: sha for part in all_agree(put) for file, sha in part.items()}
        if self.rank == 0:
            self._commit(path, name, step, files)
        return self.place.label(name)

    def _name(self, step: int) -> tuple[str, str]:
        names = self.place.names()
        if (newest := self._look(names)) > max(self.attempt, self._found or 0):
            raise CheckpointError(f"attempt {newest} has taken this trial over: attempt {self.attempt} saves no more")
        self.place.sweep(self.attempt)
        return (
            f"{max(map(number_of, names), default=0) + 1:06d}-step-{int(step)}",
            f"{self.attempt}-{secrets.token_hex(8)}",
        )

    def _look(self, names: list[str]) -> int:
        """Which attempt saved last. One beyond ours that was there from the start is of a study before this one."""
        newest = self.place.attempt_of(names[0]) if names else 0
        self._found = newest if self._found is None else self._found
        return newest

    def _agreed_name(self, step: int) -> tuple[str, str]:
        from hpsearch.checkpoint.sharded import agree

        name, mark = agree(lambda: self._name(step))
        return name, mark

    def _commit(self, path: Path, name: str, step: int, files: Mapping[str, str]) -> None:
        earlier = self.place.names()
        # What lies at this step or after it belongs to a way that was left: the trial has gone back before it.
        left = [old for old in earlier if step_of(old) >= step]
        earlier = [old for old in earlier if old not in left]
        self._find_best(earlier)
        best = self._best[0] if self._best else ""
        manifest = {"step": int(step), "attempt": self.attempt, "files": dict(files)}
        manifest |= {"reports": list(self.reports), "best": self._best}
        self.place.commit(path, name, manifest)
        self._saved = step
        for old in [*left, *earlier[self.keep - 1 :]]:
            if old != best:
                self.place.remove(old)

    def _find_best(self, earlier: list[str]) -> None:
        """Judge those before the new one: the report of the new one's own step may be yet to come."""
        if self._best is not None and self._best[0] not in earlier:
            self._best = None
        for name in earlier if self.goal else ():
            values = [value for step, value, _ in self.reports if step <= step_of(name)]
            if not values or math.isnan(values[-1]):
                continue
            sign = 1 if self.goal == "maximize" else -1
            if self._best is None or sign * values[-1] > sign * self._best[1]:
                self._best = (name, values[-1])

    # ------------------------------------------------------------------------------------------- load

    def load(self, state: MutableMapping[str, Any]) -> Loaded:
        """Restore the newest checkpoint that verifies and leaves no step unreported.

        Raises:
            CheckpointError: the checkpoint is sound, but was saved of other objects; or none can be read at the moment.
        """
        name, manifest, unsaid = self._picked()
        if not name or manifest is None:
            return Loaded()
        with self.place.fetched(name) as directory:
            restore(state, directory, self.place.label(name))
        step = int(manifest["step"])
        said = {report[0] for report in self.reports}  # by this attempt itself
        earlier = [report for report in unsaid if report[0] <= step and report[0] not in said]
        self.reports.extendleft(reversed(earlier))
        self._best = tuple(manifest["best"]) if manifest.get("best") else None
        late = tuple(report for report in earlier if report[0] > self.reported_through)
        return Loaded(next_step=step + 1, path=self.place.label(name), unsaid=late)

    def _picked(self) -> tuple[str, Manifest | None, list[Report]]:
        if self.world_size > 1 and _in_a_group():
            from hpsearch.checkpoint.sharded import agree

            picked: tuple[str, Manifest | None, list[Report]] = agree(self._pick)
            return picked
        return self._pick()

    def _pick(self) -> tuple[str, Manifest | None, list[Report]]:
        """The checkpoint to load, its manifest, and the reports made up to the newest one and after.

        A job that saves a step and then reports it may have died in between; its next attempt would never report that
        step. So a newest checkpoint whose step nobody reported is passed over, if the one before it was reported.
        """
        self._look(self.place.names())
        sound = self._sound()
        if not sound:
            return "", None, []
        (name, newest), *before = sound
        told = (*newest.get("reports", ()), *self.place.notes())
        reports = [(int(step), value, metrics) for step, value, metrics in told]
        known = max([self.reported_through, *(step for step, _, _ in reports)])
        if newest["step"] <= known:
            return name, newest, reports
        if before:
            return (*before[0], reports) if before[0][1]["step"] <= known else (name, newest, reports)
        if known < 0 and (newest["step"] == 0 or (number_of(name) == 1 and self.reports_expected)):
            return "", None, []
        return name, newest, reports

    def _sound(self) -> list[tuple[str, Manifest]]:
        """The newest two that verify; damaged ones are removed, so that they do not count among those to keep.

        One that cannot be read now may be sound: it stays, and where there is no other, nothing begins again from 0.
        """
        sound: list[tuple[str, Manifest]] = []
        refused = ""
        for name in self.place.names():
            try:
                manifest = self.place.verified(name)
            except OSError as error:
                refused = refused or f"cannot read checkpoint {self.place.label(name)}: {error.strerror or error}"
                logger.warning("%s", refused)
                continue
            if manifest is not None:
                sound.append((name, manifest))
                if len(sound) == 2 or manifest["step"] <= self.reported_through:
                    break
                continue
            logger.warning("checkpoint %s is damaged: using the one before it", self.place.label(name))
            if self.rank == 0:
                with contextlib.suppress(OSError):
                    self.place.remove(name)
        if refused and not sound:
            raise CheckpointError(refused)
        return sound


def _in_a_group() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()
