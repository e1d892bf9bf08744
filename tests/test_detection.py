"""Boxes from maps and what they find: golden values, closed forms, and laws that hold for any boxes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bench.metrics import detection
from bench.metrics.detection import AUTHORS, OURS, Rules
from tests.parity import checks

GOLDEN = Path(__file__).parent / "golden" / "10_detection.npz"
SEEDS = st.integers(0, 10**6)


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, float).reshape(-1, 4)


# ---- golden values --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_golden_file_is_met_in_all_readings(dtype: str) -> None:
    found = checks(GOLDEN, dtype)
    assert len(found) == 57
    assert [check.name for check in found if check.share > 1] == []


# ---- boxes of a map -------------------------------------------------------------------------------------------------
def test_a_region_is_above_its_threshold_with_a_tight_half_open_box_and_its_own_maximum() -> None:
    one = np.zeros((6, 8))
    one[1:3, 2:5] = 5.0
    one[2, 4] = 10.0
    one[5, 7] = 5.0
    found = detection.regions(one)
    assert found.at(3).tolist() == [[2, 1, 5, 3], [7, 5, 8, 6]]
    assert found.at(4).tolist() == [[4, 2, 5, 3]], "0.5 is not above 0.5"
    assert found.peak[found.level == 3].tolist() == [10.0, 5.0], "not normalised"


def test_a_constant_map_has_no_box_even_where_resizing_rounds() -> None:
    flat = np.full((8, 8), 0.3)
    flat[2, 2] = np.nextafter(0.3, 1)
    for rules in (OURS, AUTHORS):
        assert len(detection.regions(flat, rules).boxes) == 0
        assert len(detection.regions(np.zeros((4, 4)), rules).boxes) == 0


def test_what_lies_in_a_hole_is_dropped_where_only_outer_regions_count() -> None:
    one = np.zeros((9, 9))
    one[1:8, 1:8] = 1
    one[2:7, 2:7] = 0
    one[4, 4] = 1
    assert len(detection.regions(one).at(0)) == 2
    assert detection.regions(one, Rules(components="external")).at(0).tolist() == [[1, 1, 8, 8]]
    one[1, 1:8] = 0  # the ring is open: its island touches the outside
    assert len(detection.regions(one, Rules(components="external")).at(0)) == 2
    corner = np.zeros((5, 5))
    corner[[1, 1, 2, 2, 3], [1, 2, 1, 3, 2]] = 1  # a hole that is closed at corners only
    corner[2, 2] = 0
    assert len(detection.regions(corner, Rules(connectivity=4, components="external")).at(0)) == 3


def test_the_grid_is_the_input_up_to_512_pixels() -> None:
    assert detection.grid_of((96, 64)) == (96, 64)
    assert detection.grid_of((2944, 1920)) == (512, 334)
    assert detection.grid_of((300, 1024)) == (150, 512)


# ---- matching and counting ------------------------------------------------------------------------------------------
TWO = boxes((0, 0, 10, 10), (2, 0, 12, 10))  # both on the first lesion; the second lies elsewhere
LESIONS = boxes((0, 0, 12, 10), (50, 50, 60, 60))


def test_readings_differ_where_several_boxes_hit_one_lesion() -> None:
    far = boxes((80, 80, 90, 90))
    three = np.concatenate([TWO, far])
    assert detection.counts(three, LESIONS) == (1, 1, 1)
    assert detection.counts(three, LESIONS, Rules(match="one_to_one")) == (1, 2, 1)
    assert detection.counts(three, LESIONS, Rules(match="author")) == (2, 4, 1)
    assert detection.counts(boxes(), LESIONS) == (0, 0, 2)
    assert detection.counts(three, boxes()) == (0, 3, 0)


def test_pairs_are_taken_by_falling_overlap() -> None:
    lesions = boxes((0, 0, 10, 10), (4, 0, 14, 10))
    both = boxes((4, 0, 14, 10), (0, 0, 13, 10))  # the first is the second lesion's; the other hits both
    assert detection.counts(both, lesions, Rules(match="one_to_one")) == (2, 0, 0)


def test_an_overlap_of_exactly_the_limit_counts_only_if_asked() -> None:
    half = boxes((0, 0, 3, 1))
    whole = boxes((0, 0, 10, 1))
    assert detection.iou(half, whole)[0, 0] == 0.3
    assert detection.counts(half, whole) == (0, 1, 1)
    assert detection.counts(half, whole, Rules(iou_cmp="ge")) == (1, 0, 0)


def test_the_best_threshold_has_the_highest_tpr_then_the_fewest_false_then_is_the_highest() -> None:
    assert detection.best_threshold(np.array([3, 4, 4, 4, 2]), np.array([1, 5, 2, 2, 0])) == 3
    many = detection.best_threshold(np.array([[1, 1], [0, 2]]), np.array([[3, 4], [0, 9]]))
    assert many.tolist() == [0, 1]


# ---- merging and free response --------------------------------------------------------------------------------------
def test_of_nested_boxes_of_one_peak_the_higher_threshold_stays_and_hides_what_is_nearly_it() -> None:
    nested = detection.Regions(
        boxes((0, 0, 20, 20), (2, 2, 18, 18), (5, 5, 15, 15)), np.array([0, 1, 2]), np.full(3, 7.0)
    )
    assert detection.merged(nested, np.full(3, 7.0)).tolist() == [2, 1], "IoU 0.39 stays, 0.64 goes"
    assert detection.merged(nested, np.array([9.0, 7.0, 7.0])).tolist() == [0, 2], "a higher score goes first"


def test_several_hits_count_once_with_the_best_score_and_are_not_false() -> None:
    best, false = detection.free_response(
        np.concatenate([TWO, boxes((80, 80, 90, 90))]), np.array([0.4, 0.9, 0.6]), LESIONS
    )
    assert best.tolist() == [0.9, -np.inf]
    assert false.tolist() == [0.6]
    assert detection.free_response(boxes(), np.zeros(0), LESIONS)[0].tolist() == [-np.inf, -np.inf]


def test_no_box_gives_a_share_of_zero() -> None:
    points = detection.curve(np.full(3, -np.inf), np.zeros(0), 5)
    assert points.shape == (0, 3)
    assert detection.sensitivity(points, 1.0) == detection.sensitivity(points, 1.0, "linear") == 0.0


# ---- laws -----------------------------------------------------------------------------------------------------------
def scored(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of lesions, some not found, and of false positives; rounded, so that there are ties."""
    rng = np.random.default_rng(seed)
    lesions = np.where(rng.random(12) < 0.7, rng.normal(1, 1, 12).round(1), -np.inf)
    return lesions, rng.normal(0, 1, rng.integers(0, 40)).round(1)


