"""The board as one HTML file that needs no server, no network and no library; and the writing of files in one piece."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.parse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.config import canonical
from bench.explain.heatmap import Heat
from bench.explain.panels import TIES
from bench.leaderboard.badges import CODES
from bench.leaderboard.forest import forest
from bench.leaderboard.matrix import Matrix, words
from bench.leaderboard.matrix_files import heats
from bench.leaderboard.rows import Board, Comparison, Row
from bench.leaderboard.titles import metric_title
from bench.ledger import OPENINGS
from bench.metrics import METRICS, Estimate
from bench.metrics.explain import SCALES
from bench.space import flat
from data.errors import MachineError
from data.tracks import TRACKS

LESION = ("activation_precision_lesion", "activation_precision_lesion_predicted", "best_blind_lesion")
PAIRS = ("counterfactual_sign", "counterfactual_sign_random")  # where the data have films and edited copies of them
# Columns beside the primary metric, a map's share on the mask always beside what a blind map gets; shown where a row of the table has them.
SHOWN = {
    "margin": (
        *("kappa", "accuracy", "activation_precision_lesion", "best_blind_lesion"),
        *("activation_precision_fine", "best_blind_fine", *PAIRS),
    ),
    "malignancy": ("accuracy", *LESION, *PAIRS),
    "detection": (
        *("best_blind_tpr", "tpr_max", "fppi_max", "auroc_mean", "sensitivity", "specificity"),
        *PAIRS,
    ),
}
# Maps that have learnt nothing; the best of them is what a method's map has to beat.
BLIND_MAPS = {
    "mask_share": "area share", "blind_centre": "centre", "blind_brightness": "brightness", "blind_sobel": "edges",
    "blind_random": "random weights",
}  # fmt: skip
BEST_BLIND = {
    **{f"best_blind_{scale}": {f"{name}_{scale}": words for name, words in BLIND_MAPS.items()} for scale in SCALES},
    "best_blind_tpr": {f"blind_tpr_{name}": BLIND_MAPS[f"blind_{name}"] for name in ("brightness", "centre", "random")},
}
# What a blind map gets stands below what the method's map gets, on the page in the same cell.
BLIND = {
    "activation_precision_lesion": "best_blind_lesion",
    "activation_precision_lesion_predicted": "best_blind_lesion",
    "activation_precision_fine": "best_blind_fine",
    "counterfactual_sign": "counterfactual_sign_random",
    "tpr_at_fppi_1": "best_blind_tpr",
}
QUESTIONS = {
    "margin": "Is the margin of this mass circumscribed, indistinct or spiculated? Mean one-vs-rest AUROC.",
    "malignancy": "Is this mass malignant? AUROC.",
    "detection": "Does this image show a mass, and where? Share of lesions found at 1 false positive per normal film (FPPI).",
}
LEDGER_COLUMNS = (
    "date",
    "kind",
    "dataset",
    "track",
    "method",
    "arm",
    "settings",
    "seeds",
    "opened_before",
    "reopen",
    "id",
    "hash",
)


def write_page(board: Board, path: Path) -> Path:
    """Write the page under a temporary name, then rename it. MachineError where the disk does not take it."""
    return write_whole(path, render(board))


def write_whole(path: Path, text: str) -> Path:
    """A text file that is either the old one or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        do = "free some space, or choose another --out"
        raise MachineError(f"cannot write: {error.strerror}", f"{path.parent.name}/{path.name}", do) from error
    return path


