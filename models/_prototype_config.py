"""Settings of the prototype networks: every point on which paper, code and followers disagree is a field.

Defaults are those of paper 002 (Barnett et al. 2021) as its public code has them, "code" below; a reading that the paper
prints and the code does not follow is named in the field's description.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from models._prototypes import Distance
from models._trunks import TrunkConfig
from models.method import Field

Init = Literal["uniform", "patches", "lesion_patches"]


class Prune(BaseModel):
    """Which prototypes are taken out after the last projection."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    rule: Literal["duplicates", "knn", "manual", "none"] = Field(
        "duplicates",
        description="duplicates: same class and patch (paper 002); knn: the code's rule; manual: `keep`; none",
    )
    k: int = Field(
        6, ge=1, description="knn: nearest images looked at; 6 in the published model's name, 5 in the script"
    )
    threshold: int = Field(3, ge=0, description="knn: a prototype stays with this many of its own class among them")
    keep: tuple[int, ...] = Field((), description="manual: prototypes that stay")
    h1_epochs: int = Field(
        25, kind="budget", ge=0, description="epochs of the last layer after pruning; 25 in the code"
    )
    lr_h1: float = Field(1e-4, gt=0, description="their rate; of the code")

    @model_validator(mode="after")
    def _some_may_stay(self) -> "Prune":
        if self.rule == "knn" and self.threshold > self.k:
            raise ValueError(f"threshold {self.threshold} of {self.k} images: no prototype would stay; give at most k")
        return self


class MalHead(BaseModel):
    """The logistic regression on the margin logits that answers the malignancy track."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    fit_on: Literal["train", "fine_annotated"] = Field(
        "train", description="training rows with one of the margins and known malignancy"
    )
    penalty: Literal["none", "l2"] = Field("none", description="l2: C = 1; the code of this stage is not public")


class PrototypeConfig(TrunkConfig):
    """What a prototype network is and how it is trained; defaults are paper 002's as its code has it."""

    batch_size: int = Field(
        75, kind="budget", ge=1, description="samples of the training stream per step; 75 in the code"
    )
    prototypes_per_class: int = Field(5, ge=1, description="5 in paper 002 (15 in all)")
    prototype_depth: int = Field(
        512, ge=1, description="depth of a prototype at width 1, scaled as the trunk's channels"
    )
    prototype_init: Init = Field(
        "uniform",
        description="uniform: U[0, 1) (paper); patches: random latent patches of own-class images; lesion_patches: of "
        "those inside lesion masks (both ours)",
    )
    distance: Distance = Field("l2", description="l2: Euclidean, unsquared (code); l2sq: squared (Eq. 1 and 6)")
    topk_k: int = Field(
        9, ge=1, description="cells that a similarity is the mean of; 9 in the training script, 5 in the paper's text"
    )
    incorrect_class_weight: float = Field(
        -1.0, description="start of the last layer for other classes; -1, -2 without the script's flag"
    )
    coef_clst: float = Field(0.8, ge=0, description="weight of the cluster term, Eq. 3")
    coef_sep: float = Field(0.08, ge=0, description="weight of the separation term, which is subtracted, Eq. 3")
    coef_l1: float = Field(1e-4, ge=0, description="weight of |W| over other classes; 1e-4 in the code, 0 in the paper")
    warm_epochs: int = Field(10, kind="budget", ge=0, description="epochs of add-on layers and prototypes alone; code")
    joint_epochs: int = Field(
        41, kind="budget", ge=1, description="epochs of everything but the last layer; 41: the run ends at epoch 50"
    )
    push_every: int = Field(
        10, kind="budget", ge=1, description="joint epochs between projections, counted back from the last one"
    )
    h1_epochs: int = Field(10, kind="budget", ge=0, description="epochs of the last layer after each projection; code")
    lr_warm_add_on: float = Field(2e-3, gt=0, description="rate of the add-on layers in the warm stage; code")
    lr_trunk: float = Field(2e-4, gt=0, description="rate of the trunk in the joint stage; code")
    lr_add_on: float = Field(3e-3, gt=0, description="rate of the add-on layers in the joint stage; code")
    lr_prototypes: float = Field(3e-3, gt=0, description="rate of the prototypes, warm and joint; code")
    lr_h1: float = Field(1e-3, gt=0, description="rate of the last layer after a projection; code")
    lr_step: int = Field(5, ge=1, description="joint epochs after which the joint rates fall tenfold; code")
    weight_decay: float = Field(1e-3, ge=0, description="coupled, on trunk and add-on layers; code")
    projection_set: Literal["train", "fine_annotated"] = Field(
        "train", description="where patches come from; train (paper)"
    )
    projection_input_norm: Literal["same", "imagenet"] = Field(
        "same", description="same as in training; imagenet: the code's accident, for parity studies"
    )
    prune: Prune = Field(Prune(), description="taking prototypes out")
    mal_head: MalHead = Field(MalHead(), description="malignancy from margins")
