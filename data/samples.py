"""Samples of one side as a method sees them; data/loading.py makes batches of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from data._negatives import KIND as NEGATIVE
from data._store import Joined, PixelSpec, Rows, read_errors
from data._table import per_record, with_origin_labels
from data.errors import DataError
from data.inputs import Inputs, Stream
from data.roi import to_crop
from data.split import Split
from data.tracks import TRACKS, Track


@dataclass(frozen=True)
class Samples:
    """The samples of one side that have a label of `track`. Only their own pixels are within reach.

    `table`: one row per sample, position = Batch.index; the columns of the prepared table plus `label` (of the track),
    `side`, the window in film pixels wx0 wy0 wx1 wy1 that the cached cut shows, and whether it is `flipped`. Unit image:
    one row per record, area_px summed over its masses, malignant the most severe.
    """

    table: pd.DataFrame
    track: Track
    target: Track  # whose labels become Batch.label
    boxes: tuple[np.ndarray, ...]  # per sample (n, 4), pixels of the cached cut
    image: Rows
    mask: Rows
    fine: Rows
    size: tuple[int, int]  # H, W of the input
    overlap_n: int = 0  # windows in the cut that training chooses from (bbox_overlap); 0: the central one

    def __len__(self) -> int:
        return len(self.table)

    def select(self, positions: Sequence[int] | np.ndarray) -> "Samples":
        """The samples at these positions, renumbered."""
        where = np.asarray(positions, dtype=np.int64)
        return replace(
            self,
            table=self.table.iloc[where].reset_index(drop=True),
            boxes=tuple(self.boxes[i] for i in where),
            image=self.image.take(where),
            mask=self.mask.take(where),
            fine=self.fine.take(where),
        )

    def with_masks_of(self, positions: np.ndarray) -> "Samples":
        """The same samples with the masks of those at `positions` (N,)."""
        return replace(self, mask=self.mask.take(positions), fine=self.fine.take(positions))

    def for_track(self, track: str) -> "Samples":
        """Those that have a label of this track; of counterfactuals those whose origin has one."""
        chosen = TRACKS[track]
        edited = f"origin_{chosen.column}" in self.table.columns
        known = self.table[f"origin_{chosen.column}" if edited else chosen.column].to_numpy() >= 0
        found = self.select(np.flatnonzero(known))
        return replace(found, track=chosen, table=found.table.assign(label=found.table[chosen.column]))

    def and_negatives(self, regions: pd.DataFrame, pixels: Path) -> "Samples":
        """These samples and after them lesion-free regions: rows of data/_negatives.py, their pixels, empty masks."""
        images = Rows(pixels / "image.npy", regions["row"].to_numpy(np.int64))
        none = -np.ones(len(regions), np.int64)
        kept = regions.drop(columns=["row", "mask_row", "fine_row"]).assign(label=-1, side=self.table["side"].iloc[0])
        return replace(
            self,
            table=pd.concat([self.table, kept[self.table.columns]], ignore_index=True),
            boxes=(*self.boxes, *(np.zeros((0, 4), np.float32) for _ in range(len(regions)))),
            image=Joined([self.image, images]),
            mask=Joined([self.mask, Rows(pixels / "mask.npy", none)]),
            fine=Joined([self.fine, Rows(pixels / "fine.npy", none)]),
        )

    def members(self, stream: Stream) -> np.ndarray:
        """Positions of the samples that belong to a stream. Raises DataError, naming the stream, if there are none."""
        table = self.table
        negative = table["kind"].to_numpy() == NEGATIVE
        mask = {
            "all": np.ones(len(table), dtype=bool),
            "mask": table["has_mask"].to_numpy(bool),
            "fine": table["has_fine"].to_numpy(bool),
            "mass": table["has_mass"].to_numpy() == 1,
            "normal": table["has_mass"].to_numpy() == 0,
            "negative": negative,
        }[stream.only]
        if stream.only != "negative":  # lesion-free regions are of their own stream alone
            mask = mask & ~negative
        if not mask.any():
            side = table["side"].iloc[0] if len(table) else "side"
            raise DataError(
                f"no {side} sample for the stream {stream.name!r} (only: {stream.only})",
                f"track {self.target.name}",
                "use data that provide it (and masks_kept above 0), or a setting without this stream",
            )
        return np.flatnonzero(mask)

    def epoch_length(self, stream: Stream) -> int:
        """How many samples an epoch holds that walks through this stream."""
        members = self.members(stream)
        if stream.samples_per_class is None:
            return len(members)
        return stream.samples_per_class * len(np.unique(self.columns["label"].numpy()[members]))

    @cached_property
    def columns(self) -> Mapping[str, torch.Tensor]:
        """What a batch copies from the table: label, margin, malignant, has_mask, has_fine."""
        names = {"label": self.target.column, "margin": "margin", "malignant": "malignant"}
        found = {name: torch.tensor(self.table[column].to_numpy(np.int64)) for name, column in names.items()}
        flags = {name: torch.tensor(self.table[name].to_numpy(bool)) for name in ("has_mask", "has_fine")}
        return found | flags


@dataclass(frozen=True)
class TrainingData:
    """What training and search may see. There is no test row in it; its arrays map the rows of their own sides alone."""

    train: Samples
    validation: Samples
    inputs: Inputs
    data_hash: str
    split_hash: str
    validation_pool: Samples  # the validation side whatever its labels

    def validation_for(self, track: str) -> Samples:
        """The validation side labelled for a track that the same training serves."""
        return self.validation_pool.for_track(track)

    def facts(self) -> dict[str, float]:
        """What the training side holds, for the record: findings or images, how many with a mask, lesion-free regions."""
        table = self.train.table
        ours = table[table["kind"] != NEGATIVE]
        counted = {name: float(ours[name].sum()) for name in ("has_mask", "has_fine")}
        return {"samples": float(len(ours)), "lesion_free": float(len(table) - len(ours)), **counted}


def side_samples(
    table: pd.DataFrame,
    split: Split,
    sides: Sequence[str],
    pixels: Path,
    spec: PixelSpec,
    inputs: Inputs,
    record_attributes: Sequence[str],
    *,
    counterfactuals: bool = False,
) -> Samples:
    """All samples of some sides, labelled for inputs.target where they have its label. Unit finding: the masses.

    table: of the prepared data; pixels: the folder that `spec` was cut into. counterfactuals: the edited copies in
    place of the films themselves (never both), with their origin's labels as origin_<column>.
    """
    side = split.sides_of(table)
    edited = table["counterfactual_of"] != ""
    rows = table[side.isin(list(sides)) & (edited == counterfactuals)].assign(side=side)
    if counterfactuals:
        rows = with_origin_labels(rows, table[~edited])
    rows = per_record(rows, record_attributes) if spec.unit == "image" else rows[rows["kind"] == "mass"]
    key = ["record_id", "finding_id"]
    with read_errors(pixels / "rows.parquet"):
        index = pd.read_parquet(pixels / "rows.parquet")
    rows = rows.merge(index, on=key, how="left", validate="one_to_one", sort=False)
    if rows["row"].isna().any():
        raise DataError(
            "a sample has no prepared pixels", str(rows.loc[rows["row"].isna(), "record_id"].iloc[0]), "prepare again"
        )
    films = table[table["kind"] == "mass"].groupby("record_id") if spec.unit == "image" else None
    boxes = tuple(_boxes(row, films, spec) for row in rows.itertuples(index=False))
    for flag, column in (("has_mask", "mask_row"), ("has_fine", "fine_row")):
        rows[column] = rows[column].where(rows[flag], -1)  # masks that are withheld lie in the files, too
    arrays = {
        name: Rows(pixels / f"{name}.npy", rows[column].to_numpy(np.int64))
        for name, column in (("image", "row"), ("mask", "mask_row"), ("fine", "fine_row"))
    }
    target = TRACKS[inputs.target]
    kept = rows.drop(columns=["row", "mask_row", "fine_row"]).assign(label=rows[target.column])
    n = spec.roi.overlap_n if spec.roi.strategy == "bbox_overlap" else 0
    return Samples(kept.reset_index(drop=True), target, target, boxes, size=inputs.size, overlap_n=n, **arrays)


def _boxes(row: Any, films: Any, spec: PixelSpec) -> np.ndarray:
    """The boxes of a sample in pixels of its cut: of its finding, or of all masses of the film."""
    window = (row.wx0, row.wy0, row.wx1, row.wy1)
    if films is None:
        return to_crop(np.array([[row.x0, row.y0, row.x1, row.y1]]), window, spec.cut_size, row.flipped)
    if row.has_mass == 0 or row.record_id not in films.groups:
        return np.zeros((0, 4), np.float32)
    boxes = films.get_group(row.record_id)[["x0", "y0", "x1", "y1"]].to_numpy()
    return to_crop(boxes, window, spec.cut_size, row.flipped)
