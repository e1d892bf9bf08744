"""What a prototype network shows of itself: where prototypes fire in an image, and the training patch that each one is.

Shapes: B images, M prototypes, K classes, h w cells of the latent map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from data.batch import Batch
from models import _prototypes as proto
from models.method import Panel, scale01

if TYPE_CHECKING:
    from models._prototype_net import _PrototypeNet

SHOWN = 3  # prototypes in an explanation
UNKNOWN = -1


@dataclass
class Seen:
    """What the network makes of a batch: d (B, M, h, w), s_j and gamma_j (B, M), logits (B, K)."""

    d: Tensor
    scores: Tensor
    gamma: Tensor
    logits: Tensor


def case(net: _PrototypeNet, batch: Batch, seen: Seen, i: int) -> list[Panel]:
    """Sample i of the batch: the image, then for each of the prototypes that spoke most for the predicted class its map
    over the image, and the training patch that it is."""
    image = batch.image[i, 0].float().cpu().numpy()
    outline = batch.mask[i, 0].float().cpu().numpy() if bool(batch.has_mask[i]) else None
    kind = int(seen.logits[i].argmax())
    weight = net.h1.weight[kind]
    own = (net.active & (net.classes == kind)).nonzero()[:, 0]
    order = own[(seen.scores[i, own] * weight[own]).argsort(descending=True)]
    logit = float(seen.logits[i, kind])
    shown = float((seen.scores[i, order[:SHOWN]] * weight[order[:SHOWN]]).sum())
    said = f"logit {logit:.2f} = {shown:.2f} of the prototypes shown, {logit - shown:+.2f} of all others"
    row = [Panel(f"network says {net.task.classes[kind]}", image, outline=outline, caption=said)]
    for j in order[:SHOWN].tolist():
        score, w = float(seen.scores[i, j]), float(weight[j])
        caption = f"similarity {score:.2f} x weight {w:.2f} = {score * w:.2f}"
        heat = scale01(proto.similarity(seen.d[i, j])).float().cpu().numpy()
        row += [Panel(f"like prototype {j}?", image, map=heat, outline=outline, caption=caption), source(net, j)]
    return row


def source(net: _PrototypeNet, j: int) -> Panel:
    """Prototype j as the training patch that it is: its source image, and the cell that it was copied from."""
    image = _image(net, j)
    row, y, x = net.source_place[j].tolist()
    if row == UNKNOWN:
        return Panel(f"prototype {j}: not projected", image)
    cell = net.config.size / net.source_map.shape[1]
    k = net.config.topk_k
    own = float(net.source_map[j].flatten().topk(k).values.mean())  # pooled as `similarity` of a case is
    return Panel(
        f"prototype {j}: {net.task.classes[int(net.classes[j])]}",
        image,
        box=(x * cell, y * cell, (x + 1) * cell, (y + 1) * cell),
        caption=f"training row {row}, its cell dashed; similarity to its own source {own:.2f}",
    )


def source_map(net: _PrototypeNet, j: int) -> Panel:
    """Where prototype j fires in its own source; the box around the highest 5 %, as the authors' code draws it."""
    image = _image(net, j)
    if int(net.source_place[j, 0]) == UNKNOWN:
        return Panel(f"prototype {j}: not projected", image)
    x0, y0, x1, y1 = (float(v) for v in net.source_box[j].tolist())
    heat = scale01(net.source_map[j]).float().cpu().numpy()
    caption = "dashed: around all of the map's highest 5 %, wherever they lie"
    return Panel(f"prototype {j} on its source", image, map=heat, box=(x0, y0, x1, y1), caption=caption)


def _image(net: _PrototypeNet, j: int) -> np.ndarray:
    return np.asarray(net.source_image[j].cpu().numpy().astype(np.float32) / 255)
