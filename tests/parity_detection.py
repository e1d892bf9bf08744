"""What evaluates the golden file of detection: 10. Maps are cast to the precision first; counts are exact in both.

One pixel of map 0 is 0.7 up to rounding and makes a region of its own or not: the file's authors_code was counted in float32,
its other readings in float64. In the other precision a reading is compared at all thresholds but 0.7.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from bench.metrics import detection, froc
from bench.metrics.detection import AUTHORS, CPM, Rules
from bench.metrics.explain import upsample
from bench.metrics.found import Found
from tests.parity import Check, Evaluator

Arrays = Mapping[str, np.ndarray]
ON_THE_EDGE = 0.7
READINGS: dict[str, Rules] = {
    "default": Rules(),
    "default_all_images": Rules(),
    "conn4": Rules(connectivity=4),
    "one_to_one": Rules(match="one_to_one"),
    "iou_ge": Rules(iou_cmp="ge"),
    "iou_0p1": Rules(iou=0.1),
    "external_only": Rules(components="external"),
    "authors_code": AUTHORS,
}


def counting(arrays: Arrays, dtype: str) -> Iterator[Check]:
    maps, boxes = arrays["maps"].astype(dtype), arrays["truth_boxes"]
    lesions = [boxes[boxes[:, 0] == i, 1:] for i in range(len(maps))]
    thresholds, mass = tuple(arrays["thresholds"].tolist()), arrays["is_mass"] == 1
    for name in map(str, arrays["readings"]):
        rules = replace(READINGS[name], thresholds=thresholds)
        used = range(len(maps)) if name == "default_all_images" else np.flatnonzero(mass)
        each = [detection.tally(detection.regions(maps[i], rules), lesions[i], rules) for i in used]
        total = np.sum(each, axis=0)
        tpr, false = total[:, 0] / (total[:, 0] + total[:, 2]), total[:, 1]
        best = detection.best_threshold(tpr, false)
        yield Check(f"{name}_best_index", best, arrays[f"{name}_best_index"], 0, 0)
        counted = dtype == ("float32" if name == "authors_code" else "float64")
        some = np.array([counted or threshold != ON_THE_EDGE for threshold in thresholds])
        got = {
            "counts": np.column_stack([thresholds, total]),
            "tpr": tpr,
            "fppi_mass": false / mass.sum(),
            "fppi_all": false / len(maps),
            "fppi_rows": false / len(boxes),
        }
        for part, values in got.items():
            label = f"{name}_{part}{'' if counted else f', all but {ON_THE_EDGE}'}"
            yield Check(label, values[some], arrays[f"{name}_{part}"][some], 0, 0)


def components(arrays: Arrays, dtype: str) -> Iterator[Check]:
    found = []
    for i, one in enumerate(arrays["maps"].astype(dtype)):
        for connectivity in (4, 8):
            rules = Rules(connectivity=connectivity, thresholds=tuple(arrays["thresholds"].tolist()))
            here = detection.regions(one, rules)
            facts = np.column_stack([np.full(len(here.level), i), here.level, np.full(len(here.level), connectivity)])
            peak = (here.peak - one.min()) / max(np.ptp(one), 1e-12)  # the file's maximum is of the normalised map
            found.append(np.column_stack([facts, here.boxes, peak]))
    edge = None if dtype == "float64" else list(arrays["thresholds"]).index(ON_THE_EDGE)
    got, want = _sorted(np.concatenate(found), edge), _sorted(arrays["components"], edge)
    label = "components" if edge is None else f"components, all but {ON_THE_EDGE}"
    yield Check(label, got[:, :-1], want[:, :-1], 0, 0)
    yield Check(f"{label}: max", got[:, -1], want[:, -1], 0, 1e-15 if edge is None else 1e-6)


def _sorted(rows: np.ndarray, left_out: int | None) -> np.ndarray:
    rows = rows if left_out is None else rows[rows[:, 1] != left_out]
    return rows[np.lexsort(rows.T[::-1])]


def free_response(arrays: Arrays, dtype: str) -> Iterator[Check]:
    boxes, truth, images = arrays["froc_boxes"], arrays["truth_boxes"], int(arrays["n_images"])
    each = [
        detection.free_response(boxes[boxes[:, 0] == i, 1:5], boxes[boxes[:, 0] == i, 5], truth[truth[:, 0] == i, 1:])
        for i in range(images)
    ]
    points = detection.curve(np.concatenate([a for a, _ in each]), np.concatenate([b for _, b in each]), images)
    yield Check("froc_points", points, arrays["froc_points"], 0, 0)
    for rule in ("step", "linear"):
        got = np.array([detection.sensitivity(points, at, rule) for at in arrays["froc_fppi"]])  # type: ignore[arg-type]
        yield Check(f"froc_sens_{rule}", got, arrays[f"froc_sens_{rule}"], 0, 0)
    mean = np.mean([detection.sensitivity(points, at) for at in CPM])
    yield Check("froc_cpm_step", mean, arrays["froc_cpm_step"], 1e-15, 0)
    # The same as the board counts it: sums over films, each with what is found and what is false at every lesion's score.
    hit, false = froc.points_of(Found([], np.zeros(0), [a for a, _ in each], [b for _, b in each]))
    totals = np.concatenate([hit.sum(axis=0), false.sum(axis=0), [len(truth), images]])
    board = [froc._value_at(tuple(at), 1)(totals) for at in (*([one] for one in arrays["froc_fppi"]), CPM)]
    want = np.append(arrays["froc_sens_step"], arrays["froc_cpm_step"])
    yield Check("froc_sens_step and froc_cpm_step, of the board", np.array(board), want, 0, 1e-15)
    up = upsample(arrays["up_in"][None], arrays["up_float64"].shape)[0]  # type: ignore[arg-type]
    yield Check("up_float64", up, arrays["up_float64"], 0, 1e-12)
    yield Check("up_cv2", up, arrays["up_cv2"], 0, 1e-6)


def evaluate(arrays: Arrays, dtype: str) -> Iterator[Check]:
    yield from counting(arrays, dtype)
    yield from components(arrays, dtype)
    yield from free_response(arrays, dtype)


EVALUATORS: dict[str, Evaluator] = {"10": evaluate}
