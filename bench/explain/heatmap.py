"""A table of values as a heat map, the value and its interval in every cell: as an SVG, and as plain words and colours for a page.

Shapes: R rows, C columns. Lengths on paper are inches.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.explain.panels import NOTE, ROW, WARNING, whole
from bench.explain.plots import save_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One hue from pale to dark: brightness alone tells the values apart, so it reads the same in grey and for the colour-blind. Its
# dark end leaves black words a contrast of 6 to 1 (WCAG 2.1 asks 4.5).
RAMP = np.array([(247, 251, 255), (158, 202, 225), (66, 146, 198)])
NOTHING = "#ffffff"  # of a cell without a value, hatched on paper
CELL_WIDTH, CELL_HEIGHT, LETTER, LINE = 1.22, 0.66, 0.075, 0.2


@dataclass(frozen=True)
class Heat:
    """One heat map. better: "max", "min" or "none": at which end the dark lies. marks: (i, j) -> words below the interval of
    cells that are framed. caption: what the values, the intervals and n are."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    down: str  # what the rows are
    across: str
    values_RC: np.ndarray  # NaN: none
    intervals: Sequence[Sequence[str]]
    better: str
    caption: str
    marks: Mapping[tuple[int, int], Sequence[str]] = field(default_factory=dict)

    @property
    def ends(self) -> tuple[float, float]:
        """The scale of the colours: 0 to 1, or as far as the values reach, so that maps of one metric look alike."""
        known = self.values_RC[np.isfinite(self.values_RC)]
        return min(0.0, *known, 0.0), max(1.0, *known, 1.0)

    @property
    def scale(self) -> str:
        """Which end is dark, in words."""
        low, high = self.ends
        pale, dark = (high, low) if self.better == "min" else (low, high)
        return (
            f"{'Darker: more' if self.better == 'none' else 'Darker is better'}; palest {pale:.3g}, darkest {dark:.3g}."
        )

    def words(self, i: int, j: int) -> list[str]:
        """What stands in a cell, line by line."""
        value = self.values_RC[i, j]
        text = f"{value:.3f}".replace("-", "−") if np.isfinite(value) else "–"
        return [line for line in (text, self.intervals[i][j], *self.marks.get((i, j), ())) if line]

    def colour(self, i: int, j: int) -> str:
        """Of a cell, as #rrggbb; words on it are black."""
        low, high = self.ends
        value = self.values_RC[i, j]
        if not np.isfinite(value):
            return NOTHING
        share = float((value - low) / (high - low))
        return shade(1 - share if self.better == "min" else share)


def shade(share: float) -> str:
    """The ramp's colour at a share in [0, 1], as #rrggbb."""
    rgb = [np.interp(share, (0, 0.5, 1), RAMP[:, k]) for k in range(3)]
    return "#" + "".join(f"{round(one):02x}" for one in rgb)


def plot_heat(heat: Heat) -> Figure:
    """The figure: columns named above, rows at the left, the caption below."""
    from matplotlib.figure import Figure

    rows, columns = len(heat.rows), len(heat.columns)
    left = 0.55 + LETTER * max(map(len, heat.rows))
    width = left + CELL_WIDTH * max(columns, 3) + 0.15
    note = [*textwrap.wrap(f"{heat.caption} {heat.scale}", int((width - 0.3) / NOTE)), WARNING]
    low, grid = 0.25 + ROW * len(note), CELL_HEIGHT * rows
    titles = textwrap.wrap(heat.title, int((width - 0.3) / LETTER))
    height = low + grid + 0.55 + LINE * len(titles)
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((left / width, low / height, CELL_WIDTH * columns / width, grid / height))
    _cells(axes, heat)
    for k, text in enumerate(titles):
        y = 1 - (0.16 + LINE * k) / height
        figure.text(0.15 / width, y, text, fontsize=10, weight="bold", va="center")
    figure.text(0.15 / width, 0.1 / height, "\n".join(note), fontsize=7, va="bottom", color="#333333")
    return figure


def _cells(axes: Axes, heat: Heat) -> None:
    from matplotlib.patches import Rectangle

    rows, columns = heat.values_RC.shape
    for i in range(rows):
        for j in range(columns):
            empty = not np.isfinite(heat.values_RC[i, j])
            style: dict[str, Any] = {"hatch": "///", "edgecolor": "#bbbbbb"} if empty else {"edgecolor": "white"}
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor=heat.colour(i, j), linewidth=1.5, **style))
            words = heat.words(i, j)
            for k, text in enumerate(words):
                y = i + 0.5 + 0.24 * (k - (len(words) - 1) / 2)
                size = 9.5 if k == 0 else 7
                axes.text(j + 0.5, y, text, ha="center", va="center", fontsize=size)
    for i, j in heat.marks:
        axes.add_patch(
            Rectangle((j + 0.02, i + 0.03), 0.96, 0.94, fill=False, edgecolor="black", linewidth=2.2, zorder=3)
        )
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.set_xticks([j + 0.5 for j in range(columns)], heat.columns, fontsize=9)
    axes.set_yticks([i + 0.5 for i in range(rows)], heat.rows, fontsize=9)
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel(heat.across, fontsize=8, color="#333333")
    axes.set_ylabel(heat.down, fontsize=8, color="#333333")
    axes.spines[:].set_visible(False)


def save_heat(heat: Heat, path: Path) -> Path:
    """The SVG, whole or not at all. Raises MachineError where it cannot be written."""
    figure = plot_heat(heat)
    return whole(path, lambda temporary: save_svg(figure, temporary))
