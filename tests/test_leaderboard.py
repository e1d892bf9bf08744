"""The board: grouping of seeds, cells without numbers, badges, ranges of ranks, tables and the page."""

import csv
import html.parser
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.leaderboard import badges, page, table
from bench.leaderboard.build import build_board, config_hash, cost_of
from bench.leaderboard.compare import give_ranks
from bench.leaderboard.measure import ALL_MASSES, THREE_MARGINS
from bench.leaderboard.references import measure_references
from bench.leaderboard.rows import Board, Comparison, Registration, Row, SeedRun
from bench.metrics import Estimate, Frame, over_seeds
from data.tracks import TRACKS

N = 150
META = {"input": "oracle ROI", "supervision": "label"}
REGISTERED = [Registration("margin", reference="vgg16", contrast="iaia_bl", hash="abc123", date="2026-01-01")]


def samples(track: str = "margin", n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"record_id": [f"r{i}" for i in range(n)], "finding_id": [f"f{i}" for i in range(n)]})
    frame["lesion_id"] = frame["finding_id"]
    frame["patient"] = [f"phantom-{i // 2}" for i in range(n)]
    frame["laterality"], frame["view"] = "L", "CC"
    frame["margin"] = rng.integers(0, 3, n)
    frame["malignant"] = rng.integers(0, 2, n)
    frame["area_px"] = rng.lognormal(7, 0.3, n) + 800 * frame["malignant"]
    if track == "malignancy":
        frame.loc[::4, "margin"] = -1
    return frame


def frame_of(track: str, seed: int, skill: float, variants: tuple[str, ...] = ("default",), **meta: Any) -> Frame:
    """A frame whose scores tell the classes apart the better the larger `skill` is."""
    rows = samples(track)
    labels, classes = rows[TRACKS[track].column].to_numpy(), len(TRACKS[track].classes)
    built = []
    for variant in variants:
        rng = np.random.default_rng([seed, int(skill * 10), len(variant)])
        scores = rng.normal(size=(N, classes)) + skill * np.eye(classes)[labels]
        exponent = np.exp(scores)
        probabilities = exponent / exponent.sum(axis=1, keepdims=True)
        built.append(
            Frame.build(
                rows, track, scores, probabilities, side="test", seed=seed, variant=variant, meta={**META, **meta}
            )
        )
    built[0].predictions = pd.concat([f.predictions for f in built], ignore_index=True)
    return built[0]


def final(method: str, seed: int, skill: float = 1.0, track: str = "margin", **changes: Any) -> SeedRun:
    spec = {
        "method": method,
        "dataset": "phantom",
        "config": {"lr": 1e-3},
        "data_hash": "d" * 16,
        "split_hash": "s" * 16,
        "seed": seed,
        "fold": 0,
        "protocol": "holdout",
        "requirements": {"trunk": f"pretext-{seed}"},
    }
    given: dict[str, Any] = {
        "run_id": f"{method}{seed:02d}".encode().hex(),
        "track": track,
        "spec": spec,
        "state": "complete",
        "load": lambda: frame_of(track, seed, skill),
        "seconds": 60.0,
        "requirements": {f"pretext-{seed}": 30.0},
        "search": {"id": f"sweep-{method}", "trials": 3, "seconds": 100.0},
        "facts": {"seeds_asked": 5, "weights": "pretext", "reduced": ["width 0.125"], "grades": ["synthetic"]},
    }
    return SeedRun(**{**given, **changes})


def five(method: str, skill: float, **changes: Any) -> list[SeedRun]:
    return [final(method, seed, skill, **changes) for seed in range(1, 6)]


@pytest.fixture(scope="module")
def board() -> Board:
    """Three methods on margin, one failed, one not applicable, and references."""
    runs = [*five("vgg16", 1.0), *five("iaia_bl", 2.2), *five("protopnet", 1.05)]
    measured = measure_references(samples(), runs[0].load(), ceiling=0.97)  # type: ignore[misc]
    runs[0].references = measured
    broken = [final("gmic", seed) for seed in (1, 2, 3)]
    broken += [final("gmic", 4, state="failed", load=None, failure="diverged", reason="loss is NaN at step 12 <b>")]
    cells = [
        {
            "method": "kt",
            "dataset": "phantom",
            "track": "margin",
            "status": "not-applicable",
            "reason": "needs a teacher",
        }
    ]
    return build_board(
        [*runs, *broken], cells=cells, registrations=REGISTERED, date="2026-01-02",
        ledger=[{"kind": "final", "date": "2026-01-02", "method": "vgg16", "track": "margin", "identity": "0123"}],
    )  # fmt: skip


def row_of(board: Board, method: str) -> Row:
    return next(row for row in board.rows if row.method == method)


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
    assert len({row.label for row in rows}) == 2 and all("settings" in row.label for row in rows)
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


