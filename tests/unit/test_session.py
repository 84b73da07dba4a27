"""What a run puts on record."""

import pytest

from hpsearch.coordinator.session import _without_passwords


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
