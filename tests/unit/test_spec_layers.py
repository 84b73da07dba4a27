"""Command line over environment over file over default, and where each value came from."""

from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from spec_files import BASE, TRAIN, loaded

from hpsearch.errors import StudyFileError
from hpsearch.spec import Component, Metric, explain, load_study

PARAMETERS = """\
parameters:
  lr: {min: 1e-4, max: 1.0, log: true}
  optimizer: [sgd, adamw]
  model.depth: {min: 1, max: 4}
  head: {parameters: {width: {min: 8, max: 64}}}
sampler: tpe
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(TRAIN)


def refused(*overrides: str, environ: dict[str, str] | None = None, added: str = PARAMETERS) -> list[str]:
    with pytest.raises(StudyFileError) as raised:
        loaded(added, *overrides, environ=environ or {})
    return str(raised.value).split("\n")


def test_the_stronger_layer_wins():
    environ = {"HPSEARCH_BUDGET__TRIALS": "20"}
    assert loaded("").budget.trials == 10
    assert loaded("", environ=environ).budget.trials == 20
    assert loaded("", "budget.trials=30", environ=environ).budget.trials == 30
    assert loaded("", "budget.trials=30", environ=environ, options={"budget.trials": 40}).budget.trials == 40


def test_the_last_of_several_overrides_counts():
    assert loaded("", "budget.trials=1", "seed=2", "budget.trials=3").budget.trials == 3


def test_the_process_environment_is_read_by_default(monkeypatch):
    monkeypatch.setenv("HPSEARCH_SEED", "7")
    assert loaded("").seed == 7


OVERRIDES = {
    "parameters.lr.max=0.1": ("lr", FloatDistribution(1e-4, 0.1, log=True)),
    "parameters.optimizer=[sgd, lion]": ("optimizer", CategoricalDistribution(("sgd", "lion"))),
    "parameters.optimizer.2=lion": None,
    "parameters.optimizer.1=lion": ("optimizer", CategoricalDistribution(("sgd", "lion"))),
    "parameters.optimizer[1]=lion": ("optimizer", CategoricalDistribution(("sgd", "lion"))),
    "parameters.model.depth.max=9": ("model.depth", IntDistribution(1, 9)),
    "parameters.head.parameters.width.min=9": ("head.width", IntDistribution(9, 64)),
    "parameters.head.width.min=9": ("head.width", IntDistribution(9, 64)),
    "parameters.new={min: 1, max: 2}": ("new", IntDistribution(1, 2)),
}


@pytest.mark.parametrize("override", [override for override, expected in OVERRIDES.items() if expected])
def test_an_override_of_a_parameter(override):
    name, distribution = OVERRIDES[override]
    assert loaded(PARAMETERS, override).parameters[name].distribution == distribution


def test_a_scalar_makes_a_parameter_a_constant():
    space = loaded(PARAMETERS, "parameters.lr=0.1", "parameters.optimizer=sgd").parameters
    assert space.constants == {"lr": 0.1, "optimizer": "sgd"}
    assert [parameter.name for parameter in space] == ["model.depth", "head.width"]


def test_an_override_of_a_sampler():
    assert loaded(PARAMETERS, "sampler=random").sampler == Component(name="random")
    arguments = {"n_startup_trials": 5}
    assert loaded(PARAMETERS, "sampler.tpe.n_startup_trials=5").sampler == Component(name="tpe", arguments=arguments)


def test_an_override_may_empty_a_value():
    assert loaded("seed: 3", "seed=").seed is None
    assert loaded("seed: 3", "seed=null").seed is None


def test_an_address_on_the_command_line_changes_the_kind_of_cluster():
    spec = loaded("cluster: {kind: local, workers: 2}", options={"cluster.address": "tcp://host:8786"})
    assert (spec.cluster.kind, spec.cluster.address, spec.cluster.workers) == ("address", "tcp://host:8786", 2)
    assert loaded("", "cluster.address=tcp://host:8786").cluster.kind == "address"


def test_a_goal_on_the_command_line():
    assert loaded("", options={"metric.goal": "minimize"}).metrics == (Metric(name="accuracy", goal="minimize"),)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("budget.trials=0", "command line: budget.trials: must be from 1 to 10000000 (got 0)"),
        ("budget.trials=+20", "command line: budget.trials: must be a whole number from 1 to 10000000 (got +20)"),
        ("budget.trails=2", "command line: budget.trails: unknown key (did you mean 'trials'?)"),
        ("bugdet.trials=2", "command line: bugdet: unknown key (did you mean 'budget'?)"),
        ("nonsense", "command line: 'nonsense' must be KEY=VALUE, such as budget.trials=20"),
        ("=3", "command line: must be a key such as budget.trials or parameters.lr.max"),
        ("a..b=3", "command line: a..b: must be a key such as budget.trials or parameters.lr.max"),
        ("parameters.lr=[1, 2", "command line: parameters.lr: '[1, 2': is not YAML: while parsing a flow sequence"),
        ("seed=1\n2", "command line: seed: '1\\n2': has a line break or an unreadable character"),
        ("seed=!!int 3", "command line: seed: the tag tag:yaml.org,2002:int is not allowed here"),
        (
            "parameters.optimizer.2=lion",
            "command line: parameters.optimizer.2: goes into a list of 2: give the whole list, or a number from 0",
        ),
        ("parameters.lr.max=0", "command line: parameters.lr.max: must not be less than min (0.0001) (got 0)"),
    ],
)
def test_a_bad_override_is_refused_as_such(override, expected):
    lines = refused(override)
    assert any(line.startswith(expected) for line in lines), lines


def test_a_goal_for_several_metrics_does_not_lose_them():
    base = BASE.replace("{name: accuracy, goal: maximize}", "[{name: a, goal: maximize}, {name: b, goal: minimize}]")
    with pytest.raises(StudyFileError, match=r"metric\.goal: goes into a list of 2"):
        loaded("", base=base, options={"metric.goal": "minimize"})
    assert loaded("", "metric[1].goal=maximize", base=base).metrics[1].goal == "maximize"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("HPSEARCH_SEDD", "3", "environment HPSEARCH_SEDD: sedd: unknown key (did you mean 'seed'?)"),
        (
            "HPSEARCH_SEED",
            "x",
            "environment HPSEARCH_SEED: seed: must be a whole number from 0 to 4294967295 (got 'x')",
        ),
        (
            "HPSEARCH_BUDGET__TRAILS",
            "3",
            "environment HPSEARCH_BUDGET__TRAILS: budget.trails: unknown key (did you mean 'trials'?)",
        ),
        ("HPSEARCH_", "3", "environment HPSEARCH_: must be a key such as budget.trials or parameters.lr.max"),
    ],
)
def test_a_bad_variable_is_refused_as_such(name, value, expected):
    assert refused(environ={name: value}) == [expected]


def test_variables_that_are_hpsearchs_own_are_left_alone():
    own = {f"HPSEARCH_{word}": "x" for word in ("RANK_TOKEN", "DIRECTORY", "TRIAL", "ATTEMPT", "RANK")}
    spec = loaded("", environ={**own, "HPSEARCH_SEED": " ", "PATH": "/bin", "hpsearch_seed": "3"})
    assert (spec.seed, spec.directory) == (None, "runs")


def test_a_variable_finds_a_parameter_whatever_its_case():
    spec = loaded(
        "parameters: {learningRate: {min: 1, max: 9}}", environ={"HPSEARCH_PARAMETERS__LEARNINGRATE__MAX": "5"}
    )
    assert spec.parameters["learningRate"].distribution == IntDistribution(1, 5)


def test_without_a_study_file_the_remedy_is_an_option():
    with pytest.raises(StudyFileError) as raised:
        load_study("train.py:train", environ={})
    assert str(raised.value) == "command line: budget.trials or budget.time is needed: say --trials N or --timeout T"


def test_origins():
    spec = loaded(
        PARAMETERS,
        "parameters.lr.max=0.1",
        "resources.cpus=2",
        environ={"HPSEARCH_BUDGET__TRIALS": "20"},
        options={"storage": "postgresql://me:secret@host/db"},
    )
    rows = {key: (value, origin) for key, value, origin in explain(spec)}
    assert rows["budget.trials"] == ("20", "environment HPSEARCH_BUDGET__TRIALS")
    assert rows["resources.cpus_per_rank"] == ("2", "command line")
    assert rows["storage"] == ("postgresql://me@host/db", "command line")
    assert rows["metric.goal"] == ("maximize", "study.yaml:2:32")
    assert rows["parameters.lr"] == ("float 0.0001 to 0.1, log", "study.yaml:5:7, max: command line")
    assert rows["parameters.head.width"] == ("int 8 to 64", "study.yaml:8:30")
    assert rows["sampler"] == ("tpe", "study.yaml:9:10")
    assert rows["seed"] == ("none", "default")
    assert spec.origins["parameters.lr.max"] == "command line"
    assert spec.origins["parameters.lr.min"] == "study.yaml:5:13"


def test_every_setting_is_explained():
    text = (
        "pruner: {patient: {wrapped: median, patience: 3}}\nparameters: {epochs: 3, nested: {value: true}}\n"
        "resources: {memory: 2GB, no_progress: 90s}\nretry: {on: []}\n"
    )
    budget = "{trials: 9, failures: 20%, plateau: {trials: 3}}"
    rows = {key: value for key, value, _ in explain(loaded(text, base=BASE.replace("{trials: 10}", budget)))}
    assert rows["pruner.patient.wrapped_pruner"] == "{'median': {}}"
    assert (rows["parameters.epochs"], rows["parameters.nested"]) == ("3", "true")
    assert (rows["resources.memory"], rows["resources.no_progress"], rows["retry.on"]) == ("2 GB", "1m30s", "none")
    assert (rows["budget.failures"], rows["budget.plateau.trials"], rows["budget.time"]) == ("20%", "3", "none")
