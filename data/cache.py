"""Prepare a data set once: decode every film, check it, keep a table of what there is and the pixels of its regions.

`<cache>/<data set>-<key>/` holds table.parquet, passport.json, `pixels/<key>/` for each region rule asked for so far,
and `splits/<hash>.parquet`: nothing in these names a patient or a path of this machine. problems.json does name the
files that were left out, as the data set calls them (often by patient), and is for this machine alone.
"""

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import ValidationError

import data
from data import _table
from data._films import FilmFacts, create_arrays, films_of, work_all
from data._store import VERSION, PixelSpec, build_once, disk_errors, hash_of, is_done, read_errors
from data.augment import cached_margin
from data.errors import ConfigError, DataError, LeakError
from data.inputs import Inputs, Roi
from data.record import DataCard, Options, Reader, Record, Report
from data.samples import Samples, TrainingData, side_samples
from data.split import Split, make_split
from data.tracks import TRACKS

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
) -> "Prepared":
    """The prepared data set; the work is done only if the same was not done before.

    roi, size: also cut these regions in the same pass (Prepared does it later for any other). progress: called with
    (films done, films in all). Without `skip_bad` the first problem raises DataError; with it problems are left out
    and recorded in the passport. Work that was finished with `skip_bad` is found without it, too.
    """
    reader, chosen = data.reader(name), _options(name, options)
    folder = _folder(reader, root, chosen, cache_dir)
    spec = _spec(roi, size, margin, unit) if roi is not None and size is not None else None

    def build(part: Path) -> None:
        report = Report(skip_bad=skip_bad)
        _build(reader, root, chosen, part, report, spec, processes, progress)

    build_once(folder, build)
    prepared = Prepared(name, folder, root)
    if spec is not None:
        prepared.ensure_pixels(spec, processes=processes, progress=progress)
    return prepared


def open_prepared(
    name: str, root: Path | None, options: Options | Mapping[str, Any] | None, cache_dir: Path
) -> "Prepared":
    """What `prepare` finished before. Raises DataError if it did not."""
    folder = _folder(data.reader(name), root, _options(name, options), cache_dir)
    if not is_done(folder):
        raise DataError("the data set is not prepared with these options", name, f"run `prepare {name}` first")
    return Prepared(name, folder, root)


@dataclass(frozen=True)
class Opening:
    """What the ledger says of an opened test side: id of the entry, hashes of the data and the sides, tracks."""

    entry: str
    data_hash: str
    split_hash: str
    tracks: tuple[str, ...]


