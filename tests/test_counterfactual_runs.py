"""Counterfactual faithfulness from the phantom to the board: pairs of films, a table of each method, a run, a page."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor

import models
from bench.config import Job
from bench.engine.counterfactual import NETWORKS, counterfactual_table
from bench.engine.run import train_run
from bench.engine.worker import Worker
from bench.final import _test_metrics
from bench.home import Home
from bench.leaderboard.build import build_board
from bench.leaderboard.page import render
from bench.leaderboard.table import cells, head
from bench.metrics import COUNTERFACTUAL, Frame, compute
from bench.metrics.counterfactual import TRAINED, changed, region
from bench.objectives import check
from bench.plan import Ready
from data.cache import Opening, Prepared, prepare
from data.errors import ConfigError, LeakError
from data.loading import batches
from data.phantom import Options
from data.samples import Samples
from models.method import Prediction, Task
from tests.board_samples import five, row_of
from tests.toy import toy_method
from tests.toy_cells import opened, toy_cell
from tests.toy_engine import OPTIONS, ROI, SIZE, Config, Staged
from tests.toy_frames import toy_pairs, with_pairs

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.long]
EXAMS = {"train": 4, "validation": 3, "test": 5}
WITH_PAIRS = {**OPTIONS, "exams": EXAMS, "counterfactuals": True}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def prepared(cache: Path) -> Prepared:
    return prepare("phantom", None, WITH_PAIRS, cache, roi=ROI, size=(SIZE, SIZE))


def both(prepared: Prepared, inputs: Any, track: str = "margin") -> tuple[Samples, Samples]:
    """The films of the test side and their copies, opened by hand."""
    split = prepared.split()
    opening = Opening("tests", prepared.data_hash, split.hash, (track,))
    films = prepared.sealed(split, inputs, track, opening)
    return films, prepared.sealed(split, inputs, track, opening, counterfactuals=True)


# ---- a method whose every number is known ---------------------------------------------------------------------------
class Bright(Staged):
    """Every class's score is the mean grey of the middle (or of all), its map is 1 there; nothing is random in it."""

    everywhere = False

    def window(self, image_B1HW: Tensor) -> Tensor:
        where = torch.zeros_like(image_B1HW[:, 0])
        quarter = image_B1HW.shape[-1] // 4
        where[:, quarter:-quarter, quarter:-quarter] = 1
        return torch.ones_like(where) if self.everywhere else where

    def predict(self, batch: Any, track: str) -> Prediction:
        where = self.window(batch.image)
        grey = (batch.image[:, 0] * where).sum(dim=(1, 2)) / where.sum(dim=(1, 2))
        scores = grey[:, None].expand(-1, len(self.task.classes))
        return Prediction(scores, scores.softmax(dim=1))

    def maps(self, batch: Any, target: Tensor) -> dict[str, Tensor]:
        return {"window": self.window(batch.image)}


class BrightEverywhere(Bright):
    everywhere = True


def images(samples: Samples, inputs: Any) -> np.ndarray:
    return np.concatenate([b.image[:, 0].numpy() for b in batches(samples, inputs, (), batch_size=7)])


def measured(kind: type[Staged], prepared: Prepared) -> tuple[pd.DataFrame, dict[str, Any], Samples, Samples]:
    method = kind(Config(), Task.of("margin"))
    films, edits = both(prepared, method.inputs())
    table = counterfactual_table(method, "bright", films, edits, "margin", Worker(), batch_size=4)
    return table, compute(with_pairs(table, films.table), COUNTERFACTUAL), films, edits