# ---- documents ------------------------------------------------------------------------------------------------------
def test_the_document_is_what_the_command_line_promises(board: Board) -> None:
    document = json.loads(json.dumps(board.to_json("leaderboard/index.html"), allow_nan=False))
    fields = {"method", "dataset", "track", "subset", "variant", "seeds", "metrics", "input", "supervision", "cost"}
    for row in document["rows"]:
        assert fields | {"status", "reason", "badges", "hashes"} <= row.keys()
        for estimate in row["metrics"].values():
            assert {"value", "low", "high", "n", "interval"} <= estimate.keys()
    for comparison in document["comparisons"]:
        assert {"a", "b", "track", "metric", "difference", "p", "p_holm", "test"} <= comparison.keys()
    assert document["page"] == "leaderboard/index.html"


def test_csv_holds_every_metric_of_every_row(board: Board) -> None:
    lines = list(csv.DictReader(io.StringIO(table.to_csv(board))))
    assert len(lines) == sum(len(row.metrics) or 1 for row in board.rows)
    one = next(line for line in lines if line["method"] == "vgg16" and line["metric"] == "auroc_mean")
    assert float(one["value"]) == row_of(board, "vgg16").metrics["auroc_mean"].value
    assert one["rank_low"] == "2" and one["seeds"] == "5"
    assert next(line for line in lines if line["method"] == "gmic")["status"] == "failed"


def test_markdown_and_latex_have_as_many_cells_as_columns(board: Board) -> None:
    markdown = [line for line in table.to_markdown(board).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in markdown}) == 1
    latex = [line for line in table.to_latex(board).splitlines() if line.endswith("\\\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in latex}) == 1
    assert "3 of 5 seeds" in table.to_markdown(board)


def test_the_terminal_table_says_what_the_page_says(board: Board) -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=220)
    table.print_tables(board, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("margin on phantom", "iaia_bl", "1-2", "failed: 3 of 5 seeds", "the registered contrast", "MB003"):
        assert expected in text


def test_files_are_written_in_one_piece(board: Board, tmp_path: Path) -> None:
    page.write_page(board, tmp_path / "leaderboard" / "index.html")
    table.write_tables(board, tmp_path / "leaderboard")
    assert sorted(path.name for path in (tmp_path / "leaderboard").iterdir()) == [
        "index.html", "leaderboard.csv", "leaderboard.md", "leaderboard.tex",
    ]  # fmt: skip


# ---- the page -------------------------------------------------------------------------------------------------------
class Reader(html.parser.HTMLParser):
    """Ids, links, sources and tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [value for name in ("href", "src") if (value := given.get(name))]
        if tag not in ("meta", "img", "br", "line", "path", "circle", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(board: Board) -> None:
    text = page.render(board)
    read = Reader(text)
    assert read.open == []
    assert len(read.ids) == len(set(read.ids))
    assert all(link.startswith("#") and link[1:] in read.ids for link in read.links)
    assert not re.search(r"https?://|@import|url\(|src=", text)
    assert "link" not in read.tags and "iframe" not in read.tags


def test_the_page_says_what_it_must(board: Board) -> None:
    text = page.render(board)
    for expected in (
        "Not for clinical use", "d" * 16, "s" * 16, "2026-01-02", "iaia_bl against vgg16", "abc123", "primary contrast",
        "3 of 5 seeds", "needs a teacher", "oracle ROI", "MB003", "no average over tracks", "run_bench.py ui",
    ):  # fmt: skip
        assert expected in text, expected
    assert "<b>" not in text, "text from data is escaped"
    assert "step 12 &lt;b&gt;" in text


def test_no_metric_stands_without_interval_and_n(board: Board) -> None:
    text = page.render(board)
    rows = re.findall(r'<td class="number" data-value="0\.\d+">(.*?)</td>', text)
    assert len(rows) >= 6
    assert all(
        re.search(r"<small>\(\d\.\d{3}–\d\.\d{3}\)</small><small>n = \d+</small>|no interval", cell) for cell in rows
    )


def test_pictures_are_linked_by_relative_path_only() -> None:
    pictures = ("../artifacts/a b.png", "/srv/secret.png", "https://elsewhere/x.png")
    text = page.render(build_board(five("vgg16", 1.0, pictures=pictures)))
    assert 'src="../artifacts/a%20b.png"' in text
    assert "secret" not in text and "elsewhere" not in text


def test_an_empty_board_says_what_to_do() -> None:
    assert "There is no final result yet" in page.render(build_board([]))


def test_a_page_that_cannot_be_written_is_one_line(board: Board, tmp_path: Path) -> None:
    from data.errors import MachineError

    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot write"):
        page.write_page(board, tmp_path / "file" / "index.html")


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
        tags = {"seeds_asked": 2, "sweep": sweep, "tracks": "margin"}
        run = made("margin", name=f"vgg16 {seed}", kind="final", identity=f"f{seed}", params={}, tags=tags)
        tracker.provenance(run, config=spec, hashes={"data_hash": "d"})
        tracker.log(run, {"cost/machine_seconds": 60.0})
        frame_of("margin", seed, 1.0).save(tmp_path / "frames" / "test-margin")
        tracker.artifact(run, tmp_path / "frames", "frames")
        tracker.json(run, measure_references(samples(), frame_of("margin", seed, 1.0)), "references-margin.json")
        (tmp_path / "case.png").write_bytes(b"png")
        tracker.artifact(run, tmp_path / "case.png", "panels")
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
