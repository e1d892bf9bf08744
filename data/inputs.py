"""What a method asks of the data: size, region rule, augmentation and streams. Pydantic, since configs carry parts of it."""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Roi(BaseModel):
    """How the region of a finding is cut from its film (Table 1 of the knowledge-transfer paper, 2025). All lengths are film pixels.

    max224: window max(min_side, w) x max(min_side, h) around the mass; bbox: the box itself; double_square: side
    2 max(w, h); double_bbox: 2w x 2h; box_scale: side scale x max(w, h); whole: the whole film.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    strategy: Literal["max224", "bbox", "double_square", "double_bbox", "box_scale", "whole"] = "max224"
    min_side: int = Field(default=224, ge=8, description="S of max224, film pixels")
    scale: float = Field(default=1.6, gt=0, description="factor of box_scale")
    centre: Literal["bbox", "centroid"] = Field(
        default="bbox", description="centre of the window: of the box or of the mask"
    )
    border: Literal["shift", "zero", "reflect"] = Field(
        default="shift", description="window outside the film: moved inside, or padded"
    )
    grey_low: float = Field(default=0.5, ge=0, lt=50, description="percentile of the film that becomes 0")
    grey_high: float = Field(default=99.5, gt=50, le=100, description="percentile of the film that becomes 1")


class Augment(BaseModel):
    """How a training sample is varied. Image, masks and boxes move together; evaluation is never augmented.

    none; turns: flips and quarter turns, each of the eight states alike; window_turns: a random window of a crop that is
    `margin` times larger, then turns; paper002: as IAIA-BL's public code (crop, rotation, flips, quarter turns).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    recipe: Literal["none", "turns", "window_turns", "paper002"] = "none"
    margin: float = Field(
        default=1.2, ge=1, le=2, description="how much larger the cached crop is than the input (window_turns)"
    )


@dataclass(frozen=True)
class Stream:
    """A named source of samples within one step.

    The first stream of a stage is walked through once an epoch, shuffled, and so sets the number of steps; the others
    draw `per_step` samples afresh each step, without replacement. `only`: which training samples belong to it.
    `samples_per_class`: an epoch holds this many draws of each class (with replacement) in place of each sample once.
    """

    name: str
    per_step: int
    only: Literal["all", "mask", "fine", "mass", "normal"] = "all"
    samples_per_class: int | None = None


@dataclass(frozen=True)
class Inputs:
    """What a method is fed with. `target` names the track whose labels train (Batch.label) and its unit (ROI, image)."""

    size: tuple[int, int]  # H, W
    target: str
    streams: tuple[Stream, ...]
    roi: Roi = field(default_factory=Roi)
    augment: Augment = field(default_factory=Augment)