def test_brightness_in_the_lesion_is_known_to_the_number(prepared: Prepared) -> None:
    table, found, films, edits = measured(Bright, prepared)
    inputs = Bright(Config(), Task.of("margin")).inputs()
    place = {record: i for i, record in enumerate(films.table["record_id"])}
    removed = np.flatnonzero(edits.table["attr_edit"] == "removed")
    own = images(films, inputs)[[place[record] for record in edits.table["counterfactual_of"].iloc[removed]]]
    bare = images(edits, inputs)[removed]
    quarter = SIZE // 4
    middle = (slice(None), slice(quarter, -quarter), slice(quarter, -quarter))
    expected = (own[middle] - bare[middle]).mean(axis=(1, 2))
    rows = table[(table["network"] == TRAINED) & (table["edit"] == "removed")]
    assert len(rows) == 2 * EXAMS["test"] == len(expected)
    assert rows["delta"].to_numpy() == pytest.approx(expected, abs=1e-6) and (expected > 0).all()
    for film, copy, one in zip(own, bare, rows.itertuples(), strict=True):
        inside = region(changed(film, copy), (SIZE, SIZE))
        window = np.zeros((SIZE, SIZE), bool)
        window[middle[1:]] = True
        assert one.area == pytest.approx(inside.mean())
        assert one.lift == pytest.approx(inside[window].mean() / inside.mean())
    assert found["counterfactual_sign_removed"].value == 1
    assert found["counterfactual_sign_exchanged"].value == 0.5, "all classes stay alike: no change counts half"
    assert found["counterfactual_sign"].value == pytest.approx((1 + 2 * 0.5) / 3)
    assert found["counterfactual_sign"].n == 3 * len(rows)
    shams = rows[rows["sham"].notna()]
    both_changes = np.abs(np.concatenate([shams["delta"], shams["sham"]]))
    assert found["counterfactual_auroc"].value == roc_auc_score(np.repeat([1, 0], len(shams)), both_changes) > 0.9
    assert found["counterfactual_spearman"].value == pytest.approx(
        spearmanr(rows["lift"], rows["delta"].abs()).statistic
    )
    for name in ("sign", "auroc", "lift"):  # built anew it is the same, as nothing in it is random
        null = found[f"counterfactual_{name}_random"]
        assert null.low == null.high == pytest.approx(found[f"counterfactual_{name}"].value)
        assert null.interval == f"range of {NETWORKS} networks with random weights"


class Normalised(Bright):
    """Its scores are normalised by an output that answers to the lesion alone, and its logits stay where they are."""

    def predict(self, batch: Any, track: str) -> Prediction:
        seen = super().predict(batch, track)
        flat = torch.full_like(seen.scores, 0.5)
        return Prediction(flat - seen.scores, seen.probabilities, logits=flat)


def test_a_normaliser_does_not_count_as_the_class_own_answer(prepared: Prepared) -> None:
    table, _, _, _ = measured(Normalised, prepared)
    rows = table[(table["network"] == TRAINED) & (table["edit"] == "removed")]
    assert (rows["delta"] == 0).all()


def test_who_sees_brightness_alone_cannot_tell_a_lesion_from_its_sham(prepared: Prepared) -> None:
    """The same differences are added elsewhere, so the mean grey changes by as much; a flat map lies nowhere."""
    table, found, _, _ = measured(BrightEverywhere, prepared)
    rows = table[(table["network"] == TRAINED) & table["sham"].notna()]
    assert len(rows) >= EXAMS["test"]
    ratio = -rows["sham"].to_numpy() / rows["delta"].to_numpy()
    assert np.all((ratio > 0.85) & (ratio < 1.01)), (
        "grey may be cut off at 1; changes of half a grey level are left out"
    )
    assert found["counterfactual_lift"].value == pytest.approx(1)
    assert found["counterfactual_sign_removed"].value == 1
    assert found["counterfactual_spearman"].value is None


# ---- the way from the phantom to the board --------------------------------------------------------------------------
@pytest.mark.parametrize("method", [name for name in models.names() if "margin" in models.load(name).card.tracks])
def test_every_method_gives_a_whole_table(prepared: Prepared, method: str) -> None:
    net = toy_method(method, size=SIZE, roi=ROI)
    films, edits = both(prepared, net.inputs())
    table = counterfactual_table(
        net, method, films.select(range(4)), edits.select(_copies_of(films, edits, 4)), "margin", Worker()
    )
    assert set(table["network"]) == {TRAINED, *(f"random {i}" for i in range(1, NETWORKS + 1))}
    assert table.groupby("network").size().eq(3 * 4).all()
    removed = table["edit"] == "removed"
    assert np.isfinite(table.loc[removed, ["delta", "lift", "area"]].to_numpy(float)).all()
    assert np.isfinite(table.loc[~removed, "rise"].to_numpy(float)).all()
    deltas = table[removed].pivot(index="record_id", columns="network", values="delta")
    assert deltas.T.drop_duplicates().shape[0] == NETWORKS + 1, "each network has weights of its own"


def _copies_of(films: Samples, edits: Samples, count: int) -> np.ndarray:
    return np.flatnonzero(edits.table["counterfactual_of"].isin(films.table["record_id"].iloc[:count]))


@pytest.mark.parametrize("track", ["malignancy", "detection"])
def test_other_tracks_have_removals_alone(prepared: Prepared, track: str) -> None:
    net = toy_method("vgg16", track=track, size=SIZE, roi=ROI)
    films, edits = both(prepared, net.inputs(), track)
    table = counterfactual_table(net, "vgg16", films, edits, track, Worker())
    assert set(table["edit"]) == {"removed"} and len(table) == (NETWORKS + 1) * 2 * EXAMS["test"]
    assert "counterfactual_auroc" in compute(with_pairs(table, films.table, track), COUNTERFACTUAL)


