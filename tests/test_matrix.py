"""Trainings x test-time variants: the cells, the contrasts of one family, validation's choice, what is equal, and where it goes."""

import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.benchmark import check_registered
from bench.board import record_matrices
from bench.home import Home
from bench.leaderboard import page, table
from bench.leaderboard.build import build_board
from bench.leaderboard.matrix import Matrix, words
from bench.leaderboard.matrix_files import files_of, heats, to_csv, write_matrix
from bench.leaderboard.rows import Board, Registration, SeedRun
from bench.metrics import Frame, over_seeds
from bench.suite import cells, read_suite
from bench.tracking import Tracker
from data.errors import ConfigError, DataError
from tests.board_samples import arm_of, final, frame_of

TITLES = {"cam": "CAM", "gradcam": "GradCAM", "gradcampp": "GradCAM++", "xgradcam": "XGradCAM", "layercam": "LayerCAM"}
THREE = ("cam", "gradcam", "gradcampp")
# skill of (training, test): the best on the test side, and another one on validation
TEST = {("gradcam", "cam"): 2.4, ("cam", "gradcam"): 1.8}
VALIDATION = {("gradcam", "cam"): 1.2, ("cam", "gradcam"): 2.6}
EQUAL = (("cam", "gradcam", "the head is linear"),)


def frame(train: str, seed: int, tests: Sequence[str], skills: dict[tuple[str, str], float], **meta: Any) -> Frame:
    """A frame whose variants have a skill of their own each: that of `skills`, else one that no other pairing has."""
    known = list(TITLES)
    parts = []
    for test in tests:
        skill = skills.get((train, test), 0.5 + 0.1 * (known.index(train) * 2 + known.index(test)))
        parts.append(frame_of("margin", seed, skill, (test,), map_titles=TITLES, **meta))
    rows = pd.concat([part.predictions for part in parts], ignore_index=True)
    return Frame(rows, parts[0].meta)


def trained(
    cams: Sequence[str] = THREE,
    tests: Sequence[str] = THREE,
    skills: dict[tuple[str, str], float] | None = None,
    seeds: int = 2,
    **meta: Any,
) -> list[SeedRun]:
    """Runs of an arm per map, newest first as the record of runs gives them."""
    found = []
    for cam in cams:
        own = sorted(tests, key=lambda test: test != meta.get("first", tests[0]))
        for run in arm_of(f"train_{cam}", 1.0, "gmic", facts={"seeds_asked": seeds})[:seeds]:
            seed = run.place[0]
            run.spec = {**run.spec, "config": {"train_cam": cam, "size": 64}}
            run.load = lambda cam=cam, seed=seed, own=own: frame(
                cam, seed, own, TEST if skills is None else skills, **meta
            )  # type: ignore[misc]
            found.append(run)
    return found[::-1]


def on_validation() -> list[SeedRun]:
    return trained(skills=VALIDATION)


@pytest.fixture(scope="module")
def board() -> Board:
    return build_board(trained(), validation=on_validation)


@pytest.fixture
def matrix(board: Board) -> Matrix:
    (found,) = board.matrices
    return found


# ---- cells ------------------------------------------------------------------------------------------------------------
def test_each_pairing_is_a_cell_with_its_own_estimate(matrix: Matrix) -> None:
    """Rows in the order of the maps that they train with, so that the diagonal is the same map in training and test."""
    assert list(matrix.trainings) == ["train_cam", "train_gradcam", "train_gradcampp"]
    assert list(matrix.tests) == list(THREE)
    frames = [frame("gradcam", seed, THREE, TEST).of_variant("gradcampp") for seed in (1, 2)]
    expected = over_seeds(frames, ["auroc_mean"])["auroc_mean"]
    assert matrix.rows["train_gradcam", "gradcampp"].metrics["auroc_mean"] == expected
    (heat,) = heats(matrix)
    assert heat.values_RC.shape == (3, 3) and heat.values_RC[1, 2] == expected.value
    assert f"{expected.low:.3f}–{expected.high:.3f}" == heat.intervals[1][2]
    assert heat.columns == ["CAM", "GradCAM", "GradCAM++"]
    assert "2 seeds" in heat.caption and f"n = {expected.n}" in heat.caption and "75 patients" in heat.caption


