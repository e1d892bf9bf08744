"""The board as JSON, tables and a page that stands alone."""

import csv
import html.parser
import io
import json
import re
from pathlib import Path

import pytest

from bench.leaderboard import page, table
from bench.leaderboard.build import build_board
from bench.leaderboard.rows import Board
from bench.metrics import compute
from data.errors import MachineError
from tests.board_samples import five, frame_of, make_board, row_of


@pytest.fixture(scope="module")
def board() -> Board:
    return make_board()


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
    assert {row["passport"] for row in document["rows"] if row["status"] == "done"} == {
        "phantom (synthetic); 40 films; nothing left out"
    }


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


@pytest.mark.parametrize("width", [60, 80, 100, 140, 240])
def test_a_narrow_terminal_breaks_no_number(board: Board, width: int) -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, soft_wrap=True)
    table.print_tables(board, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for row in board.rows:
        if row.status == "done":
            assert table.short(row.metrics["auroc_mean"]) in text, row.label
    assert all(len(line) <= width for line in text.splitlines() if "│" in line)
    assert "3 of 5 seeds" in text
    assert ("not shown at this width" in text) == (width < 200)


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
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

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
        re.search(r"<small>\(−?\d\.\d{3}–\d\.\d{3}\)</small><small>n = \d+</small>|no interval", cell) for cell in rows
    )


def test_each_training_alone_is_said_and_the_worst_stands_in_the_table() -> None:
    board = build_board(five("vgg16", 1.0))
    [row] = [row for row in board.rows if row.kind == "method"]
    alone = {seed: compute(frame_of("margin", seed, 1.0), ["auroc_mean"])["auroc_mean"] for seed in range(1, 6)}
    assert row.each == alone
    assert sum(one.value or 0.0 for one in alone.values()) / 5 == pytest.approx(row.metrics["auroc_mean"].value)
    text, worst = page.render(board), min(one.value or 0.0 for one in alone.values())
    assert re.search(rf"<small>lowest {worst:.3f}</small><small>\(\d\.\d+–\d\.\d+\)</small>", text)
    assert all(f"seed {seed}: {one.value:.3f} (" in text for seed, one in alone.items())


def test_pictures_are_linked_by_relative_path_only() -> None:
    pictures = ("../artifacts/a b.png", "/srv/secret.png", "https://elsewhere/x.png")
    text = page.render(build_board(five("vgg16", 1.0, pictures=pictures)))
    assert 'src="../artifacts/a%20b.png"' in text
    assert "secret" not in text and "elsewhere" not in text


def test_a_row_shows_the_plots_of_its_own_map_alone() -> None:
    plots = ("../a/plots/margin/roc.svg", "../a/plots/margin/other/roc.svg")
    runs = five("vgg16", 1.0, pictures=("../a/panels/margin.png", *plots))
    for run in runs:
        seed = run.place[0]
        run.load = lambda seed=seed: frame_of("margin", seed, 1.0, ("first", "other"))  # type: ignore[misc]
    shown = {row.variant: row.pictures for row in build_board(runs).rows if row.kind == "method"}
    assert shown == {"first": ("../a/panels/margin.png", plots[0]), "other": ("../a/panels/margin.png", plots[1])}


def test_a_page_of_prototypes_is_linked_and_not_drawn_as_a_picture() -> None:
    text = page.render(build_board(five("iaia_bl", 1.0, pictures=("../a/margin.png", "../a/prototypes.html"))))
    assert '<a href="../a/prototypes.html">Page of its prototypes</a>' in text
    assert 'src="../a/prototypes.html"' not in text


def test_an_empty_board_says_what_to_do() -> None:
    assert "There is no final result yet" in page.render(build_board([]))


def test_a_page_that_cannot_be_written_is_one_line(board: Board, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot write"):
        page.write_page(board, tmp_path / "file" / "index.html")
