"""Lesion-free regions of films: the negative class of paper 000's supplement, for the training side alone.

Of normal films where a data set has any; else off-lesion regions of the films that it has, at least half breast.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from data._breast import breast_part
from data.inputs import Roi
from data.record import Box, Record
from data.roi import window

PER_FILM = 4  # the paper's pool of 5000 is about that for the 1231 training films of CBIS-DDSM
BREAST = 0.5  # share of a region that is breast, at least
TRIES = 50
KIND = "negative"  # of a row of samples
_STREAM = 7002  # names the stream of draws


def sources(records: Sequence[Record], table: pd.DataFrame) -> list[Record]:
    """Films of the table that regions are taken from: the normal ones, or else all whose every lesion is placed. No edited copy."""
    rows = table[table["counterfactual_of"] == ""].groupby("record_id")
    known = rows["lesions_known"].all()
    normal = known & (rows["has_mass"].max() == 0)
    wanted = set(normal.index[normal]) or set(known.index[known])
    return [record for record in records if record.record_id in wanted]


def sizes(table: pd.DataFrame) -> list[tuple[int, int]]:
    """Widths and heights of the boxes of masses: 101 quantiles of each, what the size of a region is drawn from."""
    masses = table[(table["kind"] == "mass") & (table["counterfactual_of"] == "")]
    if masses.empty:
        return []
    sides = (masses["x1"] - masses["x0"], masses["y1"] - masses["y0"])
    widths, heights = (np.quantile(side, np.linspace(0, 1, 101)).round().astype(int) for side in sides)
    return list(zip(widths.tolist(), heights.tolist(), strict=True))


def lesion_free(
    film: np.ndarray,
    record_id: str,
    lesions: Sequence[Box],
    wanted: Sequence[tuple[int, int]],
    roi: Roi,
    margin: float,
) -> list[Box]:
    """Up to PER_FILM boxes in a film (H, W) whose windows meet no lesion's box and are at least half breast.

    wanted: widths and heights to draw from. The draws depend on the film's id alone.
    """
    seed = int.from_bytes(hashlib.sha256(record_id.encode()).digest()[:8], "big")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_STREAM,))))
    height, width = film.shape
    part = breast_part(film)
    if part is None or not wanted:
        return []
    found: list[Box] = []
    for _ in range(TRIES):
        if len(found) == PER_FILM:
            break
        w, h = wanted[int(rng.integers(len(wanted)))]
        x, y = int(rng.integers(max(1, width - w + 1))), int(rng.integers(max(1, height - h + 1)))
        box = (x, y, min(x + w, width), min(y + h, height))
        seen = window(box, (height, width), roi, None, margin)
        if not any(_meet(seen, lesion) for lesion in lesions) and _share(*part, seen) >= BREAST:
            found.append(box)
    return found


def drawn(index: pd.DataFrame, table: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """`count` rows of samples (fewer where there are no more) for the regions of an index, drawn once per seed.

    index: of the regions' pixels (rows.parquet). The rows have the columns of `table`, with no label, no box and masks
    that are known to be empty.
    """
    mine = index.sort_values(["record_id", "finding_id"])
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_STREAM,))))
    mine = mine.iloc[np.sort(rng.permutation(len(mine))[:count])]
    first = table.drop_duplicates("record_id").set_index("record_id")
    rows = first.loc[mine["record_id"]].reset_index()
    none: dict[str, Any] = {"lesion_id": "", "kind": KIND, "margin": -1, "malignant": -1, "has_mass": 0, "area_px": 0, "mask_hash": "",
            "fine_hash": "", "has_mask": True, "has_fine": True} | dict.fromkeys(("x0", "y0", "x1", "y1"), -1)  # fmt: skip
    rows = rows.assign(**none, finding_id=mine["finding_id"].to_numpy())
    return rows.merge(mine, on=["record_id", "finding_id"], validate="one_to_one", sort=False)


def _share(breast: np.ndarray, factor: int, seen: Box) -> float:
    """Share of a window that is breast; what lies beyond the film is none."""
    x0, y0, x1, y1 = (round(edge / factor) for edge in seen)
    inside = breast[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)]
    return float(inside.sum()) / max(1, (x1 - x0) * (y1 - y0))


def _meet(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
