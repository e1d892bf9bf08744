"""Settings of GMIC with five activation maps, each with where it stands in the papers or their code."""

from typing import Literal

from data.inputs import Augment, Roi
from models import _cams
from models._cams import Cam
from models._regions import Size, ZeroRange
from models.method import Field, MethodConfig

PUBLISHED = 2944, 1920  # H, W in pixels
CROP = 256  # pixels at that size


class Config(MethodConfig):
    size: int = Field(PUBLISHED[0], kind="budget", ge=32, description="height of the film, pixels")
    input_width: int | None = Field(
        None, kind="budget", ge=32, description="width of the film, pixels; null: as 1920 is to 2944 of the height"
    )
    stages: Literal[5, 4, 3, 2] = Field(
        5, kind="budget",
        description="stages of the global trunk: 5 published (a cell of 64 pixels); fewer for small films (32, 16, 8)",
    )  # fmt: skip
    blocks: Literal[2, 1] = Field(
        2, kind="budget",
        description="blocks of a stage: 2 published; 1 for small films, of which a cell would else see nearly all",
    )  # fmt: skip
    batch_size: int = Field(6, kind="budget", ge=1, description="films per step; paper 004, III-D")
    accumulate: int = Field(
        1, kind="budget", ge=1,
        description="parts of a step, one after the other, for less memory; batch norm then sees a part alone",
    )  # fmt: skip
    epochs: int = Field(50, kind="budget", ge=1, description="epochs; paper 004, III-D")
    weights: str = Field(
        "none", kind="budget", min_length=1,
        description="where it starts: none, random; or a file with a state, the released networks' (published) or a run's final.pt "
        "(tensors alone, no pickled object); a run names it by its content",
    )  # fmt: skip
    K: int = Field(
        6, ge=1, le=32, description="crops of a film; GMIC (the authors of paper 004 have 3 in their scripts)"
    )
    percent_t: float = Field(
        0.02, gt=0, le=1, description="share of cells of the top-t pooling (GMIC, model 1; paper 004's code)"
    )
    crop: float = Field(
        CROP / PUBLISHED[0],
        gt=0,
        le=1,
        description="side of a crop as a share of the film's height; 256 of 2944 pixels (GMIC)",
    )
    beta: float = Field(
        3.259162430057801e-6, ge=0, description="weight of the saliency map's L1 (Eq. 2; paper 004 lost the exponent)"
    )
    l1: Literal["sum", "mean"] = Field("sum", description="L1 over cells: sum (Eq. 2); mean (paper 004's code)")
    outputs: Literal["one_sigmoid", "two_author"] = Field(
        "one_sigmoid",
        description="one_sigmoid: mass; two_author: two, of which the second is trained, fused by a softmax",
    )
    train_cam: Cam = Field("cam", description="map that picks the crops in training (paper 004, Table II: rows)")
    train_scope: Literal["rois", "rois_and_global"] = Field(
        "rois",
        description="what that map replaces: rois, the choice of crops; rois_and_global, as the authors' code, y_global "
        "and the L1 too: the saliency layer then never trains",
    )
    test_cam: Cam = Field("cam", description="map that detection reads (Table II: columns); all five are judged")
    test_crops: Literal["cam", "train_cam"] = Field(
        "train_cam", description="map that picks the crops of a prediction; paper silent, its code: cam"
    )
    cam_score: Literal["y_global", "sum_logit", "fusion_logit"] = Field(
        "y_global", description="score whose gradient the maps take; paper silent, its code: sum_logit"
    )
    cam_layers: Literal["final", "stage4_5"] = Field(
        "final", description="layers of the gradient maps when they are shown: the last ReLU; stages before it, fused"
    )
    cam_impl: Literal["lib", "torchcam"] = Field(
        "lib", description="rules of pytorch-grad-cam (the paper's text), or of torchcam's copy in its code"
    )
    cam_unit: Literal["logit", "raw"] = Field(
        "logit", description="of the gradient that the maps take: logit, the score's gradient by the cells' logits sums to 1 on every "
        "film, so that films compare; raw: as it is, next to nothing where the network is surest",
    )  # fmt: skip
    gcpp_eps: float = Field(_cams.GRADCAMPP_EPS, ge=0, description="epsilon of GradCAM++; the library's")
    zero_range: ZeroRange = Field(
        "zero", description="a saliency map of one value: no region, or the released code's NaN"
    )
    lr: float = Field(4.134e-5, gt=0, description="Adam's rate per step; not printed, paper 004's code")
    schedule: Literal["step", "cosine", "constant"] = Field(
        "step", description="step: a tenth from the tenth epoch on (paper 004's code); cosine and constant: ours"
    )
    roi: Roi = Field(
        Roi(strategy="whole", flip="right_breasts"), description="whole films, right breasts mirrored (GMIC)"
    )
    augment: Augment = Field(Augment(recipe="paper004"), description="random crop and left-right flip (paper 004)")

    @property
    def start_file(self) -> str | None:
        return None if self.weights == "none" else self.weights

    @property
    def film(self) -> Size:
        """H, W of the input."""
        return self.size, self.input_width or round(self.size * PUBLISHED[1] / PUBLISHED[0])

    def crop_size(self, film: Size) -> Size:
        """Of a film of H, W pixels; 8 at least, since the local network halves it five times."""
        side = max(8, round(self.crop * film[0]))
        return min(side, film[0]), min(side, film[1])