def test_a_table_without_a_choice_of_variants_has_none_and_reads_no_validation() -> None:
    def refuse() -> list[SeedRun]:
        raise AssertionError("validation was asked for")

    plain = build_board([*trained(["cam"], ["cam"]), *trained(["gradcam"], ["cam"])], validation=refuse)
    assert not plain.matrices


def test_one_training_under_several_variants_has_a_choice_where_they_differ() -> None:
    alone = build_board(trained(["cam"]))
    [matrix] = alone.matrices
    assert len(matrix.trainings) == 1 and len(matrix.tests) > 1
    [one, two] = build_board([*trained(["cam"]), *trained(["gradcam"], ("cam", "xgradcam"))]).matrices
    assert set(one.tests) != set(two.tests)


def test_a_control_is_no_pairing_and_a_training_without_result_is_named() -> None:
    placebo = trained(["xgradcam"])
    placebo = [replace(run, facts={**run.facts, "grades": ["placebo"]}) for run in placebo]
    broken = [replace(run, load=None, state="failed", failure="oom") for run in trained(["layercam"])]
    (matrix,) = build_board([*trained(), *placebo, *broken]).matrices
    assert list(matrix.trainings) == ["train_cam", "train_gradcam", "train_gradcampp"]
    assert any(re.match(r"Without a result: train_layercam: failed: 0 of 2 seeds", line) for line in words(matrix))


# ---- contrasts ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def registered() -> Board:
    """Five trainings under five maps with five seeds, one pairing named against another beforehand."""
    skills = {("xgradcam", "gradcampp"): 3.0, ("cam", "cam"): 1.0}
    primary = Registration("margin", reference="train_cam [cam]", contrast="train_xgradcam [gradcampp]")
    return build_board(trained(list(TITLES), list(TITLES), skills, seeds=5), registrations=[primary])


def test_all_24_others_are_the_family_against_the_named_pairing(registered: Board) -> None:
    found = registered.comparisons
    assert len(found) == 24 and {c.b for c in found} == {"train_cam [cam]"}
    assert len({c.a for c in found}) == 24 and "train_cam [cam]" not in {c.a for c in found}
    assert [c.a for c in found if c.planned] == ["train_xgradcam [gradcampp]"] and not registered.notes
    raw = np.array([c.p for c in found])
    order = np.argsort(raw)
    by_hand = np.minimum(1, np.maximum.accumulate(raw[order] * np.arange(24, 0, -1)))  # Holm 1979
    assert np.array([c.p_holm for c in found])[order] == pytest.approx(by_hand)
    assert next(c for c in found if c.planned).rejected


def test_ranks_and_labels_are_those_of_pairings(registered: Board) -> None:
    ranks = {row.label: row.ranks for row in registered.rows}
    better = sum(c.rejected and c.difference.value > 0 for c in registered.comparisons)  # type: ignore[operator]
    worse = sum(c.rejected and c.difference.value < 0 for c in registered.comparisons)  # type: ignore[operator]
    assert len(ranks) == 25 and better and worse
    assert ranks["train_cam [cam]"] == (1 + better, 25 - worse)
    assert ranks["train_xgradcam [gradcampp]"] == (1, 25 - worse - 1)


def test_a_name_alone_is_the_first_variant(registered: Board) -> None:
    runs = trained(["cam", "gradcam"], ["cam", "gradcam"], seeds=5)
    plain = build_board(runs, registrations=[Registration("margin", reference="train_cam", contrast="train_gradcam")])
    assert [(c.a, c.b) for c in plain.comparisons if c.planned] == [("train_gradcam [cam]", "train_cam [cam]")]
    lost = [Registration("margin", reference="train_cam [cam]", contrast="train_cam [layer]")]
    (note,) = build_board(runs, registrations=lost).notes
    assert note.endswith("was not tested: train_cam [layer] has no result")
    nobody = build_board(runs, registrations=[replace(lost[0], reference="train_cam [layer]")])
    assert not nobody.comparisons and "no row of the reference train_cam [layer]" in nobody.rows[0].rank_note


