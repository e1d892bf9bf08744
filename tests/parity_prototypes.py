"""What evaluates the golden files of the prototype family: 01 layer, 02 losses, 08 (class activation), 12 projection,
13 pruning. Inputs are cast to the precision first; tolerances are those of tests/golden/README_prototypes.md."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models import _projection as projection
from models import _prototypes as proto
from tests.parity import Check, Evaluator

Arrays = Mapping[str, np.ndarray]
STEEP = 0.05  # distance below which float32 gradients may be off by 5 %


def tensors(arrays: Arrays, dtype: str) -> dict[str, Tensor]:
    """Numbers as tensors; floating ones in the asked precision."""
    cast = {"float64": torch.float64, "float32": torch.float32}[dtype]
    found = {}
    for name, value in arrays.items():
        if value.dtype.kind in "fiub":
            made = torch.from_numpy(np.array(value))
            found[name] = made.to(cast) if made.is_floating_point() else made
    return found


def array(value: Tensor) -> np.ndarray:
    return value.detach().double().numpy()


def prototype_layer(arrays: Arrays, dtype: str) -> Iterator[Check]:
    t = tensors(arrays, dtype)
    double = dtype == "float64"
    value = (1e-9, 1e-10) if double else (1e-5, 1e-5)
    gradient = (1e-7, 1e-7) if double else (1e-4, 1e-4)
    classes = t["class_of_prototype"]
    active = torch.ones(len(classes), dtype=torch.bool)
    k_all = int(classes.max()) + 1

    with torch.no_grad():
        d = proto.distances(t["z"], t["prototypes"], "l2")
        s = proto.similarity(d, float(t["epsilon"]))
    yield Check("distance_l2_unsquared", array(d), arrays["distance_l2_unsquared"], *value)
    yield Check("similarity_unsquared", array(s), arrays["similarity_unsquared"], *value)
    size = int(t["upsample_size"])
    up = proto.upsample(s, (size, size))[0, [0, 7]]
    yield Check("upsampled_unsquared_b0", array(up), arrays["upsampled_unsquared_b0"], *value)
    yield Check("W_h1", array(proto.class_weights(classes, k_all, -1.0)), arrays["W_h1"], 0, 0)
    yield Check("protopnet_W_h1", array(proto.class_weights(classes, k_all, -0.5)), arrays["protopnet_W_h1"], 0, 0)

    def run(kind: proto.Distance, k: int, weight: Tensor) -> dict[str, Tensor]:
        z, p, w = (x.clone().requires_grad_() for x in (t["z"], t["prototypes"], weight))
        scores, gamma = proto.pooled(proto.distances(z, p, kind), k)
        logits = F.linear(scores * active, w)
        ((logits * t["logit_cotangent"]).sum() + (gamma * t["mindist_cotangent"]).sum()).backward()
        assert z.grad is not None and p.grad is not None and w.grad is not None
        return {
            "pooled": scores, "mindist": gamma, "logits": logits,
            "grad_z": z.grad, "grad_prototypes": p.grad, "grad_W_h1": w.grad,
        }  # fmt: skip

    steep = (d < STEEP).numpy()  # a prototype almost on a patch: the gradient of the logarithm is huge there
    allowed = {
        "grad_prototypes": np.where(steep.any(axis=(0, 2, 3)), 5e-2, gradient[0])[:, None],
        "grad_z": np.where(steep.any(axis=1), 5e-2, gradient[0])[:, None],
        "grad_W_h1": np.array(gradient[0]),
    }
    runs: list[tuple[str, str, dict[str, Tensor]]] = [("protopnet_", "", run("l2sq", 1, t["protopnet_W_h1"]))]
    for k in (1, 5, 9):
        runs.append(("", f"_k{k}", run("l2", k, t["W_h1"])))
        runs.append(("sq_", f"_k{k}", run("l2sq", k, t["W_h1"])))
    for before, after, made in runs:
        for name, got in made.items():
            key = before + ("mindist_sq" if before == "protopnet_" and name == "mindist" else name) + after
            if key not in arrays:
                continue
            if name not in allowed:
                yield Check(key, array(got), arrays[key], *value)
            else:
                yield Check(key, array(got), arrays[key], gradient[0] if double else allowed[name], gradient[1])


def iaia_losses(arrays: Arrays, dtype: str) -> Iterator[Check]:
    t = tensors(arrays, dtype)
    value = (1e-10, 1e-12) if dtype == "float64" else (2e-6, 2e-6)
    gradient = (1e-8, 1e-9) if dtype == "float64" else (1e-4, 1e-5)
    for k in (1, 5, 9):
        made = _losses(t, "l2", k, "stacked", None, with_l1=True)
        for name in ("cross_entropy", "cluster", "separation", "fine", "total"):
            yield Check(f"official_{name}_k{k}", array(made[name]), arrays[f"official_{name}_k{k}"], *value)
        for name in ("grad_z", "grad_prototypes", "grad_W_h1"):
            if f"official_{name}_k{k}" in arrays:
                yield Check(f"official_{name}_k{k}", array(made[name]), arrays[f"official_{name}_k{k}"], *gradient)
    yield Check("l1_masked", array(made["l1"]), arrays["l1_masked"], *value)
    kinds: tuple[proto.Distance, ...] = ("l2", "l2sq")
    for kind in kinds:
        for k in (5, 9):
            made = _losses(t, kind, k, "stacked", None, with_l1=True)
            for name in ("cross_entropy", "cluster", "separation"):
                yield Check(f"{kind}_{name}_k{k}", array(made[name]), arrays[f"{kind}_{name}_k{k}"], *value)
        norms: tuple[proto.FineNorm, ...] = ("stacked", "per_prototype", "square")
        for norm in norms:
            got = _losses(t, kind, 5, norm, None, with_l1=False)["fine_per_sample"]
            yield Check(f"{kind}_fine_{norm}_per_sample", array(got), arrays[f"{kind}_fine_{norm}_per_sample"], *value)
        for key, only in (("all", None), ("Dprime", t["is_fine"].bool())):
            made = _losses(t, kind, 5, "per_prototype", only, with_l1=False)
            yield Check(
                f"{kind}_eq3_total_k5_fine_{key}",
                array(made["total"]),
                arrays[f"{kind}_eq3_total_k5_fine_{key}"],
                *value,
            )
            for name in ("grad_z", "grad_prototypes", "grad_W_h1"):
                full = f"{kind}_eq3_{name}_k5_fine_{key}"
                if full in arrays:
                    yield Check(full, array(made[name]), arrays[full], *gradient)


def _losses(
    t: dict[str, Tensor], kind: proto.Distance, k: int, norm: proto.FineNorm, only: Tensor | None, *, with_l1: bool
) -> dict[str, Any]:
    z, p, w = (t[name].clone().requires_grad_() for name in ("z", "prototypes", "W_h1"))
    classes, labels = t["class_of_prototype"], t["labels"]
    active = torch.ones(len(classes), dtype=torch.bool)
    d = proto.distances(z, p, kind)
    scores, gamma = proto.pooled(d, k)
    cluster, separation = proto.cluster_separation(gamma, labels, classes, active)
    cross_entropy = F.cross_entropy(F.linear(scores, w), labels)
    l1 = proto.other_class_l1(w, classes, active)
    outside = t["mask_1_outside"][:, None]
    per_sample = proto.fine_loss_per_sample(proto.similarity(d), outside, labels, classes, active, norm)
    fine = per_sample.sum() if only is None else per_sample[only].sum()
    total = (
        float(t["coef_crs_ent"]) * cross_entropy
        + float(t["coef_clst"]) * cluster
        + float(t["coef_sep"]) * separation
        + float(t["coef_fine"]) * fine
    )
    if with_l1:
        total = total + float(t["coef_l1"]) * l1
    total.backward()
    return {
        "cross_entropy": cross_entropy, "cluster": cluster, "separation": separation, "l1": l1, "fine": fine,
        "fine_per_sample": per_sample, "total": total, "grad_z": z.grad, "grad_prototypes": p.grad, "grad_W_h1": w.grad,
    }  # fmt: skip


def class_activation(arrays: Arrays, dtype: str) -> Iterator[Check]:
    t = tensors(arrays, dtype)
    labels, classes = t["labels"], t["class_of_prototype"]
    active = torch.ones(len(classes), dtype=torch.bool)
    scores, _ = proto.pooled(t["distance"], 5)
    cav = proto.class_activation(proto.similarity(t["distance"]), scores, labels, classes, active)
    up = proto.upsample(cav[:, None], arrays["cav_eq11_k5"].shape[1:])[:, 0]  # type: ignore[arg-type]
    low, high = up.amin(dim=(1, 2), keepdim=True), up.amax(dim=(1, 2), keepdim=True)
    yield Check(
        "cav_eq11_k5", array((up - low) / (high - low)), arrays["cav_eq11_k5"], 0, 1e-6 if dtype == "float64" else 1e-5
    )


def push(arrays: Arrays, dtype: str) -> Iterator[Check]:
    t = tensors(arrays, dtype)
    features, p, labels, classes = t["features"], t["prototypes"], t["labels"], t["class_of_prototype"]
    rows = torch.arange(len(features))

    def search(order: Tensor, step: int, **options: Any) -> dict[int, projection.Patch]:
        shares = []
        for part in order.split(step):
            found = projection.nearest_patches(features[part], rows[part], labels[part], p, classes, **options)
            shares.append({j: patch for j, (patch, _) in found.items()})
        return projection.reduce_patches(shares)

    for step in (5, len(features)):
        best = search(rows, step)
        found = [best[j] for j in range(len(p))]
        for position, name in enumerate(("image", "row", "col"), start=1):
            yield Check(
                f"{name} (batches of {step})", np.array([patch.key[position] for patch in found]), arrays[name], 0, 0
            )
        yield Check(
            f"projected (batches of {step})",
            array(torch.stack([patch.vector_C for patch in found])),
            arrays["projected"],
            0,
            0,
        )
    away = proto.distances(torch.stack([patch.vector_C for patch in found])[:, :, None, None], p, "l2")[
        ..., 0, 0
    ].diagonal()
    yield Check("distance_l2", array(away), arrays["distance_l2"], 0, 1e-12 if dtype == "float64" else 1e-6)
    turned = projection.reduce_patches(
        [{j: q for j, (q, _) in projection.nearest_patches(features.flip(0), rows, labels.flip(0), p, classes).items()}]
    )
    last = len(features) - 1
    yield Check(
        "image_if_dataset_reversed",
        np.array([last - turned[j].key[1] for j in range(len(p))]),
        arrays["image_if_dataset_reversed"],
        0,
        0,
    )
    anywhere = search(rows, 5, any_class=True)
    yield Check(
        "any_class_image_row_col",
        np.array([anywhere[j].key[1:] for j in range(len(p))]),
        arrays["any_class_image_row_col"],
        0,
        0,
    )
    cosine = search(rows, 5, measure="cosine")
    yield Check(
        "cosine_class_image_row_col",
        np.array([cosine[j].key[1:] for j in range(len(p))]),
        arrays["cosine_class_image_row_col"],
        0,
        0,
    )


def pruning(arrays: Arrays, dtype: str) -> Iterator[Check]:
    t = tensors(arrays, dtype)
    features, p, classes = t["features"], t["prototypes"], arrays["class_of_prototype"].tolist()
    d_NM = proto.distances(features, p, "l2").flatten(2).min(dim=2).values.double().numpy()
    labels = arrays["labels"]
    yield Check("image_min_distance", d_NM, arrays["image_min_distance"], 0, 1e-12 if dtype == "float64" else 1e-5)
    weight = arrays["W_h1"]
    for key in sorted(name for name in arrays if name.startswith("pruned_k")):
        k, threshold = (int(part[1:]) for part in key.removeprefix("pruned_").split("_"))
        near = projection.nearest_images(d_NM, k)
        yield Check(f"nearest_labels_k{k}", labels[near], arrays[f"nearest_labels_k{k}"], 0, 0)
        yield Check(f"nearest_images_k{k}", near, arrays[f"nearest_images_k{k}"], 0, 0)
        gone = projection.knn(d_NM, labels, classes, k, threshold)
        yield Check(key, np.array(gone), arrays[key], 0, 0)
        kept = [j for j in range(len(classes)) if j not in gone]
        official = arrays[f"official_keep_order_k{k}_t{threshold}"]  # not ascending by accident: compared as a set
        yield Check(f"keep_k{k}_t{threshold} (ascending)", np.array(kept), np.sort(official), 0, 0)
        order = np.argsort(official)
        yield Check(
            f"W_h1_after_k{k}_t{threshold}", weight[:, kept], arrays[f"W_h1_after_k{k}_t{threshold}"][:, order], 0, 0
        )
    found = projection.nearest_patches(features, torch.arange(len(features)), t["labels"], p, t["class_of_prototype"])
    places = [found[j][0].key[1:] for j in range(len(classes))]
    yield Check("projected_image_row_col", np.array(places), arrays["projected_image_row_col"], 0, 0)
    same = projection.duplicates(classes, places, [True] * len(classes))
    yield Check("duplicates_same_patch", np.array(same), arrays["duplicates_same_patch"], 0, 0)


EVALUATORS: dict[str, Evaluator] = {
    "01": prototype_layer,
    "02": iaia_losses,
    "08": class_activation,
    "12": push,
    "13": pruning,
}
