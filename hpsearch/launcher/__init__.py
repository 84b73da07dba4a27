"""The warm process that ranks are forked from, and how to start one."""

from hpsearch.launcher.preload import imports_of
from hpsearch.launcher.process import LauncherProcess, start

__all__ = ["LauncherProcess", "imports_of", "start"]
