"""Every bad study file is refused in one line a problem, at its place, with a remedy; all problems at once."""

from pathlib import Path

import pytest
from spec_files import BASE, TRAIN, problems

from hpsearch.errors import StudyFileError
from hpsearch.spec import load_study


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(TRAIN)
    Path("broken.py").write_text("def train(trial):\n    return (1.0\n")
    Path("nul.py").write_bytes(b"def train(trial):\n    return '\0'\n")
    Path("empty.py").write_text("")


# What follows BASE, from line 4 on -> the problems; "..." stands for the rest of a line.
ADDED: dict[str, tuple[str, ...]] = {
    # names
    "study's name empty": ("name: ''", "4:7: name: a name must not be empty"),
    "study's name too long": (f"name: {'n' * 129}", "4:7: name: a name has at most 128 characters (this one: 129)"),
    "study's name with NUL": ('name: "a\\0"', "4:7: name: a name must not contain control characters (got 'a\\x00')"),
    "study's name with /": ("name: a/b", "4:7: name: a name must not contain '/' (got 'a/b')"),
    "study's name ..": (
        "name: ..",
        "4:7: name: a name must not be '.' or '..', nor begin or end with a space (got '..')",
    ),
    "study's name a list": ("name: [a]", "4:7: name: must be a name (got a list)"),
    # samplers and pruners
    "unknown sampler": (
        "sampler: tpee",
        "4:10: sampler: unknown sampler 'tpee' (did you mean 'tpe'?)",
    ),
    "unknown pruner": (
        "pruner: {hyperbond: {max_resource: 9}}",
        "4:10: pruner: unknown pruner 'hyperbond' (did you mean 'hyperband'?)",
    ),
    "unknown argument": (
        "sampler: {tpe: {n_startup_trails: 5}}",
        "4:17: sampler.tpe.n_startup_trails: unknown key (did you mean 'n_startup_trials'?)",
    ),
    "argument where none is": (
        "pruner: {none: {patience: 5}}",
        "4:17: pruner.none.patience: unknown key: none takes no arguments",
    ),
    "argument of a wrong type": (
        "sampler: {tpe: {n_startup_trials: five}}",
        "4:35: sampler.tpe.n_startup_trials: must be a whole number (got 'five')",
    ),
    "argument out of range": (
        "sampler: {tpe: {n_ei_candidates: 0}}",
        "4:34: sampler.tpe.n_ei_candidates: must be from 1 to 1000000 (got 0)",
    ),
    "argument that takes a function": (
        "sampler: {tpe: {gamma: 3}}",
        "4:24: sampler.tpe.gamma: takes a function: write a class of your own, and name it as module:Class",
    ),
    "argument missing": ("pruner: {percentile: {}}", "4:22: pruner.percentile: percentile needs percentile"),
    "arguments missing": (
        "pruner: patient",
        "4:9: pruner: patient needs wrapped",
        "4:9: pruner: patient needs patience",
    ),
    "arguments refused by Optuna": (
        "pruner: {percentile: {percentile: 120}}",
        "4:22: pruner.percentile: percentile: Percentile must be between 0 and 100 inclusive, but got "
        "percentile=120.0.",
    ),
    "hyperband without max_resource": ("pruner: hyperband", "4:9: pruner: hyperband needs max_resource"),
    "hyperband with auto": (
        "pruner: {hyperband: {max_resource: auto}}",
        "4:36: pruner.hyperband.max_resource: must be a whole number (got 'auto')",
    ),
    "hyperband with less than its least": (
        "pruner: {hyperband: {min_resource: 10, max_resource: 9}}",
        "4:21: pruner.hyperband: max_resource must be at least min_resource (10) (got 9)",
    ),
    "asha with auto": (
        "pruner: {asha: {min_resource: auto}}",
        "4:31: pruner.asha.min_resource: must be a whole number (got 'auto')",
    ),
    "two samplers": (
        "sampler: {tpe: {}, random: {}}",
        "4:10: sampler: must be one sampler such as tpe or {tpe: {...}} (got a mapping)",
    ),
    "sampler a number": ("sampler: 3", "4:10: sampler: must be one sampler such as tpe or {tpe: {...}} (got 3)"),
    "arguments a list": ("sampler: {tpe: [1]}", "4:16: sampler.tpe: must be a mapping of arguments (got a list)"),
    "pruner left empty": ("pruner:", "4:1: pruner: is empty: write none, or leave the key out"),
    "unknown wrapped pruner": (
        "pruner: {patient: {wrapped: medium, patience: 3}}",
        "4:29: pruner.patient.wrapped: unknown wrapped_pruner 'medium' (did you mean 'median'?)",
    ),
    "module of a class missing": (
        "sampler: 'no_such_module_here:Mine'",
        "4:10: sampler: there is no module 'no_such_module_here' here or among the installed ones",
    ),
    "class without a name": (
        "sampler: 'json:'",
        "4:10: sampler: '' is no class's name: write package.module:class",
    ),
    "class missing": (
        "sampler: 'train:Mine'",
        "4:10: sampler: train.py has no class 'Mine' (known: Sampler)",
    ),
    "grid over a continuous range": (
        "parameters: {lr: {min: 0.0, max: 1.0}}\nsampler: grid",
        "5:10: sampler: grid needs a step for the parameter lr, or a list of its values",
    ),
    "grid over nothing": ("sampler: grid", "4:10: sampler: grid needs parameters, or a search_space of its own"),
    "grid too large": (
        "parameters: {a: {min: 1, max: 10000}, b: {min: 1, max: 10000}}\nsampler: grid",
        "5:10: sampler: a grid of 1e+08 points: at most 1000000",
    ),
    "own grid too large": (
        f"sampler: {{grid: {{search_space: {{a: {list(range(1001))}, b: {list(range(1000))}}}}}}}",
        "4:32: sampler.grid.search_space: is a grid of 1e+06 points: at most 1000000",
    ),
    "brute force over a continuous range": (
        "parameters: {lr: {min: 0.0, max: 1.0}}\nsampler: brute_force",
        "5:10: sampler: brute_force needs a step for the parameter lr, or a list of its values",
    ),
    # limits
    "duration without a unit we know": (
        "resources: {time: 10 parsecs}",
        "4:19: resources.time: must be a duration such as 90s, 10m, 1h30m or 2d (got '10 parsecs')",
    ),
    "duration negative": ("resources: {time: -5}", "4:19: resources.time: must be more than 0 (got -5)"),
    "duration 0": ("resources: {no_progress: 0s}", "4:26: resources.no_progress: must be more than 0 (got '0s')"),
    "duration infinite": (
        "resources: {time: .inf}",
        "4:19: resources.time: must be a number, or one with a unit (got .inf)",
    ),
    "duration beyond reason": (
        "resources: {time: 99999999d}",
        "4:19: resources.time: is more than anything there is (got '99999999d')",
    ),
    "size unknown": (
        "resources: {memory: 2XB}",
        "4:21: resources.memory: must be a size such as 500MB, 2GB or 2GiB (got '2XB')",
    ),
    "ranks 0": ("resources: {ranks: 0}", "4:20: resources.ranks: must be from 1 to 100000 (got 0)"),
    "GPUs a word": ("resources: {gpus_per_rank: all}", "4:28: resources.gpus_per_rank: must be a number (got 'all')"),
    "GPUs negative": (
        "resources: {gpus_per_rank: -1}",
        "4:28: resources.gpus_per_rank: must be from 0 to 1024 (got -1)",
    ),
    "cpus twice": (
        "resources: {cpus: 1, cpus_per_rank: 2}",
        "4:12: resources: cpus and cpus_per_rank are the same: give one",
    ),
    "retry on an unknown cause": (
        "retry: {on: [lost, omm]}",
        "4:20: retry.on[1]: must be lost or oom or timeout or error (got 'omm') (did you mean 'oom'?)",
    ),
    "retry is a number": ("retry: 3", "4:8: retry: must be a mapping such as {max: 2, on: [lost, oom]} (got 3)"),
    "seed negative": ("seed: -1", "4:7: seed: must be from 0 to 4294967295 (got -1)"),
    "seed fractional": ("seed: 1.5", "4:7: seed: must be a whole number from 0 to 4294967295 (got 1.5)"),
    "seed a flag": ("seed: true", "4:7: seed: must be a whole number from 0 to 4294967295 (got true)"),
    # storage and cluster
    "unknown URL scheme": (
        "storage: sqllite:///studies.db",
        "4:10: storage: unknown kind of database 'sqllite' (did you mean 'sqlite'?)",
    ),
    "storage not a URL": (
        "storage: studies.db",
        "4:10: storage: must be a URL such as sqlite:///studies.db or postgresql://user@host/database",
    ),
    "storage in memory": (
        "storage: sqlite://",
        "4:10: storage: a database in memory is gone when the command ends: name a file, such as sqlite:///studies.db",
    ),
    "storage's password stays secret": (
        "storage: mysql://me:secret@host/db",
        "4:10: storage: unknown kind of database 'mysql' (known: sqlite, postgresql, postgresql+psycopg)",
    ),
    "unknown cluster": ("cluster: {kind: cloud}", "4:17: cluster.kind: must be local or address (got 'cloud')"),
    "address missing": (
        "cluster: {kind: address}",
        "4:10: cluster: kind: address needs an address, such as tcp://host:8786",
    ),
    "address unneeded": (
        "cluster: {kind: local, address: 'tcp://host:8786'}",
        "4:10: cluster: address goes with kind: address",
    ),
    "address without a port": (
        "cluster: {address: 'tcp://host'}",
        "4:20: cluster.address: must be the address of a Dask scheduler, such as tcp://host:8786 (got 'tcp://host')",
    ),
    "address of another kind": (
        "cluster: {address: 'http://host:8786'}",
        "4:20: cluster.address: unknown protocol 'http' (known: tcp, tls, ws, wss, ucx, ucxx, inproc)",
    ),
    # keys
    "unknown key": ("bugdet: {trials: 3}", "4:1: bugdet: unknown key (did you mean 'budget'?)"),
    "unknown inner key": ("resources: {cups: 1}", "4:13: resources.cups: unknown key (did you mean 'cpus'?)"),
    "another tool's key": ("direction: maximize", "4:1: direction: unknown key: write metric: {goal: ...}"),
    "command": (
        "command: [python, train.py]",
        "4:10: command: objective and command are two ways to say what is run: give one",
    ),
    "constraints": (
        "constraints: [size < 3]",
        "4:1: constraints: unknown key: call trial.set_constraint in the objective",
    ),
    "key of a letter flood": (
        f"{'k' * 1000}: 1",
        f"4:1: {'k' * 57}...: unknown key (known: name, objective, command, metric, parameters, sampler, ...",
    ),
    # YAML
    "duplicate key": ("budget: {trials: 3}", "4:1: budget: the key is here twice (first on line 3)"),
    "!!python/object": (
        "name: !!python/object/apply:os.system [echo]",
        "4:7: the tag tag:yaml.org,2002:python/object/apply:os.system is not allowed here",
        "4:7: name: must be a name (got a list)",
    ),
    "tab": ("parameters:\n\tlr: 3", "5:1: a tab: YAML is indented by spaces"),
    "control character": ("name: a\x07b", "4:8: unreadable character U+0007"),
    "alias to nothing": ("name: *nobody", "4:7: *nobody names no anchor before it"),
    "alias within itself": ("parameters: &p {a: {value: *p}}", "4:28: *p contains itself"),
    "second document": ("---\nname: two", "4:1: a second document: one study a file"),
    "key that is a list": ("[a, b]: 3", "4:1: a key must be a word, not an alias, a list or a mapping"),
    "bracket left open": ("parameters: {lr: [1, 2", "5:1: is not YAML: while parsing a flow sequence..."),
    "line without end": (f"name: {'!' * 200_000}", "4:1: a line of over 200000 characters"),
    "half a character": ('name: "\\ud800"', "4:7: half a character: no database could keep it"),
    "half a character in a key": ('"\\ud800": 1', "4:1: half a character in a key"),
    "directory with NUL": ('directory: "a\\0"', "4:12: directory: must not contain control characters"),
    "character past Unicode": ('name: "\\UFFFFFFFF"', "4:5: is not YAML: Python int too large to convert to C int"),
    "number of a thousand digits": (f"seed: {'9' * 1000}", "4:7: a number of 1000 digits"),
    "deep nesting": (f"name: {'[' * 100}{']' * 100}", "4:30: nested deeper than 24 levels"),
    "deep blocks": (
        "parameters:\n" + "\n".join(" " * n + "a:" for n in range(1, 60)),
        "28:25: nested deeper than 24 levels",
    ),
}


