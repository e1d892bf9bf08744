"""DenseNet121 fine-tuned to regions: the baseline of paper 003, and the network of its teacher and its student.

Shapes: B images, C channels, h w cells after the last norm, K classes.
Deviations: optimiser, rates, epochs and batch are not printed, so they are ours; the epoch is chosen by AUROC on
validation; the head is as the text says, a linear layer on all 7 x 7 x 1024 values, which fixes the input's size. Whole
films on the track detection are ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from data.batch import Batch
from data.errors import ConfigError
from data.inputs import Augment, Roi
from models import _lesion_background as lb
from models import _transfer as transfer
from models._cams import class_gradient, full, gradcam
from models._densenet import DenseTrunk, Tap, check_imagenet, imagenet_file
from models._trunks import InputNorm
from models.method import (
    Card,
    Field,
    Loss,
    Method,
    MethodConfig,
    Panel,
    Prediction,
    Requirement,
    Rows,
    Source,
    Stage,
    Task,
    scale01,
    term,
)

CARD = Card(
    name="densenet121",
    title="DenseNet121, fine-tuned (baseline)",
    year=2017,
    tracks={"malignancy": "malignancy", "margin": "margin", "detection": "detection"},
    explains="the activation map of the last group, and GradCAM",
    paper="Huang et al. 2017, Densely Connected Convolutional Networks; as fine-tuned in paper 003 (Knowledge-Based Systems 316, 2025)",
    reference="torchvision (BSD-3-Clause), used as a library",
    deviations=(
        "optimiser, learning rate, epochs and batch size are ours: the paper prints none",
        "the epoch is chosen by AUROC on validation",
    ),
)


SHARED = ("size", "width", "samples_per_class", "roi", "augment")  # with a run of any method that this one starts from
START = ("weights", "cell", "input_norm", "head")  # with one of its own method


class Pretraining(BaseModel):
    """Lesions of another data set that the network is trained on before (Table 2: ImageNet, CBIS-DDSM, BCDR)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    dataset: str = Field(..., description="a data set of `list datasets`")
    options: dict[str, Any] = Field({}, description="options of its reader")
    rows: Rows = Field("train", description="train: its training side; all: its test side as well, as the paper's 1696")
    settings: dict[str, Any] = Field(
        {},
        description="of that run, over the published point and what it shares with the later one; all is trained (silent)",
    )


class Config(MethodConfig):
    batch_size: int = Field(16, kind="budget", ge=1, description="samples per step; ours, not printed")
    epochs: int = Field(50, kind="budget", ge=1, description="epochs; ours, not printed")
    weights: Literal["imagenet", "none"] = Field(
        "imagenet", kind="budget", description="where the trunk starts: imagenet (published), none"
    )
    pretrain: Pretraining | None = Field(
        None, description="other lesions that it is trained on before, classifier included; null: none"
    )
    cell: Literal[32, 16, 8] = Field(
        32,
        kind="budget",
        description="pixels along a cell of the last map: 32 published; fewer for small inputs, by a finer stem",
    )
    trainable: Literal["group4", "all"] = Field(
        "group4", kind="budget",
        description="group4: block 4, the last norm and the classifier (published); all, as a start from nothing needs",
    )  # fmt: skip
    unfreeze_transition3: bool = Field(False, description="trainable: group4: with the transition before block 4; ours")
    frozen_bn_eval: bool = Field(
        True,
        description="batch norm of what is frozen keeps its statistics; silent, else they drift with nothing trained",
    )
    head: Literal["flatten", "pool"] = Field(
        "flatten", description="flatten: a linear layer on every cell (published); pool: on their mean"
    )
    input_norm: InputNorm = Field("imagenet", description="scale of the input; silent; as vgg16's")
    tap: Tap = Field(
        "post_norm", description="activations of group 4: after the last norm and ReLU, or the block's; silent"
    )
    lesion_background: lb.Rules = Field(lb.Rules(), description="of the explanation by Lesion and Background")
    lr: float = Field(1e-4, gt=0, description="Adam's rate per step; ours, not printed")
    weight_decay: float = Field(0.0, ge=0, description="coupled; ours, not printed")
    roi: Roi = Field(Roi(strategy="max224"), description="max(224, side) around the mass (published)")
    augment: Augment = Field(Augment(recipe="paper003"), description="flips and a rotation, p 0.5 each (published)")

    @property
    def sources(self) -> tuple[Source, ...]:
        p = self.pretrain
        return (Source(p.dataset, p.options, p.rows),) if p else ()


