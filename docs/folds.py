"""The table of a cross-validation, as paper 003 prints it, and the tests over its folds; as Markdown.

python -m docs.folds OUT --reference densenet121 --track malignancy

Of every arm or method that a suite of the protocol kfold5 has finished: accuracy of the folds as mean and standard deviation, the summed
confusion matrix, pooled and balanced accuracy, the gap between the classes, AUROC averaged over folds. These are the first seed's, as
a paper with one seed prints them; `docs.ablation` has the intervals over patients and seeds.
"""

import sys
from collections.abc import Iterator, Sequence

import numpy as np

from bench.config import nearest
from bench.leaderboard.build import build_board
from bench.leaderboard.compare import named
from bench.leaderboard.page import p_text
from bench.leaderboard.rows import Row, SeedRun
from bench.leaderboard.table import pipe
from bench.metrics import Frame, by_seed
from bench.metrics.folds import corrected_t, discordant, mcnemar, over_folds, same_folds, sign_flip
from data.errors import ConfigError
from data.protocols import FOLDS
from docs._runs import parser_of, print_of_runs


def tables(runs: Sequence[SeedRun], reference: str, track: str) -> Iterator[str]:
    """Lines of the two tables. ConfigError where no row of folds is called `reference`."""
    board = build_board([run for run in runs if run.track == track])
    rows = [row for row in board.rows if row.kind == "method" and row.status == "done" and FOLDS[row.protocol] > 1]
    base = named(rows, reference)
    if base is None:
        names = [name for row in rows for name in row.names]
        do = nearest(reference, names) if names else "run a suite of the protocol kfold5 first"
        raise ConfigError(f"no finished row of folds is called {reference!r}", "--reference", do)
    rows = [
        row
        for row in rows
        if (row.dataset, row.subset, row.hashes["rows"]) == (base.dataset, base.subset, base.hashes["rows"])
    ]
    loads = {(run.run_id, run.track): run.load for run in runs}

    def frames(row: Row) -> list[Frame]:
        found = [load() for run in row.seeds if (load := loads[run, row.track]) is not None]
        return by_seed(found)

    of = {row.key: frames(row) for row in rows}
    first = {key: over_folds(seeds[0]) for key, seeds in of.items()}
    classes = of[base.key][0].classes
    if max(map(len, of.values())) > 1:
        yield "Of each arm's first seed:"
        yield ""
    yield pipe(["arm", "accuracy, mean ± sd of folds", f"confusion ({', '.join(classes)}; true class in rows)",
                "pooled", "balanced", "gap between classes", "AUROC, mean of folds", "n", "seeds"])  # fmt: skip
    yield pipe(["---"] * 9)
    for row in sorted(rows, key=lambda one: -first[one.key].accuracy.mean()):
        found = first[row.key]
        accuracy = f"{100 * found.accuracy.mean():.1f} ± {100 * np.std(found.accuracy, ddof=1):.1f}"
        numbers = (f"{value:.3f}" for value in (found.pooled, found.balanced, found.gap, float(found.auroc.mean())))
        counts = found.confusion.tolist()
        yield pipe([row.full_label, accuracy, str(counts), *numbers, str(found.confusion.sum()), str(len(of[row.key]))])
    yield ""
    over = "means over seeds; McNemar is of the first seed" if max(map(len, of.values())) > 1 else "one seed"
    yield f"Against {base.label}: accuracy of the same folds, {over}; p of each alone, not corrected for their number."
    yield ""
    yield pipe(
        [
            "arm",
            "difference of accuracy",
            "p, corrected t over folds",
            "p, sign-flip over patients",
            "p, McNemar (parity)",
        ]
    )
    yield pipe(["---"] * 5)
    for row in rows:
        if row.key != base.key:
            mine, other = of[row.key], of[base.key]
            own, theirs = _mean_accuracy(mine), _mean_accuracy(other)
            counts = discordant(mine[0], other[0])
            t = corrected_t(own, theirs) if same_folds(mine[0], other[0]) else float("nan")
            p_values = (t, sign_flip(mine, other), mcnemar(*counts))
            said = [p_text(p) if np.isfinite(p) else "-" for p in p_values]
            yield pipe(
                [
                    row.full_label,
                    f"{100 * (own - theirs).mean():+.1f}",
                    *said[:2],
                    f"{said[2]} ({counts[0]} against {counts[1]})",
                ]
            )


def _mean_accuracy(frames: Sequence[Frame]) -> np.ndarray:
    """(F,) accuracy of each fold, averaged over seeds."""
    found: np.ndarray = np.mean([over_folds(frame).accuracy for frame in frames], axis=0)
    return found


def main(words: Sequence[str]) -> int:
    parser = parser_of("folds", __doc__)
    parser.add_argument("--reference", required=True, help="the arm or method that others are set beside")
    parser.add_argument("--track", default="malignancy")
    return print_of_runs(parser, words, lambda asked, home, tracker, runs: tables(runs, asked.reference, asked.track))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
