"""A classifier of regions, shown those that a detector proposes: what is cut, what the frame says, and what stays the oracle's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.board import disagreements
from bench.config import Job, digest
from bench.engine.cascade import add_proposed, boxes_of, lacks_proposed
from bench.engine.run import train_run
from bench.engine.worker import Worker
from bench.final import FinalPlan, _open_ledger, final_jobs
from bench.home import Home
from bench.leaderboard.measure import describe, part_of
from bench.leaderboard.rows import SeedRun
from bench.metrics import Frame, over_seeds
from bench.metrics.frame import PROPOSED
from bench.plan import Ready, make_ready
from bench.proposals import check_proposals, count_proposals
from bench.suite import Cell
from bench.tracking import Tracker
from data.cache import Opening
from data.errors import ConfigError
from tests.toy_cells import LINEAR, opened

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.long]
DATA = {"exams": {"train": 16, "validation": 8, "test": 10}, "level": "easy", "size": 128, "normal_share": 0.4}
FILMS = {"input_width": 80, "stages": 2, "blocks": 1, "epochs": 1, "K": 2, "crop": 0.25, "augment": {"recipe": "none"}}

SMALL = {"size": 24, "weights": "none", "trunk_blocks": 4}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home.at(tmp_path_factory.mktemp("runs"))


def ready_of(home: Home, method: str, track: str, settings: dict[str, object], **budget: object) -> Ready:
    given = {"width": 0.0625, "batch": 8, **budget}
    return make_ready(
        home,
        Cell(
            method=method,
            dataset="phantom",
            track=track,
            options=DATA,
            budget=given,
            settings=settings,
            roi={} if track == "detection" else {"strategy": "box_scale", "scale": 1.0, "border": "zero"},
        ),
    )


def finished(ready: Ready, track: str, folder: Path) -> Job:
    made = ready.job(ready.spec(ready.base, seed=1), folder / "run").model_copy(update={"tracks": (track,)})
    made = opened(made, folder, tracks=[track])
    list(train_run(made))
    return made


@pytest.fixture(scope="module")
def proposer(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    finished(ready_of(home, "gmic", "detection", FILMS, size=128), "detection", folder)
    return folder / "run" / "frames" / "test-detection"


@pytest.fixture
def classifier(home: Home, tmp_path: Path) -> Job:
    return finished(ready_of(home, "vgg16", "malignancy", dict(LINEAR), **SMALL), "malignancy", tmp_path)


def test_each_lesion_is_read_in_the_region_of_highest_attention(home: Home, classifier: Job, proposer: Path) -> None:
    detector = Frame.load(proposer)
    boxes = boxes_of(detector)
    rows = detector.labelled().predictions.set_index("record_id")
    for record, box in boxes.items():
        regions = np.asarray(rows.loc[record, "regions"], dtype=float).reshape(-1, 5)
        assert regions[:, 4].sum() == pytest.approx(1, abs=1e-2)
        assert box == tuple(regions[regions[:, 4].argmax(), :4].round().astype(int))
        assert 0 <= box[0] < box[2] <= 80 and 0 <= box[1] < box[3] <= 128
    ready = ready_of(home, "vgg16", "malignancy", dict(LINEAR), **SMALL)
    opening = Opening("tests", ready.prepared.data_hash, ready.split.hash, ("malignancy",))
    inputs = ready.kind(ready.base, ready.task).inputs()
    cut = ready.prepared.sealed(ready.split, inputs, "malignancy", opening, boxes=boxes)
    oracle = ready.prepared.sealed(ready.split, inputs, "malignancy", opening)
    assert cut.table["record_id"].tolist() == oracle.table["record_id"].tolist()
    for row in cut.table.itertuples():
        x0, y0, x1, y1 = boxes[row.record_id]
        assert (row.wx0 + row.wx1) / 2 == pytest.approx((x0 + x1) / 2, abs=1)
        assert (row.wy0 + row.wy1) / 2 == pytest.approx((y0 + y1) / 2, abs=1)
        assert row.wx1 - row.wx0 == row.wy1 - row.wy0 == max(x1 - x0, y1 - y0)


def test_a_finished_run_gets_a_row_of_its_own_and_keeps_the_oracles(classifier: Job, proposer: Path) -> None:
    place = Path(classifier.folder) / "frames" / "test-malignancy"
    before = Frame.load(place)
    assert lacks_proposed(classifier, proposer) == ["malignancy"]
    add_proposed(classifier, proposer, Worker())
    assert lacks_proposed(classifier, proposer) == []
    frame = Frame.load(place)
    assert frame.variants == ("default", PROPOSED)
    oracle, proposed = (part_of(frame, "all", name) for name in frame.variants)
    np.testing.assert_array_equal(oracle.scores, before.scores)
    assert proposed.identity == oracle.identity, "the same lesions, so that both can be compared"
    assert not np.allclose(proposed.scores, oracle.scores)
    said = {name: describe([part_of(frame, "all", name)], "all", name) for name in frame.variants}
    assert said["default"]["input"] == "oracle ROI" and said[PROPOSED]["input"] == PROPOSED
    assert "activation_precision_lesion" in said["default"]["metrics"]
    assert "activation_precision_lesion" not in said[PROPOSED]["metrics"], "its map is not of the masks that are kept"
    assert over_seeds([proposed])["auroc_mean"].n == over_seeds([oracle])["auroc_mean"].n
    written = (place / "frame.json").stat().st_mtime_ns
    add_proposed(classifier, proposer, Worker())
    assert (place / "frame.json").stat().st_mtime_ns == written


def test_a_detector_that_cannot_propose_is_told_before_anything_is_counted(
    home: Home, classifier: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing trained, opened or counted: the ledger has no line more."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = Tracker(out=tmp_path)
    with pytest.raises(ConfigError, match=r"no run has an id that starts so \(--proposals deadbeef\)"):
        check_proposals([classifier], "deadbeef", tracker)
    board = tracker.start("malignancy", name="a board", kind="board", identity="b", params={})
    with pytest.raises(ConfigError, match=rf"run {board[:8]} is a board \(--proposals\); name a final"):
        check_proposals([classifier], board, tracker)
    run = tracker.start("malignancy", name="vgg16", kind="final", identity="f", params={})
    tracker.json(run, classifier.spec.model_dump(mode="json"), "config.json")
    tracker.artifact(run, Path(classifier.folder) / "frames", "frames")
    tracker.finish(run, "complete")
    with pytest.raises(ConfigError, match=r"vgg16 proposes no regions \(--proposals\)"):
        check_proposals([classifier], run, tracker)


def test_a_look_through_proposed_regions_is_counted_once_and_opens_nothing_anew(
    home: Home, classifier: Job, proposer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A final that goes on after such a look does so under its own opening; a second detector wants a reason."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker, ready = Tracker(out=tmp_path), ready_of(home, "vgg16", "malignancy", dict(LINEAR), **SMALL)
    detector = json.loads((proposer.parents[1] / "job.json").read_text())["spec"]

    def named(spec: dict[str, Any]) -> str:
        run = tracker.start("detection", name="gmic", kind="final", identity=digest(spec), params={})
        tracker.json(run, spec, "config.json")
        return run

    plan = FinalPlan(ready.base, seeds=1)
    job = final_jobs(ready, plan)[1]
    own = _open_ledger(ready, plan, job, {})
    for _ in range(2):
        count_proposals(ready, named(detector), None, job, tracker)
    [look] = home.ledger.find(kind="proposals")
    assert look["reopen"] == "the regions that gmic proposes" and look["opened_before"] == 1
    assert _open_ledger(ready, plan, job, {}) == own
    assert len(home.ledger.looks(ready.split.hash)) == 2
    other = named({**detector, "config": {**detector["config"], "K": 9}})
    with pytest.raises(ConfigError, match=r"shown the regions of another detector before .*; give the reason"):
        count_proposals(ready, other, None, job, tracker)
    count_proposals(ready, other, "a better detector", job, tracker)
    assert [entry["reopen"] for entry in home.ledger.find(kind="proposals")][1:] == ["a better detector"]
    run = SeedRun("r", "malignancy", classifier.spec.model_dump(mode="json"), "complete", facts={"ledger_entry": own})
    assert disagreements([run], list(home.ledger.entries())) == []


def test_who_proposes_nothing_or_saw_other_films_is_refused(classifier: Job, proposer: Path, tmp_path: Path) -> None:
    detector = Frame.load(proposer)
    detector.meta["split_hash"] = "another"
    detector.save(tmp_path / "other")
    with pytest.raises(ConfigError, match="on other data, or on another split"):
        add_proposed(classifier, tmp_path / "other", Worker())
    own = Path(classifier.folder) / "frames" / "test-malignancy"
    with pytest.raises(ConfigError, match=r"vgg16 proposes no regions \(--proposals\)"):
        add_proposed(classifier, own, Worker())
