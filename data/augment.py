"""Variation of training samples: drawn on the CPU from the sample's own generator, applied by torchvision on any device.

Shapes: h w pixels of the cached crop (the canvas), H W pixels of the input, n boxes (x0 y0 x1 y1, pixels, clipped to the
canvas). Image and masks are in [0, 1] and move together; masks are 1 on the lesion, so what comes from outside the canvas
is 0 in image and mask alike, unless a recipe says otherwise. torchvision draws nothing: its functional kernels are given
what was drawn.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxFormat

from data.inputs import Augment

_TRIES = 20  # of paper002 before the sample is taken as it is; a film that is nearly all black is rejected every time
_GMIC_SIZE = 2944, 1920  # GMIC's input (H, W)
_GMIC_NOISE = 100  # pixels at that size by which the window is moved, at most
_GMIC_BORDERS = 100, round(100 * 1920 / 2944)  # and each of its borders: top and bottom, left and right
_XYXY = BoundingBoxFormat.XYXY
Size = tuple[int, int]  # height, width
Window = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class Variation:
    """What was drawn for one sample. Applied in this order: window, map, flips, turn; applying it draws nothing."""

    window: Window  # in the canvas; resized where it is not of the input's size
    to_source: tuple[float, ...] | None = (
        None  # a b c d e f 0 0: pixel (x, y) of the output is (ax+by+c, dx+ey+f) before
    )
    mirror: bool = False  # left to right
    upside_down: bool = False
    angle: float = 0.0  # degrees anticlockwise about the middle; multiples of 90 move pixels exactly


def pose_of(drawn: Variation, canvas: Size, size: Size) -> int:
    """Which of the eight flips and quarter turns of the central window this is, 0 being the window itself; -1 if none.

    4 is set for mirrored ones, which are turned after the mirror; what stands on its head is mirrored and half turned.
    Two variations of a canvas that give the same pixels have one number.
    """
    if drawn.window != centre(canvas, size).window or drawn.to_source is not None or drawn.angle % 90:
        return -1
    quarters = int(drawn.angle // 90) + 2 * drawn.upside_down
    return 4 * (drawn.mirror != drawn.upside_down) + quarters % 4


def posed(image: Tensor, pose: int) -> Tensor:
    """Square images (..., H, W) in the pose of that number, from the one of number 0."""
    turned = image.flip(-1) if pose >= 4 else image
    return torch.rot90(turned, pose % 4, (-2, -1))


def unposed(image: Tensor, pose: int) -> Tensor:
    """Square images back in pose 0, from the pose of that number."""
    turned = torch.rot90(image, -(pose % 4), (-2, -1))
    return turned.flip(-1) if pose >= 4 else turned


def cached_margin(spec: Augment) -> float:
    """How much larger than the input the cached crop of a recipe is."""
    return spec.margin if _RECIPES[spec.recipe].larger else 1.0


def in_unit(pixels: np.ndarray | Tensor) -> Tensor:
    """Cached pixels, uint8 or uint16, as float32 in [0, 1]."""
    if isinstance(pixels, np.ndarray):  # torch has few operations for uint16; its bits pass through as int16
        pixels = torch.from_numpy(pixels.view(np.int16) if pixels.dtype == np.uint16 else pixels)
    if pixels.dtype == torch.int16:
        return (pixels.int() & 0xFFFF).float().div_(65535)
    return pixels.float().div_(255)


def centre(canvas: tuple[int, int], size: tuple[int, int]) -> Variation:
    """The central window of a canvas (h, w) that was cached larger than the input (H, W); what evaluation sees."""
    return Variation(((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2, *size))


def draw(
    spec: Augment,
    pixels: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
    corners: np.ndarray | None = None,
) -> Variation:
    """One random variation of a canvas (1, h, w), uint16 as cached, at `size` (H, W).

    corners: (k, 2) upper left corners y, x of the windows to choose from (bbox_overlap), in place of the central one.
    """
    recipe, canvas = _RECIPES[spec.recipe], (pixels.shape[1], pixels.shape[2])
    if corners is not None:
        top, left = (int(value) for value in corners[rng.integers(len(corners))])
        window = top, left, *size
    else:
        window = recipe.window(canvas, size, rng)
    return recipe.variation(spec, pixels, size, window, rng)


# ---- windows --------------------------------------------------------------------------------------------------------
def _central_window(canvas: Size, size: Size, rng: np.random.Generator) -> Window:
    return centre(canvas, size).window


def _any_window(canvas: Size, size: Size, rng: np.random.Generator) -> Window:
    top = int(rng.integers(canvas[0] - size[0] + 1))
    return top, int(rng.integers(canvas[1] - size[1] + 1)), *size


def _noisy_window(canvas: Size, size: Size, rng: np.random.Generator) -> Window:
    """GMIC's released code: the window is moved by up to 100 pixels of a film of 2944 x 1920 along each side, then each
    of its four borders by itself, top and bottom by up to 100, left and right by up to 65. Six draws, scaled to the
    canvas. What the window holds outside the canvas is black (GMIC limits the noise to its padded film)."""
    moves, borders = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, (2, 2))
    (top, bottom), (left, right) = (
        (round(side * (move + first) / full), side + round(side * (move + last) / full))
        for side, full, move, (first, last) in zip(
            canvas, _GMIC_SIZE, _GMIC_NOISE * moves, np.array(_GMIC_BORDERS)[:, None] * borders, strict=True
        )
    )
    return top, left, bottom - top, right - left


# ---- flips and turns ------------------------------------------------------------------------------------------------
def _as_it_is(spec: Augment, pixels: np.ndarray, size: Size, window: Window, rng: np.random.Generator) -> Variation:
    return Variation(window)


def _turned(spec: Augment, pixels: np.ndarray, size: Size, window: Window, rng: np.random.Generator) -> Variation:
    quarter, mirror = int(rng.integers(4)), bool(rng.integers(2))
    # a quarter turn would swap the sides of an oblong: four states instead of eight
    return Variation(window, mirror=mirror, angle=90.0 * (quarter if size[0] == size[1] else 2 * (quarter // 2)))


def _mirrored(spec: Augment, pixels: np.ndarray, size: Size, window: Window, rng: np.random.Generator) -> Variation:
    return Variation(window, mirror=bool(rng.random() < 0.5))


def _flipped(spec: Augment, pixels: np.ndarray, size: Size, window: Window, rng: np.random.Generator) -> Variation:
    return Variation(window, mirror=bool(rng.random() < 0.5), upside_down=bool(rng.random() < 0.5))


def _rotated(spec: Augment, pixels: np.ndarray, size: Size, window: Window, rng: np.random.Generator) -> Variation:
    """Both flips and a rotation, each with probability 0.5."""
    mirror, upside_down, turned = (bool(draw < 0.5) for draw in rng.random(3))
    if spec.rotate == "uniform":
        angle = rng.uniform(-180, 180)
    else:
        angle = 90.0 * rng.integers(1, 4) if size[0] == size[1] else 180.0
    return Variation(window, None, mirror, upside_down, float(angle) if turned else 0.0)


# ---- applying -------------------------------------------------------------------------------------------------------
def vary(image: Tensor, masks: Tensor, variation: Variation, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Image (1, h, w) and masks (m, h, w) in [0, 1], on one device, at `size` (H, W)."""
    image, masks = F.crop_image(image, *variation.window), F.crop_image(masks, *variation.window)
    if variation.window[2:] != size:
        low, high = image.min(), image.max()  # a cubic overshoots
        image = F.resize_image(image, list(size), InterpolationMode.BICUBIC, antialias=True).clamp(low, high)
        masks = F.resize_image(masks, list(size), InterpolationMode.BILINEAR, antialias=True)
    if variation.to_source is not None:
        both = torch.cat([image, masks])
        both = F.perspective_image(both, None, None, InterpolationMode.BILINEAR, None, list(variation.to_source))
        image, masks = both[:1], both[1:]
    if variation.mirror:
        image, masks = F.horizontal_flip_image(image), F.horizontal_flip_image(masks)
    if variation.upside_down:
        image, masks = F.vertical_flip_image(image), F.vertical_flip_image(masks)
    if variation.angle % 90:
        masks = F.rotate_image(masks, variation.angle, InterpolationMode.BILINEAR)
        image = _rotated_in_its_mirror(image, variation.angle)
    elif variation.angle:
        image, masks = F.rotate_image(image, variation.angle), F.rotate_image(masks, variation.angle)
    return image, masks


