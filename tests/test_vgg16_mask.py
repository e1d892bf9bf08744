"""VGG-16 with a mask penalty on its map. First of all: does the penalty alone pull the map into the lesion?"""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.batch import Batch
from models import _prototypes as proto
from models.method import Method, Stage
from tests.toy import subset, toy_batch, toy_method

HEADS = ("pool_linear", "published")
TRAIN = Stage("train")


# ---- polarity ----------------------------------------------------------------------------------------------------
class Shallow(nn.Module):
    """A trunk whose cells see only themselves: grey value and local contrast, mixed into channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        contrast = (x - F.avg_pool2d(x, 5, 1, 2)).abs() * 4
        return self.mix(F.adaptive_avg_pool2d(torch.cat([x, contrast], dim=1), 8)).relu()


def precision(method: Method, batch: Batch) -> float:
    """Share of the top 5 % pixels of the true class's GradCAM that lies in the lesion."""
    method.eval()
    size = (batch.mask.shape[2], batch.mask.shape[3])
    cam = proto.upsample(method.maps(batch, batch.label)["gradcam"][:, None], size)
    top = cam >= torch.quantile(cam.flatten(1), 0.95, dim=1)[:, None, None, None]
    return float(((top * batch.mask).sum(dim=(1, 2, 3)) / top.sum(dim=(1, 2, 3))).mean())


def trained_on_the_penalty_alone(head: str, label: int, flipped: bool) -> tuple[float, float]:
    """Precision before and after 60 steps of SGD by the penalty alone, on images of one class: those of other classes
    punish its map everywhere, lesion included."""
    method = toy_method("vgg16_mask", seed=label, size=64, head=head, hidden=16)
    method.trunk = Shallow(method.trunk.out_channels)
    batch = toy_batch(24, size=64, seed=3)
    batch = subset(batch, (batch.label == label).nonzero()[:, 0])
    before = precision(method, batch)
    taught = subset(batch, range(len(batch)))
    taught.has_fine[:] = False
    if flipped:
        taught.mask = 1 - taught.mask
    optimiser = torch.optim.SGD(method.parameters(), lr=0.02)
    method.train()
    for _ in range(60):
        optimiser.zero_grad()
        method(taught, TRAIN)["mask"].value.backward()
        nn.utils.clip_grad_norm_(list(method.parameters()), 1.0)
        optimiser.step()
    return before, precision(method, batch)


@pytest.mark.parametrize("head", HEADS)
def test_the_penalty_alone_moves_the_map_into_the_mask(head: str) -> None:
    before, inside = np.mean([trained_on_the_penalty_alone(head, label, flipped=False) for label in range(3)], axis=0)
    assert inside > before + 0.15
    away = np.mean([trained_on_the_penalty_alone(head, label, flipped=True)[1] for label in range(3)])
    assert away < before, "with the mask's polarity turned round, the map leaves the lesion"
