"""The study in a database: read from memory, written behind by one thread, readable by every Optuna tool."""

from hpsearch.storage.attempts import AttemptRow, StudyRecord
from hpsearch.storage.connect import label, load_study, optuna_url
from hpsearch.storage.holder import identity
from hpsearch.storage.mirror import Mirror
from hpsearch.storage.requests import Request, send_request
from hpsearch.storage.study import StudyStore, open_study, peek

__all__ = [
    "AttemptRow",
    "Mirror",
    "Request",
    "StudyRecord",
    "StudyStore",
    "identity",
    "label",
    "load_study",
    "open_study",
    "optuna_url",
    "peek",
    "send_request",
]
