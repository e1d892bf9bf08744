"""What a prototype network shows of itself: where prototypes fire in an image, the training patches that they are, and the
sum that a score is made of (paper 002, its figures of single cases; Eq. 11).

Shapes: B images, M prototypes, K classes, h w cells of a prototype's map, S side of the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from data.batch import Batch
from models._projection import activation_box
from models.method import Panel

if TYPE_CHECKING:
    from models._prototype_base import PrototypeMethod, Seen

SHOWN = 3  # prototypes in an explanation
UNKNOWN = -1
DARK = 5  # of 255: black film
Box = tuple[int, int, int, int]  # x0 y0 x1 y1
Scale = tuple[float, float]


# ---- a case ------------------------------------------------------------------------------------------------------
def cases(net: PrototypeMethod, batch: Batch, seen: Seen, cav_Bhw: Tensor) -> list[list[Panel]]:
    """Per sample its block of lines: the image, the class activation and the sum; then a line for each prototype.

    All maps over all images of the batch stand on one scale: from the lowest to the highest similarity that any
    prototype has anywhere in them, so that one that hardly fires looks so.
    """
    active = [maps[:, net.active[members]] for maps, members in seen.levels]
    ends = [(float(maps.min()), float(maps.max())) for maps in active if maps.numel()]
    scale = min(low for low, _ in ends), max(high for _, high in ends)
    return [_case(net, batch, seen, cav_Bhw[i], i, scale) for i in range(len(batch))]


def _case(net: PrototypeMethod, batch: Batch, seen: Seen, cav_hw: Tensor, i: int, scale: Scale) -> list[Panel]:
    image = _array(batch.image[i, 0])
    outline = _array(batch.mask[i, 0]) if bool(batch.has_mask[i]) else None
    kind = int(seen.logits[i, : len(net.task.classes)].argmax())
    parts = seen.scores[i] * net.h1.weight[kind] * net.active
    own = (net.active & (net.classes == kind)).nonzero()[:, 0]
    order = own[parts[own].argsort(descending=True)].tolist()
    name = net.task.classes[kind]
    block = [
        Panel(f"network says {name}", image, caption="the picture that was judged, nothing drawn over it"),
        Panel(
            f"class activation: {name}",
            image,
            map=_array(cav_hw),
            outline=outline,
            scale=(min(0.0, float(cav_hw.min())), float(cav_hw.max())),  # not min-max: a map that is level looks so
            caption=f"{_count(own)} together (Eq. 11): sum of similarity x map, {_number(cav_hw.min())} to {_number(cav_hw.max())}",
            beside=_sum(net, seen, i, kind, parts, order),
        ),
    ]
    for line, j in enumerate(order[:SHOWN], start=1):
        s_hw = seen.map_of(j)[i]
        box = activation_box(s_hw, net.config.size)
        said = f"{name}\n\n{_product(net, seen, i, kind, j)}\n\n{_self(net, j)}{_of_cells(net, j)}{_twins(net, j)}"
        block += [
            Panel(
                f"strongest place of prototype {j}",
                image,
                outline=outline,
                box=box,
                caption=f"dashed: box around the top 5% of its map, {_pixels(box)}{_share(outline, box)}",
                line=line,
            ),
            Panel(
                f"where prototype {j} fires here",
                image,
                map=_array(s_hw),
                outline=outline,
                scale=scale,
                caption=_range(s_hw),
                line=line,
            ),
            *(_at(panel, line, scale) for panel in origin(net, j)),
        ]
        block[-1].beside = f"prototype {j}: {said}"
    return block


def _sum(net: PrototypeMethod, seen: Seen, i: int, kind: int, parts_M: Tensor, order: list[int]) -> str:
    """The addends of the predicted class's logit, the prototypes shown by name, and what spoke most against it."""
    shown, rest = order[:SHOWN], order[SHOWN:]
    others = (net.active & (net.classes != kind)).nonzero()[:, 0].tolist()
    logit = float(seen.logits[i, kind])
    rows = [(float(parts_M[j]), f"prototype {j}") for j in shown]
    if rest:
        rows.append((float(parts_M[rest].sum()), f"its other prototypes ({len(rest)})"))
    rows.append((float(parts_M[others].sum()), f"prototypes of other classes ({len(others)})"))
    said = ", ".join(f"{name} {float(seen.logits[i, k]):.2f}" for k, name in enumerate(net.task.classes))
    for k, name in list(enumerate(net.class_names))[len(net.task.classes) : seen.logits.shape[1]]:
        said += f"; {name} {float(seen.logits[i, k]):.2f}, which has no part in the probability"
    lines = [f"What makes the score of {net.task.classes[kind]}:", *(f"{value:+7.2f}  {what}" for value, what in rows)]
    lines += ["-------", f"{logit:+7.2f}  logit of {net.task.classes[kind]}", "", f"All logits: {said}."]
    if float(parts_M.min()) < 0:
        j = int(parts_M.argmin())
        lines += ["", f"Most against it: prototype {j} of {_kind(net, j)},", _product(net, seen, i, kind, j)]
    return "\n".join(lines)


