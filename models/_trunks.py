"""The VGG-16 trunk of the prototype family and of its baseline, at any width, and where it starts from.

Shapes: B images, C channels, H W input pixels, h w cells of the last feature map (H / 16 with 5 blocks, H / 8 with 4).
Topology and initial weights are torchvision's; the last pooling is left out as in IAIA-BL (paper 002).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.vgg import VGG16_BN_Weights, VGG16_Weights, cfgs, make_layers

from data.errors import ConfigError
from models.method import Field, MethodConfig, Requirement, Task

InputNorm = Literal["none", "imagenet", "per_image"]
LOWEST_LEVEL = 2  # of a pyramid
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)


class TrunkConfig(MethodConfig):
    """Fields of every method that stands on this trunk."""

    weights: Literal["imagenet", "pretext", "none"] = Field(
        "imagenet",
        kind="budget",
        description="where the trunk starts: imagenet (published), pretext (trained here), none",
    )
    trunk_blocks: Literal[4, 5] = Field(
        5,
        kind="budget",
        description="blocks of convolutions; 5 published (map of size/16), 4 leaves out block 5 and pool 4 (size/8)",
    )
    input_norm: InputNorm = Field(
        "none",
        description="none: raw grey values in [0, 1] (the authors' code); imagenet; per_image: (x - mean) / (sd + 0.02)",
    )
    pretext_epochs: int = Field(
        8, kind="budget", ge=1, description="weights: pretext: epochs of the trunk's own training; ours"
    )
    pretext_lr: float = Field(
        2e-3, kind="budget", gt=0, description="weights: pretext: Adam's rate per step, cosine; ours"
    )


def normalise(image_B1HW: Tensor, norm: InputNorm) -> Tensor:
    """Grey in [0, 1] -> (B, 3, H, W): the channel copied, scaled as `norm` says, channels last."""
    x = image_B1HW
    if norm == "per_image":
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        sd = x.std(dim=(1, 2, 3), keepdim=True, correction=0)
        x = (x - mean) / (sd + 0.02)
    x = x.expand(-1, 3, -1, -1)
    if norm == "imagenet":
        x = (x - x.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / x.new_tensor(IMAGENET_SD).view(1, 3, 1, 1)
    return x.contiguous(memory_format=torch.channels_last)


class Trunk(nn.Module):
    """(B, 1, H, W) in [0, 1] -> (B, out_channels, h, w), after the last ReLU."""

    def __init__(self, width: float, blocks: int, norm: Literal["none", "batch"], input_norm: InputNorm) -> None:
        super().__init__()
        self.layout = layout = _layout(width, blocks)
        self.features = make_layers(layout, batch_norm=norm == "batch")
        self.norm, self.input_norm, self.blocks = norm, input_norm, blocks
        self.out_channels = int(layout[-1])
        for module in self.features:
            if isinstance(module, nn.Conv2d):  # as torchvision's VGG
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, image_B1HW: Tensor, input_norm: InputNorm | None = None) -> Tensor:
        x: Tensor = self.features(normalise(image_B1HW, input_norm or self.input_norm))
        return x

    def pyramid(self, image_B1HW: Tensor, input_norm: InputNorm | None = None) -> dict[int, Tensor]:
        """level -> (B, C_l, h_l, w_l): what comes out of pools 2, 3..., and last what `forward` gives (paper 000, Eq. 1)."""
        x = normalise(image_B1HW, input_norm or self.input_norm)
        found: dict[int, Tensor] = {}
        level = 0
        for module in self.features:
            x = module(x)
            if isinstance(module, nn.MaxPool2d):
                level += 1
                found[level] = x
        found[self.blocks] = x
        return {level: found[level] for level in self.levels}

    @property
    def levels(self) -> dict[int, int]:
        """Level of the pyramid -> its channels: pools 2 up to the last pool, and the last feature map."""
        blocks = "".join("M" if item == "M" else f" {item} " for item in self.layout).split("M")
        channels = {number: int(block.split()[-1]) for number, block in enumerate(blocks, start=1)}
        return {level: count for level, count in channels.items() if level >= LOWEST_LEVEL}

    def level_size(self, level: int, size: int) -> int:
        """Cells along one side of a level of a square input: 56, 28, 14, 14 of 224."""
        return size // 2 ** min(level, self.blocks - 1)

    @property
    def receptive_field(self) -> int:
        """Side of the square of input pixels that one cell of the map depends on."""
        field, step = 1, 1
        for layer in self.layout:
            if layer == "M":
                field, step = field + step, 2 * step
            else:
                field += 2 * step
        return field

    def map_size(self, size: int) -> int:
        """Cells along one side of the map of a square input."""
        return size // 2 ** (self.blocks - 1)

    def take_over(self, state: Mapping[str, Tensor]) -> None:
        """Start from a trained trunk of this layout. Batch norm that it was trained with is folded in (exact) where there
        is none here."""
        own = {key: value for key, value in state.items() if key.startswith("features.")}
        if own.keys() == {f"features.{key}" for key in self.features.state_dict()}:
            self.load_state_dict(own)
            return
        donor = Trunk.__new__(Trunk)
        nn.Module.__init__(donor)
        donor.features = make_layers(_channels(self.features), batch_norm=True)
        donor.load_state_dict(own)
        self.features.load_state_dict(folded(donor.features).state_dict())


def _layout(width: float, blocks: int) -> list[int | str]:
    """torchvision's list for VGG-16 ("M" = pooling), scaled, without what follows the last wanted block."""
    layout: list[int | str] = []
    for item in cfgs["D"]:
        if item == "M" and layout.count("M") == blocks - 1:
            break
        layout.append(item if isinstance(item, str) else max(1, round(int(item) * width)))
    return layout


