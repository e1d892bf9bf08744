"""What one step of training or evaluation is fed with.

Shapes: B samples, H W pixels of the method's input.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor


@dataclass
class Batch:
    """Tensors of B samples. Masks are 1 on the lesion; a label of -1 is unknown."""

    image: Tensor  # (B, 1, H, W) in [0, 1]: the film's 0.5-99.5 percentiles
    mask: Tensor  # (B, 1, H, W) in [0, 1], fractions where resizing left them
    fine_mask: Tensor  # (B, 1, H, W)
    has_mask: Tensor  # (B) bool
    has_fine: Tensor  # (B) bool
    label: Tensor  # (B) int64: the label that training uses (Inputs.target)
    margin: Tensor  # (B) int64
    malignant: Tensor  # (B) int64
    stream: Tensor  # (B) int64: position in Inputs.streams
    index: Tensor  # (B) int64: row of Samples.table
    pose: (
        Tensor  # (B) int64: which of the eight flips and turns of the central window it is (data/augment.py); -1: none
    )
    boxes: list[Tensor] = field(default_factory=list)  # B tensors (n, 4): x0 y0 x1 y1 in input pixels
    cached: Mapping[str, Tensor] | None = (
        None  # what Stage.cache left for these samples; then image may be empty (B, 1, 0, 0)
    )

    def __len__(self) -> int:
        return len(self.label)

    def every(self, step: int, start: int = 0) -> "Batch":
        """Its samples start, start + step...: of several streams each in its share."""

        def taken(value: object) -> object:
            if isinstance(value, Mapping):
                return {key: taken(item) for key, item in value.items()}
            return value[start::step] if isinstance(value, (Tensor, list)) else value

        return Batch(**{f.name: taken(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""

        def move(value: object) -> object:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=True)
            if isinstance(value, list):
                return [move(item) for item in value]
            if isinstance(value, Mapping):
                return {key: move(item) for key, item in value.items()}
            return value

        return Batch(**{f.name: move(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]
