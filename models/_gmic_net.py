"""The network of GMIC (Shen et al., Medical Image Analysis 2021), written from its description: a global look at the whole film, a
few crops of it looked at closely, and both together.

Shapes: B images, H W pixels, D channels and h w cells of the global features, C outputs, K crops of ch x cw pixels, L features of a crop.
At 2944 x 1920: 46 x 30 cells, D 256, K 6 crops of 256 x 256, L 512; parameters: 2,799,536 global, 11,176,512 local.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

from models._cams import full
from models._regions import Size

Score = Literal["topt", "topt_logit", "mean_logit", "sum_logit"]
GLOBAL, LOCAL = (16, 32, 64, 128, 256), (64, 128, 256, 512)  # channels of the stages
HIDDEN = 128  # of the attention
# Names of the released checkpoints' tensors -> ours.
RELEASED = {
    "ds_net.": "trunk.",
    "left_postprocess_net.gn_conv_last.": "saliency.",
    "dn_resnet.": "local.",
    "mil_attn_V.": "attention_v.",
    "mil_attn_U.": "attention_u.",
    "mil_attn_w.": "attention_w.",
    "classifier_linear.": "local_head.",
    "fusion_dnn.": "fusion_head.",
}


def scaled(channels: int, width: float) -> int:
    return max(4, round(channels * width))


def standardise(image_B1HW: Tensor) -> Tensor:
    """(x - mean) / max(sd, 1e-5) of each image."""
    mean = image_B1HW.mean(dim=(1, 2, 3), keepdim=True)
    sd = image_B1HW.std(dim=(1, 2, 3), keepdim=True, correction=0)
    return (image_B1HW - mean) / sd.clamp_min(1e-5)


class Pointwise(nn.Conv2d):
    """A convolution of one pixel, of every `every`-th one: what a stride gives. oneDNN's own gradient of such a stride corrupts memory on
    some CPUs where channels are few (torch 2.11)."""

    def __init__(self, inputs: int, outputs: int, every: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)
        self.every = every

    def forward(self, x: Tensor) -> Tensor:
        taken = x[..., :: self.every, :: self.every] if self.every > 1 else x
        return super().forward(taken.contiguous(memory_format=torch.channels_last))


class PreActivation(nn.Module):
    """Norm, ReLU and convolution, twice, beside a shortcut. The first block of a stage projects its activated input by a convolution of
    one pixel without a norm; the second hands its raw input on."""

    def __init__(self, inputs: int, outputs: int, stride: int, projects: bool) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.downsample = nn.Sequential(Pointwise(inputs, outputs, stride)) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(active)
        inner: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return inner + shortcut


class GlobalTrunk(nn.Module):
    """ResNet-22 of pre-activation blocks: (B, 1, H, W) -> (B, D, h, w), after the last ReLU.

    stages: 5 as published (a cell of 64 pixels); fewer leave the last ones out, for small inputs, of which a cell would see too much;
    blocks: of each stage, 2 as published.
    """

    def __init__(self, width: float = 1.0, stages: int = len(GLOBAL), blocks: int = 2) -> None:
        super().__init__()
        channels = [scaled(count, width) for count in GLOBAL[:stages]]
        self.first_conv = nn.Conv2d(1, channels[0], 7, stride=2, padding=3, bias=False)
        before = [channels[0], *channels]
        self.layer_list = nn.ModuleList(
            nn.Sequential(
                PreActivation(before[i], count, 1 if i == 0 else 2, True),
                *(PreActivation(count, count, 1, False) for _ in range(blocks - 1)),
            )
            for i, count in enumerate(channels)
        )
        self.final_bn = nn.BatchNorm2d(channels[-1])
        self.out_channels = channels[-1]

    def forward(self, x_B1HW: Tensor) -> Tensor:
        return self.last(self.stages(x_B1HW)[-1])

    def stages(self, x_B1HW: Tensor) -> list[Tensor]:
        """What comes out of each stage, before the last norm."""
        found, x = [], F.max_pool2d(self.first_conv(x_B1HW), 3, stride=2)
        for layer in self.layer_list:
            found.append(x := layer(x))
        return found

    def last(self, x: Tensor) -> Tensor:
        return F.relu(self.final_bn(x))

    def map_size(self, image: Size) -> Size:
        """h, w of the features of an image."""
        return self._side(image[0]), self._side(image[1])

    def _side(self, side: int) -> int:
        n = (side - 1) // 2 + 1
        n = (n - 3) // 2 + 1
        for _ in self.layer_list[1:]:
            n = (n - 1) // 2 + 1
        return n


class LocalTrunk(nn.Module):
    """ResNet-18 (torchvision's blocks and names) without its last layer: (N, 3, ch, cw) -> (N, L)."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = [scaled(count, width) for count in LOCAL]
        self.conv1 = nn.Conv2d(3, channels[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        before = [channels[0], *channels]
        for i, count in enumerate(channels):
            self.add_module(f"layer{i + 1}", _basic_stage(before[i], count, 1 if i == 0 else 2))
        self.out_channels = channels[-1]

    def forward(self, x_N3HW: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x_N3HW))), 3, stride=2, padding=1)
        for i in range(len(LOCAL)):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return x.mean(dim=(2, 3))


