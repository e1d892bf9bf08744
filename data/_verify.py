"""Whether prepared data and the files they were made of are still what they were: every byte is read and hashed again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data import _pool
from data._folder import digest, digests, is_done, name_of
from data._store import RowSum, changed_rows
from data.errors import DataError
from data.record import Pixels, Record

AGAIN = "put the file back as it was, or delete the folder {} of the cache (OUT/cache) and prepare again"
ANEW = "put the file back as it was, or prepare the data as they are now: the same command without --verify"
DELETE = "delete the folder {} of the cache (OUT/cache) and run again"


@dataclass(frozen=True)
class Difference:
    """A file that is not what it was. `file`: as the data set or the cache calls it, for the terminal alone."""

    file: str
    what: str
    do: str


@dataclass(frozen=True)
class Verdict:
    """How much was looked at, and what differs."""

    files: int  # of the data set
    rows: int  # of pixels
    differences: tuple[Difference, ...]
    current: bool  # whether names, sizes and times of the files are still those that were prepared


@dataclass(frozen=True)
class _Source:
    """The files of a film, each with the fingerprint that it had."""

    record_id: str
    expected: tuple[tuple[Pixels, str], ...]


def verdict(
    folder: Path,
    records: Sequence[Record],
    table: pd.DataFrame,
    *,
    current: bool,
    processes: int,
    progress: Callable[[int, int], None] | None,
) -> Verdict:
    """Compare a prepared data set with its own sums and with its sources.

    folder, table: of the set; records: of the data set as it is now; current: whether `prepare` would take this set for
    it. progress: called with (films done, films in all).
    """
    sources, again = _sources(records, table), AGAIN.format(folder.name) if current else ANEW
    lost = sorted(set(table["record_id"]) - set(sources))
    found = [Difference(record_id, "the data set has this film no more", again) for record_id in lost]
    found += _cached(folder, sources)
    told = progress or (lambda done, films: None)
    told(0, len(sources))
    with closing(_pool.each(_changed, sources.values(), processes)) as come:
        for done, changed in enumerate(come, start=1):
            found += [Difference(file, what, again) for file, what in changed]
            told(done, len(sources))
    files = {pixels.name for source in sources.values() for pixels, _ in source.expected}
    rows = sum(len(_sums(pixels)) for pixels in _pixel_folders(folder) if _damaged(pixels) is None)
    return Verdict(len(files), rows, tuple(sorted(found, key=lambda one: one.file)), current)


def _sources(records: Sequence[Record], table: pd.DataFrame) -> dict[str, _Source]:
    """By record id the films of the table that the data set still has."""
    rows: dict[str, dict[str, tuple[str, str, str]]] = {}
    columns = table[["record_id", "finding_id", "image_hash", "mask_hash", "fine_hash"]]
    for record_id, finding_id, *hashes in columns.itertuples(index=False):
        rows.setdefault(record_id, {})[finding_id] = tuple(hashes)
    return {record.record_id: _source(record, rows[record.record_id]) for record in records if record.record_id in rows}


def _source(record: Record, rows: Mapping[str, tuple[str, str, str]]) -> _Source:
    expected = [(record.image, next(iter(rows.values()))[0])]
    for finding in record.findings:
        _, mask, fine = rows.get(finding.finding_id, ("", "", ""))  # one that had a problem is not in the table
        expected += [(p, known) for p, known in ((finding.mask, mask), (finding.fine_mask, fine)) if p and known]
    return _Source(record.record_id, tuple(expected))


def _changed(source: _Source) -> list[tuple[str, str]]:
    """Which files of a film are not what they were, and how."""
    found = []
    for pixels, known in source.expected:
        try:
            if pixels.fingerprint() != known:
                found.append((pixels.name, "its content is not what was prepared"))
        except (DataError, OSError) as error:
            what = error.what if isinstance(error, DataError) else error.strerror
            found.append((pixels.name, f"cannot be read: {what}"))
    return found


def _cached(folder: Path, sources: Mapping[str, _Source]) -> Iterator[Difference]:
    """What differs in the cache itself."""
    for one in (folder, *_pixel_folders(folder)):
        do = DELETE.format(name_of(one / "file").rpartition("/")[0])
        if (name := _damaged(one)) is not None:
            yield Difference(name_of(one / name), "the prepared file is not what was written", do)
        elif one != folder:
            yield from _changed_pixels(one, sources, do)


def _damaged(folder: Path) -> str | None:
    """The first small file of a finished folder that is not what it was; None: there is none."""
    return next((n for n, k in digests(folder).items() if not (folder / n).is_file() or digest(folder / n) != k), None)


def _changed_pixels(pixels: Path, sources: Mapping[str, _Source], do: str) -> Iterator[Difference]:
    index = pd.read_parquet(pixels / "rows.parquet")
    columns = {"image": "row", "mask": "mask_row", "fine": "fine_row"}
    try:
        changed = changed_rows(pixels, _sums(pixels))
    except DataError as error:  # the head of an array
        yield Difference(error.where, error.what, do)
        return
    for one in sorted(changed):
        of = index.loc[index[columns[one.array]] == one.row, "record_id"]
        source = sources.get(of.iloc[0]) if len(of) else None
        film = source.expected[0][0].name if source is not None else "a film that is not there any more"
        yield Difference(
            film, f"its prepared pixels ({name_of(pixels / one.array)}.npy, row {one.row}) are not what was written", do
        )


def _pixel_folders(folder: Path) -> list[Path]:
    inner = folder / "pixels"
    return sorted(one for one in inner.iterdir() if is_done(one)) if inner.is_dir() else []


def _sums(pixels: Path) -> list[RowSum]:
    return [RowSum(*row) for row in pd.read_parquet(pixels / "sums.parquet").itertuples(index=False)]
