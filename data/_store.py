"""Where prepared pixels lie on disk: arrays that are written row by row and read row by row."""

import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from data._folder import ARRAY, damaged, read_errors, require_space, use
from data.inputs import Roi

VERSION = 4  # of the cache's layout and of what decides its pixels: bump it and everything is prepared afresh
ARRAYS: dict[str, type[np.generic]] = {"image": np.uint16, "mask": np.uint8, "fine": np.uint8}


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
        roi = self.roi.model_dump(exclude=self.roi.unused)
        return hash_of({"version": VERSION, "roi": roi, "size": self.size, "margin": self.margin, "unit": self.unit})[
            :16
        ]


def hash_of(value: Any) -> str:
    """sha256 of a plain value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


class RowSum(NamedTuple):
    """What was written into a row of an array file."""

    array: str  # name of the file without .npy
    row: int
    crc: int  # CRC-32 of its bytes


def create_rows(path: Path, rows: int, size: tuple[int, int], dtype: type[np.generic]) -> None:
    """An empty .npy file for (rows, H, W), sparse where the file system allows it."""
    with path.open("wb") as file:
        file.write(_header_of(rows, size, dtype))
        file.truncate(file.tell() + rows * size[0] * size[1] * np.dtype(dtype).itemsize)


def has_rows(path: Path, rows: int, size: tuple[int, int], dtype: type[np.generic]) -> bool:
    """Whether there is such a file as `create_rows` makes, whatever is in its rows."""
    header = _header_of(rows, size, dtype)
    try:
        with path.open("rb") as file:
            whole = len(header) + rows * size[0] * size[1] * np.dtype(dtype).itemsize
            return file.read(len(header)) == header and path.stat().st_size == whole
    except FileNotFoundError:
        return False


def _header_of(rows: int, size: tuple[int, int], dtype: type[np.generic]) -> bytes:
    text = io.BytesIO()
    npy.write_array_header_1_0(text, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (rows, *size)})
    return text.getvalue()


def array_bytes(spec: PixelSpec, counts: dict[str, int]) -> int:
    """What the arrays of a pixel cache take on the disk."""
    height, width = spec.cut_size
    return sum(counts[name] * height * width * np.dtype(dtype).itemsize for name, dtype in ARRAYS.items())


def create_arrays(folder: Path, spec: PixelSpec, counts: dict[str, int]) -> None:
    """The array files of a pixel cache, empty; one that is there already is kept if it has the same form.

    Raises MachineError if the disk cannot hold them.
    """
    missing = [
        name for name in ARRAYS if not has_rows(folder / f"{name}.npy", counts[name], spec.cut_size, ARRAYS[name])
    ]
    there = sum((folder / f"{name}.npy").stat().st_blocks * 512 for name in ARRAYS if name not in missing)
    require_space(folder, max(0, array_bytes(spec, counts) - there))
    for name in missing:
        create_rows(folder / f"{name}.npy", counts[name], spec.cut_size, ARRAYS[name])


def write_rows(path: Path, rows: Sequence[tuple[int, np.ndarray]]) -> list[RowSum]:
    """Write rows of an array file; not through a memory map, where a full disk kills the process instead of raising."""
    sums: list[RowSum] = []
    if not rows:
        return sums
    with path.open("r+b") as file:
        offset, shape, dtype = _header(path)
        row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
        for row, pixels in rows:
            data = np.ascontiguousarray(pixels, dtype=dtype).tobytes()
            if len(data) != row_bytes or not 0 <= row < shape[0]:
                raise ValueError(f"row {row} of {len(data)} bytes does not fit {path.name} of shape {shape}")
            sums.append(RowSum(path.stem, row, zlib.crc32(data)))
            while data:
                written = os.pwrite(file.fileno(), data, offset + (row + 1) * row_bytes - len(data))
                data = data[written:]
    return sums


def changed_rows(folder: Path, sums: Iterable[RowSum]) -> set[RowSum]:
    """Those rows of the folder's arrays that are not as they were written. An array that is lost has none left."""
    changed: set[RowSum] = set()
    for array, of_array in groupby(sorted(sums), lambda one: one.array):
        path = folder / f"{array}{ARRAY}"
        if not path.is_file():
            changed.update(of_array)
            continue
        offset, shape, dtype = _header(path)
        row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
        with path.open("rb") as file:
            for one in of_array:
                if zlib.crc32(os.pread(file.fileno(), row_bytes, offset + one.row * row_bytes)) != one.crc:
                    changed.add(one)
    return changed


def _header(path: Path) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    with read_errors(path), path.open("rb") as file:
        npy.read_magic(file)
        shape, _, dtype = npy.read_array_header_1_0(file)
        return file.tell(), shape, dtype


class Rows:
    """Some rows of an array file, memory-mapped, by position. Only these rows are mapped: no other can be reached.

    A row number of -1 stands for "none": its position gives zeros. Pickles as a path and row numbers. The file's folder
    is not removed meanwhile to make room (data/_room.py).
    """

    def __init__(self, path: Path, rows: Sequence[int] | np.ndarray) -> None:
        self._path = path
        self._rows = np.asarray(rows, dtype=np.int64)
        self._use = use(path.parent)
        self._views = self._mapped()

    def _mapped(self) -> list[np.ndarray]:
        offset, shape, dtype = _header(self._path)
        row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
        if self._path.stat().st_size < offset + shape[0] * row_bytes:
            raise damaged(self._path)
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
        self._use = use(self._path.parent)
        self._views = self._mapped()


class Joined(Rows):
    """The rows of several files, one file after another; `order`: positions in that row of rows."""

    def __init__(self, parts: Sequence[Rows], order: np.ndarray | None = None) -> None:
        self._parts = tuple(parts)
        self._order = np.arange(sum(map(len, parts))) if order is None else order
        views = [part[i] for part in parts for i in range(len(part))]
        self._views = [views[i] for i in self._order.tolist()]

    def take(self, positions: Sequence[int] | np.ndarray) -> "Joined":
        return Joined(self._parts, self._order[np.asarray(positions, dtype=np.int64)])

    def __getstate__(self) -> dict[str, Any]:
        return {"_parts": self._parts, "_order": self._order}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_parts"], state["_order"])  # type: ignore[misc]
