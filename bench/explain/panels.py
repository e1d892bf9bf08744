"""Explanation panels and galleries as PNG: image, lesion outline, maps over the image with the scale of their colours.

Shapes: H W pixels of the method's input, h w cells of a map. Lengths on paper are inches.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.metrics.explain import blind_maps, most_active, precision, upsample
from data.errors import MachineError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from models.method import Panel

WARNING = "Not for clinical use."
CAUTION = "A plausible picture is not the reason for a decision: see docs/explanations.md."
RIGHT, WRONG = "class correct", "class not correct"  # where it looked is another question
TIES = 0.06  # share of active pixels above which a map has ties: 0.05 are meant
SIDES = {"L": "left breast", "R": "right breast"}
TWO_COLOURS = "RdBu"  # of maps that have a sign: red below 0, blue above, pale at 0
COLOURS = "viridis"  # even in brightness, so it reads the same in grey and for the colour-blind
OUTLINE, HALO = "#ff9e1b", "black"  # orange on black: not among viridis's colours, visible on dark and on bright tissue
FRAME = "white"  # of a single cell, on black as well
FADED = 0.6  # of white over a picture that has no part in any decision
SOFT = "#59636e"
SOFT_BLACK, SOFT_WHITE = 0.35, 0.75  # of a film below two colours
ALPHA = 0.45  # of a map over its image
TISSUE = "0.4"  # grey behind the colours of a bar: as they look over tissue
CELL, TEXT = 2.3, 2.05  # side of a picture with its margin, width of the words at the left of a case
SIDE = CELL - 0.15  # of a picture
BESIDE, LETTER, STEP = 3.1, 0.063, 0.135  # words at the right of a line: width, that of a letter, height of a line
TITLE = 0.13  # height of a line
NOTE, ROW = 0.052, 0.125  # of the small print above and below: width of a letter, height of a line
META = {"Software": None, "Description": WARNING}  # of a PNG: no date, so that the same pictures are the same bytes


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
        side = SIDES.get(self.laterality, self.laterality)
        where = ", ".join(part for part in (side, self.view) if part)
        said = self.predicted and f"network: {self.predicted}"
        if self.predicted and self.probability is not None:
            said += f", {self.probability:.2f}"
        verdict = ""
        if self.truth not in ("", "unknown") and self.predicted:
            verdict = RIGHT if self.truth == self.predicted else WRONG
        return [line for line in (where, self.truth and f"truth: {self.truth}", said, verdict) if line]

    def small(self) -> list[str]:
        """Where the region lies, and which record it is of."""
        return [line for text in (self.place, self.record) for line in _wrapped(text, 36).split("\n") if line]


def draw_panels(
    cases: Sequence[Sequence[Panel]], path: Path, *,
    title: str, words: Sequence[Words] | None = None, header: str = "", note: str = "",
) -> Path:  # fmt: skip
    """The pictures of each case on as many lines as they name, what is known of it on its left; as PNG, whole or not at all.

    header: below the title, what the network was given; note: at the foot, how the cases were chosen, e.g. "seeded choice,
    stratified by label and right/wrong". Raises MachineError when the file cannot be written.
    """
    if not cases:
        raise ValueError("no panels to draw")
    panels = [panel for case in cases for panel in case]
    blocks = [lines_of(case) for case in cases]
    columns = max(len(line) for block in blocks for line in block)
    left, right = TEXT if words else 0.15, BESIDE if any(panel.beside for panel in panels) else 0.15
    width = max(left + columns * CELL + right, 6.2)
    heights = [[_height(line, width - left - len(line) * CELL) for line in block] for block in blocks]
    head = textwrap.wrap(header, int(width / NOTE))
    foot = [part for text in (note, reading_rules(panels)) for part in textwrap.wrap(text, int(width / NOTE))]
    above, below_them = 0.82 + ROW * len(head), 0.4 + ROW * len(foot)
    figure, size = _figure(width, above + sum(height for block in heights for height in block) + below_them)
    top = size[1] - above
    for i, block in enumerate(blocks):
        if words:
            _words(figure, words[i], 0.15, top, size)
        for line, height in zip(block, heights[i], strict=True):
            _line(figure, line, left, top, size)
            top -= height
    _frame(figure, size, title, head, foot)
    return whole(path, lambda temporary: figure.savefig(temporary, format="png", metadata=META))


def draw_gallery(
    panels: Sequence[Panel], path: Path, *, title: str, columns: int = 6, header: str = "", note: str = ""
) -> Path:
    """Pictures of the model itself, e.g. each prototype with the training image that it comes from, in a grid."""
    grid = [replace(panel, line=i // columns, beside="") for i, panel in enumerate(panels)]
    return draw_panels([grid], path, title=title, header=header, note=note)


def picture(panel: Panel) -> bytes:
    """A panel without its words, as PNG: for a page that sets them itself."""
    from matplotlib.figure import Figure

    tall = SIDE * min(1.0, panel.image.shape[0] / panel.image.shape[1])
    size = SIDE, tall + (0.22 if panel.map is not None else 0.02)
    figure = Figure(figsize=size, dpi=150, facecolor="white")
    _picture(figure.add_axes(_share((0.01, size[1] - tall + 0.01, SIDE - 0.02, tall - 0.02), size)), panel)
    made = BytesIO()
    figure.savefig(made, format="png", metadata=META)
    return made.getvalue()


def lines_of(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Panels by the line that they stand on."""
    ordered = sorted(panels, key=lambda panel: panel.line)
    return [list(line) for _, line in groupby(ordered, key=lambda panel: panel.line)]