def _product(net: PrototypeMethod, seen: Seen, i: int, kind: int, j: int) -> str:
    score, weight = float(seen.scores[i, j]), float(net.h1.weight[kind, j])
    return "\n".join([
        f"  {score:6.2f}  similarity",
        f"x {weight:6.2f}  class connection",
        f"= {score * weight:+6.2f}  to the score of {net.task.classes[kind]}",
    ])  # fmt: skip


# ---- a prototype -------------------------------------------------------------------------------------------------
def gallery(net: PrototypeMethod) -> list[Panel]:
    """Every prototype on a line of its own, by class as they are numbered; then those that pruning took out."""
    left = net.active.nonzero()[:, 0].tolist()
    gone = (~net.active).nonzero()[:, 0].tolist()
    scale = _page_scale(net, [*left, *gone])
    found: list[Panel] = []
    for line, j in enumerate([*left, *gone]):
        panels = origin(net, j)
        panels[-1].beside = _facts(net, j)
        found += [_at(panel, line, scale) for panel in panels]
    return found


def origin(net: PrototypeMethod, j: int) -> list[Panel]:
    """The patch that prototype j is, the training image that it was copied from, and where it fires there."""
    image, row = _stored(net.source_image[j]), int(net.source_place[j, 0])
    if row == UNKNOWN:
        return [Panel(f"prototype {j}: {_kind(net, j)}", image, caption="not projected: no training patch as yet")]
    mask, own = _stored(net.source_mask[j]), net.source_map(j)
    outline = mask if mask.any() else None
    x0, y0, x1, y1 = box = tuple(net.source_box[j].tolist())
    times = net.config.size / max(x1 - x0, y1 - y0)
    return [
        Panel(
            f"prototype {j}: {_kind(net, j)}",
            image[y0:y1, x0:x1],
            outline=None if outline is None else outline[y0:y1, x0:x1],
            caption=f"the dashed box at its right, {_pixels(box)}{_share(outline, box)}; enlarged {times:.1f} times",
        ),
        Panel(
            f"training picture of prototype {j}",
            image,
            outline=outline,
            box=box,
            caption="dashed: box around the top 5% of its map there",
            training_row=row,
        ),
        Panel(
            f"self-activation of prototype {j}",
            image,
            map=_array(own),
            outline=outline,
            caption=f"in its training picture: {_range(own)}; highest at its own cell: {_where(net, j)}",
        ),
    ]


def _facts(net: PrototypeMethod, j: int) -> str:
    """What a page of prototypes says of each."""
    if not net.active[j]:
        rule = f"taken out by pruning (rule: {net.config.prune.rule}): no part in any score"
        return f"prototype {j}: {_kind(net, j)}, pruned\n{rule}\n{_of_cells(net, j)}{_twins(net, j)}"
    connections = [
        f"{w:+8.2f}  to {name}" for w, name in zip(net.h1.weight[:, j].tolist(), net.class_names, strict=False)
    ]
    lines = [f"prototype {j}: {_kind(net, j)}", _of_cells(net, j), "", "class connections (last layer):", *connections]
    if int(net.source_place[j, 0]) != UNKNOWN:
        lines += ["", f"{_self(net, j)}its own cell: {_where(net, j)}{_twins(net, j)}"]
    return "\n".join(lines)


def _self(net: PrototypeMethod, j: int) -> str:
    """What the prototype's similarity comes to on its own training picture: what one on a case is to be compared with."""
    if int(net.source_place[j, 0]) == UNKNOWN:
        return ""
    return f"{net.pooled_map(j, net.source_map(j)):8.2f}  similarity to its own picture\n\n"


