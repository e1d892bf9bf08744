"""`--json` of each command is one document with the fields that the command line promises; mistakes are one line.

Commands run in this process and train nothing; those that do are in test_cli_runs.py, one that a user would start in test_toy_method.py.
"""

import re
from pathlib import Path

import pytest

import run_bench
from tests.cli import apart, has, here


# ---- without training ---------------------------------------------------------------------------------------------
def test_list() -> None:
    document = here("list", "--json").document
    assert has(document, "methods datasets spaces suites tracks metrics")
    names = {one["name"] for one in document["methods"]}
    assert {"iaia_bl", "protopnet", "vgg16"} <= names
    for method in document["methods"]:
        assert has(method, "name tracks summary status config") and method["status"] == "available"
        assert all(has(field, "default description kind type") for field in method["config"].values())
        assert all(
            field["description"] and field["kind"] in ("science", "budget") for field in method["config"].values()
        )
    for kind in document:
        alone = here("list", kind, "--json").document
        assert list(alone) == [kind] and alone[kind] == document[kind]


def test_prepare(tmp_path: Path) -> None:
    said = here(
        "prepare",
        "phantom",
        "--out",
        tmp_path,
        "--json",
        *options("exams.train=6", "exams.validation=4", "exams.test=4", "size=96"),
    )
    document = said.document
    assert said.code == 0
    assert has(
        document, "dataset records findings patients tracks left_out problems passport manifest data_hash split_hash"
    )
    assert document["patients"] == 14 and document["records"] == 28 and document["problems"] == []
    assert set(document["tracks"]) == {"margin", "malignancy", "detection"}
    for sides in document["tracks"].values():
        assert set(sides) == {"train", "validation", "test"}
        assert all(isinstance(n, int) for labels in sides.values() for n in labels.values())
    assert sum(document["tracks"]["margin"]["train"].values()) == 12
    assert Path(document["passport"]).is_file() and Path(document["manifest"]).is_file()
    again = here(
        "prepare",
        "phantom",
        "--out",
        tmp_path,
        "--json",
        *options("exams.train=6", "exams.validation=4", "exams.test=4", "size=96"),
    )
    assert again.document == document


def test_an_empty_board(tmp_path: Path) -> None:
    said = here("leaderboard", "--out", tmp_path, "--json")
    assert said.code == 0 and has(said.document, "rows comparisons page") and said.document["rows"] == []


def test_dry_run_starts_nothing(tmp_path: Path) -> None:
    for command in ("train", "sweep", "final"):
        said = here(command, "vgg16", "phantom", "--out", tmp_path / command, "--dry-run", "--json")
        assert said.code == 0 and has(said.document["cells"][0], "method dataset track trials seeds reason")
        assert not (tmp_path / command / "mlflow.db").exists()
    assert here("bench", "smoke", "--out", tmp_path, "--dry-run", "--json").document["cells"]
    for wrong, named in (("epoch=3", "epoch"), ("lr=-1", "lr"), ("data.levle=easy", "levle")):
        assert named in here("train", "vgg16", "phantom", "--set", wrong, "--out", tmp_path, "--dry-run").error
    late = ("fpn_iaia_bl", "phantom", "--set", "start=weights", "--set", "weights=none", "--set", "size=64")
    assert "topk_k 5000 on level" in here("train", *late, "--set", "topk_k=5000", "--out", tmp_path, "--dry-run").error


def test_the_dry_run_of_a_suite_says_which_cells_would_not_run(tmp_path: Path) -> None:
    suite = "name: s\ncells:\n  - {methods: [vgg16, vgg16_mask], dataset: phantom, track: detection}\n"
    (tmp_path / "s.yaml").write_text(f"{suite}budget: {{weights: none, size: 32, width: 0.0625}}\n")
    said = here("bench", tmp_path / "s.yaml", "--out", tmp_path, "--dry-run", "--json")
    reasons = {cell["method"]: cell["reason"] for cell in said.document["cells"]}
    assert said.code == 0 and reasons["vgg16"] is None and "a normal film has none" in reasons["vgg16_mask"]
    wrong = (tmp_path / "s.yaml").read_text() + "settings: {vgg16: {epoch: 3}}\n"
    (tmp_path / "wrong.yaml").write_text(wrong)
    assert "did you mean 'epochs'" in here("bench", tmp_path / "wrong.yaml", "--out", tmp_path, "--dry-run").error
    assert "would run, but for 1 of 2" in here("bench", tmp_path / "s.yaml", "--out", tmp_path, "--dry-run").stdout


def test_search_spaces_are_listed_with_their_ranges() -> None:
    [space] = [s for s in here("list", "spaces", "--json").document["spaces"] if s["name"] == "iaia_bl"]
    assert set(space["ranges"]) == {*space["published"], *space["readings"]}
    assert space["ranges"]["coef_fine"].endswith(", log") and " to " in space["ranges"]["coef_fine"]
    assert "five maps and all thresholds" in " ".join(here("list", "spaces", "-v").stdout.split())


def test_a_wrong_setting_ends_a_suite_before_anything_is_made(tmp_path: Path) -> None:
    suite = tmp_path / "wrong.yaml"
    suite.write_text(
        "name: wrong\ndata: {exams: {train: 8, validation: 4, test: 4}, size: 128}\n"
        "settings: {vgg16: {lr: fast}}\ncells:\n  - {methods: [protopnet, vgg16], dataset: phantom, track: margin}\n"
    )
    assert "lr = 'fast' is refused" in here("bench", suite, "--out", tmp_path / "out", "--quiet").error
    assert not (tmp_path / "out" / "cache").exists()