@pytest.mark.parametrize("case", ADDED)
def test_it_is_refused_at_its_place_with_a_remedy(case):
    added, *expected = ADDED[case]
    lines = problems(f"{BASE}{added}\n")
    assert len(lines) == len(expected), lines
    for line, words in zip(lines, expected, strict=True):
        begin = f"study.yaml:{words.removesuffix('...')}"
        assert line.startswith(begin) if words.endswith("...") else line == begin


BUDGETS = {
    "{trials: 0}": "3:18: budget.trials: must be from 1 to 10000000 (got 0)",
    "{trials: -1}": "3:18: budget.trials: must be from 1 to 10000000 (got -1)",
    "{trials: 1e12}": "3:18: budget.trials: must be from 1 to 10000000 (got 1e12)",
    "{trials: .inf}": "3:18: budget.trials: must be a whole number from 1 to 10000000 (got .inf)",
    "{trials: +20}": "3:18: budget.trials: must be a whole number from 1 to 10000000 (got +20)",
    "{trials: ten}": "3:18: budget.trials: must be a whole number from 1 to 10000000 (got 'ten')",
    "{trials: 1.5}": "3:18: budget.trials: must be a whole number from 1 to 10000000 (got 1.5)",
    "{}": "3:9: budget: budget.trials or budget.time is needed",
    "60": "3:9: budget: must be a mapping such as {trials: 60, time: 10m} (got 60)",
    "{trials: 9, failures: 120%}": "3:31: budget.failures: must be a percentage from 0% to 100% (got '120%')",
    "{trials: 9, failures: -1}": (
        "3:31: budget.failures: must be a number of trials such as 10, or a share such as 20% (got -1)"
    ),
    "{trials: 9, plateau: {min_delta: 1}}": (
        "3:30: budget.plateau: trials is needed, such as {trials: 20, min_delta: 0.001}"
    ),
}


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_budget_is_refused(budget):
    assert f"study.yaml:{BUDGETS[budget]}" in problems(BASE.replace("{trials: 10}", budget))


