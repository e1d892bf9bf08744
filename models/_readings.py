"""What a trained method gives its readers: predictions, evidence, test-time variants, pictures. Import it from models.method.

Shapes: B samples, H W input pixels, h w cells of a map, K classes, S sources of evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass
class Prediction:
    """scores (B, K): raw, for AUROC. probabilities (B, K): sum to 1 over the track's classes.

    logits (B, K): of a method whose scores are normalised over its outputs, what they were before; None: they are the scores.
    boxes: per sample (n, 5) x0 y0 x1 y1 score in input pixels, where the method detects. regions: per sample (n, 5) x0 y0 x1 y1
    weight in input pixels, where it looked closely: what it would show a classifier of regions. flagged (B) bool: the sample lies
    outside the method's label space.
    """

    scores: Tensor
    probabilities: Tensor
    boxes: list[Tensor] | None = None
    flagged: Tensor | None = None
    logits: Tensor | None = None
    regions: list[Tensor] | None = None


@dataclass
class Evidence:
    """What a score is made of: one map and one contribution per source (prototype, crop, cell).

    contributions.sum(dim=1) + bias equals Prediction.scores to rounding.
    """

    maps: Sequence[Tensor]  # S maps (B, h, w), each at its source's own resolution
    contributions: Tensor  # (B, S, K)
    names: tuple[str, ...]  # S names, e.g. "prototype 3"
    classes: tuple[int, ...]  # S classes, -1 = of no class of the track
    bias: Tensor | None = None  # (K,) or (B, K)
    levels: tuple[int, ...] = ()  # of the pyramid, where sources stand on one; else empty
    places: tuple[str, ...] = ()  # the training patch that each source is, "" = none; equal texts are one patch


@dataclass(frozen=True)
class Variant:
    """A test-time setting judged from the same activations: which map is read, and free parameters."""

    name: str
    map: str | None = None
    settings: Mapping[str, float | str] = field(default_factory=dict)


@dataclass
class Panel:
    """One picture of an explanation, as arrays. image in [0, 1]; outline 1 on the lesion; box, cell x0 y0 x1 y1."""

    title: str
    image: np.ndarray  # (H, W)
    map: np.ndarray | None = None  # (h, w): drawn over the image
    outline: np.ndarray | None = None  # (H, W)
    box: tuple[float, float, float, float] | None = None
    caption: str = ""
    scale: tuple[float, float] | None = None  # the map's values at the ends of the colours; None: it is in [0, 1]
    signed: bool = False  # the map has a sign, and its scale 0 in the middle: two colours
    beside: str = ""  # words at its right; their lines and columns are kept
    line: int = 0  # pictures of a case, or of a page, stand on lines of their own
    training_row: int | None = None  # what it shows: a row of the training table; None: the sample that is explained
    cell: tuple[float, float, float, float] | None = None  # one cell of a map, in a frame of its own
    marks: Sequence[tuple[float, float, str]] = ()  # x, y, and a short word that stands there
    faded: bool = False  # of a part of the model that was taken out


def scale01(map_hw: Tensor) -> Tensor:
    """Min-max to [0, 1]; a constant map becomes all 0."""
    low, high = map_hw.min(), map_hw.max()
    return (map_hw - low) / (high - low) if bool(high > low) else torch.zeros_like(map_hw)
