"""Windows around a finding, and what is cut from them."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from data._breast import Pose, find_breast, pose_of
from data._store import VERSION, PixelSpec, hash_of
from data.cache import Opening, Prepared, prepare
from data.errors import ConfigError
from data.inputs import Augment, Inputs, Roi, Stream
from data.phantom import Exams
from data.phantom import Options as PhantomOptions
from data.roi import OVERLAP, Jitter, cut, grey_limits, jitter_of, overlap_corners, to_crop, to_film, window
from data.samples import Samples, batches
from tests import toy_films  # noqa: F401 - registers the data set
from tests.cbis_tree import SOURCE, box_pixels, film_pixels

FILM = (300, 200)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    x0, y0 = draw(st.integers(0, FILM[1] - 3)), draw(st.integers(0, FILM[0] - 3))
    return x0, y0, draw(st.integers(x0 + 2, FILM[1])), draw(st.integers(y0 + 2, FILM[0]))


rules = st.builds(
    Roi,
    strategy=st.sampled_from(["max224", "bbox", "double_square", "double_bbox", "box_scale"]),
    min_side=st.integers(8, 260),
    scale=st.floats(1, 3),
)


@given(boxes(), rules, st.floats(1, 1.5))
def test_shifted_windows_lie_on_the_film_and_hold_their_box(box, roi, margin):
    x0, y0, x1, y1 = window(box, FILM, roi, margin=margin)
    for low, high, film, inner in ((x0, x1, FILM[1], box[::2]), (y0, y1, FILM[0], box[1::2])):
        if high - low <= film:
            assert low >= 0 and high <= film
        else:  # the film is smaller: it lies within the window, in its middle
            assert low <= 0 and high >= film and abs(-low - (high - film)) <= 1
        assert low <= inner[0] and high >= inner[1]


@pytest.mark.parametrize(
    ("roi", "expected"),
    [
        (Roi(strategy="max224", min_side=100), (35, 30, 135, 150)),
        (Roi(strategy="bbox"), (70, 30, 100, 150)),
        (Roi(strategy="double_square", border="zero"), (-35, -30, 205, 210)),
        (Roi(strategy="double_square"), (-20, 0, 220, 240)),
        (Roi(strategy="double_bbox"), (55, 0, 115, 240)),
        (Roi(strategy="box_scale", scale=1.6), (0, 0, 192, 192)),
        (Roi(strategy="bbox_overlap"), (70, 30, 100, 150)),
        (Roi(strategy="max224", min_side=100, keep_aspect=True), (25, 30, 145, 150)),
        (Roi(strategy="bbox", keep_aspect=True), (25, 30, 145, 150)),
        (Roi(strategy="whole"), (0, 0, 200, 300)),
    ],
)
def test_rules_of_the_papers(roi, expected):
    assert window((70, 30, 100, 150), FILM, roi) == expected


def test_odd_windows_start_at_the_floor():
    assert window((10, 10, 20, 20), FILM, Roi(strategy="box_scale", scale=1.1)) == (9, 9, 20, 20)


def test_centroid_moves_the_window_to_the_mass_of_the_mask():
    mask = np.zeros(FILM, dtype=bool)
    mask[100:110, 50:60] = True
    mask[100, 50:90] = True  # one long spicule
    box = (50, 100, 90, 110)
    roi = Roi(strategy="box_scale", scale=1.0)
    assert window(box, FILM, roi, mask)[0] == 50
    assert window(box, FILM, roi.model_copy(update={"centre": "centroid"}), mask)[0] < 45


@settings(max_examples=60, deadline=None)
@given(boxes(), rules, st.sampled_from(["shift", "zero", "reflect"]), st.sampled_from([1.0, 1.2]))
def test_image_mask_and_box_move_together(box, roi, border, margin):
    roi = roi.model_copy(update={"border": border})
    x0, y0, x1, y1 = box
    mask = np.zeros(FILM, dtype=bool)
    mask[y0:y1, x0:x1] = True
    film = np.where(mask, 3000, 1000).astype(np.uint16)
    region = cut(film, [mask], box, roi, (64, 48), margin, grey=(1000.0, 3000.0))
    assert region.image.shape == (round(64 * margin), round(48 * margin)) == region.masks[0].shape
    assert region.image.min() >= 0 and region.image.max() <= 1
    if border != "reflect":  # mirrored lesions are bright, but no lesion
        assert np.abs(region.image - region.masks[0]).max() < 0.2  # cubic against triangle at the edges
        assert np.abs(region.image - region.masks[0]).mean() < 0.02
    moved = region.to_crop(np.array([box]))[0]
    area = (moved[2] - moved[0]) * (moved[3] - moved[1])
    assert region.masks[0].sum() == pytest.approx(area, rel=0.1, abs=1.5)
    clipped = np.array([[max(x0, region.window[0]), max(y0, region.window[1]), x1, y1]])
    back = to_film(to_crop(clipped, region.window, (64, 48)), region.window, (64, 48))
    assert np.allclose(back, clipped, atol=1e-3)


def test_the_film_not_the_region_sets_the_grey_scale():
    film = np.full(FILM, 100.0)
    film[:, :100], film[0, 0], film[-1, -1] = 50.0, -1e6, 1e6  # two hot pixels lie beyond the percentiles
    assert grey_limits(film, Roi()) == (50.0, 100.0)
    region = cut(film, [], (150, 100, 170, 120), Roi(strategy="bbox"), (16, 16))
    assert np.all(region.image == 1)


def test_padding_is_black_and_no_lesion():
    film = np.full((40, 30), 5.0)
    film[0, 0] = 0
    mask = np.ones((40, 30), dtype=bool)
    region = cut(film, [mask], (0, 0, 30, 40), Roi(strategy="max224", min_side=60), (60, 60), grey=(0.0, 5.0))
    assert region.window == (-15, -10, 45, 50)
    assert region.image[:10].max() == 0 and region.masks[0][:, :15].max() == 0
    assert region.masks[0].sum() == 40 * 30
    assert region.image[20, 30] == 1


def test_a_margin_around_a_whole_film_leaves_the_film_in_the_centre():
    film = np.random.default_rng(0).integers(0, 1000, (80, 50))
    plain = cut(film, [], None, Roi(strategy="whole"), (80, 50))
    wide = cut(film, [], None, Roi(strategy="whole"), (80, 50), margin=1.2)
    assert wide.image.shape == (96, 60)
    assert np.array_equal(wide.image[8:-8, 5:-5], plain.image)


# ---- bbox_overlap


Sides = tuple[int, int]
FourSides = tuple[float, float, float, float]


def overlap(corners: np.ndarray, size: Sides, box: FourSides) -> np.ndarray:
    """Of windows at `corners` with the box: intersection over the box's area."""
    low = np.maximum(corners, [box[1], box[0]])
    high = np.minimum(corners + size, [box[3], box[2]])
    return np.prod(np.clip(high - low, 0, None), axis=1) / ((box[2] - box[0]) * (box[3] - box[1]))


