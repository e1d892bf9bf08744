"""The phantom's masses, and what confounds or shams them: changes of the log-exposure sum x and their exact truth.

A lesion is drawn on a square window around its centre; s is the distance to its core's edge in lesion radii R,
negative inside. Lengths are film pixels here.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import fft, special

from data._phantom_facts import LEVELS

HARMONICS = np.arange(2, 8)
ROUGHNESS = {"oval": 0.018, "irregular": 0.075}
SMALLEST = 0.004  # changes below this are none, so that a lesion ends somewhere
WINDOW = 3.0  # half side of the window in R
HALO, HALO_DEEPEST = 0.15, 0.035  # depth of a dark halo: share of the lesion's height, and at most


@dataclass(frozen=True)
class LesionDraw:
    """All random numbers of one mass in one view; they do not depend on its margin, so a margin can be exchanged."""

    scale: float  # of the radius in this view
    height: float
    axes: float  # ratio of the ellipse
    tilt: float
    harmonics: np.ndarray  # (6)
    phases: np.ndarray  # (6)
    rim: float  # w of circumscribed
    halo: bool
    blur: float  # w of indistinct
    blur_side: float
    core_rim: float  # w of spiculated
    spicules: np.ndarray  # (n, 5): angle, length (R), half width (R), curvature, strength


def draw_lesion(rng: np.random.Generator, level: str) -> LesionDraw:
    """Draw the numbers, always all of them and in one order."""
    knobs = LEVELS[level]
    u = rng.uniform(size=9)
    harmonics = rng.normal(size=6)
    phases = rng.uniform(0, 2 * math.pi, 6)
    count = int(rng.integers(11, 20))
    v = rng.uniform(size=(19, 6))
    angles = 2 * math.pi * (np.arange(count) + 0.9 * v[:count, 0]) / count + 2 * math.pi * u[8]
    spicules = np.stack(
        [
            angles,
            0.55 + 0.80 * v[:count, 1],
            0.035 + 0.035 * v[:count, 2],
            0.7 * (v[:count, 3] - 0.5),
            0.8 * knobs.spicules * (0.6 + 0.4 * v[:count, 4]),
        ],
        axis=1,
    )
    low, high = knobs.height
    blur_low, blur_high = knobs.blur
    return LesionDraw(
        scale=0.9 + 0.2 * u[0],
        height=low + (high - low) * u[1],
        axes=1 + 0.5 * u[2],
        tilt=math.pi * u[3],
        harmonics=harmonics,
        phases=phases,
        rim=0.05 + 0.08 * u[4],
        halo=bool(u[5] < 0.35),
        blur=blur_low + (blur_high - blur_low) * u[6],
        blur_side=2 * math.pi * u[7],
        core_rim=0.12 + 0.13 * v[18, 5],
        spicules=spicules,
    )


@dataclass(frozen=True)
class Patch:
    """A change of x on a window of the film (h, w), and the truth that belongs to it."""

    x0: int
    y0: int
    change: np.ndarray  # added to x times the square root of thickness
    core: np.ndarray
    mask: np.ndarray
    fine: np.ndarray


def _radius(draw: LesionDraw, shape: str, radius: float, angle: np.ndarray) -> np.ndarray:
    """r(theta): an ellipse of the circle's area times 1 + harmonics 2-7."""
    a, b = radius * math.sqrt(draw.axes), radius / math.sqrt(draw.axes)
    turned = angle - draw.tilt
    ellipse = a * b / np.hypot(b * np.cos(turned), a * np.sin(turned))
    amplitude = draw.harmonics * ROUGHNESS[shape] / np.sqrt(HARMONICS / 2)
    wave = np.cos(angle[..., None] * HARMONICS + draw.phases) @ amplitude
    return ellipse * np.maximum(1 + wave, 0.5)


