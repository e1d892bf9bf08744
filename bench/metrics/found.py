"""What a frame of whole films finds: the boxes of its maps, or a detector's own, against the lesions; and those of blind maps.

Shapes: N films that count, T thresholds, H W the method's input in pixels. All of it is cached in the frame.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy import ndimage

from bench.metrics import detection
from bench.metrics.detection import Regions
from bench.metrics.explain import blind_maps, upsample
from bench.metrics.frame import ROW_KEY, Frame
from bench.metrics.maps import UNTRAINED, judged
from bench.metrics.parts import NotComputableError
from data.tracks import TRACKS

SMOOTH = 1 / 64  # of the film's longer side: sigma of the Gaussian without which every speck of a film is a region
Source = Literal["own", "brightness", "centre", "random"]
BLIND: tuple[Source, ...] = get_args(Source)[1:]


@dataclass(frozen=True, eq=False)
class Films:
    """The labelled films that count, and their lesions: N arrays (m, 4) in input pixels, empty on normal films.

    probability: (N) of the class whose lesions are searched for, at position `mass`. unplaced: films with a mass of which no box
    is known; they are left out, since a box on them may be right or wrong.
    """

    rows: pd.DataFrame
    probability: np.ndarray
    lesions: list[np.ndarray]
    size: tuple[int, int]
    mass: int
    unplaced: int

    @property
    def normal(self) -> np.ndarray:
        """(N,) bool."""
        return (self.rows["label"] != self.mass).to_numpy()

    @property
    def count(self) -> int:
        """How many lesions there are."""
        return sum(len(boxes) for boxes in self.lesions)


@dataclass(frozen=True, eq=False)
class Found:
    """Of each film: regions at the thresholds in input pixels, tally (N, T, 3) TP FP FN; lesions: the score of each (-inf: not
    found), false: the scores of the boxes that hit none, of the boxes of all thresholds merged."""

    regions: list[Regions]
    tally: np.ndarray
    lesions: list[np.ndarray]
    false: list[np.ndarray]


def films(frame: Frame) -> Films:
    """Raises NotComputableError where the frame does not know where its lesions lie."""
    made: Films = frame.cached("films", lambda: _films(frame))
    return made


def found(frame: Frame, source: Source = "own") -> Found:
    """What the method's boxes find, or a blind map's. Raises NotComputableError where the frame lacks what it needs."""
    keep = frame.shared if source in ("brightness", "centre") else frame.cached  # no network has a part in these
    made: Found = keep(f"found by {source}", lambda: _MAKERS[source](frame, films(frame)))
    return made


def _films(frame: Frame) -> Films:
    rows, searched = frame.labelled(), TRACKS[frame.track].searched
    if searched is None or "truth" not in rows.predictions.columns or not frame.meta.get("size"):
        raise NotComputableError("the frame does not hold the boxes of lesions")
    lesions = [_boxes(value, 4) for value in rows.predictions["truth"]]
    mass = rows.labels == searched
    unplaced = mass & np.array([len(boxes) == 0 for boxes in lesions], bool)
    if not (mass & ~unplaced).any():
        raise NotComputableError("no labelled mass has a box")
    kept = [boxes if is_mass else boxes[:0] for boxes, is_mass in zip(lesions, mass, strict=True)]
    height, width = (int(side) for side in frame.meta["size"])
    return Films(
        rows.predictions[~unplaced].reset_index(drop=True).astype(dict.fromkeys(ROW_KEY, str)),
        rows.probabilities[~unplaced, searched],
        [boxes for boxes, out in zip(kept, unplaced, strict=True) if not out],
        (height, width),
        searched,
        int(unplaced.sum()),
    )


def _boxes(value: object, columns: int) -> np.ndarray:
    """(n, columns) of a cell's list of floats; a missing one is empty."""
    flat = np.zeros(0) if value is None else np.atleast_1d(np.asarray(value, dtype=np.float64))
    return np.asarray(flat[np.isfinite(flat)].reshape(-1, columns))


# ---- the method's own -----------------------------------------------------------------------------------------------
def _own(frame: Frame, these: Films) -> Found:
    """A detector's boxes with their scores, else the regions of the map with probability x the highest value in each."""
    if _gives_boxes(these):
        boxes = [_boxes(value, 5) for value in these.rows["boxes"]]
        return _gathered(these, [detection.of_scores(one) for one in boxes], [(one[:, :4], one[:, 4]) for one in boxes])
    regions = _of_maps(frame, these, own_map(frame, these.mass))
    # what is negative in a map speaks against a mass: it is no score that a low probability could raise
    return _merged(these, regions, [p * np.maximum(r.peak, 0) for p, r in zip(these.probability, regions, strict=True)])


def of_level(frame: Frame, level_N: np.ndarray) -> Found:
    """What the method's regions of one threshold a film find, each with one box; a detector's boxes are such as they are."""
    these, here = films(frame), found(frame)
    if _gives_boxes(these):
        return here
    kept = [one.level == level for one, level in zip(here.regions, level_N, strict=True)]
    boxes = [
        (one.boxes[which], p * np.maximum(one.peak[which], 0))
        for one, which, p in zip(here.regions, kept, these.probability, strict=True)
    ]
    pairs = [detection.free_response(*one, truth) for one, truth in zip(boxes, these.lesions, strict=True)]
    return replace(here, lesions=[best for best, _ in pairs], false=[false for _, false in pairs])


