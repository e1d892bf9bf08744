"""What a sweep has found: its document, the trial that goes on to `final`, and the Pareto front of two objectives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.cluster.search import DurableSearch
from bench.engine.run import last_payload
from bench.explain.plots import save_front
from bench.metrics import METRICS
from bench.objectives import SIDE
from bench.plan import TUNING_SEED, Ready, trial_folder

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


def document(search: DurableSearch, ready: Ready, parent: str, target: int) -> dict[str, Any]:
    """The JSON document of `sweep` (docs/cli.md), of the study as it stands. target: trials asked for."""
    stored = search.study.get_trials(deepcopy=False)
    trials = [_trial(trial, len(search.objectives) > 1) for trial in stored]
    closed = sum(t["state"] in ("complete", "pruned", "failed") for t in trials)
    return {
        "sweep_id": parent,
        "study": search.study.study_name,
        "objectives": [
            {"metric": o.metric, "direction": "maximize" if o.mode == "max" else "minimize"} for o in search.objectives
        ],
        "trials": trials,
        "best": _best(search, ready, stored),
        "front": front(search, stored),
        "status": "done" if closed >= target else "unfinished",
    }


def _trial(trial: FrozenTrial, several: bool) -> dict[str, Any]:
    values = list(trial.values) if trial.values is not None else None if several else _last(trial.intermediate_values)
    kept = trial.user_attrs
    return {
        "number": trial.number,
        "state": STATES[trial.state.name],
        "failure": kept.get("failure"),
        "reason": kept.get("reason"),
        "values": values,
        "estimates": kept.get("estimates") if trial.values is not None else None,
        "params": trial.params,
        "run_id": kept.get("run_id"),
        "seconds": kept.get("seconds"),
    }


def _last(values: Mapping[int, float]) -> list[float] | None:
    finite = [values[step] for step in sorted(values) if math.isfinite(values[step])]
    return finite[-1:] or None


def front(search: DurableSearch, trials: Iterable[FrozenTrial]) -> list[int]:
    """Numbers of the complete trials that no other betters in one objective without losing in another; of two objectives."""
    several = len(search.objectives) > 1
    complete = any(trial.state.name == "COMPLETE" for trial in trials)
    return sorted(trial.number for trial in search.study.best_trials) if several and complete else []


def _best(search: DurableSearch, ready: Ready, trials: Iterable[FrozenTrial]) -> dict[str, Any] | None:
    """The complete trial that is best in the first objective, then in the second, then the earliest: one of the front."""
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if not complete:
        return None
    signs = [1 if objective.mode == "max" else -1 for objective in search.objectives]

    def rank(trial: FrozenTrial) -> tuple[float, ...]:
        return (*(sign * value for sign, value in zip(signs, trial.values, strict=True)), -trial.number)

    best = max(complete, key=rank)
    first, *others = [objective.metric.removeprefix(SIDE) for objective in search.objectives]
    of = f"of {len(complete)} complete trials"
    if others:
        of = f"on the front with {others[0]}, {len(front(search, complete))} of {len(complete)} complete trials"
    read, settings = _read_by(search, ready, best.number)
    return {
        "method": ready.cell.method,
        "data_hash": ready.prepared.data_hash,
        "split_hash": ready.split.hash,
        "track": ready.task.track.name,
        "number": best.number,
        "values": list(best.values),
        "rule": f"best validation {first} {of}{read}",
        "config": ready.config({**search.overrides(best.params), **settings}).model_dump(mode="json"),
    }


def _read_by(search: DurableSearch, ready: Ready, number: int) -> tuple[str, dict[str, Any]]:
    """In words, and as settings, under which test-time setting validation found the trial best; nothing where there is one
    alone, or the suite holds it."""
    chosen = last_payload(trial_folder(ready, search.study.study_name, number)).get("chosen") or {}
    settings = {key: value for key, value in chosen.get("settings", {}).items() if key not in ready.fixed_fields()}
    return (f", read by {chosen['variant']}", settings) if settings else ("", {})


def next_of_sweep(found: Mapping[str, Any]) -> list[str]:
    """What --from of a `final` may name, and why: the chosen trial; of two objectives every trial of the front, by run."""
    if found["best"] is None:
        return []
    if not found["front"]:
        return [f"{found['sweep_id'][:8]}  # trial {found['best']['number']}, {found['best']['rule']}"]
    names = [objective["metric"].removeprefix(SIDE) for objective in found["objectives"]]
    of = {trial["number"]: trial for trial in found["trials"]}
    lines = []
    for number in found["front"]:
        values = ", ".join(f"{name} {value:.3f}" for name, value in zip(names, of[number]["values"], strict=True))
        most = number == found["best"]["number"]  # the one that the sweep's own id stands for
        source = found["sweep_id"] if most else of[number]["run_id"]
        lines.append(f"{source[:8]}  # trial {number} of the front{f', most {names[0]}' if most else ''}: {values}")
    return lines


def front_table(found: Mapping[str, Any]) -> pd.DataFrame:
    """One row per complete trial: trial, run, front, published, and each objective with _low, _high and _n."""
    rows = []
    for trial in found["trials"]:
        if trial["state"] != "complete":
            continue
        number = trial["number"]
        row = {"trial": number, "run": trial["run_id"], "front": number in found["front"], "published": number == 0}
        for objective, value in zip(found["objectives"], trial["values"], strict=True):
            name = objective["metric"].removeprefix(SIDE)
            estimate = (trial["estimates"] or {}).get(objective["metric"], {})
            row |= {name: value} | {f"{name}_{key}": estimate.get(key) for key in ("low", "high", "n", "interval")}
        rows.append(row)
    return pd.DataFrame(rows)


def draw_front(found: Mapping[str, Any], ready: Ready, folder: Path) -> list[Path]:
    """front.svg and front.csv of a sweep by two objectives; none where no trial is complete."""
    if not found["front"]:
        return []
    x, y = (METRICS[objective["metric"].removeprefix(SIDE)] for objective in found["objectives"])
    states = [trial["state"] for trial in found["trials"]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in STATES.values() if state in states)
    lead = f"{len(states)} trials: {counts}; split {ready.split.hash[:12]}, seed {TUNING_SEED} in each."
    if ready.fixed_fields():
        lead += "\nTrial 0: the published point, with the settings that were given over it."
    title = f"Pareto front: {ready.cell.name} on {ready.cell.dataset}, {ready.task.track.name}"
    return save_front(front_table(found), x, y, title, lead, folder)