SUITE = """
name: maps
arms:
  one: {method: vgg16}
  two: {method: vgg16, settings: {lr: 1e-3}}
search: {trials: 0}
primary: {margin: {reference: "one [cam]", contrast: "one [gradcam]"}}
cells:
  - {methods: [one, two], dataset: phantom, track: margin}
"""


def test_a_suite_registers_a_pairing(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SUITE)
    assert read_suite(str(tmp_path / "s.yaml")).primary["margin"].contrast == "one [gradcam]"


def test_a_variant_that_the_method_does_not_have_registers_nothing(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        SUITE.replace("one [gradcam]", "one [gradcma]").replace("one [cam]", "two [default]")
    )
    suite = read_suite(str(tmp_path / "s.yaml"))
    with pytest.raises(
        ConfigError, match=r"no test-time variant 'gradcma' of one \(suite maps, primary.margin.contrast\)"
    ):
        check_registered(suite, cells(suite))


@pytest.mark.parametrize(
    ("contrast", "says"),
    [
        ("on [gradcam]", r"no method or arm 'on' \(s.yaml, primary.margin.contrast\)"),
        ("iaia_bl [cam]", r"iaia_bl is in no cell of the track margin \(s.yaml, primary.margin.contrast\)"),
        ("one [cam]", r"one \[cam\] is compared with itself"),
        ("one", r"one may be one \[cam\] itself \(s.yaml, primary.margin\); name the variant of both"),
        ("two [cam", r"no method or arm 'two \[cam'"),
    ],
)
def test_a_pairing_that_cannot_be_meant(tmp_path: Path, contrast: str, says: str) -> None:
    (tmp_path / "s.yaml").write_text(SUITE.replace("one [gradcam]", contrast))
    with pytest.raises(ConfigError) as caught:
        read_suite(str(tmp_path / "s.yaml"))
    assert re.search(says, str(caught.value).replace(f"{tmp_path}/", "")), caught.value


# ---- validation's choice ------------------------------------------------------------------------------------------------
def test_what_validation_would_have_chosen_stands_beside_the_best_on_test(matrix: Matrix) -> None:
    assert matrix.chosen == [("train_cam", "gradcam")] and matrix.best == [("train_gradcam", "cam")]
    frames = [frame("cam", seed, THREE, VALIDATION).of_variant("gradcam") for seed in (1, 2)]
    seen = over_seeds(frames, ["auroc_mean"])["auroc_mean"]
    assert matrix.validation["train_cam", "gradcam"] == seen
    test = matrix.rows["train_cam", "gradcam"].metrics["auroc_mean"]
    told = words(matrix)[0]
    assert told.startswith(
        f"Validation would have chosen train_cam × GradCAM (AUROC {seen.value:.3f} ({seen.low:.3f}–{seen.high:.3f}) there, "
        f"as the best of 9 optimistic; n = {seen.n}, 2 seeds)"
    )
    assert f"{test.value:.3f} ({test.low:.3f}–{test.high:.3f})" in told
    assert "train_gradcam × CAM" in words(matrix)[1] and "optimistic" in words(matrix)[1]


def test_the_choice_is_kept_and_no_frame_is_read_again(tmp_path: Path) -> None:
    def refuse() -> Frame:
        raise AssertionError("a frame was read")

    first = build_board(trained(), validation=on_validation, keep=tmp_path)
    unread = [[replace(run, load=refuse) for run in runs] for runs in (trained(), on_validation())]
    again = build_board(unread[0], validation=lambda: unread[1], keep=tmp_path)
    assert again.to_json() == first.to_json()


def test_a_choice_that_cannot_be_made_says_why() -> None:
    def damaged() -> Frame:
        raise DataError("predictions.parquet is truncated", "frame", "make the run again")

    (few,) = build_board(trained(), validation=lambda: on_validation()[1:]).matrices
    assert not few.chosen and "train_gradcampp has validation frames of 1 of 2 runs" in words(few)[0]
    broken = [replace(run, load=damaged) for run in on_validation()]
    (unread,) = build_board(trained(), validation=lambda: broken).matrices
    assert not unread.chosen and "predictions.parquet is truncated" in words(unread)[0]


