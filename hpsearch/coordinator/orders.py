"""What a rank is given to run: its assignment, limits and places on disk."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpsearch.coordinator.proposals import Proposal
from hpsearch.events import Launch, Seat
from hpsearch.rendezvous import environment
from hpsearch.spec import StudySpec
from hpsearch.supervisor.keeper import Limits
from hpsearch.trial import COLLECTIVE_S


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
            # The others may have nothing to report, and wait for rank 0 in the next collective.
            no_progress_s=resources.no_progress_s if seat.rank == 0 else None,
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
        params = spec.parameters.resolve(proposal.params)
        return {
            "op": "assignment",
            "study": spec.name,
            "trial": launch.trial,
            "attempt": launch.attempt,
            "rank": seat.rank,
            "local_rank": seat.local_rank,
            "world_size": len(launch.seats),
            "params": params,
            "distributions": proposal.distributions,
            "user_attrs": proposal.user_attrs,
            "seed": None if spec.seed is None else spec.seed + launch.trial,
            "objective": {**objective.as_message(), **self._program(params)},
            "env": self._env(launch, seat),
            "device": self._devices(launch, seat).index(seat.gpus[0]) if seat.gpus else 0,
            "gpu_fraction": self._gpu_fraction(seat),
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
            # Later than our own deadline, which ends the gang in clearer words.
            "collective_s": 2 * spec.resources.no_progress_s if spec.resources.no_progress_s else COLLECTIVE_S,
            "n_objectives": len(spec.metrics),
            "directions": [metric.goal for metric in spec.metrics],
            "memory_bytes": spec.resources.memory_bytes,
            "datetime_start": proposal.datetime_start,
            "sys_path": [entry for entry in sys.path if entry],
        }

    def _program(self, params: dict[str, Any]) -> dict[str, Any]:
        """What runs in place of a function, if anything does."""
        command = self._spec.objective.command
        if command is None:
            return {}
        return {"arguments": command.arguments(params), "pattern": self._spec.metrics[0].pattern}

    def _env(self, launch: Launch, seat: Seat) -> dict[str, str]:
        """Set before torch is asked anything; an empty list of devices hides what the trial did not ask for."""
        run_id = f"{self._spec.name}-{launch.trial}-{launch.attempt}"
        torchrun = environment(
            launch.seats, seat.rank, run_id=run_id, attempt=launch.attempt, max_attempts=self._spec.retry.max + 1
        )
        env = {"CUDA_VISIBLE_DEVICES": ",".join(self._devices(launch, seat))}
        # A script that knows nothing of hpsearch takes these for a sign that it is one of several.
        if self._spec.objective.command is None or len(launch.seats) > 1:
            env |= torchrun
        if fraction := self._gpu_fraction(seat):  # for libraries that take most of a device unless they are told
            env |= {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{fraction:g}", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        return env

    def _devices(self, launch: Launch, seat: Seat) -> tuple[str, ...]:
        """A rank sees its own GPUs; a script one more each for its neighbours, if all have one.

        As under torchrun it then finds its own by ``torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))``, which every
        script for several GPUs does. The others belong to the same gang and to nobody else.
        """
        here = sorted((one for one in launch.seats if one.host == seat.host), key=lambda one: one.local_rank)
        if self._spec.objective.command is None or self._gpu_fraction(seat) or any(len(one.gpus) != 1 for one in here):
            return seat.gpus
        return tuple(gpu for one in here for gpu in one.gpus)

    def _gpu_fraction(self, seat: Seat) -> float | None:
        """Part of its only device that a rank may use; None for all of it, or of none."""
        gpus = self._spec.resources.gpus_per_rank
        return gpus if isinstance(gpus, float | int) and 0 < gpus < 1 and seat.gpus else None
