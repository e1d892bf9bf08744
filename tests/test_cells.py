"""Lesion and Background cells: of a network in closed form, of runs, and in the record (metrics: tests/test_cells_metrics.py)."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import Tensor
from torch.nn import functional as F

import models
from bench.config import Job
from bench.engine.cells import add_cells, drawn
from bench.engine.run import lacks_cells, train_run
from bench.engine.worker import Worker
from bench.final import FinalPlan, _ask_cells, _test_metrics, final_jobs
from bench.home import Home
from bench.metrics import CELLS, Frame, compute, unavailable
from bench.metrics.cells import ASKED, COLUMNS, MUS, RANDOM, TRAINED
from bench.objectives import check
from bench.plan import Ready
from bench.tracking import Tracker
from data.cache import Opening, Prepared, prepare
from data.errors import ConfigError
from data.inputs import Roi
from data.loading import batches
from data.phantom import Exam, Options, confounders
from data.samples import Samples
from models import _glcm as glcm
from models._lesion_background import Rules, per_cell, pictures
from models.method import Task
from tests.toy import toy_method
from tests.toy_cells import opened, toy_cell
from tests.toy_engine import OPTIONS, Config, Staged
from tests.toy_frames import samples, toy_frame, value_of

pytestmark = pytest.mark.usefixtures("one_thread")
WIDE = Roi(strategy="box_scale", scale=2.5)  # a confounder lies beside its mass
DOTS = {
    **OPTIONS, "exams": {"train": 4, "validation": 3, "test": 6},
    "confounder": {"kind": "dots", "rho_test": 1.0},
}  # fmt: skip
SIDE = 32  # of the input


# ---- a network whose every cell is known ------------------------------------------------------------------------
class Greys(Staged):
    """Its one activation is the mean grey of a cell."""

    cells = 4

    def activations(self, image_B1HW: Tensor) -> dict[int, Tensor]:
        return {1: image_B1HW, 2: F.adaptive_avg_pool2d(image_B1HW, self.cells)}


class OddGreys(Greys):
    cells = 5


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def prepared(cache: Path) -> Prepared:
    return prepare("phantom", None, DOTS, cache, roi=WIDE, size=(SIDE, SIDE))


def films_of(prepared: Prepared, method: Any) -> Samples:
    split = prepared.split()
    return prepared.sealed(split, method.inputs(), "margin", Opening("t", prepared.data_hash, split.hash, ("margin",)))


def asked(prepared: Prepared, method: Any, count: int = 4, known_places: bool = True) -> Frame:
    """A frame of the test side that was asked for the cells of `count` lesions."""
    films = films_of(prepared, method)
    frame = toy_frame(table=films.table)
    where = (lambda ids: confounders(Options.model_validate(DOTS), ids)) if known_places else None
    add_cells(frame, method, films, count, prepared.split().hash, Worker(), where)
    return frame


def greys(kind: type[Staged] = Greys) -> Staged:
    return kind(Config(size=SIDE, roi=WIDE), Task.of("margin"))


def test_cells_of_a_network_in_closed_form(prepared: Prepared) -> None:
    """A patch moves one cell alone, by the difference of the means; Eq. 6 takes the mean over the 16 cells."""
    method = greys()
    films, frame = films_of(prepared, method), asked(prepared, method)
    assert frame.cells is not None and list(frame.cells.columns) == list(COLUMNS)
    [batch] = batches(films, method.inputs(), (), batch_size=len(films))
    place = {record: i for i, record in enumerate(films.table["record_id"])}
    for (record, mu, network), cells in frame.cells.groupby(["record_id", "mu", "network"]):
        image, mask = (one[place[record], 0].double().numpy() for one in (batch.image, batch.mask))
        grid = cells.sort_values(["row", "column"])
        own, low, high = per_cell(image, 4, 4), image.min(), image.max()
        shown = pictures(image, Rules(mu=mu))
        for name, picture in zip(("to_lesion", "to_background"), shown, strict=True):
            expected = np.abs(per_cell(picture * (high - low) + low, 4, 4) - own) / 16
            assert grid[name].to_numpy() == pytest.approx(expected.ravel(), abs=1e-6), (mu, network, name)
        assert grid["activation"].to_numpy() == pytest.approx((own**2).ravel(), abs=1e-6)
        assert grid["coverage"].to_numpy() == pytest.approx(per_cell(mask, 4, 4).ravel(), abs=1e-6)
        assert grid["variance"].to_numpy() == pytest.approx(per_cell(glcm.variance(image, mu=mu), 4, 4).ravel())
    assert len(frame.cells) == 4 * 16 * len(MUS) * 2
    assert set(compute(frame, CELLS)) >= {"cells_auroc", "cells_spearman", "cells_in_mask_chance"}


def test_the_network_keeps_the_rules_of_its_own_explanation(prepared: Prepared) -> None:
    """mu is not among them: both are measured."""
    ours = toy_method("densenet121", size=SIDE, roi=WIDE)
    other = toy_method("densenet121", size=SIDE, roi=WIDE, lesion_background={"window": 5, "mu": "standard"})
    tables = [asked(prepared, method, 1).cells for method in (ours, other)]
    assert tables[0] is not None and tables[1] is not None
    assert not np.allclose(tables[0]["variance"], tables[1]["variance"])
    assert list(tables[0]["mu"]) == list(tables[1]["mu"])
    assert tables[0]["activation"].to_numpy() == pytest.approx(tables[1]["activation"].to_numpy())


def test_what_has_no_cells_says_why(prepared: Prepared) -> None:
    for kind, why in ((Staged, "no spatial activations"), (OddGreys, "no whole number of 5 x 5 cells")):
        frame = asked(prepared, greys(kind))
        assert frame.cells is None and frame.meta[ASKED]["asked"] == 4
        assert why in unavailable(frame, ["cells_auroc"])["cells_auroc"]
    films = films_of(prepared, greys())
    bare = replace(films, table=films.table.assign(has_mask=False))
    add_cells(frame, greys(), bare, 4, prepared.split().hash, Worker())
    assert frame.meta[ASKED]["missing"] == "no test lesion has a mask"


# ---- which lesions ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", [name for name in models.names() if "margin" in models.load(name).card.tracks])
def test_every_method_is_asked_about_the_same_lesions(prepared: Prepared, method: str) -> None:
    frame, first = asked(prepared, toy_method(method, size=SIDE, roi=WIDE), 2), asked(prepared, greys(), 2)
    assert frame.cells is not None and first.cells is not None, frame.meta[ASKED]
    assert set(frame.cells["record_id"]) == set(first.cells["record_id"])
    assert np.isfinite(frame.cells.drop(columns=["record_id", "finding_id", "network", "mu"]).to_numpy(float)).all()
    of = frame.cells.groupby("network")["activation"]
    assert not np.allclose(of.get_group(TRAINED), of.get_group(RANDOM)), "random weights are other weights"


def test_lesions_are_drawn_by_the_split_and_more_of_them_hold_the_fewer() -> None:
    table = samples(40).assign(has_mask=np.arange(40) % 4 > 0)
    few, many = drawn(table, 5, "split"), drawn(table, 20, "split")
    assert list(many[:5]) == list(few) and table["has_mask"].to_numpy()[many].all() and len(set(many)) == 20
    turned = table.iloc[::-1].reset_index(drop=True)
    assert set(turned["record_id"][drawn(turned, 5, "split")]) == set(table["record_id"][few])
    assert list(drawn(table, 5, "other split")) != list(few) and len(drawn(table, 99, "split")) == 30


# ---- confounders ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["dots", "blob"])
def test_the_box_holds_what_the_confounder_changes(kind: str) -> None:
    options = Options.model_validate({**DOTS, "confounder": {"kind": kind, "rho_test": 1.0}})
    bare, lateralities = Options.model_validate({**DOTS, "confounder": {}}), set()
    held = [record for index in range(6) for record in Exam(options, "test", index).records()]
    boxes = confounders(options, {record.record_id for record in held})
    for record in held:
        box = boxes.get(record.record_id)
        without = next(r for i in range(6) for r in Exam(bare, "test", i).records() if r.record_id == record.record_id)
        change = record.image.read().astype(int) - without.image.read()
        assert (box is None) == (not change.any()) == (record.attributes["confounder"] == "absent")
        if box is not None:
            x0, y0, x1, y1 = box
            assert change[y0:y1, x0:x1].sum() > 0.9 * change.sum()
            assert (x1 - x0) * (y1 - y0) < 0.2 * change.size
            lateralities.add(record.laterality)
    assert lateralities == {"L", "R"} and not confounders(bare, {record.record_id for record in held})


def test_confounder_cells_are_those_that_change_with_it(prepared: Prepared, cache: Path) -> None:
    bare = prepare("phantom", None, {**DOTS, "confounder": {}}, cache, roi=WIDE, size=(SIDE, SIDE))
    frame = asked(prepared, greys(), 12)
    assert frame.cells is not None
    shown, without = (
        {r: batch.image[i, 0].double().numpy() for i, r in enumerate(films.table["record_id"])}
        for films in (films_of(one, greys()) for one in (prepared, bare))
        for batch in batches(films, greys().inputs(), (), batch_size=len(films))
    )
    cells = frame.cells[(frame.cells["mu"] == "printed") & (frame.cells["network"] == TRAINED)]
    flagged = 0
    for record, one in cells.groupby("record_id"):
        change = per_cell(np.abs(shown[record] - without[record]), 4, 4)
        inside = one.sort_values(["row", "column"])["confounder"].to_numpy().reshape(4, 4) == 1
        change -= np.median(change)  # the film's grey limits move a little with it, everywhere
        if change.max() > 0:
            assert inside[change > 0.2 * change.max()].all()
        assert inside.any() == (change.max() > 0)
        flagged += int(inside.sum())
    assert 0 < flagged < len(cells) / 2
    unknown = asked(prepared, greys(), 2, known_places=False)
    assert unknown.cells is not None and unknown.cells["confounder"].isna().all()


# ---- runs -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def ready(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    window = {"strategy": WIDE.strategy, "scale": WIDE.scale}
    cell = toy_cell(
        "densenet121", {"head": "pool", "trainable": "all", "cell": 8, "epochs": 1}, size=SIDE, options=DOTS, roi=window
    )
    return Ready(Home.at(tmp_path_factory.mktemp("runs")), cell, prepared)


@pytest.fixture(scope="module")
def job(ready: Ready, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A final that was not asked for cells, finished."""
    made = ready.job(ready.spec(ready.base, seed=1), tmp_path_factory.mktemp("run"))
    made = opened(made.model_copy(update={"tracks": ("margin",)}), tmp_path_factory.mktemp("ledger"))
    list(train_run(made))
    return made


