"""Where prepared pixels lie on disk: arrays that are written row by row and read row by row, and folders made at once.

A folder is built under a temporary name, gets its DONE marker last and is then renamed, all under a lock: whoever is
killed in the middle leaves nothing that a later reader takes for finished work.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.lib import format as npy

from data.errors import DataError, MachineError
from data.inputs import Roi

VERSION = 2  # of the cache's layout and of what decides its pixels: bump it and everything is prepared afresh
DONE = "DONE"
_ROOM, _ALLOW = "make room or choose another --out", "allow it or choose another --out"
_FILE = ("a file stands where a folder is needed", "move that file away or choose another --out")
_DISK_ERRORS = {  # what happened, and what to do about it
    errno.ENOSPC: ("the disk is full", _ROOM),
    errno.EDQUOT: ("the disk quota is used up", _ROOM),
    errno.EFBIG: ("the file would be larger than allowed", _ALLOW),
    errno.EACCES: ("no permission to write", _ALLOW),
    errno.EPERM: ("no permission to write", _ALLOW),
    errno.EROFS: ("the file system is read-only", "choose another --out"),
    errno.ENOTDIR: _FILE,
    errno.EEXIST: _FILE,
    errno.EIO: ("the disk cannot be written", "check the disk or choose another --out"),
}


@dataclass(frozen=True)
class PixelSpec:
    """What decides the cached pixels: the region rule, the input's size, how much larger the cut is, and the unit."""

    roi: Roi
    size: tuple[int, int]  # H, W of the input
    margin: float = 1.0
    unit: str = "finding"  # finding: one row per finding; image: one row per record, the whole film

    @property
    def cut_size(self) -> tuple[int, int]:
        """H, W of the cached cut."""
        return round(self.size[0] * self.margin), round(self.size[1] * self.margin)

    @property
    def key(self) -> str:
        """Name of the folder: a hash of the settings that matter under this strategy."""
        unused = {"min_side": self.roi.strategy != "max224", "scale": self.roi.strategy != "box_scale"}
        roi = self.roi.model_dump(exclude={name for name, drop in unused.items() if drop})
        return hash_of({"version": VERSION, "roi": roi, "size": self.size, "margin": self.margin, "unit": self.unit})[
            :16
        ]


def hash_of(value: Any) -> str:
    """sha256 of a plain value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns what a full or unwritable disk raises into one line that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        what, do = _DISK_ERRORS[error.errno]
        raise MachineError(f"cannot write: {what}", str(folder), do) from error


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turns what a lost or damaged file of finished work raises into one line that names it."""
    try:
        yield
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> DataError:
    # relative to the cache: <data set>-<key>/FILE or <data set>-<key>/pixels/<key>/FILE
    parts = path.parts[-4:] if path.parent.parent.name == "pixels" else path.parts[-2:]
    return DataError(
        "a file of the prepared data is damaged or missing",
        "/".join(parts),
        f"delete the folder {'/'.join(parts[:-1])} of the cache (OUT/cache) and run again",
    )


def is_done(folder: Path) -> bool:
    return (folder / DONE).is_file()


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """The finished `folder`, built by `build(temporary folder)` unless it exists. Several processes may ask at once."""
    if is_done(folder):
        return folder
    with disk_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if is_done(folder):  # another process was faster
                return folder
            part = folder.with_name(f"{folder.name}.part")
            for leftover in (part, folder):  # of a process that was killed: the lock says that none is at work here
                if leftover.exists():
                    shutil.rmtree(leftover)
            part.mkdir()
            try:
                build(part)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
            (part / DONE).write_text("", encoding="utf-8")
            part.rename(folder)
    return folder


def require_space(folder: Path, n_bytes: int) -> None:
    """Raises MachineError if the disk cannot hold so much more."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise MachineError(
            f"preparing needs {n_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            str(folder),
            "make room or choose another --out",
        )


def create_rows(path: Path, rows: int, size: tuple[int, int], dtype: type[np.generic]) -> None:
    """An empty .npy file for (rows, H, W), sparse where the file system allows it."""
    with path.open("wb") as file:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (rows, *size)}
        npy.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * size[0] * size[1] * np.dtype(dtype).itemsize)


def write_rows(path: Path, rows: Sequence[tuple[int, np.ndarray]]) -> None:
    """Write rows of an array file; not through a memory map, where a full disk kills the process instead of raising."""
    if not rows:
        return
    with path.open("r+b") as file:
        offset, shape, dtype = _header(path)
        row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
        for row, pixels in rows:
            data = np.ascontiguousarray(pixels, dtype=dtype).tobytes()
            if len(data) != row_bytes or not 0 <= row < shape[0]:
                raise ValueError(f"row {row} of {len(data)} bytes does not fit {path.name} of shape {shape}")
            while data:
                written = os.pwrite(file.fileno(), data, offset + (row + 1) * row_bytes - len(data))
                data = data[written:]


def _header(path: Path) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    with read_errors(path), path.open("rb") as file:
        npy.read_magic(file)
        shape, _, dtype = npy.read_array_header_1_0(file)
        return file.tell(), shape, dtype


class Rows:
    """Some rows of an array file, memory-mapped, by position. Only these rows are mapped: no other can be reached.

    A row number of -1 stands for "none": its position gives zeros. Pickles as a path and row numbers.
    """

    def __init__(self, path: Path, rows: Sequence[int] | np.ndarray) -> None:
        self._path = path
        self._rows = np.asarray(rows, dtype=np.int64)
        self._views = self._mapped()

    def _mapped(self) -> list[np.ndarray]:
        offset, shape, dtype = _header(self._path)
        row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
        if self._path.stat().st_size < offset + shape[0] * row_bytes:
            raise _damaged(self._path)
        views: dict[int, np.ndarray] = {-1: np.zeros(shape[1:], dtype)}
        views[-1].flags.writeable = False
        wanted = np.unique(self._rows[self._rows >= 0])
        for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1):
            if len(run):
                start = offset + int(run[0]) * row_bytes
                mapped = np.memmap(self._path, dtype, "r", offset=start, shape=(len(run), *shape[1:]))
                views.update(zip(run.tolist(), np.asarray(mapped), strict=True))
        return [views[row] for row in self._rows.tolist()]

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, position: int) -> np.ndarray:
        return self._views[position]

    def take(self, positions: Sequence[int] | np.ndarray) -> "Rows":
        """The rows at these positions."""
        return Rows(self._path, self._rows[np.asarray(positions, dtype=np.int64)])

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_rows": self._rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._views = self._mapped()
