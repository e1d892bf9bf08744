"""Shen et al. 2021, "An interpretable classifier for high-resolution breast cancer screening images utilizing weakly supervised
localization", Medical Image Analysis 68 (GMIC), as paper 004 (2023) uses it: mass against normal from image labels alone, with five
activation maps, one that picks the regions in training, one that detection reads. Written from the papers; the public code is AGPL
and none of it is here.

Shapes: B images, H W pixels, D features and h w cells of the global trunk, C outputs (1, or 2 as in the authors' code), K crops.
Deviations: (1) one output, mass, in place of two of which one is used; (2) the epoch is chosen on validation, not on the test set;
(3) batches of whole films by seed, no elastic deformation (`augment.recipe` paper004 is what paper 004 prints); (4) random weights to
begin with, unless `weights` names a file: paper 004 begins with GMIC's.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from data.batch import Batch
from data.errors import ConfigError
from data.inputs import Inputs, Stream
from models import _cams
from models._cams import Cam, full
from models._gmic_config import Config
from models._gmic_net import Fusion, GmicNet, Score, released_bce, score_gradient, standardise, top_count, top_mean
from models._gmic_panels import case_panels
from models._regions import Size, cells_of, crops, greedy_windows, to_pixels
from models.method import Card, Loss, Method, MethodConfig, Panel, Prediction, Stage, Task, Term, Variant, term

CARD = Card(
    name="gmic",
    title="GMIC with five activation maps",
    year=2021,
    tracks={"detection": "detection"},
    explains="a saliency map of the whole film, the regions that it picks, and their attention",
    paper="Shen et al. 2021, Medical Image Analysis 68; five activation maps: paper 004 (2023)",
    reference="nyukat/GMIC (AGPL-3.0): read, not copied",
    needs=frozenset({"normal"}),
    deviations=(
        "one output, mass, in place of two of which the authors' code uses one",
        "the epoch is chosen on validation; the authors' code chooses it on the test set",
        "it starts from random weights unless `weights` names a file; paper 004 starts from GMIC's released ones",
    ),
    refuses={
        "malignancy": "it reads whole films, and the label there is one lesion's",
        "margin": "it reads whole films, and the label there is one lesion's",
    },
)
MASS = 1  # position of the class in the track


@dataclass
class Looked:
    """One pass over a batch. Crops are at `corners` (B, K, 2), upper left pixels."""

    logits: Tensor  # (B, C, h, w)
    chosen_by: Tensor  # (B, C, h, w): the map that picked the crops
    corners: Tensor
    fusion: Fusion


class Gmic(Method):
    """Global trunk, saliency head, crops, attention, fusion."""

    Config = Config
    version: ClassVar[int] = 2
    map_titles: ClassVar[Mapping[str, str]] = _cams.TITLES

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        c = self.config
        if c.cam_layers == "stage4_5" and c.cam_score == "fusion_logit":
            what = "the fusion's logit has no gradient in the stages before the last"
            raise ConfigError(what, "cam_layers: stage4_5", "set cam_score to y_global or sum_logit")
        self.net = GmicNet(1 if c.outputs == "one_sigmoid" else 2, c.width, c.stages, c.blocks)

    def start_from(self, name: str, state: Mapping[str, Tensor]) -> None:
        """The file that `weights` names: a checkpoint with the released names, or a state of this method."""
        try:
            self.net.take_released({key.removeprefix("net."): value for key, value in state.items()})
        except (ValueError, AttributeError) as error:
            raise ConfigError(
                f"its tensors do not fit: {error}",
                f"gmic, {name}",
                "take the released networks' (width 1, 5 stages), or the state of a run with these settings",
            ) from error

    # ---- what it is fed with ------------------------------------------------------------------------------------
    def inputs(self) -> Inputs:
        c = self.config
        self._warn()
        streams = (Stream("train", c.batch_size, samples_per_class=c.samples_per_class),)
        return Inputs(c.film, self.task.track.name, streams, c.roi, c.augment)

    def _warn(self) -> None:
        """Of settings that do what a user may not expect; where inputs are asked for, since a worker's words stay with it."""
        c = self.config
        if self._replaces_all:
            what = "y_global and the L1 carry no gradient, so the saliency layer never trains"
            warnings.warn(f"train_scope rois_and_global: {what}", stacklevel=2)
        cells = self.net.trunk.map_size(c.film)
        if not round(cells[0] * cells[1] * c.percent_t):
            what = f"no cell of {cells[0]} x {cells[1]}: one is taken"
            warnings.warn(f"percent_t {c.percent_t:g} is {what}", stacklevel=2)

    @property
    def accumulate(self) -> int:
        return int(min(self.config.accumulate, self.config.batch_size))

    # ---- training -----------------------------------------------------------------------------------------------
    def stages(self) -> list[Stage]:
        c = self.config
        rate = {"step": _step, "constant": None, "cosine": lambda e: 0.5 + 0.5 * _cosine(e / c.epochs)}[c.schedule]
        return [Stage("train", [self.group("all", self.net, lr=c.lr)], epochs=c.epochs, schedule=rate)]

    @property
    def _replaces_all(self) -> bool:
        """Whether the training map stands for the saliency everywhere; CAM is the saliency, so with it nothing is replaced."""
        return self.config.train_scope == "rois_and_global" and self.config.train_cam != "cam"

    def forward(self, batch: Batch, stage: Stage) -> Loss:
        """Eq. 2: the cross-entropies of the three heads, and beta times the L1 of the saliency map."""
        c = self.config
        seen = self.look(batch.image, c.train_cam)
        saliency = seen.logits.sigmoid()
        if self._replaces_all:
            saliency = _unit(seen.chosen_by)
        y_global = top_mean(saliency, top_count(saliency.shape[2] * saliency.shape[3], c.percent_t))
        target = (batch.label == MASS).to(y_global.dtype)[:, None]
        l1 = saliency.sum(dim=(2, 3)) if c.l1 == "sum" else saliency.mean(dim=(2, 3))
        return Loss(
            global_bce=_mean(released_bce(y_global[:, -1:], target)),
            local_bce=_mean(
                F.binary_cross_entropy_with_logits(seen.fusion.local_logits[:, -1:], target, reduction="none")
            ),
            fusion_bce=_mean(released_bce(self._probability(seen.fusion)[:, None], target)),
            saliency_l1=term(l1[:, -1].mean(), weight=c.beta),
        )

    def _probability(self, fusion: Fusion) -> Tensor:
        """(B,) of a mass."""
        logits = fusion.fusion_logits
        return (logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1))[:, -1]

    # ---- one pass -----------------------------------------------------------------------------------------------
    def look(self, image_B1HW: Tensor, chooses: Cam) -> Looked:
        """Whole film, the map that picks, the crops, and what both say together."""
        c, x = self.config, standardise(image_B1HW)
        film = (x.shape[2], x.shape[3])
        features = self.net.trunk(x)
        logits = self.net.logits(features)
        cells = (logits.shape[2], logits.shape[3])
        with torch.no_grad():
            chosen_by = self._choosing(full(features), logits, chooses)
            crop = c.crop_size(film)
            corners = to_pixels(greedy_windows(chosen_by, cells_of(crop, film, cells), c.K, c.zero_range), cells, film)
            cut = crops(x, corners, crop)
        return Looked(logits, chosen_by, corners, self.net.fuse(features, cut))

    def _choosing(self, features: Tensor, logits: Tensor, cam: Cam) -> Tensor:
        """(B, C, h, w) the map of every output that is trained."""
        if cam == "cam":
            return logits.sigmoid() if logits.shape[1] == 1 else logits.sigmoid()[:, 1:]
        gradient = self._gradient(features, self._pooled(logits))
        return self._rule(cam, features.to(gradient.dtype), gradient).clamp_min(0).to(logits.dtype)[:, None]

    # ---- maps ---------------------------------------------------------------------------------------------------
    def _rule(self, cam: Cam, a_BDhw: Tensor, g_BDhw: Tensor) -> Tensor:
        if self.config.cam_impl == "torchcam":
            return _cams.TORCHCAM_RULES[cam](a_BDhw, g_BDhw)
        return (
            _cams.gradcampp(a_BDhw, g_BDhw, self.config.gcpp_eps)
            if cam == "gradcampp"
            else _cams.RULES[cam](a_BDhw, g_BDhw)
        )

    def _pooled(self, logits_BChw: Tensor) -> Tensor | None:
        """(B, h, w) m: the mass score's gradient by each cell's logit; None where the score is no pooling of them. In double: of a
        sure film it, and its squares, would be nothing in single precision."""
        c, z = self.config, logits_BChw[:, -1].detach().double()
        if c.cam_score == "fusion_logit":
            return None
        score: Score = "topt" if c.cam_score == "y_global" else "sum_logit"
        m = score_gradient(z, score, top_count(z.shape[1] * z.shape[2], c.percent_t))
        # Not divided afterwards: GradCAM++ is no multiple of its gradient, and of sure films would stay next to nothing.
        return m / m.sum(dim=(1, 2), keepdim=True) if c.cam_unit == "logit" else m

    def _gradient(self, features_BDhw: Tensor, m_Bhw: Tensor | None) -> Tensor:
        """d score / d features of the mass score; no backward pass unless the score is the fusion's."""
        if m_Bhw is None:  # the crops' part does not depend on the features
            weight = self.net.fusion_head.weight[-1:, : features_BDhw.shape[1]].detach().to(features_BDhw.dtype)
            nothing = torch.zeros(len(features_BDhw), dtype=torch.int64, device=features_BDhw.device)
            return _cams.class_gradient(features_BDhw, lambda a: F.linear(a.amax(dim=(2, 3)), weight), nothing)[1]
        weight = self.net.saliency.weight[-1, :, 0, 0].detach().to(m_Bhw.dtype)
        return _cams.linear_gradient(weight.expand(len(m_Bhw), -1), m_Bhw)

    @torch.no_grad()
    def maps(self, batch: Batch, target: Tensor) -> dict[str, Tensor]:
        """All five from one pass of the trunk. Of class mass the map itself; of class normal that of the opposite score."""
        with _cams.reading(self):
            stages = self.net.trunk.stages(standardise(batch.image))
            features = full(self.net.trunk.last(stages[-1]))
            logits = self.net.logits(features)
        sign = torch.where(target == MASS, 1.0, -1.0).to(logits.dtype).view(-1, 1, 1)
        found = {"cam": (logits[:, -1] * sign).sigmoid()}
        m = self._pooled(logits)
        gradient = self._gradient(features.double(), m) * sign[..., None]
        # times the cells, GradCAM is max(z, 0)
        cells = logits[0, 0].numel() if m is not None and self.config.cam_unit == "logit" else 1
        for cam in _cams.RULES:
            found[cam] = (self._rule(cam, features.double(), gradient).clamp_min(0) * cells).to(logits.dtype)  # type: ignore[arg-type]
        if self.config.cam_layers == "stage4_5":
            size = (stages[-2].shape[2], stages[-2].shape[3])
            wide = F.interpolate(found["cam"][:, None], size, mode="bilinear", align_corners=False)[:, 0]
            return {"cam": wide} | self._fused(stages, sign)
        return found

    def _fused(self, stages: list[Tensor], sign_B11: Tensor) -> dict[str, Tensor]:
        """Maps of the last two stages before the last norm: tanh of twice each one's min-max map, the larger of both."""

        def score(outputs: Tensor) -> Tensor:
            """Linear in the logits, with the score's gradient: that of a sigmoid is 0 on a sure film."""
            logits = self.net.logits(self.net.trunk.last(outputs))
            m = self._pooled(logits)
            assert m is not None, "refused in __init__"
            return (logits[:, -1] * m.to(logits.dtype)).sum(dim=(1, 2))[:, None]

        nothing = torch.zeros(len(sign_B11), dtype=torch.int64, device=sign_B11.device)
        with _cams.reading(self):
            ends = [
                _cams.class_gradient(stages[-2], lambda a: score(self.net.trunk.layer_list[-1](a)), nothing),
                _cams.class_gradient(stages[-1], score, nothing),
            ]
        size = (stages[-2].shape[2], stages[-2].shape[3])
        found = {}
        for cam in _cams.RULES:
            raw = [self._rule(cam, a, g * sign_B11[..., None]).clamp_min(0)[:, None] for a, g in ends]  # type: ignore[arg-type]
            both = [F.interpolate((2 * _unit(one)).tanh(), size, mode="bilinear", align_corners=False) for one in raw]
            found[cam] = torch.maximum(*both)[:, 0]
        return found

    def activations(self, image_B1HW: Tensor) -> dict[int, Tensor]:
        return {self.config.stages: self.net.trunk(standardise(image_B1HW))}

    # ---- reading ------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def predict(self, batch: Batch, track: str) -> Prediction:
        seen = self.look(batch.image, self._chooses)
        p = full(self._probability(seen.fusion))
        logits = seen.fusion.fusion_logits
        raw = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
        regions = self._regions(seen, (batch.image.shape[2], batch.image.shape[3]))
        return Prediction(torch.stack([-raw, raw], dim=1), torch.stack([1 - p, p], dim=1), regions=regions)

    def _regions(self, seen: Looked, film: Size) -> list[Tensor]:
        """Per film (K, 5): the crops within it, and their attention."""
        height, width = self.config.crop_size(film)
        top, left = seen.corners.unbind(dim=2)
        sides = [left, top, (left + width).clamp(max=film[1]), (top + height).clamp(max=film[0])]
        return list(
            torch.stack([*(side.to(seen.fusion.attention.dtype) for side in sides), seen.fusion.attention], dim=2)
        )

    @property
    def _chooses(self) -> Cam:
        cam: Cam = self.config.train_cam if self.config.test_crops == "train_cam" else "cam"
        return cam

    def variants(self) -> list[Variant]:
        """The five test maps, the config's own first: one training serves them all."""
        names = sorted(_cams.TITLES, key=lambda name: name != self.config.test_cam)
        return [Variant(name, name, {"test_cam": name}) for name in names]

    def coincide(self) -> list[tuple[str, str, str]]:
        c = self.config
        if c.cam_score == "sum_logit" and c.cam_layers == "final":
            return [("gradcam", "xgradcam", "the sum of the logits has the same gradient in every cell")]
        return []

    @torch.no_grad()
    def explain(self, batch: Batch) -> list[list[Panel]]:
        """The film with its regions, its saliency map, the crops with their attention (GMIC), and all five maps (paper 004, Fig. 4)."""
        with _cams.reading(self):
            seen = self.look(batch.image, self._chooses)
        film = (batch.image.shape[2], batch.image.shape[3])
        maps = self.maps(batch, torch.full_like(batch.label, MASS))
        return case_panels(
            batch, seen.corners, self.config.crop_size(film), seen.fusion.attention, maps, _cams.TITLES[self._chooses]
        )


def _mean(value_B1: Tensor) -> Term:
    return term(value_B1.mean())


def _step(epochs: float) -> float:
    return 1.0 if epochs < 10 else 0.1


def _cosine(share: float) -> float:
    return math.cos(math.pi * min(1.0, share))


def _unit(map_BChw: Tensor) -> Tensor:
    """Min-max to [0, 1] of each; a constant map becomes 0."""
    low, high = map_BChw.amin(dim=(2, 3), keepdim=True), map_BChw.amax(dim=(2, 3), keepdim=True)
    return torch.where(high > low, (map_BChw - low) / (high - low).clamp_min(1e-30), torch.zeros_like(map_BChw))
