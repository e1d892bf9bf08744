"""The patient-clustered bootstrap: how often each resample holds each patient, and BCa intervals from it.

Shapes: B resamples, G patients.
"""

from functools import lru_cache

import numpy as np
from scipy.stats import norm

from bench.metrics.parts import Totals
from bench.metrics.seeds import generator

RESAMPLES = 5000
_CHUNK = 4_000_000  # weights held as float64 at a time


@lru_cache(maxsize=4)
def weights(patients: int, resamples: int = RESAMPLES) -> np.ndarray:
    """(B, G) float32: counts of each patient in resamples with replacement; the same for every metric and method."""
    rng = generator("patient bootstrap", patients, resamples)
    counts = np.empty((resamples, patients), dtype=np.float32)
    step = max(1, _CHUNK // max(patients, 1))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, patients, (rows, patients)) + patients * np.arange(rows)[:, None]
        counts[start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * patients).reshape(rows, patients)
    counts.flags.writeable = False
    return counts


def resample(totals: Totals, resamples: int = RESAMPLES) -> np.ndarray:
    """(B,) the metric on each resample; NaN where a resample does not define it (a class missing)."""
    patients = len(totals.stats[0])
    drawn, step = weights(patients, resamples), max(1, _CHUNK // max(patients, 1))
    pieces = [totals.resampled(drawn[i : i + step].astype(np.float64)) for i in range(0, resamples, step)]
    return np.concatenate(pieces)


def bca(value: float, resampled: np.ndarray, jackknife: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Bias-corrected and accelerated interval (Efron 1987). Resamples and jackknife values that are NaN are left out.

    (value, value) where the resamples do not vary. Ties with the value count half in the bias correction.
    """
    drawn = resampled[np.isfinite(resampled)]
    if len(drawn) == 0 or np.ptp(drawn) < 1e-12:
        return value, value
    below = np.mean(drawn < value - 1e-12) + 0.5 * np.mean(np.abs(drawn - value) <= 1e-12)
    below = np.clip(below, 1 / (2 * len(drawn)), 1 - 1 / (2 * len(drawn)))
    bias = norm.ppf(below)
    kept = jackknife[np.isfinite(jackknife)]
    off = kept.mean() - kept if len(kept) else np.zeros(1)
    scale = np.sum(off**2) ** 1.5
    acceleration = float(np.sum(off**3) / (6 * scale)) if scale > 0 else 0.0
    tails = norm.ppf([0.5 - level / 2, 0.5 + level / 2]) + bias
    low, high = np.quantile(drawn, norm.cdf(bias + tails / (1 - acceleration * tails)))
    return float(low), float(high)
