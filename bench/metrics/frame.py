"""The frame: predictions, maps and masks that an evaluation leaves behind, and the only thing that metrics read.

Shapes: N rows, K classes, H W input pixels, h w cells of a map.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.metrics._store import read_frame, read_marker, write_frame
from bench.metrics.maps import MapTable
from data.errors import DataError
from data.tracks import TRACKS

ROW_KEY = ["record_id", "finding_id"]
COLUMNS = (
    *("record_id", "finding_id", "lesion_id", "patient", "laterality", "view"),
    *("track", "side", "fold", "seed", "variant", "label", "flagged"),
)
# Columns of the samples table that go along, beside attr_*: what references and subsets need.
CARRIED = (
    *("area_px", "margin", "malignant", "has_mass", "kind", "official_split", "image_hash", "counterfactual_of"),
    *("has_mask", "has_fine"),
)
PROPOSED = "proposed ROI"  # the variant whose regions a detector has proposed
MASK_ARRAYS = ("lesion", "fine", "image")


@dataclass(eq=False)
class Frame:
    """predictions: one row per (record, finding, fold, seed, variant): COLUMNS, score_<class>, prob_<class>, CARRIED.

    meta: JSON values: method, dataset, track, classes, side, seed, fold, data_hash, split_hash, identity, versions,
    input, supervision; `variant_maps` {variant: map name} says which map a variant reads, `variant_inputs` {variant: input} which one saw something
    else of a case than `input` says, `variant_of` {variant: variant} whose thresholds it takes. masks: see `pack_masks`.
    evidence: one row per (record, finding, source, class) with its contribution. counterfactual: one row per (record,
    finding, edit, network), where the data have edited copies of films (bench/metrics/counterfactual.py). cells: one row
    per (record, finding, mu, cell), of the lesions that were asked for them (bench/metrics/cells.py).
    """

    predictions: pd.DataFrame
    meta: dict[str, Any]
    maps: MapTable | None = None
    masks: dict[str, np.ndarray] | None = None
    evidence: pd.DataFrame | None = None
    counterfactual: pd.DataFrame | None = None
    cells: pd.DataFrame | None = None
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)
    _shared: dict[tuple[str, str], tuple[Any, Any]] = field(
        default_factory=dict, repr=False
    )  # by all parts of one frame

    @classmethod
    def build(
        cls,
        table: pd.DataFrame,
        track: str,
        scores: np.ndarray,
        probabilities: np.ndarray,
        *,
        side: str,
        seed: int,
        fold: int = 0,
        variant: str = "default",
        flagged: np.ndarray | None = None,
        meta: Mapping[str, Any] | None = None,
        maps: MapTable | None = None,
        masks: dict[str, np.ndarray] | None = None,
        evidence: pd.DataFrame | None = None,
    ) -> Frame:
        """A frame from arrays. table: the samples' rows, in the order of scores (N, K) and probabilities (N, K).

        The label is the table's column of the track (-1 = unknown: the row is kept, and no metric reads it). Validated.
        """
        classes = TRACKS[track].classes
        rows = prediction_rows(table, track, scores, probabilities, side, seed, fold, variant, flagged)
        facts = {"track": track, "classes": list(classes), "side": side, "seed": seed, "fold": fold}
        frame = cls(rows, {**facts, **(meta or {})}, maps, masks, evidence)
        frame.validate()
        return frame

    # ---- reading ------------------------------------------------------------------------------------------------
    @property
    def track(self) -> str:
        return str(self.meta["track"])

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.meta["classes"])

    @property
    def variants(self) -> tuple[str, ...]:
        """Variants in order of appearance; the first is the one that metrics read unless another is asked for."""
        return tuple(self.predictions["variant"].unique())

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(int(seed) for seed in self.predictions["seed"].unique())

    @property
    def scores(self) -> np.ndarray:
        """(N, K) float64, raw."""
        return self.predictions[[f"score_{name}" for name in self.classes]].to_numpy(dtype=np.float64)

    @property
    def probabilities(self) -> np.ndarray:
        """(N, K) float64."""
        return self.predictions[[f"prob_{name}" for name in self.classes]].to_numpy(dtype=np.float64)

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64; -1 = unknown."""
        return self.predictions["label"].to_numpy(dtype=np.int64)

    @property
    def predicted(self) -> np.ndarray:
        """(N,) the class of the highest probability, the first one at a tie."""
        return self.probabilities.argmax(axis=1)

    def cached(self, name: str, make: Callable[[], Any]) -> Any:
        """A costly intermediate result of this frame, made once."""
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    def shared(self, name: str, make: Callable[[], Any]) -> Any:
        """What follows from rows, masks and images alone, made once for all variants of these rows."""
        masks, made = self._shared.get((name, self.identity), (None, None))
        if made is None or masks is not self.masks:
            made = make()
            self._shared[name, self.identity] = (self.masks, made)
        return made

    # ---- parts of it --------------------------------------------------------------------------------------------
    def rows(self, mask: np.ndarray | pd.Series) -> Frame:
        """The frame of these rows (N bool); maps and masks stay and are looked up by record and finding."""
        chosen = self.predictions[np.asarray(mask, dtype=bool)].reset_index(drop=True)
        return replace(self, predictions=chosen, meta=dict(self.meta), _cache={})

    def subset(self, mask: np.ndarray | pd.Series, name: str) -> Frame:
        """A named part of the test side, e.g. the lesions of the three margins; the name stands in meta["subset"]."""
        part = self.rows(mask)
        part.meta["subset"] = name
        return part

    def of_variant(self, variant: str) -> Frame:
        """The rows of one variant. Raises DataError for a variant that is not there."""
        if variant not in self.variants:
            raise DataError(f"no variant {variant!r}", "frame", f"choose from {', '.join(self.variants)}")
        part = self.rows(self.predictions["variant"] == variant)
        part.meta["variant"] = variant
        if variant in part.meta.get("variant_inputs", {}):  # maps and masks are of the other input
            part.meta["input"] = part.meta["variant_inputs"][variant]
            part.maps = part.masks = part.evidence = part.counterfactual = part.cells = None
            part._shared = {}
        return part

    def labelled(self) -> Frame:
        """The first variant's rows with a label: what metrics are computed on."""
        variants = self.predictions["variant"].to_numpy()
        keep = (variants == variants[:1]) & (self.labels >= 0)
        return self if keep.all() else self.rows(keep)

    @classmethod
    def joined(cls, frames: Sequence[Frame]) -> Frame:
        """The folds of one seed as one frame; metrics are averaged over folds. What one fold lacks is dropped."""
        rows = pd.concat([frame.predictions for frame in frames], ignore_index=True)
        meta = {**frames[0].meta, "fold": sorted(int(fold) for fold in rows["fold"].unique())}
        points = [(frame.predictions["fold"], frame.meta.get("operating")) for frame in frames]
        meta["operating_by_fold"] = {
            str(int(fold)): found for folds, found in points for fold in folds.unique() if found
        }
        tables = [frame.maps for frame in frames if frame.maps is not None]
        masks = [frame.masks for frame in frames if frame.masks is not None]
        maps = MapTable.joined(tables) if len(tables) == len(frames) else None
        common = set.intersection(*(set(part) for part in masks)) if len(masks) == len(frames) else set()
        packed = {name: np.concatenate([part[name] for part in masks]) for name in sorted(common)} or None
        evidence = [frame.evidence for frame in frames if frame.evidence is not None]
        edits = [frame.counterfactual for frame in frames if frame.counterfactual is not None]
        cells = [frame.cells for frame in frames if frame.cells is not None]
        cells = cells if len(cells) == len(frames) else []
        further = [pd.concat(tables, ignore_index=True) if tables else None for tables in (evidence, edits, cells)]
        joined = cls(rows, meta, maps, packed, evidence=further[0], counterfactual=further[1], cells=further[2])
        joined.validate()
        return joined

    @property
    def identity(self) -> str:
        """A hash of the labelled rows (record, finding, label, image); two methods compare where it is equal."""
        return str(self.cached("identity", lambda: _identity(self.labelled().predictions)))

    # ---- checks and storage -------------------------------------------------------------------------------------
    def validate(self) -> None:
        """Raise DataError at the first thing that metrics could not stand on."""
        _check_rows(self)
        if self.maps is not None:
            self.maps.validate()
        if self.masks is not None:
            _check_masks(self.masks)

    def save(self, folder: Path | str) -> Path:
        """Write the frame: each file under a temporary name, then renamed, the marker frame.json last.

        Raises MachineError when the disk does not take it.
        """
        maps = self.maps
        tables = {
            "predictions": self.predictions, "maps": maps.entries if maps else None,
            "evidence": self.evidence, "counterfactual": self.counterfactual, "cells": self.cells,
        }  # fmt: skip
        arrays = {"maps": maps.stacks if maps else None, "masks": self.masks}
        return write_frame(Path(folder), self.meta, tables, arrays)

    @classmethod
    def load(cls, folder: Path | str) -> Frame:
        """Read a frame back. Raises DataError, in one line, when a file is missing, truncated or not a frame's."""
        meta, tables, arrays = read_frame(Path(folder))
        maps = MapTable(tables["maps"], arrays["maps"]) if "maps" in tables and "maps" in arrays else None
        evidence, edits, cells = (tables.get(name) for name in ("evidence", "counterfactual", "cells"))
        frame = cls(tables["predictions"], meta, maps, arrays.get("masks"), evidence, edits, cells)
        frame.validate()
        return frame

    @staticmethod
    def load_meta(folder: Path | str) -> dict[str, Any]:
        """`meta` alone. Raises DataError where the marker is missing or no frame's."""
        return read_marker(Path(folder))[0]