@given(SEEDS, st.integers(1, 20))
def test_the_share_found_never_falls_as_more_false_positives_are_allowed(seed: int, images: int) -> None:
    points = detection.curve(*scored(seed), images)
    for rule in ("step", "linear"):
        reached = [detection.sensitivity(points, at, rule) for at in np.linspace(0, 5, 41)]  # type: ignore[arg-type]
        assert (np.diff(reached) >= -1e-12).all()


@given(SEEDS, st.integers(1, 20), st.floats(0, 5))
def test_a_monotone_change_of_all_scores_changes_nothing(seed: int, images: int, at: float) -> None:
    lesions, false = scored(seed)
    plain = detection.curve(lesions, false, images)
    raised = np.where(np.isfinite(lesions), np.exp(3 * lesions), -np.inf)
    changed = detection.curve(raised, np.exp(3 * false), images)
    assert np.array_equal(plain[:, 1:], changed[:, 1:])
    assert detection.sensitivity(changed, at) == detection.sensitivity(plain, at)


@given(SEEDS, st.integers(1, 20), st.floats(0, 5), st.floats(-3, 3))
def test_a_false_positive_more_never_raises_the_share_found(seed: int, images: int, at: float, more: float) -> None:
    lesions, false = scored(seed)
    before = detection.sensitivity(detection.curve(lesions, false, images), at)
    after = detection.sensitivity(detection.curve(lesions, np.append(false, more), images), at)
    assert after <= before


@given(SEEDS, st.booleans(), st.booleans(), st.sampled_from(["all", "external"]), st.sampled_from([4, 8]))
@settings(max_examples=40)
def test_flipping_map_and_lesions_together_changes_nothing(
    seed: int, upside_down: bool, mirrored: bool, components: str, connectivity: int
) -> None:
    rng = np.random.default_rng(seed)
    rules = Rules(components=components, connectivity=connectivity)  # type: ignore[arg-type]
    one = ndimage.gaussian_filter(rng.random((40, 30)), 2.0)
    low = rng.integers(0, 20, (2, 2))
    lesions = np.concatenate([low, low + rng.integers(4, 10, (2, 2))], axis=1).astype(float)
    flipped, turned = one[:: -1 if upside_down else 1, :: -1 if mirrored else 1], lesions.copy()
    if mirrored:
        turned[:, [0, 2]] = 30 - lesions[:, [2, 0]]
    if upside_down:
        turned[:, [1, 3]] = 40 - lesions[:, [3, 1]]
    here, there = detection.regions(one, rules), detection.regions(flipped, rules)
    assert np.array_equal(detection.tally(here, lesions, rules), detection.tally(there, turned, rules))
    results = []
    for found, of in ((here, lesions), (there, turned)):
        kept = detection.merged(found, found.peak)
        best, false = detection.free_response(found.boxes[kept], found.peak[kept], of, rules)
        results.append((best.tolist(), sorted(false.tolist())))
    assert results[0] == results[1]


@given(SEEDS)
@settings(max_examples=40)
def test_regions_of_a_higher_threshold_lie_in_those_of_a_lower_one(seed: int) -> None:
    found = detection.regions(ndimage.gaussian_filter(np.random.default_rng(seed).random((30, 40)), 2.0))
    assert len(found.at(0)) and len(found.at(9))
    for level in range(1, 10):
        inner, outer = found.at(level), found.at(level - 1)
        assert (detection.intersection(inner, outer).max(axis=1) == detection.area(inner)).all()
