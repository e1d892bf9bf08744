"""Zhou et al. 2016, "Learning deep features for discriminative localization", CVPR: a small CNN with class activation maps.

Two convolutions, global average pooling and one linear layer; the map of a class is the features weighted by its row of
that layer (Section 2). Shapes: B images, C channels, H W input pixels, h w cells of the features, K classes.
Deviations: (1) two layers trained from scratch in place of a pre-trained network; (2) the epoch is chosen on validation.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.batch import Batch
from models.method import Card, Field, Loss, Method, MethodConfig, Prediction, Stage, Task, term

CARD = Card(
    name="cam_cnn",
    title="Small CNN with class activation maps",
    year=2016,
    tracks={"margin": "margin", "malignancy": "malignancy"},
    explains="class activation map",
    paper="Zhou et al., CVPR 2016",
    reference="written from the paper",
    deviations=("two layers trained from scratch", "the epoch is chosen on validation"),
    refuses={"detection": "two layers do not see a whole film"},
)


class Config(MethodConfig):
    channels: int = Field(32, ge=1, description="channels of the features at width 1; ours")
    epochs: int = Field(30, kind="budget", ge=1, description="epochs; ours")
    lr: float = Field(3e-3, gt=0, description="Adam's rate per step; ours")


class CamCnn(Method):
    """Features, average pooling, one linear layer."""

    version = 1
    Config = Config

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        channels = max(4, round(self.config.channels * config.width))
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Linear(channels, len(task.classes))

    def stages(self) -> list[Stage]:
        everything = self.group("all", self.features, self.classifier, lr=self.config.lr)
        return [Stage("train", [everything], epochs=self.config.epochs)]

    def logits(self, batch: Batch) -> Tensor:
        return self.classifier(self.features(batch.image).mean(dim=(2, 3)))

    def forward(self, batch: Batch, stage: Stage) -> Loss:
        return Loss(cross_entropy=term(F.cross_entropy(self.logits(batch), batch.label)))

    @torch.no_grad()
    def predict(self, batch: Batch, track: str) -> Prediction:
        logits_BK = self.logits(batch).float()
        return Prediction(scores=logits_BK, probabilities=logits_BK.softmax(dim=1))

    @torch.no_grad()
    def maps(self, batch: Batch, target: Tensor) -> dict[str, Tensor]:
        """The class activation map of class `target`: features weighted by the classifier's row of that class."""
        features_BChw = self.features(batch.image)
        weights_BC = self.classifier.weight[target]
        return {"cam": torch.einsum("bchw,bc->bhw", features_BChw, weights_BC).float()}