def _rotated_in_its_mirror(image: Tensor, angle: float) -> Tensor:
    """Rotated within its outline; corners that open show the image's own reflection (paper 003: ours, not printed)."""
    height, width = image.shape[-2:]
    reach = math.hypot(height, width)
    spare_y, spare_x = math.ceil((reach - height) / 2), math.ceil((reach - width) / 2)
    padded = F.pad_image(image, [spare_x, spare_y, spare_x, spare_y], padding_mode="reflect")
    return F.crop_image(F.rotate_image(padded, angle, InterpolationMode.BILINEAR), spare_y, spare_x, height, width)


def vary_boxes(boxes: Tensor, variation: Variation, size: tuple[int, int]) -> Tensor:
    """Boxes (n, 4) of the canvas at `size`: the upright box around each moved one, clipped; outside it has no area."""
    if not len(boxes):
        return boxes
    boxes, canvas = F.crop_bounding_boxes(boxes, _XYXY, *variation.window)
    boxes, canvas = F.resize_bounding_boxes(boxes, canvas, list(size), format=_XYXY)
    if variation.to_source is not None:
        boxes = F.perspective_bounding_boxes(boxes, _XYXY, canvas, None, None, list(variation.to_source))
    if variation.mirror:
        boxes = F.horizontal_flip_bounding_boxes(boxes, _XYXY, canvas)
    if variation.upside_down:
        boxes = F.vertical_flip_bounding_boxes(boxes, _XYXY, canvas)
    if variation.angle:
        boxes, _ = F.rotate_bounding_boxes(boxes, _XYXY, canvas, variation.angle)
    return boxes


