"""Saved state: what goes in comes out, and nothing that is damaged ever does."""

import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpsearch.checkpoint import Checkpoints, Directory, Loaded
from hpsearch.errors import CheckpointError


class Counter:
    """An object with state, as torch's have it."""

    def __init__(self, n: int = 0) -> None:
        self.n = n

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n = state["n"]


def save(directory: Path, state: Any, step: int) -> Path:
    return Path(Checkpoints(place=Directory(directory)).save(state, step))


def load(directory: Path, state: Any, **known: Any) -> int:
    return look(directory, state, **known).next_step


def look(directory: Path, state: Any, **known: Any) -> Loaded:
    return Checkpoints(place=Directory(directory), **{"reported_through": 99, **known}).load(state)


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_nothing_saved_is_a_fresh_start(tmp_path):
    state = {"n": 1}
    assert load(tmp_path / "none", state) == 0
    assert state == {"n": 1}


def test_objects_are_restored_in_place_and_values_replaced(tmp_path):
    save(tmp_path, {"counter": Counter(5), "best": 0.25, "history": [1, None, "x", {"a": True}]}, step=7)
    counter = Counter()
    state: dict[str, Any] = {"counter": counter, "best": 0.0, "history": None}
    assert load(tmp_path, state) == 8
    assert counter.n == 5
    assert state == {"counter": counter, "best": 0.25, "history": [1, None, "x", {"a": True}]}


def test_plain_state_needs_no_torch(tmp_path):
    path = save(tmp_path, {"n": np.int64(3), "x": np.float64(0.5), "inf": float("inf")}, step=0)
    assert names(path) == ["manifest.json", "state.json"]
    state = {"n": 0, "x": 0.0, "inf": 0.0}
    assert load(tmp_path, state) == 1
    assert state == {"n": 3, "x": 0.5, "inf": float("inf")}
    assert type(state["x"]) is float


def test_torch_state_is_the_same_to_the_bit(tmp_path):
    import torch

    def build() -> tuple[Any, Any, Any]:
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        optimizer = torch.optim.AdamW(model.parameters())
        return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

    model, optimizer, schedule = build()
    for _ in range(3):
        model(torch.randn(5, 3)).sum().backward()
        optimizer.step()
        schedule.step()
    shapes = (3, 4)
    given = {
        "model": model,
        "optimizer": optimizer,
        "schedule": schedule,
        "shape": shapes,
        "rng": torch.get_rng_state(),
    }
    save(tmp_path, given, step=2)
    restored = dict(zip(("model", "optimizer", "schedule"), build(), strict=True))
    state = {**restored, "shape": None, "rng": None}
    assert load(tmp_path, state) == 3
    for name, tensor in model.state_dict().items():
        assert torch.equal(restored["model"].state_dict()[name], tensor)
    assert str(restored["optimizer"].state_dict()) == str(optimizer.state_dict())
    assert restored["schedule"].state_dict() == schedule.state_dict()
    assert state["shape"] == (3, 4)
    assert torch.equal(state["rng"], given["rng"])


@pytest.mark.parametrize("value", [object(), np.ones(3), Path("x"), {"deep": [print]}, OrderedDict(f=open)])
def test_what_would_need_code_to_load_is_refused_when_it_is_saved(tmp_path, value):
    with pytest.raises(CheckpointError, match=r"x.* is a .*, which a checkpoint cannot keep"):
        save(tmp_path / "c", {"x": value}, step=0)
    assert not (tmp_path / "c").exists()


def test_the_last_two_are_kept(tmp_path):
    for step in range(5):
        save(tmp_path, {"n": step}, step)
    assert names(tmp_path) == ["000004-step-3", "000005-step-4"]


def test_a_trial_that_begins_again_is_not_taken_for_an_older_one(tmp_path):
    for step in (8, 9, 0):
        save(tmp_path, {"n": step}, step)
    state = {"n": -1}
    assert load(tmp_path, state) == 1
    assert state == {"n": 0}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a flipped bit": lambda path: flip(path / "state.json"),
    "a truncated state": lambda path: os.truncate(path / "state.json", 3),
    "no state": lambda path: (path / "state.json").unlink(),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "half a manifest": lambda path: os.truncate(path / "manifest.json", 10),
    "a manifest of nothing": lambda path: (path / "manifest.json").write_text("[]"),
    "a manifest without a step": lambda path: (path / "manifest.json").write_text('{"files": {"state.json": ""}}'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_falls_back_to_the_one_before(tmp_path, damage, caplog):
    for step in range(2):
        save(tmp_path, {"n": step}, step)
    damage(tmp_path / "000002-step-1")
    state = {"n": -1}
    assert load(tmp_path, state, rank=1) == 1
    assert names(tmp_path) == ["000001-step-0", "000002-step-1"]
    assert load(tmp_path, state) == 1
    assert state == {"n": 0}
    assert names(tmp_path) == ["000001-step-0"]  # so that the next save does not push the sound one out
    assert "is damaged" in caplog.text


def test_all_damaged_is_a_fresh_start(tmp_path):
    for step in range(2):
        flip(save(tmp_path, {"n": step}, step) / "state.json")
    assert load(tmp_path, {"n": 0}) == 0


def test_what_a_killed_save_left_is_ignored_and_removed(tmp_path):
    (tmp_path / ".tmp-killed").mkdir()
    (tmp_path / ".tmp-killed" / "state.json").write_text("{")
    assert load(tmp_path, {"n": 0}) == 0
    save(tmp_path, {"n": 0}, step=0)
    assert names(tmp_path) == ["000001-step-0"]


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_disk_that_refuses_leaves_the_last_one_and_no_rubbish(tmp_path, monkeypatch, failing):
    save(tmp_path, {"n": 0}, step=0)

    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, refuse)
        with pytest.raises(CheckpointError, match="No space left on device"):
            save(tmp_path, {"n": 1}, step=1)
    assert names(tmp_path) == ["000001-step-0"]
    assert load(tmp_path, {"n": 0}) == 1


def test_a_sound_checkpoint_of_other_objects_is_an_error(tmp_path):
    import torch

    save(tmp_path, {"n": 0}, step=0)
    with pytest.raises(CheckpointError, match=r"holds \['n'\], not \['m', 'n'\]"):
        load(tmp_path, {"n": 0, "m": 1})
    save(tmp_path, {"model": torch.nn.Linear(2, 2)}, step=0)
    with pytest.raises(CheckpointError, match=r"does not fit 'model': .*size mismatch"):
        load(tmp_path, {"model": torch.nn.Linear(3, 2)})


def test_the_manifest_says_what_the_state_is(tmp_path):
    path = save(tmp_path, {"n": 0}, step=12)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 12
    assert list(map(len, manifest["files"].values())) == [64]
