"""The best parameters, written for a person, a program or a command line."""

import io
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpsearch.cli.pages import metric_names
from hpsearch.console.words import one_line

if TYPE_CHECKING:
    from hpsearch.views import StudySummary, TrialView


def written(study: "StudySummary", front: Sequence["TrialView"], space_json: str, format: str) -> str:
    """The parameters of one trial, or of several on a Pareto front, with a line end."""
    params = [resolved(space_json, trial.params) for trial in front]
    match format:
        case "json":
            entries = [_entry(study, trial, p) for trial, p in zip(front, params, strict=True)]
            # A study with several objectives has a front, however many trials are on it.
            answer = entries if len(study.directions) > 1 else entries[0]
            return json.dumps(answer, indent=2, allow_nan=False) + "\n"
        case "args":
            return "".join(arguments(p) + "\n" for p in params)
        case _:
            documents = [_yaml(study, trial, p) for trial, p in zip(front, params, strict=True)]
            return "---\n".join(documents)


def resolved(space_json: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """What the objective saw: with constants, and labels replaced by the values that they stand for.

    ``space_json`` is the space as it is kept with the study; "" where hpsearch never ran it.
    """
    space = json.loads(space_json) if space_json else {"constants": {}, "parameters": {}}
    answer = dict(space["constants"])
    for name, value in params.items():
        labels = space["parameters"].get(name, {}).get("labels", {})
        answer[name] = labels.get(value if isinstance(value, str) else json.dumps(value), value)
    return answer


def arguments(params: Mapping[str, Any]) -> str:
    """``--lr=0.01 --width=128``, quoted for a shell."""
    words = []
    for name, value in params.items():
        text = value if isinstance(value, str) else json.dumps(value)
        words.append(shlex.quote(f"--{name}={text}"))
    return " ".join(words)


def _entry(study: "StudySummary", trial: "TrialView", params: Mapping[str, Any]) -> dict[str, Any]:
    values = [value if math.isfinite(value) else None for value in trial.values]
    return {
        "study": study.name,
        "trial": trial.number,
        "values": dict(zip(metric_names(study), values, strict=False)),
        "params": dict(params),
    }


def _yaml(study: "StudySummary", trial: "TrialView", params: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    values = ", ".join(f"{name} {value:.10g}" for name, value in zip(metric_names(study), trial.values, strict=False))
    stream = io.StringIO()
    stream.write(f"# {one_line(study.name)}, trial {trial.number}: {one_line(values)}\n")
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # as declared
    yaml.allow_unicode = True
    yaml.dump(dict(params), stream)
    return stream.getvalue()
