"""hpsearch: distributed hyperparameter search.

A training job needs three names: ``hpsearch.Trial``, ``hpsearch.current`` and ``hpsearch.optimize``.
They are imported on first use, so that ``import hpsearch`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpsearch.api import optimize
    from hpsearch.trial import Trial, current

__version__ = "0.1.0"
__all__ = ["Trial", "__version__", "current", "optimize"]

_HOMES = {"Trial": "hpsearch.trial", "current": "hpsearch.trial", "optimize": "hpsearch.api"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
