"""Study files by chance: broken ones are refused in words and in time, good ones mean what they say."""

import json
import os
import random
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from hpsearch.errors import StudyFileError
from hpsearch.spec import explain, load_study
from hpsearch.spec.tree import Node, Report
from hpsearch.spec.yamlfile import parse, parse_value

ROOT = Path(__file__).parents[2]
WHOLE = """\
name: whole
objective: train.py:train
metric: {name: accuracy, goal: maximize, target: 0.99}
parameters:
  lr: {min: 1e-4, max: 1.0, log: true}
  optimizer: &choices [sgd, adamw]
  momentum: {min: 0.0, max: 0.99, when: {optimizer: sgd}}
  layers: {values: {small: [64, 64], big: [256, 256]}, when: {optimizer: *choices}}
  head: {when: {optimizer: [adamw]}, parameters: {width: {min: 16, max: 256, step: 16}, drop: {value: 0.1}}}
  epochs: 20
sampler: {cmaes: {n_startup_trials: 5, independent_sampler: {random: {seed: 1}}}}
pruner: {patient: {wrapped: {hyperband: {max_resource: 20}}, patience: 2}}
budget: {trials: 60, time: 1h30m, plateau: {trials: 9, min_delta: 0.1}, failures: 20%}
resources: {ranks: 1, gpus_per_rank: auto, cpus: 2, memory: 2GB, time: 5m, no_progress: 60, grace: 5s}
retry: {max: 2, on: [lost, oom]}
storage: postgresql://me@host/studies
cluster: {kind: address, address: "tcp://host:8786"}
seed: 7
directory: runs
"""
SHORT = """\
# a study
objective: train.py:train
metric:
  - name: accuracy
    goal: maximize
  - {name: size, goal: minimize}
parameters:
    a: {min: 0, max: 8, step: 2, type: int}
    b: [1, 2.5, 'three', ~]
sampler: {grid: {search_space: {a: [0, 2], b: [1]}}}
pruner: none
budget: {trials: 60}
"""
DEFINE_BY_RUN = "{objective: train.py:train, metric: {goal: minimize}, budget: {time: 90}, pruner: asha}\n"
BASES = [WHOLE, *[SHORT] * 3, *[DEFINE_BY_RUN] * 3]  # time goes by length
TOKENS = [
    *(
        ": ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "\n",
        "\t",
        "  ",
        "#",
        "'",
        '"',
        "|\n",
        ">",
        "?",
        "=",
        "@",
        "`",
        "\\",
        "\\x",
    ),
    *("&a ", "*a", "<<: ", "!!python/object:os.system ", "!!int ", "%YAML 1.1\n", "---\n", "...\n"),
    *("\0", "\x85", "\u2028", "\ufeff", "\U0001f600", "\ud800", '"\\ud800"'),
    *("null", "true", "no", ".nan", "-.inf", "1e999", "-1", "0x", "1_0", "9" * 30, "9" * 500, "a" * 200),
    *("trials", "min", "when", "parameters", "tpe", "module:Class", "os:path", "train.py:train", "/", ".."),
    *("5m", "2GB", "50%", "sqlite:///x"),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**53 + 1, 10**20, 10**390),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf")),
    *("", " ", "x", "sgd", "train.py:train", "auto", "10m", "2GB", "20%", "a.b", "a/b", "\0", "x" * 200),
    *([], [1], [[1]], [None], {}, {"a": 1}, {"min": 1, "max": 2}, {"min": 2, "max": 1}),
    *({"tpe": {}}, {"asha": {"min_resource": 3}}, {"values": {"a": [1]}}),
]


@pytest.fixture(scope="module", autouse=True)
def _here() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        Path("train.py").write_text("def train(trial):\n    return 1.0\n")
        yield
        os.chdir(before)


def mutated_text(text: str, chance: random.Random) -> bytes:
    """A few bytes, lines or tokens of a study file changed, as by a slip of the hand or a bad disk."""
    data = text.encode()
    for _ in range(chance.randint(1, 4)):
        kind, at, other = chance.randint(0, 6), chance.getrandbits(16), chance.getrandbits(16)
        lines = data.split(b"\n")
        line, place = at % len(lines), at % (len(data) + 1)
        match kind:
            case 0:
                data = data[:place] + bytes([other % 256]) + data[place + 1 :]
            case 1:
                data = data[:place] + data[place + 1 + other % 8 :]
            case 2:
                data = b"\n".join(lines[:line] + lines[line + 1 :])
            case 3:
                data = b"\n".join([*lines[: line + 1], *lines[line:]])
            case 4:
                lines[line], lines[other % len(lines)] = lines[other % len(lines)], lines[line]
                data = b"\n".join(lines)
            case _:
                token = TOKENS[other % len(TOKENS)].encode(errors="surrogatepass")
                data = data[:place] + token + data[place + (other >> 8) % 6 :]
    return data


def plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container with a key or an index into it."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    return [(tree, key) for key in keys] + [place for key in keys for place in places(tree[key])]


TREES = {base: json.dumps(plain(parse(base, "x", Report()))) for base in BASES}


