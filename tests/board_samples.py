"""Made-up final runs with real frames, and a board of them, for the tests of the leaderboard and its page."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bench.leaderboard.build import build_board
from bench.leaderboard.references import measure_references
from bench.leaderboard.rows import Board, Registration, Row, SeedRun
from bench.metrics import Frame
from data.tracks import TRACKS

N = 150
META = {"input": "oracle ROI", "supervision": "label"}
REGISTERED = [Registration("margin", reference="vgg16", contrast="iaia_bl", hash="abc123", date="2026-01-01")]


def samples(track: str = "margin", n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"record_id": [f"r{i}" for i in range(n)], "finding_id": [f"f{i}" for i in range(n)]})
    frame["lesion_id"] = frame["finding_id"]
    frame["patient"] = [f"phantom-{i // 2}" for i in range(n)]
    frame["laterality"], frame["view"] = "L", "CC"
    frame["margin"] = rng.integers(0, 3, n)
    frame["malignant"] = rng.integers(0, 2, n)
    frame["area_px"] = rng.lognormal(7, 0.3, n) + 800 * frame["malignant"]
    if track == "malignancy":
        frame.loc[::4, "margin"] = -1
    return frame


def frame_of(track: str, seed: int, skill: float, variants: tuple[str, ...] = ("default",), **meta: Any) -> Frame:
    """A frame whose scores tell the classes apart the better the larger `skill` is."""
    rows = samples(track)
    labels, classes = rows[TRACKS[track].column].to_numpy(), len(TRACKS[track].classes)
    built = []
    for variant in variants:
        rng = np.random.default_rng([seed, int(skill * 10), len(variant)])
        scores = rng.normal(size=(N, classes)) + skill * np.eye(classes)[labels]
        exponent = np.exp(scores)
        probabilities = exponent / exponent.sum(axis=1, keepdims=True)
        built.append(
            Frame.build(
                rows, track, scores, probabilities, side="test", seed=seed, variant=variant, meta={**META, **meta}
            )
        )
    built[0].predictions = pd.concat([f.predictions for f in built], ignore_index=True)
    return built[0]


def final(method: str, seed: int, skill: float = 1.0, track: str = "margin", **changes: Any) -> SeedRun:
    spec = {
        "method": method,
        "dataset": "phantom",
        "config": {"lr": 1e-3},
        "data_hash": "d" * 16,
        "split_hash": "s" * 16,
        "seed": seed,
        "fold": 0,
        "protocol": "holdout",
        "requirements": {"trunk": f"pretext-{seed}"},
    }
    given: dict[str, Any] = {
        "run_id": f"{method}{seed:02d}".encode().hex(),
        "track": track,
        "spec": spec,
        "state": "complete",
        "load": lambda: frame_of(track, seed, skill),
        "seconds": 60.0,
        "requirements": {f"pretext-{seed}": 30.0},
        "search": {"id": f"sweep-{method}", "trials": 3, "seconds": 100.0},
        "facts": {
            "seeds_asked": 5,
            "weights": "pretext",
            "reduced": ["width 0.125"],
            "grades": ["synthetic"],
            "passport": "phantom (synthetic); 40 films; nothing left out",
        },
    }
    return SeedRun(**{**given, **changes})


def five(method: str, skill: float, **changes: Any) -> list[SeedRun]:
    return [final(method, seed, skill, **changes) for seed in range(1, 6)]


def arm_of(name: str, skill: float, method: str = "iaia_bl", **changes: Any) -> list[SeedRun]:
    """Five runs of an arm whose settings are its own."""
    runs = five(method, skill, facts={"seeds_asked": 5, "arms": (name,), **changes.pop("facts", {})})
    spec = {"config": {"lr": 1e-3, "arm": name}, **changes}
    return [replace(run, run_id=f"{name}{run.place[0]}", spec={**run.spec, **spec}) for run in runs]


def make_board() -> Board:
    """Three methods on margin, one failed, one not applicable, and references."""
    runs = [*five("vgg16", 1.0), *five("iaia_bl", 2.2), *five("protopnet", 1.05)]
    measured = measure_references(samples(), runs[0].load(), ceiling=0.97)  # type: ignore[misc]
    runs[0].references = measured
    broken = [final("gmic", seed) for seed in (1, 2, 3)]
    broken += [final("gmic", 4, state="failed", load=None, failure="diverged", reason="loss is NaN at step 12 <b>")]
    cells = [
        {
            "method": "kt",
            "dataset": "phantom",
            "track": "margin",
            "status": "not-applicable",
            "reason": "needs a teacher",
        }
    ]
    return build_board(
        [*runs, *broken], cells=cells, registrations=REGISTERED, date="2026-01-02",
        ledger=[{"kind": "final", "date": "2026-01-02", "method": "vgg16", "track": "margin", "identity": "0123"}],
    )  # fmt: skip


def row_of(board: Board, method: str) -> Row:
    return next(row for row in board.rows if row.method == method)
