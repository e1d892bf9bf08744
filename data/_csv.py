"""A CSV as people save it, row by row, with what can be wrong with the file as a whole told in one line."""

import csv
import difflib
import io
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path

from data.errors import DataError


class Refusal(Exception):
    """Why one row, or its files, cannot be used; the reader adds the file and the row."""

    def __init__(self, message: str, reason: str, do: str) -> None:
        super().__init__(message)
        self.message, self.reason, self.do = message, reason, do


def read_cells(
    path: Path,
    file: str,
    columns: Mapping[str, tuple[str, ...]],
    optional: Container[str] = (),
    delimiter: str = ",",
    unread: Callable[[str], None] | None = None,
) -> list[tuple[int, dict[str, str] | None]]:
    """The rows below the header, numbered from 1, as dictionaries with the keys of `columns`, blanks around values removed;
    None where a row is ragged.

    columns: key -> names that its column may have. An optional key without a column is left out; other columns are not
    read (`unread` hears their names), but one whose name is nearly that of an optional one is refused: its values would be missed without a word.
    Rows may end in LF or CR LF, and a value in quotes may hold a line end. `N/A` stays text. Raises DataError where
    the file cannot be read as a whole.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the CSV: {error.strerror}", file, "check the file and its permissions") from error
    try:
        reader = csv.reader(io.StringIO(text.decode("utf-8-sig"), newline=""), delimiter=delimiter, strict=True)
        lines = [line for line in reader if line]
    except UnicodeDecodeError as error:
        raise DataError(
            "the CSV is not UTF-8 text", _row_at(text, error.start, file, delimiter), "save it as UTF-8"
        ) from error
    except csv.Error as error:
        where = f"{file}, line {reader.line_num}"
        raise DataError(f"the CSV is damaged: {error}", where, "download it again") from error
    if (nul := text.find(b"\0")) >= 0:
        raise DataError(
            "the CSV holds NUL bytes", _row_at(text, nul, file, delimiter), "download it again, or save it as UTF-8"
        )
    if not lines:
        raise DataError("the CSV is empty", file, "download it again")
    header = [name.strip() for name in lines[0]]
    for names in columns.values():
        if len(same := [name for name in header if name in names]) > 1:
            known = f"{len(same)} columns for one thing: {', '.join(map(repr, same))}"
            raise DataError(known, f"{file}, header", "leave one of them")
    at = {key: next((header.index(name) for name in names if name in header), None) for key, names in columns.items()}
    missing = [columns[key][0] for key, position in at.items() if position is None and key not in optional]
    if missing:
        known = f"no column {', '.join(repr(name) for name in missing)}"
        raise DataError(known, file, f"download it again, or put the column back (separated by {delimiter!r})")
    known_names = [name for names in columns.values() for name in names]
    for name in header:
        near = difflib.get_close_matches(name.lower(), known_names, n=1, cutoff=0.8) if name not in known_names else []
        if near and any(near[0] in columns[key] for key in columns if key in optional and at[key] is None):
            raise DataError(f"column {name!r} is not known", f"{file}, header", f"did you mean {near[0]!r}?")
        if unread is not None and name not in known_names:
            unread(name)
    if len(lines) == 1:
        raise DataError("the CSV has a header and no rows", file, "download it again")
    return [
        (number, {key: line[i].strip() for key, i in at.items() if i is not None} if len(line) == len(header) else None)
        for number, line in enumerate(lines[1:], start=1)
    ]


def _row_at(text: bytes, position: int, file: str, delimiter: str) -> str:
    """The row that holds a byte of the file."""
    before = text[:position].decode("utf-8-sig", errors="replace")
    rows: Iterator[list[str]] = (
        line for line in csv.reader(io.StringIO(before, newline=""), delimiter=delimiter) if line
    )
    number = sum(1 for _ in rows) - 1
    return f"{file}, row {number}" if number > 0 else file
