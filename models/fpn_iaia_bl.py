"""Yang, Barnett et al. 2024, "FPN-IAIA-BL: a multi-scale interpretable deep learning model for classification of mass
margins in digital mammography" (paper 000). No public code; gaps are filled from the works that it cites.

A prototype network on a feature pyramid: each prototype stands on one level, is compared by cosine, pooled by a focal
similarity, and taught where to look by weights for each pair of sample class and prototype class. A fourth class,
"negative", is trained on lesion-free regions. Shapes: B images, d channels of the pyramid, h w cells of a level, M
prototypes, K classes, the negative one last.
Deviations: (1) augmentation is drawn online; (2) the epoch is chosen on validation; (3) counts, coefficients, rates and
epochs are not printed: those of IAIA-BL and Deformable ProtoPNet are taken; (4) negatives are drawn into each step.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.batch import Batch
from data.inputs import Inputs, Stream
from models import _fine_annotation as fine
from models import _focal as focal
from models import _prototype_panels as panels
from models import _prototypes as proto
from models._fpn_config import NEGATIVE, FpnConfig, iaia_bl_run
from models._prototype_base import Level, PrototypeMethod, Seen, stretches
from models._pyramid import Pyramid
from models._trunks import InputNorm, check_weights, requirements, vgg16_trunk
from models.iaia_bl import Config as IaiaBlConfig
from models.method import Card, Group, Loss, Requirement, Stage, Task, Term, term

CARD = Card(
    name="fpn_iaia_bl",
    title="FPN-IAIA-BL: prototypes on a feature pyramid",
    year=2024,
    tracks={"margin": "margin", "malignancy": "margin"},
    explains="prototypes at several scales: this part of the lesion looks like that one",
    paper="Yang, Barnett et al., FPN-IAIA-BL (2024)",
    reference="none public",
    needs=frozenset({"mask"}),
    supervision="label + fine mask",
    deviations=(
        "augmentation is drawn online, not once",
        "the epoch is chosen on validation",
        "counts, coefficients, rates and epochs that the paper does not print are IAIA-BL's or Deformable ProtoPNet's",
        "lesion-free regions are drawn into each step at the paper's rate, from a pool drawn once per seed",
    ),
    refuses={"detection": "its classes are margins of a given lesion"},
)


@dataclass
class FocalSeen(Seen):
    """What the network makes of a batch: further the mean of the k largest cosines and that of all, (B, M) each."""

    maps: list[Level]
    top: Tensor
    mean: Tensor

    @cached_property
    def levels(self) -> list[Level]:
        return self.maps


class FpnIaiaBl(PrototypeMethod):
    """Trunk, pyramid, prototypes on its levels, last layer without bias; a logistic head on the margin logits."""

    version = 1
    Config = FpnConfig
    measure = "cosine"
    map_word = "cosine"
    level_M: Tensor

    def __init__(self, config: FpnConfig, task: Task) -> None:
        super().__init__(config, task)
        self.trunk = vgg16_trunk(config)
        kinds, levels = config.prototypes.table(self.class_names, max(self.trunk.levels))
        lowest = min(levels)
        channels = {level: count for level, count in self.trunk.levels.items() if level >= lowest}
        dim = max(1, round(config.dim * config.width))
        self.pyramid = Pyramid(channels, dim, config.topdown, config.upsample)
        self.prototypes = nn.Parameter(torch.rand(len(kinds), dim))
        outputs = len(self.class_names) if config.outputs == 4 else len(task.classes)
        self.h1 = nn.Linear(len(kinds), outputs, bias=False)
        self.register_buffer("level_M", torch.tensor(levels))
        self.keep_sources(torch.tensor(kinds), [self.trunk.level_size(level, config.size) for level in levels])
        with torch.no_grad():
            start = proto.class_weights(self.classes, len(self.class_names), config.incorrect_class_weight)
            self.h1.weight.copy_(start[:outputs])
        self.k = {level: config.cells(level, self.trunk.level_size(level, config.size) ** 2) for level in set(levels)}
        self.any_class = config.projection_classes == "any"
        self.weights = focal.PairWeights.of(
            config.lambda_out, config.lambda_in, config.fine_reading, config.fine_table_orientation
        )

    # ---- what it is fed with, and starts from -------------------------------------------------------------------
    @property
    def class_names(self) -> tuple[str, ...]:
        return (*self.task.classes, NEGATIVE)

    def inputs(self) -> Inputs:
        """Samples, finely annotated ones where the data set has such, and lesion-free regions."""
        c = self.config
        own = fine.with_fine_stream(super().inputs(), c, self.task)
        negative = Stream(NEGATIVE, c.negative_batch_size, only="negative")
        return replace(own, streams=(*own.streams, negative), negatives=c.negatives)

    @classmethod
    def requires(cls, config: Any, task: Task) -> list[Requirement]:
        """A trained IAIA-BL, whose trunk this one goes on with; or what any trunk starts from."""
        if config.start == "weights":
            return requirements(config, task)
        return [Requirement("iaia_bl", method="iaia_bl", config=iaia_bl_run(config), track=task.track.name)]

    @property
    def supervision(self) -> str:
        """Masks count where the trunk that this one starts from was taught by them, too."""
        c = self.config
        taught = c.coef_fine or (c.start == "iaia_bl" and IaiaBlConfig(**iaia_bl_run(c)).coef_fine)
        return fine.supervision(self.task) if taught else super().supervision

    # ---- stages --------------------------------------------------------------------------------------------------
    def stages(self) -> list[Stage]:
        """A: trunk frozen; B: projection; C: everything, with projections; then the last layer alone."""
        c = self.config
        if c.start == "weights":
            check_weights(c)
        self.check_stages()
        streams = self.streams
        stages = self.init_stages()
        new = self._groups()
        if c.warm_epochs:
            stages.append(Stage("frozen", new, c.warm_epochs, optimiser="frozen", streams=streams, selectable=False))
            stages.append(Stage("project 0", epochs=0, after=self.project))
        trunk = self.group("trunk", self.trunk, lr=c.lr_trunk, weight_decay=c.weight_decay)
        lengths = stretches(c.joint_epochs, c.push_every)
        for number, epochs in enumerate(lengths, start=1):
            joint = Stage(
                f"joint {number}", [*new, trunk], epochs, optimiser="joint", schedule=self.joint_factor,
                streams=streams, selectable=False,
            )  # fmt: skip
            stages += [joint, Stage(f"project {number}", epochs=0, after=self.project)]
            if c.h1_epochs and (c.head_after == "each" or number == len(lengths)):
                stages.append(self.head_stage(f"h1 {number}", c.h1_epochs, c.lr_h1, "h1"))
        stages += self.prune_stages()
        return [*stages, *self.malignancy_stages()]

    def _groups(self) -> list[Group]:
        """What is new beside the trunk."""
        c = self.config
        groups = [
            self.group("pyramid", self.pyramid, lr=c.lr_pyramid, weight_decay=c.weight_decay),
            self.group("prototypes", self.prototypes, lr=c.lr_prototypes),
        ]
        return [*groups, self.group("h1", self.h1, lr=c.lr_h1)] if c.train_head else groups

    # ---- forward ------------------------------------------------------------------------------------------------
    def latents(self, image_B1HW: Tensor, input_norm: InputNorm | None = None) -> list[Level]:
        z = self.pyramid(self.trunk.pyramid(image_B1HW, input_norm))
        levels = sorted(self.k)
        return [
            (z[level].to(self.prototypes.dtype), members) for level, members in zip(levels, self.standing, strict=True)
        ]

    @property
    def standing(self) -> list[Tensor]:
        return [(self.level_M == level).nonzero()[:, 0] for level in sorted(self.k)]

    def look(self, image_B1HW: Tensor, labels_B: Tensor | None = None) -> FocalSeen:
        """labels: in training, whose other-class prototypes the angular margin brings nearer."""
        latents = self.latents(image_B1HW)
        with torch.autocast(image_B1HW.device.type, enabled=False):
            maps: list[Level] = []
            tops, means = [], []
            for (z, members), level in zip(latents, sorted(self.k), strict=True):
                s = focal.cosine_maps(z, self.prototypes[members], self.config.cosine)
                if labels_B is not None and self.config.angular_margin:
                    other = ~proto.own_class(labels_B, self.classes[members])
                    s = focal.widened(s, other, self.config.angular_margin)
                top, mean = focal.pooled(s, self.k[level])
                maps.append((s, members))
                tops.append(top)
                means.append(mean)
            order = torch.cat([members for _, members in maps]).argsort()
            top, mean = torch.cat(tops, dim=1)[:, order], torch.cat(means, dim=1)[:, order]
            scores = top - mean if self.config.score == "focal" else top
            return FocalSeen(scores, self.last_layer(scores), maps, top, mean)

    def labels(self, batch: Batch) -> Tensor:
        """Lesion-free regions carry no label of the track: they are of the last class."""
        return batch.label.where(batch.label >= 0, torch.full_like(batch.label, len(self.task.classes)))

    def forward(self, batch: Batch, stage: Stage) -> Loss:
        """Eq. 4; on cached scores only the terms that reach the last layer."""
        c, labels = self.config, self.labels(batch)
        l1 = term(proto.other_class_l1(self.h1.weight, self.classes, self.active), weight=c.coef_l1)
        if batch.cached is not None:
            logits = self.last_layer(batch.cached["scores"].to(self.h1.weight.dtype))
            return Loss(cross_entropy=self._cross_entropy(logits, labels), l1=l1)
        seen = self.look(batch.image, labels)
        with torch.autocast(batch.image.device.type, enabled=False):
            clustered = seen.top - seen.mean if c.clust_on == "focal" else seen.top
            cluster, separation = focal.cluster_separation(clustered, labels, self.classes, self.active)
            group = self.classes if c.ortho_across_levels else self.classes * (max(self.k) + 1) + self.level_M
            ortho = focal.orthogonality(self.prototypes, group, self.active, c.ortho, len(self.class_names))
            loss = Loss(
                cross_entropy=self._cross_entropy(seen.logits, labels),
                cluster=term(cluster, weight=-c.coef_clst),
                separation=term(separation, weight=c.coef_sep),
                ortho=term(ortho, weight=c.coef_ortho),
                l1=l1,
            )
            if c.coef_fine:
                loss["fine"] = self.fine_term(seen, batch, labels)
        return loss

    def _cross_entropy(self, logits_BK: Tensor, labels_B: Tensor) -> Term:
        """With three outputs lesion-free regions carry none; the mean is over the whole batch, so that workers agree."""
        known = labels_B < logits_BK.shape[1]
        summed = F.cross_entropy(logits_BK[known], labels_B[known], reduction="sum")
        return term(summed / len(labels_B))

    def fine_term(self, seen: FocalSeen, batch: Batch, labels_B: Tensor) -> Term:
        """Eq. 5 over the batch: one norm for each (image, prototype); every pixel of a lesion-free region is irrelevant."""
        c = self.config
        outside_B1HW, taken_B = fine.relevance(c, batch, seen.scores)
        taken_B = taken_B | (labels_B == len(self.task.classes))
        rows = taken_B.nonzero()[:, 0]
        per_sample = seen.scores.new_zeros(len(rows))
        for s, members in seen.maps:
            pairs = (labels_B[rows, None], self.classes[members][None, :])
            out, inside = (table.to(s)[pairs] * self.active[members] for table in self.tables)
            squares = focal.fine_squares(s[rows], outside_B1HW[rows, 0], out, inside)
            per_sample = per_sample + focal.safe_sqrt(squares).sum(dim=1)
        return fine.reduced(c, per_sample, batch, "per_prototype", c.coef_fine)

    @property
    def tables(self) -> tuple[Tensor, Tensor]:
        """(K, K) weights outside and inside the mask."""
        return self.weights.outside_KK, self.weights.inside_KK

    # ---- what the shared parts ask ------------------------------------------------------------------------------
    @property
    def start_streams(self) -> tuple[str, ...]:
        return ("train", NEGATIVE)

    def start_region(self, batch: Batch) -> Tensor:
        """Lesions; of a lesion-free region all of it."""
        free = (self.labels(batch) == len(self.task.classes)).view(-1, 1, 1, 1)
        return torch.ones_like(batch.mask).where(free, super().start_region(batch))

    def own_map(self, z_1Chw: Tensor, vector_C: Tensor) -> Tensor:
        return focal.cosine_maps(z_1Chw, vector_C[None], self.config.cosine)[0, 0]

    def pooled_map(self, j: int, map_hw: Tensor) -> float:
        top, mean = focal.pooled(map_hw[None, None], self.k[self.level_of(j)])
        return float(top - mean) if self.config.score == "focal" else float(top)

    def pooling(self, j: int) -> str:
        top = panels.highest(self.k[self.level_of(j)])
        return f"{top}, less the mean of all" if self.config.score == "focal" else top

    @property
    def score_word(self) -> str:
        return "focal similarity" if self.config.score == "focal" else super().score_word

    def own_score(self, j: int) -> str:
        if self.config.score != "focal":
            return super().own_score(j)
        return "focal similarity in its own picture: what stands over that map's mean, so no ceiling"

    def nearest(self, image_B1HW: Tensor) -> Tensor:
        seen = self.look(image_B1HW)
        order = torch.cat([members for _, members in seen.maps]).argsort()
        return torch.cat([1 - s.flatten(2).max(dim=2).values for s, _ in seen.maps], dim=1)[:, order]

    def level_of(self, j: int) -> int:
        return int(self.level_M[j])

    def receptive_field(self, j: int) -> int:
        """The trunk's, and what further cells of the top level reach it through the pyramid, wherever it lies."""
        sides = {level: self.trunk.level_size(level, self.config.size) for level in self.pyramid.levels}
        reached = self.pyramid.reach(self.level_of(j), sides)
        return self.trunk.receptive_field + (reached - 1) * self.config.size // sides[self.pyramid.levels[0]]

    def normaliser(self, logits_BK: Tensor) -> Tensor | None:
        """Scores are logarithms of the softmax over all outputs, the negative one included."""
        return -logits_BK.logsumexp(dim=1, keepdim=True)
