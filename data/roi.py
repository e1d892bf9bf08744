"""The region of a finding: which window of the film it is, and the window's pixels at a method's input size.

Shapes: H W film pixels, h w pixels of the cut. Windows and boxes are x0 y0 x1 y1, half open.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from data._breast import Pose
from data.inputs import Roi
from data.record import Box

OVERLAP = 0.9  # of bbox_overlap: intersection over the box's area
OVERLAP_MARGIN = 1.2  # of its cut: both sides of a shift of 10 %, the largest that leaves an overlap of 0.9


@dataclass(frozen=True)
class Cut:
    """A window of a film at another size."""

    image: np.ndarray  # (h, w) float32 in [0, 1]
    masks: list[np.ndarray]  # (h, w) float32 in [0, 1]: the share of each pixel that the mask covers
    window: Box  # in film pixels; may reach beyond the film, where it was padded
    flipped: bool = False  # left and right of the window were exchanged

    def to_crop(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) in film pixels -> boxes in pixels of the cut, clipped to it."""
        return to_crop(boxes, self.window, self.image.shape, self.flipped)


@dataclass(frozen=True)
class Jitter:
    """How a box is moved before its window is cut: shares of its width and height, and a factor on both."""

    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0


def jitter_of(roi: Roi, finding_id: str) -> Jitter:
    """The finding's own draw. It lies on one line whatever the amount, so that amounts can be compared."""
    if not roi.jittered:
        return Jitter()
    dx, dy, ds = _generator("jitter", finding_id, roi.jitter_seed).uniform(-1, 1, 3)
    return Jitter(dx * roi.jitter_shift, dy * roi.jitter_shift, 1 + ds * roi.jitter_scale)


@lru_cache(maxsize=4096)
def overlap_corners(
    finding_id: str,
    count: int,
    size: tuple[int, int],
    canvas: tuple[int, int],
    box: tuple[float, float, float, float],
) -> np.ndarray:
    """Upper left corners (count, 2) as y, x of the windows of bbox_overlap, in pixels of the cut of size `canvas`.

    Windows (h, w) of `size` that hold OVERLAP or more of the box (x0 y0 x1 y1, in these pixels, as `to_crop` gives it),
    each as likely as any other; none occurs twice if there are enough. Where there is no such window (tiny boxes, as
    the cut is of whole film pixels), those that hold most of it.
    """
    x0, y0, x1, y1 = box
    rows, columns = np.arange(canvas[0] - size[0] + 1), np.arange(canvas[1] - size[1] + 1)
    high = np.clip(np.minimum(rows + size[0], y1) - np.maximum(rows, y0), 0, None)
    wide = np.clip(np.minimum(columns + size[1], x1) - np.maximum(columns, x0), 0, None)
    held = high[:, None] * wide
    all_corners = np.argwhere(held >= min(OVERLAP * (x1 - x0) * (y1 - y0), held.max()) - 1e-9)
    rng = _generator("bbox_overlap", finding_id, 0)
    chosen: np.ndarray = rng.choice(all_corners, count, replace=len(all_corners) < count)
    chosen.flags.writeable = False  # the same array is given again
    return chosen


def _generator(purpose: str, finding_id: str, seed: int) -> np.random.Generator:
    entropy = int.from_bytes(hashlib.sha256(f"{purpose}|{finding_id}".encode()).digest()[:16], "big")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([entropy, seed])))


def to_crop(boxes: np.ndarray, window: Box, size: Sequence[int], flipped: bool = False) -> np.ndarray:
    """Boxes (n, 4) in film pixels -> float32 boxes in pixels of a cut of size (h, w), clipped to it."""
    x0, y0, x1, y1 = window
    scale = np.array([size[1] / (x1 - x0), size[0] / (y1 - y0)] * 2, dtype=np.float64)
    moved = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) - (x0, y0, x0, y0)) * scale
    limits: np.ndarray = np.array([size[1], size[0]] * 2, dtype=np.float64)
    return _exchanged(np.clip(moved, 0.0, limits), size[1], flipped).astype(np.float32)


def to_film(boxes: np.ndarray, window: Box, size: Sequence[int], flipped: bool = False) -> np.ndarray:
    """Boxes (n, 4) in pixels of a cut of size (h, w) -> float32 boxes in film pixels. Inverse of `to_crop`."""
    x0, y0, x1, y1 = window
    scale = np.array([(x1 - x0) / size[1], (y1 - y0) / size[0]] * 2, dtype=np.float64)
    upright = _exchanged(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), size[1], flipped)
    return (upright * scale + (x0, y0, x0, y0)).astype(np.float32)


