"""Cells of a suite at toy size on the tiny phantom, and the ledger entry that opens a job's test side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.config import Job, config_hash
from bench.ledger import Ledger
from bench.suite import Cell
from tests.toy_engine import OPTIONS, ROI, SIZE

BUDGET = {"width": 0.0625, "size": SIZE, "batch": 12, "samples": None, "weights": "none", "trunk_blocks": 4}
LINEAR = {"head": "pool_linear", "epochs": 1, "norm": "batch", "lr": 1e-3}  # settings of vgg16
WINDOW = {"strategy": ROI.strategy, "scale": ROI.scale}


def toy_cell(method: str = "vgg16", settings: Mapping[str, Any] = LINEAR, *, size: int = SIZE, **changes: Any) -> Cell:
    """The margin track of a method; size: side of the input; `changes`: further fields of Cell."""
    given = {"options": OPTIONS, "roi": WINDOW, **changes}
    return Cell(
        method=method, dataset="phantom", track="margin", budget={**BUDGET, "size": size}, settings=settings, **given
    )  # fmt: skip


def opened(job: Job, folder: Path, **changes: Any) -> Job:
    """The job with a ledger whose entry was written for it, but for `changes`."""
    spec = job.spec
    entry = {
        "kind": "final", "id": "tests", "settings": config_hash(spec.model_dump(mode="json")), "tracks": ["margin"],
        "data_hash": spec.data_hash, "split_hash": spec.split_hash, **changes,
    }  # fmt: skip
    ledger = Ledger(folder / "ledger.jsonl")
    ledger.append(entry)
    return job.model_copy(update={"ledger": str(ledger.path), "ledger_entry": "tests"})
