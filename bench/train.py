"""The job `train`: one method, once, scored on its validation side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.cluster.trials import ListSearch
from bench.cluster.tune import run_trials
from bench.config import RunSpec
from bench.objectives import told_metrics
from bench.plan import Ready
from bench.recorder import Recorder, keep_state
from bench.sweep import TRAINABLE, Seen, run_requirements, share_of
from bench.tracking import Tracker


def run_train(ready: Ready, seed: int, tracker: Tracker, seen: Seen = lambda number, payload: None) -> dict[str, Any]:
    """Train the cell's settings with one seed, or show the run that did; the JSON document of `train`."""
    spec = ready.spec(ready.base, seed)
    with ready.home.claim(f"train-{spec.identity}", f"{ready.cell}, seed {seed}"):
        return _train(ready, spec, tracker, seen)


def _train(ready: Ready, spec: RunSpec, tracker: Tracker, seen: Seen) -> dict[str, Any]:
    run_requirements(ready, ready.all_requirements(ready.base, spec.seed), tracker, seen)
    folder = ready.home.checkpoints / f"{spec.identity}-train"
    job = ready.job(spec, folder, name=f"{ready.cell.method} seed {spec.seed}, {ready.cell.dataset}")
    job = job.model_copy(update={"objectives": told_metrics(ready)})
    last: dict[str, Any] = {}

    def see(number: int, payload: Mapping[str, Any]) -> None:
        rate = payload["images_per_second"] or last.get("images_per_second")  # the last report trains nothing
        last.update({**payload, "images_per_second": rate})
        seen(number, payload)

    finished = tracker.find(spec.identity, "train")
    recorder = Recorder(
        tracker, "train", lambda number: job, seen=see,
        finished=lambda number, run_id, payload: keep_state(tracker, run_id, job) if finished is None else None,
    )  # fmt: skip
    if finished is not None:
        recorder.run_ids[0] = finished.run_id
    [ending] = run_trials(
        ListSearch({0: job.model_dump(mode="json")}), TRAINABLE, storage_dir=ready.home.ray, share=share_of(ready),
        on_report=see if finished else recorder.on_report,
        on_end=(lambda number, state, payload, failure: {}) if finished else recorder.on_end,
    )  # fmt: skip
    log = Path(job.folder) / "failure.log"
    return {
        "run_id": recorder.run_ids[0],
        "status": ending.state,
        "failure": ending.failure.kind if ending.failure else None,
        "reason": ending.failure.reason if ending.failure else None,
        "finished_before": finished is not None,
        "log": str(log) if ending.state == "failed" and log.is_file() else None,
        "epochs": last.get("total"),
        "metrics": last.get("estimates", {}),
        "read_by": (last.get("chosen") or {}).get("variant"),
        "images_per_second": last.get("images_per_second"),
        "checkpoint": str(Path(job.folder) / "final.pt") if ending.state == "complete" else None,
    }
