"""The region of a finding: which window of the film it is, and the window's pixels at a method's input size.

Shapes: H W film pixels, h w pixels of the cut. Windows and boxes are x0 y0 x1 y1, half open.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.inputs import Roi
from data.record import Box


@dataclass(frozen=True)
class Cut:
    """A window of a film at another size."""

    image: np.ndarray  # (h, w) float32 in [0, 1]
    masks: list[np.ndarray]  # (h, w) float32 in [0, 1]: the share of each pixel that the mask covers
    window: Box  # in film pixels; may reach beyond the film, where it was padded

    def to_crop(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) in film pixels -> boxes in pixels of the cut, clipped to it."""
        return to_crop(boxes, self.window, self.image.shape)


def to_crop(boxes: np.ndarray, window: Box, size: Sequence[int]) -> np.ndarray:
    """Boxes (n, 4) in film pixels -> float32 boxes in pixels of a cut of size (h, w), clipped to it."""
    x0, y0, x1, y1 = window
    scale = np.array([size[1] / (x1 - x0), size[0] / (y1 - y0)] * 2, dtype=np.float64)
    moved = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) - (x0, y0, x0, y0)) * scale
    limits: np.ndarray = np.array([size[1], size[0]] * 2, dtype=np.float64)
    return np.clip(moved, 0.0, limits).astype(np.float32)


def to_film(boxes: np.ndarray, window: Box, size: Sequence[int]) -> np.ndarray:
    """Boxes (n, 4) in pixels of a cut of size (h, w) -> float32 boxes in film pixels. Inverse of `to_crop`."""
    x0, y0, x1, y1 = window
    scale = np.array([(x1 - x0) / size[1], (y1 - y0) / size[0]] * 2, dtype=np.float64)
    return (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * scale + (x0, y0, x0, y0)).astype(np.float32)


def window(
    box: Box | None, film_shape: tuple[int, int], roi: Roi, mask: np.ndarray | None = None, margin: float = 1.0
) -> Box:
    """The window of a finding in film pixels.

    box: of the finding; None for strategy `whole`. mask: (H, W) bool, for `centre: centroid`; without one the box's
    centre is taken. margin: how much larger the window is than the rule says. With border `shift` the window lies
    inside the film; only where the film is smaller does it reach beyond, evenly on both sides.
    """
    film_h, film_w = film_shape
    if roi.strategy == "whole":
        width, height = _enlarged(film_w, margin), _enlarged(film_h, margin)
        x0, y0 = math.floor((film_w - width) / 2), math.floor((film_h - height) / 2)
        return x0, y0, x0 + width, y0 + height
    if box is None:
        raise ValueError(f"the strategy {roi.strategy} needs a box")
    sides = _sides(box, roi)
    width, height = _enlarged(sides[0], margin), _enlarged(sides[1], margin)
    if roi.centre == "centroid" and mask is not None and mask.any():
        rows, columns = np.nonzero(mask)
        centre_x, centre_y = columns.mean() + 0.5, rows.mean() + 0.5
    else:
        centre_x, centre_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    x0, y0 = math.floor(centre_x - width / 2), math.floor(centre_y - height / 2)
    if roi.border == "shift":
        x0, y0 = _inside(x0, width, film_w), _inside(y0, height, film_h)
    return x0, y0, x0 + width, y0 + height


def _sides(box: Box, roi: Roi) -> tuple[float, float]:
    """Width and height of the window before any margin (Table 1 of the knowledge-transfer paper, 2025)."""
    width, height = box[2] - box[0], box[3] - box[1]
    longer = max(width, height)
    match roi.strategy:
        case "max224":
            return max(roi.min_side, width), max(roi.min_side, height)
        case "bbox":
            return width, height
        case "double_square":
            return 2 * longer, 2 * longer
        case "double_bbox":
            return 2 * width, 2 * height
        case "box_scale":
            return roi.scale * longer, roi.scale * longer
    raise ValueError(f"no sides for the strategy {roi.strategy}")


def _enlarged(side: float, margin: float) -> int:
    return max(1, round(side * margin))


def _inside(start: int, length: int, film: int) -> int:
    """Where a stretch of `length` starts once it is moved inside the film; centred if the film is shorter."""
    if length > film:
        return math.floor((film - length) / 2)
    return min(max(start, 0), film - length)


def grey_limits(film: np.ndarray, roi: Roi) -> tuple[float, float]:
    """The film's grey values that become 0 and 1: its percentiles (the whole film, not the region)."""
    low, high = np.percentile(film, [roi.grey_low, roi.grey_high])
    return float(low), float(high)


def cut(
    film: np.ndarray,
    masks: Sequence[np.ndarray],
    box: Box | None,
    roi: Roi,
    size: tuple[int, int],
    margin: float = 1.0,
    grey: tuple[float, float] | None = None,
) -> Cut:
    """The region of a finding at `size` times margin.

    film: (H, W) raw grey values; masks: (H, W) bool each, the first one gives the centroid; size: (h, w) of the input,
    so the cut has round(h * margin), round(w * margin) pixels. grey: limits to use instead of this film's own
    percentiles (a counterfactual keeps its origin's). The image is resized by an antialiased cubic and clipped to its
    range before; masks by an antialiased triangle, which leaves fractions at their edges.
    """
    low, high = grey if grey is not None else grey_limits(film, roi)
    where = window(box, (film.shape[0], film.shape[1]), roi, masks[0] if len(masks) else None, margin)
    out = (_enlarged(size[0], margin), _enlarged(size[1], margin))
    pixels = np.clip((_crop(film, where).astype(np.float32) - low) / max(high - low, 1e-12), 0.0, 1.0)
    pixels = _padded(pixels, where, film.shape, roi)
    image = np.clip(_resize(pixels, out, Image.Resampling.BICUBIC), pixels.min(), pixels.max())
    cut_masks = []
    for mask in masks:  # outside the film nothing is known to be lesion: masks are padded with 0, whatever the image is
        inside = np.pad(_crop(mask, where).astype(np.float32), _padding(where, film.shape))
        cut_masks.append(np.clip(_resize(inside, out, Image.Resampling.BILINEAR), 0.0, 1.0))
    return Cut(image, cut_masks, where)


def _crop(array: np.ndarray, where: Box) -> np.ndarray:
    x0, y0, x1, y1 = where
    return array[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]


def _padding(where: Box, film_shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rows and columns that the window has before and after the film's."""
    x0, y0, x1, y1 = where
    height, width = film_shape
    return [
        (min(max(0, -y0), y1 - y0), min(max(0, y1 - height), y1 - y0)),
        (min(max(0, -x0), x1 - x0), min(max(0, x1 - width), x1 - x0)),
    ]


def _padded(pixels: np.ndarray, where: Box, film_shape: tuple[int, ...], roi: Roi) -> np.ndarray:
    padding = _padding(where, film_shape)
    if not any(map(any, padding)):
        return pixels
    if roi.border == "reflect" and min(pixels.shape) > 1:
        return np.pad(pixels, padding, mode="reflect")
    return np.pad(pixels, padding)


def _resize(pixels: np.ndarray, size: tuple[int, int], filter_: Image.Resampling) -> np.ndarray:
    """float32 (H, W) at `size`; Pillow widens its filters where it shrinks. No torch: preparing starts quickly."""
    if pixels.shape == size:
        return pixels
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((size[1], size[0]), filter_))
