"""How GMIC picks the regions that it looks at closely (paper 004; Shen et al. 2021, Section 2.3): a greedy search on a map,
and the crops that belong to what it found.

Shapes: B images, C class maps, h w cells of a map, H W pixels of the image, K crops of ch x cw pixels. Nothing here has a
gradient: a place in the image is an integer.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

ZeroRange = Literal["zero", "nan_compat"]
Size = tuple[int, int]  # height, width


def cells_of(pixels: Size, image: Size, cells: Size) -> Size:
    """How many cells of a map a window of so many pixels covers, halves to even, at least one and at most all."""
    sides = (round(p * c / n) for p, n, c in zip(pixels, image, cells, strict=True))
    height, width = (min(max(side, 1), c) for side, c in zip(sides, cells, strict=True))
    return height, width


@torch.no_grad()
def greedy_windows(map_BChw: Tensor, window: Size, count: int, zero_range: ZeroRange = "zero") -> Tensor:
    """(B, count, 2) upper left cells of the windows with the highest mean, one after the other.

    Each class map is scaled to [0, 1] over the image, and the classes added. Of equal windows the first in rows, then columns,
    counts; what a window covers is 0 for those after it, which may overlap it. A map of one value has no range: `zero` takes it as
    nothing; `nan_compat` gives (0, 0) for the whole image, as the released code's 0 / 0 does.
    """
    maps = map_BChw.detach().double()  # a tie of two windows must not be broken by rounding
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    flat = high <= low
    scaled = torch.where(
        flat, torch.zeros_like(maps), (maps - low) / torch.where(flat, torch.ones_like(low), high - low)
    )
    left_Bhw = scaled.sum(dim=1)
    rows, columns = (torch.arange(n, device=maps.device) for n in left_Bhw.shape[1:])
    found = []
    for _ in range(count):
        means = F.avg_pool2d(left_Bhw[:, None], window, stride=1)[:, 0]
        best = means.flatten(1).argmax(dim=1)
        top, start = best // means.shape[2], best % means.shape[2]
        found.append(torch.stack([top, start], dim=1))
        covered = _between(rows, top, window[0])[:, :, None] & _between(columns, start, window[1])[:, None, :]
        left_Bhw = left_Bhw.masked_fill(covered, 0)
    windows = torch.stack(found, dim=1)
    if zero_range == "nan_compat":
        windows = windows.masked_fill(flat.flatten(1).any(dim=1)[:, None, None], 0)
    return windows


def _between(line: Tensor, start_B: Tensor, length: int) -> Tensor:
    return (line >= start_B[:, None]) & (line < start_B[:, None] + length)


def to_pixels(cell_BK2: Tensor, cells: Size, image: Size) -> Tensor:
    """(B, K, 2) upper left pixels of upper left cells, halves to even."""
    scaled = [(cell_BK2[..., i].double() / cells[i] * image[i]).round().long() for i in (0, 1)]
    return torch.stack(scaled, dim=-1)


def crops(image_B1HW: Tensor, corner_BK2: Tensor, size: Size) -> Tensor:
    """(B, K, ch, cw) the windows with these upper left pixels. What lies outside the image is filled with the image's minimum, at the
    crop's top and left: the pixels that exist end at its lower right corner, as in the released code."""
    lowest_B = image_B1HW.amin(dim=(1, 2, 3))
    rows, has_row = _source(corner_BK2[..., 0], size[0], image_B1HW.shape[2])
    columns, has_column = _source(corner_BK2[..., 1], size[1], image_B1HW.shape[3])
    sample = torch.arange(len(image_B1HW), device=image_B1HW.device)[:, None, None, None]
    cut = image_B1HW[sample, 0, rows[..., :, None], columns[..., None, :]]
    inside = has_row[..., :, None] & has_column[..., None, :]
    return torch.where(inside, cut, lowest_B[:, None, None, None])


def _source(start_BK: Tensor, length: int, limit: int) -> tuple[Tensor, Tensor]:
    """(B, K, length) which line of the image stands in each line of a crop, and whether there is one."""
    low, high = start_BK.clamp(min=0), (start_BK + length).clamp(max=limit)
    missing = length - (high - low).clamp(min=0)
    line = torch.arange(length, device=start_BK.device)
    source = low[..., None] + line - missing[..., None]
    return source.clamp(0, limit - 1), line >= missing[..., None]
