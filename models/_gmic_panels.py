"""A case as GMIC's own figure shows it, and its five activation maps beside each other (paper 004, Fig. 4).

Shapes: B films, H W pixels, K crops of ch x cw pixels, h w cells of a map.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from data.batch import Batch
from models._cams import TITLES
from models._regions import Size, crops
from models.method import Panel


def case_panels(
    batch: Batch, corner_BK2: Tensor, crop: Size, attention_BK: Tensor, maps: Mapping[str, Tensor], chosen_by: str
) -> list[list[Panel]]:
    """Per film: the film, the regions by their attention, the saliency map; the crops; all five maps. chosen_by: the map that picked
    the regions. Each map keeps its values: CAM is a probability, on one scale everywhere; the others' scales say how high they are."""
    cut_BKHW = crops(batch.image.float(), corner_BK2, crop).cpu().numpy()
    corners, attention = corner_BK2.cpu().numpy(), attention_BK.float().cpu().numpy()
    return [
        _case(
            batch.image[i, 0].float().cpu().numpy(), _truth(batch, i), corners[i], crop, attention[i], cut_BKHW[i],
            {name: value[i].float().cpu().numpy() for name, value in maps.items()}, chosen_by,
        )
        for i in range(len(batch))
    ]  # fmt: skip


def _case(
    image: np.ndarray, truth: np.ndarray | None, corners: np.ndarray, crop: Size, attention: np.ndarray,
    cut: np.ndarray, maps: Mapping[str, np.ndarray], chosen_by: str,
) -> list[Panel]:  # fmt: skip
    order = np.argsort(-attention, kind="stable")
    centres = [(corners[k][1] + crop[1] / 2, corners[k][0] + crop[0] / 2, str(i + 1)) for i, k in enumerate(order)]
    regions = np.zeros(image.shape)
    for (top, left), weight in zip(corners, attention, strict=True):
        window = regions[top : top + crop[0], left : left + crop[1]]
        window[...] = np.maximum(window, weight)
    row = [
        Panel("film", image),
        Panel(
            "regions, by attention",
            image,
            map=regions,
            outline=truth,
            caption=f"picked by {chosen_by}",
            scale=(0, 1),
            marks=centres,
        ),
        _map(f"saliency: {TITLES['cam']} of mass", image, "cam", maps["cam"], truth),
    ]
    row += [
        Panel(f"region {place + 1}", cut[k], caption=f"attention {attention[k]:.2f}", line=1)
        for place, k in enumerate(order)
    ]
    return row + [replace(_map(TITLES[name], image, name, value, truth), line=2) for name, value in maps.items()]


def _map(title: str, image: np.ndarray, name: str, value: np.ndarray, truth: np.ndarray | None) -> Panel:
    """With the question that detection asks of it: does its highest cell lie on the lesion."""
    high = 1.0 if name == "cam" else float(value.max())
    return Panel(title, image, map=value, outline=truth, scale=(0.0, high), caption=_highest(value, truth))


def _highest(value: np.ndarray, truth: np.ndarray | None) -> str:
    if truth is None or not np.ptp(value) > 0:
        return ""
    (row, column), (h, w) = np.unravel_index(value.argmax(), value.shape), value.shape
    height, width = truth.shape
    cell = truth[row * height // h : (row + 1) * height // h, column * width // w : (column + 1) * width // w]
    return f"its highest cell lies {'on' if cell.any() else 'beside'} the lesion"


def _truth(batch: Batch, i: int) -> np.ndarray | None:
    """(H, W) 1 on what is known of the lesions: their masks, else their boxes; None where nothing is."""
    if bool(batch.has_mask[i]):
        return batch.mask[i, 0].float().cpu().numpy()
    if not len(batch.boxes) or not len(batch.boxes[i]):
        return None
    outline = np.zeros((batch.image.shape[2], batch.image.shape[3]), dtype=np.float32)
    for x0, y0, x1, y1 in batch.boxes[i].round().int().tolist():
        outline[max(y0, 0) : y1, max(x0, 0) : x1] = 1
    return outline
