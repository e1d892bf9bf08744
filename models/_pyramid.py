"""The feature pyramid of FPN-IAIA-BL (paper 000, Eq. 1; Lin et al. 2017): lateral 1x1 and smoothing 3x3 convolutions.

Shapes: B images, C_l channels and h_l w_l cells of level l, d channels of the pyramid.
"""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

TopDown = Literal["eq1", "fpn"]
Upsample = Literal["nearest", "bilinear"]


class Pyramid(nn.Module):
    """(B, C_l, h_l, w_l) of each level -> (B, d, h_l, w_l).

    eq1: z of the top is its lateral map; z_l = smooth(up(z_above) + lateral(c_l)), so smoothed maps travel down. fpn:
    unsmoothed maps travel down, and every level is smoothed, the top as well (Lin et al.; torchvision). No norm and no
    activation follows a convolution: the cosine of prototypes needs signs.
    """

    def __init__(self, channels: Mapping[int, int], dim: int, topdown: TopDown, upsample: Upsample) -> None:
        super().__init__()
        self.levels = tuple(sorted(channels, reverse=True))  # from the top down
        self.topdown, self.upsample = topdown, upsample
        smoothed = self.levels if topdown == "fpn" else self.levels[1:]
        self.lateral = nn.ModuleDict({str(level): nn.Conv2d(channels[level], dim, 1) for level in self.levels})
        self.smooth = nn.ModuleDict({str(level): nn.Conv2d(dim, dim, 3, padding=1) for level in smoothed})
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as the FPN paper's followers
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, c: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """level -> z (B, d, h_l, w_l)."""
        found: dict[int, Tensor] = {}
        above: Tensor | None = None
        for level in self.levels:
            name = str(level)
            here = self.lateral[name](c[level])
            if above is not None:
                here = here + self._up(above, here)
            smoothed = self.smooth[name](here) if name in self.smooth else here
            found[level] = smoothed
            above = smoothed if self.topdown == "eq1" else here
        return found

    def reach(self, level: int, sides: Mapping[int, int]) -> int:
        """Cells of the top level, along one side, that a cell of `level` depends on, at most. sides: cells of each level."""
        path = sorted(one for one in self.levels if one >= level)
        cells = 1
        for here, above in zip(path, [*path[1:], None], strict=True):
            if str(here) in self.smooth and (self.topdown == "eq1" or here == level):
                cells += 2
            if above is not None:
                ratio = sides[here] // sides[above]
                between = int(self.upsample == "bilinear" and ratio > 1)  # bilinear: of two neighbours
                cells = 1 + -(-(cells - 1) // ratio) + between
        return cells

    def _up(self, above: Tensor, like: Tensor) -> Tensor:
        size = (like.shape[2], like.shape[3])
        if self.upsample == "nearest":
            return F.interpolate(above, size=size, mode="nearest")
        return F.interpolate(above, size=size, mode="bilinear", align_corners=False)
