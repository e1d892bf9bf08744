"""How many lesions are found at how many false positives per film: FROC, the paper's own reading, validation's threshold, the size
of what is found, and what blind maps find (docs/metrics/froc.md).

A curve is a family of operating points, each with the lesions found and the false positives there; so its value at a number of
false positives is a function of sums over patients. Shapes: N films, P points of a curve, T thresholds.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np

from bench.metrics import detection, operating
from bench.metrics.agreement import ratio
from bench.metrics.detection import CPM, THRESHOLDS, at_least, best_threshold
from bench.metrics.found import BLIND, Films, Found, Source, films, found, of_level
from bench.metrics.frame import Frame
from bench.metrics.parts import NotComputableError, Part, Value, part_of_totals

On = Literal["normal", "all"]  # the films that false positives are counted on
Curve = tuple[np.ndarray, np.ndarray]  # (N, P) lesions found, and false positives, on each film at each point
SIZES = ("small", "medium", "large")
AT = (0.25, 0.5, 1.0, 2.0)


# ---- curves ---------------------------------------------------------------------------------------------------------
def tpr_at(frame: Frame, at: tuple[float, ...], on: On = "normal", source: Source = "own") -> Part:
    """Mean over `at` of the highest share of lesions found with no more false positives per film."""
    return curve_part(films(frame), [points(frame, source)], at, on)


def tpr_of_regions(frame: Frame, at: tuple[float, ...]) -> Part:
    """The same of the regions at validation's threshold alone: one box a region, as a detector gives them."""
    level = _level_of(films(frame), _chosen_levels(frame))
    return curve_part(films(frame), [points_of(of_level(frame, level))], at)


def over_blind(frame: Frame, source: Source, at: tuple[float, ...] = (1.0,)) -> Part:
    """The method's value less a blind map's, on the same patients."""
    return curve_part(films(frame), [points(frame, "own"), points(frame, source)], at)


def points(frame: Frame, source: Source) -> Curve:
    """A curve's points: each score that a lesion has, since only there the share found changes.

    What has learnt nothing is granted more, at each threshold of the map: one region a film, that of the map's highest value.
    Its scores may not tell films apart (the centre prior's are the same on all; bright films saturate), and by them alone it would
    find nothing at 1 false positive by construction.
    """
    here = found(frame, source)
    if source == "own":
        return points_of(here)
    hit, false = zip(points_of(here), one_a_film(films(frame), here), strict=True)
    return np.concatenate(hit, axis=1), np.concatenate(false, axis=1)


def one_a_film(these: Films, here: Found) -> Curve:
    """(N, T) each: at each threshold of the map the region of the highest value alone, of equal ones the largest."""
    hit, false = np.zeros((len(here.regions), len(THRESHOLDS))), np.zeros((len(here.regions), len(THRESHOLDS)))
    for i, (found_, lesions) in enumerate(zip(here.regions, these.lesions, strict=True)):
        order = np.lexsort((detection.area(found_.boxes), found_.peak))  # the last of a level is its highest
        top = {int(level): place for level, place in zip(found_.level[order], order, strict=True)}
        levels, places = list(top), list(top.values())
        hits = detection.hits(found_.boxes[places], lesions)
        hit[i, levels], false[i, levels] = hits.sum(axis=1), ~hits.any(axis=1)
    return hit, false


def points_of(here: Found) -> Curve:
    scores = np.unique(np.concatenate(here.lesions))
    scores = scores[np.isfinite(scores)]
    hit, false = (
        np.array([at_least(one, scores) for one in part]).reshape(len(part), len(scores))
        for part in (here.lesions, here.false)
    )
    return hit, false


