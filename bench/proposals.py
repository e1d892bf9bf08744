"""`final --proposals RUN`: finished classifiers asked once more, through the regions that a detector proposes (docs/tracks.md)."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

from bench.config import Job, RunSpec, config_hash, digest
from bench.engine.cascade import add_proposed, check_detector, lacks_proposed
from bench.engine.worker import Worker, best_device
from bench.ledger import now
from bench.metrics import Frame
from bench.plan import Ready
from bench.tracking import Tracker
from data.errors import ConfigError


def count_proposals(ready: Ready, proposals: str, reopen: str | None, job: Job, tracker: Tracker) -> None:
    """A look at the test side through a detector's regions is one more, and is counted. ConfigError for a second detector
    without a reason."""
    if not proposals:
        return
    ledger, detector = ready.home.ledger, tracker.resolve(proposals).run_id
    settings = config_hash(job.spec.model_dump(mode="json"))
    told = json.loads(tracker.download(detector, "config.json").read_text(encoding="utf-8"))
    looks, mine = ledger.looks(ready.split.hash), config_hash(told)
    asked = [entry for entry in looks if entry["settings"] == settings]
    before = [entry["proposals"] for entry in asked if entry["kind"] == "proposals"]
    if not asked or mine in before:
        return
    if before and not reopen:
        what = "these settings were shown the regions of another detector before"
        raise ConfigError(what, f"--proposals {proposals}", 'give the reason for a second look: --reopen "why"')
    why = reopen or f"the regions that {told['method']} proposes"
    entry = {
        "id": digest([settings, mine, len(looks), time.time_ns()]),
        "reopen": why,
        "proposals": mine,
        "kind": "proposals",
    }
    ledger.append({**asked[-1], **entry, "date": now(), "opened_before": len(looks)})


def check_proposals(jobs: Iterable[Job], proposals: str, tracker: Tracker) -> None:
    """ConfigError where the detector that is named cannot show its regions to each of these runs: before anything is trained,
    opened or counted."""
    for job in jobs if proposals else ():
        check_detector(Frame.load(_proposer(tracker, proposals, job.spec)), job.spec)


def ask_proposed(tracker: Tracker, run_id: str, folder: Path, proposals: str) -> None:
    """Test lesions once more through the regions of a detector: of its run of the same seed and fold."""
    if not proposals:
        return
    job = Job.model_validate_json((folder / "job.json").read_text(encoding="utf-8"))
    job = job.model_copy(update={"folder": str(folder)})
    proposer = _proposer(tracker, proposals, job.spec)
    if lacks_proposed(job, proposer):
        add_proposed(job, proposer, Worker(device=best_device()))
        tracker.artifact(run_id, folder / "frames", "frames")


def _proposer(tracker: Tracker, proposals: str, spec: RunSpec) -> Path:
    """The test frame of the detector that `proposals` names, of this seed and fold. ConfigError where there is none."""
    try:
        named = tracker.resolve(proposals)
    except ConfigError as error:
        raise ConfigError(error.what, f"--proposals {proposals}", error.do) from error
    if named.kind != "final":
        raise ConfigError(
            f"run {named.run_id[:8]} is a {named.kind}", "--proposals", "name a final of a detector; `ui` shows them"
        )
    told = json.loads(tracker.download(named.run_id, "config.json").read_text(encoding="utf-8"))
    for run in tracker.runs(kind="final", track=named.track):
        own = json.loads(tracker.download(run.run_id, "config.json").read_text(encoding="utf-8"))
        if (
            run.state == "complete"
            and config_hash(own) == config_hash(told)
            and (own["seed"], own["fold"]) == (spec.seed, spec.fold)
        ):
            return tracker.download(run.run_id, f"frames/test-{own['track']}")
    what = f"the detector of run {named.run_id[:8]} has no finished final of seed {spec.seed}, fold {spec.fold}"
    raise ConfigError(what, "--proposals", "run its `final` with as many seeds first")
