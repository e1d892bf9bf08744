"""Trainings x test-time variants of a table: every pairing's values, the one that validation would have chosen, and which are equal.

A table has a matrix where two trainings or more (arms, methods) were judged under the same two variants or more, and where the
variants of a single one differ in the primary metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from bench.config import digest
from bench.leaderboard.badges import control_of
from bench.leaderboard.measure import Measured
from bench.leaderboard.rows import Board, Row, SeedRun
from bench.leaderboard.titles import metric_title
from bench.metrics import METRICS, Estimate
from data.errors import DataError
from data.tracks import TRACKS

Pairing = tuple[str, str]  # a training's label, a test variant's name
# Metrics of a matrix beside the track's primary one; shown where a cell has them.
SHOWN = {
    "margin": ("activation_precision_lesion",),
    "malignancy": ("activation_precision_lesion",),
    "detection": ("tpr_at_fppi_1", "tpr_max", "fppi_max"),
}
SAME = 1e-12  # values nearer than this are one value: what is left is rounding


@dataclass(frozen=True)
class Matrix:
    """rows: pairing -> its row of the board. validation: pairing -> the primary metric on validation, over seeds; of none,
    `unread` says why. absent: the table's rows of these methods that have no result, and why."""

    table: tuple[str, ...]
    heading: str
    trainings: Sequence[str]
    tests: Sequence[str]
    rows: Mapping[Pairing, Row]
    validation: Mapping[Pairing, Estimate] = field(default_factory=dict)
    unread: str = ""
    absent: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The start of its files' names."""
        track, dataset, *_ = self.table
        return f"matrix-{track}-{dataset}-{digest([*self.table, *sorted(self.tests)])[:8]}"

    @property
    def primary(self) -> str:
        return TRACKS[self.table[0]].primary

    @property
    def metrics(self) -> list[str]:
        """The primary one and those of SHOWN, of which some cell has a value."""
        names = dict.fromkeys((self.primary, *SHOWN.get(self.table[0], ())))
        return [name for name in names if any(self.value(cell, name) is not None for cell in self.rows)]

    @property
    def pairings(self) -> list[Pairing]:
        """All of them, training by training."""
        return [(training, test) for training in self.trainings for test in self.tests]

    def value(self, cell: Pairing, metric: str) -> float | None:
        estimate = self.rows[cell].metrics.get(metric)
        return estimate.value if estimate is not None else None

    def title(self, test: str) -> str:
        """What the methods call the map of a variant, else the variant's name."""
        return next((row.titles[test] for row in self.rows.values() if test in row.titles), test)

    def called(self, cell: Pairing) -> str:
        return f"{cell[0]} × {self.title(cell[1])}"

    @property
    def chosen(self) -> list[Pairing]:
        """The pairing that is best on validation; several where validation does not tell them apart."""
        return self._best(self.validation)

    @property
    def best(self) -> list[Pairing]:
        """The same of the test side."""
        found = {cell: self.rows[cell].metrics.get(self.primary) for cell in self.pairings}
        return self._best({cell: estimate for cell, estimate in found.items() if estimate is not None})

    def _best(self, estimates: Mapping[Pairing, Estimate]) -> list[Pairing]:
        values = {cell: one.value for cell, one in estimates.items() if one.value is not None}
        sign = -1 if METRICS[self.primary].direction == "min" else 1
        top = max((sign * value for value in values.values()), default=0.0)
        return [cell for cell in self.pairings if cell in values and sign * values[cell] >= top - SAME]

    def to_json(self) -> dict[str, Any]:
        return {
            "table": dict(zip(("track", "dataset", "subset", "split", "rows"), self.table, strict=True)),
            "metric": self.primary,
            "trainings": list(self.trainings),
            "variants": list(self.tests),
            "validation": [[self._seen((one, test)) for test in self.tests] for one in self.trainings],
            "chosen": [list(cell) for cell in self.chosen],
            "best": [list(cell) for cell in self.best],
            "notes": words(self),
            "files": self.name,
        }

    def _seen(self, cell: Pairing) -> dict[str, Any] | None:
        return self.validation[cell].to_json() if cell in self.validation else None


# ---- finding them ---------------------------------------------------------------------------------------------------
def matrices_of(
    board: Board, measured: Measured, validation: Callable[[], Iterable[SeedRun]] | None = None
) -> list[Matrix]:
    """The matrices of a board, table by table. validation: the board's runs with validation frames; asked only where there is a
    matrix, and read once per set of runs."""
    found = [
        _matrix(board, table, rows, trainings)
        for table, rows in board.tables()
        for trainings in _groups([row for row in board.rows if row.table == table])
    ]
    if not found or validation is None:
        return found
    runs = {(run.run_id, run.track): run for run in validation() if run.load is not None}
    return [_on_validation(matrix, runs, measured) for matrix in found]


