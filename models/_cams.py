"""Class activation maps: CAM (Zhou et al. 2016), GradCAM (Selvaraju et al. 2017), GradCAM++ (Chattopadhay et al. 2018),
XGradCAM (Fu et al. 2020), LayerCAM (Jiang et al. 2021).

Shapes: B images, C channels, h w cells, K classes. A: activations (B, C, h, w); g: d score / d A; S_k: sum of A_k over
cells. A rule gives the weighted channels as they are: negative values are cut off, where they are, by who shows the map.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

GRADCAMPP_EPS = 1e-6  # of the public library; it matters where gradients are tiny
XGRADCAM_EPS = 1e-7  # of the public library
Cam = Literal["cam", "gradcam", "gradcampp", "xgradcam", "layercam"]
TITLES: Mapping[str, str] = {
    "cam": "CAM", "gradcam": "GradCAM", "gradcampp": "GradCAM++", "xgradcam": "XGradCAM", "layercam": "LayerCAM",
}  # fmt: skip


def full(value: Tensor) -> Tensor:
    """Half precision back to float32; float64 stays."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


@contextmanager
def reading(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; the mode of every submodule as it was, afterwards and on an exception. So no statistics of batch norm
    move while a map is drawn."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


# ---- gradients ---------------------------------------------------------------------------------------------------
def class_gradient(
    activation_BChw: Tensor, head: Callable[[Tensor], Tensor], target_B: Tensor
) -> tuple[Tensor, Tensor]:
    """(A, dS/dA) of each sample's score of class `target`, wherever the caller stands with gradients and precision.

    head: (B, C, h, w) -> scores (B, K); samples must not depend on one another in it (evaluation mode).
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(activation_BChw.device.type, enabled=False),
    ):
        a = full(activation_BChw).detach().clone().requires_grad_()
        score = head(a).gather(1, target_B.view(-1, 1)).sum()
        (gradient,) = torch.autograd.grad(score, a)
    return a.detach(), gradient


def class_maps(activation_BChw: Tensor, head: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """(scores (B, K), maps (B, K, h, w)): GradCAM of every class in units of its score, to be trained by.

    The gradient passes through the maps, their weights included, where gradients are on. Weights are sums over cells, not
    means: what punishes a map then does not depend on how many cells it has. head: as in class_gradient; dropout may act.
    """
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        a = activation_BChw if activation_BChw.requires_grad else activation_BChw.detach().requires_grad_()
        scores_BK = head(a)
        maps = []
        for score_B in scores_BK.unbind(dim=1):
            (g,) = torch.autograd.grad(score_B.sum(), a, retain_graph=True, create_graph=keep)
            maps.append(gradcam(a, g) * (a.shape[2] * a.shape[3]))
    return scores_BK, torch.stack(maps, dim=1)


# ---- rules -------------------------------------------------------------------------------------------------------
def cam(a_BChw: Tensor, weight_KC: Tensor) -> Tensor:
    """sum_k W_ck A_k of every class (B, K, h, w), W the rows of a linear layer on the mean over cells: the map's mean is
    the score without its bias, and the map is GradCAM's times the number of cells."""
    return torch.einsum("kc,bchw->bkhw", weight_KC, a_BChw)


def gradcam(a_BChw: Tensor, g_BChw: Tensor) -> Tensor:
    """sum_k w_k A_k with w_k = mean of g_k over cells; before ReLU. (B, h, w)"""
    weight_BC11 = g_BChw.mean(dim=(2, 3), keepdim=True)
    return (weight_BC11 * a_BChw).sum(dim=1)


def gradcampp(a_BChw: Tensor, g_BChw: Tensor, eps: float = GRADCAMPP_EPS) -> Tensor:
    """sum_k w_k A_k with w_k = sum over cells of a max(g, 0), a = g^2 / (2 g^2 + S_k g^3 + eps), S_k = sum A_k. (B, h, w)"""
    total_BC11 = a_BChw.sum(dim=(2, 3), keepdim=True)
    square = g_BChw**2
    share = square / (2 * square + total_BC11 * square * g_BChw + eps)
    share = torch.where(g_BChw != 0, share, torch.zeros_like(share))
    weight_BC11 = (share * g_BChw.clamp_min(0)).sum(dim=(2, 3), keepdim=True)
    return (weight_BC11 * a_BChw).sum(dim=1)


def xgradcam(a_BChw: Tensor, g_BChw: Tensor) -> Tensor:
    """sum_k w_k A_k with w_k = sum over cells of g_k A_k / (S_k + eps): GradCAM's where g_k is constant. (B, h, w)"""
    total_BC11 = a_BChw.sum(dim=(2, 3), keepdim=True)
    weight_BC11 = (g_BChw * a_BChw).sum(dim=(2, 3), keepdim=True) / (total_BC11 + XGRADCAM_EPS)
    return (weight_BC11 * a_BChw).sum(dim=1)


def layercam(a_BChw: Tensor, g_BChw: Tensor) -> Tensor:
    """sum_k max(g_k, 0) A_k, cell by cell. (B, h, w)"""
    return (g_BChw.clamp_min(0) * a_BChw).sum(dim=1)


RULES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": gradcam, "gradcampp": gradcampp, "xgradcam": xgradcam, "layercam": layercam,
}  # fmt: skip


# ---- a linear head on every cell, and a pooling of what it gives ----------------------------------------------------
def linear_gradient(weight_BC: Tensor, pooled_Bhw: Tensor) -> Tensor:
    """g_k(p) = W_k m(p): of a score that pools z(p) = sum_k W_k A_k(p), m = d score / dz. No backward pass. (B, C, h, w)"""
    return weight_BC[:, :, None, None] * pooled_Bhw[:, None]


# ---- the other public library ---------------------------------------------------------------------------------------
def torchcam_gradcampp(a_BChw: Tensor, g_BChw: Tensor) -> Tensor:
    """GradCAM++ as in torchcam's copy in the public code of paper 004: its denominator is never divided by. (B, h, w)"""
    weight_BC11 = (g_BChw.clamp_min(0) * g_BChw**2).sum(dim=(2, 3), keepdim=True)
    return (weight_BC11 * a_BChw).sum(dim=1)


def torchcam_xgradcam(a_BChw: Tensor, g_BChw: Tensor) -> Tensor:
    """XGradCAM of torchcam: without an epsilon; channels that are 0 everywhere are left out. (B, h, w)"""
    weight_BC11 = ((g_BChw * a_BChw).sum(dim=(2, 3), keepdim=True) / a_BChw.sum(dim=(2, 3), keepdim=True)).nan_to_num(0)
    return (weight_BC11 * a_BChw).sum(dim=1)


TORCHCAM_RULES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    **RULES, "gradcampp": torchcam_gradcampp, "xgradcam": torchcam_xgradcam,
}  # fmt: skip
