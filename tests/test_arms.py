"""Arms of a suite: several settings of one method, or one method on several data options, in one suite and on one board."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.config import canonical
from bench.final import FinalPlan, _open_ledger, final_jobs, register
from bench.home import Home
from bench.leaderboard import page, table
from bench.leaderboard.build import build_board
from bench.leaderboard.rows import Board, Registration
from bench.metrics import difference
from bench.plan import Ready, configured
from bench.suite import Cell, Primary, cells, read_suite
from bench.tracking import Tracker
from data.cache import Prepared
from data.errors import ConfigError
from docs.ablation import main
from tests.board_samples import arm_of, five, frame_of, row_of
from tests.cli import here
from tests.toy_cells import LINEAR, toy_cell
from tests.toy_engine import Tiny

SUITE = """
name: arms
data: {exams: {train: 24, validation: 12, test: 12}, level: easy, size: 128, roi: {strategy: box_scale, scale: 1.5}}
budget: {width: 0.0625, size: 32, batch: 12, weights: none, trunk_blocks: 4}
settings: {vgg16: {head: pool_linear, norm: batch, epochs: 1, augment: {recipe: window_turns, margin: 1.3}}}
arms:
  plain: {method: vgg16}
  same: {method: vgg16, settings: {epochs: 1}}
  no_turns: {method: vgg16, settings: {augment.recipe: none}}
  placebo: {method: vgg16, data: {masks: shuffled, exams: {train: 20}, roi: {strategy: bbox}}}
search: {trials: 0}
final: {seeds: 2}
primary: {margin: {reference: vgg16, contrast: no_turns}}
cells:
  - {methods: [vgg16, plain, same, no_turns, placebo], dataset: phantom, track: margin}
