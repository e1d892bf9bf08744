"""What is drawn before a pixel of the phantom: streams of randomness, facts of an exam, probabilities of its labels.

Every part of the generator draws from its own stream, so that switching one part off changes no other part's numbers.
Lengths are fractions of the film's height H.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np

from data.tracks import MARGINS

SIDES = ("train", "validation", "test")
SHAPES = ("oval", "irregular")
DENSITIES = ("a", "b", "c", "d")

P_IRREGULAR = {"circumscribed": 0.15, "indistinct": 0.5, "spiculated": 0.85}
P_MALIGNANT = {  # by (margin, shape); CBIS-DDSM's training masses: 0.10 / 0.63 / 0.93 by margin alone
    ("circumscribed", "oval"): 0.07,
    ("circumscribed", "irregular"): 0.25,
    ("indistinct", "oval"): 0.5,
    ("indistinct", "irregular"): 0.7,
    ("spiculated", "oval"): 0.85,
    ("spiculated", "irregular"): 0.95,
}
RADIUS = (0.040, 0.070)  # log-uniform; about twice the size of real masses, whose margins 256 pixels could not show


@dataclass(frozen=True)
class Level:
    """How hard a lesion is to see and its margin to tell."""

    height: tuple[float, float]  # of the lesion in the log-exposure sum x
    blur: tuple[float, float]  # width of an indistinct rim, in lesion radii
    spicules: float  # strength of spicules
    density: tuple[float, float, float, float]  # probabilities of the classes a-d


LEVELS = {
    "easy": Level((0.16, 0.24), (0.55, 0.75), 1.0, (0.3, 0.4, 0.2, 0.1)),
    "standard": Level((0.08, 0.15), (0.35, 0.55), 0.75, (0.1, 0.4, 0.35, 0.15)),
    "hard": Level((0.05, 0.09), (0.25, 0.40), 0.55, (0.05, 0.25, 0.4, 0.3)),
}


class Stream(IntEnum):
    """Names of the streams. The numbers are part of the recipe: a new stream takes a new number."""

    EXAM = 0
    MARGINS = 1
    MASS = 2
    MASS_COUNT = 3
    CONFOUNDED = 4
    ANATOMY = 9
    BACKGROUND = 10
    NOISE = 11
    LESION = 12
    POSITION = 13
    CONFOUNDER = 14
    SHAM = 15
    FINE = 16
    MUSCLE = 17
    NIPPLE_DISTANCE = 18


def stream(seed: int, *key: int) -> np.random.Generator:
    """The generator of one stream; numpy's PCG64 gives the same numbers on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy=seed, spawn_key=key)))


@dataclass(frozen=True)
class Recipe:
    """One exam: all that its pixels depend on. `rho` is that of the exam's side."""

    seed: int
    size: int
    side: str
    index: int
    level: str = "standard"
    lesion_scale: float = 1.0
    masses: int = 1
    normal: bool = False
    confounder: str = "none"
    rho: float = 0.0

    @property
    def exam_id(self) -> str:
        return f"{self.side}-{self.index:06d}"

    def generator(self, part: Stream, *key: int) -> np.random.Generator:
        return stream(self.seed, int(part), SIDES.index(self.side), self.index, *key)


@dataclass(frozen=True)
class MassFacts:
    """One mass, the same in each view."""

    margin: str
    shape: str
    malignant: bool
    radius: float


@dataclass(frozen=True)
class ExamFacts:
    """What the views of an exam share."""

    density: str
    laterality: str  # of the mass; with four views the other breast is free of masses
    breadth: float  # uniform number: how large the breast is among breasts
    fat: float  # level of fatty tissue in x
    reach: float  # factor on how far the gland reaches from the nipple
    masses: tuple[MassFacts, ...]  # drawn for normal exams too, and not rendered there
    confounded: bool


def _margin(recipe: Recipe) -> str:
    """Margin of the first mass: three exams in a row hold all three in random order: small sides are even."""
    order = stream(recipe.seed, int(Stream.MARGINS), SIDES.index(recipe.side), recipe.index // 3).permutation(3)
    return MARGINS[order[recipe.index % 3]]


def _mass(recipe: Recipe, number: int) -> MassFacts:
    rng = recipe.generator(Stream.MASS, number)
    u_margin, u_shape, u_malignant, u_radius = rng.uniform(size=4)
    margin = _margin(recipe) if number == 0 else MARGINS[int(3 * u_margin)]
    shape = "irregular" if u_shape < P_IRREGULAR[margin] else "oval"
    low, high = RADIUS
    radius = low * math.exp(u_radius * math.log(high / low)) * recipe.lesion_scale
    return MassFacts(margin, shape, bool(u_malignant < P_MALIGNANT[margin, shape]), radius)


@lru_cache(maxsize=512)
def exam_facts(recipe: Recipe) -> ExamFacts:
    """The facts of an exam; normal exams take the same draw, so that density tells nothing about the label."""
    rng = recipe.generator(Stream.EXAM)
    u_density, u_laterality, breadth, u_fat, u_reach = rng.uniform(size=5)
    edges = np.cumsum(LEVELS[recipe.level].density)
    density = DENSITIES[min(int(np.searchsorted(edges, u_density, side="right")), 3)]
    count = 1 + int(recipe.masses * recipe.generator(Stream.MASS_COUNT).uniform())
    masses = tuple(_mass(recipe, number) for number in range(count))
    # Correlation rho with malignancy of the first mass when the classes are even (docs/phantom.md).
    threshold = 0.5 + 0.5 * recipe.rho * (1 if masses[0].malignant else -1)
    confounded = recipe.confounder != "none" and recipe.generator(Stream.CONFOUNDED).uniform() < threshold
    return ExamFacts(
        density=density,
        laterality="L" if u_laterality < 0.5 else "R",
        breadth=float(breadth),
        fat=0.36 + 0.11 * float(u_fat),
        reach=0.85 + 0.35 * float(u_reach),
        masses=masses,
        confounded=bool(confounded),
    )


def is_normal(index: int, share: float) -> bool:
    """Normal exams are spread evenly over a side: exactly floor(n x share) of its first n exams."""
    return math.floor((index + 1) * share + 1e-9) > math.floor(index * share + 1e-9)


def malignancy_ceiling(rho: float = 0.0) -> float:
    """AUROC for malignancy of a reader who knows margin, shape and (where rho is not 0) the confounder exactly.

    The posterior of each cell is known, so the likelihood ratio ranks best and its AUROC is a finite sum:
    P(score of a malignant > score of a benign) + half the ties.
    """
    cells = []
    for margin in MARGINS:
        for shape in SHAPES:
            share = (P_IRREGULAR[margin] if shape == "irregular" else 1 - P_IRREGULAR[margin]) / len(MARGINS)
            malignant = P_MALIGNANT[margin, shape]
            for sign in (1, -1):
                cells.append(
                    (share * malignant * 0.5 * (1 + sign * rho), share * (1 - malignant) * 0.5 * (1 - sign * rho))
                )
    positive, negative = np.array([cell for cell in cells if sum(cell) > 0]).T
    score = positive / (positive + negative)
    wins = (score[:, None] > score[None, :] + 1e-12) + 0.5 * (np.abs(score[:, None] - score[None, :]) <= 1e-12)
    return float(positive @ wins @ negative / (positive.sum() * negative.sum()))
