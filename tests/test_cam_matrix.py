"""From the files of a data set to the matrix of activation maps, by the commands that a user types: VinDr-Mammo's form, tiny.

Commands run in this process, on the Ray that the tests share.
"""

import csv
import json
from pathlib import Path

import pytest

from bench.tracking import Tracker
from models._cams import TITLES
from tests.cli import here

pytestmark = [pytest.mark.ray, pytest.mark.long]
CAMS = tuple(TITLES)
SUITE = """
name: tiny_matrix
budget: {{size: 96, input_width: 64, stages: 2, blocks: 1, width: 0.0625, batch: 8, epochs: 1}}
settings:
  gmic: {{lr: 3e-3, K: 2, crop: 0.2, percent_t: 0.05, augment: {{recipe: none}}}}
arms:
{arms}
search: {{trials: 0}}
final: {{seeds: 2}}
primary: {{detection: {{reference: "train_cam [cam]", contrast: "train_xgradcam [gradcampp]"}}}}
cells:
  - {{methods: [{names}], dataset: vindr_mammo, track: detection}}
"""


@pytest.fixture(scope="module")
def done(attached: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vindr")
    here("phantom", folder / "films", "--format", "vindr_mammo", "--exams", "24", "--size", "128", "--json")
    out = folder / "runs"
    said = here("prepare", "vindr_mammo", "--data-root", folder / "films", "--out", out, "--json")
    assert said.code == 0, said
    assert said.document["tracks"]["detection"], said.document
    suite = folder / "suite.yaml"
    arms = "\n".join(f"  train_{cam}: {{method: gmic, settings: {{train_cam: {cam}}}}}" for cam in CAMS)
    suite.write_text(SUITE.format(arms=arms, names=", ".join(f"train_{cam}" for cam in CAMS)))
    for _ in range(2):  # the second finds everything done
        said = here("bench", suite, "--data-root", folder / "films", "--out", out, "--json")
        assert said.code == 0, said
        assert [cell["status"] for cell in said.document["cells"]] == ["done"] * 5
    return out


def test_five_trainings_fill_25_cells(done: Path) -> None:
    rows = json.loads((done / "leaderboard" / "rows.json").read_text())
    mine = [row for row in rows["rows"] if row["kind"] == "method"]
    assert {(row["arms"][0], row["variant"]) for row in mine} == {(f"train_{a}", b) for a in CAMS for b in CAMS}
    assert all(row["status"] == "done" and row["input"] == "whole image" for row in mine)
    for row in mine:
        assert {"tpr_at_fppi_1", "tpr_max", "fppi_max", "auroc_mean"} <= set(row["metrics"])
    by_arm = {row["arms"][0]: row["metrics"]["auroc_mean"]["value"] for row in mine}
    assert all(row["metrics"]["auroc_mean"]["value"] == by_arm[row["arms"][0]] for row in mine), (
        "one training, five maps"
    )
    assert len(rows["comparisons"]) == 24 and {one["b"] for one in rows["comparisons"]} == {"train_cam [cam]"}


def test_the_heat_maps_lie_on_the_page_beside_it_and_in_mlflow(done: Path) -> None:
    [table] = (done / "leaderboard").glob("matrix-detection-vindr_mammo-*.csv")
    cells = list(csv.DictReader(table.open()))
    assert len({tuple(cell[name] for name in ("training", "variant")) for cell in cells}) == 25, cells[0]
    assert len(list((done / "leaderboard").glob("matrix-*.svg"))) >= 3
    page = (done / "leaderboard" / "index.html").read_text()
    assert "GradCAM++" in page and "alidation would have chosen" in page
    [run] = Tracker(out=done).runs(kind="board")
    assert run.artifacts is not None and list(run.artifacts.rglob("*.svg"))


def test_the_finals_keep_their_pictures_and_their_froc(done: Path) -> None:
    runs = [run for run in Tracker(out=done).runs(kind="final") if run.tags["seed"] == "1"]
    assert len(runs) == 5
    for run in runs:
        assert run.artifacts is not None
        assert list((run.artifacts / "panels").glob("detection*.png"))
        assert (run.artifacts / "plots" / "detection" / "froc.svg").is_file()