def _groups(rows: Sequence[Row]) -> list[dict[str, dict[str, Row]]]:
    """training -> variant -> row, of each set of trainings that share their variants, of one input: what another is shown, as a
    control, is no pairing to choose."""
    trainings: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if row.kind == "method" and row.status == "done" and control_of(row) is None:
            trainings.setdefault((row.input, row.training), {})[row.variant] = row
    alike: dict[tuple[str, frozenset[str]], dict[str, dict[str, Row]]] = {}
    for (given, name), variants in trainings.items():
        alike.setdefault((given, frozenset(variants)), {})[name] = variants
    return [group for (_, variants), group in alike.items() if len(variants) > 1 and (len(group) > 1 or _differ(group))]


def _differ(group: Mapping[str, Mapping[str, Row]]) -> bool:
    """Whether a training's variants give different values of the track's primary metric, so that there is something to choose."""
    rows = [row for variants in group.values() for row in variants.values()]
    found = {_values(row).get(TRACKS[row.track].primary) for row in rows}
    return len(found) > 1


def _matrix(
    board: Board, table: tuple[str, ...], rows: Sequence[Row], trainings: Mapping[str, Mapping[str, Row]]
) -> Matrix:
    first = next(iter(trainings.values()))
    titled = list(next(iter(first.values())).titles)
    tests = sorted(first, key=lambda test: titled.index(test) if test in titled else len(titled))  # else as they came
    methods = {row.method for variants in trainings.values() for row in variants.values()}
    lacking = [row for row in rows if row.status != "done" and row.method in methods]
    return Matrix(
        table,
        board.heading(rows),
        _in_order({name: next(iter(variants.values())) for name, variants in trainings.items()}, tests),
        tests,
        {(name, test): variants[test] for name, variants in trainings.items() for test in tests},
        absent=[f"{row.training}: {row.status.replace('-', ' ')}: {row.reason}" for row in lacking],
    )


def _in_order(trainings: Mapping[str, Row], tests: Sequence[str]) -> list[str]:
    """By name; where a field of the settings is in every training another one of the variants, in the variants' order, so that
    what is alike in training and test lies on the diagonal."""
    own = _own([row.config for row in trainings.values()], tests)
    if own is None:
        return sorted(trainings)
    return sorted(trainings, key=lambda name: (tests.index(trainings[name].config[own]), name))


def _own(configs: Sequence[Mapping[str, Any]], tests: Sequence[str]) -> str | None:
    """The field of the settings that names in every training one of the variants, and tells most of them apart."""
    shared = [name for name in configs[0] if all(config.get(name) in tests for config in configs)]
    return max(shared, key=lambda name: len({config[name] for config in configs}), default=None)


def _on_validation(matrix: Matrix, runs: Mapping[tuple[str, str], SeedRun], measured: Measured) -> Matrix:
    """The matrix with what the validation frames of its own runs say."""
    found: dict[Pairing, Estimate] = {}
    for training in matrix.trainings:
        row = matrix.rows[training, matrix.tests[0]]
        mine = [runs.get((run_id, row.track)) for run_id in row.seeds]
        loads = {run.frame_id: run.load for run in mine if run is not None and run.load is not None}
        if len(loads) < len(row.seeds):
            return replace(matrix, unread=f"{training} has validation frames of {len(loads)} of {len(row.seeds)} runs")
        try:
            values = measured.validation(loads, matrix.primary, row.subset, matrix.tests)
        except DataError as error:
            return replace(matrix, unread=f"{training}: {error}")
        found |= {(training, test): value for test, value in values.items()}
    if len(found) < len(matrix.rows):
        lacking = next(cell for cell in matrix.pairings if cell not in found)
        return replace(matrix, unread=f"{matrix.called(lacking)} has no {metric_title(matrix.primary)} there")
    return replace(matrix, validation=found)


# ---- in words -------------------------------------------------------------------------------------------------------
def words(matrix: Matrix) -> list[str]:
    """Sentences below the heat maps: what validation would have chosen, which cells are equal, what is not there."""
    return [
        *_choice(matrix),
        *_declared(matrix),
        *_twins(matrix),
        *_found(matrix),
        *(f"Without a result: {one}." for one in matrix.absent),
    ]


