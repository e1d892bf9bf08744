"""Explanation panels and galleries as PNG: image, lesion outline, maps over the image on one colour scale in [0, 1].

Shapes: H W pixels of the method's input, h w cells of a map.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.metrics.explain import most_active, precision, upsample
from data.errors import MachineError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from models.method import Panel

WARNING = "Not for clinical use."
WRONG = "not correct"
COLOURS = "viridis"  # even in brightness, so it reads the same in grey and for the colour-blind
OUTLINE, HALO = "#ff9e1b", "black"  # orange on black: not among viridis's colours, visible on dark and on bright tissue
ALPHA = 0.45  # of a map over its image
CELL, TEXT = 2.3, 2.05  # inches: side of a picture, width of the words beside a row


@dataclass(frozen=True)
class Words:
    """What stands beside a row of panels. probability: of the predicted class."""

    record: str = ""
    laterality: str = ""  # L | R
    view: str = ""
    truth: str = ""
    predicted: str = ""
    probability: float | None = None
    place: str = ""  # size and place of the region on its film

    @classmethod
    def of(cls, row: pd.Series, classes: Sequence[str]) -> Words:
        """From a row of a frame's predictions."""
        shares = [float(row[f"prob_{name}"]) for name in classes]
        best, label = int(np.argmax(shares)), int(row["label"])
        truth = classes[label] if label >= 0 else "unknown"
        return cls(str(row["record_id"]), str(row["laterality"]), str(row["view"]), truth, classes[best], shares[best])

    def lines(self) -> list[str]:
        side = {"L": "left breast", "R": "right breast"}.get(self.laterality, self.laterality)
        where = ", ".join(part for part in (side, self.view) if part)
        said = self.predicted and f"network: {self.predicted}"
        if self.predicted and self.probability is not None:
            said += f", {self.probability:.2f}"
        verdict = ""
        if self.truth not in ("", "unknown") and self.predicted:
            verdict = "correct" if self.truth == self.predicted else WRONG
        small = [*textwrap.wrap(self.place, 30), self.record]
        return [line for line in (where, self.truth and f"truth: {self.truth}", said, verdict, *small) if line]


def draw_panels(
    rows: Sequence[Sequence[Panel]], path: Path, *, title: str, words: Sequence[Words] | None = None, note: str = ""
) -> Path:
    """One row of pictures per case, what is known of it on its left; written as PNG, whole or not at all.

    note: how the cases were chosen, e.g. "seeded choice, stratified by label and right/wrong". Raises MachineError when
    the file cannot be written.
    """
    if not rows:
        raise ValueError("no panels to draw")
    columns = max(len(row) for row in rows)
    captions = [max((_lines_of(panel) for panel in row), default=1) for row in rows]
    left = TEXT if words else 0.15
    figure, size = _figure(left + columns * CELL + 0.75, [CELL + 0.16 * (n + 1) + 0.12 for n in captions])
    top = size[1] - 0.62
    for i, row in enumerate(rows):
        pitch = CELL + 0.16 * (captions[i] + 1) + 0.12
        if words:
            _words(figure, words[i], 0.15, top - 0.2, size)
        for j, panel in enumerate(row):
            box = (left + j * CELL + 0.05, top - 0.2 - (CELL - 0.1), CELL - 0.1, CELL - 0.1)
            _picture(figure.add_axes(_share(box, size)), panel)
        top -= pitch
    _frame(figure, size, title, note, [panel for row in rows for panel in row])
    return _save(figure, path)


def draw_gallery(panels: Sequence[Panel], path: Path, *, title: str, columns: int = 6, note: str = "") -> Path:
    """Pictures of the model itself, e.g. each prototype with the training image that it comes from, in a grid."""
    rows = [list(panels[start : start + columns]) for start in range(0, len(panels), columns)]
    return draw_panels(rows, path, title=title, note=note)


