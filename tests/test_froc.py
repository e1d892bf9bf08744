"""FROC, operating points and blind maps of frames: values that are known, what a frame must hold, and laws."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.metrics import (
    METRICS,
    Frame,
    MapBuilder,
    MapTable,
    combine,
    compute,
    difference,
    froc,
    over_seeds,
    unavailable,
)
from bench.metrics.detection import THRESHOLDS, hits
from bench.metrics.found import films, found, of_level
from bench.metrics.froc import largest_overlap
from bench.metrics.maps import UNTRAINED
from bench.metrics.operating import operating_points, youden
from bench.objectives import late
from data.errors import DataError
from tests.toy_frames import toy_frame, value_of
from tests.toy_lesions import CELLS, SIZE, blob, boxed_frame, film_table, mapped_films

BOXES = [name for name, metric in METRICS.items() if "boxes" in metric.needs]
CHOSEN = ("sensitivity", "specificity", "accuracy_chosen")
HERE, THERE = (10, 10, 30, 30), (40, 60, 60, 90)  # two lesions


def known(**more: object) -> Frame:
    """Two films with three lesions, of which two are found (0.9 twice, 0.4), and three normal ones; false: 0.8, 0.6, 0.5 on
    normal films, 0.7 on a film with a mass."""
    truth = [[*HERE, *THERE], HERE, [], [], []]
    first = [*HERE, 0.9, *HERE, 0.3, 0, 60, 20, 90, 0.7]
    boxes = [first, [*HERE, 0.4], [0, 0, 9, 9, 0.8], [0, 0, 9, 9, 0.6, 20, 20, 30, 30, 0.5], []]
    return boxed_frame([1, 1, 0, 0, 0], truth, boxes, **more)


def reason(frame: Frame, name: str) -> str:
    return unavailable(frame, [name])[name]


# ---- known values ---------------------------------------------------------------------------------------------------
def test_a_curve_of_known_boxes() -> None:
    frame = known()
    assert value_of(frame, "tpr_at_fppi_0.25") == pytest.approx(1 / 3), "0.9 has no false positive above it"
    assert value_of(frame, "tpr_at_fppi_0.5") == pytest.approx(1 / 3), "0.4 has three on three normal films"
    assert value_of(frame, "tpr_at_fppi_1") == pytest.approx(2 / 3)
    assert value_of(frame, "tpr_at_fppi_1_all") == pytest.approx(2 / 3), "four on five films"
    assert value_of(frame, "cpm") == pytest.approx((3 * 1 / 3 + 4 * 2 / 3) / 7)
    estimates = compute(frame, ["tpr_at_fppi_1", "fppi_max"])
    assert (estimates["tpr_at_fppi_1"].n, estimates["fppi_max"].n) == (3, 2), "lesions; films"
    assert "3 lesions on 2 films, 3 normal films" in estimates["tpr_at_fppi_1"].note


def test_the_papers_own_reading_takes_films_with_a_mass_alone() -> None:
    frame = known()
    assert value_of(frame, "tpr_max") == pytest.approx(2 / 3), "both lesions up to 0.3, above which 0.4 still is"
    assert value_of(frame, "fppi_max") == pytest.approx(1 / 2)
    assert "threshold 0.3, chosen on these films" in compute(frame, ["tpr_max"])["tpr_max"].note
    frame.meta["operating"] = {"default": {"score": 0.5, "map": 0.7}}
    frame = replace(frame, _cache={})
    assert value_of(frame, "tpr_chosen") == pytest.approx(1 / 3)
    assert value_of(frame, "fppi_chosen") == 0, "0.7 is not above 0.7"
    assert value_of(frame, "fppi_chosen_normal") == pytest.approx(1 / 3)


def test_the_map_is_scored_by_probability_times_its_maximum() -> None:
    """Two films with the same map: the more probable one's lesion comes first, a normal one's region lies between."""
    peak = blob(0.5, 0.5, 0.1, 2.0)
    builder, table = MapBuilder(), film_table([1, 1, 0])
    keys = [table[key].tolist() for key in ("record_id", "finding_id")]
    builder.add("map", np.stack([peak, peak, peak]), *keys, [1] * 3, ["both", "true", "predicted"])
    middle = [SIZE[1] / 2 - 10, SIZE[0] / 2 - 10, SIZE[1] / 2 + 10, SIZE[0] / 2 + 10]
    frame = boxed_frame([1, 1, 0], [middle, middle, []], [[], [], []], probability=[0.9, 0.3, 0.5])
    frame.predictions = frame.predictions.drop(columns="boxes")
    frame.maps = builder.table()
    made = found(frame)
    top = made.regions[0].peak.max()
    assert 1.8 < top < 2.1, "the map's own maximum, not 1"
    assert [one.max() for one in made.lesions[:2]] == pytest.approx([0.9 * top, 0.3 * top])
    assert made.false[2].max() == pytest.approx(0.5 * top)
    assert len(made.false[2]) >= 2, "regions of one peak that differ in size stay apart"
    assert value_of(frame, "tpr_at_fppi_0.5") == 0.5
    negative = MapBuilder()
    negative.add("map", np.stack([peak, peak, peak - 3]), *keys, [1] * 3, ["both", "true", "predicted"])
    frame = replace(frame, maps=negative.table(), _cache={})
    assert set(found(frame).false[2]) == {0.0}, "what is negative is no score"


def test_areas_are_those_of_the_region_that_covers_most_of_the_lesion() -> None:
    lesions = np.array([[0, 0, 10, 10.0], [50, 50, 60, 60]])
    boxes = np.array([[0, 0, 20, 20.0], [0, 0, 40, 40], [0, 0, 4, 4]])
    assert largest_overlap(boxes, lesions).tolist() == [400.0, 0.0], "of two that cover all the smaller"
    assert largest_overlap(boxes[:0], lesions).tolist() == [0.0, 0.0]
    sides = [6, 12, 24]
    truth = [[0, 0, side, side] for side in sides]
    double = [[0, 0, 2 * side, side, 0.9] for side in sides]
    frame = boxed_frame([1, 1, 1, 0], [*truth, []], [*double[:2], [], []])
    assert value_of(frame, "area_small") == pytest.approx(2.0)
    assert value_of(frame, "area_medium") == pytest.approx(2.0)
    assert reason(frame, "area_large") == "no region overlaps a large lesion"
    assert "1 of 1 lesions have an overlapping region" in compute(frame, ["area_small"])["area_small"].note


# ---- thresholds that validation chooses -----------------------------------------------------------------------------
def test_youdens_threshold_is_the_lowest_best_midpoint() -> None:
    scores, positive = np.array([0.1, 0.2, 0.4, 0.8]), np.array([False, False, True, True])
    assert youden(scores, positive) == pytest.approx(0.3)
    assert youden(np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, True, False, True])) == pytest.approx(0.15)
    assert youden(scores, np.ones(4, bool)) is None
    assert youden(np.full(4, 0.5), positive) is None


@pytest.mark.parametrize("track", ["malignancy", "detection"])
def test_sensitivity_and_specificity_at_the_threshold_of_validation(track: str) -> None:
    validation, test = toy_frame(1, track=track), toy_frame(2, track=track)
    points = operating_points(validation)
    assert set(points) == {"default"} and set(points["default"]) == {"score"}, "no boxes, no threshold of the map"
    assert "validation has chosen no threshold" in reason(test, "sensitivity")
    test.meta["operating"] = points
    found_ = compute(replace(test, _cache={}), CHOSEN)
    right = (test.probabilities[:, 1] >= points["default"]["score"]) == (test.labels == 1)
    assert found_["accuracy_chosen"].value == pytest.approx(right.mean())
    assert found_["sensitivity"].value == pytest.approx(right[test.labels == 1].mean())
    assert found_["specificity"].value == pytest.approx(right[test.labels == 0].mean())
    assert found_["sensitivity"].n == int((test.labels == 1).sum())


def test_each_fold_keeps_its_own_threshold() -> None:
    folds = [mapped_films(seed, fold=seed) for seed in (0, 1)]
    for frame, score, level in zip(folds, (0.2, 0.6), (0.3, 0.9), strict=True):
        frame.meta["operating"] = {"v0": {"score": score, "map": level}}
    apart = [compute(frame, ["sensitivity", "tpr_chosen", "tpr_at_fppi_1", "tpr_max"]) for frame in folds]
    joined = over_seeds(folds, ["sensitivity", "tpr_chosen", "tpr_at_fppi_1", "tpr_max"])
    for name, estimate in joined.items():
        assert estimate.value == pytest.approx(np.mean([one[name].value for one in apart])), name
    assert "thresholds 0.3, 0.9" in joined["tpr_chosen"].note
    del folds[1].meta["operating"]
    assert "tpr_chosen" not in over_seeds(folds, ["tpr_chosen"])


def test_every_variant_has_its_own_map_and_point() -> None:
    frame = mapped_films(variants=3)
    points = operating_points(frame)
    assert list(points) == ["v0", "v1", "v2"]
    for name, point in points.items():
        assert point == operating_points(frame.of_variant(name))[name]
    values = {name: value_of(frame.of_variant(name), "fppi_max") for name in points}
    assert len(set(values.values())) > 1
    assert value_of(frame, "fppi_max") == values["v0"]


# ---- blind maps -----------------------------------------------------------------------------------------------------
def test_blind_maps_go_through_the_same_door_and_are_compared_on_the_same_patients() -> None:
    frame = mapped_films(films=60)
    for name in ("brightness", "centre", "random"):
        blind, over = value_of(frame, f"blind_tpr_{name}"), compute(frame, [f"tpr_over_{name}"])[f"tpr_over_{name}"]
        assert blind < 0.5
        assert over.value == pytest.approx(value_of(frame, "tpr_at_fppi_1") - blind)
        assert over.low is not None and over.low > 0
    same = replace(frame, maps=only_untrained(frame), _cache={})
    same.predictions = same.predictions.assign(prob_mass=1.0, prob_normal=0.0)
    over = compute(same, ["tpr_over_random"])["tpr_over_random"]
    assert over.value is not None and over.value <= 0, "against itself, which is granted one region a film beside"


def only_untrained(frame: Frame) -> MapTable:
    """The maps of random weights, also as the method's own."""
    assert frame.maps is not None
    entries = frame.maps.entries
    random = entries[entries["map"].str.startswith(UNTRAINED)]
    own = random.assign(map=random["map"].str.removeprefix(UNTRAINED))
    return replace(frame.maps, entries=pd.concat([random, own], ignore_index=True))


