"""What a run refuses."""

import os
from pathlib import Path

import pytest

from hpsearch.coordinator.session import _check_directory
from hpsearch.errors import UsageError


def test_a_directory_that_cannot_be_made_is_refused_and_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _check_directory(tmp_path / "runs" / "digits")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"directory: .*/file is not a directory"):
        _check_directory(tmp_path / "file" / "digits")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match=f"directory: {tmp_path} is not writable"):
        _check_directory(tmp_path / "runs" / "digits")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
