"""``checkpoints`` and the rules of ``retry``: what is read, and what is refused where it stands."""

from pathlib import Path

import pytest
from spec_files import BASE

from hpsearch.errors import StudyFileError
from hpsearch.spec import Checkpoints, LogPolicy, StudySpec, explain, load_study


def load(tmp_path: Path, added: str) -> StudySpec:
    (tmp_path / "study.yaml").write_text(f"{BASE}{added}\n")
    (tmp_path / "train.py").write_text("def train(trial):\n    return 1.0\n")
    return load_study(str(tmp_path / "study.yaml"), environ={})


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_defaults(tmp_path: Path) -> None:
    spec = load(tmp_path, "")
    assert spec.checkpoints == Checkpoints(url=None, keep=2, keep_best=True, quota_bytes=None)
    assert (spec.retry.exclude_host_after, spec.retry.policies) == (2, ())


def test_all_of_it(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        "checkpoints: {url: 's3://user:secret@bucket/prefix', keep: 5, keep_best: false, quota: 10GB}\n"
        "retry: {exclude_host_after: 3, policies: [{pattern: 'ECC', action: exclude_host}]}",
    )
    assert spec.checkpoints.quota_bytes == 10_000_000_000
    assert (spec.checkpoints.keep, spec.checkpoints.keep_best) == (5, False)
    assert spec.retry.policies == (LogPolicy(pattern="ECC", action="exclude_host"),)
    shown = {key: value for key, value, _ in explain(spec)}
    assert shown["checkpoints.url"] == "s3://user:***@bucket/prefix"
    assert shown["checkpoints.quota"] == "10 GB"
    assert shown["retry.policies"] == "'ECC': exclude_host"


BAD = {
    "checkpoints: {keep: 1}": "checkpoints.keep: must be from 2 to 1000 (got 1)",
    "checkpoints: {keep_best: 1}": "checkpoints.keep_best: must be true or false (got 1)",
    "checkpoints: {url: /shared/checkpoints}": "checkpoints.url: must be a URL such as s3://bucket/prefix",
    "checkpoints: {url: 's3://'}": "checkpoints.url: must be a URL such as",
    "checkpoints: {quota: many}": "checkpoints.quota: ",
    "checkpoints: {keeps: 3}": "checkpoints.keeps: unknown key (did you mean 'keep'?)",
    "retry: {policies: [{pattern: 'a(b', action: dont_retry}]}": (
        "retry.policies[0].pattern: is no regular expression: missing ), unterminated subpattern at character 2"
    ),
    "retry: {policies: [{pattern: 'a{99999999999999}', action: dont_retry}]}": (
        "retry.policies[0].pattern: is no regular expression: the repetition number is too large"
    ),
    "checkpoints: {url: 'FTP://user:secret@host/x'}": (
        "checkpoints.url: must be a URL such as s3://bucket/prefix or file:///shared/checkpoints "
        "(got 'FTP://user:***@host/x')"
    ),
    "retry: {policies: [{pattern: x, action: boom}]}": "retry.policies[0].action: must be dont_retry or exclude_host",
    "retry: {policies: [{pattern: x}]}": "retry.policies[0]: action is needed",
    "retry: {policies: {pattern: x}}": "retry.policies: must be a list such as",
    "retry: {exclude_host_after: -1}": "retry.exclude_host_after: must be from 0 to 1000",
}


@pytest.mark.parametrize(("added", "said"), BAD.items(), ids=range(len(BAD)))
def test_what_cannot_be_meant_is_refused_where_it_stands(tmp_path: Path, added: str, said: str) -> None:
    with pytest.raises(StudyFileError) as refused:
        load(tmp_path, added)
    (problem,) = refused.value.problems
    assert f"{problem.key}: {problem.message}".startswith(said)
    assert problem.where.startswith("study.yaml:") or str(tmp_path) in problem.where
