"""The arithmetic of prototype networks: distances, similarities, pooling, losses. Functions of tensors only.

Shapes: B images, C channels, h w cells of the latent map, M prototypes, K classes, H W pixels of masks, S the side of
the input. d: distances (B, M, h, w); s: similarities. `kind` (M) is the class of each prototype, `active` (M) is False
for prototypes that pruning took out: shapes never change, inactive ones contribute nothing.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models._map_norms import safe_sqrt, squares

EPSILON = 1e-4  # of the similarity: d = 0 gives log(1 / 1e-4) = 9.2103
Distance = Literal["l2", "l2sq"]
FineNorm = Literal["stacked", "per_prototype", "square"]


def add_on_layers(channels: int, depth: int) -> nn.Sequential:
    """1x1 convolutions from the trunk's channels to the prototypes' depth, values in (0, 1)."""
    layers = nn.Sequential(nn.Conv2d(channels, depth, 1), nn.ReLU(), nn.Conv2d(depth, depth, 1), nn.Sigmoid())
    for module in layers:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return layers


# ---- distances and similarities ----------------------------------------------------------------------------------
def squared_distances(z_BChw: Tensor, p_MC: Tensor) -> Tensor:
    """||p_j - z_l||^2 (B, M, h, w), at least 0, exactly 0 where a patch equals its prototype.

    z^2 - 2 z p + p^2 loses all digits where the distance is small beside the vectors (in float32 at C = 512 a patch came
    out 0.008 from itself), so such values are taken again from the differences. Gradients pass through the first form,
    whose derivative 2 (p - z) is right everywhere. Never in half precision, whatever the caller runs in: there the
    product alone puts a patch up to 0.4 away from itself.
    """
    with torch.autocast(z_BChw.device.type, enabled=False):
        return _squared_distances(z_BChw, p_MC)


def _squared_distances(z_BChw: Tensor, p_MC: Tensor) -> Tensor:
    z_BCN = z_BChw.flatten(2)
    z2_B1N = z_BCN.square().sum(dim=1, keepdim=True)
    p2_M1 = p_MC.square().sum(dim=1, keepdim=True)
    d2_BMN = z2_B1N + p2_M1 - 2 * torch.matmul(p_MC, z_BCN)
    with torch.no_grad():
        near = d2_BMN < torch.finfo(d2_BMN.dtype).eps ** 0.6 * (z2_B1N + p2_M1)
        correction = _direct(z_BCN, p_MC, near) - d2_BMN.where(near, torch.zeros_like(d2_BMN))
    return (d2_BMN + correction).unflatten(2, z_BChw.shape[2:])


def _direct(z_BCN: Tensor, p_MC: Tensor, wanted_BMN: Tensor, chunk: int = 1 << 15) -> Tensor:
    """Squared distances from differences where wanted, 0 elsewhere."""
    result = torch.zeros(wanted_BMN.shape, dtype=z_BCN.dtype, device=z_BCN.device)
    places = wanted_BMN.nonzero()
    for part in places.split(chunk):
        b, m, n = part.unbind(dim=1)
        result[b, m, n] = (z_BCN[b, :, n] - p_MC[m]).square().sum(dim=1)
    return result


def distances(z_BChw: Tensor, p_MC: Tensor, kind: Distance) -> Tensor:
    """l2: Euclidean, unsquared (the authors' code); l2sq: squared (paper, Eq. 1). Gradient 0 at distance 0."""
    d2 = squared_distances(z_BChw, p_MC)
    return safe_sqrt(d2) if kind == "l2" else d2


def similarity(d: Tensor, epsilon: float = EPSILON) -> Tensor:
    """log((d + 1) / (d + eps)): falls with d, always above 0."""
    return torch.log((d + 1) / (d + epsilon))


def pooled(d_BMhw: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(s_j, gamma_j), each (B, M): means of the k largest similarities and of the k smallest distances.

    One search serves both: similarity falls with distance.
    """
    nearest_BMk = d_BMhw.flatten(2).topk(k, dim=2, largest=False, sorted=False).values
    return similarity(nearest_BMk).mean(dim=2), nearest_BMk.mean(dim=2)


def class_weights(kind_M: Tensor, classes: int, incorrect: float) -> Tensor:
    """Start of the last layer (K, M): 1 for the own class, `incorrect` for the others."""
    own = F.one_hot(kind_M, classes).T.bool()
    return torch.where(own, 1.0, incorrect)


def upsample(maps_BMhw: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, half-pixel centres (align_corners=False)."""
    return F.interpolate(maps_BMhw, size=size, mode="bilinear", align_corners=False)


# ---- losses ------------------------------------------------------------------------------------------------------
def own_class(labels_B: Tensor, kind_M: Tensor) -> Tensor:
    """(B, M) True where the prototype is of the sample's class."""
    return labels_B[:, None] == kind_M[None, :]


def _masked_min(values_BM: Tensor, mask_BM: Tensor) -> Tensor:
    """Smallest value of each row where mask; right for any range, unlike max((C - d) * mask)."""
    infinite = torch.full_like(values_BM, float("inf"))
    return torch.where(mask_BM, values_BM, infinite).min(dim=1).values


def cluster_separation(gamma_BM: Tensor, labels_B: Tensor, kind_M: Tensor, active_M: Tensor) -> tuple[Tensor, Tensor]:
    """Means over the batch of the distance to the nearest own-class, and to the nearest other-class prototype."""
    own_BM = own_class(labels_B, kind_M)
    cluster = _masked_min(gamma_BM, own_BM & active_M).mean()
    separation = _masked_min(gamma_BM, ~own_BM & active_M).mean()
    return cluster, separation


def other_class_l1(weight_KM: Tensor, kind_M: Tensor, active_M: Tensor) -> Tensor:
    """Sum of |W| over entries of other classes."""
    other_KM = torch.arange(len(weight_KM), device=kind_M.device)[:, None] != kind_M[None, :]
    return (weight_KM * (other_KM & active_M)).abs().sum()


def fine_loss_per_sample(
    s_BMhw: Tensor, outside_B1HW: Tensor, labels_B: Tensor, kind_M: Tensor, active_M: Tensor, norm: FineNorm
) -> Tensor:
    """Eq. 7 of paper 002 for each sample (B): activation of own-class prototypes outside the lesion, of others anywhere.

    outside: 1 where a pixel is irrelevant, 0 on the lesion, fractions kept. stacked: three norms, over the own class, all
    lower and all higher classes (the authors' code); per_prototype: one norm each (Eq. 7); square: sums of squares.
    """
    own_BM = own_class(labels_B, kind_M)
    outside_BHW = outside_B1HW[:, 0]
    anywhere_1HW = torch.ones_like(outside_BHW[:1]) if len(outside_BHW) else outside_BHW
    own_squares_BM = squares(s_BMhw, outside_BHW.square()) * (own_BM & active_M)
    other_squares_BM = squares(s_BMhw, anywhere_1HW) * (~own_BM & active_M)
    if norm == "square":
        return (own_squares_BM + other_squares_BM).sum(dim=1)
    if norm == "per_prototype":
        return (safe_sqrt(own_squares_BM) + safe_sqrt(other_squares_BM)).sum(dim=1)
    lower_BM = kind_M[None, :] < labels_B[:, None]
    lower, higher = (other_squares_BM * lower_BM).sum(dim=1), (other_squares_BM * ~lower_BM).sum(dim=1)
    return safe_sqrt(own_squares_BM.sum(dim=1)) + safe_sqrt(lower) + safe_sqrt(higher)


def norm_scale(norm_at: int | None, size: tuple[int, int], norm: FineNorm) -> float:
    """Factor that makes a norm taken at `size` worth what it would be at norm_at x norm_at pixels."""
    if norm_at is None:
        return 1.0
    factor = norm_at / (size[0] * size[1]) ** 0.5
    return factor**2 if norm == "square" else factor


# ---- explanation -------------------------------------------------------------------------------------------------
def class_activation(s_BMhw: Tensor, scores_BM: Tensor, target_B: Tensor, kind_M: Tensor, active_M: Tensor) -> Tensor:
    """Eq. 11 before min-max (B, h, w): sum over prototypes of class `target` of s_j * map_j."""
    weight_BM = scores_BM * (own_class(target_B, kind_M) & active_M)
    return torch.einsum("bm,bmhw->bhw", weight_BM, s_BMhw)
