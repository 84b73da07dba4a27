"""The trial of a program that a search started by its command line: reached through a socket."""

import os
import sys
from types import TracebackType

from optuna import TrialPruned

from hpsearch.report import SOCKET, connect
from hpsearch.trial.line import Line, TrialStopped
from hpsearch.trial.searched import Trial

_joined: dict[int, "ScriptTrial"] = {}  # by process: one that was forked needs a connection of its own


class ScriptTrial(Trial):
    """As any other trial; asking whether it is pruned also says that the program ends itself when it is."""

    _asks = False

    def should_prune(self) -> bool:
        """See :meth:`Trial.should_prune`."""
        if not self._asks:
            self._asks = True
            self._say({"op": "asks"})
        return super().should_prune()


def join() -> Trial | None:
    """The trial that this process is part of; None if the environment names none.

    Raises:
        TrialStopped: it is over.
    """
    name = os.environ.get(SOCKET, "")
    if not name:
        return None
    if (pid := os.getpid()) not in _joined:
        try:
            line = Line(connect(name))
            line.send({"op": "hello"})
            trial = ScriptTrial(line.assignment(), line)
        except (OSError, EOFError):
            raise TrialStopped("the trial of this process is over") from None
        _joined[pid] = trial
        _say_how_it_ends(line)
    return _joined[pid]


def _say_how_it_ends(line: Line) -> None:
    """TrialPruned and TrialStopped end a program in order: they are told, and not shown as a crash."""
    before = sys.excepthook
    pid = os.getpid()

    def hook(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        word = "pruned" if issubclass(kind, TrialPruned) else "stopped" if issubclass(kind, TrialStopped) else ""
        if not word or os.getpid() != pid:
            before(kind, error, where)
            return
        try:
            line.send({"op": word})
        except OSError:
            before(kind, error, where)

    sys.excepthook = hook
