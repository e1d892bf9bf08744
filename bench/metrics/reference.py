"""Rows that need no network, without which no AUROC can be read: each is a frame like any other (docs/metrics/references.md).

A reference learns at most a table of its one column on training rows, and is scored on the test rows.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bench.metrics import compute
from bench.metrics.combine import ONE_SEED
from bench.metrics.estimate import Estimate
from bench.metrics.frame import Frame
from bench.metrics.parts import NotComputableError
from data.errors import ConfigError
from data.tracks import TRACKS

Predict = Callable[[pd.DataFrame, pd.DataFrame, str], np.ndarray]  # train, test, track -> probabilities (N, K)
CEILING = "ceiling"


@dataclass(frozen=True)
class Reference:
    """One reference row. column: the column of samples that it alone sees ("" = none).

    rank: score (N) of class 1 that needs no training rows; None: the score is the logarithm of the probability.
    """

    name: str
    title: str
    tracks: frozenset[str]
    column: str
    predict: Predict
    rank: Callable[[pd.DataFrame], np.ndarray] | None = None


def chance(train: pd.DataFrame, test: pd.DataFrame, track: str) -> np.ndarray:
    """The same probabilities for every row: the shares of the classes in training."""
    return np.tile(_prior(train, track), (len(test), 1))


def by_size(train: pd.DataFrame, test: pd.DataFrame, track: str) -> np.ndarray:
    """Logistic regression on the logarithm of the lesion's area in film pixels."""
    from sklearn.linear_model import LogisticRegression

    label = TRACKS[track].column
    known = _labelled(train, track)
    known = known[known["area_px"] > 0]
    model = LogisticRegression(C=1e6).fit(np.log(known[["area_px"]].to_numpy(dtype=float)), known[label])
    found = np.tile(_prior(train, track), (len(test), 1))
    measured = test["area_px"].fillna(0).to_numpy(dtype=float) > 0
    if measured.any():
        learnt = np.zeros((int(measured.sum()), found.shape[1]))
        areas = test.loc[measured, ["area_px"]].to_numpy(dtype=float)
        learnt[:, model.classes_.astype(int)] = model.predict_proba(np.log(areas))
        found[measured] = learnt
    return found


def by_table(column: str) -> Predict:
    """The shares of the classes among training rows with the same value; half a row of the prior is added to each."""

    def predict(train: pd.DataFrame, test: pd.DataFrame, track: str) -> np.ndarray:
        known = _labelled(train, track)
        prior = _prior(train, track)
        shares: dict[str, np.ndarray] = {}
        for value, part in known.groupby(known[column].map(_category)):
            counts = np.bincount(part[TRACKS[track].column], minlength=len(prior))
            shares[str(value)] = (counts + 0.5 * prior) / (counts.sum() + 0.5)
        return np.stack([shares.get(value, prior) for value in test[column].map(_category)])

    return predict


def assessment(test: pd.DataFrame) -> np.ndarray:
    """(N,) the BI-RADS category; 0 (incomplete) and missing stand between 2, benign, and 3, probably benign."""
    numbers = pd.to_numeric(test["attr_assessment"].astype(str).str.extract(r"(\d+(?:\.\d+)?)")[0])
    return numbers.replace(0, np.nan).fillna(2.5).to_numpy(dtype=float)


_FINDINGS = frozenset({"margin", "malignancy"})
_MALIGNANCY = frozenset({"malignancy"})
REFERENCES: dict[str, Reference] = {
    reference.name: reference
    for reference in (
        Reference("chance", "chance: the shares of the classes", frozenset(TRACKS), "", chance),
        Reference("lesion_size", "lesion size alone", _FINDINGS, "area_px", by_size),
        Reference("density", "breast density alone", frozenset(TRACKS), "attr_density", by_table("attr_density")),
        Reference(
            "birads",
            "the radiologist's BI-RADS assessment",
            _MALIGNANCY,
            "attr_assessment",
            by_table("attr_assessment"),
            rank=assessment,
        ),
        Reference(
            "margins", "perfect margin labels, best table of malignancy", _MALIGNANCY, "margin", by_table("margin")
        ),
    )
}


