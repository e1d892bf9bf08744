"""What evaluates the golden files of class activation maps: 05, and 05b with GMIC's poolings. Activations and weights are cast to the precision first;
tolerances are those of tests/golden/README_cams.md."""

from collections.abc import Iterator, Mapping
from typing import get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models import _cams
from models._gmic_net import Score, score_gradient
from tests.parity import Check, Evaluator
from tests.parity_prototypes import array, tensors

Arrays = Mapping[str, np.ndarray]


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
            for rule, function in _cams.RULES.items():
                yield Check(f"{key}_{rule}_raw", array(function(a, gradient)), arrays[f"{key}_{rule}_raw"], *tolerance)
            trained_by = _cams.class_maps(activation, head)[1][:, c] / cells
            yield Check(f"{key}_gradcam_raw (class_maps)", array(trained_by), arrays[f"{key}_gradcam_raw"], *tolerance)
            if pooled:
                classic = _cams.cam(activation, weight)[:, c]
                yield Check(f"{key}_cam_raw", array(classic), arrays[f"{key}_cam_raw"], *tolerance)


def pooled_cams(arrays: Arrays, dtype: str) -> Iterator[Check]:
    """GMIC's shape: a 1 x 1 convolution on every cell, pooled in four ways; its gradient without a backward pass."""
    t = tensors(arrays, dtype)
    tolerance = (1e-10, 1e-12) if dtype == "float64" else (1e-4, 1e-7)
    a, logit, weight = t["A"], t["logit"], t["w::cls.weight"][:, :, 0, 0]
    plain = _cams.cam(a, weight) + t.get("w::cls.bias", torch.zeros(len(weight))).view(1, -1, 1, 1)
    yield Check("logit (cam)", array(plain), arrays["logit"], *tolerance)
    for score in get_args(Score):
        for c in range(len(weight)):
            key = f"{score}_c{c}"
            m = score_gradient(logit[:, c], score, int(arrays["T"]))
            g = _cams.linear_gradient(weight[c].expand(len(a), -1), m)
            yield Check(f"{key}_m", array(m), arrays[f"{key}_m"], *tolerance)
            yield Check(f"{key}_grad", array(g), arrays[f"{key}_grad"], *tolerance)
            for rule, function in _cams.RULES.items():
                raw = function(a, g)
                yield Check(f"{key}_{rule}_raw", array(raw), arrays[f"{key}_{rule}_raw"], *tolerance)
                shown = array(library_final(raw, (20, 16)))
                yield Check(
                    f"{key}_{rule}_final", shown, arrays[f"{key}_{rule}_final"], 0, 5e-6 if dtype == "float64" else 1e-4
                )
            bare = _cams.gradcampp(a, g, eps=0)
            yield Check(f"{key}_gradcampp_raw_eps0", array(bare), arrays[f"{key}_gradcampp_raw_eps0"], *tolerance)
            if score == "sum_logit":
                for rule, function in _cams.TORCHCAM_RULES.items():
                    cut = function(a, g).clamp_min(0)
                    want = f"torchcam_c{c}_{rule}"
                    yield Check(f"{want}_relu", array(cut), arrays[f"{want}_relu"], *tolerance)


def library_final(raw_Bhw: Tensor, size: tuple[int, int]) -> Tensor:
    """What pytorch-grad-cam makes of a raw map: cut, scaled, resized, and both again (it ends in float32)."""

    def scaled(x: Tensor) -> Tensor:
        cut = x.clamp_min(0)
        cut = cut - cut.amin(dim=(1, 2), keepdim=True)
        return cut / (1e-7 + cut.amax(dim=(1, 2), keepdim=True))

    return scaled(F.interpolate(scaled(raw_Bhw)[:, None], size, mode="bilinear", align_corners=False)[:, 0])


EVALUATORS: dict[str, Evaluator] = {"05": cams, "05b": pooled_cams}
