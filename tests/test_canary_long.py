"""Canary: labels dealt out at random must be scored at chance; above it, something leaks. Part of `make test-all`."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.config import config_hash
from bench.engine.run import train_run
from bench.home import Home
from bench.metrics import Estimate, Frame, compute
from bench.plan import Ready
from bench.suite import Cell
from data.cache import Prepared, prepare

pytestmark = pytest.mark.long

SETTINGS = {
    "size": 64,
    "width": 0.125,
    "trunk_blocks": 4,
    "weights": "pretext",
    "pretext_epochs": 6,
    "input_norm": "per_image",
    "epochs": 3,
    "batch_size": 16,
    "head": "pool_linear",
    "lr": 2e-4,
    "weight_decay": 1e-4,
}
ROI = {"strategy": "box_scale", "scale": 1.6}
EXAMS = {"train": 200, "validation": 30, "test": 100}


def scored(folder: Path, *, shuffled: bool) -> Estimate:
    """Test AUROC of a small vgg16 on the easy phantom, its margins as they are or dealt out among the findings."""
    torch.set_num_threads(1)
    options = {"level": "easy", "size": 192, "exams": EXAMS}
    prepared = prepare("phantom", None, options, folder / "cache")
    if shuffled:
        _shuffle(prepared)
    home = Home.at(folder)
    ready = Ready(
        home,
        Cell(method="vgg16", dataset="phantom", track="margin", options=options, settings=SETTINGS, roi=ROI),
        prepared,
    )
    spec = ready.spec(ready.base, seed=1)
    job = ready.job(spec, folder / "run", ledger_entry="canary")
    place = {"data_hash": spec.data_hash, "split_hash": spec.split_hash, "tracks": list(job.tracks)}
    home.ledger.append(
        {"kind": "final", "id": "canary", "settings": config_hash(spec.model_dump(mode="json")), **place}
    )
    for needed in [*ready.all_requirements(ready.base, 1), job]:
        list(train_run(needed))
    return compute(Frame.load(folder / "run" / "frames" / "test-margin"))["auroc_mean"]


def _shuffle(prepared: Prepared) -> None:
    table = prepared.table
    masses = table["margin"] >= 0
    table.loc[masses, "margin"] = np.random.default_rng(7).permutation(table.loc[masses, "margin"])
    table.to_parquet(prepared.folder / "table.parquet", index=False)


def test_shuffled_labels_score_at_chance_and_true_ones_above(tmp_path: Path) -> None:
    chance = scored(tmp_path / "shuffled", shuffled=True)
    assert chance.low is not None and chance.high is not None
    assert chance.low < 0.5 < chance.high, chance
    true = scored(tmp_path / "true", shuffled=False)
    assert true.low is not None and true.low > 0.6, true
