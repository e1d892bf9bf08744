"""Class activation maps from the gradient of a class score (Selvaraju et al. 2017; Chattopadhay et al. 2018).

Shapes: B images, C channels, h w cells, K classes. A: activations (B, C, h, w); g: d score / d A.
"""

from collections.abc import Callable

import torch
from torch import Tensor

GRADCAMPP_EPS = 1e-6  # of the public library; it matters where gradients are tiny


def class_gradient(
    activation_BChw: Tensor, head: Callable[[Tensor], Tensor], target_B: Tensor
) -> tuple[Tensor, Tensor]:
    """(A, dS/dA) of each sample's score of class `target`, wherever the caller stands with gradients and precision.

    head: (B, C, h, w) -> scores (B, K); samples must not depend on one another in it (evaluation mode).
    """
    half = activation_BChw.dtype in (torch.bfloat16, torch.float16)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(activation_BChw.device.type, enabled=False),
    ):
        a = (activation_BChw.float() if half else activation_BChw).detach().clone().requires_grad_()
        score = head(a).gather(1, target_B.view(-1, 1)).sum()
        (gradient,) = torch.autograd.grad(score, a)
    return a.detach(), gradient


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