def test_a_film_that_is_bright_on_its_lesion_is_found_by_brightness_alone() -> None:
    frame = mapped_films()
    assert frame.masks is not None
    image = np.zeros((40, *SIZE), np.uint8)
    for i, lesion in enumerate(films(frame).lesions):
        for x0, y0, x1, y1 in lesion.astype(int):
            image[i, y0:y1, x0:x1] = 255
    assert value_of(replace(frame, masks={**frame.masks, "image": image}, _cache={}), "blind_tpr_brightness") == 1


def test_what_has_learnt_nothing_gets_one_region_a_film_where_its_scores_tell_no_films_apart() -> None:
    """Every film has an equally bright spot, three of four films with a mass have it on the mass: by its score alone brightness would
    find nothing at 1 false positive a film, one region a film finds the three."""
    frame = boxed_frame([1] * 4 + [0] * 4, [HERE, HERE, HERE, THERE, [], [], [], []], [[]] * 8)
    masks = {key: frame.predictions[key].to_numpy(str) for key in ("record_id", "finding_id")}
    image = np.zeros((8, *SIZE), np.uint8)
    x0, y0, x1, y1 = HERE
    image[:, y0:y1, x0:x1] = 255
    image[4:, 0:3, 0:3] = 255  # normal films: a second spot, smaller and as bright
    lit = replace(frame, masks={**masks, "image": image}, _cache={})
    assert value_of(lit, "blind_tpr_brightness") == 0.75