def test_validation_may_not_tell_pairings_apart() -> None:
    """CAM and GradCAM of one skill, and names of one length, are one and the same here."""
    skills = {(train, test): 1.0 for train in ("cam", "gradcam") for test in ("xgradcam", "layercam")}
    runs = trained(["cam", "gradcam"], ["xgradcam", "layercam"], skills)
    (matrix,) = build_board(runs, validation=lambda: runs).matrices
    assert len(matrix.chosen) == 4 and "train_cam × XGradCAM or train_cam × LayerCAM or" in words(matrix)[0]


# ---- equal cells --------------------------------------------------------------------------------------------------------
def test_what_a_method_calls_equal_is_said_and_checked() -> None:
    """xgradcam and layercam come out the same (their names are of one length), gradcampp does not."""
    skills = {("cam", "xgradcam"): 2.9, ("cam", "layercam"): 2.9}
    pairs = [["xgradcam", "layercam", "m is constant"], ["layercam", "gradcampp", "so it is claimed"]]
    runs = trained(["cam"], ["xgradcam", "layercam", "gradcampp"], skills, coincide=pairs)
    runs += trained(["gradcam"], ["xgradcam", "layercam", "gradcampp"], {})
    (matrix,) = build_board(runs).matrices
    told = [line for line in words(matrix) if line.startswith("Equal")]
    assert told[0] == (
        "Equal by algebra (after train_cam): XGradCAM = LayerCAM, m is constant; measured: equal in every metric."
    )
    assert re.match(r"Equal by algebra .*LayerCAM = GradCAM\+\+.* measured: apart by up to 0\.\d+ \(\w+\)\.", told[1])
    assert len(told) == 2, "what is declared is not found once more"


def test_trainings_that_differ_in_the_name_of_one_map_alone_are_said_to_be_equal() -> None:
    """Each training's frames are of its own skill here: so they are apart, and the sentence says by how much."""
    pairs = [["xgradcam", "layercam", "m is constant"]]
    runs = trained(["cam", "xgradcam", "layercam"], ["cam", "xgradcam", "layercam"], {}, coincide=pairs)
    (matrix,) = build_board(runs).matrices
    (told,) = [line for line in words(matrix) if "the trainings" in line]
    assert re.fullmatch(
        r"Equal by algebra: the trainings train_xgradcam = train_layercam, m is constant; measured: apart by up to 0\.\d+ \(\w+\)\.",
        told,
    )
    same = {
        (training, test): skill
        for training in ("xgradcam", "layercam")
        for test, skill in zip(["cam", "xgradcam", "layercam"], (1.5, 2.0, 2.9), strict=True)
    }
    (equal,) = build_board(
        trained(["cam", "xgradcam", "layercam"], ["cam", "xgradcam", "layercam"], same, coincide=pairs)
    ).matrices
    assert [line for line in words(equal) if "equal in every metric." in line.lower()] and not [
        line for line in words(equal) if "nothing says" in line
    ]
    (none,) = build_board(trained(["cam", "gradcam"], ["cam", "gradcam"], {}, coincide=pairs)).matrices
    assert not any("the trainings" in line for line in words(none))


def test_cells_that_came_out_equal_are_found() -> None:
    skills = {("cam", "xgradcam"): 2.9, ("cam", "layercam"): 2.9, ("gradcam", "layercam"): 2.9}
    (matrix,) = build_board(trained(["cam", "gradcam"], ["xgradcam", "layercam"], skills)).matrices
    (told,) = [line for line in words(matrix) if line.startswith("Equal")]
    assert told.endswith(": train_cam × XGradCAM, train_cam × LayerCAM, train_gradcam × LayerCAM.")


# ---- where it goes ------------------------------------------------------------------------------------------------------
def test_the_page_writes_value_and_interval_into_every_cell(board: Board, matrix: Matrix) -> None:
    text = page.render(board)
    cells = re.findall(r'<td( class="marked")? style="background: (#[0-9a-f]{6})">(.*?)</td>', text)
    assert len(cells) == 9
    assert all(
        re.fullmatch(r"0\.\d{3}<small>0\.\d{3}–0\.\d{3}</small>(<small>[a-z&#;39 ]+</small>)?", c[2]) for c in cells
    )
    assert sum(bool(marked) for marked, _, _ in cells) == 2 and "best on test" in text
    assert all(line.replace("'", "&#39;") in text for line in words(matrix))
    assert not re.search(r"https?://|@import|url\(|src=", text)


