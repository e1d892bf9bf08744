"""What knowledge transfer does to the maps (paper 003, Fig. 6): how far a student's lie from its teacher's before and after
training, group by group, and how much of the teacher's map of a mask lies on the mask's rim.

Shapes: N regions, B samples of a batch, H W input pixels, h w cells of a map. Maps are Eq. 3's, distances Eq. 4's.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.batch import Batch
from models import _transfer as transfer
from models._chart import QUANTILES, Chart
from models.method import Context

GROUPS = (1, 2, 3, 4)
SERIES = {  # what is kept of distances -> in words
    "before": "before training",
    "after": "after training",
    "other": "after, to the mask of another region",  # what "a blob in the middle" gets: less is what each mask has taught
}
RIM = 1 / 32  # of the input's side: how far the band reaches on either side of the outline; a cell of group 1 or more
FLOOR = math.exp(-10)  # distances below count as this one: Fig. 6 adds 10 to the logarithm, so that none is negative
SCALE = "10 stands for a distance of 1, 9.31 for 0.5; 10.35, two maps without a common cell, is the most."
OTHER = "Of what the maps have come nearer, only what lies below the third box is of the region's own mask."
Maps = Callable[[Tensor], Mapping[int, Tensor]]  # (B, 1, H, W) -> group -> (B, h, w)


@dataclass(frozen=True)
class Looked:
    """Of N regions; NaN where a group has nothing to compare, or a mask no outline."""

    distance: np.ndarray  # (N, 4)
    other: np.ndarray  # (N, 4): to the teacher's map of another region's mask, half a batch away
    rim_share: np.ndarray  # (N, 4): of the teacher's map of the mask, what lies in the band around its outline
    rim_area: np.ndarray  # (N,): of the picture, what the band covers


class MapDistances(nn.Module):
    """What is kept of them: buffers of fixed size, so that they are part of a state."""

    log_distances: Tensor  # (3, 4, 5): of SERIES, group, quantile of ln d + 10
    rim_shares: Tensor  # (4,): mean over regions
    rim_area: Tensor  # ()
    regions: Tensor  # ()

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_distances", torch.full((len(SERIES), len(GROUPS), len(QUANTILES)), math.nan))
        self.register_buffer("rim_shares", torch.full((len(GROUPS),), math.nan))
        self.register_buffer("rim_area", torch.tensor(math.nan))
        self.register_buffer("regions", torch.tensor(0))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """A state from before they were kept has none of them: they stay unknown."""
        for name, value in self.named_buffers():
            state_dict.setdefault(prefix + name, value)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def keep(self, before: Looked, after: Looked) -> None:
        self.regions.fill_(len(before.distance))
        for series, distance in enumerate((before.distance, after.distance, after.other)):
            for group in range(len(GROUPS)):
                found = distance[:, group]
                logs = np.log(np.maximum(found[~np.isnan(found)], FLOOR)) + 10
                if len(logs):
                    self.log_distances[series, group] = torch.from_numpy(np.quantile(logs, QUANTILES))
        for group in range(len(GROUPS)):
            self.rim_shares[group] = _mean(before.rim_share[:, group])
        self.rim_area.fill_(_mean(before.rim_area))

    def facts(self) -> dict[str, float]:
        """Median distance of each group by SERIES, and the shares of the rim; nothing that is unknown."""
        named = {"rim_area": float(self.rim_area)}
        for i, group in enumerate(GROUPS):
            named[f"rim_share_{group}"] = float(self.rim_shares[i])
            for series, name in enumerate(SERIES):
                middle = float(self.log_distances[series, i, QUANTILES.index(0.5)])
                named[f"map_distance_{group}_{name}"] = math.exp(middle - 10)
        return {name: value for name, value in named.items() if math.isfinite(value)}

    def charts(self) -> dict[str, Chart]:
        if not bool(self.log_distances.isfinite().any()):
            return {}
        boxes = {
            words: {f"group {g}": tuple(self.log_distances[series, i].tolist()) for i, g in enumerate(GROUPS)}
            for series, words in enumerate(SERIES.values())
        }
        of = f"n = {int(self.regions)} training regions that have a mask, not varied. {SCALE} {OTHER}"
        title = "Distance of the student's maps of regions to the teacher's maps of their masks"
        return {
            "transfer": Chart(
                title, "group of the network", "ln d + 10 (d: Eq. 4)", boxes, f"{of} {self._on_the_rim()}".strip()
            )
        }

    def _on_the_rim(self) -> str:
        """The shares in words, beside that of the area: what a level map has."""
        area = float(self.rim_area)
        if not math.isfinite(area):
            return ""
        each = [
            f"group {group} {share:.0%} ({share / area:.1f} times the area's)"
            for group, share in zip(GROUPS, self.rim_shares.tolist(), strict=True)
            if math.isfinite(share)
        ]
        return (
            f"Of the teacher's map of a mask there lies in a band around the mask's outline, 1/{1 / RIM:.0f} of the side to "
            f"either side of it, which covers {area:.0%} of the picture: {', '.join(each)}."
        )


def outlined(batch: Batch) -> Tensor:
    """(B,) bool: samples that have a mask, and some of it within the region."""
    return batch.has_mask & (batch.mask.flatten(1).amax(dim=1) > 0)


@torch.no_grad()
def look(student: Maps, teacher: Maps, context: Context) -> Looked:
    """One pass over the training samples that have a mask, not varied, each worker over its share; all get the same."""
    parts = []
    for batch in context.batches():
        here = outlined(batch)
        if bool(here.any()):
            parts.append(_compared(student(batch.image[here]), teacher(batch.mask[here]), batch.mask[here]))
    width = 3 * len(GROUPS) + 1
    own = torch.cat(parts).cpu().numpy() if parts else np.zeros((0, width))
    found = np.concatenate(context.gather(own))
    return Looked(found[:, :4], found[:, 4:8], found[:, 8:12], found[:, 12])


def _compared(own: Mapping[int, Tensor], shown: Mapping[int, Tensor], mask_B1HW: Tensor) -> Tensor:
    """(B, 13): of each group the distance, that to another's mask, and the share of the rim; area of the rim."""
    band_B1HW = rim(mask_B1HW)
    unknown = torch.full((len(mask_B1HW),), math.nan, device=mask_B1HW.device)
    distances = [transfer.distance(shown[g].to(own[g]), own[g]).float() if g in shown else unknown for g in GROUPS]
    turned = {g: value.roll(max(1, len(value) // 2), 0) for g, value in shown.items() if len(value) > 1}
    others = [transfer.distance(turned[g].to(own[g]), own[g]).float() if g in turned else unknown for g in GROUPS]
    shares = [share_of(shown[g], band_B1HW) if g in shown else unknown for g in GROUPS]
    area_B = band_B1HW.mean(dim=(1, 2, 3))
    return torch.stack([*distances, *others, *shares, torch.where(area_B > 0, area_B, unknown)], dim=1)


def rim(mask_B1HW: Tensor) -> Tensor:
    """(B, 1, H, W): 1 within RIM of the longer side, at least a pixel, of the outline, along rows or columns.

    Where a mask meets the border of its region it has no outline.
    """
    inside = (mask_B1HW > 0.5).float()
    reach = max(1, round(RIM * max(mask_B1HW.shape[2:])))
    wide, narrow = (F.max_pool2d(sign * inside, 2 * reach + 1, stride=1, padding=reach) * sign for sign in (1, -1))
    return wide - narrow


def share_of(map_Bhw: Tensor, band_B1HW: Tensor) -> Tensor:
    """Share of a non-negative map that lies in a band, each cell spread evenly over its pixels, (B,); NaN where there is no
    band, or no map."""
    in_cell = F.adaptive_avg_pool2d(band_B1HW, (map_Bhw.shape[1], map_Bhw.shape[2]))[:, 0]
    total = map_Bhw.float().sum(dim=(1, 2))
    share = (map_Bhw.float() * in_cell).sum(dim=(1, 2)) / total
    return torch.where((total > 0) & (in_cell.amax(dim=(1, 2)) > 0), share, math.nan)


def _mean(values: np.ndarray) -> Any:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
