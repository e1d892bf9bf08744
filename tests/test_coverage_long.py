"""How often 95 % intervals hold the truth, simulated with clusters of patients and effects of seeds.

The figures stand in docs/metrics/intervals.md: `pytest tests/test_coverage_long.py -m long --log-cli-level=INFO`.

Scores are binormal: mu for the own class, an effect of the patient, of the case, of case x seed, and of the seed on mu. The
truth is the expectation over patients and over seeds, known in closed form. Shapes: N cases, C classes, K seeds.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.stats import norm

from bench.metrics import auroc, combine
from bench.metrics.agreement import ratio
from bench.metrics.estimate import Estimate
from bench.metrics.parts import Part, part_of_totals

pytestmark = pytest.mark.long
LOG = logging.getLogger(__name__)
RUNS = 2000


@dataclass(frozen=True)
class World:
    """counts: cases of each class; cluster: cases a patient; patient, case_seed, seed: standard deviations of effects."""

    counts: tuple[int, ...]
    value: float  # the true AUROC
    seeds: int = 5
    cluster: int = 2
    patient: float = 0.6
    case_seed: float = 0.5
    seed: float = 0.0  # of mu, in standard deviations of the score

    @property
    def noise(self) -> float:
        return float(np.sqrt(2 * (1 + self.patient**2 + self.case_seed**2)))

    @property
    def mu(self) -> float:
        """So that E over seeds of Phi((mu + seed z) / noise) is the true value."""
        return float(norm.ppf(self.value) * np.sqrt(self.noise**2 + self.seed**2))

    def draw(self, rng: np.random.Generator, shared: np.ndarray | None = None) -> list[Part]:
        """The parts of K seeds on fresh patients; shared: the cases' own scores (N, C), to pair two methods."""
        classes = len(self.counts)
        labels = np.repeat(np.arange(classes), self.counts)
        patients = np.arange(len(labels)) // self.cluster  # mostly of one class, as lesions of one patient are
        own = self.cases(rng) if shared is None else shared
        parts = []
        for _ in range(self.seeds):
            shift = self.mu + self.seed * rng.normal()
            scores = own + self.case_seed * rng.normal(size=own.shape) + shift * np.eye(classes)[labels]
            asked = range(classes) if classes > 2 else [1]
            tasks = {str(c): (c, scores[:, c]) for c in asked}
            parts.append(auroc.part_of(tasks, labels, patients))
        return parts

    def cases(self, rng: np.random.Generator) -> np.ndarray:
        """(N, C) what every seed sees of a case: the patient's effect and the case's own."""
        count, classes = sum(self.counts), len(self.counts)
        effect = rng.normal(size=(count // self.cluster + 1, classes))[np.arange(count) // self.cluster]
        return self.patient * effect + rng.normal(size=(count, classes))


def coverage(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([e.low is not None and e.high is not None and e.low <= truth <= e.high for e in estimates]))


WORLDS = {
    "19 against 59, one image each, one model": World((59, 19), 0.95, 1, 1, 0.0, 0.0),
    "clusters, one model": World((80, 40), 0.85, 1),
    "three classes, clusters, 5 seeds without effect": World((40, 40, 40), 0.85, 5),
    "three classes, clusters, 5 seeds": World((60, 60, 60), 0.85, 5, seed=0.25),
    "three classes, clusters, 3 seeds": World((60, 60, 60), 0.85, 3, seed=0.25),
    "two classes, clusters of 4, 5 strong seeds": World((200, 200), 0.9, 5, 4, 0.8, 0.5, 0.5),
    "CBIS-DDSM's test size, 5 seeds": World((87, 92, 82), 0.75, 5, 2, seed=0.15),
}


@dataclass(frozen=True)
class Shares:
    """Right or wrong per case: right where level + patient + case + seed effects > 0; the truth is a normal integral."""

    patients: int
    value: float
    seeds: int
    cluster: int = 2
    patient: float = 0.7
    case: float = 0.8
    seed: float = 0.1

    def draw(self, rng: np.random.Generator) -> list[Part]:
        count = self.patients * self.cluster
        who = np.repeat(np.arange(self.patients), self.cluster)
        spread = np.sqrt(self.patient**2 + self.case**2 + 1 + self.seed**2)
        own = self.patient * rng.normal(size=self.patients)[who] + self.case * rng.normal(size=count)
        parts, zeros = [], np.zeros(count, dtype=np.int64)
        for _ in range(self.seeds):
            right = norm.ppf(self.value) * spread + self.seed * rng.normal() + own + rng.normal(size=count) > 0
            rows = np.stack([right, np.ones(count)], axis=1)
            parts.append(part_of_totals(rows, who, zeros, zeros, ratio, n=count, proportion=True))
        return parts


SHARES = {
    "accuracy 0.8, 60 patients, one model": Shares(60, 0.8, 1, seed=0.0),
    "accuracy 0.95, 60 patients, one model": Shares(60, 0.95, 1, seed=0.0),
    "accuracy 0.8, 60 patients, 5 seeds": Shares(60, 0.8, 5),
    "accuracy 0.9, 150 patients, 5 seeds": Shares(150, 0.9, 5),
}


@dataclass(frozen=True)
class Two:
    """Two methods on the same cases: their true AUROCs, seeds of each; psi is paired by patient."""

    a: World
    b: World

    def draw(self, rng: np.random.Generator) -> tuple[Estimate, float]:
        shared = self.a.cases(rng)
        return combine.difference(self.a.draw(rng, shared), self.b.draw(rng, shared))


@dataclass(frozen=True)
class Readings:
    """Two readings of the same networks on the same cases: what each of them does to a case, and to a case of a seed."""

    world: World
    case: float = 0.3
    case_seed: float = 0.0

    def draw(self, rng: np.random.Generator) -> tuple[tuple[Estimate, float], ...]:
        """Their difference with seeds paired, and as if they were independent."""
        world, labels = self.world, np.repeat(np.arange(len(self.world.counts)), self.world.counts)
        own, noise = world.cases(rng), [self.case * rng.normal(size=(len(labels), len(world.counts))) for _ in range(2)]
        sides: list[list[Part]] = [[], []]
        for _ in range(world.seeds):
            seen = own + world.case_seed * rng.normal(size=own.shape)
            seen += (world.mu + world.seed * rng.normal()) * np.eye(len(world.counts))[labels]
            for side, reading in zip(sides, noise, strict=True):
                scores = seen + reading + self.case_seed * rng.normal(size=own.shape)
                tasks = {str(c): (c, scores[:, c]) for c in range(len(world.counts))}
                side.append(auroc.part_of(tasks, labels, np.arange(len(labels)) // world.cluster))
        return combine.difference(*sides, paired_seeds=True), combine.difference(*sides)


_BASE = World((50, 50, 50), 0.85, 5, seed=0.25)
TWO = {
    "the same method under other seeds": Two(_BASE, _BASE),
    "3 against 5 seeds": Two(replace(_BASE, seeds=3), _BASE),
    "0.90 against 0.85": Two(replace(_BASE, value=0.90), _BASE),
}
READINGS = {
    "each reading moves cases": Readings(_BASE),
    "and cases of a seed": Readings(_BASE, case_seed=0.3),
    "cases of a seed alone": Readings(_BASE, case=0.0, case_seed=0.3),
}


@pytest.mark.parametrize("name", list(WORLDS))
def test_auroc_intervals_hold_the_truth_93_to_97_percent(name: str) -> None:
    rng, world = np.random.default_rng(0), WORLDS[name]
    found = coverage([combine.estimate(world.draw(rng)) for _ in range(RUNS)], world.value)
    LOG.info("%s: %.3f", name, found)
    assert 0.925 <= found <= 0.975  # 93-97 %, and one standard error of 2,000 runs


@pytest.mark.parametrize("name", list(SHARES))
def test_bootstrap_intervals_hold_the_truth_93_to_97_percent(name: str) -> None:
    rng, world = np.random.default_rng(1), SHARES[name]
    drawn = [world.draw(rng) for _ in range(RUNS)]
    found = coverage([combine.estimate(parts) for parts in drawn], world.value)
    LOG.info("%s: %.3f", name, found)
    assert 0.925 <= found <= 0.975
    if world.seeds == 1:
        quick = coverage([combine.quick_proportion(parts[0]) for parts in drawn], world.value)
        LOG.info("%s, Wilson on effective n: %.3f", name, quick)
        assert 0.925 <= quick <= 0.975


@pytest.mark.parametrize("name", list(TWO))
def test_differences_hold_the_truth_and_reject_at_the_stated_rate(name: str) -> None:
    rng, two = np.random.default_rng(2), TWO[name]
    drawn = [two.draw(rng) for _ in range(RUNS)]
    truth = two.a.value - two.b.value
    found = coverage([estimate for estimate, _ in drawn], truth)
    rejected = float(np.mean([p < 0.05 for _, p in drawn]))
    LOG.info("%s: %.3f, rejected %.3f", name, found, rejected)
    assert 0.925 <= found <= 0.975
    assert truth != 0 or 0.025 <= rejected <= 0.075


@pytest.mark.parametrize("name", list(READINGS))
def test_two_readings_of_the_same_networks_are_not_told_apart_too_often(name: str) -> None:
    """What a reading does to a case of a seed counts in both terms of the variance, so fewer than one in twenty are."""
    rng, world = np.random.default_rng(3), READINGS[name]
    drawn = [world.draw(rng) for _ in range(RUNS)]
    paired, apart = (float(np.mean([p < 0.05 for _, p in each])) for each in zip(*drawn, strict=True))
    held = coverage([estimate for (estimate, _), _ in drawn], 0.0)
    LOG.info("%s: %.3f, rejected %.4f (as independent seeds: %.4f)", name, held, paired, apart)
    assert apart < paired <= 0.065
    assert world.case_seed or paired >= 0.035
