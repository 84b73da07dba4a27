"""``hpsearch run`` with a command: scripts that know nothing of hpsearch, on a local cluster."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).parents[2]


def hpsearch(home: Path, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "hpsearch", *arguments]
    env = {**os.environ, **environ}
    return subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=110, check=False)


def trials(home: Path, study: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=study, storage=f"sqlite:///{home}/studies.db").get_trials()


def test_a_script_is_searched_unchanged(tmp_path):
    """It crashes once and is tried again; one trial is pruned; none is told that it is one of several."""
    (tmp_path / "train.py").write_text(
        textwrap.dedent("""
            import argparse, os, sys, time
            parser = argparse.ArgumentParser()
            parser.add_argument("--x", type=float)
            parser.add_argument("--momentum", type=float, default=None)
            parser.add_argument("--kind")
            args = parser.parse_args()
            assert args.kind in ("plain", "with momentum")
            assert (args.momentum is None) == (args.kind == "plain")
            assert not {"RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "HPSEARCH_SEED"} & set(os.environ)
            if os.environ["HPSEARCH_TRIAL_NUMBER"] == "0" and os.environ["HPSEARCH_ATTEMPT"] == "1":
                sys.exit(3)
            print(f"step 0: loss {args.x}")
            print(f"step 1: loss {args.x + 1}")
            if args.x > 0.5:
                time.sleep(1000)  # until it is pruned
        """)
    )
    (tmp_path / "study.yaml").write_text(
        textwrap.dedent("""
            command: [python, train.py, "${args}"]
            metric: {name: loss, goal: minimize, pattern: 'step (?P<step>\\d+): loss (?P<value>\\S+)'}
            parameters:
              x: {min: 0.0, max: 1.0, step: 0.25}
              kind: [plain, with momentum]
              momentum: {min: 0.0, max: 0.9, when: {kind: with momentum}}
            sampler: random
            pruner: {threshold: {upper: 1.6}}
            budget: {trials: 6}
            retry: {max: 1, on: [error]}
            cluster: {workers: 2}
        """)
    )
    done = hpsearch(tmp_path, "run", "study.yaml", "--plain", HPSEARCH_SEED="3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exited with 3" in done.stdout
    for trial in trials(tmp_path, "study"):
        pruned = trial.params["x"] > 0.5
        assert trial.state is (TrialState.PRUNED if pruned else TrialState.COMPLETE)
        assert trial.value == trial.params["x"] + 1
        assert trial.intermediate_values == {0: trial.params["x"], 1: trial.params["x"] + 1}


def test_a_missing_script_is_told_before_anything_starts(tmp_path):
    (tmp_path / "study.yaml").write_text(
        "command: [python, train.py]\nmetric: {name: loss, goal: minimize}\nbudget: {trials: 1}\n"
    )
    done = hpsearch(tmp_path, "run", "study.yaml")
    assert (done.returncode, done.stderr.splitlines()) == (2, ["study.yaml:1:19: command[1]: no such file: train.py"])
    assert not (tmp_path / "studies.db").exists()


def test_a_torchrun_script_runs_on_two_ranks(tmp_path):
    study = ROOT / "studies/torchrun_script.yaml"
    (tmp_path / "trials").symlink_to(ROOT / "trials")
    # torch 2.13 may abort while it tears gloo down (pytorch issue 56297): the study file asks for another attempt then.
    overrides = ["budget.trials=1", "parameters.epochs=2", "parameters.batch-size=128"]
    done = hpsearch(tmp_path, "run", str(study), *overrides, "--plain")
    assert done.returncode == 0, done.stdout + done.stderr
    (trial,) = trials(tmp_path, "torchrun_script")
    assert sorted(trial.intermediate_values) == [0, 1]
    logs = max((tmp_path / "runs/torchrun_script/trial-0000").glob("attempt-*"))
    assert (logs / "rank-0.log").read_text().count("val_loss") == 2
    assert "val_loss" not in (logs / "rank-1.log").read_text()


def test_the_same_script_runs_by_hand_under_torchrun(tmp_path):
    script = str(ROOT / "trials/torchrun_script.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, script, "--epochs", "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    # torch 2.13 may abort while it tears gloo down (pytorch issue 56297), after all is done and printed.
    assert done.returncode == 0 or "terminate called without an active exception" in done.stderr, done.stderr
    assert done.stdout.count("epoch=0 val_loss=") == 1


def test_an_interrupted_script_goes_on_with_another_attempt(tmp_path):
    (tmp_path / "train.sh").write_text(
        """
        echo loss $HPSEARCH_ATTEMPT
        test $HPSEARCH_ATTEMPT = 2 && exit
        trap 'echo saved > $HPSEARCH_TRIAL_DIRECTORY/checkpoint; exit 0' TERM
        sleep 1000 &
        echo ready > started
        wait $!
        """
    )
    (tmp_path / "study.yaml").write_text(
        "command: [/bin/sh, train.sh]\nbudget: {trials: 1}\nresources: {grace: 20s}\n"
        "metric: {name: loss, goal: minimize, pattern: 'loss (?P<value>.*)'}\n"
    )
    os.mkfifo(tmp_path / "started")
    command = [sys.executable, "-m", "hpsearch", "run", "study.yaml", "--plain"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert (tmp_path / "started").read_text() == "ready\n"
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert (tmp_path / "runs/study/trial-0000/checkpoint").read_text() == "saved\n"
    assert hpsearch(tmp_path, "run", "study.yaml", "--plain").returncode == 0
    (trial,) = trials(tmp_path, "study")
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 2.0)