def below(panel: Panel) -> str:
    """The words below a picture: its caption, and what can be read off its map."""
    if panel.map is None:
        return panel.caption
    cells = f"map of {panel.map.shape[0]} x {panel.map.shape[1]} cells"
    if not np.ptp(panel.map) >= 1e-6:  # a map of NaN too
        cells += ", all alike: it shows nothing"
    elif panel.outline is not None and np.any(panel.outline > 0) and not panel.signed:  # its top is no most of anything
        top = most_active(upsample(np.asarray(panel.map, dtype=float)[None], panel.outline.shape))
        dot = most_active(blind_maps(panel.outline.shape)["centre"][None])
        share, blind = (float(precision(each, panel.outline[None])[0]) for each in (top, dot))
        active = float(top.mean())
        many = f" (ties: {active:.0%} of it)" if active > TIES else ""
        cells += f"; of its top 5%{many}, {share:.0%} on the lesion; a dot in the middle gets {blind:.0%}"
        cells += f", and the lesion covers {panel.outline.mean():.0%}"
    return "; ".join(part for part in (panel.caption, cells) if part)


def whole(path: Path, write: Callable[[Path], Any]) -> Path:
    """A file that is either the old one or the new one, never half of it. MachineError where it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        do = "free some space, or choose another --out"
        raise MachineError(f"cannot write: {error.strerror}", f"{path.parent.name}/{path.name}", do) from error
    return path


# ---- lines and pictures ---------------------------------------------------------------------------------------------
def _line(figure: Figure, line: Sequence[Panel], left: float, top: float, size: tuple[float, float]) -> None:
    """Pictures side by side from `left` on, and at their right the words that belong there."""
    top -= TITLE * (_titles(line) - 1)  # there is room for one above
    for j, panel in enumerate(line):
        axes = figure.add_axes(_share((left + j * CELL + 0.05, top - SIDE, SIDE, SIDE), size))
        _picture(axes, panel)
        axes.set_title(_wrapped(panel.title, 38), fontsize=8, pad=3, color=SOFT if panel.faded else "black")
        axes.set_xlabel(_wrapped(below(panel), 38), fontsize=7, labelpad=15 if panel.map is not None else 3)
    x = left + len(line) * CELL + 0.05
    for i, text in enumerate(_beside(line, size[0] - x)):
        y = (top - 0.02 - STEP * i) / size[1]
        figure.text(x / size[0], y, text, fontsize=7.5, va="top", family="monospace")


def _height(line: Sequence[Panel], room: float) -> float:
    """Of pictures, titles and captions, or of the words at the right where those are longer."""
    captions = max(_wrapped(below(panel), 38).count("\n") + 2 for panel in line)
    bar = 0.16 * any(panel.map is not None for panel in line)
    return max(SIDE + bar + 0.125 * captions, STEP * len(_beside(line, room)) + 0.1) + TITLE * _titles(line) + 0.06


def _titles(line: Sequence[Panel]) -> int:
    """Lines of the longest title."""
    return max(_wrapped(panel.title, 38).count("\n") + 1 for panel in line)


def _beside(line: Sequence[Panel], room: float) -> list[str]:
    text = "\n".join(panel.beside for panel in line if panel.beside)
    wrapped = (textwrap.wrap(each, int(room / LETTER), drop_whitespace=False) or [""] for each in text.split("\n"))
    return [part for parts in wrapped for part in parts] if text else []


def _picture(axes: Axes, panel: Panel) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    height, width = panel.image.shape
    extent = (0, width, height, 0)
    # below two colours black and white tissue are brought nearer to grey: over either both colours would look alike
    grey = panel.image if not panel.signed else SOFT_BLACK + (SOFT_WHITE - SOFT_BLACK) * panel.image
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    if panel.map is not None:
        # One opacity for the whole map, so that a colour means the same everywhere, as the colour bar says.
        # cells as they are: smoothing would show an accuracy that the map does not have
        axes.imshow(
            _coloured(panel), cmap=_colours(panel), vmin=0, vmax=1, extent=extent, interpolation="nearest", alpha=ALPHA
        )
        _bar(axes, panel)
    if panel.outline is not None and np.any(panel.outline > 0.5) and not np.all(panel.outline > 0.5):
        grid = (np.arange(width) + 0.5, np.arange(height) + 0.5)
        if min(height, width) > 1:
            for colour, thick in ((HALO, 1.5), (OUTLINE, 0.8)):
                axes.contour(*grid, panel.outline, levels=[0.5], colors=[colour], linewidths=[thick])
    if panel.box is not None:
        x0, y0, x1, y1 = panel.box
        for colour, thick in ((HALO, 2.0), (OUTLINE, 1.1)):
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=colour, lw=thick, ls="--"))
    if panel.cell is not None:
        x0, y0, x1, y1 = panel.cell
        for colour, thick in ((HALO, 2.6), (FRAME, 1.3)):
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=colour, lw=thick))
    for x, y, word in panel.marks:
        text = axes.text(x, y, word, color=FRAME, fontsize=7, ha="center", va="center", weight="bold")
        text.set_path_effects([withStroke(linewidth=1.6, foreground=HALO)])
    if panel.faded:
        axes.add_patch(Rectangle((0, 0), width, height, fc="white", alpha=FADED, zorder=5))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_anchor("N")


def _colours(panel: Panel) -> str:
    return TWO_COLOURS if panel.signed else COLOURS


def _coloured(panel: Panel) -> np.ndarray:
    """The map in [0, 1] of its scale; what lies beyond gets the colour of the end."""
    low, high = panel.scale or (0.0, 1.0)
    shown = np.nan_to_num(np.asarray(panel.map, dtype=float), nan=low)
    return np.asarray(np.clip((shown - low) / (high - low), 0, 1) if high > low else np.zeros_like(shown))


def _bar(axes: Axes, panel: Panel) -> None:
    """The colours below a picture, and what their ends stand for."""
    height, width = panel.image.shape
    inch = 1 / (SIDE * min(1.0, height / width))  # of the picture's height: a wide one is lower than its axes
    bar = axes.inset_axes((0.25, -0.17 * inch, 0.5, 0.08 * inch))
    bar.set_facecolor(TISSUE)
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=_colours(panel), vmin=0, vmax=1, aspect="auto", alpha=ALPHA)
    bar.set_xticks([])
    bar.set_yticks([])
    low, high = "its lowest", "its highest"
    if panel.scale is not None:
        low, high = (f"{round(end, 2) + 0.0:.2f}" for end in panel.scale)  # never -0.00
        low = f"≤ {low}" if np.any(np.asarray(panel.map) < panel.scale[0] - 0.005) else low
        high = f"≥ {high}" if np.any(np.asarray(panel.map) > panel.scale[1] + 0.005) else high
    for x, text, side in ((-0.04, low, "right"), (1.04, high, "left")):
        bar.text(x, 0.4, text, transform=bar.transAxes, ha=side, va="center", fontsize=6.5)


def _wrapped(text: str, width: int) -> str:
    """Lines of a width; 21 x 13 px and a record's id stay on one where they can."""
    kept = re.sub(
        r"(?<=\d) x (?=\d)|(?<=\b[xy]) (?=\d)|(?<=\d) (?=px\b)", lambda gap: gap[0].replace(" ", "\xa0"), text
    )
    return "\n".join(textwrap.wrap(kept, width, break_on_hyphens=False))


