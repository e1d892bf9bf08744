"""The board as a table: for a terminal (rich), as CSV in long form, as Markdown and as LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.leaderboard.matrix import words
from bench.leaderboard.page import (
    BLIND,
    difference_text,
    duration,
    estimate_of,
    p_text,
    shown_metrics,
    write_whole,
)
from bench.leaderboard.rows import Board, Row
from bench.leaderboard.titles import metric_title
from bench.metrics import Estimate

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

CSV_COLUMNS = (
    *("track", "dataset", "subset", "method", "arm", "variant", "kind", "status", "reason"),
    *("metric", "value", "low", "high"),
    *(
        "n",
        "patients",
        "interval",
        "note",
        "seeds",
        "rank_low",
        "rank_high",
        "input",
        "supervision",
        "machine_seconds",
        "search_seconds",
    ),
    *("badges", "data_hash", "split_hash", "rows_hash", "config_hash", "run_ids"),
)


def write_tables(board: Board, folder: Path) -> list[Path]:
    """leaderboard.csv, .md and .tex in `folder`, each in one piece."""
    made = {"csv": to_csv(board), "md": to_markdown(board), "tex": to_latex(board)}
    return [write_whole(folder / f"leaderboard.{suffix}", text) for suffix, text in made.items()]


def print_tables(board: Board, console: Console) -> None:
    """A table per track, data set and view on the console; comparisons and what the badges say below each.

    A value is never broken: columns that do not fit are left out from the right, and named.
    """
    if not board.rows:
        console.print(
            "There is no final result yet: `final` makes one, `bench smoke` some. Runs of `train` and `sweep` are in `ui`.",
            markup=False,
        )
    for _, rows in board.tables():
        names = head(rows)
        shown, dropped = list(names), []
        for name in _least_first(names):
            if (
                _table(board.heading(rows), rows, names, shown).__rich_measure__(console, console.options).minimum
                <= console.width
            ):
                break
            shown.remove(name)
            dropped.append(name)
        console.print(_table(board.heading(rows), rows, names, shown))
        if dropped:
            left = ", ".join(name for name in names if name in dropped)
            console.print(f"  not shown at this width: {left}; the page has them", markup=False)
        failed = [f"{row.label}: {row.status.replace('-', ' ')}: {row.reason}" for row in rows if row.status != "done"]
        for line in [*failed, *_matrix_lines(board, rows), *_comparison_lines(board, rows), *_badge_lines(rows)]:
            console.print(f"  {line}", markup=False)
        console.print()
    for note in board.notes:
        console.print(f"Note: {note}", markup=False)


def _least_first(names: Sequence[str]) -> list[str]:
    """Columns in the order in which a narrow console goes without them; method and primary metric always stay."""
    last = [name for name in ("rank", "seeds", "n") if name in names]
    others = [name for name in names[3:] if name not in last]
    return [*reversed(others), *reversed(last)]


def _table(title: str, rows: Sequence[Row], names: Sequence[str], shown: Sequence[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    texts = [dict(zip(names, cells(row, rows), strict=True)) for row in rows]
    for i, row in enumerate(rows):
        if row.status != "done":  # its reason stands below
            texts[i] = dict.fromkeys(names, "") | {names[0]: row.full_label, names[2]: row.status.replace("-", " ")}
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
    for name in shown:  # words may break, a number may not
        wraps = name in (names[0], "input", "supervision")
        parts = [part for text in texts for part in (text[name].split() if wraps else [text[name]])]
        table.add_column(name, no_wrap=not wraps, min_width=max(map(len, [name, *parts])))
    for i, row in enumerate(rows):
        if i and row.kind != rows[i - 1].kind:
            table.add_section()
        table.add_row(*(Text(texts[i][name]) for name in shown), style="dim" if row.kind == "reference" else "")
    return table


def head(rows: Sequence[Row]) -> list[str]:
    return [
        "method",
        "rank",
        *(metric_title(m) for m in shown_metrics(rows)),
        "n",
        "seeds",
        "input",
        "supervision",
        "cost",
    ]


def cells(row: Row, rows: Sequence[Row]) -> list[str]:
    """The row as text, in the columns of `head`. A row without numbers gives its status and reason in their place."""
    metrics = shown_metrics(rows)
    if row.status != "done":
        return [row.full_label, "", f"{row.status.replace('-', ' ')}: {row.reason}", *[""] * (len(metrics) + 4)]
    first = row.metrics.get(metrics[0])
    ranks = f"{row.ranks[0]}-{row.ranks[1]}" if row.ranks else "-"
    values = [_text(row, name, first) for name in metrics]
    seeds = str(row.seeds_asked) if row.kind == "method" else "-"
    cost = duration(row.cost["machine_seconds"]) if "machine_seconds" in row.cost else "-"
    return [
        row.full_label,
        ranks,
        *values,
        counted(first.n, row) if first else "-",
        seeds,
        row.input,
        row.supervision,
        cost,
    ]


def _text(row: Row, name: str, first: Estimate | None) -> str:
    estimate = estimate_of(row, name)
    named = estimate is not None and estimate.note and name in BLIND.values()
    blind = f"{estimate.note} " if estimate is not None and named else ""
    return blind + short(estimate, first)


def counted(n: int, row: Row) -> str:
    """ "300 of 150 patients": rows, and whom they stem from. On whole films "200; 150 patients": lesions, and all of the test side."""
    joined = "; " if row.unit == "image" else " of "
    return f"{n}{joined}{row.patients} patients" if row.patients else str(n)


def short(estimate: Estimate | None, beside: Estimate | None = None) -> str:
    """ "0.831 (0.780-0.871)", with its own n where that differs from the row's."""
    if estimate is None or estimate.value is None:
        return "-"
    bounds = "no interval"
    if estimate.low is not None and estimate.high is not None:
        bounds = f"{estimate.low:.3f}-{estimate.high:.3f}"
    n = f"; n={estimate.n}" if beside is not None and estimate.n != beside.n else ""
    return f"{estimate.value:.3f} ({bounds}{n})"


