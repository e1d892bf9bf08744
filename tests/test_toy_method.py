"""A method of another family, registered from outside, goes from its search to the board without a line in bench/."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import data.plugins
import models
import search_spaces
from bench.metrics import Frame
from data.errors import ConfigError
from tests.cli import Said, apart, has, here, is_estimate

PLUGIN = "tests.toy_plugin"
SUITE = """
name: toys
data: {exams: {train: 32, validation: 20, test: 20}, size: 128, level: easy, normal_share: 0.5}
budget: {size: 48, batch: 8, width: 0.0625, trunk_blocks: 4, weights: none}
settings:
  vgg16: {head: pool_linear, epochs: 1, norm: batch, lr: 1e-3, weight_decay: 1e-4, warmup_steps: 0, schedule: constant}
search: {trials: 2, scheduler: none}
final: {seeds: 2}
primary: {detection: {reference: vgg16, contrast: toy_detection}}
cells:
  - {methods: [toy_detection, vgg16], dataset: phantom, track: detection}
  - {methods: [toy_detection], dataset: phantom, track: margin}
"""


@dataclass(frozen=True)
class Bench:
    suite: Path
    out: Path
    said: Said


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """`bench SUITE --json`, as a user types it, with the toy beside a method of the project."""
    out = tmp_path_factory.mktemp("bench")
    suite = out / "toys.yaml"
    suite.write_text(SUITE)
    said = apart("bench", suite, "--out", out / "runs", "--json", MAMMOBENCH_PLUGINS=PLUGIN)
    assert said.code == 0, said.stderr
    return Bench(suite, out / "runs", said)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy is known for one test."""
    monkeypatch.setattr(models, "_extra", dict(models._extra))
    monkeypatch.setattr(search_spaces, "_extra", dict(search_spaces._extra))
    monkeypatch.setattr(data.plugins, "_loaded", set())
    monkeypatch.delitem(sys.modules, PLUGIN, raising=False)
    monkeypatch.setenv(data.plugins.VARIABLE, PLUGIN)


def test_a_plugin_brings_a_method_and_its_space(plugin: None) -> None:
    assert "toy_detection" in models.names() and "toy_detection" in search_spaces.names()
    assert models.load("toy_detection").card.name == "toy_detection"
    search_spaces.check("toy_detection")
    [listed] = [one for one in here("list", "methods", "--json").document["methods"] if one["name"] == "toy_detection"]
    assert listed["tracks"] == ["detection"] and listed["config"]["peak"]["default"] == "max"


def test_without_the_plugin_it_is_unknown() -> None:
    assert "toy_detection" not in models.names()
    with pytest.raises(ConfigError, match="no method 'toy_detection'"):
        models.load("toy_detection")


def test_a_plugin_that_is_not_there_is_told_in_one_line(plugin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(data.plugins.VARIABLE, "tests.no_such_plugin")
    assert "MAMMOBENCH_PLUGINS: tests.no_such_plugin" in here("list").error


def test_nobody_claims_a_name_twice(plugin: None) -> None:
    assert models.names()
    models.register("toy_detection", "tests.toy_detection")  # the same again is no quarrel
    for name, module in (("toy_detection", "tests.other"), ("vgg16", "tests.toy_detection")):
        with pytest.raises(ConfigError, match="two files claim"):
            models.register(name, module)


@pytest.mark.ray
def test_bench_says_one_document(bench: Bench) -> None:
    document = bench.said.document
    assert has(document, "suite cells leaderboard") and document["suite"] == "toys"
    for cell in document["cells"]:
        assert has(cell, "method dataset track status reason sweep_id final")
    status = {(cell["method"], cell["track"]): cell["status"] for cell in document["cells"]}
    assert status == {
        ("toy_detection", "detection"): "done",
        ("vgg16", "detection"): "done",
        ("toy_detection", "margin"): "not-applicable",
    }
    assert all(len(cell["final"]) == 2 and cell["sweep_id"] for cell in document["cells"] if cell["status"] == "done")
    assert Path(document["leaderboard"]).is_file()
    assert "Traceback" not in bench.said.stderr


@pytest.mark.ray
def test_the_board_has_a_row_for_each_variant(bench: Bench) -> None:
    document = here("leaderboard", "--out", bench.out, "--json").document
    assert has(document, "rows comparisons page")
    rows = {
        row["variant"]: row for row in document["rows"] if row["method"] == "toy_detection" and row["status"] == "done"
    }
    assert set(rows) == {"default", "flat", "bold"}
    for row in rows.values():
        auroc = row["metrics"]["auroc_mean"]
        assert is_estimate(auroc) and auroc["n"] == 40 and auroc["low"] < auroc["value"] < auroc["high"]
        assert len(row["seeds"]) == 2 and row["input"] == "whole image"
        assert row["cost"]["requirements_seconds"] > 0, "what it starts from counts"
    flat, default = rows["flat"]["metrics"], rows["default"]["metrics"]
    assert flat["ap_pixels"]["value"] == 1.0, "a constant map is active everywhere"
    assert flat["activation_precision_lesion"]["value"] == pytest.approx(flat["mask_share_lesion"]["value"], abs=1e-6)
    assert default["ap_pixels"]["value"] < 1.0
    assert rows["bold"]["metrics"]["auroc_mean"]["value"] == pytest.approx(default["auroc_mean"]["value"])
    primary = [one for one in document["comparisons"] if one.get("planned")]
    assert [(one["a"], one["b"]) for one in primary] == [("toy_detection", "vgg16")]
    assert all(
        is_estimate(one["difference"]) and has(one, "a b track metric difference p p_holm test") for one in primary
    )


@pytest.mark.ray
def test_the_frames_hold_boxes_and_maps(bench: Bench) -> None:
    frames = [Frame.load(path.parent) for path in bench.out.glob("checkpoints/*/frames/test-detection/frame.json")]
    toys = [frame for frame in frames if frame.meta["method"] == "toy_detection"]
    assert sorted(frame.meta["seed"] for frame in toys) == [1, 2]
    for frame in toys:
        assert frame.meta["variant_maps"] == {"default": "heat", "flat": "flat", "bold": "heat"}
        boxes = frame.predictions.groupby("variant")["boxes"].apply(lambda column: {len(box) for box in column})
        assert dict(boxes) == {"default": {5}, "flat": {5}, "bold": {0}}
        assert frame.maps is not None and {"heat", "flat"} <= set(frame.maps.entries["map"])
    starts = [json.loads(path.read_text()) for path in bench.out.glob("checkpoints/*/job.json")]
    needed = {job["spec"]["requirements"]["filters"] for job in starts if job["spec"]["requirements"]}
    assert len(needed) == 2, "each final seed started from a run of its own"
    assert needed <= {path.parent.name for path in bench.out.glob("checkpoints/*/DONE")}


@pytest.mark.ray
def test_bench_called_again_starts_nothing(bench: Bench, plugin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def attach(address: str) -> None:
        raise AssertionError("nothing is left to run")

    monkeypatch.setattr("bench.cluster.nodes.attach", attach)
    said = here("bench", bench.suite, "--out", bench.out, "--json")
    assert said.code == 0 and said.document == bench.said.document
    assert "2 cells, 2 finished already" in said.stderr
