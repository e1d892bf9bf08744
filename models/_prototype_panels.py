"""What a prototype network shows of itself: where prototypes fire in an image, and the training patch that each one is.

Shapes: B images, M prototypes, K classes, h w cells of the latent map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from data.batch import Batch
from models.method import Panel, scale01

if TYPE_CHECKING:
    from models._prototype_base import PrototypeMethod, Seen

SHOWN = 3  # prototypes in an explanation
UNKNOWN = -1
DARK = 5  # of 255: black film


def case(net: PrototypeMethod, batch: Batch, seen: Seen, i: int) -> list[Panel]:
    """Sample i of the batch: the image, then for each of the prototypes that spoke most for the predicted class its map
    over the image, and the training image that it was copied from; last, what spoke most against the class."""
    image = batch.image[i, 0].float().cpu().numpy()
    outline = batch.mask[i, 0].float().cpu().numpy() if bool(batch.has_mask[i]) else None
    kind = int(seen.logits[i].argmax())
    contributions = seen.scores[i] * net.h1.weight[kind] * net.active
    own = (net.active & (net.classes == kind)).nonzero()[:, 0]
    order = own[contributions[own].argsort(descending=True)][:SHOWN]
    logit, shown = float(seen.logits[i, kind]), float(contributions[order].sum())
    said = ", ".join(f"{name} {float(seen.logits[i, k]):.2f}" for k, name in enumerate(net.task.classes))
    against = int(contributions.argmin())
    caption = (
        f"logits: {said}. {net.task.classes[kind]}: {shown:.2f} of the prototypes shown, {logit - shown:+.2f} of all "
        f"others; most against it: prototype {against} ({_kind(net, against)}), {float(contributions[against]):+.2f}"
    )
    row = [Panel(f"network says {net.task.classes[kind]}", image, caption=caption)]  # nothing drawn over it
    for j in order.tolist():
        s_hw = seen.map_of(j)[i]
        score, w = float(seen.scores[i, j]), float(net.h1.weight[kind, j])
        caption = (
            f"similarity {score:.2f} x weight {w:.2f} = {score * w:.2f}; "
            f"map from {float(s_hw.min()):.2f} to {float(s_hw.max()):.2f}"
        )
        heat = scale01(s_hw).float().cpu().numpy()
        row += [Panel(f"like prototype {j}?", image, map=heat, outline=outline, caption=caption), source(net, j)]
    return row


def source(net: PrototypeMethod, j: int) -> Panel:
    """Prototype j on the training image that it was copied from: the cell of the latent map, and the lesion."""
    image = _image(net, j)
    row, y, x = net.source_place[j].tolist()
    if row == UNKNOWN:
        return Panel(f"prototype {j}: not projected", image)
    side = net.config.size / net.sides[j]
    box = (x * side, y * side, (x + 1) * side, (y + 1) * side)
    own = net.pooled_map(j, net.source_map(j))  # pooled as `similarity` of a case is
    return Panel(
        f"prototype {j}: {_kind(net, j)}",
        image,
        outline=_mask(net, j),
        box=box,
        caption=f"training row {row}. Dashed: {_where(net, j, box)}; it depends on {_seen_by_cell(net, j)}. "
        f"Similarity to this image {own:.2f}",
    )


def source_map(net: PrototypeMethod, j: int) -> Panel:
    """Where prototype j fires in its own source."""
    image = _image(net, j)
    if int(net.source_place[j, 0]) == UNKNOWN:
        return Panel(f"prototype {j}: not projected", image)
    s_hw = net.source_map(j)
    caption = f"map from {float(s_hw.min()):.2f} to {float(s_hw.max()):.2f}"
    heat = scale01(s_hw).float().cpu().numpy()
    return Panel(f"prototype {j} on its source", image, map=heat, outline=_mask(net, j), caption=caption)


def _kind(net: PrototypeMethod, j: int) -> str:
    return net.class_names[int(net.classes[j])]


def _where(net: PrototypeMethod, j: int, box: tuple[float, float, float, float]) -> str:
    """What lies in the prototype's cell, of its source: a prototype beside the lesion must not pass for one on it."""
    rows, columns = slice(round(box[1]), round(box[3])), slice(round(box[0]), round(box[2]))
    if not bool((net.source_mask[j] > 0).any()):
        return "its cell (the image has no mask)"
    share = float((net.source_mask[j, rows, columns] > 127).float().mean())
    dark = float((net.source_image[j, rows, columns] < DARK).float().mean())
    place = "outside the breast" if dark > 0.5 else "beside the lesion" if share == 0 else f"{share:.0%} lesion"
    return f"its cell, {place}"


def _seen_by_cell(net: PrototypeMethod, j: int) -> str:
    """How much of the input one cell depends on: where a cell sits is not all that it saw."""
    field, size = net.receptive_field(j), net.config.size
    return "the whole picture" if field >= size else f"{field} x {field} of {size} x {size} pixels around it"


def _mask(net: PrototypeMethod, j: int) -> np.ndarray | None:
    mask = np.asarray(net.source_mask[j].cpu().numpy().astype(np.float32) / 255)
    return mask if mask.any() else None


def _image(net: PrototypeMethod, j: int) -> np.ndarray:
    return np.asarray(net.source_image[j].cpu().numpy().astype(np.float32) / 255)
