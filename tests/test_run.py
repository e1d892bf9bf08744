"""A run and its folder: what it leaves behind, what it refuses."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from bench.config import Job
from bench.engine import checkpoint
from bench.engine.report import EpochReport
from bench.engine.run import build, is_done, open_data, train_run
from bench.home import Home
from bench.metrics import Frame, compute
from bench.plan import Ready
from data.cache import prepare
from data.errors import DataError, LeakError
from tests.toy_cells import opened, toy_cell
from tests.toy_engine import OPTIONS, Tiny, staged

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def ready(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    """Cells of vgg16 at toy size on the tiny phantom."""
    return Ready(Home.at(tmp_path_factory.mktemp("runs")), toy_cell(), tiny.prepared)


def job_of(ready: Ready, folder: Path, **changes: Any) -> Job:
    job = ready.job(ready.spec(ready.base, seed=1), folder)
    return job.model_copy(update={"tracks": ("margin",), **changes})


@pytest.fixture(scope="module")
def finished(ready: Ready, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, EpochReport]:
    job = job_of(ready, tmp_path_factory.mktemp("run"))
    *_, last = train_run(job)
    return job, last


def test_a_finished_run_gives_its_last_report_at_once(finished: tuple[Job, EpochReport]) -> None:
    job, last = finished
    folder = Path(job.folder)
    assert is_done(folder) and not (folder / checkpoint.NAME).exists()
    before = (folder / "final.pt").stat().st_mtime_ns
    [again] = train_run(job)
    assert again.final and again.payload() == last.payload()
    assert (folder / "final.pt").stat().st_mtime_ns == before
    json.dumps(again.payload())


def test_a_run_without_ledger_entry_leaves_no_test_frame(finished: tuple[Job, EpochReport]) -> None:
    folder = Path(finished[0].folder)
    assert [path.name for path in (folder / "frames").iterdir()] == ["validation-margin"]
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["patients"] and lineage["images"]


@pytest.mark.parametrize("changes", [{"settings": "of another config"}, {"id": "another"}, {"data_hash": "others"}])
def test_an_entry_that_was_written_for_something_else_opens_nothing(
    finished: tuple[Job, EpochReport], tmp_path: Path, changes: dict[str, Any]
) -> None:
    job, _ = finished
    with pytest.raises(LeakError, match="sealed"):
        list(train_run(opened(job, tmp_path, **changes)))
    with pytest.raises(LeakError, match="sealed"):
        list(train_run(job.model_copy(update={"ledger_entry": "any text"})))
    assert not (Path(job.folder) / "frames" / "test-margin").exists()


def test_frames_that_a_finished_run_was_not_asked_for_are_added(
    finished: tuple[Job, EpochReport], tiny: Tiny, tmp_path: Path
) -> None:
    """A run that others started from becomes a final: it is opened, not trained again. Metrics read what it left."""
    job, last = finished
    [again] = train_run(opened(job, tmp_path))
    assert again.payload() == last.payload()
    frame = Frame.load(Path(job.folder) / "frames" / "test-margin")
    split = tiny.prepared.split()
    assert set(frame.predictions["record_id"]) <= set(split.table["record_id"][split.table["side"] == "test"])
    assert frame.meta["ledger_entry"] == "tests" and frame.meta["identity"] == job.spec.identity
    found = compute(frame)
    assert {"auroc_mean", "accuracy", "kappa", "activation_precision_lesion", "ap_pixels"} <= found.keys()
    assert found["auroc_mean"].value is not None and found["auroc_mean"].n == len(frame.predictions)


def test_a_damaged_frame_is_written_again(finished: tuple[Job, EpochReport]) -> None:
    job, _ = finished
    frame = Path(job.folder) / "frames" / "validation-margin"
    before = Frame.load(frame).predictions
    (frame / "predictions.parquet").write_bytes((frame / "predictions.parquet").read_bytes()[:900])
    list(train_run(job))
    assert Frame.load(frame).predictions.equals(before)


def test_a_cut_run_goes_on_from_its_checkpoint(ready: Ready, tmp_path: Path) -> None:
    job = job_of(ready, tmp_path, spec=ready.spec(ready.config({"epochs": 2}), seed=1))
    run = train_run(job)
    assert next(run).number == 1
    run.close()
    spent = json.loads((tmp_path / "last.json").read_text())["system"]["cost/machine_seconds"]
    reports = list(train_run(job))
    assert [r.number for r in reports] == [2, 3] and reports[-1].final
    assert reports[-1].system["cost/machine_seconds"] > spent > 0
    (tmp_path / "DONE").unlink()
    (tmp_path / checkpoint.NAME).write_bytes(b"half a file")
    with pytest.raises(DataError, match="checkpoint cannot be read"):
        next(train_run(job))


@pytest.mark.parametrize(("side", "kind"), [("validation", "patients"), ("test", "patients"), ("test", "images")])
def test_an_ancestor_that_has_seen_a_judging_side_is_refused(
    ready: Ready, tmp_path: Path, side: str, kind: str
) -> None:
    table = ready.split.table
    seen = table[table["side"] == side].iloc[0]
    lineage = {"patients": [], "images": [], kind: [seen["patient" if kind == "patients" else "image_hash"]]}
    ancestor = tmp_path / "ancestor"
    ancestor.mkdir()
    (ancestor / "lineage.json").write_text(json.dumps(lineage))
    job = job_of(ready, tmp_path / "run", requirements={"trunk": str(ancestor)})
    with pytest.raises(LeakError, match=f"1 {kind} of validation and test .* \\(trunk\\)"):
        next(train_run(job))
    assert not (tmp_path / "run").exists()


def test_other_data_than_planned_are_refused(ready: Ready, tmp_path: Path) -> None:
    job = job_of(ready, tmp_path)
    with pytest.raises(LeakError, match="not those that this run was planned on"):
        next(train_run(job.model_copy(update={"spec": job.spec.model_copy(update={"split_hash": "other"})})))


def test_training_data_hold_no_test_row(tiny: Tiny) -> None:
    """Every table that can be reached from the object is walked through."""
    data, split = tiny.training(staged().inputs()), tiny.prepared.split()
    test = set(split.table["record_id"][split.table["side"] == "test"])
    tables, todo, met = [], [data, data.validation_for("malignancy")], set[int]()
    while todo:
        value = todo.pop()
        if id(value) in met:
            continue
        met.add(id(value))
        if isinstance(value, pd.DataFrame):
            tables.append(value)
        elif isinstance(value, (list, tuple)):
            todo.extend(value)
        elif hasattr(value, "__dict__"):
            todo.extend(vars(value).values())
    assert len(tables) >= 3 and test
    for table in tables:
        assert not test & set(table["record_id"])
    assert set(data.train.table["side"]) == {"train"} and set(data.validation.table["side"]) == {"validation"}


def test_a_run_draws_other_weights_than_the_one_that_it_starts_from(ready: Ready) -> None:
    """At one seed the head of the pretext and the head on top of its trunk would else be the same, to the trunk's liking."""
    settings = {**ready.cell.settings, "weights": "pretext", "input_norm": "per_image", "norm": "none"}
    budget = {key: value for key, value in ready.cell.budget.items() if key != "weights"}
    cell = ready.cell.model_copy(update={"settings": settings, "budget": budget})
    above = Ready(ready.home, cell, ready.prepared)
    [below] = above.all_requirements(above.base, 1)
    job = above.job(above.spec(above.base, seed=1), Path("unused")).model_copy(update={"requirements": {}})
    heads = [build(one, ready.prepared).state_dict() for one in (job, below)]
    shared = [key for key in heads[0] if key.startswith("head") and key.endswith("weight") and key in heads[1]]
    assert shared and all(not torch.equal(heads[0][key], heads[1][key]) for key in shared)
    again = build(job, ready.prepared).state_dict()
    assert all(torch.equal(heads[0][key], again[key]) for key in again)


def test_a_worker_sees_the_masks_that_the_options_leave(ready: Ready, tmp_path: Path) -> None:
    """The options reach it through the job: the prepared folder is that of all masks."""
    prepared = prepare("phantom", None, OPTIONS | {"masks_kept": 0.25}, ready.prepared.folder.parent)
    few = Ready(ready.home, ready.cell, prepared)
    job = job_of(few, tmp_path)
    assert job.prepared == str(ready.prepared.folder)
    assert job.spec.identity != job_of(ready, tmp_path).spec.identity
    train = open_data(job).training(few.split, build(job, prepared).inputs()).train.table
    assert train["patient"].nunique() == 16 and train.loc[train["has_mask"], "patient"].nunique() == 4