def same_runs(a: Sequence[Frame], b: Sequence[Frame]) -> bool:
    """Whether both are readings of the same trainings, frame by frame: the runs' `identity`, seed and fold in meta agree.

    Two test-time variants of a run are; frames that name no run are not.
    """
    runs = [[(frame.meta.get("identity"), frame.seeds, frame.meta.get("fold")) for frame in side] for side in (a, b)]
    return runs[0] == runs[1] and all(identity for identity, _, _ in runs[0])


def _identity(rows: pd.DataFrame) -> str:
    columns = [*ROW_KEY, "label", *(["image_hash"] if "image_hash" in rows.columns else [])]
    lines = sorted("|".join(map(str, row)) for row in rows[columns].itertuples(index=False, name=None))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def prediction_rows(
    table: pd.DataFrame,
    track: str,
    scores: np.ndarray,
    probabilities: np.ndarray,
    side: str,
    seed: int,
    fold: int,
    variant: str,
    flagged: np.ndarray | None,
) -> pd.DataFrame:
    """Rows of Frame.predictions; see Frame.build."""
    classes, count = TRACKS[track].classes, len(table)
    for name, values in (("scores", scores), ("probabilities", probabilities)):
        if np.shape(values) != (count, len(classes)):
            expected = (count, len(classes))
            raise DataError(f"{name} are {np.shape(values)}, not {expected}", f"track {track}", "mend the method")
    rows: dict[str, Any] = {}
    for name in ("record_id", "finding_id", "lesion_id", "patient", "laterality", "view"):
        rows[name] = table[name].astype(str).to_numpy() if name in table.columns else [""] * count
    rows |= {"track": track, "side": side, "fold": int(fold), "seed": int(seed), "variant": variant}
    rows["label"] = table[TRACKS[track].column].to_numpy(dtype=np.int64)
    rows["flagged"] = np.zeros(count, dtype=bool) if flagged is None else np.asarray(flagged, dtype=bool)
    for i, name in enumerate(classes):
        rows[f"score_{name}"] = np.asarray(scores)[:, i].astype(np.float64)
        rows[f"prob_{name}"] = np.asarray(probabilities)[:, i].astype(np.float64)
    carried = [c for c in table.columns if c in CARRIED or c.startswith("attr_")]
    rows |= {name: table[name].to_numpy() for name in carried}
    return pd.DataFrame(rows, index=range(count))


