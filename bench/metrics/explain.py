"""Where maps lie: activation precision (paper 002, Eq. 9), pointing game, energy in mask, and what blind maps get
(docs/metrics/skill.md).

Shapes: n maps, h w cells, H W pixels of the mask. Masks are 1 on the lesion and keep the fractions that resizing left.
A score is a mean of the mask, weighted by what it reads of the map: "" its most active pixels, "pointing_" its highest
ones, "energy_" its positive values. Columns of tables are <score><scale> for the method's maps, <score><blind>_<scale>.
"""

from typing import Literal

import numpy as np
import pandas as pd
from scipy import ndimage

from bench.metrics.agreement import ratio
from bench.metrics.frame import ROW_KEY, Frame
from bench.metrics.maps import UNTRAINED, judged
from bench.metrics.parts import NotComputableError, Part, part_of_totals

TAU = 0.95  # paper 002: the top 5 % of the map's pixels
EQUAL = 1e-9  # of a map's range: pixels closer than this are equally high, as interpolation rounds
Scale = Literal["lesion", "fine"]
Of = Literal["true", "predicted"]
Average = Literal["pairs", "images"]
Score = Literal["", "pointing_", "energy_"]
SCALES: tuple[Scale, ...] = ("lesion", "fine")
SCORES: tuple[Score, ...] = ("", "pointing_", "energy_")
_CHUNK = 1 << 20  # pixels of the maps read at a time: what a cache holds is faster than what memory does

NEARLY_PERFECT = 0.98  # above it the skill's denominator is too small to divide by
DRAWN = ("brightness", "sobel")  # blind maps that are made of the image
BLIND = {
    "share": "area share",
    "centre": "centre",
    "brightness": "brightness",
    "sobel": "edges",
    "random": "random weights",
}


# ---- maps -----------------------------------------------------------------------------------------------------------
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


def highest(maps: np.ndarray) -> np.ndarray:
    """(n, H, W) bool: the map's maximum; of equally high pixels all, so that none of them is favoured.

    The pointing game of a drawn map is then what a point that is drawn among them gets in the mean.
    """
    top = maps.max(axis=(1, 2), keepdims=True)
    return maps >= top - EQUAL * (top - maps.min(axis=(1, 2), keepdims=True))


def positive(maps: np.ndarray) -> np.ndarray:
    """(n, H, W): the map with its negative values cut off; a map without a positive one says nothing and becomes flat."""
    cut = np.maximum(maps, 0)
    return np.where(cut.any(axis=(1, 2), keepdims=True), cut, 1.0)


