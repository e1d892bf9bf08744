"""Files of a frame: parquet and npz without pickled objects, and frame.json, written last, that lists them."""

import contextlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.errors import DataError, MachineError

FORMAT = 1
MARKER = "frame.json"
AGAIN = "the same `train` or `final` makes it again from the run's folder in checkpoints/"


def write_frame(
    folder: Path,
    meta: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame | None],
    arrays: Mapping[str, Mapping[str, np.ndarray] | None],
) -> Path:
    """Write tables as <name>.parquet, arrays as <name>.npz, then the marker with meta and each file's size."""
    sizes: dict[str, int] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).unlink(missing_ok=True)
        for name, table in tables.items():
            if table is not None:
                sizes[f"{name}.parquet"] = _put_table(folder / f"{name}.parquet", table)
        for name, group in arrays.items():
            if group is not None:
                sizes[f"{name}.npz"] = _put_arrays(folder / f"{name}.npz", group)
        text = json.dumps({"format": FORMAT, "meta": dict(meta), "files": sizes}, indent=1)
        temporary = folder / f".{MARKER}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / MARKER)
    except OSError as error:
        raise MachineError(
            f"cannot write the frame: {error.strerror}", folder.name, "free space or choose another --out"
        ) from error
    return folder


def read_marker(folder: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Meta, and the size of each file. Raises DataError for a marker that is missing or no frame's."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        files, meta, form = dict(marker["files"]), dict(marker["meta"]), int(marker["format"])
    except FileNotFoundError as error:
        raise DataError("no finished frame", f"{folder.name}/{MARKER}", AGAIN) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("the frame's marker cannot be read", f"{folder.name}/{MARKER}", AGAIN) from error
    if form != FORMAT or "predictions.parquet" not in files:
        raise DataError(f"a frame of format {form}, not {FORMAT}", f"{folder.name}/{MARKER}", AGAIN)
    return meta, files


def read_frame(folder: Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame], dict[str, dict[str, np.ndarray]]]:
    """Meta, tables and arrays by name. Raises DataError for a missing marker and for each file that is not whole."""
    meta, files = read_marker(folder)
    tables: dict[str, pd.DataFrame] = {}
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for name, size in files.items():
        path, where = folder / name, f"{folder.name}/{name}"
        if not path.is_file():
            raise DataError("a file of the frame is missing", where, AGAIN)
        if path.stat().st_size != size:
            raise DataError(f"a file of the frame has {path.stat().st_size} bytes, not {size}", where, AGAIN)
        try:
            if path.suffix == ".parquet":
                tables[path.stem] = pd.read_parquet(path)
            else:
                with np.load(path, allow_pickle=False) as archive:
                    arrays[path.stem] = {key: archive[key] for key in archive.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError("a file of the frame cannot be read", where, AGAIN) from error
    return meta, tables, arrays


def _put_table(path: Path, table: pd.DataFrame) -> int:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with _removed_on_failure(temporary):
        table.to_parquet(temporary, index=False)
        temporary.replace(path)
    return path.stat().st_size


def _put_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> int:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    objects = [key for key, value in arrays.items() if value.dtype == object]
    if objects:
        raise DataError(f"{objects[0]} is an array of objects", path.name, "frames hold numbers and fixed-width text")
    with _removed_on_failure(temporary):
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
    return path.stat().st_size


@contextlib.contextmanager
def _removed_on_failure(temporary: Path) -> Iterator[None]:
    try:
        yield
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