def test_the_other_forms_of_the_board_say_it_too(board: Board, matrix: Matrix) -> None:
    assert words(matrix)[0] in table.to_markdown(board)
    (told,) = board.to_json()["matrices"]
    assert told["chosen"] == [["train_cam", "gradcam"]] and told["best"] == [["train_gradcam", "cam"]]
    assert board.around({"train_cam1"}).matrices and not board.around({"elsewhere"}).matrices


def test_files_hold_every_cell(matrix: Matrix, tmp_path: Path) -> None:
    written = write_matrix(matrix, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(written) == sorted(files_of(matrix, tmp_path))
    lines = list(csv.DictReader(io.StringIO((tmp_path / f"{matrix.name}.csv").read_text())))
    assert len(lines) == 9 and to_csv(matrix) == written[0].read_text()
    (chosen,) = [line for line in lines if line["validations_choice"] == "True"]
    row = matrix.rows["train_cam", "gradcam"]
    assert (chosen["training"], chosen["variant"]) == ("train_cam", "gradcam")
    assert float(chosen["low"]) == row.metrics["auroc_mean"].low and chosen["run_ids"] == " ".join(row.seeds)
    seen = matrix.validation["train_cam", "gradcam"]
    assert (float(chosen["validation"]), float(chosen["validation_low"])) == (seen.value, seen.low)
    assert (float(chosen["validation_high"]), int(chosen["validation_n"])) == (seen.high, seen.n)
    said = "".join(ET.parse(written[1]).getroot().itertext())
    for cell in matrix.pairings:
        assert f"{matrix.value(cell, 'auroc_mean'):.3f}" in said


@pytest.mark.long
def test_the_record_of_runs_holds_one_run_per_suite_and_table(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home, tracker = Home.at(tmp_path), Tracker(out=tmp_path)
    (matrix,) = board.matrices
    configs = {row.hashes["config"] for row in matrix.rows.values()}
    write_matrix(matrix, home.leaderboard)
    assert record_matrices(home, tracker, board, "maps", {"another suite's"}) == []
    (first,) = record_matrices(home, tracker, board, "maps", configs)
    info = tracker.run(first)
    assert (info.kind, info.state, info.track) == ("board", "complete", "margin")
    cell = matrix.rows["train_cam", "gradcam"].metrics["auroc_mean"]
    recorded = info.estimate("auroc_mean/train_cam/gradcam")
    assert recorded is not None and (recorded.value, recorded.low, recorded.high) == (cell.value, cell.low, cell.high)
    assert info.estimate("validation/auroc_mean/train_cam/gradcam") is not None
    assert info.artifacts is not None
    assert sorted(p.name for p in (info.artifacts / "matrix").iterdir()) == sorted(
        p.name for p in files_of(matrix, home.leaderboard)
    )
    # runs were made again: the same run of the record holds the new values
    (changed,) = build_board(trained(skills={}), validation=on_validation).matrices
    assert changed.name == matrix.name
    write_matrix(changed, home.leaderboard)
    assert record_matrices(home, tracker, replace(board, matrices=[changed]), "maps", configs) == [first]
    renewed = tracker.run(first)
    assert renewed.metrics["auroc_mean/train_gradcam/cam"] == changed.value(("train_gradcam", "cam"), "auroc_mean")
    assert renewed.metrics["auroc_mean/train_gradcam/cam"] != info.metrics["auroc_mean/train_gradcam/cam"]
    assert len(tracker.runs(kind="board")) == 1 and renewed.state == "complete"
    assert record_matrices(home, tracker, board, "other", configs) != [first]


def test_guessing_is_told_of_an_auroc_alone() -> None:
    """A share of lesions found may well lie below one half."""
    from bench.leaderboard.badges import badges_of
    from bench.metrics import Estimate

    low = Estimate(0.3, 0.2, 0.4, 60, "bca")
    assert "MB017" in {badge.code for badge in badges_of([final("vgg16", 1)], 5, {}, low)}
    assert "MB017" not in {badge.code for badge in badges_of([final("gmic", 1, track="detection")], 5, {}, low)}
