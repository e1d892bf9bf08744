"""A batch as it is cached: the pixels, and what was drawn for them. Its variation is applied where it is wanted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.augment import Variation, in_unit, vary
from data.batch import Batch


@dataclass(frozen=True)
class Canvases:
    """Pixels before their variation: what a loader process hands over where another device applies it."""

    image: Tensor  # (B, 1, h, w) int16 with the bits of uint16
    masks: Tensor  # (B, 2, h, w) uint8: lesion, fine
    drawn: Sequence[Variation]
    rest: Batch  # without pixels; its boxes have been moved

    def batch(self, size: tuple[int, int], device: torch.device | str = "cpu") -> Batch:
        """The batch at `size` (H, W), varied on the device."""
        image, masks = (in_unit(pixels.to(device, non_blocking=True)) for pixels in (self.image, self.masks))
        varied = [vary(one, both, how, size) for one, both, how in zip(image, masks, self.drawn, strict=True)]
        lesion, fine = torch.stack([both for _, both in varied]).split(1, dim=1)
        return replace(
            self.rest.to(device),
            image=torch.stack([one for one, _ in varied]),
            mask=lesion.contiguous(),
            fine_mask=fine.contiguous(),
        )
