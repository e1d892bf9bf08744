"""What evaluates the golden file of class activation maps: 05. Activations and weights are cast to the precision first;
tolerances are those of tests/golden/README_cams.md."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models import _cams
from tests.parity import Check, Evaluator
from tests.parity_prototypes import array, tensors

Arrays = Mapping[str, np.ndarray]
RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": _cams.gradcam,
    "gradcampp": _cams.gradcampp,
    "xgradcam": _cams.xgradcam,
    "layercam": _cams.layercam,
}


def cams(arrays: Arrays, dtype: str) -> Iterator[Check]:
    t = tensors(arrays, dtype)
    tolerance = (1e-12, 1e-14) if dtype == "float64" else (1e-5, 1e-8)
    for name, pooled in (("gap", True), ("flat", False)):
        weight, bias = t[f"{name}_w::fc.weight"], t[f"{name}_w::fc.bias"]

        def head(x: Tensor, pooled: bool = pooled, weight: Tensor = weight, bias: Tensor = bias) -> Tensor:
            return F.linear(x.mean(dim=(2, 3)) if pooled else x.flatten(1), weight, bias)

        for c in range(len(bias)):
            key = f"{name}_c{c}"
            activation = t[f"{key}_A"]
            cells = activation.shape[2] * activation.shape[3]
            a, gradient = _cams.class_gradient(activation, head, torch.full((len(activation),), c))
            yield Check(f"{key}_grad", array(gradient), arrays[f"{key}_grad"], *tolerance)
            for rule, function in RULES.items():
                yield Check(f"{key}_{rule}_raw", array(function(a, gradient)), arrays[f"{key}_{rule}_raw"], *tolerance)
            trained_by = _cams.class_maps(activation, head)[1][:, c] / cells
            yield Check(f"{key}_gradcam_raw (class_maps)", array(trained_by), arrays[f"{key}_gradcam_raw"], *tolerance)
            if pooled:
                classic = _cams.cam(activation, weight)[:, c]
                yield Check(f"{key}_cam_raw", array(classic), arrays[f"{key}_cam_raw"], *tolerance)


EVALUATORS: dict[str, Evaluator] = {"05": cams}
