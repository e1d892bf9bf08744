"""What a method asks of the data: size, region rule, augmentation and streams. Pydantic, since configs carry parts of it."""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from data.errors import ConfigError


class Roi(BaseModel):
    """How the region of a finding is cut from its film (Table 1 of the knowledge-transfer paper, 2025). All lengths are film pixels.

    max224: window max(min_side, w) x max(min_side, h) around the mass; bbox: the box itself; double_square: side
    2 max(w, h); double_bbox: 2w x 2h; bbox_overlap: the box itself, in training one of `overlap_n` windows of its size
    that overlap it by 90 % or more; box_scale: side scale x max(w, h); whole: the whole film (docs/pixels.md).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    strategy: Literal["max224", "bbox", "double_square", "double_bbox", "bbox_overlap", "box_scale", "whole"] = "max224"
    min_side: int = Field(default=224, ge=8, description="S of max224, film pixels")
    scale: float = Field(default=1.6, gt=0, description="factor of box_scale")
    overlap_n: int = Field(default=10, ge=1, le=1000, description="windows of bbox_overlap (not printed; ours)")
    keep_aspect: bool = Field(
        default=False, description="the window is a square of its longer side, so that a square input is not squeezed"
    )
    centre: Literal["bbox", "centroid"] = Field(
        default="bbox", description="centre of the window: of the box or of the mask"
    )
    border: Literal["shift", "zero", "reflect"] = Field(
        default="shift", description="window outside the film: moved inside, or padded"
    )
    grey_low: float = Field(default=0.5, ge=0, lt=50, description="percentile of the film that becomes 0")
    grey_high: float = Field(default=99.5, gt=50, le=100, description="percentile of the film that becomes 1")
    jitter_shift: float = Field(
        default=0.0, ge=0, le=0.5, description="test side alone: boxes are moved by up to this share of their sides"
    )
    jitter_scale: float = Field(
        default=0.0, ge=0, le=0.5, description="test side alone: boxes are scaled by a factor of 1 - this to 1 + this"
    )
    jitter_seed: int = Field(default=0, ge=0, description="seed of jitter_shift and jitter_scale")
    flip: Literal["none", "breast_left", "right_breasts"] = Field(
        default="none",
        description="films mirrored before the cut: whose breast lies in their right half, or all of right breasts",
    )
    crop: Literal["none", "breast"] = Field(
        default="none", description="whole films: the film, or the breast's bounding box found in it"
    )

    @property
    def jittered(self) -> bool:
        return self.strategy != "whole" and (self.jitter_shift > 0 or self.jitter_scale > 0)

    @property
    def without_jitter(self) -> "Roi":
        """The rule for training and validation."""
        return self.model_copy(update={"jitter_shift": 0.0, "jitter_scale": 0.0, "jitter_seed": 0})

    @property
    def unused(self) -> set[str]:
        """Settings that change no cached pixel under the others: an option that is off leaves the cache as it was."""
        whole = self.strategy == "whole"
        return {"overlap_n"} | {
            name
            for name, drop in {
                "min_side": self.strategy != "max224",
                "scale": self.strategy != "box_scale",
                "keep_aspect": whole or not self.keep_aspect,
                "jitter_shift": not self.jittered,
                "jitter_scale": not self.jittered,
                "jitter_seed": not self.jittered,
                "flip": self.flip == "none",
                "crop": not whole or self.crop == "none",
            }.items()
            if drop
        }


class Augment(BaseModel):
    """How a training sample is varied. Image, masks and boxes move together; evaluation is never augmented.

    none; turns: flips and quarter turns, each of the eight states alike; window_turns: a random window of a crop that is
    `margin` times larger, then turns; flip_hv: both flips, p 0.5 each; paper002: as IAIA-BL's public code (crop,
    rotation, flips, quarter turns); paper003: both flips and a rotation, p 0.5 each; noisy_window: noise of the
    window's place and size, as GMIC; paper004: that, and a left-right flip with p 0.5. Sources in docs/pixels.md.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    recipe: Literal["none", "turns", "window_turns", "flip_hv", "paper002", "paper003", "noisy_window", "paper004"] = (
        "none"
    )
    margin: float = Field(
        default=1.2, ge=1, le=2, description="how much larger the cached crop is than the input (window_turns)"
    )
    rotate: Literal["90k", "uniform"] = Field(
        default="90k", description="angles of paper003 (not printed): quarter turns, or any from -180 to 180 degrees"
    )


Picture = Literal["image", "mask"]


@dataclass(frozen=True)
class Stream:
    """A named source of samples within one step.

    The first stream of a stage is walked through once an epoch, shuffled, and so sets the number of steps; the others
    draw `per_step` samples afresh each step, without replacement. `only`: which training samples belong to it.
    `samples_per_class`: an epoch holds this many draws of each class (with replacement) in place of each sample once.
    """

    name: str
    per_step: int
    only: Literal["all", "mask", "fine", "mass", "normal", "negative"] = "all"
    samples_per_class: int | None = None


@dataclass(frozen=True)
class Inputs:
    """What a method is fed with. `target` names the track whose labels train (Batch.label) and its unit (ROI, image)."""

    size: tuple[int, int]  # H, W
    target: str
    streams: tuple[Stream, ...]
    roi: Roi = field(default_factory=Roi)
    augment: Augment = field(default_factory=Augment)
    picture: Picture = "image"  # what stands as Batch.image: the film, or the lesion's mask in its place
    negatives: int = 0  # lesion-free regions that join the training side, drawn once per seed (Stream.only: negative)

    def __post_init__(self) -> None:
        if self.roi.strategy == "bbox_overlap" and self.augment.recipe in ("window_turns", "noisy_window", "paper004"):
            raise ConfigError(
                "roi.strategy bbox_overlap draws the window, and so does this recipe",
                f"augment.recipe: {self.augment.recipe}",
                "take a recipe without windows, such as flip_hv or turns",
            )