@dataclass
class Prepared:
    """A prepared data set. Picklable; another process opens the same folder."""

    name: str
    folder: Path
    root: Path | None = field(default=None, repr=False)

    @property
    def card(self) -> DataCard:
        return data.reader(self.name).CARD

    @cached_property
    def passport(self) -> dict[str, Any]:
        """Counts, what was left out and why, grey and size statistics, hash, grade; and the problems met, by file."""
        passport: dict[str, Any] = self._document("passport.json")
        return passport | {"problems": self._document("problems.json")}

    def _document(self, name: str) -> Any:
        with read_errors(self.folder / name):
            return json.loads((self.folder / name).read_text(encoding="utf-8"))

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per finding, one per record without finding (see data/_table.py for the columns)."""
        with read_errors(self.folder / "table.parquet"):
            return pd.read_parquet(self.folder / "table.parquet")

    @property
    def data_hash(self) -> str:
        return str(self.passport["data_hash"])

    @property
    def options(self) -> Options:
        return data.reader(self.name).Options.model_validate(self.passport["options"])

    # ---- pixels -------------------------------------------------------------------------------------------------
    def ensure_pixels(self, spec: PixelSpec, *, processes: int = 1, progress: Progress | None = None) -> Path:
        """The folder with the pixels of a region rule; cut now if no one did before."""
        return build_once(
            self.folder / "pixels" / spec.key, lambda part: self._build_pixels(part, spec, processes, progress)
        )

    def _build_pixels(self, part: Path, spec: PixelSpec, processes: int, progress: Progress | None) -> None:
        known = set(zip(self.table["record_id"], self.table["finding_id"], strict=True))
        wanted = set(self.table["record_id"])
        found = _records(data.reader(self.name), self.root, self.options, Report(skip_bad=True))
        records = [record for record in found if record.record_id in wanted]
        films, counts = films_of(records, spec)
        create_arrays(part, spec, counts)
        facts = list(work_all(films, spec, part, check=False, processes=processes, progress=progress))
        have = {(fact.record_id, finding.finding_id) for fact in facts for finding in fact.findings}
        lost = {key for key in known if key[1]} - have
        if lost or wanted - {fact.record_id for fact in facts if not fact.broken}:
            raise DataError(
                f"{len(lost)} findings that were prepared can no longer be read",
                self.name,
                "prepare the data set again",
            )
        _table.pixel_index(films, facts).to_parquet(part / "rows.parquet", index=False)

    def spec_of(self, inputs: Inputs) -> PixelSpec:
        """Which pixels a method's inputs need."""
        return _spec(inputs.roi, inputs.size, cached_margin(inputs.augment), TRACKS[inputs.target].unit)

    # ---- sides --------------------------------------------------------------------------------------------------
    def split(self, protocol: str = "holdout", seed: int = 0, fold: int = 0) -> Split:
        """The sides of this data set, written to `splits/`."""
        split = make_split(self.table, protocol, seed, fold)
        with disk_errors(self.folder):
            split.save(self.folder / "splits")
        return split

    def counts(self, split: Split | None = None) -> dict[str, dict[str, dict[str, int]]]:
        """Samples per track, side and label: sides of the split, or the official ones."""
        sides = split.sides_of(self.table) if split is not None else self.table["official_split"]
        return _table.counts(self.table, sides)

    def training(
        self, split: Split, inputs: Inputs, train_on: Literal["train", "train+validation"] = "train"
    ) -> TrainingData:
        """Training and validation side through a method's inputs; nothing of the test side."""
        pixels = self.ensure_pixels(self.spec_of(inputs))
        spec, record_attributes = self.spec_of(inputs), self.passport["record_attributes"]
        sides = {"train": ["train"], "train+validation": ["train", "validation"]}[train_on]
        train = side_samples(self.table, split, sides, pixels, spec, inputs, record_attributes)
        validation = side_samples(self.table, split, ["validation"], pixels, spec, inputs, record_attributes)
        return TrainingData(
            train.for_track(inputs.target),
            validation.for_track(inputs.target),
            inputs,
            self.data_hash,
            split.hash,
            validation_pool=validation,
        )

    def sealed(
        self, split: Split, inputs: Inputs, track: str, opening: Opening, *, counterfactuals: bool = False
    ) -> Samples:
        """The test side, labelled for `track`. Raises LeakError unless `opening` was written for these data and sides.

        counterfactuals: the edited copies of test films (phantom pairs) in place of the films themselves; all whose
        origin has a label of the track, `label` being their own (-1 where the mass is removed).
        """
        if (opening.data_hash, opening.split_hash) != (self.data_hash, split.hash) or track not in opening.tracks:
            raise LeakError(
                "the test side is sealed: this opening is of other data, sides or tracks",
                f"{self.name}, {track}, ledger entry {opening.entry}",
                "`final` writes the entry that opens it",
            )
        if TRACKS[track].unit != TRACKS[inputs.target].unit:
            raise ConfigError(
                f"a method trained on {inputs.target} sees one {TRACKS[inputs.target].unit} at a time",
                f"track {track}",
                f"choose a track of the unit {TRACKS[inputs.target].unit}",
            )
        spec, record_attributes = self.spec_of(inputs), self.passport["record_attributes"]
        pixels = self.ensure_pixels(spec)
        pool = side_samples(
            self.table, split, ["test"], pixels, spec, inputs, record_attributes, counterfactuals=counterfactuals
        )
        return pool.for_track(track)


def _spec(roi: Roi, size: tuple[int, int], margin: float, unit: str) -> PixelSpec:
    if unit == "image" and roi.strategy != "whole":  # a region of a finding means nothing where the unit is the image
        roi = roi.model_copy(update={"strategy": "whole"})
    return PixelSpec(roi, size, margin, unit)


