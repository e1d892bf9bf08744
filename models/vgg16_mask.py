"""VGG-16 with a mask penalty on its class activation maps: the black box that was given IAIA-BL's annotations (ours).

VGG-16 sees labels, IAIA-BL (Barnett et al. 2021, paper 002) labels and masks, so a difference between them may come from
prototypes or from masks. This is the method that tells which: the network of vgg16, its GradCAM punished as IAIA-BL's Eq. 7
punishes prototype maps, from the same samples by the same rules. No paper has it, and none gives its coefficient.
Shapes: B images, C channels, h w cells after the last ReLU, K classes; a class has one map, where IAIA-BL has five.
Deviations: those of vgg16; from Eq. 7: (1) maps are GradCAM's in units of the logit: the gradient's sum over cells in place
of its mean; (2) their negative values are punished too, see `mask_map`; (3) another coefficient.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.batch import Batch
from data.inputs import Inputs
from models import _cams, vgg16
from models import _fine_annotation as fine
from models.method import Card, Field, Loss, Stage, term

CARD = Card(
    name="vgg16_mask",
    title="VGG-16 whose GradCAM is taught by masks (control)",
    year=2026,
    tracks={"margin": "margin", "malignancy": "malignancy"},
    explains=vgg16.CARD.explains,
    paper="none: the network of vgg16 with the penalty of paper 002 (Barnett et al. 2021, Eq. 7) on its maps",
    reference=vgg16.CARD.reference,
    needs=frozenset({"mask"}),
    supervision="label + fine mask",
    deviations=(
        *vgg16.CARD.deviations,
        "the penalty on GradCAM and its coefficient are ours",
    ),
    refuses={"detection": "its penalty keeps a map within the mask of one lesion, and a normal film has none"},
)


class Config(fine.FineLossRules, vgg16.Config):
    mask_map: Literal["signed", "positive"] = Field(
        "signed",
        description="signed: both signs of GradCAM are punished; positive: cut at 0 first, and training then gets by "
        "without a map, on evidence against the other classes; ours",
    )
    # A map that is 1 everywhere in place of 0 earns at most (K - 1) / K / B of cross-entropy a sample, and costs coef x 224 x
    # the root of the share outside: at 3 classes, 110 samples and a quarter inside, the map dies out above 3e-5.
    coef_mask: float = Field(
        1e-5, ge=0, description="weight of the penalty; ours, a third of what silences the map at 110 samples; 0: vgg16"
    )


class Vgg16Mask(vgg16.Vgg16):
    """The network of vgg16; cross-entropy and the penalty."""

    version = 1
    Config = Config

    def inputs(self) -> Inputs:
        """The samples of vgg16, and finely annotated ones where the data set has such."""
        return fine.with_fine_stream(super().inputs(), self.config, self.task)

    @property
    def supervision(self) -> str:
        return fine.supervision(self.task) if self.config.coef_mask else "label"

    def forward(self, batch: Batch, stage: Stage) -> Loss:
        c = self.config
        if not c.coef_mask:
            return super().forward(batch, stage)
        activation_BChw = self.trunk(batch.image)
        with torch.autocast(activation_BChw.device.type, enabled=False):  # sums of squares need full precision
            logits_BK, maps_BKhw = self.look(_cams.full(activation_BChw))
            kind_K = torch.arange(maps_BKhw.shape[1], device=maps_BKhw.device)
            active_K = torch.ones_like(kind_K, dtype=torch.bool)
            punished = maps_BKhw.relu() if c.mask_map == "positive" else maps_BKhw
            return Loss(
                cross_entropy=term(F.cross_entropy(logits_BK, batch.label)),
                mask=fine.fine_term(c, punished, batch, kind_K, active_K, c.coef_mask),
            )

    def look(self, activation_BChw: Tensor) -> tuple[Tensor, Tensor]:
        """(logits (B, K), GradCAM of each class in units of its logit (B, K, h, w)), of one pass through the head."""
        if self.config.head == "published":
            return _cams.class_maps(activation_BChw, self.head)
        linear = self.head[-1]  # of a mean over cells: its weights are the gradient
        assert isinstance(linear, nn.Linear)
        return self.head(activation_BChw), _cams.cam(activation_BChw, linear.weight)