def _choice(matrix: Matrix) -> Iterator[str]:
    if not matrix.best:
        return
    title, chosen, best = metric_title(matrix.primary), matrix.chosen, matrix.best
    if chosen:
        seen, seeds = matrix.validation[chosen[0]], matrix.rows[chosen[0]].seeds_asked
        there = (
            f"{title} {stated(seen)} there, as the best of {len(matrix.rows)} optimistic; n = {seen.n}, {seeds} seeds"
        )
        tests = "; ".join(f"{matrix.called(cell)} {_short(matrix, cell)}" for cell in chosen)
        names = " or ".join(matrix.called(cell) for cell in chosen)
        yield f"Validation would have chosen {names} ({there}). Its test value: {tests}."
    elif matrix.unread:
        yield f"Which pairing validation would have chosen is not known: {matrix.unread}."
    names = "; ".join(f"{matrix.called(cell)} {_short(matrix, cell)}" for cell in best)
    same = " It is validation's choice, too." if set(best) & set(chosen) else ""
    yield f"Best on the test side, and as the best of {len(matrix.rows)} there optimistic: {names}.{same}"


def _short(matrix: Matrix, cell: Pairing) -> str:
    estimate = matrix.rows[cell].metrics.get(matrix.primary)
    return "–" if estimate is None else stated(estimate)


def stated(estimate: Estimate) -> str:
    return "–" if estimate.value is None else f"{estimate.value:.3f} ({bounds(estimate)})"


def bounds(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"{estimate.low:.3f}–{estimate.high:.3f}".replace("-", "−")


def _declared(matrix: Matrix) -> Iterator[str]:
    """What the methods say is equal by algebra, and whether it came out so."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for training in matrix.trainings:
        for pair in matrix.rows[training, matrix.tests[0]].coincide:
            if {pair[0], pair[1]} <= set(matrix.tests):
                said.setdefault(pair, []).append(training)
    for (one, other, why), trainings in said.items():
        where = "" if len(trainings) == len(matrix.trainings) else f" (after {', '.join(trainings)})"
        apart = max((_apart(matrix, (t, one), (t, other)) for t in trainings), default=(0.0, ""))
        yield f"Equal by algebra{where}: {matrix.title(one)} = {matrix.title(other)}, {why}; measured: {_told(apart)}."


def _twins(matrix: Matrix) -> Iterator[str]:
    for a, b, why in _equal_trainings(matrix):
        gap = max(_apart(matrix, (a, test), (b, test)) for test in matrix.tests)
        yield f"Equal by algebra: the trainings {a} = {b}, {why}; measured: {_told(gap)}."


def _equal_trainings(matrix: Matrix) -> list[tuple[str, str, str]]:
    """training, training, why: they differ in the name of a map alone, of two maps that their method calls equal."""
    rows = {training: matrix.rows[training, matrix.tests[0]] for training in matrix.trainings}
    own = _own([row.config for row in rows.values()], matrix.tests)
    found: list[tuple[str, str, str]] = []
    for (a, one), (b, other) in combinations(rows.items(), 2):
        apart = {
            name for name in one.config.keys() | other.config.keys() if one.config.get(name) != other.config.get(name)
        }
        maps = {one.config[own], other.config[own]} if own is not None else set()
        why = next((why for *pair, why in one.coincide if set(pair) == maps and (*pair, why) in other.coincide), None)
        if apart == {own} and why is not None:
            found.append((a, b, why))
    return found


def _told(gap: tuple[float, str]) -> str:
    return f"apart by up to {gap[0]:.2g} ({gap[1]})" if gap[0] > SAME else "equal in every metric"


def _apart(matrix: Matrix, one: Pairing, other: Pairing) -> tuple[float, str]:
    """The largest difference of a metric between two cells, and which."""
    a, b = _values(matrix.rows[one]), _values(matrix.rows[other])
    lone = {name: float("inf") for name in a.keys() ^ b.keys()}
    found = lone | {name: abs(a[name] - b[name]) for name in a.keys() & b.keys()}
    return max(((gap, name) for name, gap in found.items()), default=(0.0, ""))


def _values(row: Row) -> dict[str, float]:
    return {name: estimate.value for name, estimate in row.metrics.items() if estimate.value is not None}


def _found(matrix: Matrix) -> Iterator[str]:
    """Cells that came out the same in every metric though no method said so."""
    alike: dict[frozenset[tuple[str, float]], list[Pairing]] = {}
    for cell in matrix.pairings:
        if values := _values(matrix.rows[cell]):
            alike.setdefault(frozenset((name, round(value, 12)) for name, value in values.items()), []).append(cell)
    twins = _equal_trainings(matrix)
    for cells in alike.values():
        said = {(_first_of(one, twins), _first_of(test, matrix.rows[one, test].coincide)) for one, test in cells}
        if len(said) > 1:
            names = ", ".join(matrix.called(cell) for cell in cells)
            yield f"Equal in every metric, though nothing says that they must be: {names}."


def _first_of(name: str, pairs: Sequence[tuple[str, str, str]]) -> str:
    """The first of those that are declared equal to this one, over any number of steps."""
    same = {name}
    for _ in pairs:
        same |= {name for one, other, _ in pairs if {one, other} & same for name in (one, other)}
    return min(same)
