"""Lesion and Background (paper 003, Eq. 1, 2 and 6): which cells of a region a network treats like the textured part of it.

A region gives two pictures: Lesion, its windowed variance, and Background, what is left of it without that. Each cell's patch is
replaced by that of the one and of the other; the picture that moves the last activations less is the one that the network
takes the cell for. Any network with spatial activations can be asked; one region is 2 x cells + 1 inputs.
Shapes: H W pixels of the region, h w cells of the last activations, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from models import _glcm as glcm
from models.method import Field, Panel

Background = Literal["residual", "complement", "masked"]
Activations = Callable[[Tensor], Tensor]  # (B, 1, H, W) -> (B, C, h, w)


class Rules(BaseModel):
    """Where the paper is silent or reads two ways; the defaults are our reading (docs/methods/densenet121.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    mu: glcm.Mu = Field(
        "printed", description="mean grey level of Eq. 2; printed: bright inside; standard: bright at the rim"
    )
    pool: glcm.Pool = Field(
        "pooled", description="four directions: counts together, or the mean of four variances; silent"
    )
    window: int = Field(9, ge=3, description="side of the window, odd; silent")
    levels: int = Field(32, ge=2, description="grey levels; silent")
    background: Background = Field(
        "residual", description="residual: region less Lesion; complement: 1 - Lesion; masked: their product"
    )


@dataclass(frozen=True)
class Cells:
    """What came out for one region: (h, w) each."""

    activation: np.ndarray  # mean over channels of the squared activation (Eq. 3)
    to_lesion: np.ndarray  # mean distance that the Lesion patch moves the activations by (Eq. 6)
    to_background: np.ndarray

    @property
    def is_lesion(self) -> np.ndarray:
        """The cells called Lesion: what is already like it moves less. A tie is Background."""
        return self.to_lesion < self.to_background

    @property
    def evidence(self) -> np.ndarray:
        """Above 0 on Lesion cells, and the more, the clearer."""
        return self.to_background - self.to_lesion


def pictures(image_HW: np.ndarray, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """(Lesion, Background) of a region, both in [0, 1]."""
    spread = glcm.variance(image_HW, window=rules.window, levels=rules.levels, mu=rules.mu, pool=rules.pool)
    lesion, grey = _unit(spread), _unit(image_HW)
    if rules.background == "complement":
        return lesion, 1 - lesion
    if rules.background == "masked":
        return grey * lesion, grey * (1 - lesion)
    return lesion, np.clip(grey - lesion, 0, 1)


def _unit(image_HW: np.ndarray) -> np.ndarray:
    low, high = float(image_HW.min()), float(image_HW.max())
    scaled: np.ndarray = (image_HW - low) / (high - low) if high > low else np.zeros(image_HW.shape)
    return scaled


@torch.no_grad()
def cells_of(
    activations: Activations, image_HW: Tensor, pictures_of: tuple[np.ndarray, np.ndarray], batch: int = 99
) -> Cells:
    """Replaces each cell's patch of a region by that of the two pictures, which are first brought to the region's range.

    activations: of a network in evaluation mode. batch: inputs at once. Sides of the region are multiples of h and w.
    """
    whole_1Chw = activations(image_HW[None, None])
    h, w = whole_1Chw.shape[2:]
    low, high = image_HW.min(), image_HW.max()
    distances = []
    for picture in pictures_of:
        other_HW = torch.from_numpy(picture).to(image_HW) * (high - low) + low
        inputs = _replaced(image_HW, other_HW, h, w)
        found = torch.cat([_moved(activations(part[:, None]), whole_1Chw) for part in inputs.split(batch)])
        distances.append(found.reshape(h, w).double().cpu().numpy())
    activation = whole_1Chw[0].square().mean(dim=0).double().cpu().numpy()
    return Cells(activation, *distances)


def _replaced(image_HW: Tensor, other_HW: Tensor, h: int, w: int) -> Tensor:
    """(h w, H, W): the region with one cell's patch from the other picture, row by row."""
    high, wide = image_HW.shape[0] // h, image_HW.shape[1] // w
    if (h * high, w * wide) != tuple(image_HW.shape):
        raise ValueError(f"{tuple(image_HW.shape)} pixels are no whole number of {h} x {w} cells")
    cell = torch.arange(h * w, device=image_HW.device).reshape(h, w)
    of_pixel_HW = cell.repeat_interleave(high, 0).repeat_interleave(wide, 1)
    chosen = of_pixel_HW[None] == cell.flatten()[:, None, None]
    return torch.where(chosen, other_HW, image_HW)


def _moved(changed_BChw: Tensor, whole_1Chw: Tensor) -> Tensor:
    """Eq. 6: the mean over all cells of the distance over channels, (B,)."""
    return torch.linalg.vector_norm(changed_BChw - whole_1Chw, dim=1).mean(dim=(1, 2))


def panels(
    activations: Activations, image_HW: Tensor, rules: Rules, outline_HW: np.ndarray | None = None
) -> list[Panel]:
    """The two pictures of a region, and the class of each cell over it: its sign, and as strength its activation.

    Sides that are no whole number of cells are refused by `cells_of`.
    """
    grey = image_HW.float().cpu().numpy()
    lesion, background = pictures(grey.astype(np.float64), rules)
    found = cells_of(activations, image_HW, (lesion, background))
    highest = max(float(found.activation.max()), np.finfo(float).tiny)
    signed = np.where(found.is_lesion, 1, -1) * found.activation / highest
    said = f"{int(found.is_lesion.sum())} of {found.is_lesion.size} cells are Lesion"
    return [
        Panel("Lesion: windowed variance", lesion, caption=f"mean grey level as {rules.mu}"),
        Panel("Background: the rest", background, caption=rules.background),
        Panel(
            "Lesion (blue) and Background (red) cells", grey, map=signed, scale=(-1.0, 1.0), signed=True, outline=outline_HW,
            caption=f"{said}; strength: the cell's activation, of the highest here",
        ),
    ]  # fmt: skip