def in_cut(box: tuple[int, int, int, int], size: Sides) -> tuple[Sides, FourSides]:
    """The size of a finding's cut, and its box there."""
    roi = Roi(strategy="bbox_overlap")
    canvas = PixelSpec(roi, size, 1.2).cut_size
    x0, y0, x1, y1 = to_crop(np.array([box]), window(box, FILM, roi, margin=1.2), canvas)[0].tolist()
    return canvas, (x0, y0, x1, y1)


@pytest.mark.parametrize("size", [(224, 224), (64, 48), (21, 34)])
def test_windows_of_bbox_overlap_hold_nine_tenths_of_the_box(size):
    """Boxes of all sizes anywhere on the film, its edges included: of the box itself, not of its rounded cut."""
    rng, shares = np.random.default_rng(0), []
    for number in range(300):
        width, height = rng.integers(20, 100, 2)
        x0 = int(rng.choice([0, FILM[1] - width, rng.integers(FILM[1] - width)]))
        y0 = int(rng.choice([0, FILM[0] - height, rng.integers(FILM[0] - height)]))
        canvas, box = in_cut((x0, y0, x0 + int(width), y0 + int(height)), size)
        corners = overlap_corners(f"finding {number}", 10, size, canvas, box)
        assert corners.min() >= 0 and np.all(corners + size <= canvas)
        shares.append(overlap(corners, size, box))
    assert np.min(shares) >= OVERLAP - 1e-6
    assert np.min(shares) < OVERLAP + 0.01  # up to the edge of what is allowed


