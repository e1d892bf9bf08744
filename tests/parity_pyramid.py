"""What evaluates the golden files of FPN-IAIA-BL: 03 pyramid, 03b losses. Inputs are cast to the precision first;
tolerances are those of tests/golden/README_prototypes.md."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import _focal as focal
from models._pyramid import Pyramid, TopDown, Upsample
from tests.parity import Check, Evaluator
from tests.parity_prototypes import array, tensors

Arrays = Mapping[str, np.ndarray]
LEVELS = (2, 3, 4, 5)


def pyramid(arrays: Arrays, dtype: str) -> Iterator[Check]:
    t = tensors(arrays, dtype)
    value = (1e-11, 1e-12) if dtype == "float64" else (1e-5, 1e-5)
    forms: tuple[tuple[str, TopDown, Upsample], ...] = (
        ("eq1_nearest", "eq1", "nearest"),
        ("eq1_bilinear", "eq1", "bilinear"),
        ("fpn_original", "fpn", "nearest"),
    )
    for name, topdown, upsample in forms:
        made, c = _pyramid(t, topdown, upsample)
        z = made(c)
        for level in LEVELS:
            if f"z{level}_{name}" in arrays:
                yield Check(f"z{level}_{name}", array(z[level]), arrays[f"z{level}_{name}"], *value)
        if f"z2_{name}_ch0" in arrays:
            yield Check(f"z2_{name}_ch0", array(z[2][:, 0]), arrays[f"z2_{name}_ch0"], *value)
        if name != "eq1_nearest":
            continue
        objective = torch.stack([z[level].square().mean() / 2 for level in LEVELS]).sum()
        objective.backward()
        yield Check("objective", array(objective), arrays["objective"], *value)
        for level in LEVELS:
            for short, part in (("lat", made.lateral), ("smooth", made.smooth)):
                if str(level) in part:
                    conv = part[str(level)]
                    yield Check(
                        f"grad_{short}_w{level}", _like(conv.weight.grad, arrays[f"grad_{short}_w{level}"]),
                        arrays[f"grad_{short}_w{level}"], *value,
                    )  # fmt: skip
                    yield Check(
                        f"grad_{short}_b{level}", _like(conv.bias.grad), arrays[f"grad_{short}_b{level}"], *value
                    )
            gradient = c[level].grad
            if level == 2:
                yield Check("grad_c2_ch0", _like(gradient)[:, 0], arrays["grad_c2_ch0"], *value)
            else:
                yield Check(f"grad_c{level}", _like(gradient), arrays[f"grad_c{level}"], *value)


def _like(gradient: Tensor | None, want: np.ndarray | None = None) -> np.ndarray:
    assert gradient is not None
    found = array(gradient)
    return found if want is None else found.reshape(want.shape)


def _pyramid(t: Mapping[str, Tensor], topdown: TopDown, upsample: Upsample) -> tuple[Pyramid, dict[int, Tensor]]:
    """The project's pyramid with the file's weights, and its inputs as leaves."""
    channels = {level: t[f"c{level}"].shape[1] for level in LEVELS}
    made = Pyramid(channels, len(t["lat_b2"]), topdown, upsample).to(t["c2"].dtype)
    for short, part in (("lat", made.lateral), ("smooth", made.smooth)):
        for level in LEVELS:
            if str(level) in part:
                conv = part[str(level)]
                assert isinstance(conv, nn.Conv2d) and conv.bias is not None
                with torch.no_grad():
                    conv.weight.copy_(t[f"{short}_w{level}"].reshape(conv.weight.shape))
                    conv.bias.copy_(t[f"{short}_b{level}"])
    return made, {level: t[f"c{level}"].clone().requires_grad_() for level in LEVELS}


def fpn_losses(arrays: Arrays, dtype: str) -> Iterator[Check]:
    t = tensors(arrays, dtype)
    value = (1e-10, 1e-12) if dtype == "float64" else (2e-6, 2e-6)
    gradient = (1e-8, 1e-9) if dtype == "float64" else (1e-4, 1e-5)
    labels, kind = t["labels"], t["class_of_prototype"]
    active = torch.ones(len(kind), dtype=torch.bool)
    for k in (1, 3, 5):
        made = _run(t, k, None, "printed")
        for j, s in enumerate(made["maps"] if k == 1 else []):
            yield Check(f"cos_map_{j:02}", array(s), arrays[f"cos_map_{j:02}"], *value)
        top, focused = made["top"], made["focal"]
        for name in ("topk_mean", "focal", "logits", "cross_entropy"):
            got = made["top" if name == "topk_mean" else name]
            yield Check(f"{name}_k{k}", array(got), arrays[f"{name}_k{k}"], *value)
        for name, scores in (("focal", focused), ("topk", top)):
            cluster, separation = focal.cluster_separation(scores, labels, kind, active)
            yield Check(f"cluster_{name}_k{k}", array(cluster), arrays[f"cluster_{name}_k{k}"], *value)
            yield Check(f"separation_{name}_k{k}", array(separation), arrays[f"separation_{name}_k{k}"], *value)
    yield from _orthogonality(t, arrays, value)
    for reading in get_args(focal.FineReading):
        for orientation in ("printed", "transposed"):
            got = _run(t, 3, reading, orientation)["fine"]
            yield Check(f"fine_{reading}_{orientation}", array(got), arrays[f"fine_{reading}_{orientation}"], *value)
    for orientation in ("printed", "transposed"):
        made = _run(t, 3, "semantic", orientation)
        made["total"].backward()
        key = f"total_semantic_{orientation}_k3"
        yield Check(key, array(made["total"]), arrays[key], *value)
        for name, leaf in made["leaves"].items():
            full = f"grad_{name}_{orientation}_k3"
            if full in arrays:
                yield Check(full, _like(leaf.grad), arrays[full], *gradient)


def _run(t: Mapping[str, Tensor], k: int, reading: Any, orientation: Any) -> dict[str, Any]:
    """The file's network: maps, pooled scores, logits; with a reading of Eq. 5 also its fine loss and the total."""
    leaves = {
        name: t[source].clone().requires_grad_()
        for name, source in {**{f"z{n}": f"z{n}" for n in LEVELS}, "prototypes": "prototypes", "W_h": "W_h"}.items()
    }
    labels, kind, level = t["labels"], t["class_of_prototype"], t["level_of_prototype"]
    active = torch.ones(len(kind), dtype=torch.bool)
    maps: list[Tensor] = [torch.empty(0)] * len(kind)
    top, mean = torch.zeros(len(labels), len(kind)).to(t["W_h"]), torch.zeros(len(labels), len(kind)).to(t["W_h"])
    fine = torch.zeros_like(top)
    weights = focal.PairWeights.of(
        t["table2_outside"].tolist(), t["table3_inside"].tolist(), reading or "semantic", orientation
    )
    for n in LEVELS:
        members = (level == n).nonzero()[:, 0]
        s = focal.cosine_maps(leaves[f"z{n}"], leaves["prototypes"][members])
        best, average = focal.pooled(s, k)
        top, mean = top.index_add(1, members, best), mean.index_add(1, members, average)
        pairs = (labels[:, None], kind[members][None, :])
        out, inside = weights.outside_KK.to(s)[pairs], weights.inside_KK.to(s)[pairs]
        here = focal.safe_sqrt(focal.fine_squares(s, t["mask_1_outside"], out, inside))
        fine = fine.index_add(1, members, here)
        for position, j in enumerate(members.tolist()):
            maps[j] = s[:, position]
    focused = top - mean
    logits = F.linear(focused, leaves["W_h"])
    cross_entropy = F.cross_entropy(logits, labels)
    cluster, separation = focal.cluster_separation(focused, labels, kind, active)
    ortho = focal.orthogonality(leaves["prototypes"], kind, active, "per_class_sq", len(t["W_h"]))
    total = (
        cross_entropy
        + float(t["coef_clst"]) * cluster
        + float(t["coef_sep"]) * separation
        + float(t["coef_ortho"]) * ortho
        + float(t["coef_fine"]) * fine.sum()
    )
    return {
        "maps": maps, "top": top, "focal": focused, "logits": logits, "cross_entropy": cross_entropy, "fine": fine,
        "total": total, "leaves": leaves,
    }  # fmt: skip


