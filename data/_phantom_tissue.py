"""The phantom's breast without lesion: thickness, parenchyma, fibres, muscle, skin line, film grain.

Lengths are fractions of the film's height H.
Shapes: H W film pixels, h w pixels of the larger plane on which noise is made, so that it does not wrap around.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft, ndimage

from data._phantom_anatomy import VIEWS, Anatomy, anatomy, film_shape, grid
from data._phantom_facts import ExamFacts, Recipe, Stream, exam_facts

PLANE = 1.25  # size of the noise plane over the film's
REACH = {"a": 0.16, "b": 0.26, "c": 0.33, "d": 0.40}
BIAS = {"a": -0.9, "b": -0.2, "c": 0.4, "d": 1.0}


@dataclass(frozen=True)
class Breast:
    """A film before its lesions, chest wall at the left; arrays (H, W) float64."""

    x: np.ndarray  # log-exposure-like sum
    sqrt_thickness: np.ndarray
    cover: np.ndarray  # 0 outside, 1 inside the breast, blurred at the edge
    grain: np.ndarray  # noise added to the grey value
    outside: float  # grey value of the empty film


@lru_cache(maxsize=4)
def _frequencies(size: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Cycles per H along y (h, 1) and x (1, w//2+1) of the noise plane, and the plane's shape."""
    height, width = film_shape(size)
    h, w = (int(fft.next_fast_len(math.ceil(PLANE * n), real=True)) for n in (height, width))
    return np.fft.fftfreq(h, 1 / height)[:, None], np.fft.rfftfreq(w, 1 / height)[None, :], (h, w)


def _noise(rng: np.random.Generator, amplitude: np.ndarray, plane: tuple[int, int]) -> np.ndarray:
    """Periodic Gaussian noise (h, w) of the given spectrum (h, w//2+1), expected mean 0 and variance 1."""
    count = amplitude.shape
    spectrum = rng.standard_normal((2, *count))
    weight = np.full(count[1], 2.0)
    weight[0] = 1.0
    if plane[1] % 2 == 0:
        weight[-1] = 1.0
    scale = plane[0] * plane[1] / math.sqrt(2 * float((amplitude**2 @ weight).sum()))
    values = (spectrum[0] + 1j * spectrum[1]) * (amplitude * scale)
    values[:, weight == 1.0] *= math.sqrt(2)  # irfft2 drops the imaginary half of these columns
    return fft.irfft2(values, s=plane)


def _power_law(size: int, exponent: float, stretch: float = 1.0, lowest: float = 0.0) -> np.ndarray:
    """Amplitude f^(-exponent/2), the pattern stretched along x; 0 at f = 0 and below `lowest` cycles/H."""
    fy, fx, _ = _frequencies(size)
    f2 = (fx * stretch) ** 2 + fy**2
    f2[0, 0] = 1.0
    amplitude = f2 ** (-exponent / 4)
    amplitude[f2 < lowest**2] = 0.0
    amplitude[0, 0] = 0.0
    return amplitude


@lru_cache(maxsize=16)
def _fixed_power_law(size: int, exponent: float, lowest: float = 0.0) -> np.ndarray:
    return _power_law(size, exponent, 1.0, lowest)


@lru_cache(maxsize=16)
def _band(size: int, centre: float, stretch: float) -> np.ndarray:
    """Amplitude of a band around `centre` cycles/H; the pattern is stretched along x."""
    fy, fx, _ = _frequencies(size)
    f = np.sqrt((fx * stretch) ** 2 + fy**2)
    return np.exp(-(((f - centre) / (0.35 * centre)) ** 2)) * (f > 0)


def _fibres(
    rng: np.random.Generator, size: int, nipple: tuple[float, float], centre: float, stretch: float, width: float
) -> np.ndarray:
    """Thin bright lines that run towards the nipple, (H, W) in [0, 1]: zero lines of band-passed noise n.

    exp(-(|n| / (|grad n| + 0.3 mean|grad n|) / width)^2); n is made in polar coordinates around a point before the
    nipple, so that its pattern, stretched along the radius, runs together there.
    """
    x, y = grid(size)
    plane = _frequencies(size)[2]
    noise = _noise(rng, _band(size, centre, stretch), plane)
    dx, dy = nipple[0] + 0.06 - x, y - nipple[1]
    radius = np.hypot(dx, dy)
    angle = np.arctan2(dy, dx)
    where = np.stack([angle * 0.32 * size, radius * size])
    n = ndimage.map_coordinates(noise, where, order=1, mode="grid-wrap")
    gy, gx = np.gradient(n, 1 / size)
    slope = np.hypot(gx, gy)
    return np.exp(-((np.abs(n) / (slope + 0.3 * slope.mean()) / width) ** 2))


