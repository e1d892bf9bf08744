"""What a sweep searches by: metrics that only a trial's validation frame gives, two objectives and their front."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.cluster import host
from bench.cluster.search import DurableSearch
from bench.engine.run import train_run
from bench.home import Home
from bench.metrics import Frame, compute
from bench.objectives import check_rows, searched
from bench.plan import Ready
from bench.sweep_result import document, draw_front
from data.errors import ConfigError
from tests.toy_cells import toy_cell
from tests.toy_engine import Tiny

TWO = ("auroc_mean", "activation_precision_lesion")
METRICS = [f"validation/{name}" for name in TWO]


@pytest.fixture(scope="module")
def ready(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    """A cell of vgg16 at toy size on the tiny phantom."""
    return Ready(Home.at(tmp_path_factory.mktemp("runs")), toy_cell(), tiny.prepared)


# ---- a trial's last report --------------------------------------------------------------------------------------------
def test_the_last_report_carries_what_the_validation_frame_says(ready: Ready, tmp_path: Path) -> None:
    """One has a value; the other none, and says why: the region is cut around the lesion, so its centre is always right."""
    spec = ready.spec(ready.base, 1)
    job = ready.job(spec, tmp_path).model_copy(update={"objectives": (TWO[1], "skill_lesion")})
    first, last = [report.payload() for report in train_run(job)]
    frame = Frame.load(tmp_path / "frames" / "validation-margin")
    assert METRICS[1] not in first and last[METRICS[1]] == compute(frame, [TWO[1]])[TWO[1]].value
    assert last["estimates"][METRICS[1]]["low"] < last[METRICS[1]] < last["estimates"][METRICS[1]]["high"]
    assert "validation/skill_lesion" not in last
    assert "blind map centre" in last["estimates"]["validation/skill_lesion"]["note"]
    assert job.spec.identity == ready.job(spec, tmp_path).spec.identity
    [again] = train_run(job)
    assert again.payload() == last


def test_rows_without_masks_are_told_before_anything_is_trained(ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    check_rows(ready, (*TWO, "activation_precision_fine"))
    validation = ready.split.sides_of(ready.prepared.table) == "validation"
    stripped = ready.prepared.table.assign(has_fine=lambda table: table["has_fine"] & ~validation)
    monkeypatch.setitem(vars(ready.prepared), "table", stripped)  # a cached property
    check_rows(ready, TWO)
    with pytest.raises(ConfigError, match="activation_precision_fine needs fine masks, and no validation row has one"):
        check_rows(ready, ("activation_precision_fine",))


# ---- the study and its front ------------------------------------------------------------------------------------------
@pytest.fixture
def search(tmp_path: Path) -> Iterator[DurableSearch]:
    made = DurableSearch(
        study="two", storage=str(tmp_path / "studies.db"), space=lambda t: {"lr": t.suggest_float("lr", 1e-6, 1e-3)},
        make_job=lambda number, overrides: {"folder": str(number)}, objectives=searched(TWO), trials=6,
        published={"lr": 1e-5},
    )  # fmt: skip
    made.bind(lambda number, payload: None, _kept, 9, {"metric": None})
    with made:
        yield made


def _kept(number: int, state: str, payload: dict[str, Any] | None, failure: Any) -> dict[str, Any]:
    return {"run_id": f"run{number}", "estimates": payload["estimates"] if payload else {}}


def close(search: DurableSearch, *values: float | None, note: str = "") -> None:
    """One more trial, that ends with these values of the two metrics."""
    name = f"t{len(search.study.trials)}"
    search.suggest(name)
    bounds = {"n": 16, "interval": "patients"}
    estimates = {
        metric: {"value": value, "low": value and value - 0.1, "high": value and value + 0.1, **bounds, "note": note}
        for metric, value in zip(METRICS, values, strict=True)
    }
    report = {"number": 1, "total": 1, "final": True, "estimates": estimates}
    search.on_trial_complete(name, host.result_of(report, {"metric": None}))


def test_a_trial_without_a_value_fails_with_the_reason(search: DurableSearch, ready: Ready) -> None:
    close(search, 0.7, None, note="the frame has no maps")
    assert document(search, ready, "parent", 1)["best"] is None
    [trial] = document(search, ready, "parent", 1)["trials"]
    assert (trial["state"], trial["failure"]) == ("failed", "data") and trial["values"] is None
    assert trial["reason"] == f"no {METRICS[1]}: the frame has no maps"


def test_best_is_on_the_front_and_says_by_which_rule(search: DurableSearch, ready: Ready) -> None:
    """Trial 1 has the best AUROC too, and is bettered by trial 3 in the other metric."""
    for values in ((0.6, 0.3), (0.8, 0.2), (0.5, 0.9), (0.8, 0.4), (0.7, 0.4)):
        close(search, *values)
    found = document(search, ready, "parent", 6)
    assert found["front"] == [2, 3] and found["status"] == "unfinished"
    assert found["best"]["number"] == 3 and found["best"]["values"] == [0.8, 0.4]
    assert found["best"]["rule"].startswith("best validation auroc_mean on the front with activation_precision_lesion")
    assert found["best"]["config"]["lr"] == found["trials"][3]["params"]["lr"]
    assert found["trials"][0]["params"] == {"lr": 1e-5}
    json.dumps(found)


def test_the_front_is_drawn_beside_its_numbers(search: DurableSearch, ready: Ready, tmp_path: Path) -> None:
    assert draw_front(document(search, ready, "parent", 6), ready, tmp_path / "front") == []
    for values in ((0.6, 0.3), (0.8, 0.2), (0.5, 0.9), (0.7, None)):
        close(search, *values)
    found = document(search, ready, "parent", 6)
    picture, table = draw_front(found, ready, tmp_path / "front")
    rows = pd.read_csv(table)
    assert list(rows["trial"]) == [0, 1, 2] and list(rows["front"]) == [True, True, True]
    assert list(rows["published"]) == [True, False, False] and list(rows["run"]) == ["run0", "run1", "run2"]
    assert list(rows[TWO[1]]) == [0.3, 0.2, 0.9] and list(rows[f"{TWO[0]}_n"]) == [16, 16, 16]
    text = picture.read_text(encoding="utf-8")
    for words in (
        "4 trials: 3 complete, 1 failed", "vgg16 on phantom, margin", "share of pixels", "higher is better",
        "chosen among trials, so optimistic", "Not for clinical use", "trial 0: published", "n = 16",
    ):  # fmt: skip
        assert words in text, words
