"""Where the phantom's masses lie: one distance from the nipple for both views, an angle of its own in each.

Two views of one breast are joined by that distance: a reader looks for a mass of the CC view along an arc of the MLO
view. Lengths are film pixels here, chest wall at the left. Shapes: H W film pixels.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data._phantom_anatomy import VIEWS, Anatomy, anatomy
from data._phantom_facts import Recipe, Stream, exam_facts
from data._phantom_lesion import LesionDraw, draw_lesion

COMPRESSION = 0.05  # each view's distance is within this share of the mass's own: the breast is pressed differently
RELAX = (1.0, 0.8, 0.6, 0.4)  # shares of the wanted room, tried in turn

Point = tuple[float, float]


@dataclass(frozen=True)
class Place:
    """Where one mass lies in one view; pixels, index 0 = centre of the first pixel."""

    mass: int
    draw: LesionDraw
    radius: float
    centre: Point


def nipple_distance(shape: Anatomy) -> np.ndarray:
    """Distance of each pixel's centre from the nipple (H, W), pixels."""
    height, width = shape.inside.shape
    x, y = np.arange(width)[None, :] + 0.5, np.arange(height)[:, None] + 0.5
    return np.asarray(np.hypot(x - shape.nipple[0] * height, y - shape.nipple[1] * height))


def _weights(shape: Anatomy, radius: float, relax: float, earlier: list[Place]) -> np.ndarray:
    """How likely each pixel (H, W) is a centre: at the nipple's height; deep, off muscle and edges, apart from others."""
    height, width = shape.inside.shape
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    weight = np.exp(-((((y + 0.5) / height - shape.nipple[1]) / 0.22) ** 2)) * (shape.muscle * height < -0.35 * radius)
    for other in earlier:
        weight = weight * (np.hypot(x - other.centre[0], y - other.centre[1]) > 1.6 * (radius + other.radius))
    edge = np.minimum(np.minimum(x, width - 1 - x), np.minimum(y, height - 1 - y))
    return np.asarray(weight * (shape.depth * height > 1.25 * relax * radius) * (edge > 1.3 * relax * radius))


def _find(rng: np.random.Generator, weight: np.ndarray, away: np.ndarray, distance: float) -> Point:
    """A centre in the arc of pixels (H, W) near `distance` from the nipple, which holds some weight."""
    u, jitter = rng.uniform(), rng.uniform(-0.5, 0.5, 2)
    total = np.cumsum(weight * (np.abs(away - distance) <= max(COMPRESSION * distance, 0.5)))
    row, column = divmod(int(np.searchsorted(total, u * total[-1], side="right")), weight.shape[1])
    return column + jitter[0], row + jitter[1]


def _centres(recipe: Recipe, number: int, radii: list[float], earlier: list[list[Place]]) -> list[Point] | None:
    """The centre of one mass in each view, equally far from the nipple; None if a further mass finds no room."""
    shapes = [anatomy(recipe, False, view) for view in VIEWS]
    away = [nipple_distance(shape) for shape in shapes]
    bins = math.ceil(max(float(values.max()) for values in away)) + 1
    for relax in RELAX:
        weights = [_weights(*each) for each in zip(shapes, radii, (relax, relax), earlier, strict=True)]
        # One bin a pixel; the geometric mean is 0 where either view has no room.
        room = [
            np.bincount(values.astype(int).ravel(), weight.ravel(), minlength=bins)
            for values, weight in zip(away, weights, strict=True)
        ]
        joint = np.cumsum(np.sqrt(room[0] * room[1]))
        if joint[-1] > 0:
            u = recipe.generator(Stream.NIPPLE_DISTANCE, number).uniform()
            distance = int(np.searchsorted(joint, u * joint[-1], side="right")) + 0.5
            streams = [recipe.generator(Stream.POSITION, view, number) for view in range(len(VIEWS))]
            return [_find(*each, distance) for each in zip(streams, weights, away, strict=True)]
        if number > 0:
            return None
    # A first mass too large for its breast (lesion_scale near 2): as deep as each view allows, the distance is lost.
    deepest = [int(np.argmax(np.where(shape.muscle < 0, shape.depth, 0))) for shape in shapes]
    widths = [shape.inside.shape[1] for shape in shapes]
    return [(float(at % width), float(at // width)) for at, width in zip(deepest, widths, strict=True)]


@lru_cache(maxsize=8)
def _both_views(recipe: Recipe) -> tuple[tuple[Place, ...], ...]:
    found: list[list[Place]] = [[] for _ in VIEWS]
    for number, mass in enumerate(exam_facts(recipe).masses):
        draws = [draw_lesion(recipe.generator(Stream.LESION, view, number), recipe.level) for view in range(len(VIEWS))]
        radii = [mass.radius * draw.scale * recipe.size for draw in draws]
        centres = _centres(recipe, number, radii, found)
        if centres is not None:
            for view, (draw, radius, centre) in enumerate(zip(draws, radii, centres, strict=True)):
                found[view].append(Place(number, draw, radius, centre))
    return tuple(tuple(places) for places in found)


def places(recipe: Recipe, view: str) -> tuple[Place, ...]:
    """Where the masses of the exam lie in this view; the first does not depend on how many follow."""
    return _both_views(recipe)[VIEWS.index(view)]