def test_the_centre_prior_gets_one_region_a_film() -> None:
    """Of nested regions with equal scores on every film none could be told apart: it would find nothing by construction."""
    middle = [SIZE[1] * 0.25, SIZE[0] * 0.25, SIZE[1] * 0.75, SIZE[0] * 0.75]
    frame = boxed_frame([1, 1, 0, 0], [middle, [0, 0, 8, 8], [], []], [[], [], [], []])
    assert value_of(frame, "blind_tpr_centre") == 0.5


# ---- what a frame must hold -----------------------------------------------------------------------------------------
def test_what_is_missing_is_said_in_words() -> None:
    frame = mapped_films()
    bare = replace(frame, predictions=frame.predictions.drop(columns="truth"), _cache={})
    assert all("boxes of lesions" in reason(bare, name) for name in BOXES)
    assert "no labelled mass has a box" in reason(boxed_frame([1, 0], [[], []], [[], []]), "tpr_at_fppi_1")
    alone = boxed_frame([1, 1], [HERE, HERE], [[], []])
    assert "no normal film" in reason(alone, "tpr_at_fppi_1")
    assert value_of(alone, "tpr_at_fppi_1_all") == 0
    assert "no maps" in reason(replace(frame, maps=None, _cache={}), "tpr_at_fppi_1")
    assert "keeps no images" in reason(replace(frame, masks=None, _cache={}), "tpr_over_brightness")
    assert frame.maps is not None
    fewer = replace(frame.maps, entries=frame.maps.entries.iloc[1:])
    assert "1 of 40 films have no map" in reason(replace(frame, maps=fewer, _cache={}), "tpr_at_fppi_1")
    other = {**frame.meta, "variant_maps": {"v0": "missing"}}
    assert "no map 'missing'" in reason(replace(frame, meta=other, _cache={}), "tpr_at_fppi_1")
    assert "does not have it" in reason(toy_frame(), "tpr_at_fppi_1")