"""
REGISTERED = [Registration("margin", reference="iaia_bl", contrast="no_fine")]


def read(folder: Path, text: str) -> list[Cell]:
    (folder / "s.yaml").write_text(text)
    return cells(read_suite(str(folder / "s.yaml")))


# ---- what a suite says ------------------------------------------------------------------------------------------------
def test_an_arm_lays_its_settings_and_data_over_the_suites(tmp_path: Path) -> None:
    method, plain, _, no_turns, placebo = read(tmp_path, SUITE)
    assert [cell.name for cell in (method, plain, no_turns, placebo)] == ["vgg16", "plain", "no_turns", "placebo"]
    assert {cell.method for cell in (method, plain, no_turns, placebo)} == {"vgg16"}
    config = configured(no_turns).model_dump()
    assert config["augment"]["recipe"] == "none" and config["augment"]["margin"] == 1.3 and config["epochs"] == 1
    assert placebo.options["masks"] == "shuffled" and "masks" not in method.options
    assert placebo.options["exams"] == {"train": 20, "validation": 12, "test": 12}
    assert placebo.roi == {"strategy": "bbox", "scale": 1.5}
    assert str(no_turns) == "no_turns on phantom, margin"


def test_a_name_is_in_no_hash(tiny: Tiny, tmp_path: Path) -> None:
    """Cells of suites without arms keep the identity that they had, and equal arms are one run and one sweep."""
    cell = toy_cell()
    assert "arm" not in cell.model_dump() and "arm" not in canonical(cell.model_dump())
    named = cell.model_copy(update={"arm": "other name"})
    first, second = (Ready(Home.at(tmp_path), one, tiny.prepared) for one in (cell, named))
    assert first.identity == second.identity and cell.key != named.key
    assert [job.folder for job in final_jobs(first, plan_of(first)).values()] == [
        job.folder for job in final_jobs(second, plan_of(second)).values()
    ]


def test_what_an_arm_sets_is_not_searched(tiny: Tiny, tmp_path: Path) -> None:
    suite, arm = read(tmp_path, SUITE.replace("[vgg16, plain, same, no_turns, placebo]", "[vgg16, no_turns]"))
    fixed = [Ready(Home.at(tmp_path), cell, tiny.prepared).fixed_fields() for cell in (suite, arm)]
    assert fixed[0] == fixed[1] >= {"augment.recipe", "epochs"}
    text = SUITE.replace("same: {method: vgg16, settings: {epochs: 1}}", "same: {method: vgg16, settings: {lr: 1e-3}}")
    slow = next(cell for cell in read(tmp_path, text) if cell.arm == "same")
    assert "lr" in Ready(Home.at(tmp_path), slow, tiny.prepared).fixed_fields() - fixed[0]


@pytest.mark.parametrize(
    ("part", "other", "says"),
    [
        ("same, no_turns", "sam, no_turns", r"no method or arm 'sam' \(s.yaml, cells.0.methods\); did you mean 'same'"),
        ("  plain: {", "  iaia_bl: {", r"'iaia_bl' is a method's name \(s.yaml, arms.iaia_bl\)"),
        ("plain: {method: vgg16}", "plain: {method: vgg61}", r"no method 'vgg61' \(s.yaml, arms.plain.method\)"),
        ("plain: {method: vgg16}", "plain: {}", r"the key 'arms.plain.method' is missing \(s.yaml\)"),
        ("plain: {method: vgg16}", "plain: vgg16", "arms.plain = 'vgg16' is refused"),
        ("plain: {method: vgg16}", "plain: {method: vgg16, setting: {}}", "unknown key 'arms.plain.setting'"),
        (
            "plain: {method: vgg16}",
            "plain: {method: vgg16, data: {roi: big}}",
            r"roi = 'big' .*s.yaml, arms.plain.data",
        ),
        ("  plain: {", "  'a, b': {", r"'a, b' cannot name an arm \(s.yaml, arms.a, b\)"),
        ("contrast: no_turns", "contrast: no_turn", r"no method or arm 'no_turn' \(s.yaml, primary.margin.contrast\)"),
        ("[vgg16, plain, same, no_turns, placebo]", "[vgg16, same]", "no_turns is in no cell of the track margin"),
    ],
)
def test_arms_that_cannot_be_meant(tmp_path: Path, part: str, other: str, says: str) -> None:
    assert SUITE.count(part) == 1
    (tmp_path / "s.yaml").write_text(SUITE.replace(part, other))
    with pytest.raises(ConfigError) as caught:
        read_suite(str(tmp_path / "s.yaml"))
    line = str(caught.value).replace(f"{tmp_path}/", "")
    assert re.search(says, line) and "\n" not in line, line


@pytest.mark.parametrize(
    ("part", "other", "says"),
    [
        (
            "settings: {epochs: 1}}",
            "settings: {epoch: 1}}",
            r"unknown key 'epoch' \(config of same\); did you mean 'epochs'",
        ),
        ("masks: shuffled", "masks: shuffle", r"masks = 'shuffle' is refused \(options of phantom, placebo\)"),
    ],
)
def test_settings_that_do_not_resolve_name_their_arm(tmp_path: Path, part: str, other: str, says: str) -> None:
    (tmp_path / "s.yaml").write_text(SUITE.replace(part, other))
    said = here("bench", tmp_path / "s.yaml", "--out", tmp_path / "out", "--quiet")
    assert re.search(says, said.error) and not (tmp_path / "out" / "cache").exists()


def test_a_dry_run_names_arms(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SUITE)
    found = here("bench", tmp_path / "s.yaml", "--dry-run", "--json", "--out", tmp_path).document["cells"]
    assert [cell["arm"] for cell in found] == [None, "plain", "same", "no_turns", "placebo"]
    assert "no_turns (of vgg16)" in here("bench", tmp_path / "s.yaml", "--dry-run", "--out", tmp_path).stdout


# ---- the ledger -----------------------------------------------------------------------------------------------------
def plan_of(ready: Ready, **changes: Any) -> FinalPlan:
    return FinalPlan(ready.base, seeds=2, **changes)


def other_labels(prepared: Prepared) -> Prepared:
    """The same films and sides, and something else about them, as with another stand-in for masks."""
    other = Prepared(prepared.name, prepared.folder)
    other.passport = {**prepared.passport, "data_hash": "other"}
    return other


def test_one_split_has_one_registration_and_counts_every_look(tiny: Tiny, tmp_path: Path) -> None:
    """Data of arms may differ in their hash; the films that judge are the same."""
    home = Home.at(tmp_path)
    first = Ready(home, toy_cell(), tiny.prepared)
    second = Ready(home, toy_cell(arm="b", settings={**LINEAR, "lr": 2e-3}), other_labels(tiny.prepared))
    assert first.prepared.data_hash != second.prepared.data_hash and first.split.hash == second.split.hash
    register(first, Primary(reference="vgg16", contrast="b"))
    for ready in (first, second):
        job = final_jobs(ready, plan_of(ready))[1]
        _open_ledger(ready, plan_of(ready), job, ready.cell.arm_tag)
    register(second, Primary(reference="b", contrast="vgg16"))  # after a look, and otherwise than was registered
    [registered, one, other] = home.ledger.entries()
    assert (registered["reference"], registered["opened_before"]) == ("vgg16", 0)
    assert (one["opened_before"], other["opened_before"]) == (0, 1)
    assert "arm" not in one and (other["method"], other["arm"]) == ("vgg16", "b")


# ---- the board --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def board() -> Board:
    """A method, an arm with other settings, one on other data, a placebo, and an arm that failed."""
    runs = [
        *five("vgg16", 1.0), *five("iaia_bl", 1.5), *arm_of("no_fine", 2.6), *arm_of("tenth", 1.4, data_hash="e" * 16),
        *arm_of("placebo", 1.2, facts={"grades": ["placebo"]}, options={"masks": "shuffled"}),
    ]  # fmt: skip
    cells = [
        {
            "method": "iaia_bl",
            "arm": "long",
            "dataset": "phantom",
            "track": "margin",
            "status": "failed",
            "reason": "oom",
        }
    ]
    return build_board(runs, registrations=REGISTERED, cells=cells)


def labels(board: Board) -> list[str]:
    return [row.label for row in board.rows]


def named(board: Board, name: str) -> Any:
    return next(row for row in board.rows if name in row.names)


def test_a_row_carries_its_arm_beside_its_method(board: Board) -> None:
    assert sorted(labels(board)) == ["iaia_bl", "long", "no_fine", "placebo", "tenth", "vgg16"]
    row = named(board, "no_fine")
    assert (row.method, row.full_label) == ("iaia_bl", "no_fine (of iaia_bl)")
    assert row_of(board, "vgg16").full_label == "vgg16"
    found = {tuple(row["arms"]): row["method"] for row in board.to_json()["rows"]}
    assert found == {(): "iaia_bl", **dict.fromkeys((("no_fine",), ("tenth",), ("placebo",), ("long",)), "iaia_bl")}
    assert "phantom,all,iaia_bl,no_fine,default" in table.to_csv(board)
    assert "| no_fine (of iaia_bl) |" in table.to_markdown(board)
    assert (named(board, "long").status, named(board, "long").reason) == ("failed", "oom")


def test_arms_on_the_same_test_rows_are_paired_whatever_their_data_hash(board: Board) -> None:
    [(_, rows)] = board.tables()
    assert len(rows) == len(board.rows)
    tenth = next(c for c in board.comparisons if c.a == "tenth")
    frames = [[frame_of("margin", seed, skill) for seed in range(1, 6)] for skill in (1.4, 1.5)]
    estimate, p = difference(*frames, "auroc_mean")
    assert (tenth.difference, tenth.p) == (estimate, p) and tenth.b == "iaia_bl"
    text = page.render(board)
    assert "d" * 16 in text and "e" * 16 in text and "masks shuffled" in text


def test_an_arm_may_be_the_registered_contrast(board: Board) -> None:
    planned = next(c for c in board.comparisons if c.planned)
    assert (planned.a, planned.b, planned.rejected) == ("no_fine", "iaia_bl", True)
    assert named(board, "no_fine").ranks == (1, 2) and not board.notes  # "tenth" is told apart from neither


def test_a_control_is_compared_outside_the_family_and_never_ranked(board: Board) -> None:
    row, found = named(board, "placebo"), {c.a: c for c in board.comparisons}
    assert row.ranks is None and row.rank_note == "not ranked: placebo masks"
    placebo = found.pop("placebo")
    assert placebo.p is not None and placebo.p_holm is None and not placebo.rejected
    assert placebo.difference.low is not None and "outside the family" in placebo.test
    assert len(found) == 3 and all(c.p_holm is not None for c in found.values())
    smallest = min(c.p for c in found.values() if c.p is not None)
    assert min(c.p_holm for c in found.values() if c.p_holm is not None) == pytest.approx(3 * smallest)
    assert "a control: placebo masks" in page.render(board)
    ranked = [one.ranks for one in board.rows if one.ranks]
    assert len(ranked) == 4 and max(high for _, high in ranked) == 4


def test_a_registered_control_is_shown_as_that_and_is_no_reference() -> None:
    runs = [*five("iaia_bl", 2.0), *arm_of("placebo", 1.0, facts={"grades": ["placebo"]})]
    made = build_board(runs, registrations=[replace(REGISTERED[0], contrast="placebo")])
    assert [(c.a, c.planned, c.rejected) for c in made.comparisons] == [("placebo", True, False)] and not made.notes
    turned = build_board(runs, registrations=[replace(REGISTERED[0], reference="placebo", contrast="iaia_bl")])
    assert not turned.comparisons and "placebo is a control" in turned.notes[0]


def test_two_names_of_one_run_are_one_row() -> None:
    runs = [*five("vgg16", 1.0), *arm_of("a", 1.5, facts={"arms": ("a", "b")})]
    made = build_board(runs, registrations=[replace(REGISTERED[0], reference="vgg16", contrast="b")])
    assert sorted(labels(made)) == ["a = b", "vgg16"]
    assert [c.planned for c in made.comparisons] == [True]


def test_an_arm_whose_settings_changed_is_two_rows() -> None:
    """The name stayed, the suite's file did not."""
    before, after = arm_of("a", 1.5), arm_of("a", 1.5, config={"lr": 5e-3, "arm": "a"})
    after = [replace(run, run_id="x" + run.run_id) for run in after]
    assert sorted(labels(build_board([*before, *after]))) == ["a (lr 0.001)", "a (lr 0.005)"]


