"""From what MLflow holds to the leaderboard's table and page."""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.home import Home
from bench.leaderboard.build import build_board
from bench.leaderboard.collect import collect
from bench.leaderboard.page import write_page
from bench.leaderboard.rows import Board, Registration
from bench.leaderboard.table import write_tables
from bench.tracking import Tracker


def read_board(home: Home, tracker: Tracker, cells: Sequence[Mapping[str, Any]] = ()) -> Board:
    """The board of every final run; cells that a suite asked for and that have no run say so."""
    return build_board(
        collect(tracker, page_folder=home.leaderboard),
        cells=cells,
        registrations=[_registration(entry) for entry in home.ledger.find(kind="preregistration")],
        keep=home.leaderboard / "measured",
        ledger=list(home.ledger.entries()),
        date=datetime.now(UTC).date().isoformat(),
        ui_command=f"python run_bench.py ui --out {home.out.name}",
    )


def write_board(home: Home, board: Board) -> Path:
    """The page, and the rows as JSON beside it."""
    home.leaderboard.mkdir(parents=True, exist_ok=True)
    page = write_page(board, home.leaderboard / "index.html")
    write_tables(board, home.leaderboard)
    temporary = home.leaderboard / f".rows.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(board.to_json(page="index.html"), indent=1))
    temporary.replace(home.leaderboard / "rows.json")
    return page


def _registration(entry: Mapping[str, Any]) -> Registration:
    keys = ("track", "reference", "contrast", "alpha", "dataset", "metric", "hash", "date")
    return Registration(
        **{key: entry[key] for key in keys}, split=entry["split_hash"], opened_before=entry.get("opened_before", 0)
    )
