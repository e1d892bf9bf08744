"""Lesion and Background of test lesions, cell by cell, of any method with spatial activations: the table that
bench/metrics/cells.py reads.

Shapes: H W pixels of the region, h w cells of the last activations.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.engine.evaluate import sample_batch, untrained_copy
from bench.engine.worker import Worker
from bench.metrics.cells import ASKED, COLUMNS, MUS, RANDOM, TRAINED
from bench.metrics.frame import ROW_KEY, Frame
from data.augment import centre, vary_boxes
from data.record import Box
from data.roi import to_crop
from data.samples import Samples
from models import _lesion_background as lb
from models.method import Method

BATCH_PIXELS = 99 * 224 * 224  # of the inputs that go through the network at once: a region of the published size
Confounders = Callable[[Collection[str]], Mapping[str, Box]]  # record ids -> box of those that hold one, film pixels


def add_cells(
    frame: Frame, method: Method, samples: Samples, count: int, split_hash: str, worker: Worker,
    confounders: Confounders | None = None,
) -> None:  # fmt: skip
    """Gives a frame the cells of `count` of its lesions, or the reason why there are none, and notes what was asked.

    Asked of the network and of the copy with random weights that its maps are judged beside. samples: what the frame was
    made of. confounders: of data that know where one lies. In float32 whatever the run's precision: distances are small.
    """
    method.eval()
    untrained = untrained_copy(method, str(frame.meta["method"]), int(frame.meta["seed"]), worker)
    chosen = samples.select(drawn(samples.table, count, split_hash))
    with torch.no_grad(), torch.autocast(worker.torch_device.type, enabled=False):
        missing = _missing(method, chosen, worker)
        frame.cells = None if missing else _table({TRAINED: method, RANDOM: untrained}, chosen, worker, confounders)
    frame.meta[ASKED] = {"asked": count, "missing": missing}


def drawn(table: pd.DataFrame, count: int, split_hash: str) -> np.ndarray:
    """Positions of `count` rows with a mask, or of all: decided by the split alone, so every method meets the same.

    Of a larger count the first ones are those of a smaller one.
    """
    rows = table.reset_index(drop=True)
    rows = rows[rows["has_mask"].to_numpy(bool)].sort_values(ROW_KEY)
    entropy = int.from_bytes(hashlib.sha256(f"cells|{split_hash}".encode()).digest()[:16], "big")
    order = np.random.Generator(np.random.PCG64(entropy)).permutation(len(rows))
    return rows.index.to_numpy()[order[:count]]


def _missing(method: Method, chosen: Samples, worker: Worker) -> str:
    """Why the cells of these lesions cannot be had, in words; "" if they can."""
    if not len(chosen):
        return "no test lesion has a mask"
    return lb.refusal(method, torch.zeros(1, 1, *chosen.size, device=worker.torch_device))


def _table(
    networks: Mapping[str, Method], chosen: Samples, worker: Worker, confounders: Confounders | None
) -> pd.DataFrame:
    boxes = None if confounders is None else _in_region(chosen, confounders(set(chosen.table["record_id"])))
    inputs, rules, parts = networks[TRAINED].inputs(), lb.rules_of(networks[TRAINED]), []
    for i in range(len(chosen)):
        batch = sample_batch(chosen, inputs, [i])
        key = {name: str(chosen.table[name].iat[i]) for name in ROW_KEY}
        image_HW, mask_HW = batch.image[0, 0], batch.mask[0, 0].double().numpy()
        for network, mu, found in _asked(networks, image_HW.to(worker.torch_device), rules):
            h, w = found["activation"].shape
            row, column = np.indices((h, w))
            held = np.full((h, w), np.nan) if boxes is None else _overlaps(boxes.get(i), mask_HW.shape, (h, w))
            cells = {"row": row, "column": column, "coverage": lb.per_cell(mask_HW, h, w), "confounder": held} | found
            flat = {name: values.ravel() for name, values in cells.items()}
            parts.append(pd.DataFrame(flat).assign(**key, network=network, mu=mu))
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)]


def _asked(
    networks: Mapping[str, Method], image_HW: Tensor, rules: lb.Rules
) -> Iterator[tuple[str, str, dict[str, np.ndarray]]]:
    """Per network and reading of mu the cells' activation, variance and distances, (h, w) each."""
    grey, batch = image_HW.double().cpu().numpy(), max(1, min(99, BATCH_PIXELS // image_HW.numel()))
    for mu in MUS:
        read = rules.model_copy(update={"mu": mu})
        shown = lb.pictures(grey, read)
        for name, network in networks.items():
            cells = lb.cells_of(lb.last_of(network), image_HW, shown, batch)
            yield name, mu, {
                "activation": cells.activation, "variance": lb.per_cell(lb.variance(grey, read), *cells.activation.shape),
                "to_lesion": cells.to_lesion, "to_background": cells.to_background,
            }  # fmt: skip


def _in_region(chosen: Samples, boxes: Mapping[str, Box]) -> dict[int, np.ndarray]:
    """Position of a sample -> x0 y0 x1 y1 of its film's confounder in pixels of the region as evaluation sees it."""
    found = {}
    table, windows = chosen.table, chosen.table[["wx0", "wy0", "wx1", "wy1"]].to_numpy(np.int64)
    for i, record in enumerate(table["record_id"]):
        if (box := boxes.get(record)) is not None:
            canvas, (x0, y0, x1, y1) = chosen.image[i].shape, windows[i].tolist()
            cut = to_crop(np.array([box]), (x0, y0, x1, y1), canvas, bool(table["flipped"].iat[i]))
            seen = vary_boxes(torch.from_numpy(cut), centre((canvas[0], canvas[1]), chosen.size), chosen.size)
            found[i] = seen[0].numpy()
    return found


def _overlaps(box: np.ndarray | None, size: tuple[int, ...], cells: tuple[int, int]) -> np.ndarray:
    """(h, w) 1 where a cell shares some area with the box, else 0."""
    if box is None:
        return np.zeros(cells)
    sides = []
    for low, high, pixels, count in zip(box[[1, 0]], box[[3, 2]], size, cells, strict=True):
        starts = np.arange(count) * pixels / count
        sides.append((np.minimum(high, starts + pixels / count) > np.maximum(low, starts)) & (high > low))
    return (sides[0][:, None] & sides[1][None, :]).astype(float)
