"""kill -9 of a final over five folds while a student learns: the same command goes on, and trains no teacher again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.config import Job
from bench.metrics import Frame
from tests.cli import ROOT, here

SETTINGS = """
data: {exams: {train: 24, validation: 6, test: 6}, level: easy, size: 128, roi: {strategy: box_scale, scale: 1.6}}
budget: {width: 0.0625, size: 32, batch: 6, weights: none, trainable: all}
cell: 8
head: pool
lr: 2e-3
augment: {recipe: turns}
epochs: 6
teacher_settings: {epochs: 2, trainable: all, batch_size: 12}
"""
DEADLINE_S = 240.0


def teachers(out: Path) -> dict[Path, int]:
    """Folder of each finished teacher -> when its state was written."""
    found = {}
    for path in out.glob("checkpoints/*/job.json"):
        if Job.model_validate_json(path.read_text()).spec.config["picture"] == "mask":
            found[path.parent] = (path.parent / "final.pt").stat().st_mtime_ns
    return found


@pytest.mark.ray
@pytest.mark.long
def test_a_fold_that_was_killed_goes_on_and_its_teacher_is_not_trained_again(attached: None, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SETTINGS)
    out = tmp_path / "runs"
    command = ["final", "densenet121_kt", "phantom", "--protocol", "kfold5", "--seeds", "1", "--from", "published"]
    command += ["--config", str(tmp_path / "s.yaml"), "--out", str(out), "--json"]
    driver = subprocess.Popen(
        [sys.executable, "run_bench.py", *command], cwd=ROOT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ},
    )  # fmt: skip
    end = time.monotonic() + DEADLINE_S
    begun: list[Path] = []
    while not begun:  # all teachers are made before the first student has a checkpoint
        assert driver.poll() is None and time.monotonic() < end
        begun = [path for path in out.glob("checkpoints/*/checkpoint.pt") if len(teachers(out)) == 5]
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    before, cut = teachers(out), begun[0].parent
    assert len(before) == 5
    again = here(*command)
    assert again.code == 0, again.stderr
    assert teachers(out) == before
    rows = [row for row in again.document["rows"] if row["kind"] == "method"]
    assert rows and all(row["status"] == "done" and len(row["seeds"]) == 5 for row in rows)
    lines = [json.loads(line)["number"] for line in (cut / "reports.jsonl").read_text().splitlines() if line]
    assert set(lines) == set(range(1, max(lines) + 1)) and len(lines) <= max(lines) + 1, (
        "it went on where it was cut off"
    )
    students = [path for path in out.glob("checkpoints/*/DONE") if path.parent not in before]
    assert len(students) == 5
    folds = {Frame.load(next((path.parent / "frames").glob("test-*"))).meta["fold"] for path in students}
    assert folds == set(range(5))