OBJECTIVES = {
    "missing.py:train": "no such file: missing.py (looked in .)",
    "/nowhere/at/all.py:train": "no such file: /nowhere/at/all.py",
    "~nobody-of-that-name/train.py:train": "no such file: ~nobody-of-that-name/train.py (looked in .)",
    "broken.py:train": "broken.py:2: syntax error: '(' was never closed",
    "nul.py:train": "nul.py: syntax error: source code string cannot contain null bytes",
    "train.py:trian": "train.py has no function 'trian' (did you mean 'train'?)",
    "train.py:later": "'later' in train.py is async: the objective must be an ordinary function",
    "empty.py:train": "empty.py has no function 'train'",
    "train.py": "must be path/to/file.py:function or package.module:function (got 'train.py')",
    "train.py:": "must be path/to/file.py:function or package.module:function (got 'train.py:')",
    "train.py:a b": "'a b' is no function's name: write path/to/file.py:function or package.module:function",
    "nowhere_to_be_found:train": "there is no module 'nowhere_to_be_found' here or among the installed ones",
    "json.nowhere:train": "'json' has no module 'nowhere' in it",
    "json:trian": "has no function 'trian'",
    "a-b:train": "'a-b' is no module's name: write package.module:function",
    "[a, b]": "must be path/to/file.py:function or package.module:function (got a list)",
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_is_refused(objective):
    text = BASE.replace("train.py:train", objective if objective[0] == "[" else f"'{objective}'")
    [line] = problems(text)
    assert line.startswith("study.yaml:1:12: objective: ")
    assert OBJECTIVES[objective] in line


METRICS = {
    "{name: accuracy}": ["2:9: metric: goal is needed: minimize or maximize"],
    "{goal: max}": ["2:16: metric.goal: must be minimize or maximize (got 'max')"],
    "{goal: maximize, target: .nan}": ["2:34: metric.target: must be a number (got .nan)"],
    "accuracy": ["2:9: metric: must be a mapping such as {name: accuracy, goal: maximize} (got 'accuracy')"],
    "[]": ["2:9: metric: an empty list: at least one metric is needed"],
    "[{name: a, goal: maximize}, {name: a, goal: minimize}]": [
        "2:10: metric[0]: two metrics are called 'a'",
        "2:37: metric[1]: two metrics are called 'a'",
    ],
    "[{goal: maximize}, {name: a, goal: minimize}]": [
        "2:10: metric[0]: name is needed where there are several metrics"
    ],
}


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_is_refused(metric):
    expected = [f"study.yaml:{line}" for line in METRICS[metric]]
    assert problems(BASE.replace("{name: accuracy, goal: maximize}", metric)) == expected


def test_several_metrics_cannot_be_pruned():
    text = BASE.replace("{name: accuracy, goal: maximize}", "[{name: a, goal: maximize}, {name: b, goal: minimize}]")
    assert problems(text + "pruner: median\nsampler: cmaes\n") == [
        "study.yaml:4:9: pruner: trials of a study with several metrics cannot be pruned: write pruner: none",
        "study.yaml:5:10: sampler: cmaes works with one metric only",
    ]


def test_what_is_missing_is_named():
    assert problems("name: alone\n") == [
        "study.yaml:1:1: objective is needed, such as objective: train.py:train",
        "study.yaml:1:1: metric is needed, such as metric: {name: accuracy, goal: maximize}",
        "study.yaml:1:1: budget.trials or budget.time is needed",
    ]


def test_an_alias_bomb_does_not_go_off():
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    [line] = problems(BASE + bomb)
    assert line.endswith("more than 20000 values, aliases expanded")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "study.yaml:1:1: is empty: a study needs an objective, a metric and a budget"),
        (b"# nothing but words\n", "study.yaml:1:1: is empty: a study needs an objective, a metric and a budget"),
        (b"---\n...\n", "study.yaml:1:1: is empty: a study needs an objective, a metric and a budget"),
        (b"just words\n", "study.yaml:1:1: must be a mapping such as {objective: train.py:train, "),
        (b"name: caf\xe9\n", "study.yaml:1: is not UTF-8 text"),
        (b"\xff\xfen\x00a\x00", "study.yaml:1: is not UTF-8 text"),
        (b"# " + b"x" * 1_000_000, "study.yaml: is over 1 MB: that is no study file"),
        (b"a: b: c\n", "study.yaml:1:5: is not YAML: mapping values are not allowed here"),
    ],
    ids=["empty", "comment", "empty document", "words", "latin-1", "utf-16", "over 1 MB", "not YAML"],
)
def test_a_file_that_is_no_study_is_refused(data, expected):
    lines = problems(data)
    assert len(lines) == 1
    assert lines[0].startswith(expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("missing.yaml", "missing.yaml: no such file"),
        (".", ".: is not a file"),
        ("train.py", "train.py: which function of it? Such as train.py:train"),
        ("no\0such.yaml", "no\\x00such.yaml: "),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(source, expected):
    with pytest.raises(StudyFileError) as raised:
        load_study(source)
    assert str(raised.value).startswith(expected)


def test_a_flood_of_problems_is_cut_short():
    lines = problems(BASE + "budget: 1\n" * 1000)
    assert len(lines) == 101
    assert lines[-1] == "and 900 more problems"


def test_all_problems_come_at_once_in_the_order_of_the_lines():
    text = BASE.replace("trials: 10", "trials: 0") + "seed: x\nparameters: {lr: {min: 2, max: 1}, n: []}\nretyr: 1\n"
    assert [line.split(": ")[0] for line in problems(text, "storage=x", "nonsense")] == [
        "command line",
        "command line",
        "study.yaml:3:18",
        "study.yaml:4:7",
        "study.yaml:5:24",
        "study.yaml:5:39",
        "study.yaml:6:1",
    ]
