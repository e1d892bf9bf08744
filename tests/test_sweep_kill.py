"""kill -9 of a sweep's driver at three seeded moments, then the same command again: nothing lost, nothing doubled."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest

from bench.cluster.search import open_storage
from tests.sweep_driver import EPOCHS, SLOW, TRIALS, Ledger
from tests.toy_trials import METRIC, events

DEADLINE_S = 150.0


@dataclass(frozen=True)
class Closed:
    """A trial as a record tells of it. state: complete, pruned or failed."""

    number: int
    state: str
    value: float | None


@dataclass(frozen=True)
class Sweep:
    """A sweep that can be killed: its command, the study's name and storage, and the other record of what was closed.

    record(folder): one Closed for each closed trial of the tracker; a double would come twice. epochs(folder, number):
    the events of a trial's own log, as tests.toy_trials.note writes them. moments: (trial, epoch) to be killed in.
    """

    command: Callable[[Path], list[str]]
    study: str
    storage: Callable[[Path], str]
    record: Callable[[Path], list[Closed]]
    epochs: Callable[[Path, int], list[dict[str, Any]]]
    trials: int
    total_epochs: int
    moments: tuple[tuple[int, int], ...]
    cut: tuple[int, int]  # the moment whose epoch is long enough to be cut for certain


def _ledger(folder: Path) -> list[Closed]:
    lines = Ledger(folder / "ledger.jsonl").lines("end")
    return [
        Closed(line["number"], line["state"], line["payload"][METRIC] if line["state"] != "failed" else None)
        for line in lines
    ]


CUT = (int(SLOW["trial"]), int(SLOW["epoch"]))
TOY = Sweep(
    command=lambda folder: [sys.executable, "-m", "tests.sweep_driver", str(folder)],
    study="sweep",
    storage=lambda folder: str(folder / "studies.db"),
    record=_ledger,
    epochs=lambda folder, number: events(folder / "trials" / str(number)),
    trials=TRIALS,
    total_epochs=EPOCHS,
    moments=((0, 2), CUT, (TRIALS - 1, 2)),
    cut=CUT,
)


@pytest.mark.long  # the same with the real engine and MLflow is test_sweep_kill_mlflow.py; here epochs are long enough to be cut
@pytest.mark.ray
@pytest.mark.parametrize("sweep", [pytest.param(TOY, id="toy")])
def test_killed_three_times(tmp_path: Path, sweep: Sweep) -> None:
    seeded = random.Random(20)
    pids: list[int] = []
    for moment in sweep.moments:
        driver = subprocess.Popen(sweep.command(tmp_path), cwd=Path(__file__).parents[1], env=_environment())
        _wait_for(lambda m=moment: _inside(sweep, tmp_path, *m), driver)  # type: ignore[misc]
        time.sleep(seeded.uniform(0.0, 0.4))
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        pids.append(driver.pid)
    done = subprocess.run(
        sweep.command(tmp_path), cwd=Path(__file__).parents[1], env=_environment(), capture_output=True, text=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""  # stdout is the result's alone
    _check_records(tmp_path, sweep)
    _check_epochs(tmp_path, sweep)
    started = time.monotonic()
    subprocess.run(sweep.command(tmp_path), cwd=Path(__file__).parents[1], env=_environment(), timeout=60, check=True)
    assert time.monotonic() - started < 30  # a finished sweep starts no Ray
    assert len(sweep.record(tmp_path)) == sweep.trials


def _check_records(folder: Path, sweep: Sweep) -> None:
    """All trials closed, none twice, no parameters twice; study and record agree on states and values."""
    study = optuna.load_study(study_name=sweep.study, storage=open_storage(sweep.storage(folder)))
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    stored = [Closed(trial.number, names[trial.state.name], trial.value) for trial in study.trials]
    record = sorted(sweep.record(folder), key=lambda closed: closed.number)
    assert [closed.number for closed in record] == list(range(sweep.trials))
    assert stored == record
    assert len({json.dumps(trial.params, sort_keys=True) for trial in study.trials}) == sweep.trials


def _check_epochs(folder: Path, sweep: Sweep) -> None:
    """Each epoch ended once, in order; a trial that was taken up began where it had been cut."""
    for number in range(sweep.trials):
        ended = [event["epoch"] for event in sweep.epochs(folder, number) if event["event"] == "end"]
        assert ended == list(range(1, len(ended) + 1)), number
        done = 0
        for event in sweep.epochs(folder, number):
            assert event["epoch"] == done + 1, (number, event)
            done += event["event"] == "end"
    trial, epoch = sweep.cut
    starts = Counter(event["epoch"] for event in sweep.epochs(folder, trial) if event["event"] == "start")
    assert starts == {e: 2 if e == epoch else 1 for e in range(1, sweep.total_epochs + 1)}


def _inside(sweep: Sweep, folder: Path, number: int, epoch: int) -> bool:
    log = sweep.epochs(folder, number)
    return any(event["event"] == "start" and event["epoch"] >= epoch for event in log)


def _wait_for(condition: Callable[[], bool], driver: subprocess.Popen[bytes]) -> None:
    started = time.monotonic()
    while not condition():
        assert driver.poll() is None, "the driver ended before its moment"
        assert time.monotonic() - started < DEADLINE_S, "the moment never came"
        time.sleep(0.02)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}