def _muscle_tissue(rng: np.random.Generator, size: int, shape: Anatomy) -> np.ndarray:
    """What the pectoral muscle adds to x (H, W): more towards the corner, with bundles along its edge."""
    x, y = grid(size)
    across, down = np.gradient(shape.muscle[:2, :2], axis=1)[0, 0], np.gradient(shape.muscle[:2, :2], axis=0)[0, 0]
    along = (y * across - x * down) / math.hypot(across, down)
    noise = _noise(rng, _band(size, 9.0, 4.0), _frequencies(size)[2])
    bundles = ndimage.map_coordinates(noise, np.stack([shape.muscle, along]) * size, order=1, mode="grid-wrap")
    return sigmoid(shape.muscle / 0.0045) * (0.20 + 0.5 * np.maximum(shape.muscle, 0) + 0.02 * bundles)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * values)


def _parenchyma(rng: np.random.Generator, facts: ExamFacts, size: int, shape: Anatomy) -> tuple[np.ndarray, np.ndarray]:
    """Tissue x (H, W) before the muscle and the skin line are added, and its thickness t (H, W)."""
    x, y = grid(size)
    height, width = film_shape(size)
    stretch = rng.uniform(1.0, 1.7)
    roll_off = rng.uniform(0.09, 0.15)
    plane = _frequencies(size)[2]
    g = _noise(rng, _power_law(size, 3.6, stretch), plane)[:height, :width]
    g2 = _noise(rng, _fixed_power_law(size, 2.8, 5.0), plane)[:height, :width]
    patch = sigmoid(2 * _noise(rng, _fixed_power_law(size, 3.0), plane)[:height, :width])
    thick = _fibres(rng, size, shape.nipple, 7.0, 2.6, 0.0048)
    thin = _fibres(rng, size, shape.nipple, 15.0, 2.2, 0.0030)

    thickness = np.sqrt(1 - (1 - np.minimum(shape.depth / roll_off, 1)) ** 2)
    distance = np.hypot(x - shape.nipple[0], y - shape.nipple[1])
    cone = sigmoid((REACH[facts.density] * facts.reach - distance) / 0.045) * np.minimum(shape.depth / 0.03, 1)
    gland = cone * sigmoid(1.6 * (g + 0.12 * g2 + BIAS[facts.density]))
    gland *= 1 - 0.5 * sigmoid(shape.muscle / 0.0045)
    fat = facts.fat + 0.030 * g + 0.012 * g2
    lines = (0.040 + 0.04 * gland) * thick * patch + (0.018 + 0.028 * gland) * thin * (1 - patch / 2)
    return thickness * (fat + 0.25 * gland * (1 + 0.10 * g2) + lines), thickness


@lru_cache(maxsize=4)
def breast(recipe: Recipe, other: bool, view: str) -> Breast:
    """The breast of one film, without anything that a lesion or confounder option decides."""
    shape, facts, size = anatomy(recipe, other, view), exam_facts(recipe), recipe.size
    key = (int(other), VIEWS.index(view))
    tissue, thickness = _parenchyma(recipe.generator(Stream.BACKGROUND, *key), facts, size, shape)
    if view == "MLO":
        tissue += thickness * _muscle_tissue(recipe.generator(Stream.MUSCLE, *key), size, shape)
    tissue += 0.05 * np.exp(-(((shape.depth - 0.004) / 0.004) ** 2)) * shape.inside

    rng = recipe.generator(Stream.NOISE, *key)
    outside = float(rng.uniform(0.02, 0.035))
    cover = ndimage.gaussian_filter(shape.inside.astype(float), 0.6)
    grain = ndimage.gaussian_filter(rng.normal(0, 0.0114, cover.shape), 0.6) * (0.25 + 0.75 * cover)
    made = Breast(tissue, np.sqrt(thickness), cover, grain, outside)
    for array in (made.x, made.sqrt_thickness, made.cover, made.grain):
        array.setflags(write=False)
    return made
