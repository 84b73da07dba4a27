"""What ``hpsearch init`` writes is a search that runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(150)


def hpsearch(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "hpsearch", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_can_be_searched_and_run_by_hand(tmp_path: Path) -> None:
    hpsearch(tmp_path, "init")
    shown = hpsearch(tmp_path, "run", "study.yaml", "--trials", "3", "--seed", "1", "--plain")
    assert "trials  3 of 3 in" in shown
    assert set(json.loads(hpsearch(tmp_path, "best", "--format", "json"))["params"]) >= {"lr", "width", "steps"}
    by_hand = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert by_hand.returncode == 0, by_hand.stderr
    assert float(by_hand.stdout.split()[-1]) > 0.9
