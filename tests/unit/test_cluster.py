"""The local cluster: what is left of one that could not be started."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from hpsearch.cluster import local
from hpsearch.errors import ClusterUnreachable


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("Nanny failed to start")])
def test_a_cluster_that_does_not_start_is_out_of_reach_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(**settings: Any) -> None:
        raise error

    monkeypatch.setattr(local, "LocalCluster", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    main = dict(vars(sys.modules["__main__"]))
    with pytest.raises(ClusterUnreachable, match=str(error.args[-1])):
        local.open_local(local.LocalPlan(n_workers=1, cpus_per_worker=1, gpus=()), tmp_path)
    assert not list(tmp_path.iterdir())
    assert vars(sys.modules["__main__"]) == main
