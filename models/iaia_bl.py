"""Barnett et al. 2021, "A case-based interpretable deep learning model for classification of mass lesions in digital
mammography", Nature Machine Intelligence (paper 002): IAIA-BL. The authors' public code was read, not copied.

A prototype network whose prototypes are taught by a fine-annotation loss to look at the lesion: other-class prototypes
anywhere, own-class ones outside the mask, are punished for being active. Shapes: as in _prototype_net.py.
Deviations: (1) augmentation is drawn online; (2) the epoch is chosen on validation; (3) near-zero distances are
recomputed, so that a patch is at distance 0 from itself; (4) pruning keeps ascending order.
"""

from typing import Any

import torch
from torch import Tensor

from data.batch import Batch
from data.inputs import Augment, Inputs
from models import _fine_annotation as fine
from models import _prototypes as proto
from models._prototype_config import PrototypeConfig
from models._prototype_net import Distances, _PrototypeNet
from models.method import Card, Field, Term

CARD = Card(
    name="iaia_bl",
    title="IAIA-BL: interpretable AI algorithm for breast lesions",
    year=2021,
    tracks={"margin": "margin", "malignancy": "margin", "detection": "detection"},
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
)


class Config(fine.FineLossRules, PrototypeConfig):
    augment: Augment = Field(
        Augment(recipe="paper002"), description="crop, rotation, flips and quarter turns of the code"
    )
    samples_per_class: int | None = Field(
        5000, kind="budget", ge=1, description="draws of each class an epoch; 5000 in the paper"
    )
    coef_fine: float = Field(1e-3, ge=0, description="weight of the fine-annotation loss, Eq. 3; 0.001")


class IaiaBl(_PrototypeNet):
    """Prototype network with the fine-annotation loss."""

    version = 1
    Config = Config

    def inputs(self) -> Inputs:
        """75 samples per step, and 10 finely annotated ones where the data set has such."""
        return fine.with_fine_stream(super().inputs(), self.config, self.task)

    @property
    def supervision(self) -> str:
        return fine.supervision(self.task) if self.config.coef_fine else super().supervision

    def mask_terms(self, batch: Batch, seen: Distances) -> dict[str, Any]:
        if not self.config.coef_fine:
            return {}
        with torch.autocast(seen.d.device.type, enabled=False):  # sums of squares need full precision
            return {"fine": self.fine_term(proto.similarity(seen.d), batch)}

    def fine_term(self, s_BMhw: Tensor, batch: Batch) -> Term:
        """Eq. 7 over the batch."""
        return fine.fine_term(self.config, s_BMhw, batch, self.classes, self.active, self.config.coef_fine)