# ---- paper002 -------------------------------------------------------------------------------------------------------
def _not_black(spec: Augment, pixels: np.ndarray, size: Size, window: Window, rng: np.random.Generator) -> Variation:
    """As IAIA-BL's public code, in its order: crop, rotation, flips, three quarter turns; drawn again if rejected.

    Crop to 90 % of each side with probability 0.8, offset uniform; rotation by an integer angle in [0, 90) with
    probability 0.9 on a canvas that grows with it; vertical and horizontal flip with probability 0.5 each; three times
    a quarter turn with probability 0.5. All of it is one affine map, so pixels are interpolated (bilinear) once. It is
    given as a perspective: torchvision's affine map knows neither flips nor two scales, and its canvas does not grow.
    """
    image = F.crop_image(in_unit(pixels), *window)
    height, width = window[2:]
    for _ in range(_TRIES):
        to_source, canvas = _draw_paper002(height, width, rng)
        if min(canvas) < 10:
            continue
        scaled = to_source @ np.diag([canvas[1] / width, canvas[0] / height, 1.0])
        found = Variation(window, (*scaled[:2].ravel().tolist(), 0.0, 0.0))
        if not _rejected(
            F.perspective_image(image, None, None, InterpolationMode.BILINEAR, None, list(found.to_source or ()))
        ):
            return found
    return Variation(window)


def _draw_paper002(height: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, tuple[float, float]]:
    """A random map from canvas to source pixels (3 x 3, acting on x, y, 1), and the canvas' height and width."""
    y = x = 0
    h, w = height, width
    if rng.random() < 0.8:
        h, w = max(1, round(0.9 * height)), max(1, round(0.9 * width))
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    to_source = _shift(x, y)
    canvas = (float(h), float(w))
    if rng.random() < 0.9:
        angle = math.radians(int(rng.integers(90)))
        to_source, canvas = _about_the_centre(to_source, canvas, angle)
    if rng.random() < 0.5:
        to_source = to_source @ np.array([[1, 0, 0], [0, -1, canvas[0]], [0, 0, 1.0]])
    if rng.random() < 0.5:
        to_source = to_source @ np.array([[-1, 0, canvas[1]], [0, 1, 0], [0, 0, 1.0]])
    for _ in range(int((rng.random(3) < 0.5).sum())):
        # a quarter turn anticlockwise: x of the source is w - y of the canvas, y of the source is x of the canvas
        to_source = to_source @ np.array([[0, -1, canvas[1]], [1, 0, 0], [0, 0, 1.0]])
        canvas = canvas[1], canvas[0]
    return to_source, canvas


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def _about_the_centre(
    to_source: np.ndarray, canvas: tuple[float, float], angle: float
) -> tuple[np.ndarray, tuple[float, float]]:
    """Rotation about the centre, the canvas grown so that nothing is cut off."""
    h, w = canvas
    cos, sin = math.cos(angle), math.sin(angle)
    grown = (h * cos + w * sin, w * cos + h * sin)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    return to_source @ _shift(w / 2, h / 2) @ rotation @ _shift(-grown[1] / 2, -grown[0] / 2), grown


def _rejected(image: Tensor) -> bool:
    """At least 80 % of the pixels black, or at the maximum, both to two decimals of [0, 1]."""
    values = image.mul(100).round_()
    return bool((values == 0).float().mean() >= 0.8 or (values == values.max()).float().mean() >= 0.8)


# ---- recipes --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Recipe:
    """What Augment.recipe draws: a window of the canvas (h, w) at the input's size (H, W), then the rest, given that.

    larger: the canvas is cached Augment.margin times larger than the input.
    """

    window: Callable[[Size, Size, np.random.Generator], Window] = _central_window
    variation: Callable[[Augment, np.ndarray, Size, Window, np.random.Generator], Variation] = _as_it_is
    larger: bool = False


_RECIPES: Mapping[str, _Recipe] = {
    "none": _Recipe(),
    "turns": _Recipe(variation=_turned),
    "window_turns": _Recipe(_any_window, _turned, larger=True),
    "flip_hv": _Recipe(variation=_flipped),
    "paper002": _Recipe(variation=_not_black),
    "paper003": _Recipe(variation=_rotated),
    "noisy_window": _Recipe(_noisy_window),
    "paper004": _Recipe(_noisy_window, _mirrored),
}
