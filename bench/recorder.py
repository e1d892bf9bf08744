"""The driver's record of runs: each report and each end of a trial goes into MLflow as it comes."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cluster.failures import Failure
from bench.config import Job
from bench.engine.report import as_estimates
from bench.engine.run import read_reports
from bench.tracking import Kind, Tracker
from bench.tracking_values import Unreachable

log = logging.getLogger(__name__)

Payload = Mapping[str, Any]


@dataclass
class Recorder:
    """Opens a run per number when its first report comes, and closes it with its last. The driver alone writes.

    jobs(number) -> the job; its track is the experiment. finished(number, run_id, payload): called before a complete run is
    closed, to add artifacts. seen: called with each report, for progress. tags(number): what else is known of the run.
    """

    tracker: Tracker
    kind: Kind
    jobs: Callable[[int], Job]
    parent: str | None = None
    tags: Callable[[int], Mapping[str, Any]] = lambda number: {}
    finished: Callable[[int, str, Payload], None] = lambda number, run_id, payload: None
    seen: Callable[[int, Payload], None] = lambda number, payload: None
    run_ids: dict[int, str] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)  # number -> its last report that MLflow holds

    def open(self, number: int) -> str:
        """The MLflow run of a number; the one that a former driver began is gone on with."""
        if number not in self.run_ids:
            job = self.jobs(number)
            spec = job.spec
            tags = {
                "method": spec.method, "dataset": spec.dataset, "protocol": spec.protocol, "seed": spec.seed,
                "fold": spec.fold, "run_name": job.name, **self.tags(number),
            }  # fmt: skip
            params = {**spec.config, "data": spec.options, "bf16": spec.bf16}
            run_id = self.tracker.start(
                spec.track, name=job.name, kind=self.kind, identity=spec.identity, params=params, tags=tags,
                parent=self.parent, number=number if self.parent else None,
            )  # fmt: skip
            hashes = {"data_hash": spec.data_hash, "split_hash": spec.split_hash}
            self.tracker.provenance(run_id, config=spec.model_dump(mode="json"), hashes=hashes)
            self.run_ids[number] = run_id
        return self.run_ids[number]

    def on_report(self, number: int, payload: Payload) -> None:
        """One batch an epoch: loss terms, metrics with their intervals, rates and the worker's figures.

        Reports of which no driver heard, because it died after the checkpoint, are read from the run's folder.
        """
        run_id, step = self.open(number), int(payload["number"])
        if number not in self.steps:
            self.steps[number] = self._last_step(run_id, step - 1) if step > 1 else 0
        if step > self.steps[number] + 1:
            for missed, report in sorted(read_reports(Path(self.jobs(number).folder)).items()):
                if self.steps[number] < missed < step:
                    self._log(run_id, report)
        self._log(run_id, payload)
        self.steps[number] = step
        self.seen(number, payload)

    def _last_step(self, run_id: str, otherwise: int) -> int:
        try:
            return max((step for step, _ in self.tracker.history(run_id, "seconds")), default=0)
        except Unreachable as error:
            log.warning("run %s: reports before %d are not looked for: %s", run_id[:8], otherwise + 1, error)
            return otherwise

    def _log(self, run_id: str, payload: Payload) -> None:
        values: dict[str, Any] = {name: value for name, value in payload.items() if name.startswith("loss/")}
        values |= as_estimates(payload["estimates"])
        values |= payload["system"]
        values["seconds"] = payload["seconds"]
        if payload["images_per_second"]:
            values["images_per_second"] = payload["images_per_second"]
        self.tracker.log(run_id, values, step=int(payload["number"]))

    def on_end(self, number: int, state: str, payload: Payload | None, failure: Failure | None) -> dict[str, Any]:
        """Close the run; gives what the study keeps of it."""
        run_id = self.open(number)
        if state == "complete" and payload is not None:
            self.finished(number, run_id, payload)
        kind, reason = (failure.kind, failure.reason) if failure else (None, None)
        self.tracker.finish(run_id, state, failure=kind, reason=reason)
        seconds = payload["system"].get("cost/machine_seconds") if payload else None
        return {"run_id": run_id, "seconds": seconds}


def keep_state(tracker: Tracker, run_id: str, job: Job) -> None:
    """The finished state and frames of a run as artifacts."""
    folder = Path(job.folder)
    tracker.artifact(run_id, folder / "final.pt", "checkpoint")
    frames = folder / "frames"
    if frames.is_dir():
        tracker.artifact(run_id, frames, "frames")