@pytest.mark.parametrize("side", range(1, 20))
def test_windows_of_a_tiny_box_hold_as_much_of_it_as_any(side):
    size = (64, 48)
    canvas, box = in_cut((7, 5, 7 + side, 5 + side), size)
    every = np.argwhere(np.ones((canvas[0] - size[0] + 1, canvas[1] - size[1] + 1)))
    reached = overlap(every, size, box).max()
    assert overlap(overlap_corners("a", 10, size, canvas, box), size, box).min() >= min(OVERLAP, reached) - 1e-6


def test_windows_lie_on_all_sides_alike():
    size, (canvas, box) = (224, 224), in_cut((50, 50, 100, 100), (224, 224))
    corners = np.concatenate([overlap_corners(f"finding {i}", 10, size, canvas, box) for i in range(50)])
    assert np.all(np.abs((corners - [box[1], box[0]]).mean(axis=0)) < 0.02 * np.array(size))


def test_a_finding_keeps_its_windows():
    canvas, box = in_cut((50, 50, 100, 100), (64, 64))
    one, two = (overlap_corners(name, 10, (64, 64), canvas, box) for name in ("a", "b"))
    assert len(np.unique(one, axis=0)) == 10 and not np.array_equal(one, two)
    overlap_corners.cache_clear()
    assert np.array_equal(one, overlap_corners("a", 10, (64, 64), canvas, box))


def test_training_sees_the_windows_and_evaluation_the_box(tmp_path):
    roi = Roi(strategy="bbox_overlap", overlap_n=4)
    inputs = Inputs((40, 40), "margin", (Stream("train", 6),), roi, Augment(recipe="none"))
    options = {"exams": {"train": 3, "validation": 2, "test": 1}, "size": 384, "level": "easy"}
    prepared = prepare("phantom", None, options, tmp_path)
    training = prepared.training(prepared.split(), inputs)
    seen: dict[int, dict[bytes, np.ndarray]] = {}
    for number in range(20):
        for batch in batches(training.train, inputs, ("train",), epoch=number, augment=True, shuffle=True):
            for row, image, box in zip(batch.index, batch.image, batch.boxes, strict=True):
                seen.setdefault(int(row), {})[image.numpy().tobytes()] = box[0].numpy()
    assert [len(seen[row]) for row in range(len(training.train))] == [4] * len(training.train)
    for row, images in seen.items():
        own = training.train.boxes[row][0]
        for box in images.values():
            assert np.prod(box[2:] - box[:2]) >= (OVERLAP - 1e-4) * np.prod(own[2:] - own[:2])
    bare = Inputs((40, 40), "margin", (Stream("train", 6),), Roi(strategy="bbox"))
    plain = prepared.training(prepared.split(), bare)
    for ours, whole in zip(batches(training.validation, inputs), batches(plain.validation, bare), strict=True):
        assert (ours.image - whole.image).abs().mean() < 0.02  # the same place, by another grid
        assert all((a - b).abs().max() < 1 for a, b in zip(ours.boxes, whole.boxes, strict=True))


def test_a_recipe_with_windows_of_its_own_is_refused():
    with pytest.raises(
        ConfigError, match=r"bbox_overlap draws the window, and so does this recipe \(augment.recipe: gmic"
    ):
        Inputs((40, 40), "margin", (), Roi(strategy="bbox_overlap"), Augment(recipe="gmic"))


# ---- settings and caches


def test_an_option_that_is_off_leaves_the_cache_as_it_was():
    """The folder's name is made of what was there before these options, and of what changes a pixel."""
    old = {"strategy": "bbox", "centre": "bbox", "border": "shift", "grey_low": 0.5, "grey_high": 99.5}
    before = {"version": VERSION, "roi": old, "size": (9, 9), "margin": 1.0, "unit": "finding"}
    assert PixelSpec(Roi(strategy="bbox"), (9, 9)).key == hash_of(before)[:16]
    off = Roi(strategy="bbox", overlap_n=3, jitter_seed=4, crop="breast", min_side=9, scale=3.0)
    assert PixelSpec(off, (9, 9)).key == hash_of(before)[:16]
    changes = ({"jitter_shift": 0.1}, {"jitter_scale": 0.1}, {"flip": "breast_left"}, {"keep_aspect": True})
    keys = {PixelSpec(Roi.model_validate({"strategy": "bbox"} | change), (9, 9)).key for change in changes}
    assert len(keys | {hash_of(before)[:16]}) == 5
    whole = Roi(strategy="whole")
    assert PixelSpec(whole, (9, 9)).key != PixelSpec(whole.model_copy(update={"crop": "breast"}), (9, 9)).key
    assert PixelSpec(whole, (9, 9)).key == PixelSpec(whole.model_copy(update={"jitter_shift": 0.3}), (9, 9)).key


