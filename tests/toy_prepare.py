"""The toy films, prepared: small, in bounds, or killed in the middle."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from data._store import PixelSpec
from data.cache import Prepared, Room, prepare
from data.inputs import Inputs, Roi, Stream
from tests import toy_films  # noqa: F401 (registers the reader)

ROI = Roi(strategy="box_scale", scale=1.5)
SPEC = PixelSpec(ROI, (16, 16))
NO_LIMIT = Room()
INPUTS = Inputs((16, 16), "margin", (Stream("train", 8),), ROI)


def toy(folder: Path, *, room: Room = NO_LIMIT, processes: int = 1, size: int = 16, skip_bad: bool = False,
        **options: object) -> Prepared:  # fmt: skip
    return prepare("toy_films", None, options, folder, roi=ROI, size=(size, size), room=room, processes=processes,
                   skip_bad=skip_bad)  # fmt: skip


def decoded(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().splitlines()]


def same(one: Prepared, other: Prepared) -> bool:
    """Whether two prepared sets hold the same bytes; the option that names a log is not the data's."""
    pd.testing.assert_frame_equal(one.table, other.table)
    arrays = [path.relative_to(one.folder) for path in sorted(one.folder.rglob("*.npy"))]
    return len(arrays) == 3 and all((one.folder / a).read_bytes() == (other.folder / a).read_bytes() for a in arrays)


def cut_off(folder: Path, killer: Path, log: Path) -> Path:
    """A build whose process was killed -9 while it decoded film 20; what it left."""
    killer.write_text("")
    in_another_process(lambda: toy(folder, killed_by=str(killer), log=str(log)))
    killer.unlink()
    [part] = folder.glob("*.part")
    return part


def in_another_process(killed: Callable[[], object]) -> None:
    pid = os.fork()
    if pid == 0:
        killed()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def wait_until(true: Callable[[], bool], deadline_s: float = 120) -> None:
    end = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
