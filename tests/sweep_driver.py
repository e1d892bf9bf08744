"""A sweep as a command of its own, for tests that kill it: python -m tests.sweep_driver FOLDER.

It writes what it hears into ledger.jsonl, which stands for the tracking server here.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from bench.cluster.failures import Failure
from bench.cluster.nodes import attach
from bench.cluster.search import DurableSearch
from bench.cluster.trials import Ending, Objective
from bench.cluster.tune import run_trials
from tests.toy_trials import METRIC

TRIALS, EPOCHS, EPOCH_S = 6, 4, 0.5
SLOW = {"trial": 3, "epoch": 3, "seconds": 6.0}  # long enough that a worker cannot end it after its driver's death


def make_job(folder: Path, number: int, overrides: dict[str, Any]) -> dict[str, Any]:
    slow = {str(SLOW["epoch"]): SLOW["seconds"]} if number == SLOW["trial"] else {}
    fate = {"2": "nan"} if number == 1 else {}
    own = {"folder": str(folder / "trials" / str(number)), "slow": slow, "fate": fate}
    return {"epochs": EPOCHS, "epoch_s": EPOCH_S, "x": overrides["x"], **own}


def space(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0.1, 1.0)}


class Ledger:
    """Lines that survive a kill: each is on the disk before the call returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, **line: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def lines(self, kind: str) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [line for line in lines if line["kind"] == kind]

    def report(self, number: int, payload: dict[str, Any]) -> None:
        self.append(kind="report", number=number, payload=payload)

    def end(self, number: int, state: str, payload: dict[str, Any] | None, failure: Failure | None) -> None:
        reason = None if failure is None else [failure.kind, failure.reason]
        self.append(kind="end", number=number, state=state, payload=payload, failure=reason)

    def recorded(self, number: int) -> Ending | None:
        for line in self.lines("end"):
            if line["number"] == number:
                failure = Failure(*line["failure"]) if line["failure"] else None
                return Ending(number, line["state"], line["payload"], failure)
        return None


def main(folder: Path) -> None:
    ledger = Ledger(folder / "ledger.jsonl")
    search = DurableSearch(
        study="sweep",
        storage=str(folder / "studies.db"),
        space=space,
        make_job=lambda number, overrides: make_job(folder, number, overrides),
        objectives=[Objective(METRIC)],
        trials=TRIALS,
        published={"x": 0.5},
        recorded=ledger.recorded,
    )
    with search:
        if search.finished:
            return
        with attach("local", num_cpus=2):
            run_trials(
                search,
                "tests.toy_trials:train",
                storage_dir=folder / "ray",
                on_report=ledger.report,
                on_end=ledger.end,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
