"""The board: grouping of seeds, cells without numbers, badges, comparisons, ranges of ranks, and runs from MLflow."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.board import disagreements
from bench.config import config_hash
from bench.leaderboard import badges, page
from bench.leaderboard.build import build_board, cost_of
from bench.leaderboard.compare import give_ranks
from bench.leaderboard.measure import ALL_MASSES, THREE_MARGINS
from bench.leaderboard.references import measure_references
from bench.leaderboard.rows import Board, Comparison, Registration, Row, SeedRun
from bench.metrics import Estimate, Frame, over_seeds
from tests.board_samples import REGISTERED, N, final, five, frame_of, make_board, row_of, samples


@pytest.fixture(scope="module")
def board() -> Board:
    return make_board()


# ---- rows -----------------------------------------------------------------------------------------------------------
def test_a_row_is_the_mean_over_seeds_of_the_metrics(board: Board) -> None:
    frames = [frame_of("margin", seed, 1.0) for seed in range(1, 6)]
    row = row_of(board, "vgg16")
    assert row.metrics == over_seeds(frames)
    single = [over_seeds([frame])["auroc_mean"].value for frame in frames]
    assert row.metrics["auroc_mean"].value == pytest.approx(np.mean(single))  # type: ignore[arg-type]
    assert "5 seeds" in row.metrics["auroc_mean"].interval
    assert (row.status, row.seeds_asked, len(row.seeds)) == ("done", 5, 5)
    assert (row.input, row.supervision) == ("oracle ROI", "label")


def test_survivors_make_no_mean(board: Board) -> None:
    row = row_of(board, "gmic")
    assert row.status == "failed"
    assert row.metrics == {}
    assert row.reason == "3 of 5 seeds: seed 4 diverged (loss is NaN at step 12 <b>)"
    assert "MB001" in {badge.code for badge in row.badges}


def test_unfinished_is_missing_and_says_how_to_go_on() -> None:
    (row,) = build_board([final("vgg16", 1), final("vgg16", 2)]).rows
    assert (row.status, row.reason) == ("missing", "2 of 5 seeds so far; the same `final` goes on with the rest")


def test_a_cell_without_runs_says_why(board: Board) -> None:
    row = row_of(board, "kt")
    assert (row.status, row.reason, row.metrics) == ("not-applicable", "needs a teacher", {})


def test_the_newest_complete_run_of_a_seed_counts() -> None:
    facts = {"seeds_asked": 1}
    newer_failed = final("vgg16", 1, run_id="f1", state="failed", load=None, facts=facts)
    newest = final("vgg16", 1, 3.0, run_id="c2", facts=facts)
    older = final("vgg16", 1, 1.0, run_id="c1", facts=facts)
    (row,) = build_board([newer_failed, newest, older]).rows
    assert row.seeds == ["c2"]


def test_other_settings_are_another_row_and_are_told_apart() -> None:
    other = five("vgg16", 1.5)
    for run in other:
        run.spec = {**run.spec, "config": {"lr": 1e-2}}
        run.run_id = "x" + run.run_id
    rows = build_board([*five("vgg16", 1.0), *other]).rows
    assert len(rows) == 2
    assert len({row.label for row in rows}) == 2 and {row.label for row in rows} == {
        "vgg16 (lr 0.001)",
        "vgg16 (lr 0.01)",
    }
    assert config_hash(other[0].spec) == config_hash(other[1].spec)


def test_cost_counts_each_requirement_once_and_unknown_is_not_nothing() -> None:
    runs = five("vgg16", 1.0)
    cost = cost_of(runs)
    assert (cost["machine_seconds"], cost["requirements_seconds"]) == (5 * 60 + 5 * 30, 150)
    assert (cost["search_seconds"], cost["search_trials"]) == (100, 3)
    for run in runs:
        run.requirements = {"shared": 30.0}
    assert cost_of(runs)["machine_seconds"] == 5 * 60 + 30
    runs[0].seconds = None
    assert cost_of(runs)["machine_seconds"] is None


def test_variants_are_rows_of_their_own() -> None:
    runs = [
        final("vgg16", s, load=lambda s=s: frame_of("margin", s, 1.0, ("default", "gradcam++"))) for s in range(1, 6)
    ]  # type: ignore[misc]
    rows = build_board(runs).rows
    assert [row.variant for row in rows] == ["default", "gradcam++"]
    assert rows[0].metrics["auroc_mean"] != rows[1].metrics["auroc_mean"]


def test_malignancy_shows_the_three_margins_first() -> None:
    rows = build_board(five("vgg16", 1.0, track="malignancy")).rows
    assert [row.subset for row in rows] == [THREE_MARGINS, ALL_MASSES]
    assert rows[0].metrics["auroc_mean"].n < rows[1].metrics["auroc_mean"].n == N


def test_computed_metrics_are_kept_and_no_frame_is_read_again(tmp_path: Path) -> None:
    def refuse() -> Frame:
        raise AssertionError("a frame was read")

    first = build_board([*five("vgg16", 1.0), *five("iaia_bl", 2.0)], registrations=REGISTERED, keep=tmp_path)
    again = [*five("vgg16", 1.0, load=refuse), *five("iaia_bl", 2.0, load=refuse)]
    assert build_board(again, registrations=REGISTERED, keep=tmp_path).to_json() == first.to_json()


# ---- references -----------------------------------------------------------------------------------------------------
def test_references_stand_apart_and_are_not_ranked(board: Board) -> None:
    references = [row for row in board.rows if row.kind == "reference"]
    assert {"chance", "lesion_size", "ceiling"} <= {row.method for row in references}
    assert all(row.ranks is None for row in references)
    ((_, rows),) = board.tables()
    kinds = [row.kind for row in rows]
    assert kinds == sorted(kinds), "methods first, references after them"


def test_references_of_a_secondary_view(board: Board) -> None:
    runs = five("vgg16", 1.0, track="malignancy")
    runs[2].references = measure_references(samples("malignancy"), frame_of("malignancy", 1, 1.0))
    found = {(row.subset, row.method) for row in build_board(runs).rows if row.kind == "reference"}
    assert (THREE_MARGINS, "margins") in found and (ALL_MASSES, "lesion_size") in found


# ---- comparisons and ranks ------------------------------------------------------------------------------------------
def test_each_method_against_the_registered_reference(board: Board) -> None:
    assert {(c.a, c.b) for c in board.comparisons} == {("iaia_bl", "vgg16"), ("protopnet", "vgg16")}
    planned = next(c for c in board.comparisons if c.planned)
    assert planned.a == "iaia_bl"
    assert planned.rejected and planned.p is not None and planned.p_holm == pytest.approx(2 * planned.p)
    assert planned.difference.low is not None and planned.difference.low > 0
    assert planned.smallest is not None and planned.smallest > 0


def test_ranks_are_ranges(board: Board) -> None:
    # iaia_bl is above vgg16; protopnet is told apart from neither, since nothing but the reference was tested against.
    assert row_of(board, "iaia_bl").ranks == (1, 2)
    assert row_of(board, "vgg16").ranks == (2, 3)
    assert row_of(board, "protopnet").ranks == (1, 3)


def _ranked(differences: dict[str, tuple[float, bool]]) -> dict[str, tuple[int, int] | None]:
    hashes = {"rows": "r", "split": "s", "config": "c"}
    rows = [
        Row(name, "phantom", "margin", hashes=hashes, seeds_asked=5, input="oracle ROI")
        for name in ("vgg16", *differences)
    ]
    comparisons = [
        Comparison(
            name, "vgg16", "margin", "phantom", "all", "auroc_mean", Estimate(value, None, None, 9, "t"), 0.01, 0.02,
            rejected, False, None, a_row=row.key, b_row=rows[0].key, table=row.table,
        )
        for row, (name, (value, rejected)) in zip(rows[1:], differences.items(), strict=True)
    ]  # fmt: skip
    give_ranks(rows, comparisons, REGISTERED)
    return {row.method: row.ranks for row in rows}


def test_ranks_through_the_reference() -> None:
    assert _ranked({"up": (0.1, True), "down": (-0.1, True), "same": (0.01, False)}) == {
        "vgg16": (2, 3), "up": (1, 2), "down": (3, 4), "same": (1, 4),
    }  # fmt: skip


def test_nothing_is_told_apart() -> None:
    assert _ranked({"a": (0.1, False), "b": (-0.1, False)}) == {"vgg16": (1, 3), "a": (1, 3), "b": (1, 3)}


@pytest.mark.parametrize(
    ("registrations", "asked", "note"), [([], 5, "no reference was registered"), (REGISTERED, 2, "fewer than 5 seeds")]
)
def test_what_is_not_ranked_says_why(registrations: list[Registration], asked: int, note: str) -> None:
    facts = {"seeds_asked": asked}
    runs = [final(m, s, k, facts=facts) for m, k in (("vgg16", 1.0), ("iaia_bl", 2.0)) for s in range(1, asked + 1)]
    for row in build_board(runs, registrations=registrations).rows:
        assert row.ranks is None and note in row.rank_note


def test_other_input_is_not_compared() -> None:
    whole = five("gmic", 3.0)
    for run in whole:
        seed = run.place[0]
        run.load = lambda seed=seed: frame_of("margin", seed, 3.0, input="whole image")  # type: ignore[misc]
    made = build_board([*five("vgg16", 1.0), *five("iaia_bl", 2.0), *whole], registrations=REGISTERED)
    assert [c.a for c in made.comparisons] == ["iaia_bl"]
    assert row_of(made, "gmic").ranks is None
    assert row_of(made, "iaia_bl").ranks == (1, 1)


def test_a_jittered_region_is_another_input() -> None:
    from bench.engine.evaluate import _input
    from tests.toy import toy_method

    assert _input(toy_method("vgg16"), "margin") == "oracle ROI"
    assert (
        _input(toy_method("vgg16", roi={"strategy": "bbox", "jitter_shift": 0.3}), "margin") == "oracle ROI, jittered"
    )


def test_a_placebo_is_not_ranked_and_compared_outside_the_family() -> None:
    controls = five("protopnet", 2.0, facts={"seeds_asked": 5, "grades": ["placebo"]})
    made = build_board([*five("vgg16", 1.0), *five("iaia_bl", 2.0), *controls], registrations=REGISTERED)
    assert [(c.a, bool(c.control)) for c in made.comparisons] == [("iaia_bl", False), ("protopnet", True)]
    assert made.comparisons[0].p_holm == made.comparisons[0].p and made.comparisons[1].p_holm is None
    assert row_of(made, "protopnet").rank_note == "not ranked: placebo masks"
    assert row_of(made, "iaia_bl").ranks == (1, 1) and row_of(made, "vgg16").ranks == (2, 2)


# ---- badges ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "code", "label"),
    [
        ({"facts": {"seeds_asked": 2}}, "MB002", "5 seeds"),
        ({"facts": {"reduced": ["width 0.125"]}}, "MB003", "reduced"),
        ({"facts": {"weights": "pretext"}}, "MB004", "trunk: pretext"),
        ({"facts": {"weights": "none"}}, "MB004", "trunk: random"),
        ({"requirements": {"one": 3.0}}, "MB005", "shared trunk"),
        ({"facts": {"grades": ["reduced"]}}, "MB006", "reduced data"),
        ({"facts": {"grades": ["proxy"]}}, "MB006", "proxy masks"),
        ({"facts": {"grades": ["band"]}}, "MB006", "proxy fine annotation"),
        ({"facts": {"grades": ["fewer_masks"]}}, "MB006", "fewer masks"),
        ({"facts": {"grades": ["placebo"]}}, "MB019", "placebo masks"),
        ({"facts": {"grades": ["within_class"]}}, "MB020", "patients on two sides"),
        ({"facts": {"grades": ["film"]}}, "MB020", "lesions on two sides"),
        ({"facts": {"trained_before": ["cbis_ddsm (all rows)"]}}, "MB021", "other films before"),
        ({"facts": {"opened_before": 3}}, "MB007", "opened 3x before"),
        ({"facts": {"weights": "imagenet"}}, "MB008", "ancestry unknown"),
        ({"facts": {"dirty": True}}, "MB009", "uncommitted source"),
        ({"search": {}}, "MB010", "not searched"),
        ({"facts": {"reopened": "typo in the label"}}, "MB013", "reopened"),
        ({"facts": {"altered": True}}, "MB014", "altered"),
    ],
)
def test_badges(changes: dict[str, Any], code: str, label: str) -> None:
    runs = five("vgg16", 1.0, **changes)
    asked = 2 if code == "MB002" else 5
    found = {badge.code: badge for badge in badges.badges_of(runs, asked, {}, None)}
    assert code in found and code in badges.CODES
    assert found[code].label == ("2 seeds" if code == "MB002" else label)
    clean = {badge.code for badge in badges.badges_of(five("vgg16", 1.0, facts={}), 5, {}, None)}
    assert code not in clean


def test_rows_outside_the_labels_and_missing_intervals_are_badged() -> None:
    bare = Estimate(1.0, None, None, 10, "none", "scores do not vary")
    found = {b.code: b for b in badges.badges_of(five("vgg16", 1.0), 5, {"flagged": 0.25}, bare)}
    assert found["MB011"].label == "25% outside labels"
    assert found["MB012"].meaning == "scores do not vary"


def test_a_failed_training_is_named_whatever_it_is_compared_with() -> None:
    low = Estimate(0.366, 0.078, 0.798, 300, "logit t")
    search = {"id": "s", "trials": 3, "seconds": 1.0, "best": 0.966}
    runs = [replace(run, search=search, spec={**run.spec, "track": "margin"}) for run in five("vgg16", 1.0)]
    found = {b.code: b for b in badges.badges_of(runs, 5, {}, low)}
    assert found["MB017"].label == "below chance"
    assert "saw 0.966 on validation, the test gives 0.366" in found["MB018"].meaning
    elsewhere = [
        replace(run, spec={**run.spec, "track": "malignancy"}) for run in runs
    ]  # its search was on another track
    assert "MB018" not in {b.code for b in badges.badges_of(elsewhere, 5, {}, low)}
    good = {b.code for b in badges.badges_of(runs, 5, {}, Estimate(0.95, 0.9, 0.97, 300, "logit t"))}
    assert not good & {"MB017", "MB018"}


def test_a_map_stands_beside_the_best_blind_one() -> None:
    row = row_of(make_board(), "vgg16")
    row.metrics |= {
        "activation_precision_lesion": Estimate(0.4, 0.3, 0.5, 300, "bca"),
        "mask_share_lesion": Estimate(0.27, 0.26, 0.28, 300, "bca"),
        "blind_centre_lesion": Estimate(0.99, 0.98, 1.0, 300, "bca"),
    }
    best = page.estimate_of(row, "best_blind_lesion")
    assert best is not None and (best.note, best.value) == ("centre", 0.99)
    assert "best_blind_lesion" in page.shown_metrics([row])


def badge_of(board: Board, method: str, code: str) -> str | None:
    """What the badge of that code says in the method's row; None: it has none."""
    return next((badge.meaning for badge in row_of(board, method).badges if badge.code == code), None)