@pytest.fixture(scope="module")
def job(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Job:
    ready = Ready(Home.at(tmp_path_factory.mktemp("runs")), toy_cell(options=WITH_PAIRS), prepared)
    made = ready.job(ready.spec(ready.base, seed=1), tmp_path_factory.mktemp("run"))
    return made.model_copy(update={"tracks": ("margin",)})


def test_the_ledger_entry_that_opens_the_test_side_opens_its_pairs_and_nothing_else_does(
    job: Job, prepared: Prepared, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    list(train_run(job))
    frames = Path(job.folder) / "frames"
    assert [path.name for path in frames.iterdir()] == ["validation-margin"]
    assert Frame.load(frames / "validation-margin").counterfactual is None
    with pytest.raises(LeakError, match="sealed"):
        list(train_run(opened(job, tmp_path_factory.mktemp("other"), settings="of another config")))
    assert not (frames / "test-margin").exists()
    split = prepared.split()
    inputs = toy_method("vgg16", size=SIZE, roi=ROI).inputs()
    with pytest.raises(LeakError, match="sealed"):
        prepared.sealed(
            split, inputs, "margin", Opening("x", "other data", split.hash, ("margin",)), counterfactuals=True
        )
    assert not len(prepared.edited_validation(split, inputs, "margin"))
    list(train_run(opened(job, tmp_path)))
    frame = Frame.load(frames / "test-margin")
    assert frame.counterfactual is not None
    test = set(split.table["record_id"][split.table["side"] == "test"])
    assert set(frame.counterfactual["record_id"]) == set(frame.predictions["record_id"]) <= test
    found = compute(frame, COUNTERFACTUAL)
    assert {"counterfactual_sign", "counterfactual_sign_random", "counterfactual_lift"} <= set(found)
    own = frame.counterfactual[frame.counterfactual["network"] == TRAINED]
    assert found["counterfactual_sign"].n == len(own) == 3 * len(frame.predictions)
    recorded = _test_metrics(job)
    assert recorded["test/counterfactual_sign"] == found["counterfactual_sign"]
    assert recorded["test/counterfactual_sign_random"].low is not None and "test/auroc_mean" in recorded


def test_a_search_cannot_be_steered_by_pairs() -> None:
    with pytest.raises(ConfigError, match="when a final has opened the test side"):
        check(toy_cell(options=WITH_PAIRS), ("counterfactual_sign",), "none")


def _with_table(load: Callable[[], Frame]) -> Frame:
    frame = load()
    frame.counterfactual = toy_pairs(frame.predictions, networks=5, effect=2.0)
    return frame


def test_the_board_shows_the_headline_with_its_null_band() -> None:
    runs = five("vgg16", 1.0)
    for run in runs:
        assert run.load is not None
        run.load = partial(_with_table, run.load)
    board = build_board(runs)
    row = row_of(board, "vgg16")
    assert row.metrics["counterfactual_sign"].value > 0.9
    page = render(board)
    assert "right answer to edits" in page and "random weights: 0." in page
    shown = dict(zip(head([row]), cells(row, [row]), strict=True))
    assert shown["random weights to edits"].startswith("0.")


# ---- data -----------------------------------------------------------------------------------------------------------
def test_the_validation_side_has_pairs_where_they_are_asked_for(cache: Path) -> None:
    """For ablations: no ledger entry, no test row."""
    options = {**WITH_PAIRS, "exams": {**EXAMS, "test": 2}, "counterfactuals": "validation"}
    prepared = prepare("phantom", None, options, cache, roi=ROI, size=(SIZE, SIZE))
    split, net = prepared.split(), toy_method("vgg16", size=SIZE, roi=ROI)
    films = prepared.training(split, net.inputs()).validation_for("margin")
    edits = prepared.edited_validation(split, net.inputs(), "margin")
    assert set(edits.table["side"]) == {"validation"} and (edits.table["counterfactual_of"] != "").all()
    assert (films.table["counterfactual_of"] == "").all() and len(films) == 2 * EXAMS["validation"]
    assert prepared.has_copies(split, "validation") and not prepared.has_copies(split, "test")
    table = counterfactual_table(net, "vgg16", films, edits, "margin", Worker())
    assert set(table["record_id"]) == set(films.table["record_id"])


def test_who_asks_for_no_pairs_has_the_data_that_there_were() -> None:
    plain = Options.model_validate(OPTIONS)
    assert plain.model_dump(mode="json")["counterfactuals"] is False, "names of caches and runs are made of it"
    assert plain.copied_side is None and Options(counterfactuals=True).copied_side == "test"