# ---- jitter of the test side


def test_jitter_moves_and_scales_by_shares_of_the_box():
    roi = Roi(strategy="bbox", border="zero", jitter_shift=0.3, jitter_scale=0.2)
    draws = [jitter_of(roi, f"finding {i}") for i in range(800)]
    for values, reach in (
        ([j.dx for j in draws], 0.3),
        ([j.dy for j in draws], 0.3),
        ([j.scale - 1 for j in draws], 0.2),
    ):
        assert 0.97 * reach < max(values) <= reach and -reach <= min(values) < -0.97 * reach
        assert abs(np.mean(values)) < 0.08 * reach * 2
    assert jitter_of(roi, "a") == jitter_of(roi, "a") != jitter_of(roi.model_copy(update={"jitter_seed": 1}), "a")
    assert jitter_of(Roi(strategy="bbox"), "a") == Jitter()
    half = jitter_of(roi.model_copy(update={"jitter_shift": 0.15}), "a")
    assert half.dx == pytest.approx(jitter_of(roi, "a").dx / 2)  # amounts of one finding lie on a line
    box = (70, 30, 100, 150)
    assert window(box, FILM, roi, jitter=Jitter(0.1, -0.05, 1.0)) == (73, 24, 103, 144)
    assert window(box, FILM, roi, jitter=Jitter(0.0, 0.0, 0.8)) == (73, 42, 97, 138)
    mask = np.zeros(FILM, dtype=bool)
    mask[40:60, 75:85] = True
    centroid = roi.model_copy(update={"centre": "centroid"})
    moved = window(box, FILM, centroid, mask, jitter=Jitter(0.1, 0.0, 1.0))
    assert moved[0] - window(box, FILM, centroid, mask)[0] == 3


def opening_of(prepared: Prepared, split: Any, track: str) -> Opening:
    return Opening("1", prepared.data_hash, split.hash, (track,))


def test_jitter_leaves_training_as_it_is_and_moves_the_test_side(tmp_path):
    prepared = prepare("toy_films", None, {"patients": 24}, tmp_path)
    split = prepared.split()

    def inputs(**jitter: float) -> Inputs:
        return Inputs((32, 32), "margin", (Stream("train", 6),), Roi(strategy="double_bbox", border="zero", **jitter))

    def sides(settings: Inputs) -> tuple[Samples, Samples, Samples]:
        training = prepared.training(split, settings)
        return (
            training.train,
            training.validation,
            prepared.sealed(split, settings, "margin", opening_of(prepared, split, "margin")),
        )

    plain, jittered = sides(inputs()), sides(inputs(jitter_shift=0.3, jitter_scale=0.2))
    for before, after in zip(plain[:2], jittered[:2], strict=True):
        assert all(np.array_equal(before.image[i], after.image[i]) for i in range(len(before)))
        pd.testing.assert_frame_equal(before.table, after.table)
    columns = ["wx0", "wy0", "wx1", "wy1"]
    moved = jittered[2].table[columns].to_numpy() != plain[2].table[columns].to_numpy()
    assert moved.any(axis=1).mean() > 0.9 and len(moved) == len(plain[2])
    again = sides(inputs(jitter_shift=0.3, jitter_scale=0.2))[2]
    pd.testing.assert_frame_equal(again.table, jittered[2].table)
    other = sides(inputs(jitter_shift=0.3, jitter_scale=0.2, jitter_seed=1))[2]
    assert (other.table[columns].to_numpy() != jittered[2].table[columns].to_numpy()).any(axis=1).mean() > 0.9
    for batch in batches(jittered[2], inputs()):  # block, mask and box lie on one another
        for image, mask, box in zip(batch.image, batch.mask, batch.boxes, strict=True):
            x0, y0, x1, y1 = box[0].tolist()
            assert mask.sum() == pytest.approx((x1 - x0) * (y1 - y0), rel=0.06)
            assert image[mask > 0.99].min() > 0.5 > image[mask < 0.01].max()


