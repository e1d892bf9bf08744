"""kill -9 of `run_bench.py sweep` at three seeded moments, then the same command: study and MLflow agree on every trial."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from bench.cluster.search import open_storage
from bench.tracking import Tracker

TRIALS = 4
DEADLINE_S = 240.0
MOMENTS = ((0, 1), (2, 2), (3, 1))  # (trial, reports on its disk): the second inside a later epoch of a later trial
CONFIG = """
data:
  exams: {train: 120, validation: 20, test: 20}
  level: easy
  size: 128
  roi: {strategy: box_scale, scale: 1.6}
budget: {width: 0.25, size: 64, batch: 32, weights: none, trunk_blocks: 4}
head: pool_linear
norm: batch
epochs: 5
input_norm: per_image
"""


@pytest.mark.ray
def test_killed_three_times(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(CONFIG)
    seeded = random.Random(7)
    for trial, reports in MOMENTS:
        driver = subprocess.Popen(_command(tmp_path), cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
        _wait_for(tmp_path, trial, reports, driver)
        time.sleep(seeded.uniform(0.0, 0.6))
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    done = subprocess.run(
        _command(tmp_path),
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    document = json.loads(done.stdout)
    assert document["status"] == "done"
    _check(tmp_path, document)


def _check(folder: Path, document: dict) -> None:  # type: ignore[type-arg]
    """All trials closed, none twice; states and values agree; each epoch was recorded once, though the trial was cut."""
    study = optuna.load_study(
        study_name=document["study"], storage=open_storage(f"sqlite:///{folder / 'out' / 'studies.db'}")
    )
    assert [trial.number for trial in study.trials] == list(range(TRIALS))
    assert all(trial.state.is_finished() for trial in study.trials)
    tracker = Tracker(out=folder / "out")
    runs = tracker.runs(kind="trial", parent=document["sweep_id"])
    assert sorted(run.number for run in runs if run.number is not None) == list(range(TRIALS))
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    by_number = {run.number: run for run in runs}
    for trial in study.trials:
        run = by_number[trial.number]
        assert run.state == names[trial.state.name]
        if trial.state.name == "COMPLETE":
            assert run.metrics["validation/auroc_mean"] == pytest.approx(trial.value)
        steps = [step for step, _ in tracker.history(run.run_id, "seconds")]
        assert len(steps) == len(set(steps)), f"trial {trial.number} trained an epoch twice: {steps}"
        assert steps == list(range(1, len(steps) + 1)), f"trial {trial.number}: an epoch is not in its curve: {steps}"
    assert len(tracker.runs(kind="sweep")) == 1


def _command(folder: Path) -> list[str]:
    arguments = ["sweep", "vgg16", "phantom", "--track", "margin", "--scheduler", "none", "--json", "--quiet"]
    rest = ["--trials", str(TRIALS), "--config", str(folder / "settings.yaml"), "--out", str(folder / "out")]
    return [sys.executable, "run_bench.py", *arguments, *rest]


def _wait_for(folder: Path, trial: int, reports: int, driver: subprocess.Popen[bytes]) -> None:
    """Until the trial has written that many reports."""
    started = time.monotonic()
    while True:
        for path in (folder / "out" / "checkpoints").glob(f"*/trial-{trial:04d}/last.json"):
            if json.loads(path.read_text())["number"] >= reports:
                return
        assert driver.poll() is None, "the driver ended before its moment"
        assert time.monotonic() - started < DEADLINE_S, "the moment never came"
        time.sleep(0.05)