def _exchanged(boxes: np.ndarray, width: int, flipped: bool) -> np.ndarray:
    """Boxes after left and right of a canvas of `width` are exchanged, if they are."""
    if not flipped:
        return boxes
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def window(
    box: Box | None,
    film_shape: tuple[int, int],
    roi: Roi,
    mask: np.ndarray | None = None,
    margin: float = 1.0,
    breast: Box | None = None,
    jitter: Jitter = Jitter(),
) -> Box:
    """The window of a finding in film pixels.

    box: of the finding; None for strategy `whole`. mask: (H, W) bool, for `centre: centroid`; without one the box's
    centre is taken. margin: how much larger the window is than the rule says. breast: what stands for the film under
    `whole`. With border `shift` the window lies inside the film; only where the film is smaller does it reach beyond,
    evenly on both sides. Under `whole` and `bbox_overlap` nothing is shifted: what is asked for stays in the middle.
    """
    film_h, film_w = film_shape
    if roi.strategy == "whole":
        x0, y0, x1, y1 = breast or (0, 0, film_w, film_h)
        width, height = _enlarged(x1 - x0, margin), _enlarged(y1 - y0, margin)
        x0, y0 = x0 + math.floor((x1 - x0 - width) / 2), y0 + math.floor((y1 - y0 - height) / 2)
        return x0, y0, x0 + width, y0 + height
    if box is None:
        raise ValueError(f"the strategy {roi.strategy} needs a box")
    sides = _sides((box[2] - box[0]) * jitter.scale, (box[3] - box[1]) * jitter.scale, roi)
    width, height = _enlarged(sides[0], margin), _enlarged(sides[1], margin)
    if roi.centre == "centroid" and mask is not None and mask.any():
        rows, columns = np.nonzero(mask)
        centre_x, centre_y = columns.mean() + 0.5, rows.mean() + 0.5
    else:
        centre_x, centre_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    centre_x, centre_y = centre_x + jitter.dx * (box[2] - box[0]), centre_y + jitter.dy * (box[3] - box[1])
    x0, y0 = math.floor(centre_x - width / 2), math.floor(centre_y - height / 2)
    if roi.border == "shift" and roi.strategy != "bbox_overlap":
        x0, y0 = _inside(x0, width, film_w), _inside(y0, height, film_h)
    return x0, y0, x0 + width, y0 + height


def _sides(width: float, height: float, roi: Roi) -> tuple[float, float]:
    """Width and height of the window of a box, before any margin (Table 1 of the knowledge-transfer paper, 2025)."""
    width, height = _sides_of_rule(width, height, roi)
    return (max(width, height),) * 2 if roi.keep_aspect else (width, height)


def _sides_of_rule(width: float, height: float, roi: Roi) -> tuple[float, float]:
    longer = max(width, height)
    match roi.strategy:
        case "max224":
            return max(roi.min_side, width), max(roi.min_side, height)
        case "bbox" | "bbox_overlap":
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
    pose: Pose = Pose(),  # noqa: B008 - frozen
    jitter: Jitter = Jitter(),
) -> Cut:
    """The region of a finding at `size` times margin.

    film: (H, W) raw grey values; masks: (H, W) bool each, the first one gives the centroid; size: (h, w) of the input,
    so the cut has round(h * margin), round(w * margin) pixels. grey: limits to use instead of this film's own
    percentiles (a counterfactual keeps its origin's). pose: of the film; the window stays one of the film as it is
    stored, and what is cut from it is mirrored. The image is resized by an antialiased cubic and clipped to its range
    before; masks by an antialiased triangle, which leaves fractions at their edges.
    """
    low, high = grey if grey is not None else grey_limits(film, roi)
    shape = film.shape[0], film.shape[1]
    where = window(box, shape, roi, masks[0] if len(masks) else None, margin, pose.breast, jitter)
    out = (_enlarged(size[0], margin), _enlarged(size[1], margin))
    pixels = np.clip((_crop(film, where).astype(np.float32) - low) / max(high - low, 1e-12), 0.0, 1.0)
    pixels = _padded(pixels, where, film.shape, roi)
    image = np.clip(_resize(pixels, out, Image.Resampling.BICUBIC), pixels.min(), pixels.max())
    cut_masks = []
    for mask in masks:  # outside the film nothing is known to be lesion: masks are padded with 0, whatever the image is
        inside = np.pad(_crop(mask, where).astype(np.float32), _padding(where, film.shape))
        cut_masks.append(np.clip(_resize(inside, out, Image.Resampling.BILINEAR), 0.0, 1.0))
    if pose.flipped:
        image, cut_masks = image[:, ::-1], [mask[:, ::-1] for mask in cut_masks]
    return Cut(image, cut_masks, where, pose.flipped)


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
