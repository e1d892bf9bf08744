"""Test lesions once more, through regions that a detector proposed in place of those cut around the annotation: what is left of a
classifier when nobody shows it where to look.

A proposer is a method whose predictions carry `regions` (where it looked closely, with weights); its finished run's test frame
says where they lie. Every lesion of a film gets the film's region of the highest weight: which lesion it was is not told.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from bench.config import Job, RunSpec
from bench.engine.evaluate import read_rows
from bench.engine.loop import Settings
from bench.engine.run import LINEAGE, open_data, opening_of, refuse_seen, trained
from bench.engine.worker import Worker
from bench.metrics.frame import PROPOSED, Frame
from data.errors import ConfigError
from data.record import Box

NUMBERS = 5  # of a region: x0 y0 x1 y1 in film pixels, weight


def lacks_proposed(job: Job, proposer: Path) -> list[str]:
    """Tracks of a finished run whose test frame was not asked through the regions of this proposer."""
    wanted = Frame.load_meta(proposer)["identity"]
    frames = {track: Path(job.folder) / "frames" / f"test-{track}" for track in job.tracks}
    return [track for track, frame in frames.items() if Frame.load_meta(frame).get("proposed_by") != wanted]


def add_proposed(job: Job, proposer: Path, worker: Worker) -> None:
    """Adds the variant PROPOSED to the test frames of a finished run. proposer: the test frame of a detector's run on the same films.

    Raises ConfigError where that frame has no regions, or is of other data or another split.
    """
    detector = Frame.load(proposer)
    check_detector(detector, job.spec)
    prepared = open_data(job)
    split = prepared.split(job.spec.protocol, job.spec.split_seed, job.spec.fold)
    refuse_seen(split, json.loads((Path(job.folder) / LINEAGE).read_text()), ("test",), job.spec.method)
    method = trained(job, prepared, worker.device)
    settings = Settings(seed=job.spec.seed, bf16=job.spec.bf16)
    for track in lacks_proposed(job, proposer):
        folder = Path(job.folder) / "frames" / f"test-{track}"
        frame = Frame.load(folder)
        lesions = prepared.sealed(split, method.inputs(), track, opening_of(job), boxes=boxes_of(detector))
        rows = read_rows(method, lesions, track, "test", job.spec, PROPOSED, worker, settings)
        own = frame.predictions[frame.predictions["variant"] != PROPOSED]
        frame.predictions = pd.concat([own, rows], ignore_index=True)
        first = frame.variants[0]  # whose thresholds, chosen on validation, are this one's too
        frame.meta |= {"variant_inputs": {PROPOSED: PROPOSED}, "variant_of": {PROPOSED: first}}
        frame.meta["proposed_by"] = detector.meta["identity"]
        frame.validate()
        frame.save(folder)


def check_detector(detector: Frame, spec: RunSpec) -> None:
    """ConfigError where a detector's test frame has no regions, or is of other data or another split."""
    boxes_of(detector)
    if (detector.meta["data_hash"], detector.meta["split_hash"]) != (spec.data_hash, spec.split_hash):
        raise ConfigError("it ran on other data, or on another split", "--proposals", "name a run on the same films")


def boxes_of(detector: Frame) -> Mapping[str, Box]:
    """record id -> its region of the highest weight, film pixels. Raises ConfigError where the frame has none."""
    rows = detector.labelled().predictions
    if "regions" not in rows.columns:
        raise ConfigError(
            f"{detector.meta['method']} proposes no regions",
            "--proposals",
            "name a run of a method that does (docs/tracks.md)",
        )
    found: dict[str, Box] = {}
    for record, flat in zip(rows["record_id"], rows["regions"], strict=True):
        regions = np.asarray(flat, dtype=float).reshape(-1, NUMBERS)
        x0, y0, x1, y1 = (int(value) for value in regions[regions[:, 4].argmax(), :4].round())
        found[str(record)] = (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))
    return found
