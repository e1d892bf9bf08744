"""Prepare a data set once: decode every film, check it, keep a table of what there is and the pixels of its regions.

`<cache>/<data set>-<key>/` holds table.parquet, passport.json, `pixels/<key>/` for each region rule asked for so far,
and `splits/<hash>.parquet`: nothing in these names a patient or a path of this machine. problems.json does name the
files that were left out, as the data set calls them (often by patient), and is for this machine alone.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import data
from data._build import build, records_of
from data._films import Spread, work_all
from data._folder import build_once
from data._journal import Means
from data._key import folder_of
from data._room import Room, by_last_use
from data._verify import Verdict, verdict
from data.errors import ConfigError, DataError
from data.inputs import Roi
from data.prepared import Opening, Prepared, pixel_spec
from data.record import Options, Report

Progress = Callable[[int, int], None]


def prepare(
    name: str,
    root: Path | None,
    options: Options | Mapping[str, Any] | None,
    cache_dir: Path,
    *,
    skip_bad: bool = False,
    progress: Progress | None = None,
    processes: int = 1,
    roi: Roi | None = None,
    size: tuple[int, int] | None = None,
    margin: float = 1.0,
    unit: str = "finding",
    spread: Spread = work_all,
    room: Room = Room(),  # noqa: B008 - frozen
) -> Prepared:
    """The prepared data set; the work is done only if the same was not done before, and goes on where it was cut off.

    roi, size: also cut these regions in the same pass (Prepared does it later for any other). progress: called with
    (films done, films in all), first with those that were done before. Without `skip_bad` the first problem raises
    DataError; with it problems are left out and recorded in the passport. Work that was finished with `skip_bad` is
    found without it, too. spread: who works on the films. room: how large the cache may become.
    """
    reader, chosen = data.reader(name), _options(name, options)
    folder = folder_of(reader, root, chosen, cache_dir)
    spec = pixel_spec(roi, size, margin, unit) if roi is not None and size is not None else None
    means = Means(processes, progress, spread, room)

    def work(part: Path) -> None:
        build(reader, root, chosen, part, Report(skip_bad=skip_bad), spec, means)

    used = build_once(folder, work)
    prepared = Prepared(name, folder, root, chosen)
    prepared._uses[folder] = used
    pixels = prepared.ensure_pixels(spec, means) if spec is not None else folder
    room.keep(pixels)
    return prepared


def open_prepared(
    name: str, root: Path | None, options: Options | Mapping[str, Any] | None, cache_dir: Path
) -> Prepared:
    """What `prepare` finished before. Raises DataError if it did not."""
    chosen = _options(name, options)
    prepared = Prepared(name, folder_of(data.reader(name), root, chosen, cache_dir), root, chosen)
    if not prepared.mark_use():
        raise DataError("the data set is not prepared with these options", name, f"run `prepare {name}` first")
    return prepared


def verify(
    name: str,
    root: Path | None,
    options: Options | Mapping[str, Any] | None,
    cache_dir: Path,
    *,
    processes: int = 1,
    progress: Progress | None = None,
) -> tuple[Prepared, Verdict]:
    """What `prepare` finished before, and whether it and the files of the data set are what they were then.

    Where a file has changed since in size or time, the set that was last used with these options is looked at. Raises
    DataError if there is none.
    """
    reader, chosen = data.reader(name), _options(name, options)
    current = folder_of(reader, root, chosen, cache_dir)
    sets = [Prepared(name, folder, root) for folder in by_last_use(cache_dir.glob(f"{reader.CARD.name}-*"))]
    same = [one for one in sets if one.passport["options"] == chosen.of_films.as_json()]
    prepared = next((one for one in same if one.folder == current), same[-1] if same else None)
    if prepared is None or not prepared.mark_use():
        raise DataError("the data set is not prepared with these options", name, f"run `prepare {name}` first")
    records = records_of(reader, root, chosen, Report(skip_bad=True))
    is_current = prepared.folder == current
    return prepared, verdict(
        prepared.folder, records, prepared.table, current=is_current, processes=processes, progress=progress
    )


def _options(name: str, options: Options | Mapping[str, Any] | None) -> Options:
    if isinstance(options, Options):
        return options
    try:
        return data.reader(name).Options.model_validate(dict(options or {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "options"
        raise ConfigError(f"{first['msg']} ({key})", f"options of {name}", "see `list datasets -v`") from error


__all__: Sequence[str] = (
    "Opening", "Prepared", "Room", "Spread", "Verdict", "open_prepared", "prepare", "verify", "work_all",
)  # fmt: skip
