"""What a good study file means."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from spec_files import BASE, TRAIN, loaded

from hpsearch.space import Parameter, Space
from hpsearch.spec import (
    Budget,
    ClusterSpec,
    Component,
    FailureLimit,
    Metric,
    Objective,
    Plateau,
    Resources,
    Retry,
    load_study,
)
from hpsearch.spec.units import duration_words, parse_duration, parse_size, size_words
from hpsearch.spec.yamlfile import resolve

DESIGN = """\
name: digits
objective: train.py:train
metric: {name: accuracy, goal: maximize, target: 0.99}
parameters:
  lr: {min: 1e-4, max: 1.0, log: true}
  width: {min: 16, max: 256, log: true}    # two ints: an int range
  batch_size: [32, 64, 128]                # a list: categorical
  optimizer: [sgd, adamw]
  momentum: {min: 0.0, max: 0.99, when: {optimizer: sgd}}
  epochs: 20                               # a scalar: constant
sampler: tpe
pruner: {asha: {min_resource: 1, max_resource: 20, reduction_factor: 3}}
budget: {trials: 60, time: 10m}            # trials = the total, however often it is run
resources: {ranks: 1, gpus_per_rank: auto, memory: 2GB, time: 5m}
retry: {max: 2, on: [lost, oom, timeout]}
storage: sqlite:///studies.db
cluster: {kind: local}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(TRAIN)


def test_a_whole_study():
    spec = loaded("", base=DESIGN)
    assert spec.name == "digits"
    assert spec.objective == Objective(kind="file", target=str(Path.cwd() / "train.py"), function="train")
    assert spec.objective.label == "train.py:train"
    assert spec.metrics == (Metric(name="accuracy", goal="maximize", target=0.99),)
    assert spec.sampler == Component(name="tpe")
    assert spec.pruner == Component(
        name="asha", arguments={"min_resource": 1, "max_resource": 20, "reduction_factor": 3}
    )
    assert spec.budget == Budget(trials=60, time_s=600.0)
    assert spec.resources == Resources(memory_bytes=2_000_000_000, time_s=300.0)
    assert spec.retry == Retry(max=2, on=frozenset({"lost", "oom", "timeout"}))
    assert spec.storage == "sqlite:///studies.db"
    assert spec.cluster == ClusterSpec(kind="local")
    assert spec.source_text.startswith("name: digits")
    assert spec.parameters.constants == {"epochs": 20}
    assert spec.parameters.declared == (
        Parameter(name="lr", distribution=FloatDistribution(1e-4, 1.0, log=True)),
        Parameter(name="width", distribution=IntDistribution(16, 256, log=True)),
        Parameter(name="batch_size", distribution=CategoricalDistribution((32, 64, 128))),
        Parameter(name="optimizer", distribution=CategoricalDistribution(("sgd", "adamw"))),
        Parameter(name="momentum", distribution=FloatDistribution(0.0, 0.99), when=(("optimizer", ("sgd",)),)),
    )


def test_what_is_not_given_has_a_default():
    spec = loaded("")
    assert spec.name == "study"
    assert spec.parameters == Space()
    assert spec.sampler == Component(name="tpe")
    assert spec.pruner == Component(name="median")
    assert (spec.resources, spec.retry, spec.cluster) == (Resources(), Retry(), ClusterSpec())
    assert (spec.storage, spec.directory, spec.seed) == ("sqlite:///studies.db", "runs", None)


def test_several_metrics():
    text = BASE.replace("{name: accuracy, goal: maximize}", "[{name: a, goal: maximize}, {name: b, goal: minimize}]")
    spec = loaded("", base=text)
    assert spec.metrics == (Metric(name="a", goal="maximize"), Metric(name="b", goal="minimize"))
    assert spec.pruner == Component(name="none")


