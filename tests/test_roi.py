"""Windows around a finding, and what is cut from them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data._store import VERSION, PixelSpec, hash_of
from data.cache import Opening, Prepared, prepare
from data.inputs import Inputs, Roi, Stream
from data.loading import batches
from data.roi import Jitter, cut, grey_limits, jitter_of, to_crop, to_film, window
from data.samples import Samples
from tests import toy_films  # noqa: F401 - registers the data set
from tests.roi_boxes import FILM, boxes, rules


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


@settings(max_examples=60)
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