def to_csv(board: Board) -> str:
    """One line per row and metric; a row without metrics has one line with its status and reason."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for _, rows in board.tables():
        for row in rows:
            for name, estimate in row.metrics.items() or (("", None),):
                writer.writerow({**_facts(row), **_numbers(name, estimate)})
    return stream.getvalue()


def to_markdown(board: Board) -> str:
    parts = ["Not for clinical use. Value (95 % interval); n: rows the value rests on."]
    for _, rows in board.tables():
        names = head(rows)
        lines = [f"### {board.heading(rows)}", "", pipe(names), pipe(["---"] * len(names))]
        lines += [pipe(cells(row, rows)) for row in rows]
        said = [*_matrix_lines(board, rows), *_comparison_lines(board, rows), *_badge_lines(rows)]
        lines += ["", *(f"- {line}" for line in said)]
        parts.append("\n".join(lines).rstrip())
    parts += [f"Note: {note}" for note in board.notes]
    return "\n\n".join(parts) + "\n"


def to_latex(board: Board) -> str:
    """Tables for a document that loads booktabs."""
    parts = ["% Not for clinical use. Needs \\usepackage{booktabs}."]
    for _, rows in board.tables():
        names = head(rows)
        lines = ["\\begin{table}", f"\\caption{{{_tex(board.heading(rows))}. Value (95\\,\\% interval).}}"]
        lines += ["\\begin{tabular}{" + "l" * len(names) + "}", "\\toprule", _row_of_tex(names), "\\midrule"]
        for i, row in enumerate(rows):
            if i and row.kind != rows[i - 1].kind:
                lines.append("\\midrule")
            lines.append(_row_of_tex(cells(row, rows)))
        parts.append("\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"]))
    return "\n\n".join(parts) + "\n"


def _facts(row: Row) -> dict[str, Any]:
    return {
        "track": row.track,
        "dataset": row.dataset,
        "subset": row.subset,
        "method": row.method,
        "arm": ", ".join(row.arms),
        "variant": row.variant,
        "kind": row.kind,
        "status": row.status,
        "reason": row.reason,
        "patients": row.patients or "",
        "seeds": row.seeds_asked if row.kind == "method" else "",
        "rank_low": row.ranks[0] if row.ranks else "",
        "rank_high": row.ranks[1] if row.ranks else "",
        "input": row.input,
        "supervision": row.supervision,
        "machine_seconds": row.cost.get("machine_seconds"),
        "search_seconds": row.cost.get("search_seconds"),
        "badges": "; ".join(f"{badge.code} {badge.label}" for badge in row.badges),
        **{f"{name}_hash": row.hashes.get(name, "") for name in ("data", "split", "rows", "config")},
        "run_ids": " ".join(row.seeds),
    }


def _numbers(name: str, estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {"metric": name}
    facts = estimate.to_json()
    return {"metric": name, "note": estimate.note, **{k: facts[k] for k in ("value", "low", "high", "n", "interval")}}


def _matrix_lines(board: Board, rows: Sequence[Row]) -> list[str]:
    tables = {row.table for row in rows}
    return [line for matrix in board.matrices if matrix.table in tables for line in words(matrix)]


def _comparison_lines(board: Board, rows: Sequence[Row]) -> list[str]:
    keys = {row.key for row in rows}
    return [
        f"{c.a} - {c.b}: {metric_title(c.metric)} {difference_text(c.difference).replace('−', '-')}, "
        f"{'no test' if c.p is None else f'p {p_text(c.p)}, Holm {p_text(c.p_holm)}'}"
        f"{', the same trainings' if c.paired_seeds else ''}"
        f"{f', outside the family: {c.asks}' if c.asks else ''}"
        f"{f', a control outside the family: {c.control}' if c.control else ''}"
        f"{', the registered contrast' if c.planned else ''}"
        for c in board.comparisons
        if c.a_row in keys
    ]


def _badge_lines(rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows:
        if row.badges:
            lines.append(f"{row.label}: {', '.join(f'{badge.label} ({badge.code})' for badge in row.badges)}")
    return lines


def pipe(values: Sequence[str]) -> str:
    return "| " + " | ".join(value.replace("|", "\\|").replace("\n", " ") for value in values) + " |"


def _tex(text: str) -> str:
    escaped = text.replace("\\", "\\textbackslash{}")
    for character in "&%$#_{}":
        if character not in "{}":
            escaped = escaped.replace(character, f"\\{character}")
    return escaped


def _row_of_tex(values: Sequence[str]) -> str:
    return " & ".join(_tex(value) for value in values) + " \\\\"
