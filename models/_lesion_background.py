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

from data.batch import Batch
from models import _glcm as glcm
from models._cams import full
from models.method import Field, Method, Panel

Background = Literal["residual", "complement", "masked"]
Activations = Callable[[Tensor], Tensor]  # (B, 1, H, W) -> (B, C, h, w)
MOST_CELLS = 14 * 14  # of an explanation of a case: each costs four passes through the network
MUS: tuple[glcm.Mu, ...] = ("printed", "standard")
WORDS = {
    "printed": "Eq. 2 as printed: mean squared grey, bright wherever tissue is bright",
    "standard": "Eq. 2 with the usual mean: variance, bright at rims",
    "residual": "the region less the 'Lesion' picture, below 0 cut off",
    "complement": "1 less the 'Lesion' picture",
    "masked": "the region where the 'Lesion' picture is dark",
}


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
    distances: tuple[int, ...] = Field((1,), min_length=1, description="of pairs, pixels, below the window; silent")
    angles: tuple[glcm.Angle, ...] = Field((0, 45, 90, 135), min_length=1, description="of pairs, degrees; silent")
    symmetric: bool = Field(True, description="a pair counts both ways; silent")
    pad: glcm.Pad = Field("reflect", description="beyond the region's border, as numpy.pad names it; silent")
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


def pictures(image_HW: np.ndarray, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """(Lesion, Background) of a region, both in [0, 1]."""
    lesion, grey = _unit(variance(image_HW, rules)), _unit(image_HW)
    if rules.background == "complement":
        return lesion, 1 - lesion
    if rules.background == "masked":
        return grey * lesion, grey * (1 - lesion)
    return lesion, np.clip(grey - lesion, 0, 1)


def variance(image_HW: np.ndarray, rules: Rules) -> np.ndarray:
    """The windowed variance of a region (H, W), by these rules."""
    return glcm.variance(image_HW, **rules.model_dump(exclude={"background"}))


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


def correlation(activation_hw: np.ndarray, variance_HW: np.ndarray) -> tuple[np.ndarray, float]:
    """Per cell the product of its activation and its mean variance, each less its mean over cells and in units of its
    deviation, (h, w); and the mean of the products, which is Pearson's r. All 0, and NaN, where one of them is level."""
    h, w = activation_hw.shape
    of_cells = per_cell(variance_HW, h, w)
    if not (np.ptp(activation_hw) > 0 and np.ptp(of_cells) > 0):
        return np.zeros((h, w)), float("nan")
    one, other = ((values - values.mean()) / values.std() for values in (activation_hw, of_cells))
    return one * other, float((one * other).mean())


def refusal(method: Method, image_B1HW: Tensor) -> str:
    """Why `explain` has nothing to show of these regions, in words; "" if it has."""
    with torch.no_grad():
        groups = method.activations(image_B1HW[:1])
    if not groups:
        return "the method has no spatial activations"
    (height, width), (h, w), window = image_B1HW.shape[2:], groups[max(groups)].shape[2:], rules_of(method).window
    if height % h or width % w:
        return f"regions of {height} x {width} pixels are no whole number of {h} x {w} cells"
    if h * w > MOST_CELLS:
        return f"{h} x {w} cells are more than are asked of a case, {MOST_CELLS}"
    if window % 2 == 0 or min(height, width) <= window // 2:
        return f"no windows of {window} pixels in regions of {height} x {width}"
    if (far := max(rules_of(method).distances)) >= window:
        return f"no pairs of distance {far} in windows of {window} pixels"
    return ""


def explain(method: Method, batch: Batch) -> list[list[Panel]]:
    """Per sample the panels below, of any method that `refusal` does not refuse."""
    outlines = [
        mask_1HW[0].float().cpu().numpy() if known else None
        for mask_1HW, known in zip(batch.mask, batch.has_mask.tolist(), strict=True)
    ]
    with torch.autocast(batch.image.device.type, enabled=False):
        return [
            panels(last_of(method), image_1HW[0], rules_of(method), outline)
            for image_1HW, outline in zip(batch.image, outlines, strict=True)
        ]


def rules_of(method: Method) -> Rules:
    """The method's own reading, where it has one; else ours."""
    found: Rules = getattr(method.config, "lesion_background", Rules())
    return found


def last_of(method: Method) -> Activations:
    def activations(image_B1HW: Tensor) -> Tensor:
        groups = method.activations(image_B1HW)
        return full(groups[max(groups)])

    return activations


def panels(
    activations: Activations, image_HW: Tensor, rules: Rules, outline_HW: np.ndarray | None = None
) -> list[Panel]:
    """The two pictures of a region, and the class of each cell over it: its sign, and as strength its activation; the same by
    the other reading of mu, which may turn it round. Then where activation and variance go together, and where they part.

    Sides that are no whole number of cells are refused by `cells_of`.
    """
    grey = image_HW.float().cpu().numpy()
    exact, other = grey.astype(np.float64), rules.model_copy(update={"mu": MUS[rules.mu == MUS[0]]})
    lesion, background = pictures(exact, rules)
    found = cells_of(activations, image_HW, (lesion, background))
    turned = cells_of(activations, image_HW, pictures(exact, other))
    return [
        Panel("'Lesion' picture", lesion, caption=WORDS[rules.mu]),
        Panel("'Background' picture", background, caption=WORDS[rules.background]),
        _classes("Lesion (blue), Background (red) cells", found, grey, outline_HW),
        _classes(f"the same, {other.mu} mean", turned, grey, outline_HW),
        _together(found.activation, variance(exact, rules), grey, outline_HW),
    ]


def _classes(title: str, found: Cells, grey_HW: np.ndarray, outline_HW: np.ndarray | None) -> Panel:
    highest = max(float(found.activation.max()), np.finfo(float).tiny)
    signed = np.where(found.is_lesion, 1, -1) * found.activation / highest
    said = f"{int(found.is_lesion.sum())} of {found.is_lesion.size} cells are Lesion"
    if outline_HW is not None:
        on_mask = per_cell(outline_HW, *found.is_lesion.shape) >= 0.5
        said += f", of the {int(on_mask.sum())} on the mask {int(found.is_lesion[on_mask].sum())}"
    return Panel(
        title, grey_HW, map=signed, scale=(-1.0, 1.0), signed=True, outline=outline_HW,
        caption=f"{said}; strength: the cell's activation, of the highest here; untrained networks call most cells alike",
    )  # fmt: skip


def per_cell(values_HW: np.ndarray, h: int, w: int) -> np.ndarray:
    """(h, w) means over the pixels of each cell; H and W are multiples of h and w."""
    means: np.ndarray = values_HW.reshape(h, values_HW.shape[0] // h, w, values_HW.shape[1] // w).mean(axis=(1, 3))
    return means


def _together(
    activation_hw: np.ndarray, variance_HW: np.ndarray, grey_HW: np.ndarray, outline_HW: np.ndarray | None
) -> Panel:
    product_hw, r = correlation(activation_hw, variance_HW)
    end = float(np.abs(product_hw).max()) or 1.0
    said = "no correlation: one of the two is level" if np.isnan(r) else f"mean over cells: r = {r + 0.0:.2f} (Pearson)"
    return Panel(
        "activation x variance of the cell, each standardised", grey_HW, map=product_hw, scale=(-end, end), signed=True,
        outline=outline_HW, caption=f"{said}; blue: both high or both low; red: one high, one low",
    )  # fmt: skip
