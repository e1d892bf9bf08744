"""The malignancy head of networks that are trained on margins: a logistic regression on their unnormalised margin logits.

Paper 002 (Barnett et al. 2021, IAIA-BL), Eq. 10. It is fitted last and alone; what is before it does not move.
Shapes: B images, N rows, F features = K classes of the margin track.
"""

import warnings
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from data.batch import Batch
from data.errors import DataError
from models._projection import in_table_order
from models.method import Context, Method, Prediction, Stage


class MalignancyHead(Method):
    """h2 of a method whose `margin_logits` are those of the margin track; its Config has `mal_head`."""

    malignancy_weight: Tensor
    malignancy_bias: Tensor

    def margin_logits(self, image_B1HW: Tensor) -> Tensor:
        """(B, K), before any softmax."""
        raise NotImplementedError

    def add_malignancy_head(self) -> None:
        """Buffers, so that no optimiser finds them."""
        self.register_buffer("malignancy_weight", torch.zeros(len(self.task.classes)))
        self.register_buffer("malignancy_bias", torch.zeros(()))

    def malignancy_stages(self) -> list[Stage]:
        """The head that answers the malignancy track, where the data know it."""
        if self.task.track.name != "margin" or "malignant" not in self.task.provides:
            return []
        return [Stage("malignancy", epochs=0, start="best", after=self.fit_malignancy)]

    @torch.no_grad()
    def fit_malignancy(self, context: Context) -> None:
        """On rows with one of the margins and known malignancy; nothing else is touched."""
        parts = []
        for batch in context.batches("train" if self.config.mal_head.fit_on == "train" else "fine"):
            known = (batch.margin >= 0) & (batch.malignant >= 0)
            logits = self.margin_logits(batch.image)[known]
            parts.append((batch.index[known].cpu(), logits.cpu(), batch.malignant[known].cpu()))
        _, logits, malignant = in_table_order(context, parts)
        if len(malignant.unique()) < 2:
            raise DataError(
                "training rows with a margin are all of one malignancy", "malignancy head", "add rows of both"
            )
        weight, bias = logistic(logits, malignant, self.config.mal_head.penalty)
        self.malignancy_weight.copy_(weight)
        self.malignancy_bias.fill_(bias)

    @property
    def coefficients(self) -> dict[str, float]:
        """Weights by margin, and the intercept."""
        named = dict(zip(self.task.classes, self.malignancy_weight.tolist(), strict=True))
        return named | {"intercept": float(self.malignancy_bias)}

    def facts(self) -> dict[str, float]:
        """The coefficients times 100, as Eq. 10 prints them; empty where the data know no malignancy."""
        named = self.coefficients if self.malignancy_stages() else {}
        return {f"malignancy_{name}_x100": 100 * value for name, value in named.items()}

    def malignancy(self, margins_BK: Tensor, batch: Batch) -> Prediction:
        """Scores 0 and the head's logit; samples of no known margin are flagged."""
        # a sum, not a matrix product: autocast would round that to half precision
        malignant = (margins_BK * self.malignancy_weight.to(margins_BK)).sum(dim=1)
        malignant = malignant + self.malignancy_bias.to(margins_BK)
        scores = torch.stack([torch.zeros_like(malignant), malignant], dim=1)
        return Prediction(scores=scores, probabilities=scores.softmax(dim=1), flagged=batch.margin < 0)


def logistic(x_NF: Tensor, y_N: Tensor, penalty: Literal["none", "l2"]) -> tuple[Tensor, float]:
    """Weights (F) and intercept of a logistic regression in float64; l2: C = 1 on the weights, not the intercept.

    Columns are standardised inside, for the optimiser's sake; the result is for the columns as given. Warns where the
    rows are separable and nothing bounds the weights.
    """
    x, y = x_NF.double().cpu(), y_N.double().cpu()
    mean, sd = x.mean(dim=0), x.std(dim=0, correction=0).clamp_min(1e-12)
    unit = (x - mean) / sd
    with torch.inference_mode(False), torch.enable_grad():
        theta = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [theta], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = F.binary_cross_entropy_with_logits(unit @ theta[:-1] + theta[-1], y, reduction="sum")
            if penalty == "l2":
                loss = loss + 0.5 * (theta[:-1] / sd).square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)
    if bool(((unit @ theta.detach()[:-1] + theta.detach()[-1] > 0) == (y > 0.5)).all()) and penalty == "none":
        warnings.warn(
            "the logits of the training rows separate the classes of malignancy without an error: the coefficients of "
            "the malignancy head have no finite optimum; set mal_head.penalty to l2",
            RuntimeWarning,
            stacklevel=2,
        )
    weight = theta.detach()[:-1] / sd
    return weight, float(theta.detach()[-1] - weight @ mean)
