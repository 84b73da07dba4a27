"""The study file: YAML, environment and command line to a :class:`~hpsearch.spec.model.StudySpec`.

Nothing of Optuna, torch, Dask or SQLAlchemy is imported before a study is loaded.
"""

from hpsearch.spec.explain import explain
from hpsearch.spec.load import load_study
from hpsearch.spec.model import (
    Budget,
    Checkpoints,
    ClusterSpec,
    Component,
    FailureLimit,
    LogPolicy,
    Metric,
    Objective,
    Plateau,
    Resources,
    Retry,
    StudySpec,
)
from hpsearch.spec.readers import wrong_name
from hpsearch.spec.schema import json_schema

__all__ = [
    "Budget",
    "Checkpoints",
    "ClusterSpec",
    "Component",
    "FailureLimit",
    "LogPolicy",
    "Metric",
    "Objective",
    "Plateau",
    "Resources",
    "Retry",
    "StudySpec",
    "explain",
    "json_schema",
    "load_study",
    "wrong_name",
]
