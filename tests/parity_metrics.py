"""What evaluates the golden files of the metrics: 06 DeLong, 08 activation precision (its NumPy part), 09 kappa, 15 tests.

Tolerances are those of tests/golden/README_*.md. The files of statistics are evaluated in float64 only, as they ask.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from bench.metrics import agreement, auroc, explain, holm
from bench.metrics.folds import mcnemar
from bench.metrics.frame import Frame
from tests.parity import Check, Evaluator

Arrays = Mapping[str, np.ndarray]
EXACT = 1e-12


def delong(arrays: Arrays, dtype: str) -> Iterator[Check]:
    if dtype != "float64":
        return  # scores must stay float64
    for case in map(str, arrays["cases"]):
        found = auroc.delong(arrays[f"{case}_y"] == 1, arrays[f"{case}_scores"])
        intervals = {
            "ci_unclipped": found.wald(clip=False),
            "ci_wald_clipped": found.wald(),
            "ci_logit": found.logit(),
        }
        for name, got in {"auc": found.auc, "cov": found.cov, **intervals}.items():
            yield Check(f"{case}_{name}", got, arrays[f"{case}_{name}"], EXACT, EXACT)
        want, got = arrays[f"{case}_paired"], np.array(found.paired())
        known = np.isfinite(want)  # where nothing varies the file has NaN and docs/metrics/auroc.md defines p
        yield Check(f"{case}_paired", got[known], want[known], EXACT, EXACT)
        if known.all():
            yield Check(
                f"{case}_log10p_official", np.array(found.log10_p()), arrays[f"{case}_log10p_official"], 0, 1e-11
            )
    frame = _frame_of(arrays["ovr_y"], arrays["ovr_prob"])
    each = [auroc.part(frame, name).value for name in frame.classes]
    yield Check("ovr_auc_per_class", np.array(each), arrays["ovr_auc_per_class"], EXACT, EXACT)
    yield Check("ovr_macro", np.array(auroc.part(frame).value), arrays["ovr_macro"], EXACT, EXACT)
    yield Check("ovr_weighted", np.array(auroc.prevalence_weighted(frame)), arrays["ovr_weighted"], EXACT, EXACT)


def _frame_of(labels: np.ndarray, probabilities: np.ndarray) -> Frame:
    names = [str(i) for i in range(len(labels))]
    table = pd.DataFrame({"record_id": names, "finding_id": names, "patient": names, "margin": labels})
    return Frame.build(table, "margin", probabilities, probabilities, side="test", seed=0)


def activation_precision(arrays: Arrays, dtype: str) -> Iterator[Check]:
    distance = arrays["distance"].astype(dtype)
    size = arrays["lesion_mask_1_outside"].shape[1:]
    similarity = np.log((distance + 1) / (distance + 1e-4)).astype(dtype)
    images, prototypes = similarity.shape[:2]
    up = explain.upsample(similarity.reshape(-1, *similarity.shape[2:]), size)  # type: ignore[arg-type]
    active = explain.most_active(up, float(arrays["percentile"]) / 100).reshape(images, prototypes, *size)
    own = arrays["labels"][:, None] == arrays["class_of_prototype"]
    atol, pixels = (EXACT, 0) if dtype == "float64" else (2e-3, 2)
    counted = np.where(own, active.sum(axis=(2, 3)), 0)
    yield Check("pixels_above_threshold", counted, arrays["pixels_above_threshold"], 0, pixels)
    cams = explain.most_active(explain.upsample(arrays["cam"].astype(np.float64), size), 0.95)  # type: ignore[arg-type]
    for scale in ("lesion", "fine"):
        outside = arrays[f"{scale}_mask_1_outside"]
        yield from _scale_checks(arrays, scale, active, own, outside, atol)
        cam = explain.precision(cams, 1 - outside)
        yield Check(f"{scale}_gradcam_per_image", cam, arrays[f"{scale}_gradcam_per_image"], 0, EXACT)
        yield Check(f"{scale}_gradcam_official_mean", cam.mean(), arrays[f"{scale}_gradcam_official_mean"], 0, EXACT)


def _scale_checks(
    arrays: Arrays, scale: str, active: np.ndarray, own: np.ndarray, outside: np.ndarray, atol: float
) -> Iterator[Check]:
    """Arrays of one scale. outside: 1 off the lesion, as in the files; `precision` takes masks that are 1 on it."""
    on = 1 - outside

    def pairs(mask: np.ndarray) -> np.ndarray:
        found = [explain.precision(active[:, j], mask) for j in range(active.shape[1])]
        return np.where(own, np.stack(found, axis=1), np.nan)

    found = pairs(on)
    images = np.nanmean(found, axis=1)
    union = np.array(
        [np.sum(a[o].any(axis=0) * m) / a[o].any(axis=0).sum() for a, o, m in zip(active, own, on, strict=True)]
    )
    for name, got in {
        "pair_precision": found,
        "official_mean": np.nanmean(found),
        "official_per_prototype": np.nanmean(found, axis=0),
        "eq9_literal_sum_per_image": np.nansum(found, axis=1),
        "per_image_mean": images,
        "mean_of_image_means": images.mean(),
        "union_mask_per_image": union,
        "binarised_mean": np.nanmean(pairs((outside < 0.5).astype(np.float64))),
    }.items():
        yield Check(f"{scale}_{name}", np.asarray(got), arrays[f"{scale}_{name}"], 0, atol)
    cav = explain.most_active(arrays["cav_eq11_k5"].astype(np.float64))
    yield Check(
        f"{scale}_cav_precision_per_image",
        explain.precision(cav, on),
        arrays[f"{scale}_cav_precision_per_image"],
        0,
        EXACT,
    )


def kappa(arrays: Arrays, dtype: str) -> Iterator[Check]:
    """Standard errors are compared as variances: where the file has 0 only up to rounding, its root is 4e-9."""
    if dtype != "float64":
        return
    for name in sorted(arrays):
        if not name.endswith("_C"):
            continue
        for weights in ("none", "linear", "quadratic"):
            found = agreement.kappa(arrays[name].astype(np.float64), weights)
            got = np.array([found.value, found.se**2, found.se_null**2, found.agreement, found.se_simple**2])
            want = arrays[f"{name[:-2]}_{weights}"].copy()
            want[[1, 2, 4]] **= 2
            yield Check(f"{name[:-2]}_{weights} (errors squared)", got, want, EXACT, EXACT)


def mcnemar_holm(arrays: Arrays, dtype: str) -> Iterator[Check]:
    if dtype != "float64":
        return
    fields = [str(name) for name in arrays["mcnemar_fields"]]
    for number, row in enumerate(arrays["mcnemar"]):
        values = dict(zip(fields, row, strict=True))
        b, c = int(values["b"]), int(values["c"])
        want = values["p_exact"] if b + c < 25 else values["p_chi2_cc"]
        yield Check(f"mcnemar {number}: {b}, {c}", np.array(mcnemar(b, c)), np.nan_to_num(want, nan=1.0), 1e-12, 1e-14)
    for name in (name for name in arrays if name.startswith("holm_") and name.endswith("_p")):
        adjusted = holm(arrays[name].tolist())[0]
        yield Check(name.replace("_p", "_adj"), adjusted, arrays[name.replace("_p", "_adj")], 1e-12, 1e-14)


EVALUATORS: dict[str, Evaluator] = {"06": delong, "08": activation_precision, "09": kappa, "15": mcnemar_holm}
