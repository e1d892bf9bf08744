"""A small network with every kind of stage that the engine knows, and the tiny phantom that it is trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.engine.report import EpochReport
from data.batch import Batch
from data.cache import Prepared, prepare
from data.inputs import Inputs, Roi
from data.samples import TrainingData
from models.method import Context, Field, Loss, Method, MethodConfig, Prediction, Stage, Task, term

OPTIONS = {"exams": {"train": 16, "validation": 8, "test": 8}, "level": "easy", "size": 128}
ROI = Roi(strategy="box_scale", scale=1.6)
SIZE = 24


@dataclass(frozen=True)
class Tiny:
    """A prepared phantom of 32 exams, as any process may open it."""

    folder: Path

    @classmethod
    def make(cls, cache: Path) -> "Tiny":
        prepared = prepare("phantom", None, OPTIONS, cache, roi=ROI, size=(SIZE, SIZE))
        return cls(prepared.folder)

    @property
    def prepared(self) -> Prepared:
        return Prepared("phantom", self.folder)

    def training(self, inputs: Inputs) -> TrainingData:
        prepared = self.prepared
        return prepared.training(prepared.split(), inputs)


class Config(MethodConfig):
    size: int = Field(SIZE, kind="budget", description="side of the input")
    batch_size: int = Field(12, kind="budget", description="samples per step")
    roi: Roi = Field(ROI, description="region")
    noisy: bool = Field(
        True, description="batch norm and dropout: state and randomness that a resumed run must meet again"
    )
    sums: float = Field(0.1, description="weight of a term that is summed over samples")
    explode_at: int = Field(-1, description="step at which the loss becomes NaN; -1: never")


class Staged(Method):
    """Stages: warm and joint share an Adam, a projection, a head on cached features, two that begin from the best."""

    Config = Config
    ages: Tensor
    centres: Tensor

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.conv = nn.Conv2d(1, 4, 5, stride=3)
        self.norm = nn.BatchNorm2d(4) if config.noisy else nn.Identity()
        self.head = nn.Linear(4, len(task.classes))
        self.register_buffer("ages", torch.zeros((), dtype=torch.int64))  # steps that this state has been trained
        self.register_buffer("centres", torch.zeros(len(task.classes), 4))

    def features(self, image_B1HW: Tensor) -> Tensor:
        f: Tensor = self.norm(self.conv(image_B1HW)).relu().mean(dim=(2, 3))
        return F.dropout(f, 0.2, self.training and self.config.noisy)

    def stages(self) -> list[Stage]:
        conv = self.group("conv", self.conv, self.norm, lr=0.02, weight_decay=1e-3)
        head, slow = self.group("head", self.head, lr=0.01), self.group("head", self.head, lr=0.001)
        return [
            Stage("warm", [conv], 1, optimiser="all", selectable=False, warmup_steps=3),
            Stage("joint", [conv, head], 2, optimiser="all", schedule=lambda e: 1 / (1 + e), clip_norm=1.0),
            Stage("project", epochs=0, after=self.project),
            Stage("last", [head], 2, cache=lambda batch: {"features": self.features(batch.image)}),
            Stage("again", [conv, slow], 1, optimiser="all", start="best"),
            Stage("centre", epochs=0, start="best", after=self.project),
        ]

    def forward(self, batch: Batch, stage: Stage) -> Loss:
        features = self.features(batch.image) if batch.cached is None else batch.cached["features"]
        scores = self.head(features)
        self.ages += 1
        pull = features.square().sum() if self.ages != self.config.explode_at + 1 else features.sum() * torch.nan
        return Loss(
            cross_entropy=term(F.cross_entropy(scores, batch.label)), pull=term(pull, "sum", weight=self.config.sums)
        )

    def predict(self, batch: Batch, track: str) -> Prediction:
        scores = self.head(self.features(batch.image))
        return Prediction(scores, scores.softmax(dim=1))

    def maps(self, batch: Batch, target: Tensor) -> Mapping[str, Tensor]:  # type: ignore[override]
        return {"features": self.conv(batch.image).square().sum(dim=1)}

    @torch.no_grad()
    def project(self, context: Context) -> None:
        """Mean feature of each class over all workers, and a draw: both have to be met again by a resumed run."""
        sums = torch.zeros_like(self.centres)
        for batch in context.batches():
            sums.index_add_(0, batch.label, self.features(batch.image))
        self.centres = torch.stack(context.gather(sums)).sum(dim=0)
        self.head.weight += 0.01 * float(context.generator("project").standard_normal()) * F.normalize(self.centres)
        self.head.bias += 0.01 * torch.randn_like(self.head.bias)


def staged(seed: int = 0, **config: object) -> Staged:
    torch.manual_seed(seed)
    return Staged(Config.model_validate(config), Task.of("margin"))


def content(report: EpochReport) -> dict[str, Any]:
    """What a report says of the training, without rates and times."""
    kept = ("stage", "epoch", "number", "total", "selectable", "final", "terms", "metrics")
    return {name: getattr(report, name) for name in kept}
