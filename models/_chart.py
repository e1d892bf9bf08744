"""A figure of numbers that a trained network keeps of itself: what `Method.charts` gives and bench/explain/charts.py draws."""

from collections.abc import Mapping
from dataclasses import dataclass

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Chart:
    """Boxes side by side: series -> name on the axis -> values at QUANTILES, NaN where nothing was measured.

    words: what stands below: of how many samples it is, and what a reader has to know.
    """

    title: str
    x: str
    y: str
    boxes: Mapping[str, Mapping[str, tuple[float, ...]]]
    words: str
