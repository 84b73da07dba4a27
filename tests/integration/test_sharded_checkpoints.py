"""State that is spread over a gang: saved by four ranks, loaded by two, by one, and from a whole one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpsearch.checkpoint import Checkpoints, open_place
from hpsearch.errors import CheckpointError

pytestmark = pytest.mark.timeout(360)

JOB = Path(__file__).parents[1] / "jobs" / "sharded.py"


def gang(action: str, directory: Path, at: str, world_size: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(JOB), action, str(directory), at, str(rank), str(world_size)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        said = [rank.communicate(timeout=160)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert [rank.returncode for rank in ranks] == [0] * world_size, "\n".join(said)


@pytest.mark.parametrize("kind", ["directory", "url"])
def test_four_ranks_save_and_two_load(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "checkpoints"
    at = str(place) if kind == "directory" else f"file://{place}"
    gang("save", tmp_path, at, 4)
    assert sorted(os.listdir(place)) == ["000002-step-1", "000003-step-2"]
    files = set(os.listdir(place / "000003-step-2"))
    assert {".metadata", "manifest.json", "state.pt", "__0_0.distcp", "__3_0.distcp"} <= files
    gang("load", tmp_path, at, 2)
    assert len(list(tmp_path.glob("load-*.done"))) == 2

    shard = place / "000003-step-2" / "__3_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert open_place(at).verified("000003-step-2") is None
    assert open_place(at).verified("000002-step-1") is not None


def test_one_process_loads_what_a_gang_saved(tmp_path: Path) -> None:
    import torch

    gang("save", tmp_path, str(tmp_path / "checkpoints"), 2)
    sys.path.insert(0, str(JOB.parent))
    try:
        from sharded import build, trained
    finally:
        sys.path.remove(str(JOB.parent))
    model, optimizer = build(1, sharded=False)
    state = {"model": model, "optimizer": optimizer, "step": -1}
    checkpoints = Checkpoints(place=open_place(str(tmp_path / "checkpoints")), reported_through=99)
    assert checkpoints.load(state).next_step == 3
    expected, _ = trained(sharded=False)
    torch.testing.assert_close(model.state_dict(), expected.state_dict())

    index = tmp_path / "checkpoints" / "000003-step-2" / ".metadata"
    from hpsearch.checkpoint.sharded import _reader

    index.write_bytes(b"cos\nsystem\n(S'true'\ntR.")  # a pickle that runs a command
    with pytest.raises(CheckpointError, match=r"names os\.system, which does not belong there"):
        _reader(index.parent).read_metadata()


def test_a_gang_loads_what_one_process_saved_whole(tmp_path: Path) -> None:
    at = str(tmp_path / "checkpoints")
    gang("save_whole", tmp_path, at, 1)
    assert not (tmp_path / "checkpoints" / "000003-step-2" / ".metadata").exists()
    gang("load", tmp_path, at, 2)
    assert len(list(tmp_path.glob("load-*.done"))) == 2
