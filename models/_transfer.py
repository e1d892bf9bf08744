"""Knowledge transfer between activation maps (paper 003, Eq. 3-5), and the form of attention transfer's public code.

Shapes: B samples, C channels, h w cells. Teacher and student are the same lesion in the same pose: the mask, the region.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Form = Literal["l2", "l2_squared", "at_code"]
Reduce = Literal["mean", "sum"]
EPS = 1e-12  # the least squared length of a map, as in attention transfer's code


def activation_map(activation_BChw: Tensor) -> Tensor:
    """Eq. 3: the mean over channels of the squared activation, (B, h, w)."""
    return activation_BChw.square().mean(dim=1)


def distance(teacher_Bhw: Tensor, student_Bhw: Tensor) -> Tensor:
    """Eq. 4: the distance of the two maps, each scaled to length 1, (B,); between 0 and 1.41, maps being non-negative.

    A teacher of another size is resized to the student's cells. Its gradient at distance 0 is 0.
    """
    if teacher_Bhw.shape[1:] != student_Bhw.shape[1:]:
        size = (student_Bhw.shape[1], student_Bhw.shape[2])
        teacher_Bhw = F.interpolate(teacher_Bhw[:, None], size, mode="bilinear", antialias=True)[:, 0]
    return torch.linalg.vector_norm(_unit(teacher_Bhw) - _unit(student_Bhw), dim=1)


def _unit(map_Bhw: Tensor) -> Tensor:
    flat = map_Bhw.flatten(1)
    return flat / flat.square().sum(dim=1, keepdim=True).clamp_min(EPS).sqrt()


def transfer(distance_B: Tensor, form: Form, reduce: Reduce, cells: int) -> Tensor:
    """What beta weighs, for one group: half the distance (Eq. 5), half its square, or what attention transfer's code has.

    at_code: the mean over samples and cells of the squared difference, without the half; `reduce` does not touch it.
    """
    if form == "at_code":
        return distance_B.square().mean() / cells
    value = distance_B.square() if form == "l2_squared" else distance_B
    return 0.5 * (value.sum() if reduce == "sum" else value.mean())
