"""Five folds through final, record and board: every patient is tested once, by a network that never saw them."""

import re
from pathlib import Path
from typing import Any

import pytest

from bench.config import config_hash
from bench.metrics import Frame, by_seed, compute
from bench.tracking import Tracker
from docs.folds import main as table
from tests.cli import here

SETTINGS = """
data: {exams: {train: 20, validation: 6, test: 6}, level: easy, size: 128, roi: {strategy: box_scale, scale: 1.6}}
budget: {width: 0.0625, size: 32, batch: 12, weights: none, trunk_blocks: 4}
head: pool_linear
norm: batch
epochs: 1
lr: 2e-3
"""


def test_folds_of_a_row_share_their_settings_and_not_their_sides() -> None:
    spec = {"method": "vgg16", "protocol": "kfold5", "split_hash": "a", "fold": 0, "seed": 1}
    assert config_hash(spec) == config_hash({**spec, "split_hash": "b", "fold": 3, "seed": 2})
    held = {**spec, "protocol": "holdout"}
    assert config_hash(held) != config_hash({**held, "split_hash": "b"})


def test_a_search_does_not_see_the_test_sides_of_other_folds(tmp_path: Path) -> None:
    suite = (
        "name: s\nsearch: {trials: 2}\ncells: [{methods: [vgg16], dataset: phantom, track: margin, protocol: kfold5}]\n"
    )
    (tmp_path / "s.yaml").write_text(suite)
    said = here("bench", tmp_path / "s.yaml", "--out", tmp_path, "--quiet").error
    assert "would see the test sides of the others (s, search.trials); set it to 0" in said
    for command in ("train", "sweep"):
        said = here(command, "vgg16", "phantom", "--protocol", "kfold5", "--out", tmp_path, "--quiet").error
        assert "choose holdout; `final` trains all folds" in said


@pytest.fixture(scope="module")
def ran(attached: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("folds")
    (folder / "s.yaml").write_text(SETTINGS)
    return folder, final(folder)


@pytest.mark.ray
def test_references_of_folds_stand_beside_them(ran: tuple[Path, Any]) -> None:
    """Chance and lesion size, learnt on each fold's training side and judged on its test side, averaged as a method is."""
    folder, _ = ran
    board = here("leaderboard", "--out", folder / "runs", "--json").document
    method, *references = sorted(
        (row for row in board["rows"] if row["track"] == "margin"), key=lambda row: row["kind"] != "method"
    )
    found = {row["method"]: row["metrics"]["auroc_mean"] for row in references}
    assert {"chance", "lesion_size"} <= set(found)
    assert found["chance"]["value"] == 0.5 and found["lesion_size"]["n"] == method["metrics"]["auroc_mean"]["n"]
    [size] = [row["metrics"]["accuracy"] for row in references if row["method"] == "lesion_size"]
    assert 0 < size["low"] < size["value"] < size["high"] < 1 and size["n"] == 64


def final(folder: Path) -> Any:
    command = ("final", "vgg16", "phantom", "--protocol", "kfold5", "--seeds", "2", "--from", "published", "--json")
    return here(*command, "--config", folder / "s.yaml", "--out", folder / "runs")


@pytest.mark.ray
def test_five_folds_are_one_row(ran: tuple[Path, Any]) -> None:
    folder, said = ran
    assert said.code == 0, said.stderr
    [row] = [row for row in said.document["rows"] if row["kind"] == "method" and row["track"] == "margin"]
    assert row["status"] == "done" and row["protocol"] == "kfold5" and len(row["seeds"]) == 10
    runs = [Tracker(out=folder / "runs").run(run) for run in row["seeds"]]
    assert {(run.tags["seed"], run.tags["fold"]) for run in runs} == {
        (str(s), str(f)) for s in (1, 2) for f in range(5)
    }
    frames = [Frame.load(run.artifacts / "frames" / "test-margin") for run in runs if run.artifacts is not None]
    one, other = by_seed(frames)
    assert one.predictions["record_id"].is_unique and one.identity == other.identity
    by_patient = one.predictions.groupby("patient")["fold"].nunique()
    assert (by_patient == 1).all() and one.predictions["fold"].nunique() == 5
    assert row["metrics"]["accuracy"]["n"] == len(one.labelled().predictions)
    folds = [compute(frame)["auroc_mean"].value for frame in frames if list(frame.seeds) == [1]]
    assert compute(one)["auroc_mean"].value == pytest.approx(sum(folds) / 5), "averaged, never pooled"
    entries = [entry for entry in said.document["ledger"] if entry["kind"] == "final"]
    assert len(entries) == 5 and len({entry["split_hash"] for entry in entries}) == 5
    assert {entry["opened_before"] for entry in entries} == {0}
    drawn = [run for run in runs if run.artifacts is not None and (run.artifacts / "panels").is_dir()]
    worst = min((run for run in runs if run.tags["fold"] == "0"), key=lambda run: run.metrics["test/auroc_mean"])
    assert {run.run_id for run in drawn} == {row["seeds"][0], worst.run_id}, (
        "the first seed, and the one that did worst"
    )


@pytest.mark.ray
def test_the_same_command_again_trains_nothing(ran: tuple[Path, Any]) -> None:
    folder, said = ran
    again = final(folder)
    assert again.code == 0 and [row["seeds"] for row in again.document["rows"]] == [
        row["seeds"] for row in said.document["rows"]
    ]
    assert again.document["ledger"] == said.document["ledger"]


@pytest.mark.ray
def test_the_table_of_a_paper(ran: tuple[Path, Any], capsys: pytest.CaptureFixture[str]) -> None:
    folder, said = ran
    capsys.readouterr()
    assert table([str(folder / "runs"), "--reference", "vgg16", "--track", "margin"]) == 0
    printed = capsys.readouterr().out
    n = said.document["rows"][0]["metrics"]["accuracy"]["n"]
    assert re.search(rf"\| vgg16 \| \d+\.\d ± \d+\.\d \| \[\[.*\]\] \| .* \| {n} \| 2 \|", printed)
    assert table([str(folder / "runs"), "--reference", "vgg", "--track", "margin"]) == 2
    assert "no finished row of folds is called 'vgg'" in capsys.readouterr().err
