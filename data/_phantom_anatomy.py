"""The shape of the phantom's breast: outline, nipple, distance to the skin, pectoral muscle. No tissue yet.

Lengths are fractions of the film's height H; the chest wall lies at x = 0 (a right breast is mirrored at the very end).
Shapes: H W film pixels.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import interpolate, ndimage

from data._phantom_facts import ExamFacts, Recipe, Stream, exam_facts

VIEWS = ("CC", "MLO")


@dataclass(frozen=True)
class Anatomy:
    """Where breast and muscle lie on a film, chest wall at the left; arrays (H, W)."""

    inside: np.ndarray  # bool
    depth: np.ndarray  # distance to the skin, 0 outside
    muscle: np.ndarray  # distance to the muscle's edge, positive inside; -1 in a CC view
    nipple: tuple[float, float]  # x, y


def film_shape(size: int) -> tuple[int, int]:
    """(H, W) of a film: W is 0.625 H, rounded to a multiple of 8."""
    return size, max(8, 8 * round(0.625 * size / 8))


@lru_cache(maxsize=4)
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x (1, W) and y (H, 1) of the pixel centres."""
    height, width = film_shape(size)
    return (np.arange(width)[None, :] + 0.5) / height, (np.arange(height)[:, None] + 0.5) / height


def _outline_cc(rng: np.random.Generator, facts: ExamFacts, size: int) -> tuple[np.ndarray, tuple[float, float]]:
    """Half superellipse with a few per cent of low harmonics and a flare at the chest wall."""
    x, y = grid(size)
    height, width = film_shape(size)
    centre = 0.5 + rng.uniform(-0.05, 0.05)
    half = 0.27 + 0.13 * facts.breadth
    reach = min(rng.uniform(0.9, 1.35) * half, 0.92 * width / height)
    power = rng.uniform(1.9, 2.4)
    flare = rng.uniform(-0.03, 0.03)
    amplitude = rng.normal(0, 0.009, 3)
    phase = rng.uniform(0, 2 * math.pi, 3)
    v = (y - centre) / (half + flare * np.exp(-x / 0.05))
    u = x / reach
    angle = np.arctan2(v, u)
    bulge = 1 + sum(a * np.cos((k + 2) * angle + p) for k, (a, p) in enumerate(zip(amplitude, phase, strict=True)))
    tip = 1 + float(np.sum(amplitude * np.cos(phase)))
    return u**power + np.abs(v) ** power < bulge**power, (reach * tip, centre)


def _outline_mlo(
    rng: np.random.Generator, facts: ExamFacts, size: int
) -> tuple[np.ndarray, tuple[float, float], float]:
    """Smoothing spline through ten points from the axilla over the nipple to the fold; and the axilla's x."""
    x, y = grid(size)
    height, width = film_shape(size)
    tip = min((0.36 + 0.16 * facts.breadth) * rng.uniform(0.82, 1.12), 0.92 * width / height)
    level = rng.uniform(0.52, 0.66)
    axilla = tip * rng.uniform(0.42, 0.85)
    fold = min(level + rng.uniform(0.26, 0.33), 0.97)
    power = rng.uniform(1.9, 2.3)
    sag = rng.uniform(1.0, 1.35)  # above 1 the upper contour stays flat for longer: the breast hangs lower
    s = np.linspace(0, 1, 6)
    upper_x = axilla + (tip - axilla) * (3 - 2 * s**sag) * s ** (2 * sag)
    angle = np.array([22.0, 45.0, 68.0, 90.0]) * math.pi / 180
    lower_x = tip * np.cos(angle) ** (2 / power)
    lower_y = level + (fold - level) * np.sin(angle) ** (2 / power)
    points = np.stack([np.r_[upper_x, lower_x], np.r_[-0.06 + (level + 0.06) * s, lower_y]])
    points[:, 1:-1] += rng.normal(0, 0.003, (2, 8))
    points[0, -1] = -0.02
    spline, _ = interpolate.splprep(points, s=10 * 0.004**2, k=3)
    contour_x, contour_y = np.asarray(interpolate.splev(np.linspace(0, 1, 300), spline))  # type: ignore[call-overload]
    furthest = int(np.argmax(contour_x))
    nipple = float(contour_x[furthest]), float(contour_y[furthest])
    edge = np.interp(y, np.maximum.accumulate(contour_y), contour_x, right=-1.0)
    return x < edge, nipple, axilla


def _depth(inside: np.ndarray, size: int) -> np.ndarray:
    """Distance to the skin. The mask is continued over the film's edges, or the chest wall would count as skin."""
    pad = math.ceil(0.16 * size)
    padded = np.pad(inside, ((pad, pad), (pad, 0)), mode="edge")
    distance = ndimage.distance_transform_edt(padded)
    return distance[pad:-pad, pad:] / size


def _muscle(rng: np.random.Generator, axilla: float, size: int) -> np.ndarray:
    """Signed distance to the edge of the pectoral muscle, a slightly bent triangle at the upper chest wall."""
    x, y = grid(size)
    px = min(rng.uniform(0.17, 0.27), 0.92 * axilla)
    py = rng.uniform(0.38, 0.62)
    bend = rng.uniform(-0.010, 0.018)
    norm = math.hypot(1 / px, 1 / py)
    along = np.clip((x / px - y / py + 1) / 2, 0, 1)
    return (1 - x / px - y / py) / norm + 4 * bend * along * (1 - along)


@lru_cache(maxsize=8)
def anatomy(recipe: Recipe, other: bool, view: str) -> Anatomy:
    """The shape of one film's breast. other: the breast opposite to the exam's mass."""
    facts, size = exam_facts(recipe), recipe.size
    rng = recipe.generator(Stream.ANATOMY, int(other), VIEWS.index(view))
    if view == "CC":
        inside, nipple = _outline_cc(rng, facts, size)
        muscle = np.full(film_shape(size), -1.0)
    else:
        inside, nipple, axilla = _outline_mlo(rng, facts, size)
        muscle = _muscle(rng, axilla, size)
    if rng.uniform() < 0.6:  # the nipple in profile
        x, y = grid(size)
        inside = inside | (np.hypot(x - nipple[0], y - nipple[1]) < 0.014)
    made = Anatomy(inside, _depth(inside, size), muscle, nipple)
    for array in (made.inside, made.depth, made.muscle):
        array.setflags(write=False)
    return made
