"""How often the 95 % interval of TPR at 1 false positive per normal film holds the truth, simulated with clusters of patients and
effects of seeds. The figures stand in docs/metrics/froc.md: `pytest tests/test_coverage_froc_long.py -m long --log-cli-level=INFO`.

Two films a patient. A lesion gets a box with probability q, scored mu + patient + lesion + lesion x seed + seed; a film has a Poisson
number of false positives, scored patient + noise. So the threshold of 1 false positive and the share of lesions above it are
normal integrals. Shapes: K seeds.
"""

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from bench.metrics import combine, froc
from bench.metrics.estimate import Estimate
from bench.metrics.found import Films, Found
from bench.metrics.parts import Part

pytestmark = pytest.mark.long
LOG = logging.getLogger(__name__)
RUNS = 2000


@dataclass(frozen=True)
class World:
    """mass, normal: patients with a lesion on both films, and without; false: false positives a film."""

    mass: int
    normal: int
    seeds: int = 1
    mu: float = 1.5
    q: float = 0.9
    false: float = 4.0
    patient: float = 0.6
    lesion: float = 0.8  # of the score that seeds share; with lesion x seed the variance is 1
    seed: float = 0.0

    @property
    def truth(self) -> float:
        spread = np.sqrt(1 + self.patient**2)
        cut = spread * norm.isf(1 / self.false)
        return float(self.q * norm.sf((cut - self.mu) / np.sqrt(spread**2 + self.seed**2)))

    def films(self) -> Films:
        who = np.repeat(np.arange(self.mass + self.normal), 2)
        label = (who < self.mass).astype(int)
        rows = pd.DataFrame({"patient": [f"{i:04d}" for i in who], "fold": 0, "label": label})
        return Films(rows, np.ones(len(rows)), [np.zeros((one, 4)) for one in label], (1, 1), 1, 0)

    def cases(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What every seed sees: patients' effects (2 G), lesions' own scores, and whether a lesion gets a box."""
        effect = np.repeat(self.patient * rng.normal(size=self.mass + self.normal), 2)
        own = self.mu + effect[: 2 * self.mass] + self.lesion * rng.normal(size=2 * self.mass)
        return effect, own, rng.random(2 * self.mass) < self.q

    def draw(self, rng: np.random.Generator, shared: tuple[np.ndarray, ...] | None = None) -> list[Part]:
        """The parts of K seeds on fresh patients, or on shared ones."""
        effect, own, boxed = shared or self.cases(rng)
        films, parts = self.films(), []
        rest = np.sqrt(1 - self.lesion**2)
        for _ in range(self.seeds):
            scores = own + rest * rng.normal(size=len(own)) + self.seed * rng.normal()
            lesions = [np.array([s]) if hit else np.array([-np.inf]) for s, hit in zip(scores, boxed, strict=True)]
            lesions += [np.zeros(0)] * (2 * self.normal)
            false = [
                one + rng.normal(size=n) for one, n in zip(effect, rng.poisson(self.false, len(effect)), strict=True)
            ]
            found = Found([], np.zeros(0), lesions, false)
            parts.append(froc.curve_part(films, [froc.points_of(found)], (1.0,)))
        return parts


WORLDS = {
    "40 and 60 patients, one model": World(40, 60),
    "20 and 25 patients, one model": World(20, 25),
    "20 and 25 patients, 5 seeds": World(20, 25, 5, seed=0.2),
}


def coverage(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([e.low is not None and e.high is not None and e.low <= truth <= e.high for e in estimates]))


@pytest.mark.parametrize("name", list(WORLDS))
def test_intervals_hold_the_truth_93_to_97_percent(name: str) -> None:
    rng, world = np.random.default_rng(0), WORLDS[name]
    drawn = [combine.estimate(world.draw(rng)) for _ in range(RUNS)]
    found = coverage(drawn, world.truth)
    LOG.info("%s: %.3f, mean %.3f of %.3f", name, found, np.mean([e.value or 0 for e in drawn]), world.truth)
    assert 0.925 <= found <= 0.975  # 93-97 %, and one standard error of 2,000 runs


def test_differences_hold_the_truth_and_reject_at_the_stated_rate() -> None:
    rng, world = np.random.default_rng(1), World(20, 25)
    drawn = []
    for _ in range(RUNS):
        shared = world.cases(rng)
        drawn.append(combine.difference(world.draw(rng, shared), world.draw(rng, shared)))
    found, rejected = coverage([estimate for estimate, _ in drawn], 0.0), float(np.mean([p < 0.05 for _, p in drawn]))
    LOG.info("difference: %.3f, rejected %.3f", found, rejected)
    assert 0.925 <= found <= 0.985  # the jackknife of a step function is too wide, not too narrow
    assert rejected <= 0.075
