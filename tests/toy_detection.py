"""A method of another family than the project's: it looks for masses on whole films.

Two streams (films with a mass, films without), a start from a run of its own, test-time variants, one of which reads a
map that is constant. Shapes: B films, H W pixels, h w cells.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.batch import Batch
from data.inputs import Inputs, Roi, Stream
from models.method import (
    Card,
    Context,
    Field,
    Loss,
    Method,
    MethodConfig,
    Prediction,
    Requirement,
    Stage,
    Task,
    Variant,
    term,
)  # fmt: skip

CARD = Card(
    name="toy_detection",
    title="Brightest spot, a toy",
    year=2026,
    tracks={"detection": "detection"},
    explains="the map that the score is read from",
    needs=frozenset({"normal"}),
    refuses={"margin": "it sees whole films", "malignancy": "it sees whole films"},
)


class Config(MethodConfig):
    size: int = Field(48, kind="budget", ge=16, description="side of the film, shrunk")
    batch_size: int = Field(8, kind="budget", ge=1, description="films with a mass in a step")
    negatives: int = Field(4, ge=1, description="films without a mass in a step")
    epochs: int = Field(2, kind="budget", ge=1, description="epochs")
    lr: float = Field(1e-2, gt=0, description="rate")
    peak: Literal["max", "mean"] = Field("max", description="how the map becomes a score")
    start: Literal["own", "none"] = Field("own", description="own: filters of a run of its own; none: random")


class ToyDetection(Method):
    """Two convolutions; their output is map, score and box."""

    Config = Config
    level: Tensor

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.filters = nn.Sequential(nn.Conv2d(1, 6, 5, 2, 2), nn.ReLU(), nn.Conv2d(6, 1, 3, 2, 1))
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("level", torch.zeros(()))  # median score of training films without a mass

    def inputs(self) -> Inputs:
        c = self.config
        streams = (Stream("mass", c.batch_size, only="mass"), Stream("normal", c.negatives, only="normal"))
        return Inputs((c.size, c.size), self.task.track.name, streams, Roi(strategy="whole"), c.augment)

    @classmethod
    def requires(cls, config: Any, task: Task) -> list[Requirement]:
        if config.start == "none":
            return []
        below = {"start": "none", "epochs": 1, "size": config.size, "batch_size": config.batch_size}
        return [Requirement("filters", "toy_detection", below, task.track.name)]

    def start_from(self, name: str, state: Mapping[str, Tensor]) -> None:
        self.load_state_dict(dict(state))

    def stages(self) -> list[Stage]:
        group = self.group("all", self.filters, self.scale, lr=self.config.lr)
        return [
            Stage("train", [group], self.config.epochs, streams=("mass", "normal"), clip_norm=1.0),
            Stage("level", epochs=0, start="best", after=self.find_level),
        ]

    def heat(self, image_B1HW: Tensor) -> Tensor:
        heat: Tensor = self.filters(image_B1HW)[:, 0] * self.scale
        return heat.float()

    def score(self, heat_Bhw: Tensor) -> Tensor:
        flat = heat_Bhw.flatten(1)
        return flat.amax(dim=1) if self.config.peak == "max" else flat.mean(dim=1)

    def forward(self, batch: Batch, stage: Stage) -> Loss:
        heat = self.heat(batch.image)
        score, positive = self.score(heat), batch.stream == 0
        assert torch.equal(positive, batch.label == 1), "each stream holds what it is named after"
        loss = F.binary_cross_entropy_with_logits(score, positive.float())
        return Loss(mass=term(loss), quiet=term(heat[~positive].square().sum() / 1e3, "sum", weight=0.1))

    @torch.no_grad()
    def find_level(self, context: Context) -> None:
        mine = [self.score(self.heat(batch.image)).cpu() for batch in context.batches("normal")]
        scores = torch.cat([torch.cat(share) for share in context.gather(mine) if share])
        self.level.copy_(scores.median())

    def predict(self, batch: Batch, track: str) -> Prediction:
        heat = self.heat(batch.image)
        score = self.score(heat) - self.level
        scores = torch.stack([-score, score], dim=1)
        return Prediction(scores, scores.softmax(dim=1), boxes=[self.box(one) for one in heat])

    def box(self, heat_hw: Tensor) -> Tensor:
        """One box of four cells around the highest one, in input pixels, and its score."""
        cell = self.config.size / heat_hw.shape[0]
        y, x = divmod(int(heat_hw.argmax()), heat_hw.shape[1])
        corners = [(x - 1) * cell, (y - 1) * cell, (x + 2) * cell, (y + 2) * cell, float(heat_hw.detach().max())]
        return torch.tensor([corners], device=heat_hw.device)

    def maps(self, batch: Batch, target: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            heat = self.heat(batch.image)
        return {"heat": heat, "flat": torch.full_like(heat, 0.5)}

    def variants(self) -> list[Variant]:
        return [Variant("default", "heat"), Variant("flat", "flat"), Variant("bold", "heat", {"margin": 2.0})]

    def vary(self, prediction: Prediction, maps: Mapping[str, Tensor], variant: Variant) -> Prediction:
        if "margin" not in variant.settings:
            return prediction
        shift = torch.tensor([0.0, 1.0], device=prediction.scores.device) * float(variant.settings["margin"])
        scores = prediction.scores + shift
        return Prediction(scores, scores.softmax(dim=1), [box[:0] for box in prediction.boxes or []])
