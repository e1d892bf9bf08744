"""Figures of numbers that a trained network keeps of itself, as PNG beside the CSV they were drawn from."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.explain.panels import META, NOTE, ROW, WARNING, whole
from bench.explain.plots import STYLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from models._chart import Chart

WIDTH, PLOT = 6.2, 3.2  # inches: of the figure; height of its axes
WIDE = 0.7  # what the boxes of one name take of the axis, where names are 1 apart
ENDS = ("q05", "q25", "q50", "q75", "q95")
BOXES = "Box: the middle half, line: median, whiskers: 5 to 95%."
SHADES = ("", "///", "...", "xxx", "\\\\\\")  # told apart in grey, too


def chart_table(chart: Chart) -> pd.DataFrame:
    """One row per box: series, name, and its quantiles; those that were not measured are left out."""
    rows = [
        {"series": series, "name": name, **dict(zip(ENDS, values, strict=True))}
        for series, boxes in chart.boxes.items()
        for name, values in boxes.items()
        if np.isfinite(values).all()
    ]
    return pd.DataFrame(rows, columns=["series", "name", *ENDS])


def draw_chart(chart: Chart, path: Path, *, title: str) -> list[Path]:
    """The figure, and its numbers as CSV beside it, each whole or not at all. title: of the run, above that of the chart.

    Raises MachineError when a file cannot be written.
    """
    from matplotlib.figure import Figure

    words = textwrap.wrap(f"{chart.words} {BOXES}", int((WIDTH - 0.3) / NOTE))
    low = 0.95 + ROW * (len(words) + 1)  # ticks, axis label and legend above the words
    heads = textwrap.wrap(title, 80) + textwrap.wrap(chart.title, 80)
    size = (WIDTH, low + PLOT + 0.2 + 0.19 * (len(heads) + 1))
    figure = Figure(figsize=size, dpi=130, facecolor="white")
    axes = figure.add_axes((0.75 / size[0], low / size[1], (size[0] - 0.95) / size[0], PLOT / size[1]))
    table = chart_table(chart)
    _boxes(axes, table)
    axes.set_xlabel(chart.x, fontsize=9)
    axes.set_ylabel(chart.y, fontsize=9)
    axes.tick_params(labelsize=8)
    for i, text in enumerate([*heads, WARNING]):
        colour, weight = ("#8a1c1c", "bold") if text == WARNING else ("black", "normal" if i else "bold")
        y = 1 - (0.17 + 0.19 * i) / size[1]
        figure.text(0.15 / size[0], y, text, fontsize=9, va="center", weight=weight, color=colour)
    figure.text(0.15 / size[0], 0.1 / size[1], "\n".join(words), fontsize=7, va="bottom", color="#333333")
    return [
        whole(path, lambda temporary: figure.savefig(temporary, format="png", metadata=META)),
        whole(path.with_suffix(".csv"), lambda temporary: table.to_csv(temporary, index=False)),
    ]


def _boxes(axes: Axes, table: pd.DataFrame) -> None:
    from matplotlib.patches import Patch

    names, series = list(dict.fromkeys(table["name"])), list(dict.fromkeys(table["series"]))
    width = WIDE / max(1, len(series))
    marks = []
    for i, own in enumerate(series):
        rows = table[table["series"] == own]
        stats = [
            dict(zip(("whislo", "q1", "med", "q3", "whishi"), row, strict=True)) for row in rows[list(ENDS)].to_numpy()
        ]
        places = [names.index(name) + width * (i - (len(series) - 1) / 2) for name in rows["name"]]
        face: dict[str, Any] = {"facecolor": STYLES[i][0], "alpha": 0.55, "hatch": SHADES[i]}
        axes.bxp(
            stats, positions=places, widths=0.8 * width, showfliers=False, patch_artist=True, manage_ticks=False,
            boxprops=face, medianprops={"color": "black", "linewidth": 1.4},
        )  # fmt: skip
        marks.append(Patch(label=own, **face))
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(
        handles=marks,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.45 / PLOT),
        fontsize=8,
        ncols=len(series),
        frameon=False,
    )
