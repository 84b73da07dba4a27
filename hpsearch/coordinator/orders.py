"""What a rank is given to run: its assignment, limits and places on disk."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpsearch.coordinator.proposals import Proposal
from hpsearch.events import Launch, Seat
from hpsearch.spec import StudySpec
from hpsearch.supervisor.keeper import Limits


class Orders:
    """Writes the orders of one study."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec
        self._root = Path(spec.directory).absolute() / spec.name

    def trial_directory(self, trial: int) -> Path:
        """Files of a trial, of all its attempts."""
        return self._root / f"trial-{trial:04d}"

    def checkpoints_of(self, trial: int) -> str:
        """Path or URL of a trial's checkpoints, of all its attempts."""
        if (url := self._spec.checkpoints.url) is not None:
            return f"{url.rstrip('/')}/{self._spec.name}/trial-{trial:04d}"
        return str(self.trial_directory(trial) / "checkpoints")

    def log_path(self, trial: int, attempt: int, rank: int) -> Path:
        """Where stdout and stderr of one rank go."""
        return self.trial_directory(trial) / f"attempt-{attempt}" / f"rank-{rank}.log"

    def order(self, launch: Launch, seat: Seat, proposal: Proposal) -> dict[str, Any]:
        """The argument of the Dask task beside one rank; plain JSON data."""
        spec, resources = self._spec, self._spec.resources
        limits = Limits(
            time_s=resources.time_s,
            no_progress_s=resources.no_progress_s,
            memory_bytes=resources.memory_bytes,
            grace_s=resources.grace_s,
        )
        return {
            "assignment": self._assignment(launch, seat, proposal),
            "limits": asdict(limits),
            "log_path": str(self.log_path(launch.trial, launch.attempt, seat.rank)),
            "study": spec.name,
        }

    def _assignment(self, launch: Launch, seat: Seat, proposal: Proposal) -> dict[str, Any]:
        spec, objective = self._spec, self._spec.objective
        return {
            "op": "assignment",
            "study": spec.name,
            "trial": launch.trial,
            "attempt": launch.attempt,
            "rank": seat.rank,
            "local_rank": seat.local_rank,
            "world_size": len(launch.seats),
            "params": spec.parameters.resolve(proposal.params),
            "distributions": proposal.distributions,
            "user_attrs": proposal.user_attrs,
            "seed": None if spec.seed is None else spec.seed + launch.trial,
            "objective": objective.as_message(),
            # Set before torch is asked anything; an empty list hides what the trial did not ask for.
            "env": {"CUDA_VISIBLE_DEVICES": ",".join(seat.gpus)},
            "cwd": str(Path.cwd()),
            "directory": str(self.trial_directory(launch.trial)),
            "checkpoints": {
                "at": self.checkpoints_of(launch.trial),
                "keep": spec.checkpoints.keep,
                "keep_best": spec.checkpoints.keep_best,
            },
            "reported_through": proposal.reported_through,
            "reports_expected": proposal.reports_expected,
            "next_decision_step": launch.next_step,
            "n_objectives": len(spec.metrics),
            "directions": [metric.goal for metric in spec.metrics],
            "memory_bytes": spec.resources.memory_bytes,
            "datetime_start": proposal.datetime_start,
            "sys_path": [entry for entry in sys.path if entry],
        }
