"""What an ablation page needs of a finished suite, as Markdown tables: the mean of each arm or method over its seeds, and
its paired difference to a named one.

python -m docs.ablation OUT --metrics auroc_mean,activation_precision_lesion --reference NAME [--track T] [--per-seed]
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.config import nearest
from bench.home import Home
from bench.leaderboard.badges import control_of
from bench.leaderboard.build import build_board
from bench.leaderboard.compare import named
from bench.leaderboard.measure import Measured, part_of
from bench.leaderboard.page import difference_text, p_text
from bench.leaderboard.rows import RANKED_SEEDS, Board, Row, SeedRun
from bench.leaderboard.table import pipe
from bench.metrics import METRICS, Estimate, Frame, over_seeds
from bench.tracking import Tracker
from data.errors import ConfigError
from data.tracks import TRACKS
from docs._runs import parser_of, print_of_runs

Loads = dict[str, Callable[[], Frame]]


def ablation(
    runs: Sequence[SeedRun],
    metrics: Sequence[str],
    reference: str,
    *,
    track: str | None = None,
    per_seed: bool = False,
    keep: Path | None = None,
) -> str:
    """The tables of every data set, track and view on which `reference` (an arm or a method) has a result.

    keep: folder of computed metrics. Raises ConfigError for a metric that there is not, and where no finished row is
    called `reference`.
    """
    for name in metrics:
        if name not in METRICS:
            raise ConfigError(f"no metric {name!r}", "--metrics", nearest(name, METRICS))
    board = build_board([run for run in runs if track in (None, run.track)], keep=keep)
    done = [row for row in board.rows if row.kind == "method" and row.status == "done"]
    tables = [(rows, base) for _, rows in board.tables() if (base := named(_done(rows), reference)) is not None]
    if not tables:
        names = [name for row in done for name in row.names]
        do = nearest(reference, names) if names else "run its suite first"
        raise ConfigError(f"no finished row is called {reference!r}", "--reference", do)
    loads = {(run.run_id, run.track): run for run in runs}

    def frames(row: Row) -> Loads:
        mine = [loads[run, row.track] for run in row.seeds]
        return {run.frame_id: run.load for run in mine if run.load is not None}

    measured = Measured(keep)
    parts = []
    for rows, base in tables:
        methods = [row for row in rows if row.kind == "method"]
        parts += [f"### {board.heading(rows)}", *_means(methods, base, metrics)]
        if per_seed:
            parts.append(_seeds(_done(rows), frames, metrics))
        parts += _differences([row for row in _done(rows) if row is not base], base, frames, metrics, measured)
        parts += _elsewhere(board, base)
    return "\n\n".join(parts) + "\n"


def _done(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.kind == "method" and row.status == "done"]


def _name(row: Row, base: Row) -> str:
    """The row, and what sets it apart from the reference besides its settings."""
    control = control_of(row)
    notes = [f"control: {control}" if control else "", row.input if row.input not in ("", base.input) else ""]
    return "; ".join([row.full_label, *(note for note in notes if note)])


def _means(rows: Sequence[Row], base: Row, metrics: Sequence[str]) -> Iterator[str]:
    yield (
        f"Mean over seeds (95 % interval over patients and seeds); n: {base.unit}s of {base.patients} patients. "
        f"{'; '.join(f'{name}: {METRICS[name].summary}' for name in metrics)}."
    )
    lines = [pipe(["", "seeds", *metrics]), pipe(["---"] * (2 + len(metrics)))]
    for row in rows:
        said = [str(row.metrics.get(name, "-")) for name in metrics]
        if row.status != "done":
            said = [f"{row.status}: {row.reason}", *[""] * (len(metrics) - 1)]
        lines.append(pipe([_name(row, base), str(row.seeds_asked), *said]))
    yield "\n".join(lines)


def _seeds(rows: Sequence[Row], frames: Callable[[Row], Loads], metrics: Sequence[str]) -> str:
    """Each seed's own value."""
    most = max(len(row.seeds) for row in rows)
    lines = [pipe(["seed", *map(str, range(1, most + 1))]), pipe(["---"] * (1 + most))]
    for row in rows:
        parts = [part_of(load(), row.subset, row.variant) for load in frames(row).values()]
        for name in metrics:
            found = [over_seeds([part], [name]).get(name) for part in sorted(parts, key=lambda part: part.seeds)]
            values = ["-" if one is None or one.value is None else f"{one.value:.3f}" for one in found]
            lines.append(pipe([f"{row.label}, {name}", *values, *[""] * (most - len(values))]))
    return "\n".join(lines)


def _differences(
    rows: Sequence[Row], base: Row, frames: Callable[[Row], Loads], metrics: Sequence[str], measured: Measured
) -> Iterator[str]:
    if not rows:
        return
    few = min(row.seeds_asked for row in [*rows, base]) < RANKED_SEEDS
    yield (
        f"Differences to {base.label} (95 % interval): same patients; seeds independent, but paired where both are variants of "
        "one training; p of each alone, not corrected for their number"
        f"{f'. With fewer than {RANKED_SEEDS} seeds the spread between them is hardly known' if few else ''}."
    )
    lines = [pipe([f"- {base.label}", *metrics]), pipe(["---"] * (1 + len(metrics)))]
    for row in rows:
        said = []
        for name in metrics:
            found = measured.difference(frames(row), frames(base), name, row.subset, (row.variant, base.variant))
            estimate = Estimate(**found["difference"])
            p = "" if found["p"] is None else f", p {p_text(found['p'])}, n={estimate.n}"
            said.append(f"{difference_text(estimate).replace('−', '-')}{p}")
        lines.append(pipe([_name(row, base), *said]))
    yield "\n".join(lines)


def _elsewhere(board: Board, base: Row) -> Iterator[str]:
    """Rows of the same question that rest on other test rows: named, since nobody should miss them without a word."""
    others = [row for row in _done(board.rows) if row.table[:3] == base.table[:3] and row.table != base.table]
    if others:
        yield f"On other test rows, and so not compared: {', '.join(row.full_label for row in others)}."


def main(words: Sequence[str]) -> int:
    parser = parser_of("ablation", __doc__)
    parser.add_argument("--metrics", required=True, help="names of `list metrics`, comma-separated")
    parser.add_argument("--reference", required=True, help="the arm or method that the others are compared with")
    parser.add_argument(
        "--track", choices=list(TRACKS), help="default: every track on which the reference has a result"
    )
    parser.add_argument("--per-seed", action="store_true", help="also the value of each seed")

    def lines(asked: Namespace, home: Home, tracker: Tracker, runs: Sequence[SeedRun]) -> Iterator[str]:
        names = [name.strip() for name in asked.metrics.split(",")]
        keep = home.leaderboard / "measured"
        text = ablation(runs, names, asked.reference, track=asked.track, per_seed=asked.per_seed, keep=keep)
        yield text.rstrip("\n")

    return print_of_runs(parser, words, lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
