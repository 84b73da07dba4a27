"""What a run refuses, and what it puts on record."""

import os
from pathlib import Path

import pytest

from hpsearch.coordinator.session import _check_directory, _without_passwords
from hpsearch.errors import UsageError


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("storage: postgresql://me:secret@db/x", "storage: postgresql://me:***@db/x"),
        ("storage: 'postgresql+psycopg://me:s:e/c@db:5432/x'", "storage: 'postgresql+psycopg://me:***@db:5432/x'"),
        ("storage: postgresql://me@db/x", "storage: postgresql://me@db/x"),
        ("storage: sqlite:///studies.db", "storage: sqlite:///studies.db"),
    ],
)
def test_no_password_of_a_storage_url_is_kept(text: str, kept: str) -> None:
    assert _without_passwords(text) == kept


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
