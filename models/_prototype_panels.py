"""What a prototype network shows of itself: where prototypes fire in an image, the training patches that they are, and the
sum that a score is made of (paper 002, its figures of single cases; Eq. 11).

Shapes: B images, M prototypes, K classes, h w cells of a prototype's map, S side of the input.
"""

from __future__ import annotations

from collections import Counter
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
PLACES = ("on the lesion", "beside the lesion", "outside the breast")
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
    parts_KM = seen.scores[i] * net.h1.weight * net.active
    order = _strongest(net, parts_KM, kind)
    name = net.task.classes[kind]
    block = [
        Panel(f"network says {name}", image, caption="the picture that was judged, nothing drawn over it"),
        Panel(
            f"class activation: {name}",
            image,
            map=_array(cav_hw),
            outline=outline,
            scale=(min(0.0, float(cav_hw.min())), float(cav_hw.max())),  # not min-max: a map that is level looks so
            caption=f"{_count(order)} together (Eq. 11): sum of {net.score_word} x {net.map_word} map, "
            f"{_number(cav_hw.min())} to {_number(cav_hw.max())}",
            beside=_sum(net, seen, i, kind, parts_KM, int(batch.label[i])),
        ),
    ]
    for line, j in enumerate(order[:SHOWN], start=1):
        s_hw = seen.map_of(j)[i]
        box = activation_box(s_hw, net.config.size)
        cell = _cell(net, j, *divmod(int(s_hw.argmax()), s_hw.shape[1]))
        said = f"{name}\n\n{_product(net, seen, i, kind, j)}\n\n{_self(net, j)}{_of_cells(net, j)}{_twins(net, j)}"
        block += [
            Panel(
                f"prototype {j}: around its highest cells",
                image,
                outline=outline,
                box=box,
                cell=cell,
                caption=f"white: the highest cell of its map; dashed: box around the map's top 5%, {_pixels(box)}",
                line=line,
            ),
            Panel(
                f"where prototype {j} fires here",
                image,
                map=_array(s_hw),
                outline=outline,
                scale=scale,
                cell=cell,
                caption=f"{_range(net, s_hw)}; white: its highest cell",
                line=line,
            ),
            *(_at(panel, line, scale) for panel in origin(net, j)),
        ]
        block[-1].beside = f"prototype {j}: {said}"
    return block


def _strongest(net: PrototypeMethod, parts_KM: Tensor, kind: int) -> list[int]:
    """The prototypes of a class that pruning left, those that add most to its logit first."""
    own = (net.active & (net.classes == kind)).nonzero()[:, 0]
    return [int(j) for j in own[parts_KM[kind, own].argsort(descending=True)]]


def _sum(net: PrototypeMethod, seen: Seen, i: int, kind: int, parts_KM: Tensor, truth: int) -> str:
    """The addends of the predicted class's logit, and beside each what it adds to another class's: that of the truth
    where the answer is wrong, else of the runner-up. Then what spoke most against the prediction."""
    names, logits = net.task.classes, seen.logits[i]
    second = next(k for k in logits[: len(names)].argsort(descending=True).tolist() if k != kind)
    rival, what = (second, "the runner-up") if truth in (UNKNOWN, kind) else (truth, "the true class")
    heads = (names[kind], names[rival], "difference")

    def row(first: Tensor, other: Tensor, said: str) -> str:
        values = zip(heads, (first, other, first - other), strict=True)
        return "  ".join([*(f"{float(value):+{max(len(head), 8)}.2f}" for head, value in values), said])

    lines = [f"What makes the score of {names[kind]}, beside that of {names[rival]} ({what}):"]
    lines.append("  ".join(f"{head:>8}" for head in heads))
    for said, members in _addends(net, parts_KM, kind, rival):
        lines.append(row(parts_KM[kind, members].sum(), parts_KM[rival, members].sum(), said))
    every = ", ".join(f"{name} {float(logits[k]):.2f}" for k, name in enumerate(names))
    for k, name in list(enumerate(net.class_names))[len(names) : len(logits)]:
        every += f"; {name} {float(logits[k]):.2f}, which has no part in the probability"
    lines += ["-" * len(lines[1]), row(logits[kind], logits[rival], "logit"), "", f"All logits: {every}."]
    if float(parts_KM[kind].min()) < 0:
        j = int(parts_KM[kind].argmin())
        lines += ["", f"Most against {names[kind]}: prototype {j} of {_kind(net, j)},", _product(net, seen, i, kind, j)]
    return "\n".join(lines)


def _addends(net: PrototypeMethod, parts_KM: Tensor, kind: int, rival: int) -> list[tuple[str, list[int]]]:
    """What a row of the sum stands for, and its prototypes, each of them in one row: the strongest of the two classes by
    name, all others by class."""
    rows: list[tuple[str, list[int]]] = []
    for k in (kind, rival):
        order = _strongest(net, parts_KM, k)
        rows += [(f"prototype {j} of {net.class_names[k]}", [j]) for j in order[:SHOWN]]
        rows.append((f"other prototypes of {net.class_names[k]}", order[SHOWN:]))
    for k, name in enumerate(net.class_names):
        if k not in (kind, rival):
            rows.append((f"prototypes of {name}", (net.active & (net.classes == k)).nonzero()[:, 0].tolist()))
    return [(f"{said} ({len(them)})" if len(them) > 1 else said, them) for said, them in rows if them]