def _channels(features: nn.Sequential) -> list[int | str]:
    """The list that make_layers would make these features from."""
    layout: list[int | str] = []
    for module in features:
        if isinstance(module, nn.Conv2d):
            layout.append(module.out_channels)
        elif isinstance(module, nn.MaxPool2d):
            layout.append("M")
    return layout


def folded(features: nn.Sequential) -> nn.Sequential:
    """The same function in evaluation mode without its batch norms: each is folded into the convolution before it."""
    modules: list[nn.Module] = []
    for module in features.eval():
        if isinstance(module, nn.BatchNorm2d):
            modules[-1] = fuse_conv_bn_eval(modules[-1], module)  # type: ignore[type-var]
        else:
            modules.append(module)
    return nn.Sequential(*modules)


# ---- where a trunk starts from -----------------------------------------------------------------------------------
def vgg16_trunk(config: TrunkConfig) -> Trunk:
    """The trunk that a config asks for, with ImageNet weights where it asks for them and the file lies there.

    Without the file the trunk stays random here, so that a trained state can be loaded into it anywhere; `requirements`
    and `check_weights` refuse to train it.
    """
    check_trunk(config)
    norm: Literal["none", "batch"] = getattr(config, "norm", "none")
    trunk = Trunk(config.width, getattr(config, "trunk_blocks", 5), norm, getattr(config, "input_norm", "none"))
    file = imagenet_file(norm)
    if config.weights == "imagenet" and file.is_file():
        state = torch.load(file, map_location="cpu", weights_only=True)
        own = {f"features.{key}" for key in trunk.features.state_dict()}
        trunk.load_state_dict({key: value for key, value in state.items() if key in own})
    return trunk


def check_trunk(config: TrunkConfig) -> None:
    """ConfigError for combinations that cannot work."""
    if config.weights == "imagenet" and config.width != 1:
        raise ConfigError(
            f"ImageNet weights fit only width 1, not {config.width:g}",
            "weights",
            "set weights to pretext or none, or width to 1",
        )
    if config.weights == "pretext" and getattr(config, "input_norm", "none") != "per_image":
        raise ConfigError(
            "the pretext trunk is trained with input_norm per_image, and used with no other",
            "weights",
            "set input_norm to per_image",
        )


def check_weights(config: TrunkConfig) -> None:
    """ConfigError where the ImageNet file is asked for and is not there; nothing is ever downloaded."""
    check_trunk(config)
    norm = getattr(config, "norm", "none")
    if config.weights == "imagenet" and not imagenet_file(norm).is_file():
        url = _weights(norm).url
        raise ConfigError(
            f"the ImageNet weights of VGG-16 are not on this machine: {imagenet_file(norm).name}",
            "weights: imagenet",
            f"put {url} into {imagenet_file(norm).parent}, or set weights to pretext (with input_norm per_image)",
        )


def imagenet_file(norm: str) -> Path:
    """Where torchvision keeps the weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / _weights(norm).url.rsplit("/", 1)[1]


def _weights(norm: str) -> Any:
    return VGG16_BN_Weights.IMAGENET1K_V1 if norm == "batch" else VGG16_Weights.IMAGENET1K_V1


def requirements(config: Any, task: Task) -> list[Requirement]:
    """The pretext run of a trunk: VGG-16 with batch norm, trained on the labels of the training side.

    Methods of equal size, width, blocks, region, augmentation and batch share one.
    """
    check_weights(config)
    if config.weights != "pretext":
        return []
    overrides: dict[str, Any] = {
        "weights": "none",
        "norm": "batch",
        "head": "pool_linear",
        "input_norm": "per_image",
        "epochs": config.pretext_epochs,
        "lr": config.pretext_lr,
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "size": config.size,
        "width": config.width,
        "trunk_blocks": config.trunk_blocks,
        "batch_size": config.batch_size,
        "samples_per_class": config.samples_per_class,
        "roi": config.roi.model_dump(mode="json"),
        "augment": config.augment.model_dump(mode="json"),
    }
    return [Requirement("trunk", method="vgg16", config=overrides, track=task.track.name)]


def trunk_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trunk's part of a vgg16 method's state."""
    return {key.removeprefix("trunk."): value for key, value in state.items() if key.startswith("trunk.")}
