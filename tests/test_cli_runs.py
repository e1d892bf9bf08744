"""One small sweep on the command line, the final that follows from it, and what both leave for `explain` and the board.

Commands run in this process, on the Ray that the tests share.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.tracking import Tracker
from tests.cli import Said, has, here, is_estimate

SETTINGS = """
data: {exams: {train: 24, validation: 12, test: 12}, level: easy, size: 128, roi: {strategy: box_scale, scale: 1.6}}
budget: {width: 0.0625, size: 32, batch: 12, weights: none, trunk_blocks: 4}
head: pool_linear
norm: batch
epochs: 2
lr: 2e-3
schedule: constant
warmup_steps: 0
"""
TRIAL = "number state failure values params run_id seconds"
ROW = "method dataset track subset variant seeds metrics input supervision cost"
BOARD_ROW = f"{ROW} status reason badges hashes"


@pytest.fixture(scope="module")
def runs(attached: None, tmp_path_factory: pytest.TempPathFactory) -> "Runs":
    return Runs(tmp_path_factory.mktemp("cli"))


class Runs:
    """One output folder, and what each command said in it; each is run once."""

    def __init__(self, folder: Path) -> None:
        self.out, self.config = folder / "runs", folder / "settings.yaml"
        self.config.write_text(SETTINGS)
        self.said: dict[str, Said] = {}

    def once(self, name: str, *arguments: str) -> Said:
        if name not in self.said:
            self.said[name] = self(*arguments)
        return self.said[name]

    def __call__(self, *arguments: str) -> Said:
        settings = ["--config", str(self.config)] if arguments[0] in ("train", "sweep", "final") else []
        return here(*arguments, "--out", self.out, *settings, "--json")

    def sweep(self) -> Said:
        return self.once("sweep", "sweep", "vgg16", "phantom", "--trials", "2")

    def final(self) -> Said:
        self.sweep()
        return self.once("final", "final", "vgg16", "phantom", "--seeds", "2")


@pytest.mark.ray
def test_train(runs: Runs) -> None:
    said = runs.once("train", "train", "vgg16", "phantom", "--seed", "1")
    document = said.document
    assert said.code == 0, said.stderr
    assert has(document, "run_id status epochs metrics images_per_second checkpoint")
    assert document["status"] == "complete" and Path(document["checkpoint"]).is_file()
    assert document["metrics"] and all(is_estimate(value) for value in document["metrics"].values())


@pytest.mark.ray
def test_a_training_that_diverges_exits_1(runs: Runs) -> None:
    said = runs("train", "vgg16", "phantom", "--set", "lr=1e30")
    assert said.code == 1, said.stderr
    assert said.document["status"] == "failed" and said.document["failure"] == "diverged"
    assert said.document["reason"].startswith("stage train, epoch 1")
    assert said.document["checkpoint"] is None


@pytest.mark.ray
def test_sweep(runs: Runs) -> None:
    said = runs.sweep()
    document = said.document
    assert said.code == 0, said.stderr
    assert has(document, "sweep_id study objectives trials best front status") and document["status"] == "done"
    assert document["objectives"] == [{"metric": "validation/auroc_mean", "direction": "maximize"}]
    assert [trial["number"] for trial in document["trials"]] == [0, 1]
    for trial in document["trials"]:
        assert has(trial, TRIAL) and trial["state"] in ("complete", "pruned")
    assert has(document["best"], "number values config") and document["best"]["config"]["size"] == 32
    assert (
        document["best"]["number"] in (0, 1)
        and document["best"]["values"] == document["trials"][document["best"]["number"]]["values"]
    )


@pytest.mark.ray
def test_final(runs: Runs) -> None:
    said = runs.final()
    document = said.document
    assert said.code == 0, said.stderr
    assert has(document, "rows ledger") and document["rows"]
    for row in document["rows"]:
        assert has(row, ROW) and row["method"] == "vgg16" and len(row["seeds"]) == 2
        assert all(is_estimate(value) for value in row["metrics"].values())
    assert [entry["kind"] for entry in document["ledger"]] == ["final"]


@pytest.mark.ray
def test_a_second_look_needs_a_reason(runs: Runs) -> None:
    runs.final()
    assert "--reopen" in runs("final", "vgg16", "phantom", "--seeds", "3", "--quiet").error


@pytest.mark.ray
def test_leaderboard(runs: Runs) -> None:
    rows = runs.final().document["rows"]
    document = runs("leaderboard").document
    assert has(document, "rows comparisons page") and Path(document["page"]).is_file()
    assert all(has(row, BOARD_ROW) for row in document["rows"])
    mine = [row for row in document["rows"] if row["method"] == "vgg16"]
    assert json.dumps(mine, sort_keys=True) == json.dumps(rows, sort_keys=True)
    for form in ("--csv", "--md", "--latex"):
        assert "vgg16" in here("leaderboard", "--out", runs.out, form).stdout.replace("\\_", "_")


@pytest.mark.ray
def test_explain(runs: Runs) -> None:
    run = runs.final().document["rows"][0]["seeds"][0]
    document = runs("explain", run[:12]).document
    assert has(document, "files rows") and document["files"] and document["rows"]
    assert all(Path(file).is_file() for file in document["files"])
    record = document["rows"][0]["record_id"]
    one = runs("explain", run, "--record", record).document
    assert {row["record_id"] for row in one["rows"]} == {record}
    assert "no record" in runs("explain", run, "--record", "nobody", "--quiet").error


@pytest.mark.ray
def test_train_says_where_the_network_looks_and_what_comes_next(runs: Runs) -> None:
    said = runs("train", "vgg16", "phantom")
    document = said.document
    shown = document["metrics"]["validation/activation_precision_lesion"]
    assert 0 <= shown["low"] <= shown["value"] <= shown["high"] <= 1 and shown["n"] > 0
    logged = Tracker(out=runs.out).run(document["run_id"]).metrics
    assert logged["validation/activation_precision_lesion"] == shown["value"], "two runs are compared in MLflow"
    assert f"next: python run_bench.py explain {document['run_id'][:8]} --out" in said.stderr


@pytest.mark.ray
def test_explain_reads_the_folder_that_it_is_given(runs: Runs, tmp_path: Path) -> None:
    """A copy, or what was moved: what lies there now is read, not the place where it was made."""
    run = runs.final().document["rows"][0]["seeds"][0]
    shutil.copytree(runs.out, tmp_path / "copy")
    explain = ("explain", run, "--out", tmp_path / "copy", "--quiet")
    assert here(*explain).code == 0
    for state in (tmp_path / "copy" / "checkpoints").glob("**/final.pt"):
        state.write_bytes(state.read_bytes()[:1000])
    assert "final.pt" in here(*explain).error


@pytest.mark.ray
def test_explain_of_a_run_that_left_nothing_says_why(runs: Runs) -> None:
    runs.sweep()
    tracker = Tracker(out=runs.out)
    given: dict[str, Any] = {"name": "x", "kind": "train", "params": {}}
    alive = tracker.start("margin", identity="alive", **given)
    gone = tracker.start("margin", identity="gone", **given)
    tracker.finish(gone, "failed", failure="diverged", reason="stage joint 1, step 3")
    assert f"run {alive[:8]} (train) is still running (RUN)" in runs("explain", alive, "--quiet").error
    assert "failed: diverged: stage joint 1, step 3 (RUN)" in runs("explain", gone, "--quiet").error
    tracker.finish(alive, "interrupted", reason="a test")
    assert "was cut off (RUN)" in runs("explain", alive, "--quiet").error
    assert "the newest here: " in runs("explain", "0" * 32, "--quiet").error


@pytest.mark.ray
def test_the_same_command_again_shows_what_is_finished(runs: Runs) -> None:
    before: dict[str, Any] = runs.sweep().document
    again = runs("sweep", "vgg16", "phantom", "--trials", "2")
    assert again.code == 0 and again.document == before
    assert "--extend" in runs("sweep", "vgg16", "phantom", "--trials", "3", "--quiet").error


@pytest.mark.ray
def test_a_refused_sweep_stays_finished(runs: Runs) -> None:
    before = runs.final().document
    assert "--extend" in runs("sweep", "vgg16", "phantom", "--trials", "3", "--quiet").error
    again = runs("final", "vgg16", "phantom", "--seeds", "2")
    assert again.code == 0 and again.document["rows"] == before["rows"]
    assert "trial" in again.stderr and "published" not in again.stderr


@pytest.mark.ray
def test_settings_of_other_data_open_no_test_side(runs: Runs) -> None:
    sweep = runs.sweep().document["sweep_id"]
    ledger = (runs.out / "ledger.jsonl").read_text() if (runs.out / "ledger.jsonl").is_file() else ""
    other = runs("final", "vgg16", "phantom", "--set", "data.level=hard", "--from", sweep, "--quiet")
    assert "other data" in other.error
    assert ((runs.out / "ledger.jsonl").read_text() if ledger else "") == ledger


@pytest.mark.ray
def test_artifacts_that_are_lost_are_restored(runs: Runs) -> None:
    rows = runs.final().document["rows"]
    folders = [runs.out / "artifacts" / "margin" / run / "artifacts" for run in rows[0]["seeds"]]
    (folders[0] / "config.json").write_text("{")
    shutil.rmtree(folders[1] / "frames")
    broken = runs("leaderboard").document["rows"]
    assert any(row["status"] == "failed" and "restores" in row["reason"] for row in broken)
    again = runs("final", "vgg16", "phantom", "--seeds", "2")
    assert again.code == 0 and [row["metrics"] for row in again.document["rows"]] == [row["metrics"] for row in rows]


@pytest.mark.ray
def test_a_final_carries_its_test_metrics(runs: Runs) -> None:
    row = runs.final().document["rows"][0]
    found = [Tracker(out=runs.out).run(run).metrics for run in row["seeds"]]
    values = [metrics["test/auroc_mean"] for metrics in found]
    assert sum(values) / 2 == pytest.approx(row["metrics"]["auroc_mean"]["value"])
    assert all(metrics["test/auroc_mean_n"] == row["metrics"]["auroc_mean"]["n"] for metrics in found)


@pytest.mark.ray
def test_two_tracks_of_one_training_are_trained_once(runs: Runs, tmp_path: Path) -> None:
    suite = tmp_path / "both.yaml"
    suite.write_text(
        "name: both\ndata: {exams: {train: 24, validation: 12, test: 12}, level: easy, size: 128, roi: {strategy: box_scale, scale: 1.6}}\n"
        "budget: {width: 0.0625, size: 32, batch: 12, samples: null, weights: none, trunk_blocks: 4}\n"
        "settings: {protopnet: {warm_epochs: 0, joint_epochs: 1, h1_epochs: 1, prune: {rule: none}}}\n"
        "search: {trials: 0}\nfinal: {seeds: 1}\ncells:\n"
        "  - {methods: [protopnet], dataset: phantom, track: margin}\n"
        "  - {methods: [protopnet], dataset: phantom, track: malignancy}\n"
    )
    said = here("bench", suite, "--out", tmp_path / "runs", "--json")
    assert said.code == 0, said.stderr
    assert [cell["status"] for cell in said.document["cells"]] == ["done", "done"]
    assert len({run for cell in said.document["cells"] for run in cell["final"]}) == 1
    assert len(Tracker(out=tmp_path / "runs").runs(kind="final")) == 1


@pytest.mark.ray
def test_a_sweep_by_two_objectives(runs: Runs) -> None:
    """The second one only a finished trial's validation frame gives. Its choice goes to final, and says by which rule."""
    objectives = "auroc_mean,activation_precision_lesion"
    said = runs("sweep", "vgg16", "phantom", "--trials", "3", "--objectives", objectives)
    document = said.document
    assert said.code == 0 and document["status"] == "done", said.stderr
    assert [objective["direction"] for objective in document["objectives"]] == ["maximize", "maximize"]
    names = [objective["metric"] for objective in document["objectives"]]
    assert names == ["validation/auroc_mean", "validation/activation_precision_lesion"]
    for trial in document["trials"]:
        assert trial["state"] == "complete" and len(trial["values"]) == 2
        assert [trial["estimates"][name]["value"] for name in names] == trial["values"]
        logged = Tracker(out=runs.out).run(trial["run_id"]).metrics
        assert [logged[name] for name in names] == trial["values"]
    best = document["best"]
    assert best["number"] in document["front"] and f"--from {document['sweep_id'][:8]}  # trial" in said.stderr
    assert said.stderr.count("next: ") == len(document["front"]), (
        "each trial of the front may be the one that is wanted"
    )
    assert {Path(path).name for path in document["pictures"]} == {"front.svg", "front.csv"}
    recorded = runs.out / "artifacts" / "margin" / document["sweep_id"] / "artifacts" / "front" / "front.svg"
    assert recorded.read_bytes() == Path(document["pictures"][0]).read_bytes()
    final = runs("final", "vgg16", "phantom", "--seeds", "1", "--from", document["sweep_id"], "--reopen", "a test")
    assert final.code == 0, final.stderr
    assert f"trial {best['number']} of sweep" in final.stderr and best["rule"] in final.stderr
    assert final.document["ledger"][-1]["source"].endswith(best["rule"])
