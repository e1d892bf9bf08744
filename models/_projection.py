"""Where prototypes come from and which of them stay: projection onto training patches, start in lesions, pruning.

Shapes: B images, C channels, h w cells, M prototypes, N images, S side of the input. Distributed: each worker searches
its share; results are reduced by (distance, row of the table, map row, map column), never by order of arrival.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.errors import ConfigError, DataError
from models.method import Context

Key = tuple[float, int, int, int]  # distance as float32, row of the table, map row, map column
PERCENTILE = 0.95  # of the box around a prototype's own activation


@dataclass
class Patch:
    """One latent patch: where it was found, its vector, and what it is shown with."""

    key: Key
    vector_C: Tensor
    image_SS: Tensor | None = None  # uint8
    mask_SS: Tensor | None = None  # uint8; 0 everywhere where the image has no mask
    map_hw: Tensor | None = None  # the prototype's similarity map before projection


def patch_distances(z_BChw: Tensor, p_C: Tensor, measure: Literal["l2", "cosine"] = "l2") -> Tensor:
    """Distances (B, h, w) of one prototype in float64 from differences, so that equal patches tie exactly.

    cosine: 1 - cosine. Rounded to float32, the precision that features have.
    """
    z, p = z_BChw.double(), p_C.double()[:, None, None]
    if measure == "l2":
        return (z - p).square().sum(dim=1).sqrt().float()
    cosine = (z * p).sum(dim=1) / (z.norm(dim=1) * p.norm()).clamp_min(1e-12)
    return (1 - cosine).float()


def nearest_patches(
    z_BChw: Tensor,
    rows_B: Tensor,
    labels_B: Tensor,
    p_MC: Tensor,
    kind_M: Tensor,
    *,
    any_class: bool = False,
    measure: Literal["l2", "cosine"] = "l2",
) -> dict[int, tuple[Patch, int]]:
    """prototype -> its nearest patch in this batch and the image's position in it; images of its own class only,
    unless any_class. Prototypes without such an image are left out."""
    found: dict[int, tuple[Patch, int]] = {}
    order = torch.argsort(rows_B)
    height, width = z_BChw.shape[2:]
    for j, kind in enumerate(kind_M.tolist()):
        positions = order if any_class else order[labels_B[order] == kind]
        if not len(positions):
            continue
        d_N = patch_distances(z_BChw[positions], p_MC[j], measure).flatten()
        first = int(d_N.argmin())  # the first of equal ones: lowest row of the table, then row-major
        i, cell = divmod(first, height * width)
        position, (row, column) = int(positions[i]), divmod(cell, width)
        key = (float(d_N[first]), int(rows_B[position]), row, column)
        found[j] = (Patch(key, z_BChw[position, :, row, column].clone()), position)
    return found


def reduce_patches(shares: Iterable[dict[int, Patch]]) -> dict[int, Patch]:
    """The nearest patch of each prototype over all workers."""
    best: dict[int, Patch] = {}
    for share in shares:
        for j, patch in share.items():
            if j not in best or patch.key < best[j].key:
                best[j] = patch
    return best


def activation_box(map_hw: Tensor, size: int) -> tuple[int, int, int, int]:
    """x0 y0 x1 y1 (half open) around the top 5 % of a map, upsampled cubically to size x size."""
    up = F.interpolate(map_hw[None, None].float(), size=(size, size), mode="bicubic", align_corners=False)[0, 0]
    high = up >= torch.quantile(up.flatten(), PERCENTILE)
    ys, xs = high.any(dim=1).nonzero()[:, 0], high.any(dim=0).nonzero()[:, 0]
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


# ---- start in lesions --------------------------------------------------------------------------------------------
Draw = tuple[float, int, Tensor]  # random key, class, patch vector


def lesion_draws(z_BChw: Tensor, mask_B1HW: Tensor, rows_B: Tensor, labels_B: Tensor, seed: int) -> list[Draw]:
    """A random patch inside the mask of each sample, and a random key that depends on (seed, row of the table) alone.

    Inside: cells of which at least half are lesion, else the cell with the most. Samples without a mask give none.
    """
    share_Bhw = F.adaptive_avg_pool2d(mask_B1HW.float(), (z_BChw.shape[2], z_BChw.shape[3]))[:, 0].cpu()
    draws: list[Draw] = []
    for i, row in enumerate(rows_B.tolist()):
        share = share_Bhw[i].flatten()
        if share.max() <= 0:
            continue
        inside = (share >= min(0.5, float(share.max()))).nonzero()[:, 0].tolist()
        rng = np.random.default_rng([seed, row])
        key, cell = float(rng.random()), int(rng.choice(inside))
        draws.append((key, int(labels_B[i]), z_BChw[i].flatten(1)[:, cell].cpu().clone()))
    return draws


def keep_lowest(draws: list[Draw], wanted: Sequence[int]) -> list[Draw]:
    """Of every class as many draws as it wants, those with the lowest keys, in order."""
    kept: list[Draw] = []
    for k, each in enumerate(wanted):
        kept += sorted((draw for draw in draws if draw[1] == k), key=lambda draw: draw[0])[:each]
    return kept


# ---- pruning -----------------------------------------------------------------------------------------------------
def duplicates(kind_M: Sequence[int], places: Sequence[tuple[int, ...]], active: Sequence[bool]) -> list[int]:
    """Prototypes of the same class and the same patch (row of the table, map row, map column, and level where there are
    several) as one with a lower index."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    pruned: list[int] = []
    for j, (kind, place) in enumerate(zip(kind_M, places, strict=True)):
        if not active[j]:
            continue
        if (kind, place) in seen:
            pruned.append(j)
        seen.add((kind, place))
    return pruned


