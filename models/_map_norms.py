"""Norms of upsampled maps under a mask, without upsampling them.

A map S (h, w) upsampled bilinearly is U S V^T, so the sum over pixels of weight x (U S V^T)^2 is a quadratic form in S in
which a cell meets itself and its eight neighbours alone. Its coefficients depend on the mask and on nothing that learns:
exact, no pixel-sized tensor enters the graph, and one mask serves all maps of its sample.

Shapes: B images, M maps, h w cells, H W pixels of the mask.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def safe_sqrt(x: Tensor) -> Tensor:
    """Root with gradient 0 at 0 and below."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, torch.ones_like(x)).sqrt(), torch.zeros_like(x))


@dataclass
class Form:
    """Coefficients (B, ...) of one weight map a sample: of cells with themselves, and with neighbours along each axis."""

    own_Bhw: Tensor
    right_Bhw: Tensor  # (B, h, w - 1): with the next cell of the row
    below_Bhw: Tensor  # (B, h - 1, w): with the next cell of the column
    across_Bhw: Tensor  # (B, h - 1, w - 1): both diagonals of a square of four cells

    @classmethod
    def of(cls, weight_BHW: Tensor, cells: tuple[int, int]) -> "Form":
        """The form of sum over pixels of weight x (upsampled map)^2, for maps of `cells`."""
        with torch.no_grad():
            height, width = weight_BHW.shape[1:]
            rows, rows_next = _products(cells[0], height, weight_BHW)
            columns, columns_next = _products(cells[1], width, weight_BHW)
            by_rows, by_next = torch.matmul(rows, weight_BHW), torch.matmul(rows_next, weight_BHW)
            return cls(by_rows @ columns.T, by_rows @ columns_next.T, by_next @ columns.T, by_next @ columns_next.T)

    def __call__(self, s_BMhw: Tensor) -> Tensor:
        """(B, M): the form at each map."""
        s = s_BMhw
        left, right, above, below = s[..., :-1], s[..., 1:], s[..., :-1, :], s[..., 1:, :]
        across = s[..., :-1, :-1] * s[..., 1:, 1:] + s[..., :-1, 1:] * s[..., 1:, :-1]
        return (
            _dot(self.own_Bhw, s.square())
            + 2 * _dot(self.right_Bhw, left * right)
            + 2 * _dot(self.below_Bhw, above * below)
            + 2 * _dot(self.across_Bhw, across)
        )


def squares(s_BMhw: Tensor, weight_BHW: Tensor) -> Tensor:
    """(B, M): sum over pixels of weight x (map upsampled to the weight's size)^2. Weights of one sample serve all (1, H, W)."""
    return Form.of(weight_BHW, (s_BMhw.shape[2], s_BMhw.shape[3]))(s_BMhw)


def _products(cells: int, pixels: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Of the interpolation weights u (cells, pixels): u_a u_a (cells, pixels) and u_a u_(a+1) (cells - 1, pixels)."""
    unit = torch.eye(cells, dtype=torch.float64)[None]
    u = F.interpolate(unit, size=pixels, mode="linear", align_corners=False)[0]
    return u.square().to(like), (u[:-1] * u[1:]).to(like)


def _dot(coefficients_Bhw: Tensor, values_BMhw: Tensor) -> Tensor:
    return (coefficients_Bhw[:, None] * values_BMhw).sum(dim=(2, 3))
