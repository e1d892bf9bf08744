"""Activation precision (paper 002, Eq. 9) and what a blind map would get (docs/metrics/skill.md).

Shapes: n maps, h w cells, H W pixels of the mask. Masks are 1 on the lesion and keep the fractions that resizing left.
"""

from typing import Literal

import numpy as np
import pandas as pd
from scipy import ndimage

from bench.metrics.agreement import ratio
from bench.metrics.frame import ROW_KEY, Frame
from bench.metrics.parts import NotComputableError, Part, part_of_totals

TAU = 0.95  # paper 002: the top 5 % of the map's pixels
Scale = Literal["lesion", "fine"]
Of = Literal["true", "predicted"]
Average = Literal["pairs", "images"]
_CHUNK = 8_000_000  # pixels held as float64 at a time

NEARLY_PERFECT = 0.98  # above it the skill's denominator is too small to divide by


def interpolation(cells: int, pixels: int) -> np.ndarray:
    """(pixels, cells) weights of linear interpolation with half-pixel centres, the edge repeated."""
    source = np.maximum((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0)
    low = np.minimum(source.astype(np.int64), cells - 1)
    high = np.minimum(low + 1, cells - 1)
    weights = np.zeros((pixels, cells))
    np.add.at(weights, (np.arange(pixels), low), 1 - (source - low))
    np.add.at(weights, (np.arange(pixels), high), source - low)
    return weights


def upsample(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(n, h, w) -> (n, H, W), bilinear."""
    if maps.shape[1:] == size:
        return np.asarray(maps, dtype=np.float64)
    rows, columns = interpolation(maps.shape[1], size[0]), interpolation(maps.shape[2], size[1])
    return np.asarray(rows @ maps.astype(np.float64) @ columns.T)


def most_active(maps: np.ndarray, tau: float = TAU) -> np.ndarray:
    """(n, H, W) bool: pixels at or above the map's tau quantile, interpolated linearly.

    All pixels at the threshold count: a map that is zero on more than tau of its pixels is active everywhere, which
    `ap_pixels` shows.
    """
    threshold = np.quantile(maps.reshape(len(maps), -1), tau, axis=1)
    return maps >= threshold[:, None, None]


def precision(active: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(n,) share of the active pixels that lies on the mask; active and masks (n, H, W)."""
    return np.asarray(np.sum(active * masks, axis=(1, 2)) / active.sum(axis=(1, 2)))


def blind_maps(size: tuple[int, int], image: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Maps (H, W) that know no network: nearness to the centre; of an image also its brightness and its Sobel edges."""
    height, width = size
    rows, columns = (np.arange(height) + 0.5) / height - 0.5, (np.arange(width) + 0.5) / width - 0.5
    found = {"centre": -np.hypot(rows[:, None], columns[None, :])}
    if image is not None:
        grey = image.astype(np.float64)
        found["brightness"] = grey
        found["sobel"] = np.hypot(ndimage.sobel(grey, axis=0), ndimage.sobel(grey, axis=1))
    return found


# ---- tables of a frame ----------------------------------------------------------------------------------------------
def mask_table(frame: Frame) -> pd.DataFrame:
    """One row per labelled row of the frame that stands among the masks, with `place`, its position there.

    share_<scale>: share of the image that the mask covers; <blind>_<scale>: precision of each blind map; NaN: no mask.
    """
    table: pd.DataFrame = frame.cached("mask table", lambda: _mask_table(frame))
    return table


def _mask_table(frame: Frame) -> pd.DataFrame:
    masks, rows = frame.masks, frame.labelled()
    if not masks or not any(f"has_{scale}" in masks for scale in ("lesion", "fine")):
        raise NotComputableError("the frame has no masks")
    facts = rows.predictions[[*ROW_KEY, "patient", "fold", "label"]].astype(dict.fromkeys(ROW_KEY, str))
    places = pd.DataFrame({key: masks[key] for key in ROW_KEY} | {"place": np.arange(len(masks["record_id"]))})
    table = facts.merge(places.astype(dict.fromkeys(ROW_KEY, str)), on=ROW_KEY, how="inner").reset_index(drop=True)
    size = next(masks[scale].shape[1:] for scale in ("lesion", "fine") if scale in masks)
    blind = _blind_precision(masks, table["place"].to_numpy(), size)
    for name, values in blind.items():
        table[name] = values
    return table


def _blind_precision(masks: dict[str, np.ndarray], places: np.ndarray, size: tuple[int, int]) -> dict[str, np.ndarray]:
    names = ["share", "centre", *(["brightness", "sobel"] if "image" in masks else [])]
    scales = [scale for scale in ("lesion", "fine") if scale in masks]
    found = {f"{name}_{scale}": np.full(len(places), np.nan) for name in names for scale in scales}
    centre = most_active(blind_maps(size)["centre"][None])
    for i, place in enumerate(places):
        active = {"centre": centre}
        if "image" in masks:
            drawn = blind_maps(size, masks["image"][place])
            active |= {name: most_active(drawn[name][None]) for name in ("brightness", "sobel")}
        for scale in scales:
            if masks[f"has_{scale}"][place]:
                mask = masks[scale][place][None] / 255.0
                found[f"share_{scale}"][i] = mask.mean()
                for name, pixels in active.items():
                    found[f"{name}_{scale}"][i] = precision(pixels, mask)[0]
    return found


def chosen_map(frame: Frame) -> str:
    """Which map a frame is judged by: that of its variant, else the first with sources, else the first."""
    if frame.maps is None or frame.maps.entries.empty:
        raise NotComputableError("the frame has no maps")
    entries = frame.maps.entries
    named = dict(frame.meta.get("variant_maps") or {}).get(frame.variants[0])
    if named is not None:
        if named not in set(entries["map"]):
            raise NotComputableError(f"the frame has no map {named!r}")
        return str(named)
    sourced = entries.loc[entries["source"] != "", "map"]
    return str(sourced.iloc[0] if len(sourced) else entries["map"].iloc[0])


def pair_table(frame: Frame, name: str | None = None) -> pd.DataFrame:
    """One row per (image, map): `lesion` and `fine` precision (NaN: no mask), `pixels` = share of active pixels.

    name: which map; default: `chosen_map`. Where a map has sources (prototypes), its rows are those of the sources.
    """
    wanted = name or chosen_map(frame)
    table: pd.DataFrame = frame.cached(f"pairs of {wanted}", lambda: _pair_table(frame, wanted))
    return table


def _pair_table(frame: Frame, name: str) -> pd.DataFrame:
    assert frame.maps is not None
    table, masks = mask_table(frame), frame.masks
    assert masks is not None
    entries = frame.maps.entries
    entries = entries[entries["map"] == name].astype(dict.fromkeys(ROW_KEY, str))
    if (entries["source"] != "").any():
        entries = entries[entries["source"] != ""]
    pairs = entries.merge(table, on=ROW_KEY, how="inner").reset_index(drop=True)
    if pairs.empty:
        raise NotComputableError(f"no labelled row has both a mask and a map {name!r}")
    scales = [scale for scale in ("lesion", "fine") if scale in masks]
    size = masks[scales[0]].shape[1:]
    found = {column: np.full(len(pairs), np.nan) for column in ("pixels", *scales)}
    step = max(1, _CHUNK // int(np.prod(size)))
    for index in pairs.groupby("key").indices.values():
        for start in range(0, len(index), step):
            part = index[start : start + step]
            active = most_active(upsample(frame.maps.read(pairs.iloc[part]), size))
            place = pairs["place"].to_numpy()[part]
            found["pixels"][part] = active.mean(axis=(1, 2))
            for scale in scales:
                value = precision(active, masks[scale][place] / 255.0)
                found[scale][part] = np.where(masks[f"has_{scale}"][place], value, np.nan)
    return pairs.assign(**found)


# ---- parts ----------------------------------------------------------------------------------------------------------
def activation_precision(
    frame: Frame, scale: Scale = "lesion", of: Of = "true", average: Average = "pairs", name: str | None = None
) -> Part:
    """Mean precision over all (image, map) pairs of the class (the authors' code), or over images of their mean."""
    return _mean(_pairs_of(frame, scale, of, name), [scale], average)


def active_pixels(frame: Frame, of: Of = "true") -> Part:
    """Share of pixels that count as active: 0.05 unless the map has ties at its threshold."""
    return _mean(_pairs_of(frame, None, of), ["pixels"], "pairs")


def blind(frame: Frame, scale: Scale, name: str) -> Part:
    """Precision of a blind map (share: of one drawn at random), weighted as the method's own maps, if it has any."""
    column = f"{name}_{scale}"
    try:
        table = _pairs_of(frame, scale, "true")
    except NotComputableError:
        table = mask_table(frame)
    if column not in table.columns or not table[column].notna().any():
        why = f"no row has a {scale} mask" if name in ("share", "centre") else "the frame keeps no images"
        raise NotComputableError(why)
    return _mean(table[table[column].notna()], [column], "pairs")


def skill(frame: Frame, scale: Scale, of: Of = "true") -> Part:
    """(AP - AP of the best blind map) / (1 - AP of the best blind map); 0 = no better than blind, below 0 worse."""
    pairs = _pairs_of(frame, scale, of)
    names = [name for name in ("share", "centre", "brightness", "sobel") if f"{name}_{scale}" in pairs.columns]
    means = {name: float(pairs[f"{name}_{scale}"].mean()) for name in names}
    best = max(means, key=lambda name: means[name])
    if means[best] > NEARLY_PERFECT:  # nothing is left to be skilful in: the ratio would be noise over noise
        raise NotComputableError(f"the blind map {best} already reaches {means[best]:.3f}")

    def value(totals: np.ndarray) -> np.ndarray:
        own = totals[..., 0] / totals[..., -1]
        top = np.max(totals[..., 1:-1], axis=-1) / totals[..., -1]
        return np.asarray((own - top) / (1 - top))

    columns = [scale, *(f"{name}_{scale}" for name in names)]
    note = f"best blind map: {best} {means[best]:.3f}" + ("" if "sobel" in names else "; no images, so no Sobel")
    return _part(pairs, columns, value, note, lowest=-np.inf)


def _pairs_of(frame: Frame, scale: Scale | None, of: Of, name: str | None = None) -> pd.DataFrame:
    pairs = pair_table(frame, name)
    pairs = pairs[pairs["of"].isin([of, "both"])]
    if scale is not None:
        if scale not in pairs.columns:
            raise NotComputableError(f"the frame has no {scale} masks")
        pairs = pairs[pairs[scale].notna()]
    if pairs.empty:
        lacking = f" and a {scale} mask" if scale else ""
        raise NotComputableError(f"no labelled row has a map of its {of} class{lacking}")
    return pairs


def _mean(pairs: pd.DataFrame, columns: list[str], average: Average) -> Part:
    if average == "images":
        keys = [*ROW_KEY, "patient", "fold", "label"]
        pairs = pairs.groupby(keys, as_index=False)[columns].mean()
    images = len(pairs.drop_duplicates(ROW_KEY))
    note = f"{len(pairs)} maps of {images} images" if len(pairs) != images else ""
    return _part(pairs, columns, ratio, note)


def _part(pairs: pd.DataFrame, columns: list[str], value, note: str, lowest: float = 0.0) -> Part:  # type: ignore[no-untyped-def]
    rows = np.concatenate([pairs[columns].to_numpy(dtype=np.float64), np.ones((len(pairs), 1))], axis=1)
    patients, folds, labels = (pairs[name].to_numpy() for name in ("patient", "fold", "label"))
    images = len(pairs.drop_duplicates(ROW_KEY))
    return part_of_totals(rows, patients, folds, labels.astype(np.int64), value, n=images, note=note, lowest=lowest)
