"""ResNet with a feature pyramid, for detectors, at any width from a quarter (He et al. 2016; Lin et al. 2017). Blocks and
weights are torchvision's.

Shapes: B images, H W input pixels; level i of 0 to 3 gives (B, C, h, w) at cell / 8 * 2**i pixels a cell (4 to 32 as
published), the fifth, a pooling of the last, at twice the last one's.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet18_Weights, ResNet50_Weights
from torchvision.ops import FrozenBatchNorm2d

from data.errors import ConfigError

Backbone = Literal["resnet50", "resnet18"]
BLOCKS: dict[str, tuple[type[Bottleneck] | type[BasicBlock], tuple[int, ...]]] = {
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
}
FIRST, PYRAMID = 64, 256  # channels of the first layer, and of each level of the pyramid
LEVELS = 5
# The gradient of a strided 1 x 1 convolution on fewer channels writes beyond its buffer on CPUs with AVX-512 (oneDNN,
# torch 2.11): the process then dies of a corrupted heap. Seen of 4, 5, 6 and 8 channels to as many as 16; of 12 and more not.
LEAST = 16
STEM = ("conv1", "layer1")  # stay as ImageNet left them, as torchvision's detectors keep them by default


def resnet_fpn(backbone: Backbone, width: float, cell: int, frozen_norm: bool) -> BackboneWithFPN:
    """(B, 3, H, W) -> five levels. cell: pixels along a cell of layer 4: 32 as published; 16 leaves out the pooling of
    the stem, 8 its stride as well: for small inputs. frozen_norm: batch norm keeps ImageNet's statistics and scale."""
    norm: type[nn.Module] = FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d
    block, counts = BLOCKS[backbone]
    first = max(LEAST, round(FIRST * width))
    parts: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(3, first, 7, stride=2 if cell >= 16 else 1, padding=3, bias=False),
        "bn1": norm(first),
        "relu": nn.ReLU(inplace=True),
        "maxpool": nn.MaxPool2d(3, stride=2, padding=1) if cell >= 32 else nn.Identity(),
    }
    channels, given = first, []
    for i, count in enumerate(counts):
        planes = first * 2**i
        parts[f"layer{i + 1}"] = _layer(block, channels, planes, count, stride=1 if i == 0 else 2, norm=norm)
        channels = planes * block.expansion
        given.append(channels)
    body = nn.Sequential(OrderedDict(parts))
    for module in body.modules():
        if isinstance(module, nn.Conv2d):  # as torchvision's ResNet
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    taken = {f"layer{i + 1}": str(i) for i in range(len(counts))}
    return BackboneWithFPN(body, taken, given, max(4, round(PYRAMID * width)))


def _layer(
    block: type[Bottleneck] | type[BasicBlock],
    channels: int,
    planes: int,
    count: int,
    stride: int,
    norm: type[nn.Module],
) -> nn.Sequential:
    out = planes * block.expansion
    shortcut = None
    if stride != 1 or channels != out:
        shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), norm(out))
    made = [block(channels, planes, stride, shortcut, norm_layer=norm)]
    return nn.Sequential(*made, *(block(out, planes, norm_layer=norm) for _ in range(count - 1)))


# ---- where it starts from ----------------------------------------------------------------------------------------
def imagenet_file(backbone: Backbone) -> Path:
    """Where torchvision keeps the weights of the classifier."""
    weights = ResNet50_Weights.IMAGENET1K_V1 if backbone == "resnet50" else ResNet18_Weights.IMAGENET1K_V1
    return Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[1]


def load_imagenet(made: BackboneWithFPN, backbone: Backbone) -> None:
    """torchvision's weights, where their file lies; the pyramid stays as it is."""
    state = torch.load(imagenet_file(backbone), map_location="cpu", weights_only=True)
    made.body.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})


def check_imagenet(backbone: Backbone, width: float) -> None:
    """ConfigError where ImageNet weights do not fit, or their file is not there; nothing is ever downloaded."""
    if width != 1:
        raise ConfigError(
            f"ImageNet weights fit only width 1, not {width:g}", "weights", "set weights to none, or width to 1"
        )
    file = imagenet_file(backbone)
    if not file.is_file():
        raise ConfigError(
            f"the ImageNet weights of {backbone} are not on this machine: {file.name}",
            "weights: imagenet",
            f"put https://download.pytorch.org/models/{file.name} into {file.parent}, or set weights to none and "
            "trainable to all",
        )
