"""Teaching where to look by masks: whose mask counts, which pixels are irrelevant, how the term is weighed.

Shared by the methods that are given the annotations of paper 002 (Barnett et al. 2021, IAIA-BL; "code" its authors'
public code), so that a difference between them is none of what they were told. Shapes: B images, M maps, h w their cells,
H W pixels of masks. A sample's mask is its fine one, else that of its lesion.
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from data.batch import Batch
from data.inputs import Inputs, Stream
from models._prototypes import FineNorm, fine_loss_per_sample, norm_scale
from models.method import Field, Task, Term, term


class FineRules(BaseModel):
    """Fields of every method that masks teach. It goes before the other bases of a Config, so that these come last."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    fine_batch_size: int = Field(
        10, kind="budget", ge=0, description="finely annotated samples added to each step; 10 in the code"
    )
    fine_norm_at: int | None = Field(
        224, description="side at which a norm has its published weight; null: as it comes"
    )
    fine_scope: Literal["all_masked", "fine_only"] = Field(
        "all_masked",
        description="all_masked: lesion masks where there is no fine one (code and text); fine_only: D' of Eq. 7",
    )
    fine_reduction: Literal["sum", "mean"] = Field("sum", description="over the samples of a batch; sum in the code")
    fine_unannotated: Literal["skip", "all_relevant"] = Field(
        "skip",
        description="samples without any mask: no term; all_relevant: other-class maps are punished all the same",
    )
    mask_binarise: bool = Field(False, description="round fractional mask pixels; false in the code")


class FineLossRules(FineRules):
    """Fields of the loss of paper 002, Eq. 7."""

    fine_norm: FineNorm = Field(
        "stacked", description="stacked: the code's three norms; per_prototype: one a map (Eq. 7); square"
    )


def with_fine_stream(inputs: Inputs, rules: FineRules, task: Task) -> Inputs:
    """The same inputs, and finely annotated samples in each step where the data set has such."""
    if not rules.fine_batch_size or "fine_mask" not in task.provides:
        return inputs
    streams = (*inputs.streams, Stream("fine", rules.fine_batch_size, only="fine"))
    return replace(inputs, streams=streams)


def supervision(task: Task) -> str:
    """What training sees where masks teach."""
    return "label + fine mask" if "fine_mask" in task.provides else "label + mask"


def relevance(rules: FineRules, batch: Batch, like: Tensor) -> tuple[Tensor, Tensor]:
    """(outside (B, 1, H, W) in the precision of `like`, 1 where a pixel is irrelevant; taken (B): does the sample count)."""
    fine_B = batch.has_fine
    mask = batch.fine_mask.where(fine_B.view(-1, 1, 1, 1), batch.mask).to(like.dtype)
    if rules.mask_binarise:
        mask = (mask >= 0.5).to(like.dtype)
    outside = 1 - mask
    if rules.fine_scope == "fine_only":
        return outside, fine_B
    masked_B = fine_B | batch.has_mask
    if rules.fine_unannotated == "skip":
        return outside, masked_B
    return outside * masked_B.view(-1, 1, 1, 1), torch.ones_like(masked_B)


def reduced(rules: FineRules, per_sample: Tensor, batch: Batch, norm: FineNorm, weight: float) -> Term:
    """The term of a batch from those of the samples that count: at the published side, summed or averaged over all B."""
    size = (batch.mask.shape[2], batch.mask.shape[3])
    total = per_sample.sum() * norm_scale(rules.fine_norm_at, size, norm)
    if rules.fine_reduction == "mean":
        return term(total / len(batch), "mean", weight)
    return term(total, "sum", weight)


def fine_term(
    rules: FineLossRules, maps_BMhw: Tensor, batch: Batch, kind_M: Tensor, active_M: Tensor, weight: float
) -> Term:
    """Eq. 7 over the batch: maps of the own class outside the mask, of other classes anywhere. kind: the class of each."""
    outside_B1HW, taken_B = relevance(rules, batch, maps_BMhw)
    chosen = taken_B.nonzero()[:, 0]
    per_sample = fine_loss_per_sample(
        maps_BMhw[chosen], outside_B1HW[chosen], batch.label[chosen], kind_M, active_M, rules.fine_norm
    )
    return reduced(rules, per_sample, batch, rules.fine_norm, weight)
