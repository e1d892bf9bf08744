"""What all prototype networks share once they can look at an image: where prototypes come from, which of them stay, and how
they are read and shown.

Shapes: B images, C prototype depth, h w cells of a level, M prototypes, K classes of the track, S side of the input.
Paper 002 is Barnett et al. 2021, IAIA-BL; "code" its authors' public code, read and not copied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.batch import Batch
from data.errors import ConfigError, DataError
from models import _projection as projection
from models import _prototype_panels as panels
from models import _prototypes as proto
from models._malignancy_head import MalignancyHead
from models._trunks import InputNorm, Trunk, trunk_state
from models.method import Context, Evidence, Panel, Prediction, Stage

UNKNOWN = panels.UNKNOWN
Level = tuple[Tensor, Tensor]  # (B, ..., h, w) of one level, and which prototypes stand on it (M_l)


@dataclass
class Seen:
    """What a network makes of a batch: s_j (B, M), and logits (B, K), of which there may be more than the track's."""

    scores: Tensor
    logits: Tensor

    @cached_property
    def levels(self) -> list[Level]:
        """Similarity maps (B, M_l, h, w) of each level, and their prototypes."""
        raise NotImplementedError

    def map_of(self, j: int) -> Tensor:
        """(B, h, w): where prototype j fires, at its own resolution."""
        for maps, members in self.levels:
            here = (members == j).nonzero()
            if len(here):
                return maps[:, int(here[0])]
        raise IndexError(j)