def frame(name: str, train: pd.DataFrame, test: pd.DataFrame, track: str, side: str = "test", fold: int = 0) -> Frame:
    """A reference's predictions on the labelled test rows. train, test: samples tables with the track's label column.

    Raises NotComputableError where the data lack the column.
    """
    if name not in REFERENCES:
        raise ConfigError(f"no reference {name!r}", "references", f"choose from {', '.join(REFERENCES)}")
    reference = REFERENCES[name]
    if track not in reference.tracks:
        raise NotComputableError(f"not a reference of the track {track}")
    train, test = _labelled(train, track), _labelled(test, track)
    if reference.column and not all(_varies(table, reference.column) for table in (train, test)):
        raise NotComputableError(f"the data have no {reference.column.removeprefix('attr_')}")
    if train.empty or test.empty:
        raise NotComputableError("no labelled row")
    probabilities = reference.predict(train, test, track)
    scores = np.log(np.maximum(probabilities, 1e-12))
    if reference.rank is not None:
        scores = np.stack([np.zeros(len(test)), reference.rank(test)], axis=1)
    meta = {"method": f"reference:{name}", "supervision": "label", "input": reference.column or "none"}
    return Frame.build(test, track, scores, probabilities, side=side, seed=0, fold=fold, meta=meta)


def frames(train: pd.DataFrame, test: pd.DataFrame, track: str, *, fold: int = 0) -> dict[str, Frame]:
    """Of each reference that the data allow, its predictions on the test side."""
    found: dict[str, Frame] = {}
    for name in REFERENCES:
        with suppress(NotComputableError):
            found[name] = frame(name, train, test, track, fold=fold)
    return found


def measure(found: Mapping[str, Frame], n: int, ceiling: float | None = None) -> dict[str, dict[str, Estimate]]:
    """Metrics of references by their frames; with `ceiling`, the best possible AUROC known from a generator. n: of rows."""
    rows = {
        name: {metric: _without_seeds(estimate) for metric, estimate in compute(one).items()}
        for name, one in found.items()
    }
    if ceiling is not None:
        rows[CEILING] = {"auroc_mean": Estimate(ceiling, None, None, n, "exact", "known from the generator")}
    return rows


def reference_rows(
    train: pd.DataFrame, test: pd.DataFrame, track: str, *, ceiling: float | None = None
) -> dict[str, dict[str, Estimate]]:
    """Metrics of each reference that the data allow, on one test side."""
    return measure(frames(train, test, track), len(_labelled(test, track)), ceiling)


def unavailable(train: pd.DataFrame, test: pd.DataFrame, track: str) -> dict[str, str]:
    """Why each reference that `reference_rows` leaves out is left out."""
    reasons: dict[str, str] = {}
    for name in REFERENCES:
        try:
            frame(name, train, test, track)
        except NotComputableError as error:
            reasons[name] = str(error)
    return reasons


def _without_seeds(estimate: Estimate) -> Estimate:
    """A reference has no seed, so its interval of patients lacks nothing."""
    note = estimate.note.removesuffix(ONE_SEED).removesuffix("; ")
    return replace(estimate, note=note)


def _labelled(table: pd.DataFrame, track: str) -> pd.DataFrame:
    return table[table[TRACKS[track].column] >= 0].reset_index(drop=True)


def _prior(train: pd.DataFrame, track: str) -> np.ndarray:
    known = _labelled(train, track)
    counts = np.bincount(known[TRACKS[track].column].astype(int), minlength=len(TRACKS[track].classes))
    return np.asarray((counts + 0.5) / (counts + 0.5).sum())


def _category(value: object) -> str:
    """A value as a category: 4, 4.0 and "4" are one; missing values are one of their own."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    text = str(value).strip()
    return text.removesuffix(".0")


def _varies(table: pd.DataFrame, column: str) -> bool:
    if column not in table.columns:
        return False
    values = table[column]
    known = values[values >= 0] if column == "margin" else values.dropna()
    return bool(len(known)) and known.astype(str).nunique() > 1