PARAMETERS = {
    "{min: 1, max: 8}": IntDistribution(1, 8),
    "{min: 1, max: 8, type: float}": FloatDistribution(1.0, 8.0),
    "{min: 1, max: 8.0}": FloatDistribution(1.0, 8.0),
    "{min: 1e1, max: 1e3, type: int}": IntDistribution(10, 1000),
    "{min: 0, max: 8, step: 2}": IntDistribution(0, 8, step=2),
    "{min: 0, max: 1, step: 0.1}": FloatDistribution(0.0, 1.0, step=0.1),
    "{min: -5, max: -5}": IntDistribution(-5, -5),
    "{min: 1e-5, max: 1, log: true}": FloatDistribution(1e-5, 1.0, log=True),
    "{min: 1, max: 1024, log: true}": IntDistribution(1, 1024, log=True),
    "{min: 0, max: 1, log: false}": IntDistribution(0, 1),
    "[2, 2.5, x, true, no]": CategoricalDistribution((2, 2.5, "x", True, "no")),
    "[a, null]": CategoricalDistribution(("a", None)),
    "[1, 2, .inf]": CategoricalDistribution((1, 2, math.inf)),
    "{values: [a, b]}": CategoricalDistribution(("a", "b")),
    "{values: {small: [64, 64], big: {n: 256}}}": CategoricalDistribution(("small", "big")),
}


@pytest.mark.parametrize("text", PARAMETERS)
def test_a_parameter(text):
    [parameter] = loaded(f"parameters: {{p: {text}}}").parameters.declared
    assert parameter.name == "p"
    assert parameter.distribution == PARAMETERS[text]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20", 20),
        ("1e-5", 1e-5),
        ("no", "no"),
        ("true", True),
        ("'20'", "20"),
        ("{value: [1, 2]}", [1, 2]),
        ("{value: {a: 1}}", {"a": 1}),
        ("2026-01-01", "2026-01-01"),
    ],
)
def test_a_constant(text, value):
    space = loaded(f"parameters: {{p: {text}}}").parameters
    assert space.declared == ()
    assert space.constants == {"p": value}


def test_labels_stand_for_values():
    space = loaded("parameters: {layers: {values: {small: [64, 64], big: [256, 256]}}}").parameters
    assert space.resolve({"layers": "big"}) == {"layers": [256, 256]}


def test_groups_are_joined_by_dots_and_share_their_condition():
    space = loaded(
        """\
parameters:
  model:
    when: {kind: net}
    parameters:
      width: [1, 2]
      drop: {parameters: {rate: {min: 0.0, max: 1.0, when: {model.width: 2}}}}
      depth: 3
  kind: [net, tree]
"""
    ).parameters
    assert [parameter.name for parameter in space] == ["kind", "model.width", "model.drop.rate"]
    assert space["model.width"].when == (("kind", ("net",)),)
    assert dict(space["model.drop.rate"].when) == {"kind": ("net",), "model.width": (2,)}
    assert space.constants == {"model.depth": 3}


def test_parents_come_before_their_children():
    space = loaded(
        """\
parameters:
  c: {values: [1, 2], when: {b: [1, 2]}}
  b: {values: [1, 2, 3], when: {a: 1}}
  a: {min: 0, max: 5}
"""
    ).parameters
    assert [parameter.name for parameter in space] == ["a", "b", "c"]
    assert space["c"].when == (("b", (1, 2)),)


def test_a_constant_decides_a_condition_beforehand():
    text = "parameters: {o: [sgd, adamw], m: {min: 0, max: 1, when: {o: sgd}}, n: {min: 0, max: 1, when: {m: 1}}}"
    assert [parameter.name for parameter in loaded(text, "parameters.o=sgd").parameters] == ["m", "n"]
    assert loaded(text, "parameters.o=sgd").parameters["m"].when == ()
    assert loaded(text, "parameters.o=adamw").parameters.declared == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{trials: 5}", Budget(trials=5)),
        ("{time: 1h30m}", Budget(time_s=5400.0)),
        ("{time: 90}", Budget(time_s=90.0)),
        ("{trials: 1e3, failures: 10}", Budget(trials=1000, failures=FailureLimit(count=10))),
        ("{trials: 5, failures: 20%}", Budget(trials=5, failures=FailureLimit(percent=20.0))),
        ("{trials: 5, plateau: {trials: 3}}", Budget(trials=5, plateau=Plateau(trials=3))),
    ],
)
def test_a_budget(text, expected):
    assert loaded("", base=BASE.replace("{trials: 10}", text)).budget == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{cpus: 2}", Resources(cpus_per_rank=2)),
        ("{cpus_per_rank: 2, gpus_per_rank: 0.5}", Resources(cpus_per_rank=2, gpus_per_rank=0.5)),
        ("{no_progress: 2m, grace: 0}", Resources(no_progress_s=120.0, grace_s=0.0)),
        ("{memory: 500MB, ranks: 4}", Resources(memory_bytes=500_000_000, ranks=4)),
        ("{memory: null}", Resources()),
    ],
)
def test_resources(text, expected):
    assert loaded(f"resources: {text}").resources == expected


