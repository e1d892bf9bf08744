"""Settings of FPN-IAIA-BL (paper 000): every point on which the paper is silent or says two things is a field."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from data.errors import ConfigError
from data.inputs import Augment
from models._fine_annotation import FineRules
from models._focal import Cosine, FineReading, Ortho
from models._prototype_config import Init, MalHead, Prune
from models._pyramid import TopDown, Upsample
from models._trunks import TrunkConfig
from models.method import Field

NEGATIVE = "negative"  # the fourth class: regions without a lesion
Row = tuple[float, float, float, float]
Table = tuple[Row, Row, Row, Row]
SHARED = (
    "size", "width", "batch_size", "samples_per_class", "roi", "augment", "weights", "trunk_blocks", "input_norm",
    "pretext_epochs", "pretext_lr",
)  # fmt: skip
Count = int | dict[str, int]


class Levels(BaseModel):
    """How many prototypes of each class stand on each level; a number is every class's, or class: number each."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    level_2: Count = Field(1, description="56 x 56 cells of 224; the paper prints no counts: ours")
    level_3: Count = Field(2, description="28 x 28 cells")
    level_4: Count = Field(1, description="14 x 14 cells")
    level_5: Count = Field(1, description="14 x 14 cells, the trunk's output; with trunk_blocks 4 it is level 4")

    def table(self, classes: Sequence[str], top: int) -> tuple[list[int], list[int]]:
        """(class, level) of each prototype, by class, then by level. top: the trunk's last level, which takes those above it.

        ConfigError for a class that does not exist, one that a mapping leaves out, and one without a prototype.
        """
        kinds: list[int] = []
        levels: list[int] = []
        for kind, name in enumerate(classes):
            before = len(kinds)
            for level in (2, 3, 4, 5):
                count = _count(getattr(self, f"level_{level}"), name, classes, f"prototypes.level_{level}")
                kinds += [kind] * count
                levels += [min(level, top)] * count
            if len(kinds) == before:
                raise ConfigError(f"class {name!r} has no prototype", "prototypes", "give it one on some level")
        return kinds, levels


def _count(given: Count, name: str, classes: Sequence[str], where: str) -> int:
    unknown = [key for key in given if key not in classes] if isinstance(given, dict) else []
    if unknown:
        raise ConfigError(f"no class {unknown[0]!r}", where, f"choose from {', '.join(classes)}")
    if isinstance(given, dict) and name not in given:
        raise ConfigError(f"class {name!r} is left out", where, "give a number for each class")
    count = given[name] if isinstance(given, dict) else given
    if count < 0:
        raise ConfigError(f"{count} prototypes", where, "give 0 or more")
    return count


