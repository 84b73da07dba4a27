"""What a training job sees: its parameters, its place in the gang, its checkpoints, and whether to go on.

:class:`Trial` is an ``optuna.trial.BaseTrial``, so an ordinary Optuna objective runs unchanged. It lives in a rank's
own process and talks to the supervisor in lines of JSON over a socket; nothing of it reaches a database.
"""

from typing import Any

from hpsearch.trial.line import Line, TrialStopped
from hpsearch.trial.script import join
from hpsearch.trial.searched import COLLECTIVE_S, Trial
from hpsearch.trial.stand_in import StandIn

__all__ = ["COLLECTIVE_S", "Line", "StandIn", "Trial", "TrialStopped", "current", "enter"]

_current: Trial | None = None


def current(**defaults: Any) -> Trial:
    """The trial that this process runs, or a stand-in when the script runs by itself.

    Args:
        defaults: parameters of the stand-in; a search has its own. Others that the script suggests get the middle of
            their range, or their first choice.
    """
    return _current or join() or StandIn(defaults)


def enter(trial: Trial) -> None:
    """Make it the trial of this process. For the rank process."""
    global _current
    _current = trial
