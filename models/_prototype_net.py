"""What IAIA-BL and its ProtoPNet baseline share: network, stages, projection, pruning, malignancy head, explanation.

Shapes: B images, C prototype depth, h w cells of the latent map, M prototypes, K classes, S side of the input.
Paper 002 is Barnett et al. 2021, IAIA-BL; "code" its authors' public code, read and not copied.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.batch import Batch
from data.errors import ConfigError, DataError
from models import _projection as projection
from models import _prototype_panels as panels
from models import _prototypes as proto
from models._prototype_config import PrototypeConfig
from models._prototype_panels import Seen
from models._trunks import InputNorm, check_weights, requirements, trunk_state, vgg16_trunk
from models.method import (
    Context,
    Evidence,
    Group,
    Loss,
    Method,
    Panel,
    Prediction,
    Requirement,
    Stage,
    Task,
    term,
)

UNKNOWN = panels.UNKNOWN


class _PrototypeNet(Method):
    """Trunk, add-on layers, prototypes, last layer h1 without bias; after training a logistic head h2 on its logits."""

    classes: Tensor
    active: Tensor
    source_place: Tensor
    source_distance: Tensor
    source_image: Tensor
    source_mask: Tensor
    source_map: Tensor
    source_box: Tensor
    malignancy_weight: Tensor
    malignancy_bias: Tensor

    def __init__(self, config: PrototypeConfig, task: Task) -> None:
        super().__init__(config, task)
        k, each = len(task.classes), config.prototypes_per_class
        self.trunk = vgg16_trunk(config)
        depth = max(1, round(config.prototype_depth * config.width))
        self.add_on = proto.add_on_layers(self.trunk.out_channels, depth)
        self.prototypes = nn.Parameter(torch.rand(k * each, depth))
        self.h1 = nn.Linear(k * each, k, bias=False)
        self.register_buffer("classes", torch.arange(k).repeat_interleave(each))
        with torch.no_grad():
            self.h1.weight.copy_(proto.class_weights(self.classes, k, config.incorrect_class_weight))
        side = self.trunk.map_size(config.size)
        if config.topk_k > side * side:
            raise ConfigError(
                f"topk_k {config.topk_k} is more than the map's {side} x {side} cells", "topk_k", "lower it"
            )
        m = k * each
        self.register_buffer("active", torch.ones(m, dtype=torch.bool))
        self.register_buffer(
            "source_place", torch.full((m, 3), UNKNOWN)
        )  # row of the training table, map row, map column
        self.register_buffer(
            "source_distance", torch.full((m,), float("nan"))
        )  # of the prototype before its projection
        self.register_buffer("source_image", torch.zeros(m, config.size, config.size, dtype=torch.uint8))
        self.register_buffer("source_mask", torch.zeros(m, config.size, config.size, dtype=torch.uint8))
        self.register_buffer(
            "source_map", torch.zeros(m, side, side)
        )  # the projected prototype's similarity on its source
        self.register_buffer("source_box", torch.zeros(m, 4, dtype=torch.int64))  # x0 y0 x1 y1
        self.register_buffer("malignancy_weight", torch.zeros(k))
        self.register_buffer("malignancy_bias", torch.zeros(()))

    # ---- what it is fed with, and starts from -------------------------------------------------------------------
    @classmethod
    def requires(cls, config: Any, task: Task) -> list[Requirement]:
        return requirements(config, task)

    def start_from(self, name: str, state: Mapping[str, Tensor]) -> None:
        self.trunk.take_over(trunk_state(state))

    @property
    def supervision(self) -> str:
        """What training saw under this config."""
        return "label + mask" if self.config.prototype_init == "lesion_patches" else "label"

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams that each step is made of."""
        return tuple(stream.name for stream in self.inputs().streams)

    # ---- stages --------------------------------------------------------------------------------------------------
    def stages(self) -> list[Stage]:
        c, streams = self.config, self.streams
        check_weights(c)
        if "fine_annotated" in (c.projection_set, c.mal_head.fit_on) and "fine" not in streams:
            raise ConfigError("there is no stream of finely annotated samples", "projection_set", "choose train")
        stages: list[Stage] = []
        if c.prototype_init == "lesion_patches":
            stages.append(Stage("prototype_init", epochs=0, selectable=False, after=self.start_in_lesions))
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
                stages.append(self._h1_stage(f"h1 {number}", c.h1_epochs, c.lr_h1, "h1"))
        if c.prune.rule != "none":
            stages.append(Stage("prune", epochs=0, start="best", after=self.prune))
            if c.prune.h1_epochs:
                stages.append(self._h1_stage("h1 pruned", c.prune.h1_epochs, c.prune.lr_h1, None))
        if self.task.track.name == "margin" and "malignant" in self.task.provides:
            stages.append(Stage("malignancy", epochs=0, start="best", after=self.fit_malignancy))
        return stages

    def _groups(self, lr_add_on: float) -> list[Group]:
        c = self.config
        return [
            self.group("add_on", self.add_on, lr=lr_add_on, weight_decay=c.weight_decay),
            self.group("prototypes", self.prototypes, lr=c.lr_prototypes),
        ]

    def _h1_stage(self, name: str, epochs: int, lr: float, optimiser: str | None) -> Stage:
        """The last layer alone, on similarities that are made once: the rest is frozen."""
        group = self.group("h1", self.h1, lr=lr)
        return Stage(name, [group], epochs, optimiser=optimiser, streams=self.streams, cache=self.cache_scores)

    def joint_factor(self, epochs: float) -> float:
        factor: float = 0.1 ** int(epochs // self.config.lr_step)
        return factor

    # ---- forward ------------------------------------------------------------------------------------------------
    def latent(self, image_B1HW: Tensor, input_norm: InputNorm | None = None) -> Tensor:
        """z (B, C, h, w) in the prototypes' precision."""
        z: Tensor = self.add_on(self.trunk(image_B1HW, input_norm))
        return z.to(self.prototypes.dtype)

    def look(self, image_B1HW: Tensor) -> Seen:
        z = self.latent(image_B1HW)
        with torch.autocast(z.device.type, enabled=False):  # distances need full precision
            d = proto.distances(z, self.prototypes, self.config.distance)
            scores, gamma = proto.pooled(d, self.config.topk_k)
            return Seen(d, scores, gamma, self.last_layer(scores))

    def last_layer(self, scores_BM: Tensor) -> Tensor:
        with torch.autocast(scores_BM.device.type, enabled=False):
            return F.linear(scores_BM * self.active, self.h1.weight)

    @torch.no_grad()
    def cache_scores(self, batch: Batch) -> dict[str, Tensor]:
        return {"scores": self.look(batch.image).scores}

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

    def mask_terms(self, batch: Batch, seen: Seen) -> dict[str, Any]:
        """Further terms of the loss; IAIA-BL's fine term."""
        return {}

    # ---- what stages do to the model ----------------------------------------------------------------------------
    @torch.no_grad()
    def start_in_lesions(self, context: Context) -> None:
        """Prototypes become patches inside lesions of their class, one per training sample, drawn by the run's seed."""
        k, each = len(self.task.classes), self.config.prototypes_per_class
        seed = int(context.generator("prototype_init").integers(2**31))
        draws: list[projection.Draw] = []
        for batch in context.batches("train"):
            masked = batch.mask * batch.has_mask.view(-1, 1, 1, 1)
            new = projection.lesion_draws(self.latent(batch.image), masked, batch.index, batch.label, seed)
            draws = projection.keep_lowest(draws + new, each, k)
        draws = projection.keep_lowest([draw for share in context.gather(draws) for draw in share], each, k)
        for kind, name in enumerate(self.task.classes):
            vectors = [vector for _, label, vector in draws if label == kind]
            if not vectors:
                raise ConfigError(
                    f"no training sample of class {name!r} has a mask",
                    "prototype_init: lesion_patches",
                    "set it to uniform",
                )
            for position in range(each):  # a class with fewer samples than prototypes gives some twice
                self.prototypes[kind * each + position] = vectors[position % len(vectors)].to(self.prototypes)

    @torch.no_grad()
    def project(self, context: Context) -> None:
        """Each prototype becomes the nearest training patch of its class, and keeps where that was."""
        c = self.config
        norm: InputNorm | None = "imagenet" if c.projection_input_norm == "imagenet" else None
        best: dict[int, projection.Patch] = {}
        for batch in context.batches("train" if c.projection_set == "train" else "fine"):
            z = self.latent(batch.image, norm)
            found = projection.nearest_patches(z, batch.index, batch.label, self.prototypes, self.classes)
            for j, (patch, position) in found.items():
                if self.active[j] and (j not in best or patch.key < best[j].key):
                    d = proto.distances(z[position : position + 1], patch.vector_C[None], c.distance)
                    patch.map_hw = proto.similarity(d)[0, 0].cpu()
                    patch.image_SS = _grey(batch.image[position, 0])
                    patch.mask_SS = _grey(batch.mask[position, 0] * batch.has_mask[position])
                    patch.vector_C = patch.vector_C.cpu()
                    best[j] = patch
        for j, patch in projection.reduce_patches(context.gather(best)).items():
            assert patch.map_hw is not None and patch.image_SS is not None and patch.mask_SS is not None
            self.prototypes[j] = patch.vector_C.float().to(self.prototypes)
            self.source_place[j] = torch.tensor(patch.key[1:])
            self.source_distance[j] = patch.key[0]
            self.source_image[j] = patch.image_SS.to(self.source_image.device)
            self.source_mask[j] = patch.mask_SS.to(self.source_mask.device)
            self.source_map[j] = patch.map_hw.to(self.source_map)
            self.source_box[j] = torch.tensor(projection.activation_box(patch.map_hw, c.size))

    @torch.no_grad()
    def prune(self, context: Context) -> None:
        """Take prototypes out by the rule of `prune`; indices keep their meaning, in ascending order."""
        rule, kinds, active = self.config.prune, self.classes.tolist(), self.active.tolist()
        if rule.rule == "duplicates":
            places = [(int(a), int(b), int(c)) for a, b, c in self.source_place.tolist()]
            pruned = projection.duplicates(kinds, places, active)
        elif rule.rule == "manual":
            pruned = [j for j in range(len(kinds)) if j not in rule.keep]
        else:
            pruned = projection.knn(*self._image_distances(context), kinds, rule.k, rule.threshold)
        kept = projection.after_pruning(active, pruned, kinds, self.task.classes)
        self.active.copy_(torch.tensor(kept))

    def _image_distances(self, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Of every training sample, in table order: the smallest distance to each prototype (N, M), and the label (N)."""
        parts = []
        for batch in context.batches("train"):
            d = proto.distances(self.latent(batch.image), self.prototypes, self.config.distance)
            parts.append((batch.index.cpu(), d.flatten(2).min(dim=2).values.cpu(), batch.label.cpu()))
        _, d, labels = _in_table_order(context, parts)
        return d.numpy(), labels.numpy()

    @torch.no_grad()
    def fit_malignancy(self, context: Context) -> None:
        """h2: logistic regression of malignancy on the unnormalised margin logits; nothing else is touched."""
        parts = []
        for batch in context.batches("train" if self.config.mal_head.fit_on == "train" else "fine"):
            known = (batch.margin >= 0) & (batch.malignant >= 0)
            logits = self.look(batch.image).logits[known]
            parts.append((batch.index[known].cpu(), logits.cpu(), batch.malignant[known].cpu()))
        _, logits, malignant = _in_table_order(context, parts)
        if len(malignant.unique()) < 2:
            raise DataError(
                "training rows with a margin are all of one malignancy", "malignancy head", "add rows of both"
            )
        weight, bias = projection.logistic(logits, malignant, self.config.mal_head.penalty)
        self.malignancy_weight.copy_(weight)
        self.malignancy_bias.fill_(bias)

    @property
    def coefficients(self) -> dict[str, float]:
        """Weights of h2 by margin, and its intercept (the paper's Eq. 10 prints them times 100)."""
        named = dict(zip(self.task.classes, self.malignancy_weight.tolist(), strict=True))
        return named | {"intercept": float(self.malignancy_bias)}

    # ---- reading ------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def predict(self, batch: Batch, track: str) -> Prediction:
        """On malignancy a network of margins answers through h2: scores 0 and the logit; others are flagged."""
        logits = self.look(batch.image).logits
        if track == self.task.track.name:
            return Prediction(scores=logits, probabilities=logits.softmax(dim=1))
        # a sum, not a matrix product: autocast would round that to half precision
        malignant = (logits * self.malignancy_weight.to(logits)).sum(dim=1) + self.malignancy_bias.to(logits)
        scores = torch.stack([torch.zeros_like(malignant), malignant], dim=1)
        return Prediction(scores=scores, probabilities=scores.softmax(dim=1), flagged=batch.margin == UNKNOWN)

    @torch.no_grad()
    def maps(self, batch: Batch, target: Tensor) -> dict[str, Tensor]:
        """Class activation visualisation, Eq. 11, before its min-max."""
        seen = self.look(batch.image)
        s = proto.similarity(seen.d)
        return {"cav": proto.class_activation(s, seen.scores, target, self.classes, self.active)}

    @torch.no_grad()
    def evidence(self, batch: Batch) -> Evidence:
        """One source per prototype that pruning left."""
        seen = self.look(batch.image)
        here = self.active.nonzero()[:, 0]
        contributions = seen.scores[:, here, None] * self.h1.weight.T[None, here]
        return Evidence(
            maps=proto.similarity(seen.d[:, here]).unbind(1),
            contributions=contributions,
            names=tuple(f"prototype {j}" for j in here.tolist()),
            classes=tuple(self.classes[here].tolist()),
            places=tuple(" ".join(map(str, place)) for place in self.source_place[here].tolist()),
        )

    @torch.no_grad()
    def explain(self, batch: Batch) -> list[list[Panel]]:
        """The paper's figure: the image, then the prototypes that spoke most for the predicted class."""
        seen = self.look(batch.image)
        return [panels.case(self, batch, seen, i) for i in range(len(batch))]

    def artifacts(self) -> dict[str, list[Panel]]:
        """A gallery of the prototypes that pruning left, each as the training patch that it is and its map there."""
        left = self.active.nonzero()[:, 0].tolist()
        return {"prototypes": [panel for j in left for panel in (panels.source(self, j), panels.source_map(self, j))]}


def stretches(joint_epochs: int, push_every: int) -> list[int]:
    """Lengths of the joint stretches, a projection after each, counted back from the last epoch: 41 by 10 gives 1, 10,
    10, 10, 10, that is projections after epochs 10, 20, 30, 40 and 50 of a run with 10 warm epochs."""
    first = (joint_epochs - 1) % push_every + 1
    return [first] + [push_every] * ((joint_epochs - first) // push_every)


def _grey(picture_HW: Tensor) -> Tensor:
    """[0, 1] as uint8 on the CPU."""
    return (picture_HW.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def _in_table_order(context: Context, parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Columns of all workers' parts, the first one being rows of the table, sorted by it."""
    shares = [share for share in context.gather([torch.cat(column) for column in zip(*parts, strict=True)]) if share]
    rows, a, b = (torch.cat(column) for column in zip(*shares, strict=True))
    order = torch.argsort(rows, stable=True)
    return rows[order], a[order], b[order]
