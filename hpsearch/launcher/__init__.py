"""The warm process that ranks are forked from, and how to start one."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from hpsearch.launcher.preload import imports_of
from hpsearch.launcher.process import LauncherProcess, rank_environment, start

__all__ = ["LauncherProcess", "imports_of", "rank_environment", "start", "warm_up"]


def warm_up(objective: Mapping[str, str], cpus_per_rank: int) -> LauncherProcess:
    """Start a launcher on this machine for the ranks of one objective.

    It takes longest of all that a search needs, so whoever starts a search begins with this.
    """
    return start(imports_of(objective), Path(tempfile.gettempdir()), rank_environment(cpus_per_rank))