def test_no_box_at_all_finds_nothing_and_has_an_interval() -> None:
    empty = boxed_frame([1] * 6 + [0] * 6, [HERE] * 6 + [[]] * 6, [[]] * 12)
    estimate = compute(empty, ["tpr_at_fppi_1"])["tpr_at_fppi_1"]
    assert estimate.value == 0 and estimate.low == pytest.approx(0)
    assert estimate.high is not None and 0.2 < estimate.high < 0.6
    assert "Wilson on 6 patients" in estimate.note, "normal films say nothing about the share found"


def test_a_mass_without_a_known_box_leaves_its_film_out() -> None:
    frame = known()
    more = boxed_frame(
        [1, 1, 0, 0, 0, 1, -1],
        [*frame.predictions["truth"], [], []],
        [*frame.predictions["boxes"], [0, 0, 9, 9, 0.95] * 5, [0, 0, 9, 9, 0.99]],
    )
    for name in ("tpr_at_fppi_1", "tpr_at_fppi_1_all", "tpr_max", "fppi_max"):
        assert value_of(more, name) == value_of(frame, name)
    estimate = compute(more, ["tpr_at_fppi_1"])["tpr_at_fppi_1"]
    assert estimate.n == 3 and "1 films left out: a mass without a box" in estimate.note


def test_a_frame_gives_the_same_after_it_was_stored(tmp_path: Path) -> None:
    frame = mapped_films(variants=2)
    frame.meta["operating"] = operating_points(frame)
    again = Frame.load(frame.save(tmp_path / "frame"))
    before, after = (compute(one.of_variant("v1"), [*BOXES, *CHOSEN]) for one in (frame, again))
    assert set(before) == {*BOXES, *CHOSEN}
    assert before == after


def test_two_methods_compare_on_the_same_films() -> None:
    good, bad = known(), known()
    bad.predictions["boxes"] = [[]] * 5
    estimate, _ = difference([good], [bad], "tpr_at_fppi_1")
    assert estimate.value == pytest.approx(2 / 3)


def test_detection_can_be_searched_by_but_is_known_late() -> None:
    assert late(("tpr_at_fppi_1", "accuracy_chosen", "accuracy"), "detection") == ("tpr_at_fppi_1", "accuracy_chosen")
    assert METRICS["tpr_at_fppi_1"].direction == "max" and METRICS["fppi_chosen"].direction == "none"


# ---- laws -----------------------------------------------------------------------------------------------------------
@given(st.integers(0, 10**6))
@settings(max_examples=10)
def test_flipping_films_maps_and_boxes_together_changes_nothing(seed: int) -> None:
    frame = mapped_films(seed, films=12)
    assert frame.maps is not None and frame.masks is not None
    stacks = {key: stack[:, :, ::-1] for key, stack in frame.maps.stacks.items()}
    truth = [
        [SIZE[1] - box[2], box[1], SIZE[1] - box[0], box[3]] if len(box) else [] for box in frame.predictions["truth"]
    ]
    flipped = replace(
        frame, predictions=frame.predictions.assign(truth=truth), maps=replace(frame.maps, stacks=stacks),
        masks={**frame.masks, "image": frame.masks["image"][:, :, ::-1]}, _cache={},
    )  # fmt: skip
    for name in ("tpr_at_fppi_1", "cpm", "tpr_max", "fppi_max", "blind_tpr_brightness", "blind_tpr_centre"):
        assert value_of(flipped, name) == pytest.approx(value_of(frame, name)), name


