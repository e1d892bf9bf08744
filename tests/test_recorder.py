"""What MLflow holds of a run that one driver began and another ended."""

from pathlib import Path
from typing import Any

import pytest

import models
from bench.config import Job, RunSpec
from bench.engine.run import _append_report, read_reports
from bench.recorder import Recorder
from bench.tracking import Tracker

SPEC = RunSpec(
    method="vgg16", config={"lr": 1e-3}, dataset="phantom", options={}, data_hash="d", split_hash="s", track="margin"
)


def report(number: int) -> dict[str, Any]:
    facts = {"number": number, "total": 5, "stage": "all", "epoch": number, "selectable": True, "final": number == 5}
    return {
        **facts,
        "loss/total": 1.0 / number,
        "estimates": {},
        "system": {},
        "seconds": 2.0,
        "images_per_second": 0.0,
    }


def test_epochs_of_which_no_driver_heard_are_in_the_curve(tmp_path: Path) -> None:
    """The first driver died after its worker's third checkpoint, having heard of one epoch; the run resumes at the fifth."""
    job = Job(spec=SPEC, folder=str(tmp_path / "run"), prepared="", name="run")
    for number in range(1, 5):
        _append_report(tmp_path / "run", report(number))
    tracker = Tracker(out=tmp_path)
    Recorder(tracker, "train", lambda number: job).on_report(0, report(1))
    second = Recorder(Tracker(out=tmp_path), "train", lambda number: job)
    second.on_report(0, report(5))
    second.on_report(0, report(6))
    assert tracker.history(second.run_ids[0], "loss/total") == [(n, 1.0 / n) for n in range(1, 7)]


@pytest.mark.long
@pytest.mark.parametrize("method", models.names())
def test_every_setting_of_method_and_data_is_a_parameter_in_mlflow(method: str, tmp_path: Path) -> None:
    config = models.load(method).Config(size=96)
    options = {"masks_kept": 0.1, "confounder": {"kind": "dots", "rho_train": 0.9}}
    spec = SPEC.model_copy(update={"method": method, "config": config.model_dump(mode="json"), "options": options})
    job = Job(spec=spec, folder=str(tmp_path / "run"), prepared="", name="run")
    tracker = Tracker(out=tmp_path)
    found = tracker.run(Recorder(tracker, "train", lambda number: job).open(0)).params
    for name in type(config).model_fields:
        assert any(key == name or key.startswith(f"{name}.") for key in found) or getattr(config, name) == {}, name
    assert (found["size"], found["data.masks_kept"], found["data.confounder.rho_train"]) == ("96", "0.1", "0.9")


def test_a_line_that_a_kill_cut_hides_no_other(tmp_path: Path) -> None:
    _append_report(tmp_path, report(1))
    with (tmp_path / "reports.jsonl").open("a") as stream:
        stream.write('\n{"number": 2, "tot')
    _append_report(tmp_path, report(2))
    assert read_reports(tmp_path) == {1: report(1), 2: report(2)}
    assert read_reports(tmp_path / "none") == {}
