"""Prepare a data set once: decode every film, check it, keep a table of what there is and the pixels of its regions.

`<cache>/<data set>-<key>/` holds table.parquet, passport.json, `pixels/<key>/` for each region rule asked for so far,
and `splits/<hash>.parquet`: nothing in these names a patient or a path of this machine. problems.json does name the
files that were left out, as the data set calls them (often by patient), and is for this machine alone.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import ValidationError

import data
from data import _negatives, _table
from data._films import Film, FilmFacts, Spread, films_of, work_all
from data._folder import Use, build_once, disk_errors, finish, is_done, read_errors, use
from data._journal import Means, facts_of
from data._key import folder_of
from data._room import Room, by_last_use
from data._stand_ins import exchanged, with_stand_ins
from data._store import PixelSpec, RowSum, hash_of
from data._verify import Verdict, verdict
from data.augment import cached_margin
from data.errors import ConfigError, DataError, LeakError
from data.inputs import Inputs, Roi
from data.passport import alike
from data.passport import passport as make_passport
from data.record import DataCard, Options, Reader, Record, Report
from data.roi import OVERLAP_MARGIN
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
    spread: Spread = work_all,
    room: Room = Room(),  # noqa: B008 - frozen
) -> "Prepared":
    """The prepared data set; the work is done only if the same was not done before, and goes on where it was cut off.

    roi, size: also cut these regions in the same pass (Prepared does it later for any other). progress: called with
    (films done, films in all), first with those that were done before. Without `skip_bad` the first problem raises
    DataError; with it problems are left out and recorded in the passport. Work that was finished with `skip_bad` is
    found without it, too. spread: who works on the films. room: how large the cache may become.
    """
    reader, chosen = data.reader(name), _options(name, options)
    folder = folder_of(reader, root, chosen, cache_dir)
    spec = _spec(roi, size, margin, unit) if roi is not None and size is not None else None
    means = Means(processes, progress, spread, room)

    def build(part: Path) -> None:
        _build(reader, root, chosen, part, Report(skip_bad=skip_bad), spec, means)

    used = build_once(folder, build)
    prepared = Prepared(name, folder, root)
    prepared._uses[folder] = used
    pixels = prepared.ensure_pixels(spec, means) if spec is not None else folder
    room.keep(pixels)
    return prepared


def open_prepared(
    name: str, root: Path | None, options: Options | Mapping[str, Any] | None, cache_dir: Path
) -> "Prepared":
    """What `prepare` finished before. Raises DataError if it did not."""
    folder = folder_of(data.reader(name), root, _options(name, options), cache_dir)
    prepared = Prepared(name, folder, root)
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
) -> tuple["Prepared", Verdict]:
    """What `prepare` finished before, and whether it and the files of the data set are what they were then.

    Where a file has changed since in size or time, the set that was last used with these options is looked at. Raises
    DataError if there is none.
    """
    reader, chosen = data.reader(name), _options(name, options)
    current = folder_of(reader, root, chosen, cache_dir)
    sets = [Prepared(name, folder, root) for folder in by_last_use(cache_dir.glob(f"{reader.CARD.name}-*"))]
    same = [one for one in sets if one.passport["options"] == chosen.model_dump(mode="json")]
    prepared = next((one for one in same if one.folder == current), same[-1] if same else None)
    if prepared is None or not prepared.mark_use():
        raise DataError("the data set is not prepared with these options", name, f"run `prepare {name}` first")
    records = _records(reader, root, chosen, Report(skip_bad=True))
    is_current = prepared.folder == current
    return prepared, verdict(
        prepared.folder, records, prepared.table, current=is_current, processes=processes, progress=progress
    )


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
    _uses: dict[Path, Use | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def card(self) -> DataCard:
        return data.reader(self.name).CARD

    @cached_property
    def passport(self) -> dict[str, Any]:
        """Counts, what was left out and why, grey and size statistics, hash, grade; and the problems met, by file."""
        passport: dict[str, Any] = self._document("passport.json")
        return passport | {"problems": self._document("problems.json")}

    def alike_elsewhere(self) -> list[str]:
        """Sentences about films that look like one of another data set of the same cache."""
        said = []
        for folder in sorted(self.folder.parent.iterdir()):
            if not is_done(folder) or not (folder / "table.parquet").is_file():
                continue
            other = Prepared(folder.name.rsplit("-", 1)[0], folder)
            if other.name != self.name and (pairs := alike(self.table, other.table)):
                said.append(f"{pairs} pairs of films look alike here and in the prepared {other.name}")
        return sorted(set(said))

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
    def ensure_pixels(self, spec: PixelSpec, means: Means = Means()) -> Path:  # noqa: B008 - frozen
        """The folder with the pixels of a region rule; cut now if no one did before."""
        return self._ensure(spec.key, lambda part: self._build_pixels(part, spec, means))

    def _ensure(self, key: str, build: Callable[[Path], None]) -> Path:
        pixels = self.folder / "pixels" / key
        if not self.mark_use():
            raise DataError("the prepared data are not there any more", self.folder.name, "prepare the data set again")
        self._uses[pixels] = build_once(pixels, build)
        return pixels

    def mark_use(self) -> bool:
        """Keep the folder from being removed to make room, as long as this object is there; False if it is not finished."""
        self._uses[self.folder] = use(self.folder)
        return self._uses[self.folder] is not None

    def _build_pixels(self, part: Path, spec: PixelSpec, means: Means) -> None:
        known = set(zip(self.table["record_id"], self.table["finding_id"], strict=True))
        wanted = set(self.table["record_id"])
        found = _records(data.reader(self.name), self.root, self.options, Report(skip_bad=True))
        records = [record for record in found if record.record_id in wanted]
        films, counts = films_of(records, spec)
        with closing(facts_of(films, counts, spec, part, part, check=False, means=means)) as come:
            facts = list(come)
        have = {(fact.record_id, finding.finding_id) for fact in facts for finding in fact.findings}
        lost = {key for key in known if key[1]} - have
        if lost or wanted - {fact.record_id for fact in facts if not fact.broken}:
            raise DataError(
                f"{len(lost)} findings that were prepared can no longer be read",
                self.name,
                "prepare the data set again",
            )
        _write_index(part, films, facts)

    def _build_negatives(self, part: Path, spec: PixelSpec, rows: pd.DataFrame) -> None:
        """rows: of the table, of the films that may be looked at: no other is decoded, and no other's boxes count."""
        found = _records(data.reader(self.name), self.root, self.options, Report(skip_bad=True))
        films, counts = films_of(_negatives.sources(found, rows), spec, _negatives.sizes(rows))
        with closing(facts_of(films, counts, spec, part, part, check=False, means=Means())) as come:
            _write_index(part, films, list(come))

    def _with_negatives(self, train: Samples, films: Sequence[str], inputs: Inputs, seed: int) -> Samples:
        """The training side, and after it lesion-free regions of these films. Raises DataError where there is none."""
        spec = replace(self.spec_of(inputs), unit=_negatives.KIND)
        rows = self.table[self.table["record_id"].isin(films)]
        pixels = self._ensure(
            f"{spec.key}-{hash_of(sorted(films))[:12]}", lambda part: self._build_negatives(part, spec, rows)
        )
        with read_errors(pixels / "rows.parquet"):
            index = pd.read_parquet(pixels / "rows.parquet")
        regions = _negatives.drawn(index, rows, inputs.negatives, seed)
        if regions.empty:
            raise DataError(
                f"no lesion-free region in the {len(films)} training films",
                self.name,
                "use data with normal films or with every lesion placed, a smaller region (roi), or negatives 0",
            )
        if len(regions) < inputs.negatives:
            found = f"{len(regions)} lesion-free regions in the {len(films)} training films of {self.name}"
            warnings.warn(f"{found}, {inputs.negatives} are asked for", stacklevel=3)
        return train.and_negatives(regions, pixels)

    def spec_of(self, inputs: Inputs, *, test: bool = False) -> PixelSpec:
        """Which pixels a method's inputs need; test: those of the test side, whose boxes may be jittered (Roi)."""
        return _spec(inputs.roi, inputs.size, cached_margin(inputs.augment), TRACKS[inputs.target].unit, test=test)

    # ---- sides --------------------------------------------------------------------------------------------------
    def split(self, protocol: str = "holdout", seed: int = 0, fold: int = 0) -> Split:
        """The sides of this data set, written to `splits/`."""
        split = make_split(self.table, protocol, seed, fold, self.options.patient_scope)
        with disk_errors(self.folder):
            split.save(self.folder / "splits")
        return split

    def counts(self, split: Split | None = None) -> dict[str, dict[str, dict[str, int]]]:
        """Samples per track, side and label: sides of the split, or the official ones."""
        sides = split.sides_of(self.table) if split is not None else self.table["official_split"]
        return _table.counts(self.table, sides)

    def training(
        self,
        split: Split,
        inputs: Inputs,
        train_on: Literal["train", "train+validation"] = "train",
        *,
        seed: int = 0,
    ) -> TrainingData:
        """Training and validation side through a method's inputs; nothing of the test side. seed: of lesion-free regions."""
        pixels = self.ensure_pixels(self.spec_of(inputs))
        spec, record_attributes = self.spec_of(inputs), self.passport["record_attributes"]
        sides = {"train": ["train"], "train+validation": ["train", "validation"]}[train_on]
        train = side_samples(self.table, split, sides, pixels, spec, inputs, record_attributes)
        validation = side_samples(self.table, split, ["validation"], pixels, spec, inputs, record_attributes)
        if self.options.masks == "shuffled":  # of the training side alone: what judges has its own
            train = train.with_masks_of(exchanged(train.table, self.options.masks_seed))
        train = train.for_track(inputs.target)
        if not len(train):
            raise DataError(
                "no training sample has a label",
                f"{self.name}, track {inputs.target}",
                "choose a track that the data set serves, or an option that gives labels (`list datasets -v`)",
            )
        if inputs.negatives:
            films = split.table.loc[split.table["side"].isin(sides), "record_id"].unique().tolist()
            train = self._with_negatives(train, films, inputs, seed)
        return TrainingData(
            train,
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
        spec, record_attributes = self.spec_of(inputs, test=True), self.passport["record_attributes"]
        pixels = self.ensure_pixels(spec)
        pool = side_samples(
            self.table, split, ["test"], pixels, spec, inputs, record_attributes, counterfactuals=counterfactuals
        )
        return pool.for_track(track)


def _spec(roi: Roi, size: tuple[int, int], margin: float, unit: str, *, test: bool = False) -> PixelSpec:
    if unit == "image" and roi.strategy != "whole":  # a region of a finding means nothing where the unit is the image
        roi = roi.model_copy(update={"strategy": "whole"})
    if roi.strategy == "bbox_overlap":  # its windows lie in one cut
        margin = OVERLAP_MARGIN
    return PixelSpec(roi if test else roi.without_jitter, size, margin, unit)


def _options(name: str, options: Options | Mapping[str, Any] | None) -> Options:
    if isinstance(options, Options):
        return options
    try:
        return data.reader(name).Options.model_validate(dict(options or {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "options"
        raise ConfigError(f"{first['msg']} ({key})", f"options of {name}", "see `list datasets -v`") from error


def _records(reader: Reader, root: Path | None, options: Options, report: Report) -> list[Record]:
    try:
        records = list(reader.records(root, options, report))
    except OSError as error:
        where = Path(error.filename).name if error.filename else reader.CARD.name
        raise DataError(
            f"a file of the data set cannot be read: {error.strerror}", where, "check the download"
        ) from error
    records = [with_stand_ins(record, options) for record in records]
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
    means: Means,
) -> None:
    """The one pass over all films: facts for the table, and pixels if a region rule is given."""
    records = _records(reader, root, options, report)
    if not records:
        left_out = ", ".join(f"{count} {reason}" for reason, count in report.left_out.most_common(3))
        raise DataError(
            "no film to prepare", f"{reader.CARD.name}; left out: {left_out or 'nothing'}", "check --data-root"
        )
    films, counts = films_of(records, spec)
    pixels = part / "pixels" / spec.key if spec is not None else None
    facts: list[FilmFacts] = []
    with closing(facts_of(films, counts, spec, part, pixels, check=True, means=means)) as come:
        for fact in come:
            for problem in fact.problems:
                report.problem(problem.file, problem.row, problem.message, problem.do, reason=_reason(problem.message))
            facts.append(fact)
    table = _table.build(records, facts, report)
    if table.empty:
        raise DataError(
            "every film has a problem", f"{reader.CARD.name}, {len(records)} films", "see the problems above"
        )
    table.to_parquet(part / "table.parquet", index=False)
    passport = make_passport(reader.CARD, options, records, table, facts, report)
    for name, document in (("passport", passport), ("problems", report.problems)):
        (part / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
    if pixels is not None:
        _write_index(pixels, films, facts)
        finish(pixels)


def _write_index(pixels: Path, films: Sequence[Film], facts: Sequence[FilmFacts]) -> None:
    """Which row holds which sample, and what was written into each."""
    _table.pixel_index(films, facts).to_parquet(pixels / "rows.parquet", index=False)
    sums = [one for fact in facts for one in fact.sums]
    pd.DataFrame(sums, columns=list(RowSum._fields)).to_parquet(pixels / "sums.parquet", index=False)


def _reason(message: str) -> str:
    """What groups problems: the message without its numbers."""
    return message.split(":")[0].split(" (")[0]


__all__: Sequence[str] = (
    "Prepared", "Room", "Spread", "Verdict", "open_prepared", "prepare", "verify", "work_all",
)  # fmt: skip
