"""The arithmetic of FPN-IAIA-BL (paper 000): cosine maps, focal pooling, its losses. Functions of tensors only.

Shapes: B images, C channels, h w cells of a level, M prototypes, K classes (the negative one last), H W pixels of masks.
s: cosine maps (B, M, h, w); kind (M): class of a prototype; active (M): False where pruning took it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from data.errors import ConfigError
from models._map_norms import Form, safe_sqrt
from models._prototypes import own_class

Cosine = Literal["plain", "deformable"]
Ortho = Literal["per_class_sq", "frob_joint", "frob_sum", "deformable_code"]
FineReading = Literal["semantic", "literal_m_inside", "literal_m_outside", "swapped_m_outside"]
PLAIN_EPS = 1e-12  # of the norms
DEFORMABLE_EPS = 1e-4  # of Deformable ProtoPNet's two constant channels, and under its roots
DEFORMABLE_SHRINK = 1.01


# ---- similarity --------------------------------------------------------------------------------------------------
def cosine_maps(z_BChw: Tensor, p_MC: Tensor, reading: Cosine = "plain") -> Tensor:
    """Cosine of each prototype with each cell (B, M, h, w), Eq. 2.

    deformable: with Deformable ProtoPNet's guards (two constant channels, division by 1.01, negative values cut off).
    """
    dot = F.conv2d(z_BChw, p_MC[:, :, None, None])
    if reading == "plain":
        lengths = z_BChw.norm(dim=1, keepdim=True).clamp_min(PLAIN_EPS)
        return dot / (lengths * p_MC.norm(dim=1).clamp_min(PLAIN_EPS)[:, None, None])
    constant = 2 * DEFORMABLE_EPS**2
    lengths = (z_BChw.square().sum(dim=1, keepdim=True) + constant + DEFORMABLE_EPS).sqrt()
    p_lengths = (p_MC.square().sum(dim=1) + constant + DEFORMABLE_EPS).sqrt() + DEFORMABLE_EPS
    return ((dot + constant) / (lengths * p_lengths[:, None, None]) / DEFORMABLE_SHRINK).relu()


def pooled(s_BMhw: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(mean of the k largest cosines, mean of all), each (B, M); Eq. 3's focal similarity is their difference."""
    flat = s_BMhw.flatten(2)
    return flat.topk(k, dim=2, sorted=False).values.mean(dim=2), flat.mean(dim=2)


def widened(s_BMhw: Tensor, other_BM: Tensor, margin: float) -> Tensor:
    """Cosines of other-class prototypes as if their angle were `margin` radians smaller (Deformable ProtoPNet, training)."""
    edge = torch.cos(torch.tensor(margin, dtype=s_BMhw.dtype, device=s_BMhw.device))
    sine = safe_sqrt(1 - s_BMhw.square())
    nearer = torch.where(s_BMhw < edge, s_BMhw * edge + sine * (1 - edge.square()).sqrt(), torch.ones_like(s_BMhw))
    return torch.where(other_BM[:, :, None, None], nearer, s_BMhw)


# ---- losses ------------------------------------------------------------------------------------------------------
def cluster_separation(g_BM: Tensor, labels_B: Tensor, kind_M: Tensor, active_M: Tensor) -> tuple[Tensor, Tensor]:
    """Means over the batch of the best own-class and of the best other-class similarity: one is rewarded, one punished."""
    own_BM = own_class(labels_B, kind_M)
    lowest = torch.full_like(g_BM, -torch.inf)
    cluster = torch.where(own_BM & active_M, g_BM, lowest).max(dim=1).values.mean()
    separation = torch.where(~own_BM & active_M, g_BM, lowest).max(dim=1).values.mean()
    return cluster, separation


def orthogonality(p_MC: Tensor, group_M: Tensor, active_M: Tensor, reading: Ortho, classes: int) -> Tensor:
    """How far the prototypes of a group, at unit length, are from being orthogonal to each other.

    per_class_sq: sum over groups of ||P P^T - I||_F^2; frob_joint: the root of that; frob_sum: the sum of the groups'
    roots; deformable_code: one norm over blocks of `classes` consecutive prototypes, whatever their class.
    """
    if reading == "deformable_code":
        if len(p_MC) % classes:
            raise ConfigError(
                f"{len(p_MC)} prototypes do not fall into blocks of {classes}",
                "ortho: deformable_code",
                "choose another",
            )
        group_M = torch.arange(len(p_MC), device=p_MC.device) // classes
        unit = p_MC / ((p_MC.square().sum(dim=1, keepdim=True) + DEFORMABLE_EPS).sqrt() + DEFORMABLE_EPS)
    else:
        unit = F.normalize(p_MC, dim=1, eps=PLAIN_EPS)
    together_MM = (group_M[:, None] == group_M[None, :]) & active_M[:, None] & active_M[None, :]
    gram_MM = unit @ unit.T - torch.eye(len(unit), dtype=unit.dtype, device=unit.device)
    rows_M = (gram_MM * together_MM).square().sum(dim=1)
    if reading == "per_class_sq":
        return rows_M.sum()
    if reading == "frob_sum":
        members_GM = (group_M[None, :] == group_M.unique()[:, None]).to(rows_M)
        return safe_sqrt(members_GM @ rows_M).sum()
    return safe_sqrt(rows_M.sum())


@dataclass(frozen=True)
class PairWeights:
    """What a map weighs outside and inside the annotated region, (K, K) each: rows sample, columns prototype."""

    outside_KK: Tensor
    inside_KK: Tensor

    @classmethod
    def of(
        cls,
        table_out: Sequence[Sequence[float]],
        table_in: Sequence[Sequence[float]],
        reading: FineReading,
        orientation: Literal["printed", "transposed"],
    ) -> "PairWeights":
        """Eq. 5 with Tables 2 (lambda_out) and 3 (lambda_in) under one of its readings.

        semantic: outside by Table 2, inside by Table 3, as the captions say. literal_m_inside: Table 3 where the mask
        is, and Table 2 everywhere; literal_m_outside: Table 3 where the mask is not, and Table 2 everywhere;
        swapped_m_outside: Table 2 where the mask is not, and Table 3 everywhere.
        """
        out, inside = torch.tensor(table_out, dtype=torch.float64), torch.tensor(table_in, dtype=torch.float64)
        if orientation == "transposed":
            out, inside = out.T, inside.T
        both = out + inside
        chosen = {
            "semantic": (out, inside),
            "literal_m_inside": (out, both),
            "literal_m_outside": (both, out),
            "swapped_m_outside": (both, inside),
        }
        return cls(*chosen[reading])


def fine_squares(s_BMhw: Tensor, outside_BHW: Tensor, out_BM: Tensor, in_BM: Tensor) -> Tensor:
    """||w * PAM||^2 (B, M) with w = out x outside + in x (1 - outside): Eq. 5's norm squared for each (image, prototype)."""
    cells = (s_BMhw.shape[2], s_BMhw.shape[3])
    inside_BHW = 1 - outside_BHW
    terms = (
        (out_BM.square(), outside_BHW.square()),
        (2 * out_BM * in_BM, outside_BHW * inside_BHW),  # fractional pixels
        (in_BM.square(), inside_BHW.square()),
    )
    return torch.stack([weight_BM * Form.of(pixels, cells)(s_BMhw) for weight_BM, pixels in terms]).sum(dim=0)
