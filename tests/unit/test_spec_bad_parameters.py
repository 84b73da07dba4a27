"""Every bad search space is refused in one line a problem, at its place."""

from pathlib import Path

import pytest
from spec_files import BASE, problems


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("def train(trial):\n    return 1.0\n")


# What follows BASE, from line 4 on -> the problems.
ADDED: dict[str, tuple[str, ...]] = {
    # ranges
    "low > high": (
        "parameters: {lr: {min: 2, max: 1}}",
        "4:24: parameters.lr.min: must not be more than max (1) (got 2)",
    ),
    "log with low 0": (
        "parameters:\n  lr: {min: 0, max: 1.0, log: true}",
        "5:13: parameters.lr.min: must be > 0 when log is true (got 0)",
    ),
    "log with low negative": (
        "parameters: {lr: {min: -1.5, max: 1.0, log: true}}",
        "4:24: parameters.lr.min: must be > 0 when log is true (got -1.5)",
    ),
    "NaN bound": (
        "parameters: {lr: {min: .nan, max: 1.0}}",
        "4:24: parameters.lr.min: must be a finite number (got .nan)",
    ),
    "infinite bound": (
        "parameters: {lr: {min: 0.0, max: .inf}}",
        "4:34: parameters.lr.max: must be a finite number (got .inf)",
    ),
    "bound past every float": (
        f"parameters: {{lr: {{min: 0, max: 1{'0' * 390}}}}}",
        f"4:32: parameters.lr.max: must be a finite number (got 1{'0' * 56}...)",
    ),
    "range past every float": (
        "parameters: {lr: {min: -1e308, max: 1e308}}",
        "4:37: parameters.lr.max: is too far from min (got 1e+308)",
    ),
    "bound is a word": (
        "parameters: {lr: {min: tiny, max: 1}}",
        "4:24: parameters.lr.min: must be a finite number (got 'tiny')",
    ),
    "bound is quoted": (
        "parameters: {lr: {min: '1e-4', max: 1}}",
        "4:24: parameters.lr.min: must be a finite number (got '1e-4')",
    ),
    "bound is a flag": (
        "parameters: {lr: {min: false, max: 1}}",
        "4:24: parameters.lr.min: must be a finite number (got false)",
    ),
    "min alone": ("parameters: {lr: {min: 1}}", "4:18: parameters.lr: max is needed beside min"),
    "max alone": ("parameters: {lr: {max: 1}}", "4:18: parameters.lr: min is needed beside max"),
    "step 0": (
        "parameters: {n: {min: 0, max: 8, step: 0}}",
        "4:40: parameters.n.step: must be more than 0 (got 0)",
    ),
    "step negative": (
        "parameters: {n: {min: 0, max: 8, step: -2}}",
        "4:40: parameters.n.step: must be more than 0 (got -2)",
    ),
    "step fractional for an int": (
        "parameters: {n: {min: 0, max: 8, step: 0.5, type: int}}",
        "4:40: parameters.n.step: must be a whole number for an int (got 0.5)",
    ),
    "step past 2^31": (
        "parameters: {n: {min: 0, max: 8589934592, step: 4294967296}}",
        "4:49: parameters.n.step: must be at most 2147483648 for an int (got 4294967296)",
    ),
    "step that misses max": (
        "parameters: {x: {min: 0.0, max: 1.0, step: 0.3}}",
        "4:33: parameters.x.max: must be min plus a multiple of step, such as 0.9 (got 1.0)",
    ),
    "step too small": (
        "parameters: {x: {min: 0.0, max: 1e300, step: 1e-300}}",
        "4:46: parameters.x.step: is too small for so wide a range (got 1e-300)",
    ),
    "step with log": (
        "parameters: {n: {min: 1, max: 8, step: 2, log: true}}",
        "4:40: parameters.n.step: cannot be combined with log: true",
    ),
    "bound fractional for an int": (
        "parameters: {n: {min: 0.5, max: 8, type: int}}",
        "4:23: parameters.n.min: must be a whole number for an int (got 0.5)",
    ),
    "int past 2^53": (
        "parameters: {n: {min: 0, max: 9007199254740993}}",
        "4:31: parameters.n.max: must be at most 9007199254740992 for an int (got 9007199254740993)",
    ),
    "unknown type": (
        "parameters: {n: {min: 0, max: 8, type: itn}}",
        "4:40: parameters.n.type: must be int or float (got 'itn') (did you mean 'int'?)",
    ),
    "log is a word": (
        "parameters: {n: {min: 1, max: 8, log: yes}}",
        "4:39: parameters.n.log: must be true or false (got 'yes')",
    ),
    # choices
    "empty choices": ("parameters: {o: []}", "4:17: parameters.o: has no choices"),
    "empty values": ("parameters: {o: {values: []}}", "4:26: parameters.o.values: has no choices"),
    "empty labels": (
        "parameters: {o: {values: {}}}",
        "4:26: parameters.o.values: must be a list of choices, or a mapping of labels to values such as "
        "{small: [64, 64]} (got a mapping)",
    ),
    "values is a scalar": (
        "parameters: {o: {values: 3}}",
        "4:26: parameters.o.values: must be a list of choices, or a mapping of labels to values such as "
        "{small: [64, 64]} (got 3)",
    ),
    "non-scalar choice without a label": (
        "parameters: {o: [1, [2, 3]]}",
        "4:21: parameters.o[1]: a list cannot be a choice: give each a label, such as {values: {small: [64, 64]}}",
    ),
    "NaN choice": ("parameters: {o: [1, .nan]}", "4:21: parameters.o[1]: NaN cannot be a choice"),
    "choice twice": ("parameters: {o: [a, b, a]}", "4:24: parameters.o[2]: 'a' is among the choices twice"),
    "choice equal to Python": ("parameters: {o: [1, true]}", "4:21: parameters.o[1]: true is among the choices twice"),
    "choice too large": (
        "parameters: {o: [1, 99999999999999999999]}",
        "4:21: parameters.o[1]: is too large a number for a choice",
    ),
    "empty label": (
        "parameters: {o: {values: {'': [1]}}}",
        "4:27: parameters.o.values: a name must not be empty",
    ),
    # parameters as a whole
    "parameters is a list": (
        "parameters: [lr]",
        "4:13: parameters: must be a mapping such as {lr: {min: 1e-4, max: 1.0, log: true}} (got a list)",
    ),
    "parameter left empty": (
        "parameters:\n  lr:",
        "5:3: parameters.lr: is empty: write {min: 0.0, max: 1.0}, [a, list, of, choices], {values: ...} or a constant",
    ),
    "constant left empty": ("parameters: {lr: {value: }}", "4:18: parameters.lr: value is empty"),
    "group left empty": (
        "parameters: {g: {parameters: {}}}",
        "4:30: parameters.g.parameters: must be a mapping of parameters (got a mapping)",
    ),
    "no shape": (
        "parameters: {lr: {}}",
        "4:18: parameters.lr: must be {min: 0.0, max: 1.0}, [a, list, of, choices], {values: ...} or {value: constant}",
    ),
    "Optuna's word": (
        "parameters: {n: {low: 0, max: 1}}",
        "4:17: parameters.n: min is needed beside max",
        "4:18: parameters.n.low: unknown key: write min",
    ),
    "one name twice": (
        "parameters: {a.b: 1, a: {parameters: {b: [1, 2]}}}",
        "4:42: parameters.a.parameters.b: the parameter 'a.b' is here twice",
    ),
    "name empty": ("parameters: {'': [1, 2]}", "4:14: parameters: a name must not be empty"),
    "name too long": (
        f"parameters: {{{'x' * 129}: [1, 2]}}",
        f"4:14: parameters.{'x' * 57}...: a name has at most 128 characters (this one: 129)",
    ),
    "name with NUL": (
        'parameters: {"a\\0b": [1, 2]}',
        "4:14: parameters.a\\x00b: a name must not contain control characters (got 'a\\x00b')",
    ),
    "name with /": ("parameters: {a/b: [1, 2]}", "4:14: parameters.a/b: a name must not contain '/' (got 'a/b')"),
    # when
    "when naming an unknown parameter": (
        "parameters: {optimizer: [sgd], m: {min: 0, max: 1, when: {optimzer: sgd}}}",
        "4:69: parameters.m.when.optimzer: there is no parameter 'optimzer' (did you mean 'optimizer'?)",
    ),
    "when naming no choice": (
        "parameters: {optimizer: [sgd, adamw], m: {min: 0, max: 1, when: {optimizer: sdg}}}",
        "4:77: parameters.m.when.optimizer: 'sdg' is no choice of optimizer (did you mean 'sgd'?)",
    ),
    "when outside of a range": (
        "parameters: {a: {min: 0, max: 1}, m: {min: 0, max: 1, when: {a: 2}}}",
        "4:65: parameters.m.when.a: 2 is outside the range of a",
    ),
    "when a range is a word": (
        "parameters: {a: {min: 0, max: 1}, m: {min: 0, max: 1, when: {a: sgd}}}",
        "4:65: parameters.m.when.a: a is a number, and 'sgd' is none",
    ),
    "when forming a cycle": (
        "parameters:\n  a: {values: [1, 2], when: {b: 1}}\n  b: {values: [1, 2], when: {a: 1}}",
        "6:33: parameters.b.when.a: a condition that depends on itself: a -> b -> a",
    ),
    "when on itself": (
        "parameters: {a: {values: [1, 2], when: {a: 1}}}",
        "4:44: parameters.a.when.a: a condition that depends on itself: a -> a",
    ),
    "when left empty": (
        "parameters: {a: {values: [1, 2], when: }}",
        "4:34: parameters.a.when: must be a mapping such as {optimizer: sgd} or {optimizer: [sgd, adamw]} "
        "(got nothing)",
    ),
    "when is a word": (
        "parameters: {a: {values: [1, 2], when: sgd}}",
        "4:40: parameters.a.when: must be a mapping such as {optimizer: sgd} or {optimizer: [sgd, adamw]} (got 'sgd')",
    ),
    "when without values": (
        "parameters: {b: [1], a: {values: [1, 2], when: {b: []}}}",
        "4:52: parameters.a.when.b: must be a value or a list of values (got a list)",
    ),
    "when twice": (
        "parameters: {b: [1, 2], g: {when: {b: 1}, parameters: {a: {values: [1, 2], when: {b: 2}}}}}",
        "4:86: parameters.g.parameters.a.when.b: the group around it has a condition on this already",
    ),
    "condition chain": (
        "parameters:\n  p0: [1]\n"
        + "\n".join(f"  p{n}: {{values: [1], when: {{p{n - 1}: 1}}}}" for n in reversed(range(1, 60))),
        "56:32: parameters.p9.when.p8: more than 50 conditions in a chain",
    ),
}


@pytest.mark.parametrize("case", ADDED)
def test_it_is_refused_at_its_place_with_a_remedy(case):
    added, *expected = ADDED[case]
    assert problems(f"{BASE}{added}\n") == [f"study.yaml:{line}" for line in expected]
