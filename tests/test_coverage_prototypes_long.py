"""How often the intervals of prototype metrics and of maps' places hold the truth, simulated with clusters of patients.

The figures stand in docs/metrics/intervals.md: `pytest tests/test_coverage_prototypes_long.py -m long --log-cli-level=INFO`.
Shapes: G patients of two images, S prototypes, K seeds.
"""

import logging

import numpy as np
import pytest
from scipy.special import entr
from scipy.stats import norm

from bench.metrics import combine, explain
from bench.metrics.agreement import ratio
from bench.metrics.estimate import Estimate
from bench.metrics.parts import Part, part_of_totals
from bench.metrics.prototypes import effective
from tests.test_coverage_long import RUNS, coverage

pytestmark = pytest.mark.long
LOG = logging.getLogger(__name__)
EACH = 2  # images a patient


def held(estimates: list[Estimate], truth: float, name: str) -> float:
    found = coverage(estimates, truth)
    LOG.info("%s: %.3f", name, found)
    return found


# ---- effective number -----------------------------------------------------------------------------------------------
USED = {
    "15 prototypes used alike, 130 patients": (np.full(15, 1 / 15), 130, 1),
    "8.6 of 15 prototypes, 130 patients": (np.exp(-0.3 * np.arange(15)), 130, 1),
    "2.8 of 15 prototypes, 60 patients": (np.exp(-1.0 * np.arange(15)), 60, 1),
    "8.6 of 15 prototypes, 130 patients, 5 seeds": (np.exp(-0.3 * np.arange(15)), 130, 5),
}


def used(share_S: np.ndarray, patients: int, seeds: int, rng: np.random.Generator) -> list[Part]:
    """The strongest prototype of each image; a patient's images resemble each other, and every seed sees them alike."""
    own = rng.dirichlet(30 * share_S, size=patients)
    limits = {"n": patients * EACH, "lowest": 1.0, "highest": float(len(share_S)), "biased": True}
    parts = []
    for _ in range(seeds):
        chosen = (own.cumsum(axis=1)[:, None, :] < rng.random((patients, EACH, 1))).sum(axis=2)
        rows = np.eye(len(share_S))[np.minimum(chosen, len(share_S) - 1).ravel()]
        who, zeros = np.repeat(np.arange(patients), EACH), np.zeros(len(rows), dtype=np.int64)
        parts.append(part_of_totals(rows, who, zeros, zeros, effective, **limits))  # type: ignore[arg-type]
    return parts


@pytest.mark.parametrize("name", list(USED))
def test_the_effective_number_is_held_at_least_92_percent(name: str) -> None:
    weights, patients, seeds = USED[name]
    share, rng = weights / weights.sum(), np.random.default_rng(3)
    estimates = [combine.estimate(used(share, patients, seeds, rng)) for _ in range(RUNS)]
    truth = float(np.exp(entr(share).sum())) - 1e-9  # at 15 of 15 the interval ends where the truth is
    assert held(estimates, truth, name) >= 0.915  # 92.5 % where few prototypes share 60 patients


# ---- means over images ----------------------------------------------------------------------------------------------
MEANS = {
    "necessity 0.05, 130 patients": (0.05, 130),
    "necessity 0.3, 130 patients": (0.3, 130),
    "necessity 0.3, 40 patients": (0.3, 40),
}


@pytest.mark.parametrize("name", list(MEANS))
def test_means_over_images_are_held_93_to_97_percent(name: str) -> None:
    """Falls in probability: exponential, cut at 1, with an effect of the patient."""
    mean, patients = MEANS[name]
    rng, who = np.random.default_rng(4), np.repeat(np.arange(patients), EACH)
    zeros = np.zeros(len(who), dtype=np.int64)

    def draw(count: int) -> np.ndarray:
        effect = np.repeat(rng.gamma(2.0, 0.5, count), EACH)
        return np.minimum(mean * effect * rng.exponential(size=count * EACH), 1.0)

    truth, estimates = float(draw(2_000_000).mean()), []
    for _ in range(RUNS):
        rows = np.stack([draw(patients), np.ones(len(who))], axis=1)
        estimates.append(combine.estimate([part_of_totals(rows, who, zeros, zeros, ratio, n=len(who), lowest=-1.0)]))
    assert 0.925 <= held(estimates, truth, name) <= 0.975


def test_the_pointing_game_is_held_93_to_97_percent() -> None:
    """Maps that hit where a score of patient and image is above a threshold: 0.7 of them, 60 patients."""
    rng, patients = np.random.default_rng(5), 60
    who, zeros = np.repeat(np.arange(patients), EACH), np.zeros(patients * EACH, dtype=np.int64)
    mask = np.zeros((1, 8, 8))
    mask[0, :4] = 1
    estimates = []
    for _ in range(RUNS):
        score = norm.ppf(0.7) * np.sqrt(1.5) + 0.7071 * rng.normal(size=patients)[who] + rng.normal(size=len(who))
        maps = np.zeros((len(who), 8, 8))
        maps[np.arange(len(who)), np.where(score > 0, 1, 6), 3] = 1
        hits = explain.precision(explain.highest(maps), mask)
        rows = np.stack([hits, np.ones(len(who))], axis=1)
        estimates.append(
            combine.estimate([part_of_totals(rows, who, zeros, zeros, ratio, n=len(who), proportion=True)])
        )
    assert 0.925 <= held(estimates, 0.7, "pointing game 0.7, 60 patients") <= 0.975


# ---- facts of networks ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_facts_of_five_networks_are_held_93_to_97_percent(share: float) -> None:
    """Each of 15 prototypes is a duplicate, or not, by itself; the truth is over networks."""
    rng, none, estimates = np.random.default_rng(6), np.zeros(3), []
    for _ in range(RUNS):
        values = rng.binomial(15, share, size=5) / 15
        parts = [Part(v, np.arange(3).astype(str), none, none.astype(int), 15, of_model=True) for v in values]
        estimates.append(combine.estimate(parts))
    assert 0.925 <= held(estimates, share, f"share {share} of 15 prototypes, 5 seeds") <= 0.975