def mutated_tree(text: str, chance: random.Random) -> bytes:
    """Values of a study file replaced by others, of other types or from elsewhere in it. JSON is YAML."""
    tree = json.loads(TREES[text])
    for _ in range(chance.randint(1, 4)):
        kind, at, other = chance.randint(0, 3), chance.getrandbits(16), chance.getrandbits(16)
        found = places(tree)
        if not found:
            break
        container, key = found[at % len(found)]
        from_container, from_key = found[other % len(found)]
        match kind:
            case 0:
                container[key] = json.loads(json.dumps(from_container[from_key]))
            case 1:
                del container[key]
            case _:
                container[key] = json.loads(json.dumps(VALUES[other % len(VALUES)]))
    words = json.dumps(tree).replace("NaN", ".nan").replace("Infinity", ".inf")
    return words.encode()


def check_words(error: StudyFileError, begins: tuple[str, ...]) -> None:
    """One line a problem, each at a place, none that a terminal would stumble over."""
    lines = str(error).split("\n")
    assert len(lines) == len(error.problems)
    assert all(line.isprintable() and len(line) < 1000 and line.startswith(begins) for line in lines)


@pytest.mark.timeout(600)
@settings(max_examples=10_000, deadline=timedelta(seconds=10), suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_a_mutated_study_is_read_or_refused_in_words(seed):
    # One draw an example: drawing each mutation would take longer than reading the file.
    chance = random.Random(seed)
    mutate = chance.choice([mutated_tree, mutated_text])
    content = mutate(chance.choice(BASES), chance)
    note(repr(content))
    Path("study.yaml").write_bytes(content)
    try:
        spec = load_study("study.yaml", environ={})
    except StudyFileError as error:
        check_words(error, ("study.yaml", "and "))
    else:
        assert explain(spec)
        assert spec.parameters.difference(spec.parameters.to_json()) == []
        json.dumps(spec.parameters.constants).encode()


# ruamel folds these as YAML 1.1's line breaks
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | TEXT


@settings(max_examples=200, deadline=timedelta(seconds=10))
@given(
    text=st.text(max_size=40), key=st.sampled_from(["parameters.lr", "seed", "budget.trials", "sampler", "name", "x.y"])
)
def test_an_override_is_read_or_refused_in_words(text, key):
    Path("study.yaml").write_text(DEFINE_BY_RUN)
    try:
        load_study("study.yaml", [f"{key}={text}"], environ={})
    except StudyFileError as error:
        check_words(error, ("study.yaml", "command line"))


@settings(max_examples=300, deadline=timedelta(seconds=10))
@given(
    value=st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
)
def test_json_is_read_as_yaml(value):
    try:
        node = parse_value(json.dumps(value, ensure_ascii=False), "command line")
    except StudyFileError:
        return  # characters that JSON escapes one by one
    assert plain(node) == value


@st.composite
def spaces(draw: Any) -> dict[str, Any]:
    """A search space as plain data, conditions pointing both ways in the order of the names."""
    names = draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True))
    parameters: dict[str, Any] = {}
    for index, name in enumerate(names):
        low = draw(st.integers(1, 9))
        step = draw(st.integers(1, 3))
        n = draw(st.integers(0, 5))
        shape = draw(
            st.sampled_from(
                [
                    {"min": low, "max": low + step * n, "step": step},
                    {"min": low, "max": low + n, "log": True},
                    {"min": low / 4, "max": low / 4 + n},
                    {"values": ["p", "q", low]},
                    {"values": {"p": [1], "q": {"r": low}}},
                ]
            )
        )
        choosers = [other for other in names[:index] if "values" in parameters.get(other, {})]
        if choosers and draw(st.booleans()):
            parent = draw(st.sampled_from(choosers))
            shape = {**shape, "when": {parent: draw(st.sampled_from(["p", ["p", "q"]]))}}
        parameters[name] = shape
    order = draw(st.permutations(list(parameters)))
    return {name: parameters[name] for name in order}


@settings(max_examples=200, deadline=timedelta(seconds=10))
@given(parameters=spaces(), seed=st.integers(0, 99))
def test_a_good_space_is_asked_in_order_and_resolved(parameters, seed):
    study_file = {
        "objective": "train.py:train",
        "metric": {"goal": "minimize"},
        "budget": {"trials": 1},
        "parameters": parameters,
    }
    Path("study.yaml").write_text(json.dumps(study_file))
    space = load_study("study.yaml", environ={}).parameters
    assert {parameter.name for parameter in space} == parameters.keys()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    trial = study.ask()
    for parameter in space:
        if space.active(parameter.name, trial.params):
            trial._suggest(parameter.name, parameter.distribution)
    for name, shape in parameters.items():
        parents = shape.get("when", {})
        holds = all(
            trial.params.get(parent) in (values if isinstance(values, list) else [values])
            for parent, values in parents.items()
        )
        assert (name in trial.params) == holds
    resolved = space.resolve(trial.params)
    assert resolved.keys() == trial.params.keys()
    for name, value in trial.params.items():
        labels = parameters[name].get("values")
        assert resolved[name] == (labels[value] if isinstance(labels, dict) else value)