def _spicules(
    draw: LesionDraw, shape: str, radius: float, dx: np.ndarray, dy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Profile (h, w) in [0, 1] of the strongest spicule at each pixel, and the same times its strength."""
    profile, strong = np.zeros(dx.shape), np.zeros(dx.shape)
    starts = 0.85 * _radius(draw, shape, radius, draw.spicules[:, 0])
    for (angle, length, width, bend, strength), start in zip(draw.spicules, starts, strict=True):
        length_px = length * radius + 0.15 * start
        half = max(width * radius, 0.55)
        along = (dx * math.cos(angle) + dy * math.sin(angle) - start) / length_px
        inside = (along > -0.05) & (along < 1)
        u = np.clip(along[inside], 0, 1)
        across = (dy * math.cos(angle) - dx * math.sin(angle))[inside] - bend * length_px * u**2
        taper = 1 - 0.55 * u
        value = np.exp(-((across / (half * taper)) ** 2)) * (1 - u**4)
        profile[inside] = np.maximum(profile[inside], value)
        strong[inside] = np.maximum(strong[inside], strength * value)
    return profile, strong


def render_lesion(draw: LesionDraw, margin: str, shape: str, radius: float, centre: tuple[float, float]) -> Patch:
    """The lesion around `centre` (x, y in pixels, index 0 = centre of the first pixel); radius in pixels."""
    reach = math.ceil(WINDOW * radius) + 2
    x0, y0 = round(centre[0]) - reach, round(centre[1]) - reach
    dx = np.arange(x0, x0 + 2 * reach + 1)[None, :] - centre[0]
    dy = np.arange(y0, y0 + 2 * reach + 1)[:, None] - centre[1]
    distance, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    edge_r = _radius(draw, shape, radius, angle)
    s = (distance - edge_r) / radius
    dome = 0.62 + 0.38 * np.sqrt(1 - np.minimum(distance / edge_r, 1) ** 2)
    core = (s <= 0) | (distance < 0.75)  # at least one pixel, however small the film
    if margin == "circumscribed":
        change = draw.height * dome * (1 - np.tanh(1.5 * s / draw.rim)) / 2
        if draw.halo:
            # A share of the mass's own height, or a faint mass would be seen by its ring alone.
            depth = min(HALO * draw.height, HALO_DEEPEST)
            change = change - np.where(s > 0, depth * np.exp(-(((s - 0.14) / 0.09) ** 2)), 0)
        mask, fine = core, np.abs(s) <= 0.15
    elif margin == "indistinct":
        blur = draw.blur * (1 + 0.45 * np.cos(angle - draw.blur_side))
        change = draw.height * dome * (1 - special.erf(s / (0.7 * blur))) / 2
        mask, fine = core, np.abs(s) <= np.maximum(0.25, 0.7 * blur)
    else:
        edge = (1 - np.tanh(1.5 * s / draw.core_rim)) / 2
        wide_x, wide_y = np.broadcast_arrays(dx, dy)
        profile, strong = _spicules(draw, shape, radius, wide_x, wide_y)
        change = draw.height * (dome * edge + strong * (1 - edge))
        mask = core | (profile > 0.35)
        fine = (profile > 0.3) & (s > -0.15)
    change = np.where(np.abs(change) < SMALLEST, 0.0, change)
    return Patch(x0, y0, change, core, mask, fine)


def render_dots(rng: np.random.Generator, radius: float, centre: tuple[float, float], size: int) -> Patch:
    """Six to twelve calcifications in an uneven cluster around `centre`; radius of the lesion beside it, pixels.

    They differ in size, length, direction and brightness; half of them lie close to an earlier one.
    """
    count = int(rng.integers(6, 13))
    places = rng.normal(0, 0.30 * radius, (count, 2))
    near, scatter = rng.uniform(size=count) < 0.5, rng.normal(0, 0.11 * radius, (count, 2))
    for k in range(1, count):
        if near[k]:
            places[k] = places[int(rng.integers(k))] + scatter[k]
    heights = rng.uniform(0.25, 0.75, count)
    spreads = np.maximum(size * rng.uniform(0.0017, 0.0032, count), 0.45)
    lengths, angles = rng.uniform(1.0, 1.9, count), rng.uniform(0, math.pi, count)
    reach = math.ceil(float(np.abs(places).max() + 4 * (spreads * lengths).max())) + 1
    x0, y0 = round(centre[0]) - reach, round(centre[1]) - reach
    x = np.arange(x0, x0 + 2 * reach + 1)[None, :] - centre[0]
    y = np.arange(y0, y0 + 2 * reach + 1)[:, None] - centre[1]
    change = np.zeros((2 * reach + 1, 2 * reach + 1))
    for (px, py), height, spread, length, angle in zip(places, heights, spreads, lengths, angles, strict=True):
        along = ((x - px) * math.cos(angle) + (y - py) * math.sin(angle)) / length
        across = (y - py) * math.cos(angle) - (x - px) * math.sin(angle)
        change = np.maximum(change, height * np.exp(-(along**2 + across**2) / (2 * spread**2)))
    return _without_truth(x0, y0, change)


def render_blob(rng: np.random.Generator, radius: float, centre: tuple[float, float]) -> Patch:
    """A second dense blob of half the lesion's radius, smooth like an island of gland."""
    height = rng.uniform(0.12, 0.20)
    half = radius / 2
    reach = math.ceil(2.5 * half) + 1
    x0, y0 = round(centre[0]) - reach, round(centre[1]) - reach
    x = np.arange(x0, x0 + 2 * reach + 1)[None, :] - centre[0]
    y = np.arange(y0, y0 + 2 * reach + 1)[:, None] - centre[1]
    change = height * (1 - special.erf((np.hypot(x, y) / half - 1) / 0.4)) / 2
    return _without_truth(x0, y0, change)


def _without_truth(x0: int, y0: int, change: np.ndarray) -> Patch:
    change = np.where(np.abs(change) < SMALLEST, 0.0, change)
    nothing = np.zeros(change.shape, bool)
    return Patch(x0, y0, change, nothing, nothing, nothing)


def render_sham(rng: np.random.Generator, radius: float) -> np.ndarray:
    """Islands of gland with a little fat between on a disc of `radius` pixels, square window; the caller sets the energy.

    Made like the parenchyma and brighter on the whole: at a mass's energy a texture of mean 0 digs black holes.
    """
    reach = math.ceil(radius)
    side = 2 * reach + 1
    noise = rng.standard_normal((side, side))
    waves = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]) * 2 * radius  # across the disc
    texture = fft.irfft2(fft.rfft2(noise) * np.maximum(waves, 0.7) ** -1.8, s=(side, side))
    texture = (texture - texture.mean()) / max(float(texture.std()), 1e-12)
    axis = np.arange(side) - reach
    distance = np.hypot(axis[:, None], axis[None, :]) / radius
    window = np.where(distance <= 1, (1 - distance**2) * (1 + distance**2), 0)
    return (1 / (1 + np.exp(-1.6 * texture)) - 0.2) * window
