"""Which cases are shown: by rule and seed, never by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd


def choose(predictions: pd.DataFrame, n: int, seed: int = 0) -> list[int]:
    """Positions of n rows of a frame's predictions, spread over label x right/wrong, random within each.

    The strata take turns, so each shows up as long as it has cases, whatever its size: what is shown says nothing of how
    frequent errors are. Rows without a label and variants but the first are left out.
    """
    names = [name for name in predictions.columns if name.startswith("prob_")]
    keep = predictions["label"].to_numpy() >= 0
    if "variant" in predictions.columns:
        variants = predictions["variant"].to_numpy()
        keep &= variants == variants[:1]
    positions = np.flatnonzero(keep)
    label = predictions["label"].to_numpy()[positions]
    right = predictions[names].to_numpy(dtype=float)[positions].argmax(axis=1) == label
    # The order of the table must not matter: shuffle rows sorted by their ids.
    ids = predictions[["record_id", "finding_id"]].astype(str).agg("|".join, axis=1).to_numpy()[positions]
    order = np.random.default_rng(seed).permutation(np.argsort(ids, kind="stable"))
    strata: dict[tuple[int, bool], list[int]] = {}
    for i in order:
        strata.setdefault((int(label[i]), bool(right[i])), []).append(int(positions[i]))
    turns = [strata[key] for key in sorted(strata, key=lambda k: (not k[1], k[0]))]
    chosen: list[int] = []
    while len(chosen) < n and any(turns):
        for stratum in turns:
            if stratum and len(chosen) < n:
                chosen.append(stratum.pop(0))
    return chosen
