"""What each final seed of a finished suite scored, and paired differences: python -m docs.per_seed OUT METRIC..."""

import sys
from pathlib import Path

from bench.leaderboard.collect import collect
from bench.metrics import Frame, compute, difference
from bench.tracking import Tracker


def main(out: Path, metrics: list[str], track: str = "margin") -> None:
    """One line per seed and metric; then the first method against each other one."""
    frames: dict[str, dict[int, Frame]] = {}
    for run in collect(Tracker(out=out)):
        if run.track == track and run.load is not None:
            frames.setdefault(run.method, {})[run.place[0]] = run.load()
    for method in sorted(frames):
        for seed in sorted(frames[method]):
            found = compute(frames[method][seed], metrics)
            print(method, f"seed {seed}:", ", ".join(f"{name} {estimate}" for name, estimate in found.items()))
    first, *others = sorted(frames)
    for other in others:
        for metric in metrics:
            a, b = ([frames[name][seed] for seed in sorted(frames[name])] for name in (first, other))
            estimate, p = difference(a, b, metric)
            print(f"{first} - {other}, {metric}: {estimate}, p {p:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
