"""Barnett et al. 2021, "A case-based interpretable deep learning model for classification of mass lesions in digital
mammography", Nature Machine Intelligence (paper 002): IAIA-BL. The authors' public code was read, not copied.

A prototype network whose prototypes are taught by a fine-annotation loss to look at the lesion: other-class prototypes
anywhere, own-class ones outside the mask, are punished for being active. Shapes: as in _prototype_net.py.
Deviations: (1) augmentation is drawn online; (2) the epoch is chosen on validation; (3) near-zero distances are
recomputed, so that a patch is at distance 0 from itself; (4) pruning keeps ascending order.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from data.batch import Batch
from data.inputs import Augment, Inputs, Stream
from models import _prototypes as proto
from models._prototype_config import PrototypeConfig
from models._prototype_net import Seen, _PrototypeNet
from models.method import Card, Field, Term, term

CARD = Card(
    name="iaia_bl",
    title="IAIA-BL: interpretable AI algorithm for breast lesions",
    year=2021,
    tracks={"margin": "margin", "malignancy": "margin"},
    explains="prototypes: this part of the lesion looks like that one",
    paper="Barnett et al., Nature Machine Intelligence 3 (2021)",
    reference="alinajadebarnett/iaiabl (MIT), read, not copied",
    needs=frozenset({"mask"}),
    supervision="label + fine mask",
    deviations=(
        "augmentation is drawn online, not once",
        "the epoch is chosen on validation",
        "malignancy head refitted: the published coefficients fit only the published model's logits",
    ),
    refuses={"detection": "its classes are margins of a given lesion"},
)


class Config(PrototypeConfig):
    augment: Augment = Field(
        Augment(recipe="paper002"), description="crop, rotation, flips and quarter turns of the code"
    )
    samples_per_class: int | None = Field(
        5000, kind="budget", ge=1, description="draws of each class an epoch; 5000 in the paper"
    )
    fine_batch_size: int = Field(
        10, kind="budget", ge=0, description="finely annotated samples added to each step; 10 in the code"
    )
    coef_fine: float = Field(1e-3, ge=0, description="weight of the fine-annotation loss, Eq. 3; 0.001")
    fine_norm: proto.FineNorm = Field(
        "stacked", description="stacked: the code's three norms; per_prototype: Eq. 7; square"
    )
    fine_norm_at: int | None = Field(
        224, description="side at which a norm has its published weight; null: as it comes"
    )
    fine_scope: Literal["all_masked", "fine_only"] = Field(
        "all_masked",
        description="all_masked: lesion masks where there is no fine one (code and text); fine_only: D' of Eq. 7",
    )
    fine_reduction: Literal["sum", "mean"] = Field("sum", description="over the samples of a batch; sum in the code")
    fine_unannotated: Literal["skip", "all_relevant"] = Field(
        "skip",
        description="samples without any mask: no term; all_relevant: other-class maps are punished all the same",
    )
    mask_binarise: bool = Field(False, description="round fractional mask pixels; false in the code")


class IaiaBl(_PrototypeNet):
    """Prototype network with the fine-annotation loss."""

    version = 1
    Config = Config

    def inputs(self) -> Inputs:
        """75 samples per step, and 10 finely annotated ones where the data set has such."""
        inputs = super().inputs()
        streams = inputs.streams
        if self.config.fine_batch_size and "fine_mask" in self.task.provides:
            streams = (*streams, Stream("fine", self.config.fine_batch_size, only="fine"))
        return Inputs(inputs.size, inputs.target, streams, inputs.roi, inputs.augment)

    @property
    def supervision(self) -> str:
        if not self.config.coef_fine:
            return super().supervision
        return "label + fine mask" if "fine_mask" in self.task.provides else "label + mask"

    def mask_terms(self, batch: Batch, seen: Seen) -> dict[str, Any]:
        c = self.config
        if not c.coef_fine:
            return {}
        with torch.autocast(seen.d.device.type, enabled=False):  # sums of squares need full precision
            return {"fine": self.fine_term(proto.similarity(seen.d), batch)}

    def fine_term(self, s_BMhw: Tensor, batch: Batch) -> Term:
        """Eq. 7 over the batch."""
        c = self.config
        outside_B1HW, taken_B = self.relevance(batch, s_BMhw)
        chosen = taken_B.nonzero()[:, 0]
        per_sample = proto.fine_loss_per_sample(
            s_BMhw[chosen], outside_B1HW[chosen], batch.label[chosen], self.classes, self.active, c.fine_norm
        )
        size = (batch.mask.shape[2], batch.mask.shape[3])
        total = per_sample.sum() * proto.norm_scale(c.fine_norm_at, size, c.fine_norm)
        if c.fine_reduction == "mean":
            return term(total / len(batch), "mean", c.coef_fine)
        return term(total, "sum", c.coef_fine)

    def relevance(self, batch: Batch, like: Tensor) -> tuple[Tensor, Tensor]:
        """(outside (B, 1, H, W), 1 where a pixel is irrelevant; taken (B): does the sample count)."""
        c = self.config
        fine_B = batch.has_fine
        mask = batch.fine_mask.where(fine_B.view(-1, 1, 1, 1), batch.mask).to(like.dtype)
        if c.mask_binarise:
            mask = (mask >= 0.5).to(like.dtype)
        outside = 1 - mask
        if c.fine_scope == "fine_only":
            return outside, fine_B
        masked_B = fine_B | batch.has_mask
        if c.fine_unannotated == "skip":
            return outside, masked_B
        return outside * masked_B.view(-1, 1, 1, 1), masked_B | ~masked_B
