"""Variation of training samples: image, masks and boxes move together; all draws are of the sample's own generator.

Shapes: h w pixels of the cached crop, H W pixels of the input, n boxes (x0 y0 x1 y1, pixels, clipped to the canvas).
Arrays keep their dtype: 0..65535 (image) and 0..255 (masks) are as good as [0, 1]. Masks are 1 on the lesion, so what
comes from outside the canvas is 0 in image and mask alike.
"""

import math

import numpy as np
import torch
from torch.nn.functional import grid_sample

from data.inputs import Augment

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]  # image (1, h, w), masks (m, h, w), boxes (n, 4)
_TRIES = 20  # of paper002 before the sample is taken as it is; a film that is nearly all black is rejected every time


def cached_margin(spec: Augment) -> float:
    """How much larger than the input the cached crop of a recipe is."""
    return spec.margin if spec.recipe == "window_turns" else 1.0


def augment(
    image: np.ndarray,
    masks: np.ndarray,
    boxes: np.ndarray,
    spec: Augment,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Sample:
    """One random variation at `size` (H, W). Boxes that leave the canvas come back with no area."""
    if spec.recipe == "paper002":
        return _paper002(image, masks, boxes, size, rng)
    if spec.recipe == "window_turns":
        spare_y, spare_x = image.shape[1] - size[0], image.shape[2] - size[1]
        image, masks, boxes = _crop(
            image, masks, boxes, int(rng.integers(spare_y + 1)), int(rng.integers(spare_x + 1)), size
        )
    else:
        image, masks, boxes = centre(image, masks, boxes, size)
    if spec.recipe == "none":
        return image, masks, boxes
    quarter, mirror = int(rng.integers(4)), bool(rng.integers(2))
    if size[0] != size[1]:
        quarter = 2 * (quarter // 2)  # a quarter turn would swap the sides: four states instead of eight
    return turn(image, masks, boxes, quarter, mirror)


def centre(image: np.ndarray, masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> Sample:
    """The central window of a crop that was cached larger than the input; what evaluation sees."""
    spare_y, spare_x = image.shape[1] - size[0], image.shape[2] - size[1]
    if not spare_y and not spare_x:
        return image, masks, boxes
    return _crop(image, masks, boxes, spare_y // 2, spare_x // 2, size)


def turn(image: np.ndarray, masks: np.ndarray, boxes: np.ndarray, quarter: int, mirror: bool) -> Sample:
    """One of the eight states of the square: mirrored left to right (or not), then `quarter` turns anticlockwise."""
    height, width = image.shape[1:]
    if mirror:
        image, masks = image[:, :, ::-1], masks[:, :, ::-1]
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    for _ in range(quarter % 4):
        image, masks = image.swapaxes(1, 2)[:, ::-1], masks.swapaxes(1, 2)[:, ::-1]
        boxes = np.stack([boxes[:, 1], width - boxes[:, 2], boxes[:, 3], width - boxes[:, 0]], axis=1)
        height, width = width, height
    return image, masks, boxes


def _crop(image: np.ndarray, masks: np.ndarray, boxes: np.ndarray, y: int, x: int, size: tuple[int, int]) -> Sample:
    height, width = size
    limits: np.ndarray = np.array([width, height, width, height], dtype=np.float32)
    boxes = np.clip(boxes - np.array([x, y, x, y], dtype=np.float32), 0.0, limits)
    return image[:, y : y + height, x : x + width], masks[:, y : y + height, x : x + width], boxes


def _paper002(
    image: np.ndarray, masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> Sample:
    """As IAIA-BL's public code, in its order: crop, rotation, flips, three quarter turns; drawn again if rejected.

    Crop to 90 % of each side with probability 0.8, offset uniform; rotation by an integer angle in [0, 90) with
    probability 0.9 on a canvas that grows with it; vertical and horizontal flip with probability 0.5 each; three times
    a quarter turn with probability 0.5. All of it is one affine map, so pixels are interpolated (bilinear) once.
    """
    for _ in range(_TRIES):
        to_source, canvas = _draw_paper002(image.shape[1], image.shape[2], rng)
        if min(canvas) < 10:
            continue
        varied = _sampled(image, to_source, canvas, size)
        if _rejected(varied):
            continue
        return varied, _sampled(masks, to_source, canvas, size), _boxes_moved(boxes, to_source, canvas, size)
    whole: np.ndarray = np.eye(3)
    canvas = (float(image.shape[1]), float(image.shape[2]))
    return (
        _sampled(image, whole, canvas, size),
        _sampled(masks, whole, canvas, size),
        _boxes_moved(boxes, whole, canvas, size),
    )


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
        to_source, canvas = _rotated(to_source, canvas, angle)
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


def _rotated(
    to_source: np.ndarray, canvas: tuple[float, float], angle: float
) -> tuple[np.ndarray, tuple[float, float]]:
    """Rotation about the centre, the canvas grown so that nothing is cut off."""
    h, w = canvas
    cos, sin = math.cos(angle), math.sin(angle)
    grown = (h * cos + w * sin, w * cos + h * sin)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    return to_source @ _shift(w / 2, h / 2) @ rotation @ _shift(-grown[1] / 2, -grown[0] / 2), grown


def _sampled(
    pixels: np.ndarray, to_source: np.ndarray, canvas: tuple[float, float], size: tuple[int, int]
) -> np.ndarray:
    """Pixels (c, h, w) through the map at `size`, bilinear, 0 outside; dtype kept."""
    height, width = pixels.shape[1:]
    scale = np.diag([canvas[1] / 2, canvas[0] / 2, 1.0]) @ _shift(1, 1)  # [-1, 1] of the output -> canvas
    back = _shift(-1, -1) @ np.diag([2 / width, 2 / height, 1.0])  # source pixels -> [-1, 1]
    theta = torch.from_numpy((back @ to_source @ scale)[:2]).float()[None]
    grid = torch.nn.functional.affine_grid(theta, [1, 1, *size], align_corners=False)
    source = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))[None]
    out = grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0].numpy()
    return np.rint(out).astype(pixels.dtype) if np.issubdtype(pixels.dtype, np.integer) else out.astype(pixels.dtype)


def _boxes_moved(
    boxes: np.ndarray, to_source: np.ndarray, canvas: tuple[float, float], size: tuple[int, int]
) -> np.ndarray:
    """The upright box around each moved box, clipped to the canvas."""
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    points = np.concatenate([corners, np.ones((len(boxes), 4, 1))], axis=2) @ np.linalg.inv(to_source).T
    points = points[:, :, :2] * (size[1] / canvas[1], size[0] / canvas[0])
    moved = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    limits: np.ndarray = np.array([size[1], size[0]] * 2, dtype=np.float64)
    return np.clip(moved, 0.0, limits).astype(np.float32)


def _rejected(image: np.ndarray) -> bool:
    """At least 80 % of the pixels black, or at the maximum, both to two decimals of [0, 1]."""
    full = np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1.0
    values = np.round(image.astype(np.float32) / full, 2)
    return bool((values == 0).mean() >= 0.8 or (values == values.max()).mean() >= 0.8)
