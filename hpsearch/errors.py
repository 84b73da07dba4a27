"""Everything hpsearch raises on purpose.

::

    HpsearchError                    exit code 1
    ├── UsageError                   2   the command line or a Python call cannot be meant
    │   ├── StudyFileError           2   every problem of a study file at once
    │   ├── SpaceChanged             2   the study was begun with another search space
    │   └── NoSuchStudy              2   no study of that name in this storage
    ├── OutOfReach                   5
    │   ├── StorageUnreachable       5   database, directory or driver
    │   ├── StudyHeld                5   another coordinator runs this study
    │   ├── ClusterUnreachable       5   scheduler, or no worker came
    │   └── GangTooLarge             5   no cluster like this could ever hold it
    ├── StorageFailed                1   a write was refused for good
    ├── ComponentFailed              1   a sampler or pruner raised
    └── CheckpointError              1   a checkpoint is damaged or cannot be written

Each carries its data, survives pickling, and its message says what to do next.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class HpsearchError(Exception):
    """Root of the tree; ``exit_code`` is what ``hpsearch run`` ends with."""

    exit_code = 1


class UsageError(HpsearchError):
    """The request itself is wrong; nothing was started and nothing written."""

    exit_code = 2


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong in a study file, at a place a person can go to."""

    where: str  # "study.yaml:12:9", "command line", "environment HPSEARCH_SEED"
    key: str  # "parameters.lr.min"; "" when the whole file is meant
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.message) if part)


class StudyFileError(UsageError):
    """All problems of one study file, one line each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class SpaceChanged(UsageError):
    """The study was begun with another search space; ``differences`` has a line for each change."""

    def __init__(self, study: str, differences: Sequence[str]) -> None:
        super().__init__(study, tuple(differences))
        self.study = study
        self.differences = tuple(differences)

    def __str__(self) -> str:
        changes = "; ".join(self.differences)
        return (
            f"study {self.study!r} was begun with another search space ({changes}): "
            "give it another --name, or --fresh to delete it and start over"
        )


class NoSuchStudy(UsageError):
    """No study of that name here; ``known`` are the names that exist."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(name, tuple(known))
        self.name = name
        self.known = tuple(known)

    def __str__(self) -> str:
        known = ", ".join(self.known) if self.known else "none yet"
        return f"no study {self.name!r} in this storage (it has: {known})"


class OutOfReach(HpsearchError):
    """Something outside hpsearch that the run needs is not there."""

    exit_code = 5


class StorageUnreachable(OutOfReach):
    """The database cannot be opened; never carries the password."""


class ClusterUnreachable(OutOfReach):
    """No scheduler at the address, or no worker came in time."""


class StudyHeld(OutOfReach):
    """Another coordinator runs this study; ``holder`` says who and since when."""

    def __init__(self, study: str, holder: str) -> None:
        super().__init__(study, holder)
        self.study = study
        self.holder = holder

    def __str__(self) -> str:
        return f"study {self.study!r} is being run by {self.holder}: wait, `hpsearch stop`, or --take-over"


class GangTooLarge(OutOfReach):
    """The request could never be placed here; ``largest`` is what could be."""

    def __init__(self, request: str, largest: str) -> None:
        super().__init__(request, largest)
        self.request = request
        self.largest = largest

    def __str__(self) -> str:
        return f"a trial asks for {self.request}, but the largest that fits on this cluster is {self.largest}"


class StorageFailed(HpsearchError):
    """A write was refused for good; the run cannot go on without losing data."""


class ComponentFailed(HpsearchError):
    """A sampler or a pruner raised; the search is stopped where it was and can go on with another."""


class CheckpointError(HpsearchError):
    """A checkpoint is damaged or could not be written."""