class DenseNet121(Method):
    """Trunk, linear head, cross-entropy."""

    Config = Config
    map_titles: ClassVar[Mapping[str, str]] = {"activation": "activation map, of no class", "gradcam": "GradCAM"}
    maps_of_no_class: ClassVar[frozenset[str]] = frozenset({"activation"})

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        c = self.config
        self.trunk = DenseTrunk(c.width, c.input_norm, c.cell)
        if c.weights == "imagenet" and c.width == 1 and imagenet_file().is_file():
            self.trunk.load_imagenet()
        cells = 1 if c.head == "pool" else (c.size // c.cell) ** 2
        pool: list[nn.Module] = [nn.AdaptiveAvgPool2d(1)] if c.head == "pool" else []
        self.head = nn.Sequential(*pool, nn.Flatten(), nn.Linear(self.trunk.out_channels * cells, len(task.classes)))

    # ---- what it starts from ------------------------------------------------------------------------------------
    @classmethod
    def requires(cls, config: Any, task: Task) -> list[Requirement]:
        if config.pretrain is None:
            return []
        given = in_common(config, SHARED + START, config.pretrain.settings, "pretrain.settings")
        run = {**given, "picture": config.picture, "trainable": "all", **config.pretrain.settings}
        return [Requirement("pretrained", CARD.name, run, task.track.name, *config.sources)]

    def start_from(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Trunk and head of a run on other lesions, which a student has in common with it."""
        for part in ("trunk", "head"):
            own = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
            getattr(self, part).load_state_dict(own)

    # ---- training -----------------------------------------------------------------------------------------------
    def stages(self) -> list[Stage]:
        c = self.config
        if c.weights == "imagenet":
            check_imagenet(c.width)
        elif c.trainable != "all" and c.pretrain is None:
            raise ConfigError(
                "what is frozen would stay random", "trainable: group4", "set trainable to all, or weights to imagenet"
            )
        parts = [self.trunk] if c.trainable == "all" else self.trunk.parts(c.unfreeze_transition3)[1]
        group = self.group(c.trainable, *parts, self.head, lr=c.lr, weight_decay=c.weight_decay)
        return [Stage("train", [group], epochs=c.epochs)]

    def training_mode(self, stage: Stage) -> None:
        super().training_mode(stage)
        c = self.config
        if c.trainable == "group4" and c.frozen_bn_eval:
            for frozen in self.trunk.parts(c.unfreeze_transition3)[0]:
                frozen.eval()

    def forward(self, batch: Batch, stage: Stage) -> Loss:
        return Loss(cross_entropy=self.cross_entropy(self.trunk(batch.image), batch))

    def cross_entropy(self, activation_BChw: Tensor, batch: Batch) -> Any:
        return term(F.cross_entropy(full(self.head(activation_BChw)), batch.label))

    # ---- reading ------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def predict(self, batch: Batch, track: str) -> Prediction:
        scores_BK = full(self.head(self.trunk(batch.image)))
        return Prediction(scores=scores_BK, probabilities=scores_BK.softmax(dim=1))

    def activations(self, image_B1HW: Tensor) -> dict[int, Tensor]:
        return self.trunk.groups(image_B1HW, self.config.tap)

    def explain(self, batch: Batch) -> list[list[Panel]]:
        """Below the maps the activation map of each group (Eq. 3), from edges to what the head reads."""
        with torch.no_grad():
            groups = self.activations(batch.image)
        maps = {group: transfer.activation_map(full(value)) for group, value in groups.items()}
        return [
            [*row, *(self._of_group(group, row, maps[group][i], groups[group].shape[1]) for group in maps)]
            for i, row in enumerate(super().explain(batch))
        ]

    def _of_group(self, group: int, row: list[Panel], map_hw: Tensor, channels: int) -> Panel:
        shown = scale01(map_hw).float().cpu().numpy()
        image, outline, said = row[0].image, row[1].outline, f"mean of {channels} squared channels"
        return Panel(f"activation map of group {group}", image, map=shown, outline=outline, caption=said, line=1)

    def maps(self, batch: Batch, target: Tensor) -> dict[str, Tensor]:
        """F^4 (Eq. 3), which knows no class; GradCAM of class `target` at the same cells, negative values cut off."""
        with torch.no_grad():
            blocks = self.trunk.blocks(batch.image)
            read = full(self.trunk.last(blocks[4]))
        a, g = class_gradient(read, self.head, target)
        tapped = read if self.config.tap == "post_norm" else full(blocks[4])
        return {"activation": transfer.activation_map(tapped), "gradcam": gradcam(a, g).clamp_min(0)}


def in_common(config: Any, names: Sequence[str], settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields that a run has in common with the one that starts from it; ConfigError where `settings` sets one apart. None
    of them is searched, since the trials of a search share that run."""
    if own := [name for name in settings if name in names]:
        raise ConfigError(f"{own[0]} is shared with the run that starts from this one", where, f"set {own[0]} itself")
    values = config.model_dump(mode="json")
    return {name: values[name] for name in names}
