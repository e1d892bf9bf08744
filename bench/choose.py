"""Which settings go to `final`: of the finished sweep, of a named sweep or run, or the published ones."""

import json
from dataclasses import dataclass

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
    if source == "published":
        return Choice(ready.base, "published")
    if source is None:
        found = tracker.find(study_name(ready), "sweep")
        if found is None:
            return Choice(ready.base, "published (no finished sweep of this cell)")
        return _of_sweep(ready, tracker, found.run_id)
    run = tracker.resolve(source)
    if run.kind == "sweep":
        return _of_sweep(ready, tracker, run.run_id)
    spec = json.loads(tracker.download(run.run_id, "config.json").read_text())
    if spec["method"] != ready.cell.method:
        raise ConfigError(
            f"run {run.run_id[:8]} is of {spec['method']}", "--from", f"name a run of {ready.cell.method}"
        )
    return Choice(ready.kind.Config.model_validate(spec["config"]), f"run {run.run_id[:8]}", run.parent or "")


def _of_sweep(ready: Ready, tracker: Tracker, run_id: str) -> Choice:
    best = json.loads(tracker.download(run_id, "best.json").read_text())
    if best["method"] != ready.cell.method:
        raise ConfigError(
            f"sweep {run_id[:8]} is of {best['method']}", "--from", f"name a sweep of {ready.cell.method}"
        )
    config = ready.kind.Config.model_validate(best["config"])
    return Choice(config, f"trial {best['number']} of sweep {run_id[:8]} (tuning seed {TUNING_SEED})", run_id)
