"""A process killed while it saves, at any line and at any byte, and what is left: the last one that verifies."""

import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpsearch.checkpoint import Checkpoints, Directory, Remote
from hpsearch.errors import CheckpointError

KEPT = ["000002-step-1", "000003-step-2"]
N_LINES = 30  # seeds of each kind
N_BYTES = 30


def state(step: int) -> dict[str, Any]:
    return {"n": step, "text": [f"{step} {number}" for number in range(20)]}


def checkpoints(directory: Path) -> Checkpoints:
    return Checkpoints(place=Directory(directory), reported_through=99)


def begin(directory: Path) -> None:
    for step in range(3):
        checkpoints(directory).save(state(step), step)


def in_a_child(work: Callable[[], None]) -> int:
    """The wait status of a process that does this."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def check(directory: Path, words: str) -> None:
    """Whatever was killed: a sound checkpoint is found, and the next save leaves nothing behind but its own."""
    found: dict[str, Any] = dict.fromkeys(state(0))
    next_step = checkpoints(directory).load(found)
    assert next_step.next_step in {3, 4}, words
    assert found == state(next_step.next_step - 1), words
    checkpoints(directory).save(state(next_step.next_step), next_step.next_step)
    names = sorted(os.listdir(directory))
    assert len(names) == 2, f"{words}: {names}"
    assert all(Directory(directory).verified(name) for name in names), words


@pytest.mark.parametrize("seed", range(N_LINES))
def test_killed_at_any_line_of_a_save(tmp_path: Path, seed: int) -> None:
    begin(tmp_path / "trial")
    n_lines = lines_of_a_save(tmp_path / "other")
    fatal = random.Random(seed).randint(1, n_lines)
    status = in_a_child(lambda: save_until(tmp_path / "trial", fatal))
    assert os.WIFSIGNALED(status), f"seed {seed}: line {fatal} of {n_lines} was never reached"
    check(tmp_path / "trial", f"seed {seed}: killed at line {fatal} of {n_lines}")


def lines_of_a_save(directory: Path) -> int:
    begin(directory)
    reader, writer = os.pipe()
    in_a_child(lambda: os.write(writer, str(save_until(directory, 0)).encode()) and None)
    os.close(writer)
    with os.fdopen(reader) as answer:
        return int(answer.read())


def save_until(directory: Path, fatal: int) -> int:
    """Save step 3 and count the lines of hpsearch.checkpoint and shutil; SIGKILL at the one that is named."""
    n_lines = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal n_lines
        if not frame.f_code.co_filename.endswith(("kept.py", "places.py", "state.py", "shutil.py")):
            return None
        if event == "line":
            n_lines += 1
            if n_lines == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    checkpoints(directory).save(state(3), 3)
    sys.settrace(None)
    return n_lines


@pytest.mark.parametrize("seed", range(N_BYTES))
def test_killed_at_any_byte_of_a_file(tmp_path: Path, seed: int) -> None:
    """The kernel ends the process in the middle of a write, by a limit on the size of its files."""
    import torch

    begin(tmp_path / "trial")
    big = {"n": 3, "weights": torch.arange(5000.0)} if seed % 2 else state(3)
    checkpoints(tmp_path / "other").save(big, 3)
    sizes = [file.stat().st_size for file in (tmp_path / "other" / "000001-step-3").iterdir()]
    limit = random.Random(seed).randint(0, max(sizes) - 1)

    def save() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        checkpoints(tmp_path / "trial").save(big, 3)

    status = in_a_child(save)
    assert os.WIFSIGNALED(status), f"seed {seed}: limit {limit}"
    assert os.WTERMSIG(status) == signal.SIGXFSZ
    check(tmp_path / "trial", f"seed {seed}: killed at byte {limit}")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_file_falls_back_to_the_last_that_verifies(tmp_path: Path, seed: int, damage: str) -> None:
    begin(tmp_path)
    chance = random.Random(seed)
    victim = tmp_path / "000003-step-2" / chance.choice(["state.json", "manifest.json"])
    data = bytearray(victim.read_bytes())
    # What a manifest says of files and step is protected by what it is compared with.
    place = chance.randrange(len(data)) if victim.name == "state.json" else data.index(b"state.json")
    if damage == "flip":
        data[place] ^= 1 << chance.randrange(7)
        victim.write_bytes(data)
    else:
        os.truncate(victim, place)
    found: dict[str, Any] = dict.fromkeys(state(0))
    assert checkpoints(tmp_path).load(found).next_step == 2, f"seed {seed}: {victim.name} at {place}"
    assert found == state(1)
    checkpoints(tmp_path).save(state(2), 2)
    assert len(os.listdir(tmp_path)) == 2


def test_a_full_disk_is_said_and_the_earlier_ones_stay_valid(tmp_path: Path) -> None:
    """The kernel refuses the write, as a full disk does."""
    import torch

    begin(tmp_path)
    reader, writer = os.pipe()

    def save() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        for big in (state(3), {"n": 3, "weights": torch.arange(5000.0)}):
            try:
                checkpoints(tmp_path).save(big, 3)
            except CheckpointError as error:
                os.write(writer, f"{error}\n".encode())

    assert in_a_child(save) == 0
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read().splitlines()
    assert len(said) == 2
    assert all(line.startswith("cannot save a checkpoint in ") for line in said)
    assert sorted(os.listdir(tmp_path)) == KEPT
    assert checkpoints(tmp_path).load(dict.fromkeys(state(0))).next_step == 3


@pytest.mark.parametrize("fatal", range(4))
def test_on_an_object_store_what_has_no_manifest_does_not_exist(tmp_path: Path, fatal: int) -> None:
    """Uploads are not renamed: killed before the n-th one, the checkpoint is not there or it is whole."""
    url = f"file://{tmp_path}/store"

    def remote() -> Checkpoints:
        return Checkpoints(place=Remote(url), reported_through=99)

    def save() -> None:
        place = Remote(url)
        uploads = 0

        def counted(upload: Callable[..., None]) -> Callable[..., None]:
            def one(*arguments: Any, **options: Any) -> None:
                nonlocal uploads
                if uploads == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                uploads += 1
                upload(*arguments, **options)

            return one

        place._fs.put_file, place._fs.pipe_file = counted(place._fs.put_file), counted(place._fs.pipe_file)
        Checkpoints(place=place, reported_through=99).save(state(1), 1)

    remote().save(state(0), 0)
    assert os.WIFSIGNALED(in_a_child(save)) == (fatal < 2)
    found: dict[str, Any] = dict.fromkeys(state(0))
    assert remote().load(found).next_step == (1 if fatal < 2 else 2)
    remote().save(state(2), 2)
    names = sorted(os.listdir(tmp_path / "store"))
    assert len(names) == 2
    assert all(Remote(url).verified(name) for name in names)