def test_more_search_than_another_row_is_badged() -> None:
    """Planted: one method's budget doubled."""
    doubled = {"id": "long", "trials": 6, "seconds": 200.0}
    made = build_board([*five("vgg16", 1.0), *five("iaia_bl", 2.0, search=doubled)], registrations=REGISTERED)
    assert badge_of(made, "iaia_bl", "MB015") == "settings chosen among 6 trials, those of vgg16 among 3"
    assert badge_of(made, "vgg16", "MB015") is None


def test_another_size_than_another_row_is_badged() -> None:
    def sized(method: str, size: int) -> list[SeedRun]:
        runs = five(method, 1.0)
        return [replace(run, spec={**run.spec, "config": {"size": size}}) for run in runs]

    made = build_board([*sized("vgg16", 112), *sized("iaia_bl", 224)])
    assert badge_of(made, "vgg16", "MB015") == "size 112, in iaia_bl 224"
    assert badge_of(made, "iaia_bl", "MB015") == "size 224, in vgg16 112"


def test_a_registered_contrast_that_cannot_be_tested_is_named() -> None:
    """Planted: the contrast's runs rest on fewer test rows than the reference's."""

    def fewer(seed: int) -> Frame:
        frame = frame_of("margin", seed, 2.0)
        return frame.subset(np.arange(N) >= 10, "all")

    runs = five("iaia_bl", 2.0)
    for run in runs:
        run.load = lambda seed=run.place[0]: fewer(seed)  # type: ignore[misc]
    made = build_board([*five("vgg16", 1.0), *runs], registrations=REGISTERED)
    assert list(made.notes) == [
        "the registered contrast iaia_bl - vgg16 on margin, phantom, was not tested: the two rest on different test rows"
    ]
    assert badge_of(made, "vgg16", "MB016") is not None and badge_of(made, "iaia_bl", "MB016") is not None
    alone = build_board(five("vgg16", 1.0), registrations=REGISTERED)
    assert [note.split(": ")[1] for note in alone.notes] == ["iaia_bl has no result"]
    late = [replace(REGISTERED[0], opened_before=2)]
    seen = build_board([*five("vgg16", 1.0), *five("iaia_bl", 2.0)], registrations=late)
    assert [note.split(": ")[1] for note in seen.notes] == ["it was written after 2 openings of the test side"]
    assert not make_board().notes