def _words(figure: Figure, words: Words, x: float, y: float, size: tuple[float, float]) -> None:
    lines = [(text, 8, "black") for text in words.lines()] + [(text, 6, SOFT) for text in words.small()]
    for i, (text, letter, colour) in enumerate(lines):
        weight = "bold" if text == WRONG else "normal"
        at = x / size[0], (y - 0.17 * i) / size[1]
        figure.text(*at, text, fontsize=letter, va="top", weight=weight, color=colour)


def _frame(figure: Figure, size: tuple[float, float], title: str, head: Sequence[str], foot: Sequence[str]) -> None:
    """Title, warning and what the network was given above, reading rules below."""
    x = 0.15 / size[0]
    figure.text(x, 1 - 0.24 / size[1], title, fontsize=11, weight="bold", va="center")
    figure.text(x, 1 - 0.42 / size[1], WARNING, fontsize=9, weight="bold", va="center", color="#8a1c1c")
    figure.text(x, 1 - 0.52 / size[1], "\n".join(head), fontsize=7.5, va="top")
    figure.text(x, 0.12 / size[1], "\n".join(foot), fontsize=7, va="bottom", color="#333333")


def reading_rules(panels: Sequence[Panel]) -> str:
    """What a reader has to know of these pictures."""
    rules = [
        "Pictures lie as on the film where it does not say mirrored; none is turned.",
        "Grey: 0.5-99.5% of each film, clipped; the network may normalise further.",
    ]
    if any(panel.outline is not None for panel in panels):
        rules.append("Solid line: the annotated lesion.")
    if any(panel.box is not None for panel in panels):
        rules.append("Dashed: the part named below it.")
    if any(panel.cell is not None for panel in panels):
        rules.append("White frame: the one cell named below it.")
    if any(panel.faded for panel in panels):
        rules.append("Pale: taken out by pruning, no part in any score.")
    maps = [panel for panel in panels if panel.map is not None]
    if any(panel.scale is not None for panel in maps):
        rules.append(
            "Colours compare where the bars below two maps have the same numbers; ≥: that or more, ≤: that or less."
        )
    if any(panel.scale is None for panel in maps):
        rules.append("A map without numbers is scaled to its own range: its colours do not compare with another's.")
    return " ".join([*rules, CAUTION])


def _figure(width: float, height: float) -> tuple[Any, tuple[float, float]]:
    from matplotlib.figure import Figure

    size = (width, height)
    return Figure(figsize=size, dpi=130, facecolor="white"), size


def _share(box: tuple[float, float, float, float], size: tuple[float, float]) -> tuple[float, float, float, float]:
    """Inches from the lower left as shares of the figure."""
    return (box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1])
