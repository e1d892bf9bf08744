"""Reference rows beside the methods: measured once when the test side is opened, then read like any other artifact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bench.leaderboard.measure import views
from bench.leaderboard.rows import Row
from bench.metrics import Estimate, Frame
from bench.metrics.reference import CEILING, REFERENCES, reference_rows
from data.tracks import TRACKS

ARTIFACT = "references-{track}.json"


def measure_references(train: pd.DataFrame, frame: Frame, ceiling: float | None = None) -> dict[str, Any]:
    """subset -> name -> metric -> estimate as JSON: what `final` writes as the artifact ARTIFACT beside its frame.

    train: samples of the training side. frame: any method's frame of the test side: its labels and carried columns are
    read, never its scores. ceiling: the best possible value of the primary metric, where a generator knows it.
    """
    column = TRACKS[frame.track].column
    found: dict[str, Any] = {}
    for subset, part in views(frame):
        test = part.labelled().predictions.assign(**{column: lambda table: table["label"]})
        mine = train[train["margin"] >= 0] if subset == "three margins" and "margin" in train.columns else train
        rows = reference_rows(mine, test, frame.track, ceiling=ceiling)
        found[subset] = {
            "rows": part.identity,
            "metrics": {name: {m: e.to_json() for m, e in metrics.items()} for name, metrics in rows.items()},
        }
    return found


def rows_of_references(measured: Mapping[str, Any], like: Row) -> list[Row]:
    """The reference rows that belong beside `like`: same data, track, view and test rows."""
    part = measured.get(like.subset)
    if part is None or part["rows"] != like.hashes.get("rows"):
        return []
    return [
        Row(
            method=name,
            title="Bayes-optimal, known from the generator" if name == CEILING else _title(name),
            dataset=like.dataset,
            track=like.track,
            subset=like.subset,
            metrics={metric: Estimate(**value) for metric, value in metrics.items()},
            input=_input(name),
            supervision="none" if name in (CEILING, "chance") else "label",
            hashes={key: like.hashes[key] for key in ("data", "split", "rows") if key in like.hashes},
            kind="reference",
            protocol=like.protocol,
            passport=like.passport,
            rank_note="a reference is not ranked",
            unit=like.unit,
            patients=like.patients,
        )
        for name, metrics in part["metrics"].items()
    ]


def _title(name: str) -> str:
    return REFERENCES[name].title if name in REFERENCES else name


def _input(name: str) -> str:
    words = {"chance": "nothing", CEILING: "the generator's truth", "area_px": "area of the annotated lesion"}
    column = REFERENCES[name].column if name in REFERENCES else ""
    return words.get(name) or words.get(column) or column.removeprefix("attr_").replace("_", " ")