# ---- flip and crop


def test_boxes_of_a_flipped_cut_are_mirrored_and_come_back():
    box = np.array([[10.0, 20.0, 30.0, 60.0]])
    where = (0, 0, 100, 80)
    assert to_crop(box, where, (40, 50), True).tolist() == [[35.0, 10.0, 45.0, 30.0]]
    assert np.allclose(to_film(to_crop(box, where, (40, 50), True), where, (40, 50), True), box)


@settings(max_examples=40, deadline=None)
@given(boxes(), rules, st.sampled_from([1.0, 1.2]))
def test_a_flipped_cut_is_the_mirrored_cut(box, roi, margin):
    film = np.random.default_rng(0).integers(0, 4000, FILM)
    mask = np.zeros(FILM, dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    plain = cut(film, [mask], box, roi, (32, 24), margin)
    flipped = cut(film, [mask], box, roi, (32, 24), margin, pose=Pose(flipped=True))
    assert flipped.window == plain.window and flipped.flipped
    assert np.array_equal(flipped.image, plain.image[:, ::-1]) and np.array_equal(
        flipped.masks[0], plain.masks[0][:, ::-1]
    )
    back = to_film(flipped.to_crop(np.array([box])), flipped.window, flipped.image.shape, True)
    there = to_film(plain.to_crop(np.array([box])), plain.window, plain.image.shape)
    assert np.allclose(back, there, atol=1e-3)


def film_of(side: str, height: int = 300, width: int = 240) -> np.ndarray:
    """A bright half disc at one side, a label in the other upper corner, noise."""
    rows, columns = np.mgrid[:height, :width]
    breast = ((rows - 150) / 110) ** 2 + (columns / 150) ** 2 < 1
    film = 200.0 * breast + np.random.default_rng(0).normal(20, 3, (height, width))
    film[10:30, width - 40 : width - 10] = 255
    return film if side == "left" else film[:, ::-1]


def test_a_film_stands_by_its_breast_or_by_its_side():
    left, right = film_of("left"), film_of("right")
    seen, named = Roi(flip="breast_left"), Roi(flip="right_breasts")
    for laterality in "LR":
        assert not pose_of(left, laterality, seen).flipped and pose_of(right, laterality, seen).flipped
        assert (
            pose_of(left, laterality, named).flipped == pose_of(right, laterality, named).flipped == (laterality == "R")
        )
        assert pose_of(right, laterality, Roi()) == Pose()


def test_the_crop_holds_the_breast_and_not_the_label():
    whole = Roi(strategy="whole", crop="breast")
    pose = pose_of(film_of("left"), "L", whole)
    assert pose.breast is not None and not pose.missed and not pose.flipped
    x0, y0, x1, y1 = pose.breast
    assert x0 == 0 and 28 <= y0 <= 40 and 148 <= x1 <= 170 and 260 <= y1 <= 272
    region = cut(film_of("left"), [], None, whole, (60, 40), pose=pose)
    assert region.window == pose.breast and region.image.shape == (60, 40)
    mirrored = pose_of(film_of("right"), "R", whole.model_copy(update={"flip": "breast_left"}))
    assert mirrored.flipped and mirrored.breast == (240 - x1, y0, 240 - x0, y1)
    assert pose_of(film_of("left"), "L", Roi(crop="breast")) == Pose()  # a rule for whole films


@pytest.mark.parametrize("film", [np.full((300, 240), 7.0), np.eye(300) * 9.0], ids=["flat", "a scratch"])
def test_a_film_without_a_breast_is_taken_whole_and_that_is_noted(film):
    roi = Roi(strategy="whole", crop="breast", flip="breast_left")
    assert find_breast(film) is None
    assert pose_of(film, "R", roi) == Pose(flipped=False, breast=None, missed=True)
    film = film.copy()
    film[0, 0] = -1
    assert cut(film, [], None, roi, (30, 24), pose=pose_of(film, "R", roi)).window == (0, 0, film.shape[1], 300)


def test_real_films_keep_their_masses_and_turn_as_they_show():
    """Five real films, reduced (tests/data/cbis_ddsm)."""
    for name, shares in json.loads((SOURCE / "boxes.json").read_text()).items():
        film = film_pixels(name, (512, 320))
        found = find_breast(film)
        assert found is not None
        (x0, y0, x1, y1), right = found
        for share in shares:
            box = box_pixels(share, (512, 320))
            assert x0 <= box[0] and y0 <= box[1] and box[2] <= x1 and box[3] <= y1
        middle = ndimage.center_of_mass(film.astype(float) - film.min())[1]
        assert right == (middle > 160)


@pytest.fixture(scope="module")
def both_sides(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    options = {"exams": {"train": 6, "validation": 3, "test": 3}, "views": 4, "size": 128, "level": "easy"}
    return prepare("phantom", None, options, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("flip", ["breast_left", "right_breasts"])
@pytest.mark.parametrize("crop", ["none", "breast"])
def test_breasts_of_both_sides_come_to_lie_on_one(both_sides: Prepared, flip: str, crop: str) -> None:
    """Flipped once, noted, and boxes and masks with it; left breasts stay as they are."""
    prepared, split = both_sides, both_sides.split()
    roi = Roi.model_validate({"strategy": "whole", "flip": flip, "crop": crop})
    inputs = Inputs((96, 60), "detection", (Stream("train", 4),), roi)
    plain = prepared.training(split, Inputs((96, 60), "detection", (), Roi(strategy="whole", crop=roi.crop))).train
    train = prepared.training(split, inputs).train
    assert set(train.table["laterality"]) == {"L", "R"} and not train.table["no_breast"].any()
    assert (train.table["flipped"] == (train.table["laterality"] == "R")).all() and not plain.table["flipped"].any()
    columns = ["wx0", "wy0", "wx1", "wy1"]
    assert train.table[columns].equals(plain.table[columns])
    assert (train.table["wx1"] - train.table["wx0"] < train.table["width"]).mean() == (1.0 if crop == "breast" else 0.0)
    for i in range(len(train)):
        right = bool(train.table["flipped"][i])
        assert np.array_equal(train.image[i], plain.image[i][:, ::-1] if right else plain.image[i])
        assert np.array_equal(train.mask[i], plain.mask[i][:, ::-1] if right else plain.mask[i])
        assert train.image[i][:, :30].mean() > train.image[i][:, 30:].mean()
        for box in train.boxes[i]:
            x0, y0, x1, y1 = box
            inside = train.mask[i][int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]
            assert (
                inside.sum() > 0.6 * train.mask[i].astype(float).sum() > 0
            )  # the box is the mass without its spicules
        film_boxes = prepared.table.loc[
            (prepared.table["record_id"] == train.table["record_id"][i]) & (prepared.table["kind"] == "mass"),
            ["x0", "y0", "x1", "y1"],
        ].to_numpy()
        row = train.table.iloc[i]
        where = (int(row["wx0"]), int(row["wy0"]), int(row["wx1"]), int(row["wy1"]))
        assert np.allclose(to_film(train.boxes[i], where, (96, 60), right), film_boxes, atol=0.01)
    for batch in batches(train, inputs):  # and not a second time
        for row, image in zip(batch.index, batch.image, strict=True):
            assert np.allclose(image[0].numpy(), train.image[int(row)] / 65535, atol=1e-6)


def test_an_edited_film_stands_as_its_origin_does(tmp_path):
    options = PhantomOptions(exams=Exams(train=4, validation=2, test=3), size=128, counterfactuals=True)
    prepared = prepare("phantom", None, options, tmp_path)
    roi = Roi(strategy="whole", crop="breast", flip="breast_left")
    pixels = prepared.ensure_pixels(PixelSpec(roi, (48, 30), unit="image"))
    index = pd.read_parquet(pixels / "rows.parquet").set_index("record_id")
    films = prepared.table.drop_duplicates("record_id").set_index("record_id")
    edits = films[films["counterfactual_of"] != ""]
    same = ["wx0", "wy0", "wx1", "wy1", "flipped", "grey_low"]
    assert len(edits) > 3
    for name, origin in edits["counterfactual_of"].items():
        assert index.loc[name, same].tolist() == index.loc[origin, same].tolist()
