"""DenseNet121 in its four groups, at any width (Huang et al. 2017; torchvision's layers and weights).

Shapes: B images, H W input pixels; group j gives (B, C_j, H / 2**(j+1), W / 2**(j+1)): 256 x 56 x 56, 512 x 28 x 28,
1024 x 14 x 14, 1024 x 7 x 7 at 224 px and width 1. Parameters of the groups: 335,040, 919,680, 2,837,760, 2,158,080.
"""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.densenet import DenseNet, DenseNet121_Weights

from data.errors import ConfigError
from models._trunks import InputNorm, normalise

Tap = Literal["post_norm", "block_out"]
BLOCKS, GROWTH, FIRST = (6, 12, 24, 16), 32, 64


class DenseTrunk(nn.Module):
    """(B, 1, H, W) in [0, 1] -> (B, out_channels, H / cell, W / cell), after the last norm and its ReLU.

    cell: 32 as published; 16 leaves out the pooling of the stem, 8 its stride as well: for small inputs.
    """

    def __init__(self, width: float, input_norm: InputNorm, cell: int = 32) -> None:
        super().__init__()
        growth, first = max(1, round(GROWTH * width)), max(2, 2 * round(FIRST * width / 2))
        made = DenseNet(growth_rate=growth, block_config=BLOCKS, num_init_features=first, num_classes=1)
        if cell < 32:
            made.features.pool0 = nn.Identity()
        if cell < 16:
            made.features.conv0.stride = (1, 1)
        self.features, self.input_norm = made.features, input_norm
        self.out_channels = int(made.classifier.in_features)

    def forward(self, image_B1HW: Tensor) -> Tensor:
        return F.relu(self.features(normalise(image_B1HW, self.input_norm)))

    def blocks(self, image_B1HW: Tensor) -> dict[int, Tensor]:
        """Group -> what its dense block gives, before any further norm."""
        found: dict[int, Tensor] = {}
        x = normalise(image_B1HW, self.input_norm)
        for name, module in self.features.named_children():
            if name == "norm5":
                break
            x = module(x)
            if name.startswith("denseblock"):
                found[int(name.removeprefix("denseblock"))] = x
        return found

    def last(self, block4_BChw: Tensor) -> Tensor:
        """What `forward` gives, of what block 4 gives."""
        return F.relu(self.features.norm5(block4_BChw))

    def groups(self, image_B1HW: Tensor, tap: Tap) -> dict[int, Tensor]:
        """Group -> its activations: its block's; of group 4 by `tap`, post_norm being what `forward` gives."""
        found = self.blocks(image_B1HW)
        return found | ({4: self.last(found[4])} if tap == "post_norm" else {})

    def parts(self, transition3: bool) -> tuple[list[nn.Module], list[nn.Module]]:
        """(what stays as it was, what is trained) where "group 4 and the classifier" are: block 4 and the last norm."""
        trained = {"denseblock4", "norm5"} | ({"transition3"} if transition3 else set())
        children = dict(self.features.named_children())
        return (
            [module for name, module in children.items() if name not in trained],
            [module for name, module in children.items() if name in trained],
        )

    def load_imagenet(self) -> None:
        """torchvision's weights, where their file lies. Keys of the old release are renamed as torchvision does."""
        state = torch.load(imagenet_file(), map_location="cpu", weights_only=True)
        renamed = {
            _renamed(key.removeprefix("features.")): value
            for key, value in state.items()
            if key.startswith("features.")
        }
        self.features.load_state_dict(renamed)


def _renamed(key: str) -> str:
    """denselayer1.norm.1.weight, as the file has it, is denselayer1.norm1.weight now."""
    for kind in ("norm", "relu", "conv"):
        for number in "12":
            key = key.replace(f".{kind}.{number}.", f".{kind}{number}.")
    return key


def imagenet_file() -> Path:
    """Where torchvision keeps the weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / DenseNet121_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]


def check_imagenet(width: float) -> None:
    """ConfigError where ImageNet weights do not fit, or their file is not there; nothing is ever downloaded."""
    if width != 1:
        raise ConfigError(
            f"ImageNet weights fit only width 1, not {width:g}", "weights", "set weights to none, or width to 1"
        )
    if not imagenet_file().is_file():
        url = DenseNet121_Weights.IMAGENET1K_V1.url
        raise ConfigError(
            f"the ImageNet weights of DenseNet121 are not on this machine: {imagenet_file().name}",
            "weights: imagenet",
            f"put {url} into {imagenet_file().parent}, or set weights to none and trainable to all",
        )
