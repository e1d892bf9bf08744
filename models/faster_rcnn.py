"""Ren et al. 2015, "Faster R-CNN: towards real-time object detection with region proposal networks", NeurIPS: a detector
that is told where the masses are, the upper line for methods that find them from image labels alone.

torchvision's proposal network and box head on a ResNet with a feature pyramid (Lin et al. 2017), on whole films, of one
class. Shapes: B images, H W input pixels, n boxes (x0 y0 x1 y1, input pixels), h w cells of the map, 8 pixels along a cell.
Deviations: (1) Adam in place of SGD with momentum; (2) flips along both axes; (3) films are square inputs of one size,
and anchors a share of its side, which at 800 pixels are torchvision's; (4) the epoch is chosen on validation; (5) batch
norm is trained where the backbone starts from nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from data.batch import Batch
from data.errors import ConfigError
from data.inputs import Augment, Roi
from models._cams import full
from models._resnet_fpn import LEVELS, STEM, Backbone, check_imagenet, imagenet_file, load_imagenet, resnet_fpn
from models._trunks import InputNorm, normalise
from models.method import Card, Field, Loss, Method, MethodConfig, Panel, Prediction, Stage, Task, term

CARD = Card(
    name="faster_rcnn",
    title="Faster R-CNN, taught by boxes (upper line of detection)",
    year=2015,
    tracks={"detection": "detection"},
    explains="the boxes that it finds",
    paper="Ren et al., NeurIPS 2015; with the feature pyramid of Lin et al., CVPR 2017",
    reference="torchvision (BSD-3-Clause), used as a library",
    needs=frozenset({"box"}),
    supervision="label + box",
    deviations=(
        "Adam, its rate and its warm-up are ours",
        "films are flipped along both axes",
        "films are square inputs, and anchors a share of their side",
        "the epoch is chosen on validation",
    ),
    refuses=dict.fromkeys(("margin", "malignancy"), "it finds masses in whole films"),
)
REGION = 7  # cells along a side of the box that the head reads
MAP_CELL = 8  # input pixels
LEAST_ANCHOR = 4.0  # pixels: torchvision rounds half sides, and smaller ones to nothing
MASS = 1  # class of the track; of the head too, whose 0 is the background


class Rpn(BaseModel):
    """The proposal network; defaults are torchvision's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    foreground: float = Field(0.7, gt=0, le=1, description="anchors of this IoU with a box are foreground; Ren et al.")
    background: float = Field(0.3, ge=0, lt=1, description="those below this IoU are background; Ren et al.")
    samples: int = Field(256, ge=1, description="anchors of an image in its loss; Ren et al.")
    positive: float = Field(0.5, gt=0, le=1, description="largest share of foreground among them; Ren et al.")
    nms: float = Field(0.7, gt=0, le=1, description="IoU above which the lower of two proposals goes; Ren et al.")
    kept_train: int = Field(
        2000, ge=1, description="proposals of a level before, of an image after suppression, in training; torchvision"
    )
    kept_test: int = Field(1000, ge=1, description="the same in reading; torchvision")


