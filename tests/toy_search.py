"""A search over a toy space, and its study as it lies on the disk."""

from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from bench.cluster import host
from bench.cluster.search import DurableSearch, open_storage
from bench.cluster.trials import Ending, Objective
from tests.toy_trials import METRIC

optuna.logging.set_verbosity(optuna.logging.ERROR)


def space(trial: Any) -> dict[str, Any]:
    overrides = {"x": trial.suggest_float("x", 0.1, 1.0), "roi.scale": trial.suggest_float("roi.scale", 1.0, 2.0)}
    if trial.suggest_categorical("head", ["linear", "deep"]) == "deep":
        overrides["depth"] = trial.suggest_int("depth", 2, 4)
    return overrides


PUBLISHED = {"x": 0.5, "roi.scale": 1.6, "head": "linear"}


def searching(folder: Path, *, trials: int = 4, **options: Any) -> DurableSearch:
    jobs = options.pop("job", {})

    def make_job(number: int, overrides: dict[str, Any]) -> dict[str, Any]:
        own = jobs.get(number, {}) if isinstance(jobs, dict) else {}
        return {"folder": str(folder / str(number)), "epochs": 3, "epoch_s": 0.1, "x": overrides["x"], **own}

    defaults: dict[str, Any] = {
        "study": "toy", "storage": str(folder / "studies.db"), "space": space, "make_job": make_job,
        "objectives": [Objective(METRIC)], "trials": trials,
    }  # fmt: skip
    return DurableSearch(**{**defaults, **options})


def bound(search: DurableSearch, ends: list[Ending] | None = None, concurrent: int = 9) -> DurableSearch:
    constants = {"metric": METRIC}
    search.bind(lambda n, p: None, lambda n, s, p, f: ends.append(Ending(n, s, p, f)) if ends is not None else None,
                concurrent, constants)  # fmt: skip
    return search


def result(epoch: int, value: float | None, **more: Any) -> dict[str, Any]:
    """What a worker would send."""
    payload = {METRIC: value, "number": epoch, "total": 3, "selectable": True, "final": epoch == 3, **more}
    return host.result_of({k: v for k, v in payload.items() if v is not None}, {"metric": METRIC})


def states(folder: Path, study: str = "toy") -> list[tuple[TrialState, Any]]:
    loaded = optuna.load_study(study_name=study, storage=open_storage(str(folder / "studies.db")))
    return [(trial.state, trial.values) for trial in loaded.trials]