class FpnConfig(FineRules, TrunkConfig):
    """What the network is and how it is trained."""

    batch_size: int = Field(
        75, kind="budget", ge=1, description="samples of the training stream per step; silent, IAIA-BL's"
    )
    augment: Augment = Field(
        Augment(recipe="paper002"), description="crop, rotation, flips and quarter turns of IAIA-BL's code"
    )
    samples_per_class: int | None = Field(
        5000, kind="budget", ge=1, description="draws of each class an epoch; 5000 in the paper"
    )
    start: Literal["iaia_bl", "weights"] = Field(
        "iaia_bl",
        description="iaia_bl: the trunk of a trained IAIA-BL, whose own trunk starts from `weights` (paper); weights",
    )
    iaia_bl: dict[str, Any] = Field(
        {}, description="start: iaia_bl: settings of that run over its published point and what both share"
    )
    topdown: TopDown = Field("eq1", description="eq1: smoothed maps travel down (Eq. 1); fpn: as the FPN paper")
    upsample: Upsample = Field("nearest", description="from level to level; nearest (FPN paper) or bilinear")
    dim: int = Field(256, ge=1, description="channels of the pyramid at width 1; silent, 256 in the FPN paper")
    prototypes: Levels = Field(Levels(), description="prototypes of each class on each level")
    prototype_init: Init = Field(
        "uniform",
        description="uniform: U[0, 1) (Deformable ProtoPNet); patches: random latent patches of own-class images; "
        "lesion_patches: of those inside lesion masks (both ours)",
    )
    cosine: Cosine = Field("plain", description="plain: Eq. 2; deformable: with Deformable ProtoPNet's guards")
    topk_k: int | dict[int, int] = Field(
        9, description="cells that a similarity is the mean of, or {level: cells}; silent, 9 in IAIA-BL's script"
    )
    topk_percent: float | None = Field(
        None, gt=0, le=100, description="cells as a share of the level's, in place of topk_k"
    )
    score: Literal["focal", "topk"] = Field(
        "focal", description="focal: mean of the top k minus mean of all, Eq. 3; topk"
    )
    angular_margin: float = Field(
        0.0, ge=0, le=1, description="radians by which other classes are brought nearer in training; 0.1 in Deformable"
    )
    incorrect_class_weight: float = Field(-1.0, description="start of the last layer for other classes; IAIA-BL's")
    train_head: bool = Field(True, description="last layer trained with the rest (paper); false: Deformable ProtoPNet")
    outputs: Literal[3, 4] = Field(
        4, description="4: a softmax over all, one-vs-rest AUROC of the margins on lesions; 3: negatives carry no class"
    )
    coef_clst: float = Field(0.8, ge=0, description="reward of the best own-class similarity (l1 = -0.8); Deformable's")
    coef_sep: float = Field(0.08, ge=0, description="weight of the best other-class similarity (l2); Deformable's")
    clust_on: Literal["focal", "topk"] = Field("focal", description="similarity in both: focal, or its top-k part")
    coef_ortho: float = Field(0.1, ge=0, description="weight of the orthogonality loss (l3); Deformable's")
    ortho: Ortho = Field(
        "per_class_sq",
        description="per_class_sq: sum of squared norms (words of the paper); frob_joint; frob_sum; deformable_code",
    )
    ortho_across_levels: bool = Field(True, description="prototypes of a class on different levels are one group")
    coef_l1: float = Field(0.0, ge=0, description="weight of |W| over other classes; not in Eq. 4")
    coef_fine: float = Field(1e-3, ge=0, description="weight of the fine-annotation loss (l4); IAIA-BL's")
    fine_reading: FineReading = Field(
        "semantic",
        description="of Eq. 5: semantic: outside by Table 2, inside by Table 3 (captions); literal_m_inside; "
        "literal_m_outside; swapped_m_outside",
    )
    fine_table_orientation: Literal["printed", "transposed"] = Field(
        "printed", description="rows are samples, as labelled; transposed: as the prose says"
    )
    lambda_out: Table = Field(
        ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1), (0, 0, 0, 0)),
        description="Table 2: outside the mask; rows sample, columns prototype: circumscribed, indistinct, spiculated, negative",
    )
    lambda_in: Table = Field(
        ((0, 0, 0, 1), (0, 0, 0, 1), (1, 1, 0, 1), (0, 0, 0, 0)), description="Table 3: inside the mask"
    )
    negatives: int = Field(
        200,
        kind="budget",
        ge=1,
        description="lesion-free regions, drawn once per seed; 200 of a pool of 5000 in the paper",
    )
    negative_batch_size: int = Field(
        1, kind="budget", ge=1, description="of these drawn into each step; 1: 200 an epoch of 15000 in steps of 75"
    )
    warm_epochs: int = Field(10, kind="budget", ge=0, description="stage A: trunk frozen; silent, IAIA-BL's warm stage")
    joint_epochs: int = Field(41, kind="budget", ge=1, description="stage C: everything; silent, IAIA-BL's")
    push_every: int = Field(
        10,
        kind="budget",
        ge=1,
        description="joint epochs between projections, counted back from the last one; IAIA-BL's",
    )
    h1_epochs: int = Field(10, kind="budget", ge=0, description="epochs of the last layer alone; silent, IAIA-BL's")
    head_after: Literal["last", "each"] = Field(
        "last", description="last layer alone after the last projection, or after each one of stage C; silent"
    )
    lr_trunk: float = Field(2e-4, gt=0, description="rate of the trunk in stage C; IAIA-BL's")
    lr_pyramid: float = Field(3e-3, gt=0, description="rate of the pyramid; of IAIA-BL's add-on layers")
    lr_prototypes: float = Field(3e-3, gt=0, description="rate of the prototypes; IAIA-BL's")
    lr_h1: float = Field(1e-3, gt=0, description="rate of the last layer; IAIA-BL's")
    lr_step: int = Field(5, ge=1, description="epochs of stage C after which its rates fall tenfold; IAIA-BL's")
    weight_decay: float = Field(1e-3, ge=0, description="coupled, on trunk and pyramid; of IAIA-BL's code")
    projection_classes: Literal["own", "any"] = Field(
        "own", description="own: patches of the prototype's class (cited works); any: 'any input image'"
    )
    prune: Prune = Field(Prune(rule="none"), description="taking prototypes out; the paper does not")
    mal_head: MalHead = Field(MalHead(), description="malignancy from margins, as IAIA-BL")

    def cells(self, level: int, available: int) -> int:
        """k of a level with so many cells. ConfigError where it has fewer, or no number is given for it."""
        if self.topk_percent is not None:
            return max(1, round(self.topk_percent / 100 * available))
        if isinstance(self.topk_k, dict) and level not in self.topk_k:
            raise ConfigError(f"no k for level {level}", "topk_k", "give {level: cells} for each level with prototypes")
        k = self.topk_k[level] if isinstance(self.topk_k, dict) else self.topk_k
        if not 1 <= k <= available:
            raise ConfigError(f"topk_k {k} on level {level} with {available} cells", "topk_k", f"give 1 to {available}")
        return k


def iaia_bl_run(config: FpnConfig) -> dict[str, Any]:
    """Settings of the IAIA-BL that the trunk comes from: its published point, what both share, and `iaia_bl`.

    ConfigError where `iaia_bl` names a field that both share: the trunk goes on under the settings that it was trained with.
    """
    own = [name for name in config.iaia_bl if name in SHARED]
    if own:
        raise ConfigError(
            f"{own[0]} is shared with the run that the trunk comes from", "iaia_bl", f"set {own[0]} itself"
        )
    shared = {name: value for name, value in config.model_dump(mode="json").items() if name in SHARED}
    return {**shared, **config.iaia_bl}
