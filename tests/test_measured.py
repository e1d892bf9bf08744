"""Rows of the board measured on all cores: the same numbers, what is kept is not read again, and what goes wrong is told."""

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench.leaderboard import measure
from bench.leaderboard.build import build_board
from bench.leaderboard.rows import SeedRun
from bench.metrics import Frame
from data.errors import DataError, MachineError
from tests.board_samples import five, row_of

METHODS = {"vgg16": 1.0, "iaia_bl": 2.0, "protopnet": 1.5}


def unread() -> Frame:
    raise DataError("a frame was read", "here", "do not")


@pytest.fixture
def runs(tmp_path: Path) -> list[SeedRun]:
    """Runs whose frames lie on the disk and cannot be read by this process."""
    found = []
    for run in (one for method, skill in METHODS.items() for one in five(method, skill)):
        assert run.load is not None
        folder = tmp_path / run.run_id
        run.load().save(folder)
        found.append(replace(run, load=unread, folder=folder))
    return found


def readable(runs: Sequence[SeedRun]) -> list[SeedRun]:
    return [replace(run, load=lambda folder=run.folder: Frame.load(folder)) for run in runs]


def test_rows_measured_elsewhere_are_those_measured_here(runs: list[SeedRun], tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    board = build_board(runs, keep=tmp_path / "kept", update=lambda done, total: told.append((done, total)))
    here = build_board(readable(runs))
    assert [row.to_json() for row in board.rows] == [row.to_json() for row in here.rows]
    assert told == [(1, 3), (2, 3), (3, 3)]
    told.clear()
    build_board(runs, keep=tmp_path / "kept", update=lambda done, total: told.append((done, total)))
    assert not told, "what is kept is not measured again"


def test_a_damaged_frame_costs_its_own_row_alone(runs: list[SeedRun], tmp_path: Path) -> None:
    [table] = (tmp_path / runs[0].run_id).rglob("predictions*")
    table.write_bytes(table.read_bytes()[:50])
    board = build_board([*readable(runs[:5]), *runs[5:]], keep=tmp_path / "kept")
    assert row_of(board, "vgg16").status == "failed" and "predictions" in row_of(board, "vgg16").reason
    assert {row_of(board, name).status for name in ("iaia_bl", "protopnet")} == {"done"}


def test_a_process_that_is_killed_is_told_in_one_line(
    runs: list[SeedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_alone", lambda folder, frames: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(MachineError, match=r"rows of the leaderboard was killed.*`leaderboard`") as caught:
        build_board(runs, keep=tmp_path / "kept")
    assert "\n" not in str(caught.value)
