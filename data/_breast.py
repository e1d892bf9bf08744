"""Which way a film is turned and what of it is the breast: found once per film, before anything is cut from it."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from data.inputs import Roi
from data.record import Box

SIDE = 256  # pixels of the longer side of the reduced film on which the breast is looked for
BLUR = 2.0  # sigma, reduced pixels
OPENING = 3  # reduced pixels: bright film edges and labels that touch the breast are cut off
SMALLEST = 0.02  # of the film's area; what is smaller is a label
MARGIN = 0.02  # of the film's sides, around the breast


@dataclass(frozen=True)
class Pose:
    """How a film stands before the cut. Films are never turned when they are read, and never twice (rows.parquet)."""

    flipped: bool = False  # left and right are exchanged
    breast: Box | None = None  # what stands for the film, film pixels before the flip; None: all of it
    missed: bool = False  # the breast was asked for and not found: the film is taken as it is


def pose_of(film: np.ndarray, laterality: str, roi: Roi) -> Pose:
    """What `roi.flip` and `roi.crop` say of a film (H, W). laterality: of the record, L or R."""
    crop = roi.strategy == "whole" and roi.crop == "breast"
    right = laterality == "R"
    if not crop and roi.flip != "breast_left":
        return Pose(flipped=roi.flip == "right_breasts" and right)
    found = find_breast(film)
    if roi.flip == "breast_left":
        right = found is not None and found[1]
    box = found[0] if found is not None and crop else None
    return Pose(flipped=roi.flip != "none" and right, breast=box, missed=found is None)


def find_breast(film: np.ndarray) -> tuple[Box, bool] | None:
    """The breast's bounding box in film pixels, enlarged by MARGIN, and whether its centroid lies in the right half of
    the film (H, W). None where no breast is found."""
    found = breast_part(film)
    if found is None:
        return None
    (part, factor), (height, width) = found, film.shape
    rows, columns = np.nonzero(part)
    spare_x, spare_y = round(MARGIN * width), round(MARGIN * height)
    box = (
        max(int(columns.min()) * factor - spare_x, 0),
        max(int(rows.min()) * factor - spare_y, 0),
        min((int(columns.max()) + 1) * factor + spare_x, width),
        min((int(rows.max()) + 1) * factor + spare_y, height),
    )
    return box, bool(columns.mean() + 0.5 > part.shape[1] / 2)


def breast_part(film: np.ndarray) -> tuple[np.ndarray, int] | None:
    """The breast (h, w) bool on a film (H, W) that is reduced by a whole factor, and the factor.

    The film is reduced by block means, limited to its 1st to 99th percentile, blurred and cut at Li's threshold (Li and
    Tam 1998: minimal cross entropy); the breast is the largest connected part after an opening. None: the film is flat,
    or the largest part is smaller than SMALLEST.
    """
    from skimage.filters import threshold_li  # 0.2 s that a process which finds no breast does not pay
    from skimage.measure import label

    height, width = film.shape
    factor = -(-max(height, width) // SIDE)
    small = np.asarray(Image.fromarray(np.ascontiguousarray(film, dtype=np.float32)).reduce(factor))
    small = ndimage.gaussian_filter(np.clip(small, *np.percentile(small, [1, 99])), BLUR)
    if small.min() == small.max():
        return None
    parts = label(ndimage.binary_opening(small > threshold_li(small), iterations=OPENING))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    if sizes.max() < SMALLEST * small.size:
        return None
    return parts == sizes.argmax(), factor