def render(board: Board) -> str:
    """The page's HTML. Everything that comes from data is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(metric_title=metric_title, difference=difference_text, p_value=p_text)
    seen = {key for entry in board.ledger for key in entry}
    return environment.get_template("template.html.j2").render(
        board=board,
        sections=[_section(i, rows, board) for i, (_, rows) in enumerate(board.tables())],
        codes=CODES,
        openings=sum(entry.get("kind") in OPENINGS for entry in board.ledger),
        ledger_columns=[name for name in LEDGER_COLUMNS if name in seen] or sorted(seen),
    )


def shown_metrics(rows: Sequence[Row]) -> list[str]:
    """The primary metric, then those of SHOWN that some row of the table has."""
    track = TRACKS[rows[0].track]
    extra = SHOWN.get(track.name, ("accuracy",))
    return [track.primary, *(name for name in extra if any(estimate_of(row, name) for row in rows))]


def estimate_of(row: Row, name: str) -> Estimate | None:
    """A metric of the row; best_blind_<what>: of the blind maps the one that lies best on the mask, its name as note."""
    if name not in BEST_BLIND:
        return row.metrics.get(name)
    found = [(words, row.metrics.get(blind)) for blind, words in BEST_BLIND[name].items()]
    known = [(e.value, words, e) for words, e in found if e is not None and e.value is not None]
    if not known:
        return None
    _, words, best = max(known, key=lambda item: item[0])
    return replace(best, note=words)


def _section(number: int, rows: Sequence[Row], board: Board) -> dict[str, Any]:
    from markupsafe import Markup

    measured = next((row for row in rows if row.hashes.get("rows")), rows[0])
    track = TRACKS[measured.track]
    metrics = [name for name in shown_metrics(rows) if name not in BLIND.values()]
    compared = _mine(board.comparisons, measured)
    own = _own_options(rows)
    lines = [_line(f"row-{number}-{i}", row, metrics) | {"options": own.get(row.key)} for i, row in enumerate(rows)]
    parts = [
        {"kind": kind, "lines": mine}
        for kind, wanted in (("methods", "method"), ("references", "reference"))
        if (mine := [line for line in lines if line["row"].kind == wanted])
    ]
    return {
        "id": f"table-{number}",
        "heading": board.heading(rows),
        "track": track.name,
        "dataset": measured.dataset,
        "subset": measured.subset,
        "question": QUESTIONS.get(track.name, f"Classes: {', '.join(track.classes)}."),
        "data": list(dict.fromkeys(row.hashes["data"] for row in rows if row.hashes.get("data"))),
        "split": measured.hashes.get("split", ""),
        "test_rows": measured.hashes.get("rows", ""),
        "protocol": measured.protocol,
        "unit": measured.unit,
        "patients": measured.patients,
        "columns": _columns(metrics),
        "parts": parts,
        "forest": Markup(forest(rows, metric_title(track.primary))),  # escaped where it is made
        "matrices": [_matrix(matrix) for matrix in board.matrices if matrix.table == measured.table],
        "comparisons": compared,
        "family": any(not c.asks for c in compared),
        "controls": any(c.control for c in compared),
        "paired": any(c.paired_seeds for c in compared),
        "asks": list(dict.fromkeys(c.asks for c in compared if c.asks)),
        "primary_title": metric_title(track.primary),
        "rank_sentence": _rank_sentence(rows),
    }


def _own_options(rows: Sequence[Row]) -> dict[str, str]:
    """row -> its data options that most rows of the table have otherwise, e.g. "masks shuffled"."""
    options = {row.key: flat(row.options) for row in rows if row.kind == "method" and row.status == "done"}
    names = sorted({name for found in options.values() for name in found})
    usual = {name: Counter(canonical(found.get(name)) for found in options.values()).most_common(1) for name in names}
    return {
        key: ", ".join(f"{name} {found.get(name)}" for name in names if canonical(found.get(name)) != usual[name][0][0])
        for key, found in options.items()
    }


def _matrix(matrix: Matrix) -> dict[str, Any]:
    """Its heat maps as tables: on paper and in a reader's browser the numbers are text."""
    maps = []
    for heat in heats(matrix):
        lines = [
            {"name": name, "cells": [_heat_cell(heat, i, j) for j in range(len(heat.columns))]}
            for i, name in enumerate(heat.rows)
        ]
        maps.append({"heat": heat, "lines": lines})
    return {"maps": maps, "words": words(matrix), "files": matrix.name}


def _heat_cell(heat: Heat, i: int, j: int) -> dict[str, Any]:
    value, *further = heat.words(i, j)
    return {"value": value, "further": further, "fill": heat.colour(i, j), "marked": (i, j) in heat.marks}


def _mine(comparisons: Sequence[Comparison], row: Row) -> list[Comparison]:
    return [c for c in comparisons if c.table == row.table]


def _rank_sentence(rows: Sequence[Row]) -> str:
    if any(row.ranks for row in rows):
        return "rank is a range, from 1 + the number of methods significantly better to n − the number significantly worse."
    notes = list(dict.fromkeys(row.rank_note for row in rows if row.kind == "method" and row.rank_note))
    return f"no row is ranked ({'; '.join(note.removeprefix('not ranked: ') for note in notes)})."


def _columns(metrics: Sequence[str]) -> list[dict[str, Any]]:
    numbers = [{"name": metric_title(m), "sortable": True, "title": METRICS[m].summary} for m in metrics]
    words = [{"name": name, "sortable": sortable} for name, sortable in (("Input", False), ("Supervision", False))]
    return [
        {"name": "Method", "sortable": False},
        {"name": "Rank", "sortable": True, "title": "range of ranks among rows of equal input"},
        *numbers,
        {
            "name": "Seeds",
            "sortable": True,
            "title": "trainings; below, what the worst of them reaches alone, over patients",
        },
        *words,
        {"name": "Cost", "sortable": True, "title": "machine time of all final trainings and what they start from"},
    ]