def pack_masks(
    table: pd.DataFrame,
    lesion: np.ndarray | None = None,
    fine: np.ndarray | None = None,
    has_lesion: np.ndarray | None = None,
    has_fine: np.ndarray | None = None,
    image: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Frame.masks: `lesion`, `fine`, `image` (N, H, W) uint8 with 255 = 1, `has_*` (N) bool, record_id, finding_id.

    Arrays may come as fractions in [0, 1] or as uint8; masks are 1 on the lesion. `has_*` defaults to all True. Images
    are optional: with them the blind baselines brightness and Sobel can be computed.
    """
    packed = {key: table[key].astype(str).to_numpy().astype(np.str_) for key in ROW_KEY}
    for name, values in (("lesion", lesion), ("fine", fine), ("image", image)):
        if values is not None:
            raw = np.asarray(values)
            packed[name] = raw if raw.dtype == np.uint8 else np.rint(np.clip(raw, 0, 1) * 255).astype(np.uint8)
    for name, flags, present in (("has_lesion", has_lesion, lesion), ("has_fine", has_fine, fine)):
        if present is not None:
            packed[name] = np.ones(len(table), bool) if flags is None else np.asarray(flags, dtype=bool)
    return packed


def _check_rows(frame: Frame) -> None:
    table, where = frame.predictions, "predictions"
    for name in ("track", "classes"):
        if name not in frame.meta:
            raise DataError(f"meta has no {name!r}", "frame.json", "write the frame again")
    wanted = [*COLUMNS, *(f"{kind}_{name}" for name in frame.classes for kind in ("score", "prob"))]
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise DataError(f"no column {missing[0]}", where, f"a frame of {frame.track} has {', '.join(wanted)}")
    if not np.isfinite(frame.scores).all():
        raise DataError("a score is not finite", where, "the model has diverged; train it again at lower rates")
    probabilities = frame.probabilities
    if not ((probabilities >= 0).all() and np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)):
        raise DataError("probabilities of a row do not add up to 1", where, "mend the method's predict")
    labels = frame.labels
    if len(labels) and not (labels.min() >= -1 and labels.max() < len(frame.classes)):
        raise DataError(f"label {labels.max()} is outside the {len(frame.classes)} classes", where, "mend the table")
    if table.duplicated([*ROW_KEY, "track", "fold", "seed", "variant"]).any():
        raise DataError("a record and finding stands twice", where, "give each row once per fold, seed and variant")
    if (table["patient"].astype(str) == "").any():
        raise DataError("a row has no patient", where, "intervals need to know which rows share a patient")


def _check_masks(masks: dict[str, np.ndarray]) -> None:
    count = len(masks.get("record_id", ()))
    for name, values in masks.items():
        if len(values) != count:
            raise DataError(f"{name} has {len(values)} rows, not {count}", "masks.npz", "write the frame again")
    for name in MASK_ARRAYS:
        if name in masks and (masks[name].ndim != 3 or masks[name].dtype != np.uint8):
            raise DataError(f"{name} is not (N, H, W) uint8", "masks.npz", "make it with pack_masks")