@given(st.integers(0, 10**6), st.floats(0.1, 3))
@settings(max_examples=20)
def test_a_monotone_change_of_all_scores_and_more_allowed_false_positives(seed: int, power: float) -> None:
    rng = np.random.default_rng(seed)
    labels = [1] * 8 + [0] * 8
    spots = (HERE, (0, 60, 20, 90), THERE)
    boxes = [[v for spot in spots if rng.random() < 0.6 for v in (*spot, rng.random())] for _ in labels]
    frame = boxed_frame(labels, [HERE if label else [] for label in labels], boxes)
    changed = [[v**power if i % 5 == 4 else v for i, v in enumerate(one)] for one in boxes]
    other = boxed_frame(labels, [HERE if label else [] for label in labels], changed)
    reached = [froc.tpr_at(frame, (at,)).value for at in froc.CPM]
    assert reached == [froc.tpr_at(other, (at,)).value for at in froc.CPM]
    assert (np.diff(reached) >= 0).all()
    worse = [*boxes[:-1], [*boxes[-1], 0, 0, 9, 9, float(rng.random())]]
    after = boxed_frame(labels, [HERE if label else [] for label in labels], worse)
    assert all(froc.tpr_at(after, (at,)).value <= was for at, was in zip(froc.CPM, reached, strict=True))


def test_totals_over_patients_give_the_value_of_the_rows_that_are_left() -> None:
    """The bootstrap and the jackknife weigh patients: leaving one out of the totals is leaving its films out of the frame."""
    frame = mapped_films(films=24)
    for name in ("tpr_at_fppi_1", "cpm", "tpr_max", "fppi_max", "tpr_over_centre"):
        part = {"cpm": froc.tpr_at(frame, froc.CPM), "tpr_at_fppi_1": froc.tpr_at(frame, (1.0,))}.get(name)
        if part is None:
            part = froc.over_blind(frame, "centre") if name == "tpr_over_centre" else froc.at_best(frame, name[:-4])  # type: ignore[arg-type]
        assert part.totals is not None
        for patient, without in list(zip(part.patients, part.totals.jackknife(), strict=True))[:4]:
            rest = frame.rows(frame.predictions["patient"] != patient)
            assert value_of(rest, name) == pytest.approx(without), name
        assert combine.estimate([part]).value == pytest.approx(value_of(frame, name))


def test_the_maps_of_a_frame_are_read_at_their_own_resolution() -> None:
    assert mapped_films().maps is not None
    regions = found(mapped_films()).regions
    assert max(one.boxes[:, 2].max() for one in regions) <= SIZE[1]
    assert max(one.boxes[:, 3].max() for one in regions) <= SIZE[0]
    assert max(one.boxes[:, 3].max() for one in regions) > CELLS[0], "in pixels of the input, not in cells"


def test_a_region_at_validations_threshold_is_one_box_whatever_other_thresholds_see_in_it() -> None:
    frame = mapped_films(films=40, skill=3.0)
    with pytest.raises(DataError, match="validation has chosen no threshold"):
        difference([frame], [frame], "tpr_at_fppi_1_regions")
    frame.meta["operating"] = {"v0": {"map": 0.5}}
    level = np.full(len(frame.labels), THRESHOLDS.index(0.5))
    several, one = found(frame), of_level(frame, level)
    assert [len(false) for false in one.false] == [
        len(regions.at(level[0])) - int(hits(regions.at(level[0]), truth).any(axis=1).sum())
        for regions, truth in zip(one.regions, films(frame).lesions, strict=True)
    ]
    assert sum(map(len, one.false)) < sum(map(len, several.false))
    for single, best in zip(one.lesions, several.lesions, strict=True):
        assert (single <= best).all(), "of all thresholds' boxes the best one counts"
    boxes = known()
    boxes.meta["operating"] = {"default": {"map": 0.3}}
    assert value_of(boxes, "tpr_at_fppi_1_regions") == value_of(boxes, "tpr_at_fppi_1"), (
        "a detector gives one box a place"
    )
