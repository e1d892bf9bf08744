"""The training lesions, or films, that a network sees a case nearest to: by the cosine of its last activations' mean over the
picture.

Shapes: B cases, N training samples, C channels of the last activations, h w its cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.engine.evaluate import sample_batch
from data.batch import Batch
from data.inputs import Inputs
from data.loading import batches
from data.samples import Samples
from models.method import Method, Panel

K = 3
WORDS = {"finding": ("lesion", "regions"), "image": ("film", "films")}  # what is shown of a track's unit; what all are
EPS = 1e-12


@dataclass(frozen=True)
class Neighbour:
    row: int  # of the training table
    distance: float  # 1 - cosine: 0 the same direction, 1 none in common (activations are mostly non-negative)


@torch.no_grad()
def features(method: Method, batch: Batch) -> Tensor:
    """(B, C) of length 1; of activations that are all 0 all 0."""
    with torch.autocast(batch.image.device.type, enabled=False):
        groups = method.activations(batch.image)
    mean_BC = groups[max(groups)].float().mean(dim=(2, 3)).double()
    return mean_BC / mean_BC.norm(dim=1, keepdim=True).clamp_min(EPS)


def training_features(method: Method, train: Samples, inputs: Inputs) -> tuple[Tensor, np.ndarray]:
    """One pass over the training lesions, not varied: (N, C), and the row of each in the training table."""
    read = batches(train, inputs, (), stage="evaluation", augment=False, shuffle=False)
    parts = [(features(method, batch), batch.index.numpy()) for batch in read]
    return torch.cat([found for found, _ in parts]), np.concatenate([rows for _, rows in parts])


def nearest(
    case_C: Tensor, known_NC: Tensor, rows: np.ndarray, table: pd.DataFrame, patient: str, k: int = K
) -> list[Neighbour]:
    """The k nearest lesions, each once, by the nearest of its views; none of the case's own patient.

    rows: of `table` that known_NC are of. A side may share patients with the training side where a split by lesion was asked.
    """
    distance_N = (1 - known_NC @ case_C).numpy()
    found: list[Neighbour] = []
    seen: set[tuple[str, str]] = set()
    for position in np.argsort(distance_N, kind="stable"):
        row = int(rows[position])
        whose, lesion = str(table["patient"].iat[row]), str(table["lesion_id"].iat[row] or table["record_id"].iat[row])
        if whose != patient and (whose, lesion) not in seen:
            seen.add((whose, lesion))
            found.append(Neighbour(row, float(distance_N[position])))
        if len(found) == k:
            break
    return found


def panels(method: Method, batch: Batch, patients: Sequence[str], train: Samples) -> list[list[Panel]]:
    """Per case of a batch its nearest training lesions; [] each, where a method has no spatial activations.

    patients: whose the cases are.
    """
    inputs = method.inputs()
    with torch.no_grad():
        if not method.activations(batch.image[:1]):
            return [[] for _ in patients]
    case_BC, (known_NC, rows) = features(method, batch), training_features(method, train, inputs)
    made = []
    for case_C, label, patient in zip(case_BC, batch.label.tolist(), patients, strict=True):
        found = nearest(case_C, known_NC, rows, train.table, patient)
        block = _shown(found, train, inputs, WORDS[method.task.track.unit][0])
        if block:
            typical = float((1 - known_NC @ case_C).median())
            block[-1].beside = _said(method, found, train.table.iloc[rows], label, patient, typical)
        made.append(block)
    return made


def _shown(found: Sequence[Neighbour], train: Samples, inputs: Inputs, what: str) -> list[Panel]:
    if not found:
        return []
    batch = sample_batch(train, inputs, [one.row for one in found])
    return [
        Panel(
            f"nearest training {what} {n}",
            image_1HW[0].float().numpy(),
            outline=mask_1HW[0].float().numpy() if has_mask else None,
            caption=f"cosine distance {one.distance:.3g}",
            training_row=one.row,
        )
        for n, (one, image_1HW, mask_1HW, has_mask) in enumerate(
            zip(found, batch.image, batch.mask, batch.has_mask.tolist(), strict=True), start=1
        )
    ]


def _said(
    method: Method, found: Sequence[Neighbour], table: pd.DataFrame, truth: int, patient: str, typical: float
) -> str:
    """How many of them share the case's label, beside how many of all do. table: of the training lesions. typical: median
    distance to all of them."""
    what, all_of_them = WORDS[method.task.track.unit]
    lines = [f"Nearest training {what}s", ""]
    if truth >= 0:
        labels = table["label"].to_dict()
        alike, name = sum(labels[one.row] == truth for one in found), method.task.classes[truth]
        share = f"{(table['label'] == truth).mean():.0%} of all training {all_of_them} have it"
        lines += [f"{alike} of {len(found)} have the case's true label, {name}; {share}.", ""]
    lines.append("Distance: 1 - cosine of the last activations, of their mean over the picture.")
    lines.append(f"Median distance to all training {all_of_them}: {typical:.3g}.")
    if what == "lesion":
        lines.append("Of a lesion's views the nearest stands here.")
    if own := int((table["patient"] == patient).sum()):
        lines.append(f"{own} pictures of the case's own patient are left out: this split divides patients.")
    return "\n".join(lines)