def options(*pairs: str) -> list[str]:
    return [part for pair in pairs for part in ("--set", pair)]


MISTAKES: dict[str, tuple[list[str], str]] = {
    "a mistyped key": (
        ["train", "vgg16", "phantom", "--set", "epoch=3"],
        "unknown key 'epoch' .*did you mean 'epochs'",
    ),
    "a mistyped key of the data": (
        ["prepare", "phantom", "--set", "exam.train=3"],
        "unknown key 'exam' .*did you mean 'exams'",
    ),
    "a value out of range": (["train", "vgg16", "phantom", "--set", "lr=-1"], "lr = -1 is refused"),
    "not a pair": (["train", "vgg16", "phantom", "--set", "lr"], "is not KEY=VALUE"),
    "an unknown method": (["train", "vgg61", "phantom"], "no method 'vgg61' .*vgg16"),
    "an unknown data set": (["sweep", "vgg16", "fantom"], "no data set 'fantom' .*phantom"),
    "an unknown track": (["train", "vgg16", "phantom", "--track", "margins"], "no track 'margins' .*margin"),
    "a track that the method does not serve": (["train", "fpn_iaia_bl", "phantom", "--track", "detection"], "margins"),
    "a track that the data do not serve": (["train", "vgg16", "cbis_ddsm", "--track", "detection"], "cannot serve"),
    "an unknown suite": (["bench", "smok"], "no suite 'smok' .*smoke"),
    "a suite that is not there": (["bench", "/nowhere/suite.yaml"], "no such file"),
    "an unknown metric": (["sweep", "vgg16", "phantom", "--objectives", "aurok"], "no objective 'aurok'"),
    "regions for what reads whole films": (
        ["final", "gmic", "phantom", "--track", "detection", "--proposals", "abc", "--dry-run"],
        "the track detection reads whole films",
    ),
    "normal films alone": (
        [
            "train",
            "gmic",
            "phantom",
            "--track",
            "detection",
            *[
                f"--set=data.{one}"
                for one in ("exams.train=4", "exams.validation=4", "exams.test=4", "size=64", "normal_share=0")
            ],
            "--set=size=64",
            "--set=input_width=40",
            "--set=stages=2",
        ],
        "every film that trains is mass; the track detection tells normal, mass apart",
    ),
    "a third objective": (["sweep", "vgg16", "phantom", "--objectives", "ac1,ece,kappa"], "one metric, or two"),
    "one objective twice": (["sweep", "vgg16", "phantom", "--objectives", "ac1,ac1"], "ac1 stands there twice"),
    "an objective without a direction": (
        ["sweep", "vgg16", "phantom", "--objectives", "auroc_mean,ap_pixels"],
        "more is neither better nor worse",
    ),
    "an objective that comes too late to stop a trial": (
        ["sweep", "vgg16", "phantom", "--objectives", "kappa"],
        "kappa is known when a trial has ended.*add --scheduler none",
    ),
    "an objective that the data cannot give": (
        ["sweep", "iaia_bl", "cbis_ddsm", "--objectives", "auroc_mean,activation_precision_fine"],
        "needs fine masks, which cbis_ddsm does not provide",
    ),
    "an objective of a track that is not trained": (
        ["sweep", "iaia_bl", "phantom", "--track", "malignancy", "--objectives", "auroc_malignant"],
        "no objective 'auroc_malignant' of iaia_bl, whose training is on margin",
    ),
    "readings of a space without such": (["sweep", "vgg16", "phantom", "--readings"], "vgg16 has no readings"),
    "an unknown list": (["list", "metods"], "no list of 'metods'"),
    "a config that is not there": (["train", "vgg16", "phantom", "--config", "/nowhere/x.yaml"], "no such file"),
    "no data root": (["prepare", "cbis_ddsm"], "--data-root"),
    "a data root that is not there": (["prepare", "cbis_ddsm", "--data-root", "/nowhere"], "no such folder"),
    "an unknown run": (["explain", "3f2a"], "3f2a"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2 and `error: what (where); what to do`, before anything is started."""
    monkeypatch.delenv("MAMMOBENCH_DATA", raising=False)
    arguments, expected = MISTAKES[mistake]
    out = [] if arguments[0] == "list" else ["--out", str(tmp_path)]
    error = here(*arguments, *out, *([] if arguments[0] == "list" else ["--quiet"])).error
    assert re.search(expected, error), error
    assert re.fullmatch(r"error: .+ \(.+\); .+\n", error), error


def test_an_out_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for command in (["prepare", "phantom"], ["train", "vgg16", "phantom"], ["leaderboard"]):
        assert "cannot write" in here(*command, "--out", tmp_path / "file" / "runs").error


@pytest.mark.long
def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    said = apart("train", "vgg16", "phantom", "--set", "epoch=3", "--out", tmp_path)
    assert "did you mean 'epochs'" in said.error


def test_a_warning_is_one_line_and_a_library_s_says_where_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    run_bench._warn("percent_t 0.0001 is no cell", UserWarning, "models/gmic.py", 107)
    assert capsys.readouterr().err == "warning: percent_t 0.0001 is no cell\n"
    run_bench._warn("numbers", RuntimeWarning, "numpy/core.py", 5)
    assert "numpy/core.py:5: RuntimeWarning: numbers" in capsys.readouterr().err