def test_what_is_asked_decides_no_identity(ready: Ready) -> None:
    plain, with_cells = (final_jobs(ready, FinalPlan(ready.base, cells=count))[1] for count in (0, 7))
    assert (plain.cells, with_cells.cells) == (0, 7)
    assert plain.spec.identity == with_cells.spec.identity and plain.folder == with_cells.folder


def test_a_finished_run_gets_the_cells_that_it_is_asked_for_later(job: Job, tmp_path: Path) -> None:
    place = Path(job.folder) / "frames" / "test-margin"
    before = Frame.load(place)
    assert before.cells is None and not lacks_cells(job)
    more = job.model_copy(update={"cells": 3})
    assert lacks_cells(more) == ["margin"]
    [report] = train_run(more)
    assert report.final and not lacks_cells(more)
    frame = Frame.load(place)
    assert frame.cells is not None and frame.cells["record_id"].nunique() == 3
    pd.testing.assert_frame_equal(frame.predictions, before.predictions)
    written = (place / "frame.json").stat().st_mtime_ns
    list(train_run(more))
    assert (place / "frame.json").stat().st_mtime_ns == written, "what is there is not made again"
    recorded = _test_metrics(more)
    assert recorded["test/cells_auroc"].value == value_of(frame, "cells_auroc")
    assert recorded["test/cells_auroc"].n == 3 and "test/auroc_mean" in recorded
    validation = Frame.load(Path(job.folder) / "frames" / "validation-margin")
    assert validation.cells is None and ASKED not in validation.meta