def nearest_images(distance_NM: np.ndarray, k: int) -> np.ndarray:
    """(M, k) positions of the k images nearest to each prototype, nearest first; ties in order of the images."""
    return np.argsort(distance_NM, axis=0, kind="stable")[:k].T


def knn(distance_NM: np.ndarray, labels_N: np.ndarray, kind_M: Sequence[int], k: int, threshold: int) -> list[int]:
    """Prototypes with fewer than `threshold` images of their own class among the k nearest ones.

    distance (N, M): of each image the smallest over its patches.
    """
    near_Mk = labels_N[nearest_images(distance_NM, k)]
    same_M = (near_Mk == np.asarray(kind_M)[:, None]).sum(axis=1)
    return np.flatnonzero(same_M < threshold).tolist()


def check_keep(keep: Sequence[int], kind_M: Sequence[int], classes: Sequence[str]) -> None:
    """ConfigError, before anything is trained, where `prune.keep` names no prototype, or leaves a class without one."""
    for j in keep:
        if not 0 <= j < len(kind_M):
            raise ConfigError(f"there is no prototype {j}", "prune.keep", f"name some of 0-{len(kind_M) - 1}")
    for k, name in enumerate(classes):
        own = [j for j, kind in enumerate(kind_M) if kind == k]
        if not set(own) & set(keep):
            raise ConfigError(f"no prototype of class {name!r} would stay", "prune.keep", f"name one of {own}")


def after_pruning(
    active: Sequence[bool], pruned: Iterable[int], kind_M: Sequence[int], classes: Sequence[str]
) -> list[bool]:
    """`active` without the pruned ones. DataError where a class would be left without a prototype: of this training, the
    next may be pruned well."""
    gone = set(pruned)
    kept = [on and j not in gone for j, on in enumerate(active)]
    for k, name in enumerate(classes):
        if not any(on for on, kind in zip(kept, kind_M, strict=True) if kind == k):
            raise DataError(f"pruning would leave no prototype of class {name!r}", "prune", "choose a milder rule")
    return kept


# ---- workers ----------------------------------------------------------------------------------------------------
def in_table_order(context: Context, parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Columns of all workers' parts, the first one being rows of the table, sorted by it."""
    shares = [share for share in context.gather([torch.cat(column) for column in zip(*parts, strict=True)]) if share]
    rows, a, b = (torch.cat(column) for column in zip(*shares, strict=True))
    order = torch.argsort(rows, stable=True)
    return rows[order], a[order], b[order]