class PrototypeMethod(MalignancyHead):
    """Has a trunk, prototypes (M, C) of `classes`, and a last layer h1 without bias; a subclass says how it looks."""

    measure: ClassVar[Literal["l2", "cosine"]] = "l2"  # what a projection searches by
    map_word: ClassVar[str] = "similarity"  # what pictures call a cell of a map
    any_class: bool = False  # may a prototype become a patch of another class
    projection_norm: InputNorm | None = None  # of the images that patches are searched in; None: as in training
    trunk: Trunk
    prototypes: nn.Parameter
    h1: nn.Linear
    classes: Tensor
    active: Tensor
    source_place: Tensor
    source_distance: Tensor
    source_image: Tensor
    source_mask: Tensor
    source_maps: Tensor
    source_box: Tensor

    def keep_sources(self, kind_M: Tensor, sides: Sequence[int]) -> None:
        """Buffers for the prototypes' classes, for where each came from, and for the malignancy head.

        sides: cells along one side of each prototype's map.
        """
        m, size = len(kind_M), self.config.size
        self.sides = tuple(sides)
        self.register_buffer("classes", kind_M)
        self.register_buffer("active", torch.ones(m, dtype=torch.bool))
        place = torch.full((m, 3), UNKNOWN)  # row of the training table, map row, map column
        self.register_buffer("source_place", place)
        self.register_buffer("source_distance", torch.full((m,), float("nan")))  # before the projection
        self.register_buffer("source_image", torch.zeros(m, size, size, dtype=torch.uint8))
        self.register_buffer("source_mask", torch.zeros(m, size, size, dtype=torch.uint8))
        # the projected prototype's similarity on its source, row-major; levels differ in their cells
        self.register_buffer("source_maps", torch.zeros(m, max(sides) ** 2))
        self.register_buffer("source_box", torch.zeros(m, 4, dtype=torch.int64))  # x0 y0 x1 y1
        self.add_malignancy_head()

    # ---- what a subclass says -----------------------------------------------------------------------------------
    def look(self, image_B1HW: Tensor) -> Seen:
        raise NotImplementedError

    def latents(self, image_B1HW: Tensor, input_norm: InputNorm | None = None) -> list[Level]:
        """z (B, C, h, w) of each level that has prototypes, and those."""
        raise NotImplementedError

    @property
    def standing(self) -> list[Tensor]:
        """Which prototypes stand on each level, in the order of `latents`."""
        raise NotImplementedError

    def own_map(self, z_1Chw: Tensor, vector_C: Tensor) -> Tensor:
        """(h, w): similarity of a patch's vector with the image that it is of."""
        raise NotImplementedError

    def pooled_map(self, j: int, map_hw: Tensor) -> float:
        """s_j of an image on which prototype j has this map."""
        raise NotImplementedError

    def pooling(self, j: int) -> str:
        """In words, how s_j comes from the cells of the map."""
        raise NotImplementedError

    @property
    def score_word(self) -> str:
        """What pictures call s_j."""
        return "similarity"

    def own_score(self, j: int) -> str:
        """In words, what s_j of prototype j's own training picture is."""
        return f"{self.score_word} to its own picture"

    def nearest(self, image_B1HW: Tensor) -> Tensor:
        """(B, M): the smallest distance of each image to each prototype, as the knn rule of pruning ranks them."""
        raise NotImplementedError

    def receptive_field(self, j: int) -> int:
        """Side of the square of input pixels that one cell of prototype j's map depends on."""
        return self.trunk.receptive_field

    def level_of(self, j: int) -> int:
        """The pyramid's level that prototype j stands on; 0 where there is no pyramid."""
        return 0

    def labels(self, batch: Batch) -> Tensor:
        """(B) the class that each sample trains."""
        return batch.label

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the prototypes: the track's, and any that only training knows."""
        return self.task.classes

    @property
    def projection_streams(self) -> tuple[str, ...]:
        """Streams that patches come from."""
        return self.start_streams

    @property
    def supervision(self) -> str:
        """What training saw under this config."""
        return "label + mask" if self.config.prototype_init == "lesion_patches" else "label"

    def activations(self, image_B1HW: Tensor) -> dict[int, Tensor]:
        return {self.trunk.blocks: self.trunk(image_B1HW)}

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams that each step is made of."""
        return tuple(stream.name for stream in self.inputs().streams)

    def start_from(self, name: str, state: Mapping[str, Tensor]) -> None:
        self.trunk.take_over(trunk_state(state))

    def joint_factor(self, epochs: float) -> float:
        """Of the rates of a joint stage after so many epochs."""
        factor: float = 0.1 ** int(epochs // self.config.lr_step)
        return factor

    def facts(self) -> dict[str, float]:
        """Of the malignancy head; prototypes that pruning left; how far the last projection moved them, in its measure."""
        moved = self.source_distance[self.source_distance.isfinite()]
        far = {"projection_distance": float(moved.mean())} if len(moved) else {}
        return {**super().facts(), "prototypes": float(self.active.sum()), **far}

    # ---- where prototypes come from -----------------------------------------------------------------------------
    def init_stages(self) -> list[Stage]:
        """What comes before training where prototypes start as patches."""
        if self.config.prototype_init == "uniform":
            return []
        return [Stage("prototype_init", epochs=0, selectable=False, after=self.start_as_patches)]

    @torch.no_grad()
    def start_as_patches(self, context: Context) -> None:
        """Prototypes become patches of images of their class, one per training sample, drawn by the run's seed."""
        seed = int(context.generator("prototype_init").integers(2**31))
        draws: dict[int, list[projection.Draw]] = {}
        for batch in (batch for stream in self.start_streams for batch in context.batches(stream)):
            region = self.start_region(batch)
            for level, (z, members) in enumerate(self.latents(batch.image)):
                new = projection.lesion_draws(z, region, batch.index, self.labels(batch), seed + level)
                draws[level] = projection.keep_lowest(draws.get(level, []) + new, self._wanted(members))
        shares = context.gather(draws)
        for level, members in enumerate(self.standing):
            together = [draw for share in shares for draw in share.get(level, [])]
            self._start_level(projection.keep_lowest(together, self._wanted(members)), members)

    @property
    def start_streams(self) -> tuple[str, ...]:
        """Streams that `start_as_patches` draws from."""
        return ("train",)

    def start_region(self, batch: Batch) -> Tensor:
        """(B, 1, H, W): where prototypes may start."""
        if self.config.prototype_init == "patches":
            return torch.ones_like(batch.mask)
        return batch.mask * batch.has_mask.view(-1, 1, 1, 1)

    def _wanted(self, members: Tensor) -> list[int]:
        """How many of these prototypes are of each class."""
        return torch.bincount(self.classes[members].cpu(), minlength=len(self.class_names)).tolist()

    def _start_level(self, draws: list[projection.Draw], members: Tensor) -> None:
        for kind, name in enumerate(self.class_names):
            own = [j for j in members.tolist() if int(self.classes[j]) == kind]
            vectors = [vector for _, label, vector in draws if label == kind]
            if own and not vectors:
                raise DataError(
                    f"no training sample of class {name!r} has a mask",
                    "prototype_init: lesion_patches",
                    "set it to uniform",
                )
            for position, j in enumerate(own):  # a class with fewer samples than prototypes gives some twice
                self.prototypes[j] = vectors[position % len(vectors)].to(self.prototypes)

    @torch.no_grad()
    def project(self, context: Context) -> None:
        """Each prototype becomes the nearest training patch of its class, and keeps where that was."""
        best: dict[int, projection.Patch] = {}
        for batch in (batch for stream in self.projection_streams for batch in context.batches(stream)):
            for z, members in self.latents(batch.image, self.projection_norm):
                found = projection.nearest_patches(
                    z, batch.index, self.labels(batch), self.prototypes[members], self.classes[members],
                    any_class=self.any_class, measure=self.measure,
                )  # fmt: skip
                for i, (patch, position) in found.items():
                    j = int(members[i])
                    if self.active[j] and (j not in best or patch.key < best[j].key):
                        patch.map_hw = self.own_map(z[position : position + 1], patch.vector_C).cpu()
                        patch.image_SS = _grey(batch.image[position, 0])
                        patch.mask_SS = _grey(batch.mask[position, 0] * batch.has_mask[position])
                        patch.vector_C = patch.vector_C.cpu()
                        best[j] = patch
        for j, patch in projection.reduce_patches(context.gather(best)).items():
            self._become(j, patch)

    def _become(self, j: int, patch: projection.Patch) -> None:
        assert patch.map_hw is not None and patch.image_SS is not None and patch.mask_SS is not None
        self.prototypes[j] = patch.vector_C.float().to(self.prototypes)
        self.source_place[j] = torch.tensor(patch.key[1:])
        self.source_distance[j] = patch.key[0]
        self.source_image[j] = patch.image_SS.to(self.source_image.device)
        self.source_mask[j] = patch.mask_SS.to(self.source_mask.device)
        self.source_maps[j] = 0
        self.source_maps[j, : patch.map_hw.numel()] = patch.map_hw.flatten().to(self.source_maps)
        self.source_box[j] = torch.tensor(projection.activation_box(patch.map_hw, self.config.size))

    def source_map(self, j: int) -> Tensor:
        """(h, w): the similarity of prototype j on the image that it was copied from."""
        return self.source_maps[j, : self.sides[j] ** 2].view(self.sides[j], self.sides[j])

    # ---- which of them stay -------------------------------------------------------------------------------------
    def check_stages(self) -> None:
        """ConfigError, before anything is trained, for what a later stage cannot do."""
        c = self.config
        if c.mal_head.fit_on == "fine_annotated" and self.malignancy_stages() and "fine" not in self.streams:
            do = "choose train, or a method and data with finely annotated samples"
            raise ConfigError("there is no stream of finely annotated samples", "mal_head.fit_on", do)
        if c.prune.rule == "manual":
            projection.check_keep(c.prune.keep, self.classes.tolist(), self.class_names)

    def prune_stages(self) -> list[Stage]:
        """Pruning, where a rule asks for it, and the last layer again on what it left."""
        c = self.config.prune
        if c.rule == "none":
            return []
        stages = [Stage("prune", epochs=0, start="best", after=self.prune)]
        return [*stages, self.head_stage("h1 pruned", c.h1_epochs, c.lr_h1, None)] if c.h1_epochs else stages

    def head_stage(self, name: str, epochs: int, lr: float, optimiser: str | None) -> Stage:
        """The last layer alone, on similarities that are made once: the rest is frozen."""
        group = self.group("h1", self.h1, lr=lr)
        return Stage(name, [group], epochs, optimiser=optimiser, streams=self.streams, cache=self.cache_scores)

    @torch.no_grad()
    def prune(self, context: Context) -> None:
        """Take prototypes out by the rule of `prune`; indices keep their meaning, in ascending order."""
        rule, kinds, active = self.config.prune, self.classes.tolist(), self.active.tolist()
        if rule.rule == "duplicates":
            places = [(*place, self.level_of(j)) for j, place in enumerate(self.source_place.tolist())]
            pruned = projection.duplicates(kinds, places, active)
        elif rule.rule == "manual":
            pruned = [j for j in range(len(kinds)) if j not in rule.keep]
        else:
            pruned = projection.knn(*self._image_distances(context), kinds, rule.k, rule.threshold)
        kept = projection.after_pruning(active, pruned, kinds, self.class_names)
        self.active.copy_(torch.tensor(kept))

    def _image_distances(self, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Of every training sample, in table order: the smallest distance to each prototype (N, M), and the label (N)."""
        parts = []
        for batch in (batch for stream in self.start_streams for batch in context.batches(stream)):
            parts.append((batch.index.cpu(), self.nearest(batch.image).cpu(), self.labels(batch).cpu()))
        _, d, labels = projection.in_table_order(context, parts)
        return d.numpy(), labels.numpy()

    # ---- reading ------------------------------------------------------------------------------------------------
    def _margins(self, logits_BK: Tensor) -> Tensor:
        """Logits of the track's classes."""
        return logits_BK[:, : len(self.task.classes)]

    def margin_logits(self, image_B1HW: Tensor) -> Tensor:
        return self._margins(self.look(image_B1HW).logits)

    def last_layer(self, scores_BM: Tensor) -> Tensor:
        with torch.autocast(scores_BM.device.type, enabled=False):
            return F.linear(scores_BM * self.active, self.h1.weight)

    @torch.no_grad()
    def cache_scores(self, batch: Batch) -> dict[str, Tensor]:
        return {"scores": self.look(batch.image).scores}

    def normaliser(self, logits_BK: Tensor) -> Tensor | None:
        """(B, 1) added to the track's logits to make its scores; None: nothing."""
        return None

    @torch.no_grad()
    def predict(self, batch: Batch, track: str) -> Prediction:
        """On malignancy a network of margins answers through its head."""
        logits = self.look(batch.image).logits
        margins = self._margins(logits)
        if track == self.task.track.name:
            shift = self.normaliser(logits)
            scores = margins if shift is None else margins + shift
            return Prediction(scores=scores, probabilities=margins.softmax(dim=1), logits=margins)
        return self.malignancy(margins, batch)

    @torch.no_grad()
    def maps(self, batch: Batch, target: Tensor) -> dict[str, Tensor]:
        """Class activation visualisation, Eq. 11, before its min-max, at the resolution of the finest level."""
        seen = self.look(batch.image)
        parts = [
            proto.class_activation(s, seen.scores[:, members], target, self.classes[members], self.active[members])
            for s, members in seen.levels
        ]
        size = max((part.shape[1], part.shape[2]) for part in parts)
        return {"cav": torch.stack([_at(part, size) for part in parts]).sum(dim=0)}

    @torch.no_grad()
    def evidence(self, batch: Batch) -> Evidence:
        """One source per prototype that pruning left."""
        seen = self.look(batch.image)
        here = self.active.nonzero()[:, 0]
        known = len(self.task.classes)
        shift = self.normaliser(seen.logits)
        return Evidence(
            maps=[seen.map_of(j) for j in here.tolist()],
            contributions=seen.scores[:, here, None] * self._margins(self.h1.weight.T)[None, here],
            names=tuple(f"prototype {j}" for j in here.tolist()),
            classes=tuple(kind if kind < known else UNKNOWN for kind in self.classes[here].tolist()),
            bias=None if shift is None else shift.expand(-1, known),
            levels=tuple(self.level_of(j) for j in here.tolist()),
            places=tuple(
                "" if place[0] == UNKNOWN else " ".join(map(str, place)) for place in self.source_place[here].tolist()
            ),
        )

    @torch.no_grad()
    def explain(self, batch: Batch) -> list[list[Panel]]:
        """The paper's figure: the image and the sum, then the prototypes that spoke most for the predicted class."""
        seen = self.look(batch.image)
        return panels.cases(self, batch, seen, self.maps(batch, self._margins(seen.logits).argmax(dim=1))["cav"])

    def artifacts(self) -> dict[str, list[Panel]]:
        """A gallery of the prototypes: each as the training patch that it is, and its map there."""
        return {"prototypes": panels.gallery(self)}

    def notes(self) -> dict[str, str]:
        return {"prototypes": panels.tally(self)}


def stretches(joint_epochs: int, push_every: int) -> list[int]:
    """Lengths of the joint stretches, a projection after each, counted back from the last epoch: 41 by 10 gives 1, 10,
    10, 10, 10, that is projections after epochs 10, 20, 30, 40 and 50 of a run with 10 warm epochs."""
    first = (joint_epochs - 1) % push_every + 1
    return [first] + [push_every] * ((joint_epochs - first) // push_every)


def _at(map_Bhw: Tensor, size: tuple[int, int]) -> Tensor:
    """A map at the cells of a finer level."""
    return map_Bhw if map_Bhw.shape[1:] == size else proto.upsample(map_Bhw[:, None], size)[:, 0]


def _grey(picture_HW: Tensor) -> Tensor:
    """[0, 1] as uint8 on the CPU."""
    return (picture_HW.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