def _product(net: PrototypeMethod, seen: Seen, i: int, kind: int, j: int) -> str:
    score, weight = float(seen.scores[i, j]), float(net.h1.weight[kind, j])
    return "\n".join([
        f"  {score:6.2f}  {net.score_word}",
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
    image, (row, y, x) = _stored(net.source_image[j]), net.source_place[j].tolist()
    faded = not net.active[j]
    gone = " (pruned)" if faded else ""
    title = f"prototype {j}: {_kind(net, j)}{gone}"
    if row == UNKNOWN:
        return [Panel(title, image, caption="not projected: no training patch as yet", faded=faded)]
    mask, own, cell = _stored(net.source_mask[j]), net.source_map(j), _cell(net, j, y, x)
    outline = mask if mask.any() else None
    x0, y0, x1, y1 = box = tuple(net.source_box[j].tolist())
    times = net.config.size / max(x1 - x0, y1 - y0)
    return [
        Panel(
            title,
            image[y0:y1, x0:x1],
            outline=None if outline is None else outline[y0:y1, x0:x1],
            caption=f"the dashed box at its right, {_pixels(box)}; enlarged {times:.1f} times",
            faded=faded,
        ),
        Panel(
            f"training picture of prototype {j}{gone}",
            image,
            outline=outline,
            box=box,
            cell=cell,
            caption="white: its own cell; dashed: box around the top 5% of its map there",
            training_row=row,
            faded=faded,
        ),
        Panel(
            f"self-activation of prototype {j}{gone}",
            image,
            map=_array(own),
            outline=outline,
            cell=cell,
            caption=f"white: own cell {_number(own[y, x])}, {_where(net, j)[1]}; {_range(net, own)}",
            faded=faded,
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
        lines += ["", f"{_self(net, j)}its own cell: {_where(net, j)[1]}{_twins(net, j)}"]
    return "\n".join(lines)


def tally(net: PrototypeMethod) -> str:
    """Where the own cells of the prototypes that pruning left lie, of those that were projected."""
    left = [j for j in net.active.nonzero()[:, 0].tolist() if int(net.source_place[j, 0]) != UNKNOWN]
    found = Counter(_where(net, j)[0] for j in left)
    if not left:
        return ""
    said = [f"{found[place]} {place}" for place in dict.fromkeys((*PLACES, *found))]
    return f"Own cells of {_count(left)} in use: {', '.join(said)}. On the lesion: with any part of the cell."


def _self(net: PrototypeMethod, j: int) -> str:
    """What the prototype's similarity comes to on its own training picture."""
    if int(net.source_place[j, 0]) == UNKNOWN:
        return ""
    return f"{net.pooled_map(j, net.source_map(j)):8.2f}  {net.own_score(j)}\n\n"


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
    return f"{net.score_word}: {net.pooling(j)}\n{cells} of the network's input\na cell depends on {sees}"


def highest(k: int) -> str:
    """Words for the mean of the k highest cells of a map."""
    return f"mean of its {k} highest cells" if k > 1 else "its highest cell"


def _cell(net: PrototypeMethod, j: int, row: int, column: int) -> tuple[float, float, float, float]:
    """x0 y0 x1 y1 of a cell of prototype j's map, in pixels of the input."""
    side = net.config.size / net.sides[j]
    return column * side, row * side, (column + 1) * side, (row + 1) * side


def _where(net: PrototypeMethod, j: int) -> tuple[str, str]:
    """Where the prototype's own cell lies, and how much of it: one beside the lesion must not pass for one on it."""
    x0, y0, x1, y1 = map(round, _cell(net, j, *net.source_place[j, 1:].tolist()))
    rows, columns = slice(y0, y1), slice(x0, x1)
    share = float((net.source_mask[j, rows, columns] > 127).float().mean())
    dark = float((net.source_image[j, rows, columns] < DARK).float().mean())
    if share > 0 and dark <= 0.5:
        return PLACES[0], f"{share:.0%} lesion"
    if dark > 0.5:
        where = PLACES[2]
    elif int(net.classes[j]) >= len(net.task.classes):
        where = "in a region without a lesion"
    else:
        where = PLACES[1] if bool((net.source_mask[j] > 0).any()) else "in a picture without a mask"
    return where, where


def _kind(net: PrototypeMethod, j: int) -> str:
    return net.class_names[int(net.classes[j])]


def _count(own: list[int]) -> str:
    return f"{len(own)} prototype{'s' if len(own) != 1 else ''}"


def _range(net: PrototypeMethod, s_hw: Tensor) -> str:
    return f"{net.map_word} {_number(s_hw.min())} to {_number(s_hw.max())}, mean {_number(s_hw.mean())}"


def _number(value: Tensor | float) -> str:
    return f"{round(float(value), 2) + 0.0:.2f}"  # never -0.00


def _pixels(box: Box) -> str:
    return f"{box[2] - box[0]} x {box[3] - box[1]} px of the network's input"


def _at(panel: Panel, line: int, scale: Scale) -> Panel:
    """The panel on its line of a block, its map on the block's scale."""
    panel.line, panel.scale = line, scale if panel.map is not None else None
    return panel


def _array(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


def _stored(picture_SS: Tensor) -> np.ndarray:
    """Bytes as they are kept with a prototype, in [0, 1]."""
    return np.asarray(picture_SS.cpu().numpy().astype(np.float32) / 255)