def _basic_stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(Pointwise(inputs, outputs, stride), nn.BatchNorm2d(outputs))
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs))


@dataclass
class Fusion:
    """What the crops say, and what comes out in the end. attention (B, K) sums to 1; logits (B, C)."""

    crop_features: Tensor  # (B, K, L)
    attention: Tensor
    z: Tensor  # (B, L)
    local_logits: Tensor
    fusion_logits: Tensor


class GmicNet(nn.Module):
    """The parts; who calls them decides which map picks the crops."""

    def __init__(self, outputs: int, width: float = 1.0, stages: int = len(GLOBAL), blocks: int = 2) -> None:
        super().__init__()
        self.trunk, self.local = GlobalTrunk(width, stages, blocks), LocalTrunk(width)
        d, features, hidden = self.trunk.out_channels, self.local.out_channels, scaled(HIDDEN, width)
        self.saliency = nn.Conv2d(d, outputs, 1, bias=False)
        self.attention_v = nn.Linear(features, hidden, bias=False)
        self.attention_u = nn.Linear(features, hidden, bias=False)
        self.attention_w = nn.Linear(hidden, 1, bias=False)
        self.local_head = nn.Linear(features, outputs, bias=False)
        self.fusion_head = nn.Linear(d + features, outputs)

    def logits(self, features_BDhw: Tensor) -> Tensor:
        """z (B, C, h, w) of the saliency map, in float32 whatever the precision: 8 bits would make steps of it."""
        with torch.autocast(features_BDhw.device.type, enabled=False):
            z: Tensor = self.saliency(full(features_BDhw))
        return z

    def fuse(self, features_BDhw: Tensor, crops_BKHW: Tensor) -> Fusion:
        """Gated attention over the crops (Ilse et al. 2018), then the maximum of each global feature beside them."""
        count, k = crops_BKHW.shape[:2]
        flat = crops_BKHW.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
        h_BKL = full(self.local(flat)).view(count, k, -1)
        gated = torch.sigmoid(self.attention_u(h_BKL)) * torch.tanh(self.attention_v(h_BKL))
        attention_BK = full(self.attention_w(gated))[..., 0].softmax(dim=1)
        z = (attention_BK[..., None] * h_BKL).sum(dim=1)
        both = torch.cat([full(features_BDhw).amax(dim=(2, 3)), z], dim=1)
        return Fusion(h_BKL, attention_BK, z, full(self.local_head(z)), full(self.fusion_head(both)))

    def take_released(self, state: Mapping[str, Tensor]) -> None:
        """Load a checkpoint with the released names, or with ours; ValueError lists what does not fit."""
        ours = {_renamed(key): value for key, value in state.items()}
        own = self.state_dict()
        missing, unknown = sorted(own.keys() - ours.keys()), sorted(ours.keys() - own.keys())
        shapes = [
            f"{key} {tuple(ours[key].shape)} in place of {tuple(own[key].shape)}"
            for key in sorted(own.keys() & ours.keys()) if ours[key].shape != own[key].shape
        ]  # fmt: skip
        faults = {"missing": missing, "unknown": unknown, "of another shape": shapes}
        if any(faults.values()):
            raise ValueError(
                "; ".join(f"{len(keys)} {word}: {', '.join(keys)}" for word, keys in faults.items() if keys)
            )
        self.load_state_dict(ours)


def _renamed(key: str) -> str:
    for released, own in RELEASED.items():
        if key.startswith(released):
            return own + key.removeprefix(released)
    return key


# ---- pooling of the saliency map ------------------------------------------------------------------------------------
def top_count(cells: int, percent: float) -> int:
    """T of the top-t pooling: the share of the cells, halves to even; at least 1, where the released code would divide by none."""
    return max(1, round(cells * percent))


def top_mean(saliency_BChw: Tensor, count: int) -> Tensor:
    """(B, C) mean of the `count` highest cells of each class."""
    return saliency_BChw.flatten(2).topk(count, dim=2).values.mean(dim=2)


def score_gradient(logit_Bhw: Tensor, score: Score, count: int) -> Tensor:
    """m(p) = d score / d z(p) of a score that pools one class's logits z: (B, h, w), never negative.

    topt: the mean of the `count` highest sigmoids (y_global); topt_logit: of the highest logits; mean_logit, sum_logit: of all.
    """
    cells = logit_Bhw.shape[1] * logit_Bhw.shape[2]
    if score in ("sum_logit", "mean_logit"):
        return torch.full_like(logit_Bhw, 1.0 if score == "sum_logit" else 1 / cells)
    chosen = logit_Bhw.flatten(1).topk(count, dim=1).indices
    m = torch.zeros_like(logit_Bhw.flatten(1)).scatter_(1, chosen, 1 / count).view_as(logit_Bhw)
    if score == "topt":
        m = m * logit_Bhw.sigmoid() * (-logit_Bhw).sigmoid()  # of a sure film 1 - p would be 0
    return m


def released_bce(probability: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of probabilities, its logarithms limited at -100; not reduced."""
    with torch.autocast(probability.device.type, enabled=False):
        return F.binary_cross_entropy(full(probability), target.to(full(probability).dtype), reduction="none")