def _line(anchor: str, row: Row, metrics: Sequence[str]) -> dict[str, Any]:
    cost = row.cost
    trials = int(cost.get("search_trials") or 0)
    searched = f"search: {duration(cost.get('search_seconds'))}, {trials} trial{'s' * (trials != 1)}" if trials else ""
    costs = [
        f"{words} {duration(cost[name])}"
        for name, words in (
            ("training_seconds", "final trainings"),
            ("requirements_seconds", "runs that they start from"),
            ("search_seconds", "search"),
        )
        if name in cost
    ]
    return {
        "id": anchor,
        "row": row,
        "rank": f"{row.ranks[0]}–{row.ranks[1]}"
        if row.ranks and row.ranks[0] != row.ranks[1]
        else (row.ranks or [""])[0],
        "cells": [_cell(row.metrics.get(name)) | {"blind": _blind(row, name)} for name in metrics],
        "seeds": f"{row.seeds_asked}" if row.kind == "method" else "–",
        "lowest": _lowest(row),
        "each": [{"seed": seed} | _cell(estimate) for seed, estimate in sorted(row.each.items())],
        "cost": duration(cost["machine_seconds"]) if "machine_seconds" in cost else "–",
        "search": searched,
        "costs": ", ".join(costs) + "; machine time" if costs else "",
        "metrics": [_metric(name, estimate) for name, estimate in row.metrics.items()],
        "settings": json.dumps(row.config, sort_keys=True),
        "no_pictures": row.kind == "method" and row.status == "done" and not any(map(_panel, row.pictures)),
        "pictures": [_link(p) for p in row.pictures if _local(p) and not _page(p)],
        "pages": [_link(p) for p in row.pictures if _local(p) and _page(p)],
    }


def _cell(estimate: Estimate | None) -> dict[str, Any]:
    """A metric in a table: never a value without its interval (or the word that there is none) and n."""
    if estimate is None or estimate.value is None:
        return {"value": "–", "interval": estimate.note if estimate else "", "n": 0, "sort": ""}
    bounds = "no interval"
    if estimate.low is not None and estimate.high is not None:
        bounds = f"({estimate.low:.3f}–{estimate.high:.3f})".replace("-", "−")
    return {
        "value": f"{estimate.value:.3f}".replace("-", "−"),
        "interval": bounds,
        "n": estimate.n,
        "sort": estimate.value,
    }


def _blind(row: Row, name: str) -> str:
    """What a map has to beat, and how much of it says nothing."""
    estimate = estimate_of(row, BLIND[name]) if name in BLIND and row.metrics.get(name) else None
    if estimate is None:
        return ""
    cell, active = _cell(estimate), row.metrics.get("ap_pixels")
    if name in PAIRS:
        return f"random weights: {cell['value']} {cell['interval']}"
    ties = f"; ties: {active.value:.0%} active" if active and active.value and active.value > TIES else ""
    return f"best blind: {estimate.note} {cell['value']} {cell['interval']}{ties}"


def _lowest(row: Row) -> dict[str, Any] | None:
    """The primary metric of the training that did worst."""
    worst = min((e for e in row.each.values() if e.value is not None), key=lambda e: e.value or 0.0, default=None)
    return _cell(worst) if worst else None


def _metric(name: str, estimate: Estimate) -> dict[str, Any]:
    cell = _cell(estimate)
    summary = METRICS[name].summary if name in METRICS else ""
    value = f"{cell['value']} {cell['interval']}" if estimate.value is not None else "–"
    return {
        "name": name,
        "value": value,
        "n": estimate.n,
        "kind": estimate.interval,
        "note": estimate.note,
        "summary": summary,
    }


def _panel(picture: str) -> bool:
    return picture.endswith(".png")


def _page(picture: str) -> bool:
    return picture.endswith(".html")


def _link(picture: str) -> dict[str, str]:
    return {"href": urllib.parse.quote(picture), "name": Path(picture).stem}


def _local(picture: str) -> bool:
    """Only pictures beside or below the page are linked: no address, no absolute path."""
    return not Path(picture).is_absolute() and "://" not in picture


def duration(seconds: float | None) -> str:
    """ "45 s", "12 min", "3.4 h"; "unknown" for None."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def difference_text(estimate: Estimate) -> str:
    if estimate.value is None:
        return f"– ({estimate.note})" if estimate.note else "–"
    bounds = "no interval"
    if estimate.low is not None and estimate.high is not None:
        bounds = f"{estimate.low:+.3f} to {estimate.high:+.3f}"
    return f"{estimate.value:+.3f} ({bounds})".replace("-", "−")


def p_text(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