def steps(frame: Frame, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """(F,) rising numbers of false positives per normal film, (F,) the share of lesions found from there on, mean over folds.

    For drawing; at any number it gives what `tpr_at` gives there. Raises NotComputableError as that does.
    """
    these, (hit, false) = films(frame), points(frame, source)
    folds, lesions = these.rows["fold"].to_numpy(), np.array([len(boxes) for boxes in these.lesions])
    curves = []
    for here in (folds == fold for fold in np.unique(folds)):
        if not (here & these.normal).any() or not lesions[here].any():
            raise NotComputableError("a fold without a normal film, or without a lesion")
        fppi = np.append(0.0, false[here & these.normal].sum(axis=0) / (here & these.normal).sum())
        tpr = np.append(0.0, hit[here].sum(axis=0) / lesions[here].sum())
        order = np.argsort(fppi)
        curves.append((fppi[order], np.maximum.accumulate(tpr[order])))
    every = np.unique(np.concatenate([fppi for fppi, _ in curves]))
    reached = [tpr[np.searchsorted(fppi, every, side="right") - 1] for fppi, tpr in curves]
    return every, np.mean(reached, axis=0)


def curve_part(these: Films, curves: Sequence[Curve], at: tuple[float, ...], on: On = "normal") -> Part:
    """The value of one curve, or of the first less the second. Raises NotComputableError without a normal film."""
    counted = these.normal if on == "normal" else np.ones(len(these.rows), bool)
    if not counted.any():
        raise NotComputableError("no normal film to count false positives on")
    width = max([1, *(hit.shape[1] for hit, _ in curves)])
    columns = []
    for hit, false in curves:
        for part in (hit, np.where(counted[:, None], false, 0)):  # a point without anything changes no maximum
            columns.append(np.pad(part, ((0, 0), (0, width - part.shape[1]))))
    lesions = np.array([len(boxes) for boxes in these.lesions])
    rows = np.column_stack([*columns, lesions, counted]).astype(np.float64)
    value, paired = _value_at(at, len(curves)), len(curves) > 1
    return _part(
        these, rows, value, n=these.count, note=_note(these), lowest=-1.0 if paired else 0.0, proportion=not paired,
        cases=int(these.rows.loc[~these.normal, "patient"].nunique()),
    )  # fmt: skip


def _value_at(at: tuple[float, ...], curves: int) -> Value:
    """Of totals (..., 2 P curves + 2): found and false of each curve, lesions, films. The second curve is taken off."""

    def value(totals: np.ndarray) -> np.ndarray:
        lesions, images = totals[..., -2], totals[..., -1]
        reached = np.zeros(lesions.shape)
        parts = np.split(totals[..., :-2], 2 * curves, axis=-1)
        for sign, hit, false in zip((1, -1), parts[::2], parts[1::2], strict=False):
            for one in at:
                reached += sign * np.where(false <= one * images[..., None], hit, 0).max(axis=-1) / len(at)
        defined = (lesions > 0) & (images > 0)
        return np.asarray(np.divide(reached, lesions, out=np.full(lesions.shape, np.nan), where=defined))

    return value


# ---- thresholds of the map ------------------------------------------------------------------------------------------
def at_best(frame: Frame, what: Literal["tpr", "fppi"]) -> Part:
    """Paper 004: of films with a mass alone, at the threshold with the highest TPR; chosen anew in each resample."""
    return best_part(films(frame), found(frame), what)


def best_part(these: Films, here: Found, what: Literal["tpr", "fppi"]) -> Part:
    mass = ~these.normal
    lesions = np.array([len(boxes) for boxes in these.lesions])[mass]
    counts = here.tally[mass]
    rows = np.column_stack([counts[:, :, 0], counts[:, :, 1], lesions, np.ones(len(lesions))]).astype(np.float64)

    def value(totals: np.ndarray) -> np.ndarray:
        hit, false = np.split(totals[..., :-2], 2, axis=-1)
        level = best_threshold(hit, false)[..., None]
        taken, by = (hit, totals[..., -2]) if what == "tpr" else (false, totals[..., -1])
        return np.asarray(np.take_along_axis(taken, level, axis=-1)[..., 0] / by)

    note = f"{operating.in_words(_best_levels(these, here))}, chosen on these films; {_note(these)}"
    highest, n = (1.0, these.count) if what == "tpr" else (np.inf, int(mass.sum()))
    return _part(these, rows, value, keep=mass, n=n, note=note, highest=highest, proportion=what == "tpr")


def at_chosen(frame: Frame, what: Literal["tpr", "fppi"], on: Literal["mass", "normal"] = "mass") -> Part:
    """At the threshold of the map that validation chose."""
    these, here = films(frame), found(frame)
    levels = _chosen_levels(frame)
    keep = ~these.normal if on == "mass" else these.normal
    if not keep.any():
        raise NotComputableError("no normal film to count false positives on")
    counts = here.tally[np.arange(len(these.rows)), _level_of(these, levels)][keep]
    by = np.array([len(boxes) for boxes in these.lesions])[keep] if what == "tpr" else np.ones(len(counts))
    rows = np.column_stack([counts[:, 0 if what == "tpr" else 1], by]).astype(np.float64)
    words = operating.in_words({fold: THRESHOLDS[level] for fold, level in levels.items()})
    highest, n = (1.0, these.count) if what == "tpr" else (np.inf, int(keep.sum()))
    note, proportion = f"{words}; {_note(these)}", what == "tpr"
    return _part(these, rows, ratio, keep=keep, n=n, note=note, highest=highest, proportion=proportion)


def _best_levels(these: Films, here: Found) -> dict[int, float]:
    """fold -> the threshold of the highest TPR on its films with a mass."""
    folds, mass = these.rows["fold"].to_numpy(), ~these.normal
    totals = {int(fold): here.tally[mass & (folds == fold)].sum(axis=0) for fold in np.unique(folds)}
    return {fold: THRESHOLDS[int(best_threshold(total[:, 0], total[:, 1]))] for fold, total in totals.items()}


def _chosen_levels(frame: Frame) -> dict[int, int]:
    """fold -> index of the threshold that validation chose."""
    thresholds = operating.chosen(frame, "map")
    unknown = [value for value in thresholds.values() if value not in THRESHOLDS]
    if unknown:
        raise NotComputableError(f"the threshold {unknown[0]:g} is not one of {', '.join(map(str, THRESHOLDS))}")
    return {fold: THRESHOLDS.index(value) for fold, value in thresholds.items()}


def _level_of(these: Films, levels: dict[int, int]) -> np.ndarray:
    """(N,) index of each film's threshold."""
    return np.array([levels[int(fold)] for fold in these.rows["fold"]])


# ---- the size of what is found --------------------------------------------------------------------------------------
def area_ratio(frame: Frame, size: str) -> Part:
    """Geometric mean of the area of the box that covers most of a lesion over the lesion's own, of one third of the lesions.

    Thirds by the area of the lesions' boxes among all lesions here. Lesions of all folds are pooled: a fold has few of a third.
    """
    these, here = films(frame), found(frame)
    try:
        levels, words = _chosen_levels(frame), "validation's threshold"
    except NotComputableError:
        levels = {fold: THRESHOLDS.index(value) for fold, value in _best_levels(these, here).items()}
        words = "threshold of the highest TPR, chosen on these films"
    level = _level_of(these, levels)
    own = [detection.area(boxes) for boxes in these.lesions]
    cuts = np.quantile(np.concatenate(own), [1 / 3, 2 / 3])
    rows = np.zeros((len(own), 2))
    count = np.zeros(len(own), int)
    for i, (lesions, areas) in enumerate(zip(these.lesions, own, strict=True)):
        inside = np.searchsorted(cuts, areas, side="left") == SIZES.index(size)
        ratios = largest_overlap(here.regions[i].at(level[i]), lesions[inside]) / areas[inside]
        count[i] = len(ratios)
        rows[i] = np.log(ratios[ratios > 0]).sum(), (ratios > 0).sum()
    keep, n = count > 0, int(count.sum())
    if not rows[:, 1].any():
        raise NotComputableError(f"no region overlaps a {size} lesion" if n else f"no lesion is {size}")
    note = f"{int(rows[:, 1].sum())} of {n} lesions have an overlapping region; {words}; {_note(these)}"
    pooled = np.zeros(int(keep.sum()), np.int64)

    def value(totals: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(totals[..., 0] / totals[..., 1]))

    return _part(these, rows, value, keep=keep, n=n, note=note, highest=np.inf, folds=pooled)


def largest_overlap(boxes: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    """(m,) area of the box that shares most with each lesion; of several the smallest; 0 where none shares anything."""
    if not len(boxes):
        return np.zeros(len(lesions))
    shared, areas = detection.intersection(boxes, lesions), detection.area(boxes)
    candidates = np.where(shared == shared.max(axis=0), areas[:, None], np.inf)
    return np.where(shared.max(axis=0) > 0, candidates.min(axis=0), 0.0)


# ---- parts ----------------------------------------------------------------------------------------------------------
def _part(  # type: ignore[no-untyped-def]
    these: Films,
    rows: np.ndarray,
    value: Value,
    *,
    keep: np.ndarray | None = None,
    folds: np.ndarray | None = None,
    **more,
) -> Part:
    """rows: of all films, or of those to keep."""
    table = these.rows if keep is None else these.rows[keep]
    rows = rows[keep] if keep is not None and len(rows) != len(table) else rows
    folds = table["fold"].to_numpy() if folds is None else folds
    return part_of_totals(rows, table["patient"].to_numpy(), folds, table["label"].to_numpy(np.int64), value, **more)


def _note(these: Films) -> str:
    mass, normal = int((~these.normal).sum()), int(these.normal.sum())
    left = f"; {these.unplaced} films left out: a mass without a box" if these.unplaced else ""
    return f"{these.count} lesions on {mass} films, {normal} normal films{left}"


# ---- what the registry lists ----------------------------------------------------------------------------------------
Fact = tuple[str, Callable[[Frame], Part], str, str, str, tuple[str, ...]]
_LESIONS, _FILM, _RATIO = "share of lesions", "false positives per film", "of the lesion's area"
_NEEDS: dict[Source, tuple[str, ...]] = {"brightness": ("images",), "centre": (), "random": ("maps",)}
_BLIND = {"brightness": "the brightest regions", "centre": "a centre prior", "random": "the map of random weights"}
# name, maker, direction, unit, summary, what it needs beside boxes of lesions
FACTS: tuple[Fact, ...] = (
    *(
        (f"tpr_at_fppi_{f:g}", partial(tpr_at, at=(f,)), "max", _LESIONS,
         f"share of lesions found at {f:g} false positives per normal film", ())
        for f in AT
    ),
    ("tpr_at_fppi_1_all", partial(tpr_at, at=(1.0,), on="all"), "max", _LESIONS,
     "share of lesions found at 1 false positive per film, films with a mass among them", ()),
    ("tpr_at_fppi_1_regions", partial(tpr_of_regions, at=(1.0,)), "max", _LESIONS,
     "share of lesions found at 1 false positive per normal film, by the regions at validation's threshold alone", ()),
    ("cpm", partial(tpr_at, at=CPM), "max", _LESIONS,
     "mean share of lesions found at 1/8, 1/4, 1/2, 1, 2, 4, 8 false positives per normal film", ()),
    ("tpr_max", partial(at_best, what="tpr"), "max", _LESIONS,
     "share of lesions found at the map's best threshold, films with a mass alone (paper 004)", ()),
    ("fppi_max", partial(at_best, what="fppi"), "none", _FILM, "false positives per film with a mass, where tpr_max is", ()),
    ("tpr_chosen", partial(at_chosen, what="tpr"), "max", _LESIONS, "share of lesions found at validation's threshold", ()),
    ("fppi_chosen", partial(at_chosen, what="fppi"), "none", _FILM,
     "false positives per film with a mass, where tpr_chosen is", ()),
    ("fppi_chosen_normal", partial(at_chosen, what="fppi", on="normal"), "none", _FILM,
     "false positives per normal film, where tpr_chosen is", ()),
    *(
        (f"area_{size}", partial(area_ratio, size=size), "none", _RATIO,
         f"area of the region on a lesion over the lesion's, the {size} third of lesions", ())
        for size in SIZES
    ),
    *(
        (f"blind_tpr_{source}", partial(tpr_at, at=(1.0,), source=source), "none", _LESIONS,
         f"share of lesions that {_BLIND[source]} finds at 1 false positive per normal film", _NEEDS[source])
        for source in BLIND
    ),
    *(
        (f"tpr_over_{source}", partial(over_blind, source=source), "max", _LESIONS,
         f"tpr_at_fppi_1 less that of {_BLIND[source]}", _NEEDS[source])
        for source in BLIND
    ),
)  # fmt: skip
