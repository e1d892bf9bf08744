"""Chen et al. 2019, "This looks like that", NeurIPS: ProtoPNet, as the baseline of paper 002 and as first published.

Shapes: as in _prototype_net.py. Two programs under one name: `paper002` (Barnett et al. 2021) is IAIA-BL's
program with k = 1 and without its fine-annotation loss; `neurips2019` is the original one.
Deviations: (1) no extra batch of finely annotated images, so that training sees labels alone; (2) the epoch is chosen on
validation; (3) a masked minimum in place of max((C - d) * mask).
"""

from typing import Any, Literal

from pydantic import model_validator

from data.inputs import Augment
from models._prototype_config import MalHead, PrototypeConfig, Prune
from models._prototype_net import _PrototypeNet
from models.method import Card, Field

CARD = Card(
    name="protopnet",
    title="ProtoPNet: this looks like that",
    year=2019,
    tracks={"margin": "margin", "malignancy": "margin", "detection": "detection"},
    explains="prototypes: this part of the lesion looks like that one",
    paper="Chen et al., NeurIPS 2019; as the baseline of Barnett et al. 2021 (paper 002)",
    reference="cfchen-duke/ProtoPNet (MIT), read, not copied",
    supervision="label",
    deviations=(
        "no stream of finely annotated images: training sees labels alone",
        "the epoch is chosen on validation",
    ),
)
NEURIPS2019: dict[str, Any] = {
    "distance": "l2sq",
    "incorrect_class_weight": -0.5,
    "batch_size": 80,
    "warm_epochs": 5,
    "joint_epochs": 36,  # ends on the projection of epoch 40
    "h1_epochs": 20,
    "lr_warm_add_on": 3e-3,
    "lr_trunk": 1e-4,
    "lr_h1": 1e-4,
    "input_norm": "imagenet",
    "prune": {"rule": "none"},
}


class Config(PrototypeConfig):
    variant: Literal["paper002", "neurips2019"] = Field(
        "paper002",
        description="paper002: IAIA-BL's program without its loss; neurips2019: squared distance, other rates; sets defaults",
    )
    augment: Augment = Field(
        Augment(recipe="paper002"), description="crop, rotation, flips and quarter turns of paper 002's code"
    )
    samples_per_class: int | None = Field(
        5000, kind="budget", ge=1, description="draws of each class an epoch; 5000 in paper 002"
    )
    topk_k: int = Field(1, ge=1, description="cells that a similarity is the mean of; 1: the maximum")
    coef_fine: float = Field(0.0, ge=0, le=0, description="0: with a fine-annotation loss it would be iaia_bl")
    prune: Prune = Field(Prune(), description="taking prototypes out; none in neurips2019")
    mal_head: MalHead = Field(MalHead(), description="malignancy from margins, as IAIA-BL")

    @model_validator(mode="before")
    @classmethod
    def _variant_defaults(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("variant") == "neurips2019":
            return {**NEURIPS2019, **values}
        return values


class ProtoPNet(_PrototypeNet):
    """The prototype network as it is, without a mask in its loss."""

    version = 1
    Config = Config
