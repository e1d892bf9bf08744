"""One training, several test-time settings: what its frames hold, and which of them validation chooses."""

from pathlib import Path

import pytest

from bench.config import Job
from bench.engine.run import last_payload, train_run
from bench.home import Home
from bench.metrics import Frame, values
from bench.metrics.operating import operating_points
from bench.objectives import told_metrics
from bench.plan import Ready, make_ready
from bench.suite import Cell
from models._cams import TITLES
from tests.toy_cells import opened

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.long]
DATA = {"exams": {"train": 24, "validation": 16, "test": 10}, "level": "easy", "size": 128, "normal_share": 0.5}
FILMS = {
    "input_width": 80,
    "stages": 2,
    "blocks": 1,
    "epochs": 2,
    "K": 2,
    "crop": 0.25,
    "lr": 3e-3,
    "augment": {"recipe": "none"},
}
TPR = "tpr_at_fppi_1"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Ready:
    budget = {"width": 0.25, "batch": 8, "size": 128}
    cell = Cell(method="gmic", dataset="phantom", track="detection", options=DATA, budget=budget, settings=FILMS)
    return make_ready(Home.at(tmp_path_factory.mktemp("runs")), cell)


def test_a_training_tells_its_track_s_primary_metric_first(ready: Ready) -> None:
    told = told_metrics(ready)
    assert told[0] == TPR and told.count(TPR) == 1 and "activation_precision_lesion" in told


@pytest.fixture(scope="module")
def job(ready: Ready, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("run")
    made = ready.job(ready.spec(ready.base, seed=1), folder / "run")
    made = opened(
        made.model_copy(update={"tracks": ("detection",), "objectives": (TPR,)}), folder, tracks=["detection"]
    )
    list(train_run(made))
    return made


def frame_of(job: Job, side: str) -> Frame:
    return Frame.load(Path(job.folder) / "frames" / f"{side}-detection")


def test_every_test_map_is_judged_from_the_same_training(job: Job) -> None:
    for side in ("validation", "test"):
        frame = frame_of(job, side)
        assert set(frame.variants) == set(TITLES)
        for variant in frame.variants:
            rows = frame.of_variant(variant).predictions
            assert rows["score_mass"].tolist() == frame.of_variant("cam").predictions["score_mass"].tolist()
        assert frame.maps is not None
        of_mass = frame.maps.entries[(frame.maps.entries["class"] == 1) & frame.maps.entries["map"].isin(TITLES)]
        counts = of_mass.groupby(["record_id", "map"]).size()
        assert (counts == 1).all() and len(counts) == 5 * rows["record_id"].nunique(), "of every film, once"
        known = rows[rows["label"] == 1]["truth"].map(len)
        assert (known % 4 == 0).all() and (known > 0).all() and not rows[rows["label"] == 0]["truth"].map(len).any()


def test_validation_chooses_the_map_and_the_thresholds(job: Job) -> None:
    validation, test = frame_of(job, "validation"), frame_of(job, "test")
    found = {name: values(validation.of_variant(name), [TPR])[TPR] for name in validation.variants}
    last = last_payload(Path(job.folder))
    assert found[last["chosen"]["variant"]] == max(found.values())
    assert last["chosen"]["settings"] == {"test_cam": last["chosen"]["variant"]}
    assert last["estimates"][f"validation/{TPR}"]["value"] == max(found.values())
    assert test.meta["operating"] == operating_points(validation)
    assert "operating" not in validation.meta


def test_a_run_that_was_not_asked_for_an_objective_still_says_which_map_validation_prefers(
    ready: Ready, tmp_path: Path
) -> None:
    made = ready.job(ready.spec(ready.base, seed=2), tmp_path / "run").model_copy(update={"tracks": ("detection",)})
    list(train_run(made))
    assert last_payload(tmp_path / "run")["chosen"]["variant"] in TITLES


def test_the_test_map_of_the_settings_comes_first(ready: Ready) -> None:
    config = ready.config({"test_cam": "layercam"})
    method = ready.kind(config, ready.task)
    assert [variant.name for variant in method.variants()][:2] == ["layercam", "cam"]
    assert ready.spec(config, 1).identity != ready.spec(ready.base, 1).identity
