"""Passwords of databases: found wherever they come in, and in nothing that goes out."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from hpsearch import passwords
from hpsearch.errors import StorageUnreachable, UsageError
from hpsearch.spec import explain, load_study
from hpsearch.storage.connect import locate


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("storage: postgresql://me:secret@db/x", "storage: postgresql://me:***@db/x"),
        ("storage: 'postgresql+psycopg://me:s:e/c@db:5432/x'", "storage: 'postgresql+psycopg://me:***@db:5432/x'"),
        ("postgresql://me:se@cret@db/x", "postgresql://me:***@db/x"),
        ("postgresql://db/x?password=secret&user=me", "postgresql://db/x?password=***&user=me"),
        ("a: postgresql://a:b@c/d\nb: postgresql://e:f@g/h", "a: postgresql://a:***@c/d\nb: postgresql://e:***@g/h"),
        ("storage: postgresql://me@db/x", "storage: postgresql://me@db/x"),
        ("storage: sqlite:///studies.db", "storage: sqlite:///studies.db"),
        ("postgresql://db:5432/x", "postgresql://db:5432/x"),
    ],
)
def test_a_masked_text_has_no_password(text: str, kept: str) -> None:
    assert passwords.masked(text) == kept
    assert passwords.shows(text) == (text != kept)


@pytest.mark.parametrize(
    ("url", "bare", "password"),
    [
        ("postgresql://me:s%2Fe%40t@db/x", "postgresql://me@db/x", "s/e@t"),
        ("postgresql://me:s@e@db/x", "postgresql://me@db/x", "s@e"),
        ("postgresql://me:s/e@db/x", "postgresql://me@db/x", "s/e"),
        ("postgresql://db/x?user=me&password=a%20b", "postgresql://db/x?user=me", "a b"),
        ("postgresql://db/x?password=a+b&user=me", "postgresql://db/x?user=me", "a b"),
        ("postgresql://me:***@db/x", "postgresql://me@db/x", None),
        ("postgresql://me@db/x", "postgresql://me@db/x", None),
    ],
)
def test_a_url_and_its_password_are_kept_apart_and_put_together_for_the_driver(
    url: str, bare: str, password: str | None
) -> None:
    assert passwords.bare(url) == bare
    assert passwords.of(bare) == password
    location = locate(bare)
    assert location.url.password == password
    assert locate(location.bare).url.password == password
    assert passwords.bare(location.bare) == location.bare


def test_a_password_that_cannot_be_told_from_other_text_is_refused_unseen() -> None:
    with pytest.raises(StorageUnreachable, match=r"has a space in its password: write it as %20$"):
        locate(passwords.bare("postgresql://me:open sesame@db/x"))


def test_pgpassword_serves_where_no_other_password_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "general")
    passwords.bare("postgresql://me:special@db/x")
    assert passwords.of("postgresql://me@db/x") == "special"
    assert passwords.of("postgresql://me@db/y") == "general"
    with passwords.hiding():
        assert "PGPASSWORD" not in os.environ
        assert passwords.of("postgresql://me@db/y") == "general"


def test_a_file_holds_a_password_in_its_first_line(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("s3cret\nnot this\n")
    file.chmod(0o600)
    assert passwords.read_file("postgresql://me@db/x", str(file)) is None
    assert passwords.of("postgresql://me@db/x") == "s3cret"
    file.chmod(0o644)
    assert passwords.read_file("postgresql://me@db/x", str(file)) == f"{file} can be read by others: chmod 600 {file}"


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"", "is empty"), (b"\xff", "is no text")])
def test_a_file_without_a_password_is_refused_in_one_line(tmp_path: Path, content: bytes | None, why: str) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=rf"^storage\.password_file: {file}: {why}"):
        passwords.read_file("postgresql://me@db/x", str(file))


def test_scrubbing_finds_every_form() -> None:
    passwords.bare("postgresql://me:p%40ss%2Fw%20rd%27@db/x")
    for form in ("p@ss/w rd'", "p%40ss%2Fw%20rd%27", "p%40ss/w%20rd%27", "p%40ss%2Fw+rd%27", "cEBzcy93IHJkJw=="):
        assert passwords.scrub(f"[{form}]") == "[***]"


def test_hiding_ends_with_the_last_that_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPSEARCH_STORAGE", "postgresql://me:secret@db/x")
    monkeypatch.setenv("PGPASSWORD", "secret")
    before = dict(os.environ)
    with passwords.hiding():
        with passwords.hiding():
            pass
        out = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
        assert "secret" not in out
        assert "HPSEARCH" not in out
    assert dict(os.environ) == before


WITHDRAWS = """
import os
from hpsearch import passwords
passwords.withdraw()
shown = open("/proc/self/environ").read()
assert "secret" not in shown and "PATH=" in shown, shown
assert os.environ["HPSEARCH_STORAGE"] == "postgresql://me@db/x"
assert "PGPASSWORD" not in os.environ
assert passwords.of("postgresql://me@db/x") == "secret1"
assert passwords.of("postgresql://me@db/y") == "secret2"
"""


def test_a_program_withdraws_what_its_environment_shows() -> None:
    env = {**os.environ, "HPSEARCH_STORAGE": "postgresql://me:secret1@db/x", "PGPASSWORD": "secret2"}
    subprocess.run([sys.executable, "-c", WITHDRAWS], env=env, check=True)


STUDY = """
objective: train.py:train
metric: {name: accuracy, goal: maximize}
budget: {trials: 3}
storage: %s
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("def train(trial): ...\n")
    return tmp_path


def test_a_study_holds_no_password(folder: Path) -> None:
    (folder / "s.yaml").write_text(STUDY % "postgresql://me:c%40nary@db/x")
    spec = load_study("s.yaml", environ={})
    assert spec.storage == "postgresql://me@db/x"
    for text in (repr(spec), repr(explain(spec)), pickle.dumps(spec).decode("latin-1")):
        assert "nary" not in text
    assert passwords.of(spec.storage) == "c@nary"


def test_a_study_names_a_password_file(folder: Path) -> None:
    (folder / "s.yaml").write_text(STUDY % "{url: postgresql://me@db/x, password_file: pw}")
    spec = load_study("s.yaml", environ={})
    assert (spec.storage, spec.password_file) == ("postgresql://me@db/x", "pw")
    spec = load_study("s.yaml", environ={"HPSEARCH_STORAGE_PASSWORD_FILE": "other"})
    assert spec.password_file == "other"
    assert ("storage.password_file", "other", "environment HPSEARCH_STORAGE_PASSWORD_FILE") in explain(spec)
    spec = load_study("s.yaml", environ={}, options={"storage": "sqlite:///x.db"})
    assert (spec.storage, spec.password_file) == ("sqlite:///x.db", None)
