"""Distances of a student's maps to its teacher's over training (paper 003, Fig. 6), and what lies on the rim of a mask."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.engine.loop import Settings, fit
from bench.engine.run import open_data, train_run, trained
from bench.home import Home
from bench.metrics import Frame
from bench.pictures import _panels
from bench.plan import Ready
from models import _map_distances as md
from models import _transfer as transfer
from models._chart import QUANTILES
from models.densenet121_kt import DenseNet121Kt
from tests.test_transfer import student
from tests.toy import ToyContext, subset, toy_batch, toy_method, train, train_all
from tests.toy_cells import toy_cell
from tests.toy_engine import ROI, SIZE, Tiny


def disc(side: int = 64, radius: float = 16) -> Tensor:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return torch.from_numpy(np.hypot(y, x) <= radius).float()[None, None]


def measured(method: DenseNet121Kt, *batches: Any) -> md.MapDistances:
    method.stages()
    method.eval().measure(ToyContext(batches))
    assert method.map_distances is not None
    return method.map_distances


# ---- the rim -----------------------------------------------------------------------------------------------------
def test_the_rim_is_a_band_around_the_outline() -> None:
    band = md.rim(disc())[0, 0]
    y, x = np.mgrid[:64, :64] - 31.5
    away = torch.from_numpy(abs(np.hypot(y, x) - 16))
    assert bool((band[away < 1.5] == 1).all()), "2 of 64 px to either side"
    assert not band[away > 2 * math.sqrt(2) + 1].any()
    half = torch.zeros(1, 1, 64, 64)
    half[..., :32] = 1
    assert md.rim(half)[0, 0, 0].nonzero()[:, 0].tolist() == [30, 31, 32, 33], "no outline at the region's border"


def test_a_map_of_the_rim_lies_on_it_and_a_level_one_by_chance() -> None:
    band = md.rim(disc())
    area = float(band.mean())
    assert float(md.share_of(band[:, 0], band)) == pytest.approx(1)
    assert float(md.share_of(torch.ones(1, 64, 64), band)) == pytest.approx(area)
    assert float(md.share_of(torch.ones(1, 4, 4), band)) == pytest.approx(area), "whatever the cells"
    assert float(md.share_of(disc(radius=8)[:, 0], band)) == 0
    nothing = torch.zeros(1, 1, 64, 64)
    assert md.share_of(torch.ones(1, 4, 4), nothing).isnan().all() and md.share_of(nothing[:, 0], band).isnan().all()


# ---- the distances -----------------------------------------------------------------------------------------------
def test_distances_are_those_of_eq_4_by_hand() -> None:
    method, batch = student(groups=(2,)), toy_batch(6)
    batch.has_mask[1] = False
    kept = measured(method, batch)
    few = subset(batch, batch.has_mask.nonzero()[:, 0])
    with torch.no_grad():
        own, shown = method.activations(few.image), method._taught_by[0].activations(few.mask)
    for group in (1, 2, 3, 4):
        d = transfer.distance(transfer.activation_map(shown[group]), transfer.activation_map(own[group]))
        want = np.quantile(np.log(d.double().numpy()) + 10, QUANTILES)
        np.testing.assert_allclose(kept.log_distances[0, group - 1].numpy(), want, rtol=1e-4)
        assert method.facts()[f"map_distance_{group}_before"] == pytest.approx(float(d.median()), rel=1e-3)
    assert torch.equal(kept.log_distances[0], kept.log_distances[1]), "nothing was trained"
    assert int(kept.regions) == 5 and "n = 5 training regions" in method.charts()["transfer"].words


def test_training_brings_the_maps_together_and_the_start_is_remembered() -> None:
    method, batches = student(beta=100.0), [toy_batch(6, seed=s, first_row=6 * s) for s in range(2)]
    untouched = measured(student(beta=100.0), *batches).log_distances[0]
    train(method, method.stages()[0], batches, steps=25, plain_lr=3e-3)
    weights = {name: value.clone() for name, value in method.trunk.state_dict().items()}
    kept = measured(method, *batches)
    torch.testing.assert_close(kept.log_distances[0], untouched)
    middle = QUANTILES.index(0.5)
    assert float(kept.log_distances[1, 3, middle]) < float(kept.log_distances[2, 3, middle]), "nearer to its own mask"
    assert float(kept.log_distances[1, 3, middle]) < float(kept.log_distances[0, 3, middle]) - 0.1
    assert all(torch.equal(value, weights[name]) for name, value in method.trunk.state_dict().items())


def test_a_teacher_of_another_kind_is_compared_at_its_last_map_alone() -> None:
    settings = {"weights": "none", "norm": "batch", "head": "pool_linear", "trunk_blocks": 4}
    method = student(teacher_method="vgg16", teacher_settings=settings)
    kept = measured(method, toy_batch(6))
    assert kept.log_distances[:, 3].isfinite().all() and kept.log_distances[:, :3].isnan().all()
    assert kept.rim_shares.isfinite().tolist() == [False, False, False, True]
    of_last = {f"map_distance_4_{series}" for series in ("before", "after", "other")}
    assert set(method.facts()) == {"rim_area", "rim_share_4"} | of_last


def test_without_transfer_and_without_masks_nothing_is_measured() -> None:
    plain = toy_method("densenet121_kt", beta=0.0)
    assert [stage.name for stage in plain.stages()] == ["train"] and not plain.facts() and not plain.charts()
    assert plain.state_dict().keys() == toy_method("densenet121").state_dict().keys()
    method, batch = student(), toy_batch(6)
    batch.has_mask[:] = False
    measured(method, batch)
    assert not method.facts() and not method.charts()


def test_the_figure_survives_in_the_state() -> None:
    method = student()
    torch.manual_seed(0)
    train_all(method, [toy_batch(6)])
    fresh = toy_method("densenet121_kt", seed=5)
    fresh.load_state_dict(method.state_dict())
    assert fresh.facts() == method.facts() and fresh.charts() == method.charts()
    assert len(fresh.facts()) == 17
    early = {key: value for key, value in method.state_dict().items() if "map_distances" not in key}
    older = toy_method("densenet121_kt", seed=5)
    older.load_state_dict(early)
    assert not older.charts(), "a state from before they were kept"


# ---- in the engine -----------------------------------------------------------------------------------------------
@pytest.mark.long
@pytest.mark.usefixtures("one_thread")
def test_the_best_epoch_stays_chosen_and_a_killed_run_ends_with_the_same_figure(tiny: Tiny, tmp_path: Path) -> None:
    def made() -> DenseNet121Kt:
        return student(size=SIZE, roi=ROI, epochs=3, batch_size=12, lr=3e-3, head="pool", input_norm="per_image")

    method, settings = made(), Settings(seed=3)
    data = tiny.training(method.inputs())
    values, states, names = [], [], []
    for report in fit(method, data, settings):
        report.save(tmp_path / str(report.number))
        names.append(report.stage)
        if report.stage == "train":
            values.append(report.metrics[settings.select].value or 0.0)
            states.append({name: value.clone() for name, value in method.trunk.state_dict().items()})
    assert names == ["train", "train", "train", "maps", "maps"]
    best = states[int(np.argmax(values))]
    assert all(torch.equal(value, best[name]) for name, value in method.trunk.state_dict().items())
    assert method.map_distances is not None and int(method.map_distances.regions) > 5
    for number in (1, 3, 4):
        resumed = made()
        list(fit(resumed, data, settings, resume=tmp_path / str(number)))
        assert resumed.facts() == method.facts() and len(resumed.facts()) == 17, f"resumed after report {number}"


@pytest.mark.long
@pytest.mark.usefixtures("one_thread")
def test_a_finished_run_has_it_in_its_record_and_among_its_pictures(tiny: Tiny, tmp_path: Path) -> None:
    settings = {
        "teacher": "same_weights", "cell": 8, "trainable": "all", "epochs": 1, "head": "pool", "lesion_background": {"window": 5},
    }  # fmt: skip
    ready = Ready(Home.at(tmp_path), toy_cell("densenet121_kt", settings), tiny.prepared)
    job = ready.job(ready.spec(ready.base, seed=1), tmp_path / "run").model_copy(update={"tracks": ("margin",)})
    list(train_run(job))
    method = trained(job, open_data(job))
    told = json.loads((tmp_path / "run" / "last.json").read_text())["system"]
    assert method.facts() == {name.removeprefix("network/"): told[name] for name in told if name.startswith("network/")}
    assert len(method.facts()) == 17
    samples = tiny.training(method.inputs()).validation_for("margin")
    frame = Frame.load(tmp_path / "run" / "frames" / "validation-margin")
    drawn = _panels(job, method, samples, frame, tmp_path / "p", [0, 3])
    assert [file.name for file in drawn] == ["margin.png", "margin-2.png", "transfer.png", "transfer.csv"]
    assert all(file.stat().st_size > 500 for file in drawn)