@pytest.mark.long
def test_a_run_that_is_asked_at_once_has_the_same_cells(job: Job, tmp_path: Path) -> None:
    plain = opened(job.model_copy(update={"folder": str(tmp_path / "later")}), tmp_path)
    fresh = plain.model_copy(update={"folder": str(tmp_path / "at-once"), "cells": 3})
    for asked in (plain, plain.model_copy(update={"cells": 3}), fresh):
        list(train_run(asked))
    later, at_once = (Frame.load(Path(one.folder) / "frames" / "test-margin").cells for one in (plain, fresh))
    assert at_once is not None and later is not None
    pd.testing.assert_frame_equal(at_once, later)


def test_who_can_have_no_cells_is_asked_once(job: Job, tmp_path: Path) -> None:
    place = tmp_path / "frames" / "test-margin"
    frame = Frame.load(Path(job.folder) / "frames" / "test-margin")
    frame.cells, frame.meta[ASKED] = None, {"asked": 9, "missing": "the method has no spatial activations"}
    frame.save(place)
    (tmp_path / "DONE").write_text("")
    elsewhere = job.model_copy(update={"folder": str(tmp_path), "cells": 9})
    assert not lacks_cells(elsewhere) and lacks_cells(elsewhere.model_copy(update={"cells": 4})) == ["margin"]


@pytest.mark.long
def test_the_record_of_a_finished_final_gets_them(job: Job, tmp_path: Path) -> None:
    tracker = Tracker(out=tmp_path)
    run = tracker.start("margin", name="final", kind="final", identity=job.spec.identity, params={})
    tracker.finish(run, "complete")
    _ask_cells(tracker, run, Path(job.folder), 5)
    tracker.flush()
    info = tracker.run(run)
    assert info.state == "complete" and info.metrics["test/cells_auroc_n"] == 5
    assert info.artifacts is not None
    kept = json.loads((info.artifacts / "frames" / "test-margin" / "frame.json").read_text())
    assert kept["meta"][ASKED] == {"asked": 5, "missing": ""} and "cells.parquet" in kept["files"]


def test_a_search_cannot_be_steered_by_cells() -> None:
    with pytest.raises(ConfigError, match="when a final has opened the test side"):
        check(toy_cell(), ("cells_auroc",), "none")