def precision(weights: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(n,) share of the weights, or of the active pixels, that lies on the mask; weights and masks (n, H, W)."""
    return np.asarray(np.sum(weights * masks, axis=(1, 2)) / weights.sum(axis=(1, 2)))


def reading(maps: np.ndarray) -> dict[Score, np.ndarray]:
    """What each score weights the mask by, (n, H, W)."""
    return {"": most_active(maps), "pointing_": highest(maps), "energy_": positive(maps)}


def blind_maps(size: tuple[int, int], image: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Maps (H, W), 0 or more, that know no network: nearness to the centre, which falls evenly to 0 in the corners; of
    an image also its brightness and its Sobel edges."""
    height, width = size
    rows, columns = (np.arange(height) + 0.5) / height - 0.5, (np.arange(width) + 0.5) / width - 0.5
    found = {"centre": np.hypot(0.5, 0.5) - np.hypot(rows[:, None], columns[None, :])}
    if image is not None:
        grey = image.astype(np.float64)
        found["brightness"] = grey
        found["sobel"] = np.hypot(ndimage.sobel(grey, axis=0), ndimage.sobel(grey, axis=1))
    return found


# ---- tables of a frame ----------------------------------------------------------------------------------------------
def mask_table(frame: Frame) -> pd.DataFrame:
    """One row per labelled row of the frame that stands among the masks, with `place`, its position there.

    share_<scale>: share of the image that the mask covers; <score><blind>_<scale>: each blind map's; NaN: no mask.
    """
    table: pd.DataFrame = frame.shared("mask table", lambda: _mask_table(frame))
    return table


def _mask_table(frame: Frame) -> pd.DataFrame:
    masks, rows = frame.masks, frame.labelled()
    if not masks or not any(f"has_{scale}" in masks for scale in SCALES):
        raise NotComputableError("the frame has no masks")
    facts = rows.predictions[[*ROW_KEY, "patient", "fold", "label"]].astype(dict.fromkeys(ROW_KEY, str))
    places = pd.DataFrame({key: masks[key] for key in ROW_KEY} | {"place": np.arange(len(masks["record_id"]))})
    table = facts.merge(places.astype(dict.fromkeys(ROW_KEY, str)), on=ROW_KEY, how="inner").reset_index(drop=True)
    size = next(masks[scale].shape[1:] for scale in SCALES if scale in masks)
    return table.assign(**_blind_scores(masks, table["place"].to_numpy(), size))


def _blind_scores(masks: dict[str, np.ndarray], places: np.ndarray, size: tuple[int, int]) -> dict[str, np.ndarray]:
    maps = ["centre", *(DRAWN if "image" in masks else ())]
    scales = [scale for scale in SCALES if scale in masks]
    columns = [
        *(_column("", "share", s) for s in scales),
        *(_column(c, m, s) for c in SCORES for m in maps for s in scales),
    ]
    found = {column: np.full(len(places), np.nan) for column in columns}
    centre = reading(blind_maps(size)["centre"][None])
    for i, place in enumerate(places):
        read = {"centre": centre}
        if "image" in masks:
            drawn = blind_maps(size, masks["image"][place])
            read |= {name: reading(drawn[name][None]) for name in DRAWN}
        for scale in scales:
            if masks[f"has_{scale}"][place]:
                mask = masks[scale][place][None] / 255.0
                found[_column("", "share", scale)][i] = mask.mean()
                for name, weights in read.items():
                    for score in SCORES:
                        found[_column(score, name, scale)][i] = precision(weights[score], mask)[0]
    return found


def _column(score: Score, blind: str, scale: Scale) -> str:
    """A pixel drawn at random gets the mask's share by every score."""
    return f"share_{scale}" if blind == "share" else f"{score}{blind}_{scale}"


def chosen_map(frame: Frame) -> str:
    """Which map a frame is judged by (bench.metrics.maps.judged)."""
    if frame.maps is None or frame.maps.entries.empty:
        raise NotComputableError("the frame has no maps")
    entries = frame.maps.entries[~frame.maps.entries["map"].str.startswith(UNTRAINED)]
    named = dict(frame.meta.get("variant_maps") or {}).get(frame.variants[0])
    if named is not None and named not in set(entries["map"]):
        raise NotComputableError(f"the frame has no map {named!r}")
    sourced = entries.loc[entries["source"] != "", "map"]
    return judged(list(entries["map"].unique()), None if sourced.empty else str(sourced.iloc[0]), named)


def pair_table(frame: Frame, name: str | None = None) -> pd.DataFrame:
    """One row per (image, map): <score><scale> of the map (NaN: no mask), `pixels` = share of active pixels, and the
    columns of `mask_table`; <score>random_<scale>: mean of the maps that the untrained copy makes of the image.

    name: which map; default: `chosen_map`. Where a map has sources (prototypes), its rows are those of the sources.
    """
    wanted = name or chosen_map(frame)
    table: pd.DataFrame = frame.cached(f"pairs of {wanted}", lambda: _pair_table(frame, wanted))
    return table


def _pair_table(frame: Frame, name: str) -> pd.DataFrame:
    pairs = _scored(frame, name)
    if pairs.empty:
        raise NotComputableError(f"no labelled row has both a mask and a map {name!r}")
    columns = [f"{score}{scale}" for score in SCORES for scale in SCALES if f"{score}{scale}" in pairs.columns]
    untrained = _scored(frame, UNTRAINED + name).groupby(ROW_KEY, as_index=False)[columns].mean()
    names = {f"{score}{scale}": _column(score, "random", scale) for score in SCORES for scale in SCALES}
    return pairs.merge(untrained.rename(columns=names), on=ROW_KEY, how="left")


def _scored(frame: Frame, name: str) -> pd.DataFrame:
    """The entries of one map whose rows stand in `mask_table`, its columns, `pixels` and <score><scale> of each."""
    assert frame.maps is not None
    table, masks = mask_table(frame), frame.masks
    assert masks is not None
    entries = frame.maps.entries
    entries = entries[entries["map"] == name].astype(dict.fromkeys(ROW_KEY, str))
    if (entries["source"] != "").any():
        entries = entries[entries["source"] != ""]
    pairs = entries.merge(table, on=ROW_KEY, how="inner").reset_index(drop=True)
    scales = [scale for scale in SCALES if scale in masks]
    size = masks[scales[0]].shape[1:]
    found = {name: np.full(len(pairs), np.nan) for name in ("pixels", *(c + s for c in SCORES for s in scales))}
    step = max(1, _CHUNK // int(np.prod(size)))
    for index in pairs.groupby("key").indices.values():
        for start in range(0, len(index), step):
            part = index[start : start + step]
            read = reading(upsample(frame.maps.read(pairs.iloc[part]), size))
            place = pairs["place"].to_numpy()[part]
            found["pixels"][part] = read[""].mean(axis=(1, 2))
            for scale in scales:
                mask = masks[scale][place] / 255.0
                for score, weights in read.items():
                    found[score + scale][part] = np.where(
                        masks[f"has_{scale}"][place], precision(weights, mask), np.nan
                    )
    return pairs.assign(**found)


# ---- parts ----------------------------------------------------------------------------------------------------------
def activation_precision(
    frame: Frame, scale: Scale = "lesion", of: Of = "true", average: Average = "pairs", name: str | None = None
) -> Part:
    """Mean precision over all (image, map) pairs of the class (the authors' code), or over images of their mean."""
    return _mean(_pairs_of(frame, scale, of, name), [scale], average)


def located(frame: Frame, scale: Scale, of: Of, score: Score) -> Part:
    """Mean of another score over all (image, map) pairs of the class."""
    return _mean(_pairs_of(frame, scale, of), [score + scale], "pairs", proportion=score == "pointing_")


def active_pixels(frame: Frame, of: Of = "true") -> Part:
    """Share of pixels that count as active: 0.05 unless the map has ties at its threshold."""
    return _mean(_pairs_of(frame, None, of), ["pixels"], "pairs")


def blind(frame: Frame, scale: Scale, name: str) -> Part:
    """Precision of a blind map (share: of one drawn at random), weighted as the method's own maps, if it has any."""
    table, column = _weighed(frame, scale), _column("", name, scale)
    if table.reindex(columns=[column])[column].isna().any():
        why = "the frame keeps no images" if name in DRAWN else "the frame keeps no map of an untrained copy"
        raise NotComputableError(why)
    return _mean(table, [column], "pairs")


def best_blind(frame: Frame, scale: Scale, score: Score) -> Part:
    """What the best blind map gets by this score, chosen anew in each resample; the note gives all of them."""
    table = _weighed(frame, scale)
    columns = {name: _column(score, name, scale) for name in BLIND}
    means = {name: _known_mean(table, column) for name, column in columns.items()}
    note = ", ".join(f"{BLIND[name]} {mean:.3f}" for name, mean in means.items() if np.isfinite(mean))

    def value(totals: np.ndarray) -> np.ndarray:
        return np.asarray(np.fmax.reduce(totals[..., :-1], axis=-1) / totals[..., -1])

    return _part(table, list(columns.values()), value, note)


def skill(frame: Frame, scale: Scale, of: Of = "true") -> Part:
    """(AP - AP of the best blind map) / (1 - AP of the best blind map); 0 = no better than blind, below 0 worse."""
    pairs = _pairs_of(frame, scale, of)
    columns = {name: _column("", name, scale) for name in BLIND}
    means = {name: _known_mean(pairs, column) for name, column in columns.items()}
    best = max(means, key=lambda name: np.nan_to_num(means[name], nan=-1.0))
    if means[best] > NEARLY_PERFECT:  # nothing is left to be skilful in: the ratio would be noise over noise
        raise NotComputableError(f"the blind map {best} already reaches {means[best]:.3f}")

    def value(totals: np.ndarray) -> np.ndarray:
        own = totals[..., 0] / totals[..., -1]
        top = np.fmax.reduce(totals[..., 1:-1], axis=-1) / totals[..., -1]
        return np.asarray((own - top) / (1 - top))

    note = f"best blind map: {best} {means[best]:.3f}"
    note += "; no images, so no Sobel" if np.isnan(means["sobel"]) else ""
    note += "; no untrained copy" if np.isnan(means["random"]) else ""
    return _part(pairs, [scale, *columns.values()], value, note, lowest=-np.inf)


def _known_mean(table: pd.DataFrame, column: str) -> float:
    """NaN where a row lacks the value: a blind map is compared on all rows or not at all."""
    return float(table[column].mean(skipna=False)) if column in table.columns else float("nan")


def _weighed(frame: Frame, scale: Scale) -> pd.DataFrame:
    """The rows that blind maps are averaged over: pairs of the true class, else of the predicted one, else images."""
    for of in ("true", "predicted"):
        try:
            return _pairs_of(frame, scale, of)
        except NotComputableError:
            continue
    table, share = mask_table(frame), _column("", "share", scale)
    if share not in table.columns or not table[share].notna().any():
        raise NotComputableError(f"no row has a {scale} mask")
    return table[table[share].notna()]


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


def _mean(pairs: pd.DataFrame, columns: list[str], average: Average, proportion: bool = False) -> Part:
    if average == "images":
        keys = [*ROW_KEY, "patient", "fold", "label"]
        pairs = pairs.groupby(keys, as_index=False)[columns].mean()
    images = len(pairs.drop_duplicates(ROW_KEY))
    note = f"{len(pairs)} maps of {images} images" if len(pairs) != images else ""
    return _part(pairs, columns, ratio, note, proportion=proportion)


def _part(pairs: pd.DataFrame, columns: list[str], value, note: str, **more) -> Part:  # type: ignore[no-untyped-def]
    """A column that the table lacks becomes NaN, which `value` has to pass over."""
    held = pairs.reindex(columns=columns).to_numpy(dtype=np.float64)
    rows = np.concatenate([held, np.ones((len(pairs), 1))], axis=1)
    patients, folds, labels = (pairs[name].to_numpy() for name in ("patient", "fold", "label"))
    images = len(pairs.drop_duplicates(ROW_KEY))
    return part_of_totals(rows, patients, folds, labels.astype(np.int64), value, n=images, note=note, **more)
