"""Which checkpoints stay, which one is loaded, and where they lie."""

import errno
import itertools
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpsearch.checkpoint import MAX_REPORTS, Checkpoints, Directory, Place, Remote, enforce, open_place, places, surplus
from hpsearch.errors import CheckpointError


@pytest.fixture(params=["directory", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    where = {
        "directory": str(tmp_path / "trial"),
        "file": f"file://{tmp_path}/trial",
        "memory": f"memory://{uuid.uuid4().hex}/trial",
    }
    place = open_place(where[request.param])
    yield place
    if request.param == "memory":
        import fsspec

        fsspec.filesystem("memory").store.clear()


def attempt(place: Place, through: int = -1, **rules: Any) -> Checkpoints:
    return Checkpoints(place=place, reported_through=through, **rules)


# ----------------------------------------------------------------------------------------------- places


def test_a_url_is_as_good_as_a_directory(place: Place) -> None:
    import torch

    assert attempt(place).load({"n": 0}).next_step == 0
    for step in range(3):
        label = attempt(place).save({"n": step, "weights": torch.full((2,), float(step))}, step)
    assert place.names() == ["000003-step-2", "000002-step-1"]
    assert label.endswith("trial/000003-step-2")
    state = {"n": -1, "weights": torch.zeros(2)}
    loaded = attempt(place, through=2).load(state)
    assert (loaded.next_step, loaded.path, state["n"]) == (3, label, 2)
    assert state["weights"].tolist() == [2.0, 2.0]
    sizes = place.sizes()
    assert [name for name, _ in sizes] == place.names()
    assert all(n_bytes > 100 for _, n_bytes in sizes)
    place.remove("000003-step-2")
    place.remove("000003-step-2")
    assert place.names() == ["000002-step-1"]


def test_damage_in_a_store_falls_back(tmp_path: Path) -> None:
    place = Remote(f"file://{tmp_path}/trial")
    for step in range(2):
        attempt(place).save({"n": step}, step)
    (tmp_path / "trial" / "000002-step-1" / "state.json").write_text('{"n": 7}')
    state = {"n": -1}
    assert attempt(place, through=9).load(state).next_step == 1
    assert state == {"n": 0}


@pytest.mark.parametrize("readable", [0, 1])
def test_what_cannot_be_read_now_is_not_taken_for_damaged(
    place: Place, readable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(2):
        attempt(place).save({"n": step}, step)
    names = place.names()
    digest = places.digest
    n_read = itertools.count()

    def flaky(file: Path) -> str:
        if next(n_read) < 2 - readable:
            raise OSError(errno.EIO, "Input/output error")
        return digest(file)

    monkeypatch.setattr(places, "digest", flaky)
    if readable:
        assert attempt(place, through=1).load({"n": -1}).next_step == 1
    else:
        with pytest.raises(CheckpointError, match=f"cannot read checkpoint .*{names[0]}: Input/output error"):
            attempt(place, through=1).load({"n": -1})
    assert place.names() == names
    assert attempt(place, through=1).load({"n": -1}).next_step == 2


def test_a_directory_that_may_not_be_read_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt(Directory(tmp_path)).save({"n": 0}, 0)

    def refuse(path: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(PermissionError):
        attempt(Directory(tmp_path)).load({"n": -1})


def test_an_attempt_that_was_given_up_saves_no_more_once_the_next_one_has(place: Place) -> None:
    given_up = attempt(place, attempt=1)
    for step in range(3):
        given_up.save({"n": step}, step)
    following = attempt(place, through=2, attempt=2)
    assert following.load({"n": -1}).next_step == 3
    given_up.save({"n": 30}, 3)  # nobody has told it, and the next one has saved nothing
    following.save({"n": 3}, 3)
    names = place.names()
    with pytest.raises(CheckpointError, match="attempt 2 has taken this trial over: attempt 1 saves no more"):
        given_up.save({"n": 4}, 4)
    assert place.names() == names
    assert attempt(place, through=3, attempt=3).load({"n": -1}).next_step == 4


def test_an_attempt_that_was_given_up_leaves_a_save_that_is_under_way_alone(tmp_path: Path) -> None:
    place = Directory(tmp_path)
    given_up = attempt(place, attempt=1)
    given_up.save({"n": 0}, 0)

    put = place.put

    def put_late(beside: Path, name: str, files: Any) -> None:
        place.put = put  # type: ignore[method-assign]
        given_up.save({"n": 1}, 1)
        put(beside, name, files)

    place.put = put_late  # type: ignore[method-assign]
    attempt(place, attempt=2).save({"n": 5}, 5)
    assert place.names()[0].endswith("-step-5")


def test_numbers_of_attempts_begin_again_in_a_new_study_at_the_same_place(place: Place) -> None:
    attempt(place, attempt=3).save({"n": 0}, 0)
    again = attempt(place, attempt=1)
    again.save({"n": 1}, 1)
    again.save({"n": 2}, 2)
    assert attempt(place, through=2, attempt=1).load({"n": -1}).next_step == 3


def test_a_password_in_a_url_is_not_shown() -> None:
    label = open_place("memory://user:p@ss:word@host/place").label("000001-step-0")
    assert label == "memory://user:***@host/place/000001-step-0"


def test_what_fsspec_does_not_know_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoints\.url: nonsense:// cannot be used"):
        open_place("nonsense://bucket/prefix")


# ---------------------------------------------------------------------------------------------- reports


def train(place: Place, died: str, n_steps: int, order: str, through: int, recorded: dict[int, float]) -> list[int]:
    """One attempt of a job, up to the point where it dies; what it trained. ``recorded`` is the coordinator's.

    ``died`` names a step and what was done of it: "3 saved" dies after the save of step 3, and so on.
    """
    checkpoints = Checkpoints(place=place, reported_through=through)
    state = {"n": -1}
    loaded = checkpoints.load(state)
    for step, value, _ in loaded.unsaid:
        recorded[step] = value
    trained = []
    for step in range(loaded.next_step, n_steps):
        assert state["n"] == step - 1
        state["n"] = step
        trained.append(step)
        for what in order.split():
            if what == "save":
                checkpoints.save(state, step)
            else:
                checkpoints.reports.append((step, step / 10, {}))
                if died != f"{step} lost":
                    recorded[step] = step / 10
            if died in (f"{step} {what}d", f"{step} {what}ed", f"{step} lost") and (
                died != f"{step} lost" or what == "report"
            ):
                return trained
    return trained


@pytest.mark.parametrize("order", ["save report", "report save"])
@pytest.mark.parametrize(("step", "what"), list(itertools.product([0, 1, 3], ["saved", "reported", "lost"])))
def test_a_kill_between_save_and_report_leaves_no_step_out(tmp_path: Path, order: str, step: int, what: str) -> None:
    place = Directory(tmp_path)
    recorded: dict[int, float] = {}
    first = train(place, f"{step} {what}", 5, order, -1, recorded)
    assert first == list(range(step + 1))
    second = train(place, "", 5, order, max(recorded, default=-1), recorded)
    assert recorded == {step: step / 10 for step in range(5)}
    redone = set(first) & set(second)
    assert len(redone) <= 1


@pytest.mark.parametrize("order", ["save report", "report save"])
def test_killed_again_and_again_at_the_same_point(tmp_path: Path, order: str) -> None:
    place = Directory(tmp_path)
    recorded: dict[int, float] = {}
    for _ in range(3):
        train(place, "2 saved", 5, order, max(recorded, default=-1), recorded)
    train(place, "", 5, order, max(recorded, default=-1), recorded)
    assert recorded == {step: step / 10 for step in range(5)}


def test_reports_on_a_dead_worker_are_said_again(tmp_path: Path) -> None:
    """They left the job, and died with the worker before anybody else had them."""
    checkpoints = attempt(Directory(tmp_path))
    for step in range(4):
        checkpoints.reports.append((step, step / 10, {"loss": float(step)}))
        checkpoints.save({"n": step}, step)
    loaded = attempt(Directory(tmp_path), through=1).load({"n": 0})
    assert loaded.next_step == 4
    assert loaded.unsaid == ((2, 0.2, {"loss": 2.0}), (3, 0.3, {"loss": 3.0}))
    assert attempt(Directory(tmp_path), through=3).load({"n": 0}).unsaid == ()


def test_a_job_that_never_reports_loses_nothing(tmp_path: Path) -> None:
    for step in (9, 19, 29):
        attempt(Directory(tmp_path)).save({"n": step}, step)
        assert attempt(Directory(tmp_path)).load({"n": 0}).next_step == step + 1


def test_a_job_that_reports_now_and_then_loses_at_most_one_save(tmp_path: Path) -> None:
    for step in range(8):  # reported: 0 and 5
        attempt(Directory(tmp_path)).save({"n": step}, step)
    assert attempt(Directory(tmp_path), through=5).load({"n": 0}).next_step == 8
    assert attempt(Directory(tmp_path), through=6).load({"n": 0}).next_step == 7


def test_no_more_reports_are_kept_than_can_be_missing(tmp_path: Path) -> None:
    checkpoints = attempt(Directory(tmp_path))
    checkpoints.reports.extend((step, 0.0, {}) for step in range(10_000))
    checkpoints.save({"n": 0}, 9999)
    assert len(attempt(Directory(tmp_path)).load({"n": 0}).unsaid) == MAX_REPORTS


# -------------------------------------------------------------------------------------------- retention


@pytest.mark.parametrize(("goal", "best"), [("maximize", 2), ("minimize", 4), ("", None)])
@pytest.mark.parametrize("order", ["save report", "report save"])
def test_the_last_two_and_the_best_stay(place: Place, goal: str, best: int | None, order: str) -> None:
    values = [0.3, 0.5, 0.9, float("nan"), 0.1, 0.4, 0.6, 0.5]
    checkpoints = attempt(place, goal=goal)
    for step, value in enumerate(values):
        for what in order.split():
            if what == "save":
                checkpoints.save({"n": step}, step)
            else:
                checkpoints.reports.append((step, value, {}))
        if step == 5:  # another attempt goes on
            checkpoints = attempt(place, through=5, goal=goal)
            assert checkpoints.load({"n": 0}).next_step == 6
    steps = [int(name.rpartition("-")[2]) for name in place.names()]
    assert steps == [7, 6, *([best] if best is not None else [])]


def test_more_are_kept_where_more_are_wanted(tmp_path: Path) -> None:
    for step in range(6):
        attempt(Directory(tmp_path), keep=4).save({"n": step}, step)
    assert len(os.listdir(tmp_path)) == 4


def test_a_way_that_was_left_is_not_kept(tmp_path: Path) -> None:
    for step in (0, 1, 2, 1):
        attempt(Directory(tmp_path)).save({"n": step}, step)
    assert Directory(tmp_path).names() == ["000004-step-1"]


# ------------------------------------------------------------------------------------------------ quota

SIZES = {0: [("b", 10), ("a", 10)], 1: [("b", 10), ("a", 10)], 2: [("d", 10), ("c", 10), ("b", 10), ("a", 10)]}


@pytest.mark.parametrize(
    ("quota", "gone"),
    [
        (80, []),
        (79, [(0, "a")]),
        (65, [(0, "a"), (0, "b")]),
        (50, [(0, "a"), (0, "b"), (2, "a")]),
        (0, [(0, "a"), (0, "b"), (2, "a"), (2, "b")]),  # not the best trial's, nor the newest two of one that goes on
    ],
)
def test_what_goes_first(quota: int, gone: list[tuple[int, str]]) -> None:
    assert surplus(SIZES, quota, over={0, 1}, best=1) == gone


def test_nothing_is_removed_of_a_trial_whose_newest_are_damaged(tmp_path: Path) -> None:
    place = Directory(tmp_path)
    for step in range(4):
        attempt(place, keep=4).save({"n": step}, step)
    sizes = {0: place.sizes()}
    for name in place.names()[:2]:
        (tmp_path / name / "state.json").write_text("")
    assert enforce(lambda trial: place, sizes, 0, over=set(), best=None) > 0
    assert len(place.names()) == 4
    assert attempt(place, through=9).load({"n": 0}).next_step == 2


def test_the_quota_is_enforced_in_any_place(place: Place) -> None:
    for step in range(4):
        attempt(place, keep=4).save({"n": step}, step)
    sizes = {0: place.sizes()}
    left = enforce(lambda trial: place, sizes, 0, over=set(), best=None)
    assert place.names() == ["000004-step-3", "000003-step-2"]
    assert left == sum(n_bytes for _, n_bytes in place.sizes())
    assert enforce(lambda trial: place, sizes, 0, over={0}, best=None) == 0
    assert place.names() == []


@pytest.mark.parametrize("torn", [b"", b"[2, 0."])
def test_a_report_after_its_save_is_not_lost_with_its_message(tmp_path: Path, torn: bytes) -> None:
    """Saved and reported, and the coordinator dead before it heard: no epoch is trained again for that."""
    place = Directory(tmp_path / "trial")
    first = attempt(place)
    for step in range(3):
        first.save({"n": step}, step)
        first.reports.append((step, step / 10, {}))
        first.reported((step, step / 10, {}))
    if torn:  # killed in the middle of the last one: its step is trained again
        (tmp_path / "trial" / "reports.jsonl").write_bytes(torn)
    state = {"n": -1}
    loaded = attempt(place, through=0).load(state)
    assert loaded.next_step == (2 if torn else 3)
    assert [(step, value) for step, value, _ in loaded.unsaid] == [(1, 0.1), (2, 0.2)][: 1 if torn else 2]


def test_a_report_before_its_save_needs_no_note(tmp_path: Path) -> None:
    place = Directory(tmp_path / "trial")
    first = attempt(place)
    for step in range(3):
        first.reports.append((step, 0.5, {}))
        first.reported((step, 0.5, {}))
        first.save({"n": step}, step)
    assert place.notes() == []
    assert attempt(place).load({"n": -1}).next_step == 3