def test_an_address_says_what_kind_of_cluster_it_is():
    assert loaded("cluster: {address: 'tcp://host:8786'}").cluster == ClusterSpec(
        kind="address", address="tcp://host:8786"
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400), ("45", 45), ("250ms", 0.25)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "1x", "1h30", "-5m", "1h,5m", "1e3s"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("2GB", 2 * 10**9), ("2GiB", 2**31), ("500MB", 5 * 10**8), ("1.5kB", 1500), ("7", 7), ("3 mib", 3 * 2**20)],
)
def test_sizes(text, n_bytes):
    assert parse_size(text) == n_bytes


def test_quantities_in_words():
    assert [duration_words(seconds) for seconds in (0, 0.5, 90, 5400, 172800)] == ["0s", "0.5s", "1m30s", "1h30m", "2d"]
    assert [size_words(n) for n in (12, 1500, 2 * 10**9)] == ["12 bytes", "1.5 kB", "2 GB"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1.", 1.0),
        (".5", 0.5),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("-.inf", -math.inf),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("~", None),
        ("True", True),
        ("None", "None"),
        ("1e", "1e"),
    ],
)
def test_scalars_have_the_types_of_yaml_1_2(text, value):
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


def test_a_relative_objective_may_begin_at_the_study_file():
    Path("studies").mkdir()
    Path("studies/study.yaml").write_text(BASE.replace("train.py", "near.py"))
    Path("studies/near.py").write_text(TRAIN)
    assert load_study("studies/study.yaml").objective.target == str(Path.cwd() / "studies/near.py")


def test_a_function_needs_no_study_file():
    spec = load_study("train.py:train", options={"budget.trials": 5, "metric.goal": "maximize"})
    assert spec.name == "train"
    assert spec.metrics == (Metric(name="value", goal="maximize"),)
    assert spec.source_text == ""
    spec = load_study("json:dumps", ["budget.trials=5", "parameters.lr={min: 0.0, max: 1.0}"])
    assert spec.name == "dumps"
    assert spec.objective == Objective(kind="module", target="json", function="dumps")
    assert spec.parameters["lr"].distribution == FloatDistribution(0.0, 1.0)


def test_a_byte_order_mark_is_no_problem():
    Path("study.yaml").write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert load_study("study.yaml").budget.trials == 10


def test_windows_line_ends_are_no_problem():
    Path("study.yaml").write_bytes(BASE.replace("\n", "\r\n").encode())
    assert load_study("study.yaml").budget.trials == 10


def test_anchors_save_typing_and_an_override_changes_one_use_only():
    spec = loaded("parameters: {a: &r {min: 0, max: 9}, b: *r}", "parameters.a.max=5")
    assert spec.parameters["a"].distribution == IntDistribution(0, 5)
    assert spec.parameters["b"].distribution == IntDistribution(0, 9)


def test_loading_imports_nothing_large():
    Path("study.yaml").write_text(DESIGN)
    code = (
        "import sys, hpsearch.spec\n"
        "assert not {'optuna', 'numpy'} & sys.modules.keys()\n"
        "hpsearch.spec.load_study('study.yaml', ['sampler=gp'])\n"
        "print(sorted({'torch', 'dask', 'distributed', 'sqlalchemy', 'pandas', 'scipy'} & sys.modules.keys()))\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
