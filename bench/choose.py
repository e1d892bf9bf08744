"""Which settings go to `final`: of the finished sweep, of a named sweep or run, or the published ones."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.plan import TUNING_SEED, Ready
from bench.sweep import study_name
from bench.tracking import Tracker
from data.errors import ConfigError
from models.method import MethodConfig


@dataclass(frozen=True)
class Choice:
    """A config, in words where it comes from, and the MLflow id of the sweep that found it ("" if none did)."""

    config: MethodConfig
    source: str
    sweep: str = ""


def chosen(ready: Ready, source: str | None, tracker: Tracker) -> Choice:
    """source: None (the finished sweep of this cell, else published), "published", or a sweep's or run's id."""
    cell = ready.cell
    point = "published, with the settings given over it" if cell.settings or cell.budget or cell.roi else "published"
    if source == "published":
        return Choice(ready.base, point)
    if source is None:
        found = tracker.runs(kind="sweep", track=ready.task.track.name, identity=study_name(ready), limit=1)
        if not found:
            return Choice(ready.base, f"{point} (no sweep of this cell)")
        if found[0].state != "complete":
            raise ConfigError(
                f"the sweep {found[0].run_id[:8]} of this cell is not finished",
                str(ready.cell),
                "run the same sweep again, or pass --from published",
            )
        return _of_sweep(ready, tracker, found[0].run_id)
    run = tracker.resolve(source)
    if run.kind == "sweep":
        return _of_sweep(ready, tracker, run.run_id)
    spec = json.loads(tracker.download(run.run_id, "config.json").read_text())
    _check(ready, spec, f"run {run.run_id[:8]}")
    name = f"run {run.run_id[:8]}"
    if run.kind == "trial" and run.parent:
        name = f"trial {run.number} of sweep {run.parent[:8]} (tuning seed {TUNING_SEED}), named by its {name}"
    return Choice(ready.kind.Config.model_validate(spec["config"]), name, run.parent or "")


def _of_sweep(ready: Ready, tracker: Tracker, run_id: str) -> Choice:
    best = json.loads(tracker.download(run_id, "best.json").read_text())
    _check(ready, best, f"sweep {run_id[:8]}")
    config = ready.kind.Config.model_validate(best["config"])
    name = f"trial {best['number']} of sweep {run_id[:8]} (tuning seed {TUNING_SEED}), {best.get('rule', 'its best')}"
    return Choice(config, name, run_id)


def _check(ready: Ready, found: Mapping[str, Any], name: str) -> None:
    """Settings that were chosen on other data, or for another method, open no test side by accident."""
    if found["method"] != ready.cell.method:
        raise ConfigError(f"{name} is of {found['method']}", "--from", f"name one of {ready.cell.method}")
    here = (ready.prepared.data_hash, ready.split.hash, ready.task.track.name)
    if (found["data_hash"], found["split_hash"], found["track"]) != here:
        raise ConfigError(
            f"{name} ran on other data, another split or another track than this command names",
            "--from",
            "give the same --config, --set, --data-root and --track as there, or name a sweep of these data",
        )