def _picture(axes: Axes, panel: Panel) -> None:
    from matplotlib.patches import Rectangle

    height, width = panel.image.shape
    extent = (0, width, height, 0)
    axes.imshow(panel.image, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    if panel.map is not None:
        shown = np.clip(np.nan_to_num(np.asarray(panel.map, dtype=float)), 0, 1)
        # One opacity for the whole map, so that a colour means the same everywhere, as the colour bar says.
        # cells as they are: smoothing would show an accuracy that the map does not have
        axes.imshow(shown, cmap=COLOURS, vmin=0, vmax=1, extent=extent, interpolation="nearest", alpha=ALPHA)
    if panel.outline is not None and np.any(panel.outline > 0.5) and not np.all(panel.outline > 0.5):
        grid = (np.arange(width) + 0.5, np.arange(height) + 0.5)
        for colour, thick in ((HALO, 1.2), (OUTLINE, 0.6)):
            axes.contour(*grid, panel.outline, levels=[0.5], colors=[colour], linewidths=[thick])
    if panel.box is not None:
        x0, y0, x1, y1 = panel.box
        for colour, thick in ((HALO, 1.8), (OUTLINE, 0.9)):
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=colour, lw=thick, ls="--"))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(_wrapped(panel.title, 34), fontsize=8, pad=3)
    axes.set_xlabel(_wrapped(_below(panel), 38), fontsize=7, labelpad=3)


def _below(panel: Panel) -> str:
    if panel.map is None:
        return panel.caption
    cells = f"map of {panel.map.shape[0]} x {panel.map.shape[1]} cells"
    if not np.ptp(panel.map) >= 1e-6:  # a map of NaN too
        cells += ", all alike: it shows nothing"
    elif panel.outline is not None and np.any(panel.outline > 0):
        top = most_active(upsample(np.asarray(panel.map, dtype=float)[None], panel.outline.shape))
        share = float(precision(top, panel.outline[None])[0])
        cells += f"; of its top 5 %, {share:.0%} on the lesion, which covers {float(panel.outline.mean()):.0%}"
    return "; ".join(part for part in (panel.caption, cells) if part)


def _lines_of(panel: Panel) -> int:
    return _wrapped(_below(panel), 38).count("\n") + _wrapped(panel.title, 34).count("\n") + 1


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width)) if text else ""


def _words(figure: Figure, words: Words, x: float, y: float, size: tuple[float, float]) -> None:
    for i, line in enumerate(words.lines()):
        weight = "bold" if line == WRONG else "normal"
        small = line == words.record or line in words.place
        figure.text(
            x / size[0], (y - 0.17 * i) / size[1], line, fontsize=6 if small else 8, va="top", weight=weight,
            color="#59636e" if small else "black",
        )  # fmt: skip


def _frame(figure: Figure, size: tuple[float, float], title: str, note: str, panels: Sequence[Panel]) -> None:
    """Title above, colour bar at the right, warning and reading rules below."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure.text(0.15 / size[0], 1 - 0.24 / size[1], title, fontsize=11, weight="bold", va="center")
    figure.text(0.15 / size[0], 1 - 0.42 / size[1], WARNING, fontsize=9, weight="bold", va="center", color="#8a1c1c")
    rules = [
        "Images lie as stored, not flipped. Grey: 0.5-99.5 % of each film, clipped; the network may normalise further."
    ]
    if any(panel.outline is not None for panel in panels):
        rules.append("Solid line: the annotated lesion.")
    if any(panel.box is not None for panel in panels):
        rules.append("Dashed: the part named below it.")
    if any(panel.map is not None for panel in panels):
        axes = figure.add_axes(_share((size[0] - 0.62, size[1] - 0.85 - (CELL - 0.1), 0.12, CELL - 0.1), size))
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1), COLOURS), cax=axes, ticks=[0, 0.5, 1], alpha=ALPHA)
        axes.set_facecolor("0.4")  # the colours as they look over tissue
        bar.ax.tick_params(labelsize=7)
        bar.set_label("map, each scaled to its own range", fontsize=7)
        rules.append("A map's 1 is its own maximum: colours do not compare between maps.")
    text = "\n".join(part for part in (note, " ".join(rules)) if part)
    figure.text(0.15 / size[0], 0.12 / size[1], text, fontsize=7, va="bottom", color="#333333")


def _figure(width: float, heights: Sequence[float]) -> tuple[Any, tuple[float, float]]:
    from matplotlib.figure import Figure

    size = (max(width, 6.2), sum(heights) + 1.25)
    return Figure(figsize=size, dpi=130, facecolor="white"), size


def _share(box: tuple[float, float, float, float], size: tuple[float, float]) -> tuple[float, float, float, float]:
    """Inches from the lower left as shares of the figure."""
    return (box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1])


def _save(figure: Any, path: Path) -> Path:
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(temporary, format="png", metadata={"Software": None, "Description": WARNING})
        temporary.replace(path)
    except OSError as error:
        do = "free some space, or choose another --out"
        raise MachineError(f"cannot write: {error.strerror}", f"{path.parent.name}/{path.name}", do) from error
    return path
