"""What evaluates the golden file of Lesion and Background: 11. Tolerances are those of tests/golden/README_transfer.md."""

from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from models import _glcm as glcm
from models import _lesion_background as lb
from tests.parity import Check, Evaluator
from tests.parity_prototypes import array, tensors


def lesion_background(arrays: Mapping[str, np.ndarray], dtype: str) -> Iterator[Check]:
    exact = dtype == "float64"
    roi = arrays["roi"]
    if exact:  # integers and their sums: there is one precision
        for name in arrays:
            kind, *words = name.split("_")
            if kind == "q":
                yield Check(name, glcm.quantised(roi, int(words[0])), arrays[name], 0.0, 0.0)
            elif kind == "var":
                levels, window, mu, pool = words
                found = glcm.variance(roi, window=int(window[1:]), levels=int(levels[1:]), mu=mu, pool=pool)  # type: ignore[arg-type]
                yield Check(name, found, arrays[name], 1e-9, 1e-9)
    tolerance = (1e-9, 1e-12) if exact else (1e-3, 1e-5)
    t = tensors(arrays, dtype)

    def activations(image: Tensor) -> Tensor:
        for layer in (0, 2, 4):
            image = F.relu(F.conv2d(image, t[f"w::{layer}.weight"], t[f"w::{layer}.bias"], stride=2, padding=1))
        return image

    for mu in ("printed", "standard"):
        for background in ("residual", "complement", "masked"):
            lesion, rest = lb.pictures(roi, lb.Rules(mu=mu, background=background))  # type: ignore[arg-type]
            suffix = mu if background == "residual" else f"{background}_{mu}"
            yield Check(f"background_{suffix}", rest, arrays[f"background_{suffix}"], 1e-9, 1e-12)
            if f"lesion_{suffix}" in arrays:
                yield Check(f"lesion_{suffix}", lesion, arrays[f"lesion_{suffix}"], 1e-9, 1e-12)
        region = t["roi01"]
        yield Check(f"A_{mu}", array(activations(region[None, None])[0]), arrays[f"A_{mu}"], *tolerance)
        found_cells = lb.cells_of(activations, region, lb.pictures(roi, lb.Rules(mu=mu)), batch=5)
        yield Check(f"F_{mu}", found_cells.activation, arrays[f"F_{mu}"], *tolerance)
        yield Check(f"dis_L_{mu}", found_cells.to_lesion, arrays[f"dis_L_{mu}"], *tolerance)
        yield Check(f"dis_B_{mu}", found_cells.to_background, arrays[f"dis_B_{mu}"], *tolerance)
        yield Check(f"is_lesion_{mu}", found_cells.is_lesion, arrays[f"is_lesion_{mu}"], 0.0, 0.0)


EVALUATORS: dict[str, Evaluator] = {"11": lesion_background}
