"""Windowed grey-level co-occurrence variance (paper 003, Eq. 1 and 2), by box sums.

The variance of co-occurrences needs their marginal alone: of the pairs (q, q shifted) in a window, the sums of grey
levels and of their squares. Those are box sums, whose cost depends neither on the window nor on the number of levels.
Shapes: H W pixels of a region, N a direction.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Mu = Literal["printed", "standard"]
Pool = Literal["pooled", "mean"]
Angle = Literal[0, 45, 90, 135]
Pad = Literal["reflect", "symmetric", "edge"]  # numpy's names: without the edge pixel, with it, the edge alone
DIRECTIONS: dict[Angle, tuple[int, int]] = {
    0: (0, 1),
    45: (-1, 1),
    90: (-1, 0),
    135: (-1, -1),
}  # degrees -> rows and columns, at distance 1


def quantised(image_HW: np.ndarray, levels: int) -> np.ndarray:
    """Grey levels 0 to levels - 1 between the region's least and largest value; 0 where all are equal. int64."""
    low, high = float(image_HW.min()), float(image_HW.max())
    if high <= low:
        return np.zeros(image_HW.shape, np.int64)
    scaled = np.floor((image_HW.astype(np.float64) - low) / (high - low) * levels)
    return np.minimum(scaled.astype(np.int64), levels - 1)


def variance(
    image_HW: np.ndarray, *, window: int = 9, levels: int = 32, mu: Mu = "printed", pool: Pool = "pooled",
    distances: Sequence[int] = (1,), angles: Sequence[Angle] = tuple(DIRECTIONS), symmetric: bool = True,
    pad: Pad = "reflect",
) -> np.ndarray:  # fmt: skip
    """Sum of (m - mu)^2 p(m, n) in a window around each pixel (H, W), of pairs at these distances and angles.

    mu: standard, the mean grey level; printed, that divided by levels squared (Eq. 2), which is nearly 0, so that the
    variance becomes the mean squared grey level: bright inside a mass, where standard is bright at its rim. pool: counts
    of all directions together, or the mean of their variances. symmetric: a pair counts both ways, so that m is the level
    of either; else of the first. pad: what lies beyond a region's border. window is odd; ValueError if not, if a side is no
    longer than half of it, or if no pair of that distance fits in.
    """
    half = window // 2
    if window % 2 == 0 or min(image_HW.shape) <= half:
        raise ValueError(f"a window of {window} in a region of {image_HW.shape}: odd, and less than twice the side")
    if max(distances) >= window:
        raise ValueError(f"no pair of distance {max(distances)} in a window of {window}: name a smaller one")
    q = np.pad(quantised(image_HW, levels), half, mode=pad)
    tables = _table(q), _table(q * q)
    offsets = [(far * DIRECTIONS[angle][0], far * DIRECTIONS[angle][1]) for far in distances for angle in angles]
    sums = [_sums(*tables, window, dy, dx, symmetric) for dy, dx in offsets]
    if pool == "pooled":
        n, first, second = (sum(parts[1:], parts[0]) for parts in zip(*sums, strict=True))
        return _variance(n, first, second, levels, mu)
    of_each: np.ndarray = np.mean([_variance(*parts, levels, mu) for parts in sums], axis=0)
    return of_each


def _variance(n: int, first: np.ndarray, second: np.ndarray, levels: int, mu: Mu) -> np.ndarray:
    """E[m^2] - 2 mu E[m] + mu^2, of the number of entries and the sums of m and of m^2."""
    mean = first / n
    about = mean / levels**2 if mu == "printed" else mean
    spread: np.ndarray = second / n - 2 * about * mean + about**2
    return spread


def _sums(
    first: np.ndarray, second: np.ndarray, window: int, dy: int, dx: int, symmetric: bool
) -> tuple[int, np.ndarray, np.ndarray]:
    """(entries, sum of m, sum of m^2) of the pairs at that offset in each window; a symmetric pair gives both its levels.

    first, second: tables of q and of its squares.
    """
    rows, columns = window - abs(dy), window - abs(dx)
    one, other = (max(0, -dy), max(0, -dx)), (max(0, dy), max(0, dx))  # where the one and the other of a pair may lie
    ends = (one, other) if symmetric else (one,)
    boxes = [[_box(table, window, *end, rows, columns) for end in ends] for table in (first, second)]
    total, squares = (sum(parts[1:], parts[0]) for parts in boxes)
    return len(ends) * rows * columns, total, squares


def _table(q: np.ndarray) -> np.ndarray:
    """Sums of all pixels above and to the left: a box's sum is made of four of them."""
    table = np.zeros((q.shape[0] + 1, q.shape[1] + 1), np.int64)
    np.cumsum(np.cumsum(q, axis=0), axis=1, out=table[1:, 1:])
    return table


def _box(table: np.ndarray, window: int, top: int, left: int, rows: int, columns: int) -> np.ndarray:
    """Sums of the rows x columns boxes whose corner is at (y + top, x + left), of every window (y, x)."""
    height, width = table.shape[0] - window, table.shape[1] - window
    strip = table[top + rows : top + rows + height] - table[top : top + height]
    return strip[:, left + columns : left + columns + width] - strip[:, left : left + width]
