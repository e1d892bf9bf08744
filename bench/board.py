"""From what MLflow holds to the leaderboard's table and page."""

import json
import os
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.config import digest
from bench.console import Talk
from bench.home import Home
from bench.leaderboard.build import build_board
from bench.leaderboard.collect import collect
from bench.leaderboard.matrix_files import files_of, numbers, write_matrix
from bench.leaderboard.page import write_page
from bench.leaderboard.rows import Board, Registration, SeedRun
from bench.leaderboard.table import write_tables
from bench.tracking import Tracker


def read_board(home: Home, tracker: Tracker, talk: Talk, cells: Sequence[Mapping[str, Any]] = ()) -> Board:
    """The board of every final run; cells that a suite asked for and that have no run say so."""
    with talk.progress("measuring trainings") as update:
        return _read(home, tracker, cells, update)


def _read(
    home: Home, tracker: Tracker, cells: Sequence[Mapping[str, Any]], update: Callable[[int, int], None]
) -> Board:
    runs = collect(tracker, page_folder=home.leaderboard)
    ledger = list(home.ledger.entries())
    board = build_board(
        runs,
        cells=cells,
        registrations=[_registration(entry) for entry in ledger if entry["kind"] == "preregistration"],
        keep=home.leaderboard / "measured",
        validation=lambda: collect(tracker, side="validation"),
        update=update,
        ledger=ledger,
        date=datetime.now(UTC).date().isoformat(),
        ui_command=f"python run_bench.py ui --out {home.out.name}",
    )
    return replace(board, notes=[*board.notes, *disagreements(runs, ledger)])


def disagreements(runs: Sequence[SeedRun], ledger: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the ledger and the record of runs do not both know: a look that was not counted, or a result that is lost."""
    opened = {str(entry["id"]) for entry in ledger if entry["kind"] == "final"}
    used = {str(run.facts["ledger_entry"]) for run in runs if run.facts.get("ledger_entry")}
    said = []
    if strange := used - opened:
        said.append(f"{len(strange)} openings of test sides by runs shown here are not in this folder's ledger")
    if lost := opened - used:
        said.append(
            f"{len(lost)} openings of test sides in the ledger have no run here that finished or failed under them"
        )
    return said


def write_board(home: Home, board: Board) -> Path:
    """The page; beside it the tables, matrices as CSV and heat maps, and the rows as JSON."""
    home.leaderboard.mkdir(parents=True, exist_ok=True)
    page = write_page(board, home.leaderboard / "index.html")
    write_tables(board, home.leaderboard)
    for matrix in board.matrices:
        write_matrix(matrix, home.leaderboard)
    temporary = home.leaderboard / f".rows.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(board.to_json(page="index.html"), indent=1))
    temporary.replace(home.leaderboard / "rows.json")
    return page


def record_matrices(home: Home, tracker: Tracker, board: Board, suite: str, settings: Container[str]) -> list[str]:
    """One run of the kind `board` per matrix that holds rows of these settings (hashes): its numbers, and what `write_board` wrote
    of it. A later call renews the run of the same suite and table. The runs' ids."""
    recorded = []
    for matrix in board.matrices:
        if not any(row.hashes.get("config") in settings for row in matrix.rows.values()):
            continue
        track, dataset, subset, split, rows = matrix.table
        place = {"suite": suite, "dataset": dataset, "subset": subset, "split_hash": split, "rows_hash": rows}
        said = {
            name: "; ".join(map(matrix.called, cells))
            for name, cells in (("chosen", matrix.chosen), ("best", matrix.best))
        }
        tags = {"suite": suite, "trainings": ", ".join(matrix.trainings), "variants": ", ".join(matrix.tests), **said}
        run = tracker.start(
            track, name=f"{suite}: {matrix.heading}", kind="board", identity=digest([suite, matrix.name]), params=place,
            tags=tags,
        )  # fmt: skip
        tracker.log(run, numbers(matrix))
        for path in files_of(matrix, home.leaderboard):
            tracker.artifact(run, path, "matrix")
        tracker.finish(run, "complete")
        recorded.append(run)
    return recorded


def _registration(entry: Mapping[str, Any]) -> Registration:
    keys = ("track", "reference", "contrast", "alpha", "dataset", "metric", "hash", "date")
    return Registration(
        **{key: entry[key] for key in keys}, split=entry["split_hash"], opened_before=entry.get("opened_before", 0)
    )