# ---- a suite that runs ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def ran(attached: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A suite and its --out, run on the Ray that the tests share."""
    folder = tmp_path_factory.mktemp("arms")
    text = SUITE.replace("masks: shuffled, exams: {train: 20}, roi: {strategy: bbox}", "masks: shuffled")
    text = text.replace("[vgg16, plain, same,", "[same, plain,").replace("reference: vgg16", "reference: plain")
    (folder / "s.yaml").write_text(text)
    assert here("bench", folder / "s.yaml", "--out", folder / "runs", "--quiet").code == 0
    return folder / "s.yaml", folder / "runs"


@pytest.mark.ray
def test_equal_arms_are_one_run_under_both_names(ran: tuple[Path, Path]) -> None:
    suite, out = ran
    document = here("bench", suite, "--out", out, "--json").document
    found = {cell["arm"]: cell for cell in document["cells"]}
    assert {cell["status"] for cell in found.values()} == {"done"}
    assert found["plain"]["final"] == found["same"]["final"]
    assert len({run for cell in found.values() for run in cell["final"]}) == 6
    finals = {run.run_id: run for run in Tracker(out=out).runs(kind="final")}
    assert len(finals) == 6
    assert {finals[run].tags["arm"] for run in found["same"]["final"]} == {"same, plain"}
    run = finals[found["no_turns"]["final"][0]]
    assert (run.tags["arm"], run.tags["method"], run.name) == ("no_turns", "vgg16", "no_turns seed 1, phantom")
    entries = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert [entry.get("arm") for entry in entries if entry["kind"] == "final"] == ["same, plain", "no_turns", "placebo"]
    assert len([entry for entry in entries if entry["kind"] == "preregistration"]) == 1
    rows = here("leaderboard", "--out", out, "--json").document["rows"]
    mine = {tuple(row["arms"]): row for row in rows if row["kind"] == "method"}
    assert set(mine) == {("same", "plain"), ("no_turns",), ("placebo",)}
    assert len({row["hashes"]["rows"] for row in mine.values()}) == 1
    assert "MB019" in {badge["code"] for badge in mine[("placebo",)]["badges"]}


