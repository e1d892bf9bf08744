"""VGG-16 as the baseline of paper 002 (IAIA-BL): end to end, no prototypes, explained by GradCAM and GradCAM++.

Shapes: B images, C channels, H W input pixels, h w cells after the last ReLU, K classes.
Deviations: (1) the epoch is chosen on validation, the paper reports the best on test; (2) trunk as in IAIA-BL, without
pool 5, also for the maps (the authors' copy for maps has a pool 5 that it was not trained with); (3) no log-softmax over
the batch before the cross-entropy; (4) head pool_linear (ours) for small budgets.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.batch import Batch
from models._cams import class_gradient, full, gradcam, gradcampp
from models._trunks import TrunkConfig, check_weights, requirements, trunk_state, vgg16_trunk
from models.method import Card, Field, Loss, Method, MethodConfig, Prediction, Requirement, Stage, Task, term

CARD = Card(
    name="vgg16",
    title="VGG-16 with GradCAM and GradCAM++ (baseline)",
    year=2014,
    tracks={"margin": "margin", "malignancy": "malignancy", "detection": "detection"},
    explains="gradient-weighted class activation maps",
    paper="Simonyan and Zisserman, Very Deep Convolutional Networks; settings of the baseline in paper 002 (Barnett et al. 2021)",
    reference="torchvision (BSD-3-Clause), used as a library",
    deviations=(
        "the best epoch is chosen on validation, not on test",
        "weights imagenet is the published start; pretext is trained here on the training side",
        "training samples are not varied and not drawn by class unless asked for, as in the authors' script",
    ),
)


class Config(TrunkConfig):
    batch_size: int = Field(100, kind="budget", ge=1, description="samples per step; 100 in paper 002's scripts")
    epochs: int = Field(250, kind="budget", ge=1, description="epochs; 250 in paper 002")
    head: Literal["published", "pool_linear"] = Field(
        "published",
        description="published: average pool to 7x7, two hidden layers with dropout; pool_linear: average pool and linear",
    )
    hidden: int = Field(
        512, ge=1, description="units of the hidden layers; 512 in the margin run, 4096 in the released class"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="after each hidden layer; 0.5 in paper 002")
    norm: Literal["none", "batch"] = Field("none", description="batch norm in the trunk; none in paper 002")
    lr: float = Field(
        1e-5, gt=0, description="Adam's rate per step; of the malignancy script, the margin run's is not given"
    )
    weight_decay: float = Field(0.1, ge=0, description="coupled; of the malignancy script")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="of the rate over all epochs; constant in paper 002"
    )
    warmup_steps: int = Field(0, ge=0, description="linear warm-up of the rate; 0 in paper 002")
    clip_norm: float = Field(0.0, ge=0, description="largest norm of the gradient; 0 = off, as in paper 002")


class Vgg16(Method):
    """Trunk, head, cross-entropy."""

    version = 2
    Config = Config
    map_titles: ClassVar[Mapping[str, str]] = {"gradcam": "GradCAM", "gradcampp": "GradCAM++"}

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        self.trunk = vgg16_trunk(self.config)
        self.head = _head(config, self.trunk.out_channels, len(task.classes))

    # ---- what it starts from ------------------------------------------------------------------------------------
    @classmethod
    def requires(cls, config: Any, task: Task) -> list[Requirement]:
        return requirements(config, task)

    def start_from(self, name: str, state: Mapping[str, Tensor]) -> None:
        self.trunk.take_over(trunk_state(state))

    # ---- training -----------------------------------------------------------------------------------------------
    def stages(self) -> list[Stage]:
        c = self.config
        check_weights(c)

        def cosine(epochs: float) -> float:
            return 0.5 * (1 + math.cos(math.pi * min(1.0, epochs / c.epochs)))

        return [
            Stage(
                "train",
                [self.group("all", self.trunk, self.head, lr=c.lr, weight_decay=c.weight_decay)],
                epochs=c.epochs,
                streams=tuple(stream.name for stream in self.inputs().streams),
                schedule=cosine if c.schedule == "cosine" else None,
                warmup_steps=c.warmup_steps,
                clip_norm=c.clip_norm,
            )
        ]

    def forward(self, batch: Batch, stage: Stage) -> Loss:
        logits_BK = self.head(self.trunk(batch.image))
        return Loss(cross_entropy=term(F.cross_entropy(full(logits_BK), batch.label)))

    def activations(self, image_B1HW: Tensor) -> dict[int, Tensor]:
        return {self.trunk.blocks: self.trunk(image_B1HW)}

    # ---- reading ------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def predict(self, batch: Batch, track: str) -> Prediction:
        scores_BK = full(self.head(self.trunk(batch.image)))
        return Prediction(scores=scores_BK, probabilities=scores_BK.softmax(dim=1))

    def maps(self, batch: Batch, target: Tensor) -> dict[str, Tensor]:
        """GradCAM and GradCAM++ of class `target` at the last ReLU, negative values cut off."""
        with torch.no_grad():
            activation_BChw = self.trunk(batch.image)
        a, g = class_gradient(activation_BChw, self.head, target)
        return {"gradcam": gradcam(a, g).clamp_min(0), "gradcampp": gradcampp(a, g).clamp_min(0)}


def _head(config: Any, channels: int, classes: int) -> nn.Sequential:
    if config.head == "pool_linear":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    hidden = config.hidden
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(7),
        nn.Flatten(),
        nn.Linear(channels * 49, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(config.dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(config.dropout),
        nn.Linear(hidden, classes),
    )
