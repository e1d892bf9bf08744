"""Evidence made by hand: contributions of sources to classes, as an evaluation leaves them in a frame."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import softmax

from bench.metrics import Frame
from data.tracks import TRACKS
from tests.toy_frames import samples


def evidence_table(
    table: pd.DataFrame,
    contribution_NSK: np.ndarray,
    kinds: Sequence[int],
    levels: Sequence[int] | None = None,
    places: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Frame.evidence of the rows of `table`: kinds, levels, places and names of the S sources."""
    n, sources, classes = contribution_NSK.shape
    facts = {
        "source": names or [f"prototype {j}" for j in range(sources)],
        "source_class": kinds,
        "source_level": levels or [0] * sources,
        "source_place": places or [""] * sources,
    }
    each = {name: np.tile(np.repeat(np.asarray(value), classes), n) for name, value in facts.items()}
    ids = {key: np.repeat(table[key].to_numpy(), sources * classes) for key in ("record_id", "finding_id")}
    values = {"class": np.tile(np.arange(classes), n * sources), "contribution": contribution_NSK.reshape(-1)}
    return pd.DataFrame(ids | each | values)


def evidence_frame(
    contribution_NSK: np.ndarray,
    kinds: Sequence[int],
    *,
    labels: Sequence[int] | None = None,
    bias: np.ndarray | float = 0.0,
    track: str = "margin",
    seed: int = 0,
    fold: int = 0,
    table: pd.DataFrame | None = None,
    **facts: Sequence[int] | Sequence[str] | None,
) -> Frame:
    """A frame whose scores are the sums of the contributions (N, S, K) and the bias; one patient a row by default."""
    n = len(contribution_NSK)
    if table is None:
        table = samples(n, n, track=track).assign(patient=[f"p{i:03d}" for i in range(n)])
    if labels is not None:
        table = table.assign(**{TRACKS[track].column: labels})
    scores = contribution_NSK.sum(axis=1) + bias
    evidence = evidence_table(table, contribution_NSK, kinds, **facts)  # type: ignore[arg-type]
    probabilities = softmax(scores, axis=1)
    return Frame.build(table, track, scores, probabilities, side="test", seed=seed, fold=fold, evidence=evidence)
