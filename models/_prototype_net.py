"""The network that IAIA-BL and its ProtoPNet baseline share: one latent map, distances, their stages and loss.

Shapes: B images, C prototype depth, h w cells of the latent map, M prototypes, K classes, S side of the input.
Paper 002 is Barnett et al. 2021, IAIA-BL; "code" its authors' public code, read and not copied.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.batch import Batch
from data.errors import ConfigError
from models import _prototype_panels as panels
from models import _prototypes as proto
from models._prototype_base import Level, PrototypeMethod, Seen, stretches
from models._prototype_config import PrototypeConfig
from models._trunks import InputNorm, check_weights, requirements, vgg16_trunk
from models.method import Group, Loss, Requirement, Stage, Task, term


@dataclass
class Distances(Seen):
    """What the network makes of a batch: further d (B, M, h, w) and gamma_j (B, M), the mean of the k smallest."""

    d: Tensor
    gamma: Tensor

    @cached_property
    def levels(self) -> list[Level]:
        return [(proto.similarity(self.d), torch.arange(self.d.shape[1], device=self.d.device))]


class _PrototypeNet(PrototypeMethod):
    """Trunk, add-on layers, prototypes, last layer h1 without bias; after training a logistic head h2 on its logits."""

    def __init__(self, config: PrototypeConfig, task: Task) -> None:
        super().__init__(config, task)
        k, each = len(task.classes), config.prototypes_per_class
        self.trunk = vgg16_trunk(config)
        depth = max(1, round(config.prototype_depth * config.width))
        self.add_on = proto.add_on_layers(self.trunk.out_channels, depth)
        self.prototypes = nn.Parameter(torch.rand(k * each, depth))
        self.h1 = nn.Linear(k * each, k, bias=False)
        side = self.trunk.map_size(config.size)
        if config.topk_k > side * side:
            raise ConfigError(
                f"topk_k {config.topk_k} is more than the map's {side} x {side} cells", "topk_k", "lower it"
            )
        self.keep_sources(torch.arange(k).repeat_interleave(each), [side] * (k * each))
        self.projection_norm = "imagenet" if config.projection_input_norm == "imagenet" else None
        with torch.no_grad():
            self.h1.weight.copy_(proto.class_weights(self.classes, k, config.incorrect_class_weight))

    # ---- what it is fed with, and starts from -------------------------------------------------------------------
    @classmethod
    def requires(cls, config: Any, task: Task) -> list[Requirement]:
        return requirements(config, task)

    # ---- stages --------------------------------------------------------------------------------------------------
    def stages(self) -> list[Stage]:
        c, streams = self.config, self.streams
        check_weights(c)
        self.check_stages()
        if c.projection_set == "fine_annotated" and "fine" not in streams:
            raise ConfigError("there is no stream of finely annotated samples", "projection_set", "choose train")
        stages = self.init_stages()
        if c.warm_epochs:
            stages.append(
                Stage(
                    "warm",
                    self._groups(c.lr_warm_add_on),
                    c.warm_epochs,
                    optimiser="warm",
                    streams=streams,
                    selectable=False,
                )
            )
        joint = [
            *self._groups(c.lr_add_on),
            self.group("trunk", self.trunk, lr=c.lr_trunk, weight_decay=c.weight_decay),
        ]
        for number, epochs in enumerate(stretches(c.joint_epochs, c.push_every), start=1):
            stages.append(
                Stage(
                    f"joint {number}",
                    joint,
                    epochs,
                    optimiser="joint",
                    schedule=self.joint_factor,
                    streams=streams,
                    selectable=False,
                )
            )
            stages.append(Stage(f"project {number}", epochs=0, after=self.project))
            if c.h1_epochs:
                stages.append(self.head_stage(f"h1 {number}", c.h1_epochs, c.lr_h1, "h1"))
        stages += self.prune_stages()
        return [*stages, *self.malignancy_stages()]

    def _groups(self, lr_add_on: float) -> list[Group]:
        c = self.config
        return [
            self.group("add_on", self.add_on, lr=lr_add_on, weight_decay=c.weight_decay),
            self.group("prototypes", self.prototypes, lr=c.lr_prototypes),
        ]

    # ---- forward ------------------------------------------------------------------------------------------------
    def latent(self, image_B1HW: Tensor, input_norm: InputNorm | None = None) -> Tensor:
        """z (B, C, h, w) in the prototypes' precision."""
        z: Tensor = self.add_on(self.trunk(image_B1HW, input_norm))
        return z.to(self.prototypes.dtype)

    def look(self, image_B1HW: Tensor) -> Distances:
        z = self.latent(image_B1HW)
        with torch.autocast(z.device.type, enabled=False):  # distances need full precision
            d = proto.distances(z, self.prototypes, self.config.distance)
            scores, gamma = proto.pooled(d, self.config.topk_k)
            return Distances(scores, self.last_layer(scores), d, gamma)

    def forward(self, batch: Batch, stage: Stage) -> Loss:
        """Eq. 3; on cached scores only the terms that reach the last layer."""
        c = self.config
        l1 = proto.other_class_l1(self.h1.weight, self.classes, self.active)
        if batch.cached is not None:
            logits = self.last_layer(batch.cached["scores"].to(self.h1.weight.dtype))
            return Loss(cross_entropy=term(F.cross_entropy(logits, batch.label)), l1=term(l1, weight=c.coef_l1))
        seen = self.look(batch.image)
        cluster, separation = proto.cluster_separation(seen.gamma, batch.label, self.classes, self.active)
        return Loss(
            cross_entropy=term(F.cross_entropy(seen.logits, batch.label)),
            cluster=term(cluster, weight=c.coef_clst),
            separation=term(separation, weight=-c.coef_sep),
            l1=term(l1, weight=c.coef_l1),
            **self.mask_terms(batch, seen),
        )

    def mask_terms(self, batch: Batch, seen: Distances) -> dict[str, Any]:
        """Further terms of the loss; IAIA-BL's fine term."""
        return {}

    # ---- what the shared parts ask ------------------------------------------------------------------------------
    @property
    def projection_streams(self) -> tuple[str, ...]:
        return ("fine",) if self.config.projection_set == "fine_annotated" else ("train",)

    @property
    def standing(self) -> list[Tensor]:
        return [torch.arange(len(self.classes), device=self.classes.device)]

    def latents(self, image_B1HW: Tensor, input_norm: InputNorm | None = None) -> list[Level]:
        return [(self.latent(image_B1HW, input_norm), self.standing[0])]

    def own_map(self, z_1Chw: Tensor, vector_C: Tensor) -> Tensor:
        return proto.similarity(proto.distances(z_1Chw, vector_C[None], self.config.distance))[0, 0]

    def pooled_map(self, j: int, map_hw: Tensor) -> float:
        return float(map_hw.flatten().topk(self.config.topk_k).values.mean())

    def pooling(self, j: int) -> str:
        return panels.highest(self.config.topk_k)

    def nearest(self, image_B1HW: Tensor) -> Tensor:
        return self.look(image_B1HW).d.flatten(2).min(dim=2).values