def _gives_boxes(these: Films) -> bool:
    return "boxes" in these.rows.columns and bool(these.rows["boxes"].notna().any())


def own_map(frame: Frame, mass: int) -> str:
    """Which map boxes are read from: that of the frame's first variant, of this class and not of a part of the method."""
    if frame.maps is None or frame.maps.entries.empty:
        raise NotComputableError("the frame has no maps")
    entries = frame.maps.entries
    whole = entries[(entries["source"] == "") & (entries["class"] == mass)]
    names = list(whole.loc[~whole["map"].str.startswith(UNTRAINED), "map"].unique())
    named = dict(frame.meta.get("variant_maps") or {}).get(frame.variants[0])
    if not names or (named is not None and named not in names):
        raise NotComputableError(f"the frame has no map{f' {named!r}' if named else ''} of class {frame.classes[mass]}")
    return judged(names, None, named)


def _of_maps(frame: Frame, these: Films, name: str) -> list[Regions]:
    """The regions of one map, film by film. Raises NotComputableError unless every film has it."""
    assert frame.maps is not None
    entries = frame.maps.entries
    chosen = entries[(entries["map"] == name) & (entries["class"] == these.mass) & (entries["source"] == "")]
    chosen = chosen.astype(dict.fromkeys(ROW_KEY, str)).drop_duplicates(ROW_KEY)
    rows = these.rows[ROW_KEY].assign(place=np.arange(len(these.rows)))
    read = rows.merge(chosen, on=ROW_KEY, how="inner")
    if len(read) < len(rows):
        raise NotComputableError(f"{len(rows) - len(read)} of {len(rows)} films have no map {name!r}")
    made: dict[int, Regions] = {}
    for _, part in read.groupby("key"):
        for start in range(0, len(part), 16):  # 16 maps of the grid at a time
            some = part.iloc[start : start + 16]
            made |= dict(zip(some["place"], _on_the_grid(frame.maps.read(some), these.size), strict=True))
    return [made[place] for place in range(len(rows))]


def _on_the_grid(maps_nhw: np.ndarray, size: tuple[int, int]) -> Iterator[Regions]:
    """Regions in pixels of the input, of maps brought to the grid."""
    grid = detection.grid_of(size)
    for one in upsample(maps_nhw, grid):
        yield detection.regions(one).scaled(size[1] / grid[1], size[0] / grid[0])


# ---- blind maps -----------------------------------------------------------------------------------------------------
def _brightness(frame: Frame, these: Films) -> Found:
    """The film itself, smoothed; a region's score is its highest brightness."""
    masks = frame.masks
    if not masks or "image" not in masks:
        raise NotComputableError("the frame keeps no images")
    places = pd.DataFrame({key: masks[key].astype(str) for key in ROW_KEY} | {"place": np.arange(len(masks["image"]))})
    read = these.rows[ROW_KEY].merge(places.drop_duplicates(ROW_KEY), on=ROW_KEY, how="left")
    if read["place"].isna().any():
        raise NotComputableError("the frame keeps no image of some films")
    sigma = SMOOTH * max(masks["image"].shape[1:])
    regions: list[Regions] = []
    for place in read["place"].astype(int):
        smooth = ndimage.gaussian_filter(masks["image"][place].astype(np.float64), sigma, mode="nearest")
        regions += _on_the_grid(smooth[None], these.size)
    return _merged(these, regions, [one.peak for one in regions])


def _random(frame: Frame, these: Films) -> Found:
    """The same network's map with random weights; a region's score is its highest value."""
    name = UNTRAINED + own_map(frame, these.mass)
    assert frame.maps is not None
    if name not in set(frame.maps.entries["map"]):
        raise NotComputableError("the frame keeps no map of an untrained copy")
    regions = _of_maps(frame, these, name)
    return _merged(these, regions, [one.peak for one in regions])


def _centre(frame: Frame, these: Films) -> Found:
    """Nearness to the centre: the same regions on every film, which no score tells apart (see froc.py, `_points`)."""
    regions = list(_on_the_grid(blind_maps(detection.grid_of(these.size))["centre"][None], these.size)) * len(
        these.rows
    )
    return _merged(these, regions, [one.peak for one in regions])


def _merged(these: Films, regions: list[Regions], scores: list[np.ndarray]) -> Found:
    """The boxes of all thresholds of each film, merged."""
    kept = [detection.merged(one, score) for one, score in zip(regions, scores, strict=True)]
    boxes = [(one.boxes[which], score[which]) for one, score, which in zip(regions, scores, kept, strict=True)]
    return _gathered(these, regions, boxes)


def _gathered(these: Films, regions: list[Regions], boxes: list[tuple[np.ndarray, np.ndarray]]) -> Found:
    tally = np.array([detection.tally(one, truth) for one, truth in zip(regions, these.lesions, strict=True)])
    pairs = [detection.free_response(*one, truth) for one, truth in zip(boxes, these.lesions, strict=True)]
    return Found(regions, tally, [best for best, _ in pairs], [false for _, false in pairs])


_MAKERS: dict[Source, Callable[[Frame, Films], Found]] = {
    "own": _own,
    "brightness": _brightness,
    "centre": _centre,
    "random": _random,
}