def test_a_frame_that_changed_is_measured_again(tmp_path: Path) -> None:
    facts = {"seeds_asked": 1}
    first = build_board([final("vgg16", 1, 1.0, facts=facts, stamp="a")], keep=tmp_path)
    other = build_board([final("vgg16", 1, 3.0, facts=facts, stamp="b")], keep=tmp_path)
    assert row_of(first, "vgg16").metrics != row_of(other, "vgg16").metrics


# ---- from MLflow ----------------------------------------------------------------------------------------------------
def test_final_runs_are_collected_from_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.leaderboard.collect import collect
    from bench.tracking import Tracker

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = Tracker(out=tmp_path)
    made: Callable[..., str] = tracker.start
    needed = made("margin", name="pretext", kind="requirement", identity="pre", params={})
    tracker.log(needed, {"cost/machine_seconds": 7.0})
    tracker.finish(needed, "complete")
    sweep = made("margin", name="sweep", kind="sweep", identity="study", params={})
    trial = made("margin", name="trial 0", kind="trial", identity="t", params={}, parent=sweep, number=0)
    tracker.log(trial, {"cost/machine_seconds": 11.0})
    for seed in (1, 2):
        spec = {
            **final("vgg16", seed).spec,
            "config": {"width": 0.125, "weights": "pretext"},
            "requirements": {"trunk": "pre"},
        }
        tags = {
            "seeds_asked": 2,
            "sweep": sweep,
            "tracks": "margin",
            "method": "vgg16",
            "dataset": "phantom",
            "seed": seed,
            "reduced": "width 0.125; size 64",
            "grades": "synthetic",
            "ledger_entry": "e1",
        }
        run = made("margin", name=f"vgg16 {seed}", kind="final", identity=f"f{seed}", params={}, tags=tags)
        tracker.provenance(run, config=spec, hashes={"data_hash": "d"})
        tracker.log(run, {"cost/machine_seconds": 60.0})
        frame_of("margin", seed, 1.0).save(tmp_path / "frames" / "test-margin")
        tracker.artifact(run, tmp_path / "frames", "frames")
        tracker.json(run, measure_references(samples(), frame_of("margin", seed, 1.0)), "references-margin.json")
        (tmp_path / "margin.png").write_bytes(b"png")
        tracker.artifact(run, tmp_path / "margin.png", "panels")
        tracker.finish(run, "complete")
    runs = collect(tracker, page_folder=tmp_path / "leaderboard")
    made_board = build_board(runs)
    row = row_of(made_board, "vgg16")
    assert row.metrics["auroc_mean"] == over_seeds([frame_of("margin", seed, 1.0) for seed in (1, 2)])["auroc_mean"]
    assert (row.cost["machine_seconds"], row.cost["search_seconds"], row.cost["search_trials"]) == (127.0, 11.0, 1.0)
    assert {"MB002", "MB003", "MB004", "MB005", "MB006"} <= {badge.code for badge in row.badges}
    assert any(r.kind == "reference" for r in made_board.rows)
    assert all((tmp_path / "leaderboard" / ".." / p).exists() or p.startswith("../artifacts/") for p in row.pictures)
    assert len(row.pictures) == 2 and "src=" in page.render(made_board)
    # the ledger was deleted, or lists an opening that left nothing here
    assert disagreements(runs, []) == ["1 openings of test sides by runs shown here are not in this folder's ledger"]
    opened = [{"kind": "final", "id": "e1"}, {"kind": "final", "id": "e2"}]
    assert [note[:37] for note in disagreements(runs, opened)] == ["1 openings of test sides in the ledger"[:37]]
    # an artifact was lost: the run does not vanish from the board
    (tmp_path / "artifacts" / "margin" / runs[0].run_id / "artifacts" / "config.json").unlink()
    lost = [row for row in build_board(collect(tracker)).rows if row.status == "failed"]
    assert len(lost) == 1 and "no readable config.json" in lost[0].reason