def _page_scale(net: PrototypeMethod, shown: list[int]) -> Scale:
    """From the lowest similarity on any source to the highest outside the prototype's own cell, where it is at its
    largest by construction: beside that nothing else would show."""
    low, high = [0.0], [1.0]
    for j in shown:
        row, y, x = net.source_place[j].tolist()
        if row == UNKNOWN:
            continue
        around = net.source_map(j).clone()
        low.append(float(around.min()))
        around[y, x] = -torch.inf
        high.append(float(around.max()))
    return min(low[1:] or low), max(high[1:] or high)


def _twins(net: PrototypeMethod, j: int) -> str:
    """Other prototypes of the very same patch, and of the same training picture."""
    place, level = net.source_place[j].tolist(), net.level_of(j)
    if place[0] == UNKNOWN:
        return ""
    left = [other for other in net.active.nonzero()[:, 0].tolist() if other != j]
    picture = [other for other in left if int(net.source_place[other, 0]) == place[0]]
    same = [o for o in picture if net.source_place[o].tolist() == place and net.level_of(o) == level]
    rest = [other for other in picture if other not in same]
    words = [("the same patch as", same), ("from the same training picture as", rest)]
    return "".join(f"\n{what} prototype {', '.join(map(str, them))}" for what, them in words if them)


def _of_cells(net: PrototypeMethod, j: int) -> str:
    """How prototype j's map becomes its similarity, where it stands, and how much of the input a cell depends on."""
    size, side, field = net.config.size, net.sides[j], net.receptive_field(j)
    level = f"level {net.level_of(j)} of the pyramid: " if net.level_of(j) else ""
    sees = "the whole picture" if field >= size else f"{field} x {field} px around it"
    cells = f"{level}{side} x {side} cells of {size / side:.0f} x {size / side:.0f} px"
    return f"similarity: {net.pooling(j)}\n{cells}\na cell depends on {sees}"


def highest(k: int) -> str:
    """Words for the mean of the k highest cells of a map."""
    return f"mean of the {k} highest cells" if k > 1 else "the highest cell"


def _where(net: PrototypeMethod, j: int) -> str:
    """What lies in the prototype's own cell: a prototype beside the lesion must not pass for one on it."""
    if int(net.classes[j]) >= len(net.task.classes):
        return "of a region without a lesion"
    if not bool((net.source_mask[j] > 0).any()):
        return "the picture has no mask"
    _, y, x = net.source_place[j].tolist()
    side = net.config.size / net.sides[j]
    rows, columns = slice(round(y * side), round((y + 1) * side)), slice(round(x * side), round((x + 1) * side))
    share = float((net.source_mask[j, rows, columns] > 127).float().mean())
    dark = float((net.source_image[j, rows, columns] < DARK).float().mean())
    return "outside the breast" if dark > 0.5 else "beside the lesion" if share == 0 else f"{_percent(share)} lesion"


def _kind(net: PrototypeMethod, j: int) -> str:
    return net.class_names[int(net.classes[j])]


def _count(own: Tensor) -> str:
    return f"{len(own)} prototype{'s' if len(own) != 1 else ''}"


def _range(s_hw: Tensor) -> str:
    return f"similarity, {_number(s_hw.min())} to {_number(s_hw.max())}, mean {_number(s_hw.mean())}"


def _number(value: Tensor | float) -> str:
    return f"{round(float(value), 2) + 0.0:.2f}"  # never -0.00


def _percent(share: float) -> str:
    return f"{float(share):.0%}"


def _pixels(box: Box) -> str:
    return f"{box[2] - box[0]} x {box[3] - box[1]} px"


def _share(outline_SS: np.ndarray | None, box: Box) -> str:
    x0, y0, x1, y1 = box
    return "" if outline_SS is None else f", {_percent(outline_SS[y0:y1, x0:x1].mean())} lesion"


def _at(panel: Panel, line: int, scale: Scale) -> Panel:
    """The panel on its line of a block, its map on the block's scale."""
    panel.line, panel.scale = line, scale if panel.map is not None else None
    return panel


def _array(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


def _stored(picture_SS: Tensor) -> np.ndarray:
    """Bytes as they are kept with a prototype, in [0, 1]."""
    return np.asarray(picture_SS.cpu().numpy().astype(np.float32) / 255)
