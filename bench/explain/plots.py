"""ROC, FROC and confusion matrix of a frame, the Pareto front of a sweep: each as SVG beside the CSV it was drawn from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.explain.panels import WARNING, whole
from bench.metrics import Estimate, Frame, Metric, compute, confusion, quick
from bench.metrics.found import BLIND
from bench.metrics.froc import AT, steps
from bench.metrics.parts import NotComputableError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours with a dash of their own: told apart by the colour-blind and in grey.
STYLES = (("#0072b2", "-"), ("#d55e00", "--"), ("#009e73", "-."), ("#cc79a7", ":"), ("#000000", (0, (3, 1, 1, 1))))


def roc_table(frame: Frame) -> pd.DataFrame:
    """Points of each class against the rest: class, threshold, false_positive_rate, true_positive_rate."""
    from sklearn.metrics import roc_curve

    rows = frame.labelled()
    parts = []
    for i in _curves(rows):
        positive = rows.labels == i
        if positive.any() and not positive.all():
            fpr, tpr, thresholds = roc_curve(positive, rows.scores[:, i], drop_intermediate=True)
            points = {"threshold": thresholds, "false_positive_rate": fpr, "true_positive_rate": tpr}
            parts.append(pd.DataFrame({"class": rows.classes[i], **points}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["class"])


def plot_roc(frame: Frame) -> Figure:
    """One curve per class against the rest, its AUROC with the interval in the legend."""
    figure, axes = _axes((5.4, 6.4), low=0.3)
    table, found = roc_table(frame), quick(frame)
    for (name, points), (colour, dash) in zip(table.groupby("class", sort=False), STYLES, strict=False):
        estimate = found.get(f"auroc_{name}") or found.get("auroc_mean")
        axes.plot(
            points["false_positive_rate"], points["true_positive_rate"], color=colour, ls=dash, lw=1.8,
            label=f"{name}: {_estimate(estimate)}", drawstyle="default",
        )  # fmt: skip
    axes.plot([0, 1], [0, 1], color="#999999", lw=0.8, label="chance: 0.5")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="false positive rate", ylabel="true positive rate")
    # below the axes: within them it would lie on a curve, and on a bad one first
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.11), fontsize=8, title="AUROC against the rest (95 % interval)",
        title_fontsize=8, ncols=2, frameon=False,
    )  # fmt: skip
    mean = f"Mean AUROC {_estimate(found.get('auroc_mean'))}. " if len(frame.classes) > 2 else ""
    _caption(figure, axes, frame, "ROC", mean, found.get("auroc_mean"))
    return figure


FALSE, SHARE = "false_positives_per_normal_film", "share_of_lesions"
NAMES = {"own": "the method", "brightness": "brightest regions", "centre": "centre prior", "random": "random weights"}


def froc_table(frame: Frame) -> pd.DataFrame:
    """Steps of the free-response curve of the method and of blind maps: curve, false positives per normal film, share of
    lesions found from there on. Empty where the frame does not know where lesions lie."""
    parts = []
    for source in ("own", *BLIND):
        try:
            fppi, tpr = steps(frame, source)
        except NotComputableError:
            if source == "own":
                break
            continue
        parts.append(pd.DataFrame({"curve": NAMES[source], FALSE: fppi, SHARE: tpr}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["curve", FALSE, SHARE])


def plot_froc(frame: Frame) -> Figure:
    """Free response of the method, with intervals where metrics are read, and of what has learnt nothing."""
    figure, axes = _axes((5.4, 6.0), low=0.3)
    styles = dict(zip(NAMES.values(), STYLES, strict=False))
    for name, points in froc_table(frame).groupby("curve", sort=False):
        (colour, dash), x, y = styles[str(name)], points[FALSE].to_numpy(), points[SHARE].to_numpy()
        axes.step(
            [*x, max(8.0, x[-1])], [*y, y[-1]], where="post", color=colour, ls=dash,
            lw=1.8 if name == NAMES["own"] else 1.2, label=name,
        )  # fmt: skip
    found = compute(frame, [f"tpr_at_fppi_{at:g}" for at in AT])
    for at in AT:
        one = found.get(f"tpr_at_fppi_{at:g}")
        if one is not None and one.value is not None and one.low is not None and one.high is not None:
            reach = [[max(one.value - one.low, 0)], [max(one.high - one.value, 0)]]
            axes.errorbar([at], [one.value], yerr=reach, fmt="o", ms=4, color=STYLES[0][0], capsize=3, lw=1.0)
    axes.set_xscale("log", base=2)
    axes.set_xticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.set(xlim=(1 / 8, 8), ylim=(0, 1), xlabel="false positives per normal film", ylabel="share of lesions found")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), fontsize=8, ncols=2, frameon=False)
    one = found.get("tpr_at_fppi_1")
    lead = (
        f"At 1 false positive per normal film: {_estimate(one)} of {one.n if one else 0} lesions. Bars: 95 % intervals."
    )
    _caption(figure, axes, frame, "FROC", lead, one)
    return figure


def plot_confusion(frame: Frame) -> Figure:
    """Counts with the share of each true class; the grey scale is the share, the same in every plot."""
    table, found = confusion(frame), quick(frame)
    counts = table.to_numpy(dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _axes((5.4, 5.4))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), share in np.ndenumerate(shares):
        text = f"{int(counts[i, j])}\n{share:.0%}"
        axes.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if share > 0.55 else "black")
    names = [str(name) for name in table.columns]
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_yticks(range(len(names)), [str(name) for name in table.index], fontsize=8, rotation=90, va="center")
    axes.set(xlabel="predicted class", ylabel="true class")
    accuracy = f"Accuracy {_estimate(found.get('accuracy'))}. Shares are of the true class. "
    _caption(figure, axes, frame, "Confusion", accuracy, found.get("accuracy"))
    return figure


def save_plots(frame: Frame, folder: Path) -> list[Path]:
    """roc.svg, roc.csv, confusion.svg and confusion.csv in `folder`, each written whole or not at all; of whole films with
    known lesions also froc.svg and froc.csv."""
    figures = {"roc": plot_roc(frame), "confusion": plot_confusion(frame)}
    tables = {"roc": roc_table(frame), "confusion": confusion(frame).reset_index()}
    response = froc_table(frame)
    if len(response):
        figures["froc"], tables["froc"] = plot_froc(frame), response
    written = []
    for name, figure in figures.items():
        written.append(whole(folder / f"{name}.svg", lambda path, figure=figure: save_svg(figure, path)))  # type: ignore[misc]
        written.append(whole(folder / f"{name}.csv", lambda path, name=name: tables[name].to_csv(path, index=False)))  # type: ignore[misc]
    return written


def plot_front(table: pd.DataFrame, x: Metric, y: Metric, title: str, lead: str) -> Figure:
    """Trials of a sweep by two objectives; those that no other betters are joined by the steps of what they reach.

    table: `save_front`'s. title: above; lead: first line of the caption: how many trials, which split and seed.
    """
    figure, axes = _axes((6.0, 6.8), low=0.3)
    on_front = table[table["front"]].sort_values(x.name)
    marked = table[table["front"] | table["published"]]
    axes.plot(
        on_front[x.name], on_front[y.name], color=STYLES[0][0], lw=1.0, ls="--", zorder=1,
        drawstyle="steps-post" if x.direction == "min" else "steps-pre",
    )  # fmt: skip
    axes.errorbar(
        marked[x.name], marked[y.name], xerr=_reach(marked, x), yerr=_reach(marked, y), fmt="none", ecolor="#bbbbbb",
        elinewidth=0.8, zorder=0,
    )  # fmt: skip
    others = table[~table["front"]]
    marks = (
        (others, f"another trial ({len(others)})", {"marker": "o", "c": "white", "edgecolors": "#555555", "s": 36}),
        (on_front, f"on the front ({len(on_front)})", {"marker": "o", "c": STYLES[0][0], "s": 52}),
        (
            table[table["published"]],
            "trial 0: published",
            {"marker": "D", "c": "none", "edgecolors": STYLES[1][0], "s": 150},
        ),
    )
    for rows, label, style in marks:
        axes.scatter(rows[x.name], rows[y.name], label=label, zorder=3, linewidths=1.4, **style)
    for number, *place in marked[["trial", x.name, y.name]].itertuples(index=False):
        axes.annotate(str(number), place, xytext=(7, 7), textcoords="offset points", fontsize=8)
    axes.set_xlabel(_axis(x), fontsize=9)
    axes.set_ylabel(_axis(y), fontsize=9)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), fontsize=8, ncols=3, frameon=False)
    axes.set_title(title, fontsize=10)
    figure.text(0.02, 0.015, _front_words(table, x, y, lead), fontsize=7, va="bottom", color="#333333")
    return figure


def save_front(table: pd.DataFrame, x: Metric, y: Metric, title: str, lead: str, folder: Path) -> list[Path]:
    """front.svg and front.csv in `folder`. table: one row per complete trial with trial, front, published (bool), and for
    each of the two metrics its value under its name, and _low, _high, _n, _interval (missing where there is none)."""
    figure = plot_front(table, x, y, title, lead)
    return [
        whole(folder / "front.svg", lambda path: save_svg(figure, path)),
        whole(folder / "front.csv", lambda path: table.to_csv(path, index=False)),
    ]


def _reach(table: pd.DataFrame, metric: Metric) -> np.ndarray:
    """(2, n) how far each interval reaches below and above its value; NaN where there is none."""
    bounds = table[[f"{metric.name}_low", f"{metric.name}_high"]].to_numpy(dtype=float)
    return np.asarray(np.abs(bounds.T - table[metric.name].to_numpy(dtype=float)))


def _axis(metric: Metric) -> str:
    better = (
        "higher is better \N{RIGHTWARDS ARROW}" if metric.direction == "max" else "\N{LEFTWARDS ARROW} lower is better"
    )
    return f"{metric.summary}\n{metric.name} ({metric.unit or 'no unit'}), validation; {better}"


def _front_words(table: pd.DataFrame, x: Metric, y: Metric, lead: str) -> str:
    """The caption: what the front is, what bars and n are, and what the values are not."""
    lines = [lead, "Front: no other trial is better in one objective and as good or better in the other."]
    for metric in (x, y):
        counts, kinds = (table[f"{metric.name}_{key}"].dropna().unique() for key in ("n", "interval"))
        if len(counts) and len(kinds):
            n = " to ".join(f"{count:.0f}" for count in dict.fromkeys((counts.min(), counts.max())))
            lines.append(f"{metric.name}: n = {n}, grey bar 95 % interval of one trial ({', '.join(kinds)}).")
    return "\n".join([*lines, f"Values: validation, chosen among trials, so optimistic. {WARNING}"])


def _curves(frame: Frame) -> list[int]:
    """Classes that get a curve: all of three or more; of two the second, since the first would be its mirror."""
    return list(range(len(frame.classes))) if len(frame.classes) > 2 else [1]


def _axes(size: tuple[float, float], low: float = 0.21) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, facecolor="white")
    return figure, figure.add_axes((0.14, low, 0.81, 0.91 - low))


def _caption(figure: Any, axes: Any, frame: Frame, what: str, lead: str, estimate: Estimate | None) -> None:
    rows, meta = frame.labelled(), frame.meta
    axes.set_title(
        f"{what}: {meta.get('method', 'method')}{_map(frame)} on {meta.get('dataset', 'data')}, {frame.track}, "
        f"seed {', '.join(map(str, frame.seeds))}",
        fontsize=10,
    )
    counts = f"n = {len(rows.predictions)} rows of {rows.predictions['patient'].nunique()} patients"
    seeds = f"{len(frame.seeds)} seed ({', '.join(map(str, frame.seeds))})"
    kind = f"interval: {estimate.interval}" if estimate is not None else ""
    split = f"split {meta['split_hash']}" if meta.get("split_hash") else ""
    second = ", ".join(part for part in (f"{meta.get('side', '')} side", split, counts, seeds) if part)
    figure.text(0.02, 0.015, f"{lead}\n{second}\n{kind}. {WARNING}", fontsize=7, va="bottom", color="#333333")


def _map(frame: Frame) -> str:
    """Of a test-time variant its name, as the leaderboard has it."""
    return f" [{frame.meta['variant']}]" if "variant" in frame.meta else ""


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "not computable"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f} (no interval)"
    return f"{estimate.value:.3f} ({estimate.low:.3f}-{estimate.high:.3f})"


def save_svg(figure: Any, path: Path) -> None:
    import matplotlib

    # A fixed salt and no date: the same frame gives the same file. Text stays text, for readers and for search.
    with matplotlib.rc_context({"svg.hashsalt": "mammobench", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