def _options(name: str, options: Options | Mapping[str, Any] | None) -> Options:
    if isinstance(options, Options):
        return options
    try:
        return data.reader(name).Options.model_validate(dict(options or {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "options"
        raise ConfigError(f"{first['msg']} ({key})", f"options of {name}", "see `list datasets -v`") from error


def _folder(reader: Reader, root: Path | None, options: Options, cache_dir: Path) -> Path:
    """Where the work for this data set, options, reader version and state of the files lies."""
    card = reader.CARD
    if card.needs_root and (root is None or not root.is_dir()):
        raise DataError(
            f"the data set {card.name} is not there",
            str(root or "no data root given"),
            f"pass --data-root; {card.source}",
        )
    files = list(_files(root, cache_dir)) if card.needs_root and root is not None else []
    key = hash_of([VERSION, _table.VERSION, card.name, card.version, options.model_dump(mode="json"), sorted(files)])
    return cache_dir / f"{card.name}-{key[:16]}"


def _files(root: Path, cache_dir: Path) -> Iterator[tuple[str, int, int]]:
    """Relative path, size and time of all files, but for what this program writes, should that lie below the root.

    A link to nothing counts, with size -1: the reader says so where it needs the file. Pipes and sockets do not count.
    """
    own = {cache_dir.resolve()}
    if cache_dir.resolve().parent != root.resolve():
        own.add(cache_dir.resolve().parent)  # --out
    base = root.resolve()
    for folder, subfolders, files in os.walk(base):
        subfolders[:] = [name for name in subfolders if Path(folder, name) not in own]
        for name in files:
            path = Path(folder, name)
            try:
                status = path.stat()
            except OSError:
                yield path.relative_to(base).as_posix(), -1, 0
                continue
            if stat.S_ISREG(status.st_mode):
                yield path.relative_to(base).as_posix(), status.st_size, status.st_mtime_ns


def _records(reader: Reader, root: Path | None, options: Options, report: Report) -> list[Record]:
    try:
        records = list(reader.records(root, options, report))
    except OSError as error:
        where = Path(error.filename).name if error.filename else reader.CARD.name
        raise DataError(
            f"a file of the data set cannot be read: {error.strerror}", where, "check the download"
        ) from error
    seen: set[str] = set()
    for record in records:
        if record.record_id in seen:
            raise DataError(
                "two records have one id", record.record_id, "a film is listed twice, or the reader is at fault"
            )
        seen.add(record.record_id)
    return records


def _build(
    reader: Reader,
    root: Path | None,
    options: Options,
    part: Path,
    report: Report,
    spec: PixelSpec | None,
    processes: int,
    progress: Progress | None,
) -> None:
    """The one pass over all films: facts for the table, and pixels if a region rule is given."""
    records = _records(reader, root, options, report)
    if not records:
        left_out = ", ".join(f"{count} {reason}" for reason, count in report.left_out.most_common(3))
        raise DataError(
            "no film to prepare", f"{reader.CARD.name}; left out: {left_out or 'nothing'}", "check --data-root"
        )
    films, counts = films_of(records, spec)
    pixels = None
    if spec is not None:
        pixels = part / "pixels" / spec.key
        pixels.mkdir(parents=True)
        create_arrays(pixels, spec, counts)
    facts: list[FilmFacts] = []
    for fact in work_all(films, spec, pixels, check=True, processes=processes, progress=progress):
        for problem in fact.problems:
            report.problem(problem.file, problem.row, problem.message, problem.do, reason=_reason(problem.message))
        facts.append(fact)
    table = _table.build(records, facts, report)
    if table.empty:
        raise DataError(
            "every film has a problem", f"{reader.CARD.name}, {len(records)} films", "see the problems above"
        )
    table.to_parquet(part / "table.parquet", index=False)
    passport = _table.passport(reader.CARD, options, records, table, facts, report)
    for name, document in (("passport", passport), ("problems", report.problems)):
        (part / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
    if pixels is not None:
        _table.pixel_index(films, facts).to_parquet(pixels / "rows.parquet", index=False)
        (pixels / "DONE").write_text("", encoding="utf-8")


def _reason(message: str) -> str:
    """What groups problems: the message without its numbers."""
    return message.split(":")[0].split(" (")[0]


__all__: Sequence[str] = ("Prepared", "open_prepared", "prepare")
