"""The registry of metrics: names, units, directions, and from frames to Estimates. Never imports torch (docs/metrics).

`compute` reads one frame, `over_seeds` the final seeds of one row, `difference` two rows, `quick` every epoch.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from bench.metrics import agreement, auroc, cells, combine, counterfactual, explain, froc, operating, prototypes
from bench.metrics.agreement import confusion
from bench.metrics.combine import holm
from bench.metrics.estimate import Estimate
from bench.metrics.frame import Frame, pack_masks, same_runs
from bench.metrics.maps import MapBuilder, MapTable
from bench.metrics.parts import NotComputableError, Part
from data.errors import ConfigError, DataError
from data.tracks import TRACKS

__all__ = [
    "CELLS",
    "COUNTERFACTUAL",
    "METRICS",
    "VERSION",
    "Estimate",
    "Frame",
    "MapBuilder",
    "MapTable",
    "Metric",
    "compute",
    "confusion",
    "difference",
    "holm",
    "influence",
    "over_seeds",
    "pack_masks",
    "quick",
    "quick_names",
    "same_runs",
    "smallest_difference",
    "unavailable",
    "values",
]
VERSION = 5  # bumped when a number changes; part of a run's identity


@dataclass(frozen=True)
class Metric:
    """One metric. direction: "max", "min", or "none" where more is neither. needs: of maps, masks, fine, images, evidence,
    pairs (films and their edited copies), cells (Lesion and Background), boxes (of lesions, on whole films).

    doc: its page in docs/metrics. tracks: those that have it.
    """

    name: str
    unit: str
    direction: str
    tracks: frozenset[str]
    needs: frozenset[str]
    doc: str
    summary: str


METRICS: dict[str, Metric] = {}
_PARTS: dict[str, Callable[[Frame], Part]] = {}
_ALL = frozenset(TRACKS)
Frames = Sequence[Frame]
OF: tuple[explain.Of, ...] = ("true", "predicted")


def _register(
    name: str,
    make: Callable[[Frame], Part],
    summary: str,
    doc: str,
    *,
    direction: str = "max",
    unit: str = "",
    tracks: Iterable[str] = _ALL,
    needs: Iterable[str] = (),
) -> None:
    METRICS[name] = Metric(
        name, unit, direction, frozenset(tracks), frozenset(needs), f"docs/metrics/{doc}.md", summary
    )
    _PARTS[name] = make


def _register_classification() -> None:
    _register("auroc_mean", auroc.part, "mean one-vs-rest AUROC; of two classes their AUROC", "auroc")
    for track in TRACKS.values():
        for name in track.classes if len(track.classes) > 2 else track.classes[1:]:
            one = partial(auroc.part, only=name)
            _register(f"auroc_{name}", one, f"AUROC of {name} against the rest", "auroc", tracks=[track.name])
    _register("accuracy", agreement.accuracy, "share of right classes", "accuracy")
    _register("balanced_accuracy", agreement.balanced_accuracy, "mean over classes of the share found", "accuracy")
    _register("kappa", agreement.kappa_part, "Cohen's kappa, unweighted", "kappa")
    quadratic = partial(agreement.kappa_part, weights="quadratic")
    _register("kappa_quadratic", quadratic, "Cohen's kappa, quadratic weights", "kappa", tracks=["margin"])
    _register("ac1", agreement.ac1, "Gwet's AC1", "kappa")
    _register("brier", agreement.brier, "Brier score", "calibration", direction="min")
    _register("ece", agreement.calibration_error, "expected calibration error, 15 bins", "calibration", direction="min")


def _register_explanation() -> None:
    doc, share = "activation_precision", "share of pixels"
    for scale in explain.SCALES:
        extra = ["fine"] if scale == "fine" else []
        needs = ["maps", "masks", *extra]
        for of in OF:
            suffix = "" if of == "true" else "_predicted"
            make = partial(explain.activation_precision, scale=scale, of=of)
            text = f"share of the map's top 5 % pixels on the {scale} mask, {of} class"
            _register(f"activation_precision_{scale}{suffix}", make, text, doc, unit=share, needs=needs)
        text = f"activation precision against the best blind map, {scale} scale"
        _register(f"skill_{scale}", partial(explain.skill, scale=scale), text, "skill", needs=needs)
        for name, what in (("share", "mask's share of the image"), ("centre", "centre prior")):
            label = f"mask_share_{scale}" if name == "share" else f"blind_{name}_{scale}"
            make = partial(explain.blind, scale=scale, name=name)
            text = f"activation precision of a blind map: {what}"
            _register(label, make, text, "skill", direction="none", unit=share, needs=["masks", *extra])
        for name in ("brightness", "sobel"):
            make = partial(explain.blind, scale=scale, name=name)
            text = f"activation precision of a blind map: {name} of the image"
            needed = ["masks", "images", *extra]
            _register(f"blind_{name}_{scale}", make, text, "skill", direction="none", unit=share, needs=needed)
        make = partial(explain.blind, scale=scale, name="random")
        text = "activation precision of the same network with random weights"
        _register(f"blind_random_{scale}", make, text, "skill", direction="none", unit=share, needs=needs)
    text = "share of pixels counted as active (0.05 unless the map has ties)"
    _register("ap_pixels", explain.active_pixels, text, doc, direction="none", unit=share, needs=["maps", "masks"])


def _register_location() -> None:
    """Pointing game and energy in mask, for both classes, and what the best blind map gets by the same score."""
    scores: tuple[tuple[explain.Score, str, str, str], ...] = (
        ("pointing_", "pointing_game", "share of maps whose maximum lies on the {} mask", "share of maps"),
        ("energy_", "energy_in_mask", "share of the map's positive sum that lies on the {} mask", "share of the sum"),
    )
    for score, name, words, unit in scores:
        for scale in explain.SCALES:
            text, needs = words.format(scale), ["masks", *(["fine"] if scale == "fine" else [])]
            for of in OF:
                make = partial(explain.located, scale=scale, of=of, score=score)
                label = f"{name}_{scale}{'' if of == 'true' else '_predicted'}"
                _register(label, make, f"{text}, {of} class", name, unit=unit, needs=["maps", *needs])
            make = partial(explain.best_blind, scale=scale, score=score)
            blind = f"{text}, best blind map"
            _register(f"{name}_blind_{scale}", make, blind, name, direction="none", unit=unit, needs=needs)


def _register_prototypes() -> None:
    needs, doc = ["evidence"], "prototypes"
    facts = (
        ("duplicates", prototypes.duplicates, "min", "prototypes that are the same training patch as another"),
        ("dead", prototypes.dead, "min", "prototypes that are never among the three strongest of their class"),
        ("purity", prototypes.purity, "max", "the 10 most activated images that have the prototype's class, mean"),
        ("purity_chance", prototypes.purity_chance, "none", "all images that have the prototype's class, mean"),
    )
    for name, make, direction, text in facts:
        unit = "share of images" if name.startswith("purity") else "share of prototypes"
        _register(f"prototype_{name}", make, f"share of {text}", doc, direction=direction, unit=unit, needs=needs)
    text = "effective number of prototypes that speak most for the predicted class"
    _register("prototypes_used", prototypes.used, text, doc, direction="none", unit="prototypes", needs=needs)
    for level in prototypes.LEVELS:
        use = partial(prototypes.use_of_level, level=level)
        text = f"share of images decided by a prototype of level {level} of the pyramid"
        name = f"prototype_use_level_{level}"
        _register(name, use, text, doc, direction="none", unit="share of images", needs=needs)


def _register_necessity() -> None:
    """Without the strongest prototype, against without a random one."""
    for which, label, direction, text in (
        ("difference", "necessity", "max", "the strongest prototype is dropped, less the same of a random one"),
        ("top", "necessity_top", "none", "the strongest prototype is dropped"),
        ("random", "necessity_random", "none", "a random prototype is dropped"),
    ):
        drop = partial(prototypes.necessity, which=which)
        words = f"fall of the predicted class's probability when {text}"
        _register(label, drop, words, "necessity", direction=direction, unit="probability", needs=["evidence"])
    for which, label, text in (
        ("top", "necessity_flips", "the strongest prototype"),
        ("random", "necessity_flips_random", "a random prototype"),
    ):
        flip = partial(prototypes.flips, which=which)
        words, unit = f"share of images whose predicted class changes when {text} is dropped", "share of images"
        _register(label, flip, words, "necessity", direction="none", unit=unit, needs=["evidence"])


def _register_counterfactual() -> None:
    """What removing the lesion changes; each beside the same of networks with random weights."""
    doc, pairs, column = "counterfactual", "share of pairs", TRACKS["margin"].column
    sign = {which: partial(counterfactual.right_sign, which=which) for which in ("all", "removed", "exchanged")}
    facts: tuple[tuple[str, counterfactual.Make, str, str, Iterable[str]], ...] = (
        ("sign", sign["all"], pairs, "share of edits of the lesion to which the score answers the right way", _ALL),
        ("sign_removed", sign["removed"], pairs, "the same of removals: the own class's logit falls", _ALL),
        ("sign_exchanged", sign["exchanged"], pairs, "the same of exchanges: the set class's p rises", [column]),
        ("auroc", counterfactual.against_sham, "", "AUROC of the removal's change of the logit against a sham's", _ALL),
        ("lift", counterfactual.map_lift, "", "map's top 5 % pixels on the change, over the change's area", _ALL),
        ("spearman", counterfactual.lift_and_change, "", "Spearman of lift and change of the logit", _ALL),
    )
    for name, make, unit, text, tracks in facts:
        label, null, random = f"counterfactual_{name}", counterfactual.band(make), f"{text}; random weights"
        _register(label, make, text, doc, unit=unit, tracks=tracks, needs=["pairs"])
        _register(f"{label}_random", null, random, doc, direction="none", unit=unit, tracks=tracks, needs=["pairs"])
    text, unit = "share of the image that counts as changed (lift is at most 1 over it)", "share of pixels"
    _register("counterfactual_area", counterfactual.map_area, text, doc, direction="none", unit=unit, needs=["pairs"])


def _register_cells() -> None:
    """Lesion and Background cells, for both readings of the mean grey level."""
    for mu in cells.MUS:
        suffix, words = ("", "") if mu == "printed" else (f"_{mu}", f"; {mu} mean grey level")
        for name, make, direction, unit, text in cells.FACTS:
            label, one = f"cells_{name}{suffix}", partial(make, mu=mu)
            way = direction if mu == "printed" else "none"  # with the usual mean the inside of a mass is Background
            _register(label, one, text + words, "lesion_background", direction=way, unit=unit, needs=["cells"])


def _register_detection() -> None:
    """Boxes against lesions on tracks of whole films; the threshold that validation chooses on those of two classes."""
    whole = [track.name for track in TRACKS.values() if track.unit == "image"]
    for name, make, direction, unit, text, needs in froc.FACTS:
        _register(name, make, text, "froc", direction=direction, unit=unit, tracks=whole, needs=["boxes", *needs])
    two = [track.name for track in TRACKS.values() if len(track.classes) == 2]
    for name, make, text in operating.FACTS:
        _register(name, make, text, "sensitivity", unit="share of rows", tracks=two)


_register_classification()
_register_explanation()
_register_location()
_register_prototypes()
_register_necessity()
_register_counterfactual()
_register_cells()
_register_detection()
COUNTERFACTUAL = tuple(name for name, metric in METRICS.items() if "pairs" in metric.needs)
CELLS = tuple(name for name, metric in METRICS.items() if "cells" in metric.needs)


# ---- one frame ------------------------------------------------------------------------------------------------------
def compute(frame: Frame, names: Sequence[str] | None = None) -> dict[str, Estimate]:
    """What the frame allows, of `names` or of all metrics of its track; intervals are of patients only.

    A metric that cannot be computed is absent; `unavailable` says why. Raises ConfigError for an unknown name.
    """
    return over_seeds([frame], names)


def unavailable(frame: Frame, names: Sequence[str] | None = None) -> dict[str, str]:
    """Why each metric that `compute` leaves out is left out."""
    reasons: dict[str, str] = {}
    for name in names if names is not None else _names_of(frame.track):
        try:
            _part(frame, name)
        except NotComputableError as error:
            reasons[name] = str(error)
    return reasons


def values(frame: Frame, names: Sequence[str]) -> dict[str, float]:
    """The values of those that can be computed, without their intervals: to choose by, never to report."""
    found: dict[str, float] = {}
    for name in names:
        try:
            found[name] = _part(frame, name).value
        except NotComputableError:
            continue
    return found


def quick_names(track: str) -> tuple[str, ...]:
    """The metrics that `quick` gives on this track."""
    return tuple(name for name in _names_of(track) if name == "accuracy" or name.startswith("auroc_"))


def quick(frame: Frame) -> dict[str, Estimate]:
    """auroc_mean, auroc_<class> and accuracy in closed form, in milliseconds: for every epoch."""
    found: dict[str, Estimate] = {}
    for name in quick_names(frame.track):
        try:
            part = _part(frame, name)
        except NotComputableError:
            continue
        found[name] = combine.quick_proportion(part) if name == "accuracy" else combine.estimate([part])
    return found


# ---- the seeds of a row, and two rows -------------------------------------------------------------------------------
def over_seeds(frames: Sequence[Frame], names: Sequence[str] | None = None) -> dict[str, Estimate]:
    """The mean over seeds of each metric with its patients x seeds interval (docs/metrics/intervals.md).

    frames: one for each seed (or for each seed and fold) of one row, on the same test rows. A metric that one of the
    seeds does not allow is absent: there is no mean over survivors. Raises DataError when the rows differ.
    """
    groups = by_seed(frames)
    found: dict[str, Estimate] = {}
    for name in names if names is not None else _names_of(groups[0].track):
        try:
            parts = [_part(frame, name) for frame in groups]
        except NotComputableError:
            continue
        if name in CELLS and not all(combine.same_rows(part, parts[0]) for part in parts):
            continue  # some seeds were asked about other lesions: an addition to finished runs was cut off
        found[name] = combine.estimate(parts)
    return found


def difference(a: Frames, b: Frames, name: str, paired_seeds: bool | None = None) -> tuple[Estimate, float]:
    """a - b of one metric, with interval and two-sided p: patients paired; paired_seeds None: as `same_runs` says.

    Raises DataError when the rows differ, or when the metric cannot be computed.
    """
    return combine.difference(*_both(a, b, name, paired_seeds))


def smallest_difference(
    a: Frames, b: Frames, name: str, power: float = 0.8, paired_seeds: bool | None = None
) -> float | None:
    """The smallest true difference that these patients and seeds would have shown at alpha 0.05 with this power."""
    return combine.smallest_difference(*_both(a, b, name, paired_seeds), power)


def influence(frames: Sequence[Frame], names: Sequence[str] | None = None) -> pd.DataFrame:
    """psi of each patient, averaged over seeds: columns `patient` and one a metric (default: the AUROCs, accuracy).

    Variance from patients = G/(G-1) sum(psi^2); of a difference between two rows: the same of psi_a - psi_b. A patient
    without a row for a metric (no fine mask) has NaN there.
    """
    groups = by_seed(frames)
    wanted = names if names is not None else list(quick_names(groups[0].track))
    patients = np.unique(
        np.concatenate([frame.labelled().predictions["patient"].to_numpy(dtype=str) for frame in groups])
    )
    table = pd.DataFrame({"patient": patients}).set_index("patient")
    for name in wanted:
        try:
            parts = [_part(frame, name) for frame in groups]
        except NotComputableError:
            continue
        combine.check_same_rows(parts)
        table[name] = pd.Series(combine.mean_psi(parts), index=parts[0].patients).reindex(table.index)
    return table.reset_index()


def by_seed(frames: Sequence[Frame]) -> list[Frame]:
    """One frame a seed, in order of seeds; folds of one seed are put together. Raises DataError where rows differ."""
    if not frames:
        raise ConfigError("no frame", "over_seeds", "give at least one")
    if len({frame.track for frame in frames}) > 1:
        raise DataError("frames of different tracks", "over_seeds", "compare like with like")
    for frame in frames:
        if len(frame.seeds) > 1:
            raise DataError("one frame holds several seeds", "over_seeds", "give one frame for each seed and fold")
    seeds: dict[int, list[Frame]] = {}
    for frame in frames:
        seeds.setdefault(frame.seeds[0] if frame.seeds else 0, []).append(frame)
    groups = [group[0] if len(group) == 1 else Frame.joined(group) for _, group in sorted(seeds.items())]
    _check_same(groups)
    return groups


def _check_same(frames: Sequence[Frame]) -> None:
    for frame in frames[1:]:
        if frame.identity != frames[0].identity:
            raise DataError("frames of different test rows", "comparison", "compare runs of the same data and split")


# ---- names ----------------------------------------------------------------------------------------------------------
def _names_of(track: str) -> list[str]:
    return [name for name, metric in METRICS.items() if track in metric.tracks]


def _part(frame: Frame, name: str) -> Part:
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, n=1)
        raise ConfigError(
            f"no metric {name!r}", "metrics", f"did you mean {near[0]!r}?" if near else "see `list metrics`"
        )
    if frame.track not in METRICS[name].tracks:
        raise NotComputableError(f"the track {frame.track} does not have it")
    part: Part = frame.cached(f"part {name}", lambda: _PARTS[name](frame))
    return part


def _both(a: Frames, b: Frames, name: str, paired: bool | None) -> tuple[list[Part], list[Part], bool]:
    groups = by_seed(a), by_seed(b)
    _check_same([groups[0][0], groups[1][0]])
    try:
        parts = [[_part(frame, name) for frame in group] for group in groups]
    except NotComputableError as error:
        raise DataError(f"{name} cannot be computed: {error}", "comparison", "compare by another metric") from error
    return parts[0], parts[1], same_runs(*groups) if paired is None else paired