def _orthogonality(t: Mapping[str, Tensor], arrays: Arrays, value: tuple[float, float]) -> Iterator[Check]:
    kind, classes = t["class_of_prototype"], len(t["W_h"])
    active = torch.ones(len(kind), dtype=torch.bool)
    readings: tuple[tuple[focal.Ortho, str], ...] = (
        ("per_class_sq", "ortho_per_class_sq"),
        ("frob_joint", "ortho_per_class_frob_joint"),
        ("frob_sum", "ortho_per_class_frob_sum"),
    )
    for reading, key in readings:
        got = focal.orthogonality(t["prototypes"], kind, active, reading, classes)
        yield Check(key, array(got), arrays[key], *value)
    p = t["prototypes"].clone().requires_grad_()
    ortho = focal.orthogonality(p, kind, active, "deformable_code", classes)
    ortho.backward()
    yield Check("official_deformable_ortho", array(ortho), arrays["official_deformable_ortho"], *value)
    yield Check("official_deformable_ortho_grad", _like(p.grad), arrays["official_deformable_ortho_grad"], *value)
    s = focal.cosine_maps(t["z3"], t["prototypes"], "deformable")
    key = "official_deformable_activation_z3"
    yield Check(key, array(s), arrays[key], *value)
    best = focal.pooled(s, 1)[0]
    cluster, separation = focal.cluster_separation(best, t["labels"], kind, active)
    yield Check("official_deformable_cluster", array(cluster), arrays["official_deformable_cluster"], *value)
    yield Check("official_deformable_separation", array(separation), arrays["official_deformable_separation"], *value)


EVALUATORS: dict[str, Evaluator] = {"03": pyramid, "03b": fpn_losses}
