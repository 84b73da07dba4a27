"""A search space: what exists when, what the objective sees, what changed."""

import copy
import json
import pickle

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpsearch.space import Parameter, Space

LR = Parameter(name="lr", distribution=FloatDistribution(1e-4, 1.0, log=True))
OPTIMIZER = Parameter(name="optimizer", distribution=CategoricalDistribution(("sgd", "adamw")))
MOMENTUM = Parameter(name="momentum", distribution=FloatDistribution(0.0, 0.99), when=(("optimizer", ("sgd",)),))
NESTEROV = Parameter(
    name="nesterov", distribution=CategoricalDistribution((True, False)), when=(("momentum", (0.5, 0.9)),)
)
LAYERS = Parameter(
    name="layers", distribution=CategoricalDistribution(("small", "big")), labels={"small": [64], "big": [256, 256]}
)
WIDTH = Parameter(name="width", distribution=IntDistribution(16, 256, step=16))
SPACE = Space(declared=(LR, OPTIMIZER, MOMENTUM, NESTEROV, LAYERS, WIDTH), constants={"epochs": 20})


def changed(**parameters: Parameter | None) -> Space:
    """SPACE with other parameters of these names; None takes one away."""
    by_name = {parameter.name: parameter for parameter in SPACE} | parameters
    return Space(declared=tuple(one for one in by_name.values() if one is not None), constants=SPACE.constants)


def test_a_parameter_exists_where_its_conditions_hold():
    assert SPACE.active("lr", {})
    assert SPACE.active("momentum", {"optimizer": "sgd"})
    assert not SPACE.active("momentum", {"optimizer": "adamw"})
    assert not SPACE.active("momentum", {})


def test_nothing_exists_below_a_parameter_that_does_not():
    assert SPACE.active("nesterov", {"optimizer": "sgd", "momentum": 0.9})
    assert not SPACE.active("nesterov", {"optimizer": "adamw"})


def test_all_conditions_must_hold():
    both = Parameter(
        name="both", distribution=IntDistribution(0, 1), when=(("optimizer", ("sgd",)), ("layers", ("big",)))
    )
    space = changed(both=both)
    assert space.active("both", {"optimizer": "sgd", "layers": "big"})
    assert not space.active("both", {"optimizer": "sgd", "layers": "small"})


def test_an_unknown_parameter_is_an_error():
    with pytest.raises(KeyError):
        SPACE.active("nobody", {})


def test_the_objective_sees_values_and_constants():
    params = {"lr": 0.1, "layers": "big"}
    assert SPACE.resolve(params) == {"lr": 0.1, "layers": [256, 256], "epochs": 20}
    assert params == {"lr": 0.1, "layers": "big"}


def test_what_define_by_run_suggests_is_seen_too():
    assert Space().resolve({"x": 1}) == {"x": 1}


def test_a_space_of_constants_is_a_space():
    assert not Space()
    assert Space(constants={"epochs": 20})
    assert len(SPACE) == 6


def test_a_space_survives_pickling():
    assert pickle.loads(pickle.dumps(SPACE)) == SPACE


def test_a_space_does_not_differ_from_itself_in_another_order():
    shuffled = Space(declared=tuple(reversed(SPACE.declared)), constants=copy.deepcopy(dict(SPACE.constants)))
    assert SPACE.difference(SPACE.to_json()) == []
    assert shuffled.to_json() == SPACE.to_json()


@pytest.mark.parametrize(
    ("space", "line"),
    [
        (
            changed(lr=Parameter(name="lr", distribution=FloatDistribution(1e-4, 0.1, log=True))),
            "lr: was float 0.0001 to 1.0, log, is float 0.0001 to 0.1, log",
        ),
        (
            changed(width=Parameter(name="width", distribution=IntDistribution(16, 256))),
            "width: was int 16 to 256, step 16, is int 16 to 256",
        ),
        (
            changed(optimizer=Parameter(name="optimizer", distribution=CategoricalDistribution(("sgd", "lion")))),
            'optimizer: was one of ["sgd", "adamw"], is one of ["sgd", "lion"]',
        ),
        (
            changed(
                layers=Parameter(name="layers", distribution=LAYERS.distribution, labels={"small": [64], "big": 1})
            ),
            'layers: was {"big": [256, 256], "small": [64]}, is {"big": 1, "small": [64]}',
        ),
        (
            changed(momentum=Parameter(name="momentum", distribution=MOMENTUM.distribution)),
            'momentum: was there when optimizer is "sgd", is always',
        ),
        (changed(width=None), "width: is gone"),
        (
            changed(depth=Parameter(name="depth", distribution=IntDistribution(1, 4))),
            "depth: new parameter, int 1 to 4",
        ),
        (Space(declared=SPACE.declared, constants={"epochs": 30}), "epochs: was 20, is 30"),
        (Space(declared=SPACE.declared, constants={"epochs": 20.0}), "epochs: was 20, is 20.0"),
        (Space(declared=SPACE.declared), "epochs: the constant 20 is gone"),
        (Space(declared=SPACE.declared, constants={"epochs": 20, "seed": None}), "seed: new constant null"),
    ],
)
def test_a_difference_in_words(space, line):
    assert space.difference(SPACE.to_json()) == [line]


def test_a_parameter_that_becomes_a_constant_is_two_differences():
    space = Space(declared=changed(lr=None).declared, constants={"epochs": 20, "lr": 0.1})
    assert space.difference(SPACE.to_json()) == ["lr: is gone", "lr: new constant 0.1"]


def test_a_parameter_in_words():
    assert str(MOMENTUM) == 'float 0.0 to 0.99, when optimizer is "sgd"'
    assert str(NESTEROV) == "one of [true, false], when momentum is 0.5 or 0.9"


def test_what_is_kept_is_json():
    kept = json.loads(SPACE.to_json())
    assert kept["parameters"]["momentum"]["when"] == {"optimizer": ["sgd"]}
    assert kept["constants"] == {"epochs": 20}
