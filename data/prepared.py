"""A data set that lies prepared: its table, its sides, and the samples of each through a method's inputs."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

import data
from data import _negatives, _table
from data._build import records_of, write_index
from data._films import films_of
from data._folder import Use, build_once, disk_errors, is_done, read_errors, use
from data._journal import Means, facts_of
from data._stand_ins import exchanged, withheld
from data._store import PixelSpec, hash_of
from data.augment import cached_margin
from data.errors import ConfigError, DataError, LeakError
from data.inputs import Inputs, Roi
from data.passport import alike, as_asked
from data.record import Box, DataCard, Options, Record, Report
from data.roi import OVERLAP_MARGIN
from data.samples import Samples, TrainingData, side_samples
from data.split import Split, make_split
from data.tracks import TRACKS


@dataclass(frozen=True)
class Opening:
    """What the ledger says of an opened test side: id of the entry, hashes of the data and the sides, tracks."""

    entry: str
    data_hash: str
    split_hash: str
    tracks: tuple[str, ...]


@dataclass
class Prepared:
    """A prepared data set. Picklable; another process opens the same folder.

    asked: the options; those that choose what training sees of the data (Options.of_films has the others) are known
    nowhere in the folder, and are at their defaults where none are given.
    """

    name: str
    folder: Path
    root: Path | None = field(default=None, repr=False)
    asked: Options | None = field(default=None, repr=False)
    _uses: dict[Path, Use | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def card(self) -> DataCard:
        return data.reader(self.name).CARD

    @cached_property
    def passport(self) -> dict[str, Any]:
        """Counts, what was left out and why, grey and size statistics, hash, grade; and the problems met, by file."""
        passport = self._document("passport.json")
        if self.asked is not None:
            passport = as_asked(passport, self.asked)
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

    @cached_property
    def options(self) -> Options:
        if self.asked is not None:
            return self.asked
        return data.reader(self.name).Options.model_validate(self._document("passport.json")["options"])

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
        found = records_of(data.reader(self.name), self.root, self.options, Report(skip_bad=True))
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
        write_index(part, films, facts)

    def _build_negatives(self, part: Path, spec: PixelSpec, rows: pd.DataFrame) -> None:
        """rows: of the table, of the films that may be looked at: no other is decoded, and no other's boxes count."""
        found = records_of(data.reader(self.name), self.root, self.options, Report(skip_bad=True))
        films, counts = films_of(_negatives.sources(found, rows), spec, _negatives.sizes(rows))
        with closing(facts_of(films, counts, spec, part, part, check=False, means=Means())) as come:
            write_index(part, films, list(come))

    def _elsewhere(self, spec: PixelSpec, boxes: Mapping[str, Box]) -> Path:
        """The folder with the pixels of these records, each finding cut by its record's box."""

        def build(part: Path) -> None:
            found = records_of(data.reader(self.name), self.root, self.options, Report(skip_bad=True))
            films, counts = films_of(
                [_at(record, boxes[record.record_id]) for record in found if record.record_id in boxes], spec
            )
            with closing(facts_of(films, counts, spec, part, part, check=False, means=Means())) as come:
                write_index(part, films, list(come))

        return self._ensure(f"{spec.key}-{hash_of(sorted(boxes.items()))[:12]}", build)

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
        return pixel_spec(inputs.roi, inputs.size, cached_margin(inputs.augment), TRACKS[inputs.target].unit, test=test)

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
        options, table = self.options, self.table  # masks of the training side alone: what judges has its own
        if options.masks_kept < 1:
            table = withheld(table, split.sides_of(table).isin(sides), options.masks_kept, options.masks_seed)
        train = side_samples(table, split, sides, pixels, spec, inputs, record_attributes)
        validation = side_samples(self.table, split, ["validation"], pixels, spec, inputs, record_attributes)
        if options.masks == "shuffled":
            train = train.with_masks_of(exchanged(train.table, options.masks_seed))
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

    def edited_validation(self, split: Split, inputs: Inputs, track: str) -> Samples:
        """The edited copies of validation films, as `sealed` gives those of test films; empty where there are none."""
        spec, record_attributes = self.spec_of(inputs), self.passport["record_attributes"]
        pixels, sides = self.ensure_pixels(spec), ["validation"]
        pool = side_samples(self.table, split, sides, pixels, spec, inputs, record_attributes, counterfactuals=True)
        return pool.for_track(track)

    def has_copies(self, split: Split, side: str) -> bool:
        """Whether films of this side have edited copies."""
        return bool(((self.table["counterfactual_of"] != "") & (split.sides_of(self.table) == side)).any())

    def sealed(
        self, split: Split, inputs: Inputs, track: str, opening: Opening, *, counterfactuals: bool = False,
        boxes: Mapping[str, Box] | None = None,
    ) -> Samples:  # fmt: skip
        """The test side, labelled for `track`. Raises LeakError unless `opening` was written for these data and sides.

        counterfactuals: the edited copies of test films (phantom pairs) in place of the films themselves; all whose
        origin has a label of the track, `label` being their own (-1 where the mass is removed). boxes: record id -> a box in film
        pixels that stands for that of each of its findings, whose masks are then not cut.
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
        pixels = self.ensure_pixels(spec) if boxes is None else self._elsewhere(spec, boxes)
        pool = side_samples(
            self.table, split, ["test"], pixels, spec, inputs, record_attributes, counterfactuals=counterfactuals
        )
        return pool.for_track(track)


def _at(record: Record, box: Box) -> Record:
    """The record as if each of its findings lay here."""
    findings = (replace(one, box=box, mask=None, fine_mask=None) for one in record.findings)
    return replace(record, findings=tuple(findings), counterfactual_of=None)


def pixel_spec(roi: Roi, size: tuple[int, int], margin: float, unit: str, *, test: bool = False) -> PixelSpec:
    if unit == "image" and roi.strategy != "whole":  # a region of a finding means nothing where the unit is the image
        roi = roi.model_copy(update={"strategy": "whole"})
    if roi.strategy == "bbox_overlap":  # its windows lie in one cut
        margin = OVERLAP_MARGIN
    return PixelSpec(roi if test else roi.without_jitter, size, margin, unit)