@pytest.mark.ray
def test_a_later_name_is_added_to_the_run(ran: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """A method that comes out as an arm did before is that run; nothing is trained again."""
    suite, out = ran
    suite.with_name("t.yaml").write_text(suite.read_text().replace("[same, plain,", "[vgg16, same, plain,"))
    found = here("bench", suite.with_name("t.yaml"), "--out", out, "--json").document["cells"]
    assert found[0]["arm"] is None and found[0]["final"] == found[1]["final"]
    assert len(Tracker(out=out).runs(kind="final")) == 6
    assert main([str(out), "--metrics", "auroc_mean", "--reference", "vgg16"]) == 0
    assert "| same = plain = vgg16 | 2 | 0." in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.long
def test_a_training_that_ends_without_a_prototype_keeps_no_other_waiting(
    ran: tuple[Path, Path], tmp_path: Path
) -> None:
    """What its pruning would leave, only a training tells: that run failed, and the suite goes on."""
    text = SUITE.replace("[vgg16, plain, same, no_turns, placebo]", "[strict, plain]")
    text = text[: text.index("primary:")] + text[text.index("cells:") :]
    net = "warm_epochs: 0, joint_epochs: 1, push_every: 1, h1_epochs: 1, topk_k: 1, coef_fine: 0"
    strict = f"  strict: {{method: protopnet, settings: {{{net}, prune: {{rule: knn, k: 6, threshold: 6}}}}}}\n"
    (tmp_path / "s.yaml").write_text(
        text.replace("  plain: {method: vgg16}\n", f"  plain: {{method: vgg16}}\n{strict}")
    )
    said = here("bench", tmp_path / "s.yaml", "--out", tmp_path / "runs", "--json")
    found = {cell["arm"]: cell for cell in said.document["cells"]}
    assert said.code == 1 and found["plain"]["status"] == "done"
    assert found["strict"]["status"] == "failed" and "pruning would leave no prototype" in found["strict"]["reason"]


@pytest.mark.ray
def test_an_arm_of_which_no_trial_ends_well_keeps_no_other_waiting(ran: tuple[Path, Path]) -> None:
    suite, out = ran
    text = (
        suite.read_text()
        .replace("search: {trials: 0}", "search: {trials: 1}")
        .replace("{augment.recipe: none}", "{lr: 1e30}")
    )
    text = text[: text.index("primary:")] + text[text.index("cells:") :].replace(
        "[same, plain, no_turns, placebo]", "[no_turns, same]"
    )
    suite.with_name("u.yaml").write_text(text)
    for _ in range(2):  # the same call again, too
        said = here("bench", suite.with_name("u.yaml"), "--out", out, "--json", "--quiet")
        assert said.code == 1, said.stderr
        assert [cell["status"] for cell in said.document["cells"]] == ["failed", "done"]
    [sweep] = [run for run in Tracker(out=out).runs(kind="sweep") if run.tags.get("arm") == "no_turns"]
    assert sweep.name == "sweep no_turns on phantom, margin"
    assert [run.tags["arm"] for run in Tracker(out=out).runs(kind="trial", parent=sweep.run_id)] == ["no_turns"]
