"""Reference rows beside the methods: measured once when the test side is opened, then read like any other artifact."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bench.leaderboard.measure import views
from bench.leaderboard.rows import Row
from bench.metrics import Estimate, Frame
from bench.metrics.reference import CEILING, REFERENCES, frames, measure
from data.protocols import FOLDS
from data.tracks import TRACKS

ARTIFACT = "references-{track}.json"


def measure_references(train: pd.DataFrame, frame: Frame, ceiling: float | None = None) -> dict[str, Any]:
    """subset -> "rows", their hash, and "metrics": name -> metric -> estimate; what `final` writes as the artifact ARTIFACT
    beside its frame. Of one fold of several: in place of metrics "frames", the predictions, since metrics are of all folds.

    train: samples of the training side. frame: any method's frame of the test side: its labels and carried columns are
    read, never its scores. ceiling: the best possible value of the primary metric, where a generator knows it.
    """
    column, fold = TRACKS[frame.track].column, frame.meta.get("fold", 0)
    found: dict[str, Any] = {}
    for subset, part in views(frame):
        test = part.labelled().predictions.assign(**{column: lambda table: table["label"]})
        mine = train[train["margin"] >= 0] if subset == "three margins" and "margin" in train.columns else train
        made = frames(mine, test, frame.track, fold=fold)
        found[subset] = {"rows": part.identity, "n": len(test), "ceiling": ceiling}
        if FOLDS.get(str(frame.meta.get("protocol")), 1) > 1:
            found[subset]["frames"] = {name: _packed(one) for name, one in made.items()}
        else:
            found[subset]["metrics"] = _as_json(measure(made, len(test), ceiling))
    return found


def over_folds(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `measure_references` gives of one test side, from the artifacts of all folds: of views and references that each
    of them has."""
    found: dict[str, Any] = {}
    for subset in set.intersection(*(set(one) for one in measured)):
        parts = [one[subset] for one in measured]
        if not all("frames" in part for part in parts):
            continue
        names = [name for name in parts[0]["frames"] if all(name in part["frames"] for part in parts)]
        joined = {name: Frame.joined([_unpacked(part["frames"][name]) for part in parts]) for name in names}
        if joined:
            n = sum(part["n"] for part in parts)
            rows = next(iter(joined.values())).identity
            found[subset] = {"rows": rows, "metrics": _as_json(measure(joined, n, parts[0]["ceiling"]))}
    return found


def _as_json(rows: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Any]:
    return {name: {m: e.to_json() for m, e in metrics.items()} for name, metrics in rows.items()}


def _packed(frame: Frame) -> dict[str, Any]:
    return {"meta": frame.meta, "predictions": json.loads(frame.predictions.to_json(orient="split", index=False))}


def _unpacked(kept: Mapping[str, Any]) -> Frame:
    return Frame(pd.DataFrame(**kept["predictions"]), dict(kept["meta"]))


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
