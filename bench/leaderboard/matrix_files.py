"""A matrix of trainings and test-time variants as heat maps, as a table and as numbers for the record of runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.explain.heatmap import Heat, save_heat
from bench.explain.panels import whole
from bench.leaderboard.matrix import Matrix, bounds
from bench.leaderboard.titles import metric_title
from bench.metrics import METRICS, Estimate

CHOSEN, BEST = "validation's choice", "best on test"
COLUMNS = (
    *("track", "dataset", "subset", "method", "training", "variant", "metric", "value", "low", "high", "n"),
    *("interval", "note", "seeds", "patients", "validation", "validation_low", "validation_high", "validation_n"),
    *("validations_choice", "best_on_test"),
    *("data_hash", "split_hash", "rows_hash", "config_hash", "run_ids"),
)


def heats(matrix: Matrix) -> list[Heat]:
    """A heat map per metric; the choices are by the primary one and stand on its own."""
    marks: dict[tuple[int, int], list[str]] = {}
    for cells, mark in ((matrix.chosen, CHOSEN), (matrix.best, BEST)):
        for training, test in cells:
            marks.setdefault((matrix.trainings.index(training), matrix.tests.index(test)), []).append(mark)
    return [_heat(matrix, name, marks if name == matrix.primary else {}) for name in matrix.metrics]


def _heat(matrix: Matrix, name: str, marks: Mapping[tuple[int, int], Sequence[str]]) -> Heat:
    estimates = [[matrix.rows[one, test].metrics.get(name) for test in matrix.tests] for one in matrix.trainings]
    return Heat(
        title=f"{_sentence(metric_title(name))}: {matrix.heading}",
        rows=matrix.trainings,
        columns=[matrix.title(test) for test in matrix.tests],
        down="training",
        across="test",
        values_RC=np.array([[e.value if e and e.value is not None else np.nan for e in line] for line in estimates]),
        intervals=[[bounds(e) if e and e.value is not None else "" for e in line] for line in estimates],
        better=METRICS[name].direction,
        caption=_caption(matrix, name, [e for line in estimates for e in line if e and e.value is not None]),
        marks=marks,
    )


def _caption(matrix: Matrix, name: str, estimates: Sequence[Estimate]) -> str:
    rows = list(matrix.rows.values())
    n = _span(estimate.n for estimate in estimates)
    seeds = _span(row.seeds_asked for row in rows)
    kinds = "; ".join(dict.fromkeys(estimate.interval for estimate in estimates))
    patients = f"; {rows[0].patients} patients on the test side" if rows[0].patients else ""
    return f"{_sentence(METRICS[name].summary)}. Mean over {seeds} seeds with its 95 % interval ({kinds}); n = {n}{patients}."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _span(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return " to ".join(str(one) for one in dict.fromkeys((found[0], found[-1])))


def to_csv(matrix: Matrix) -> str:
    """One line per pairing and shown metric; `validation` is of the primary metric alone."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in matrix.pairings:
        row = matrix.rows[cell]
        facts = {
            "track": row.track, "dataset": row.dataset, "subset": row.subset, "method": row.method,
            "training": cell[0], "variant": cell[1], "seeds": row.seeds_asked, "patients": row.patients or "",
            "validations_choice": cell in matrix.chosen, "best_on_test": cell in matrix.best,
            **{f"{name}_hash": row.hashes.get(name, "") for name in ("data", "split", "rows", "config")},
            "run_ids": " ".join(row.seeds),
        }  # fmt: skip
        for name in matrix.metrics:
            estimate = row.metrics.get(name)
            seen = matrix.validation.get(cell) if name == matrix.primary else None
            there = (seen.value, seen.low, seen.high, seen.n) if seen else ("",) * 4
            told = dict(zip(("validation", "validation_low", "validation_high", "validation_n"), there, strict=True))
            writer.writerow({**facts, "metric": name, **(estimate.to_json() if estimate else {}), **told})
    return stream.getvalue()


def numbers(matrix: Matrix) -> dict[str, Estimate | None]:
    """Each cell's metrics under names fit for the record of runs: metric/training/variant, and validation/ before them."""
    found: dict[str, Estimate | None] = {}
    for cell in matrix.pairings:
        place = "/".join(cell)
        found |= {f"{name}/{place}": matrix.rows[cell].metrics.get(name) for name in matrix.metrics}
        if cell in matrix.validation:
            found[f"validation/{matrix.primary}/{place}"] = matrix.validation[cell]
    return found


def files_of(matrix: Matrix, folder: Path) -> list[Path]:
    """Where `write_matrix` writes."""
    return [folder / f"{matrix.name}.csv", *(folder / f"{matrix.name}-{name}.svg" for name in matrix.metrics)]


def write_matrix(matrix: Matrix, folder: Path) -> list[Path]:
    """The numbers as CSV and a heat map per metric as SVG, each whole or not at all. MachineError where the disk refuses."""
    table, *pictures = files_of(matrix, folder)
    text = to_csv(matrix)
    whole(table, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    for heat, path in zip(heats(matrix), pictures, strict=True):
        save_heat(heat, path)
    return [table, *pictures]