class Head(BaseModel):
    """The box head; defaults are torchvision's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    foreground: float = Field(0.5, gt=0, le=1, description="proposals of this IoU with a box are a mass; torchvision")
    background: float = Field(0.5, ge=0, le=1, description="those below this IoU are background; torchvision")
    samples: int = Field(512, ge=1, description="proposals of an image in its loss; torchvision")
    positive: float = Field(0.25, gt=0, le=1, description="largest share of masses among them; torchvision")
    units: int = Field(1024, ge=1, description="units of its two hidden layers at width 1; torchvision")
    nms: float = Field(0.5, gt=0, le=1, description="IoU above which the lower of two boxes goes; torchvision")
    boxes: int = Field(100, ge=1, description="boxes of an image at most; torchvision")
    score: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="boxes of a lower score are not given; torchvision. An image's score knows them all",
    )


class Config(MethodConfig):
    size: int = Field(
        800,
        kind="budget",
        ge=32,
        multiple_of=32,
        description="side of the square input, pixels; torchvision's shorter side",
    )
    batch_size: int = Field(16, kind="budget", ge=1, description="films per step; 8 times 2 in torchvision's script")
    epochs: int = Field(26, kind="budget", ge=1, description="epochs; of torchvision's script")
    backbone: Backbone = Field("resnet50", kind="budget", description="resnet50 (torchvision's detector) or resnet18")
    weights: Literal["imagenet", "none"] = Field(
        "imagenet", kind="budget", description="where the backbone starts: imagenet (published), none"
    )
    trainable: Literal["upper", "all"] = Field(
        "upper", kind="budget",
        description="upper: all but stem and layer 1 of the backbone (torchvision); all, as a start from nothing needs",
    )  # fmt: skip
    cell: Literal[32, 16, 8] = Field(
        32,
        kind="budget",
        description="pixels along a cell of layer 4: 32 published; fewer for small inputs, by a finer stem",
    )
    input_norm: InputNorm = Field("imagenet", description="scale of the input; as vgg16's; imagenet: torchvision")
    anchors: tuple[float, float, float, float, float] = Field(
        (0.04, 0.08, 0.16, 0.32, 0.64),
        description="side of the anchors of each level, of the input's; torchvision's 32 to 512 pixels at 800",
    )
    ratios: tuple[float, ...] = Field(
        (0.5, 1.0, 2.0), min_length=1, description="height to width of anchors; Ren et al."
    )
    rpn: Rpn = Field(Rpn(), description="proposal network")
    head: Head = Field(Head(), description="box head")
    lr: float = Field(1e-4, gt=0, description="Adam's rate per step; ours")
    weight_decay: float = Field(1e-4, ge=0, description="coupled; of torchvision's script")
    schedule: Literal["steps", "constant"] = Field(
        "steps", description="steps: the rate falls tenfold after 16/26 and 22/26 of the epochs (torchvision's script)"
    )
    warmup_steps: int = Field(100, ge=0, description="linear warm-up of the rate; ours, the script's is one epoch")
    clip_norm: float = Field(0.0, ge=0, description="largest norm of the gradient; 0 = off, as the script")
    roi: Roi = Field(Roi(strategy="whole"), description="the whole film, whatever the strategy")
    augment: Augment = Field(
        Augment(recipe="flip_hv"), description="flips along both axes; the script: left-right alone"
    )


class FasterRCNN(Method):
    """Backbone, proposal network, box head. Reading needs evaluation mode, in which alone torchvision gives boxes."""

    Config = Config
    map_titles: ClassVar[Mapping[str, str]] = {"boxes": "highest score of the boxes here"}

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__(config, task)
        c = self.config
        imagenet = c.weights == "imagenet"
        self.backbone = resnet_fpn(c.backbone, c.width, c.cell, frozen_norm=imagenet)
        if imagenet and c.width == 1 and imagenet_file(c.backbone).is_file():
            load_imagenet(self.backbone, c.backbone)
        self.rpn = _proposal_network(c, self.backbone.out_channels)
        self.heads = _box_head(c, self.backbone.out_channels)

    # ---- training -----------------------------------------------------------------------------------------------
    def stages(self) -> list[Stage]:
        c = self.config
        if c.weights == "imagenet":
            check_imagenet(c.backbone, c.width)
        elif c.trainable != "all":
            raise ConfigError(
                "what is frozen would stay random", "trainable: upper", "set trainable to all, or weights to imagenet"
            )
        frozen = STEM if c.trainable == "upper" else ()
        body = [part for name, part in self.backbone.body.named_children() if name not in frozen]
        parts = (*body, self.backbone.fpn, self.rpn, self.heads)
        return [
            Stage(
                "train",
                [self.group("all", *parts, lr=c.lr, weight_decay=c.weight_decay)],
                epochs=c.epochs,
                schedule=self._steps if c.schedule == "steps" else None,
                warmup_steps=c.warmup_steps,
                clip_norm=c.clip_norm,
            )
        ]

    def _steps(self, epochs: float) -> float:
        return 0.1 ** sum(epochs >= self.config.epochs * share for share in (16 / 26, 22 / 26))

    def forward(self, batch: Batch, stage: Stage) -> Loss:
        """Eq. 1 of the paper for anchors and again for proposals, which torch's generator draws.

        A film is what its boxes say: every mass of a sample has one, so a film without any holds none, be it normal or
        one whose mass the augmentation has moved out of sight.
        """
        targets = [{"boxes": own, "labels": torch.full((len(own),), MASS, device=own.device)} for own in batch.boxes]
        _, found = self._look(batch.image, targets)
        return Loss(
            classifier=term(found["loss_classifier"]),
            box=term(found["loss_box_reg"]),
            objectness=term(found["loss_objectness"]),
            proposal_box=term(found["loss_rpn_box_reg"]),
        )

    def _look(
        self, image_B1HW: Tensor, targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Boxes with their scores (evaluation mode), terms of the loss (training mode).

        In the place of torchvision's GeneralizedRCNN, whose transform would resize. Anchors and boxes are in full
        precision: in bfloat16 a corner at 800 lies up to 2 pixels off.
        """
        count, _, height, width = image_B1HW.shape
        images = ImageList(normalise(image_B1HW, self.config.input_norm), [(height, width)] * count)
        levels = {name: full(level) for name, level in self.backbone(images.tensors).items()}
        with torch.autocast(image_B1HW.device.type, enabled=False):
            proposals, of_anchors = self.rpn(images, levels, targets)
            boxes, of_boxes = self.heads(levels, proposals, images.image_sizes, targets)
        return boxes, {**of_anchors, **of_boxes}

    # ---- reading ------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def find(self, image_B1HW: Tensor) -> list[Tensor]:
        """Of each image (n, 5) x0 y0 x1 y1 score, the highest score first; low ones, too."""
        return [torch.cat([one["boxes"], one["scores"][:, None]], dim=1) for one in self._look(image_B1HW)[0]]

    def predict(self, batch: Batch, track: str) -> Prediction:
        """Score of a mass: that of the highest box, a probability, 0 where there is none; of normal: the rest of 1."""
        found = self.find(batch.image)
        mass_B = torch.stack([boxes[:, 4].max() if len(boxes) else boxes.new_zeros(()) for boxes in found])
        scores_BK = torch.stack([1 - mass_B, mass_B], dim=1)
        return Prediction(scores_BK, scores_BK, boxes=[self._given(boxes) for boxes in found])

    def _given(self, boxes_n5: Tensor) -> Tensor:
        """The same boxes as with the threshold before the suppression: a lower box never takes a higher one out."""
        return boxes_n5[boxes_n5[:, 4] > self.config.head.score]

    def maps(self, batch: Batch, target: Tensor) -> dict[str, Tensor]:
        """Of a mass the highest score of the boxes that reach into a cell, low ones too; of normal the rest of 1."""
        height, width = (side // MAP_CELL for side in batch.image.shape[2:])
        mass_Bhw = torch.stack([score_map(boxes, height, width) for boxes in self.find(batch.image)])
        return {"boxes": torch.where(target.view(-1, 1, 1) == MASS, mass_Bhw, 1 - mass_Bhw)}

    def explain(self, batch: Batch) -> list[list[Panel]]:
        """Image and map, and the box of the highest score, below the threshold too."""
        found = self.find(batch.image)
        return [[*row, _highest(row, boxes)] for row, boxes in zip(super().explain(batch), found, strict=True)]


def score_map(boxes_n5: Tensor, height: int, width: int) -> Tensor:
    """(h, w): the highest score of the boxes that share area with a cell; 0 where none does."""
    rows_h, columns_w = (MAP_CELL * torch.arange(side, device=boxes_n5.device) for side in (height, width))
    x0, y0, x1, y1, score = (value[:, None] for value in boxes_n5.unbind(dim=1))
    inside_nh = (y0 < rows_h + MAP_CELL) & (y1 > rows_h)
    inside_nw = (x0 < columns_w + MAP_CELL) & (x1 > columns_w)
    covered_nhw = (inside_nh[:, :, None] & inside_nw[:, None, :]) * score[:, :, None]
    return torch.cat([covered_nhw, covered_nhw.new_zeros(1, height, width)]).amax(dim=0)


def _highest(row: Sequence[Panel], boxes_n5: Tensor) -> Panel:
    if not len(boxes_n5):
        return Panel("highest box", row[0].image, outline=row[1].outline, caption="no box")
    x0, y0, x1, y1, score = boxes_n5[0].tolist()
    return Panel(
        "highest box", row[0].image, outline=row[1].outline, box=(x0, y0, x1, y1), caption=f"score {score:.2f}"
    )


def _proposal_network(c: Any, channels: int) -> RegionProposalNetwork:
    sides = tuple((max(LEAST_ANCHOR, share * c.size),) for share in c.anchors)
    anchors = AnchorGenerator(sides, (c.ratios,) * LEVELS)
    kept = {"training": c.rpn.kept_train, "testing": c.rpn.kept_test}
    return RegionProposalNetwork(
        anchors,
        RPNHead(channels, len(c.ratios)),
        fg_iou_thresh=c.rpn.foreground,
        bg_iou_thresh=c.rpn.background,
        batch_size_per_image=c.rpn.samples,
        positive_fraction=c.rpn.positive,
        pre_nms_top_n=kept,
        post_nms_top_n=kept,
        nms_thresh=c.rpn.nms,
    )


def _box_head(c: Any, channels: int) -> RoIHeads:
    units = max(4, round(c.head.units * c.width))
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=REGION, sampling_ratio=2)  # without the pooled level
    return RoIHeads(
        pool,
        TwoMLPHead(channels * REGION**2, units),
        FastRCNNPredictor(units, 2),
        fg_iou_thresh=c.head.foreground,
        bg_iou_thresh=c.head.background,
        batch_size_per_image=c.head.samples,
        positive_fraction=c.head.positive,
        bbox_reg_weights=None,
        score_thresh=0.0,  # `_given` cuts off: so an image's score knows all boxes, and moves with the network
        nms_thresh=c.head.nms,
        detections_per_img=c.head.boxes,
    )
