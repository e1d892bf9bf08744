"""Windows around a finding, and what is cut from them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.inputs import Roi
from data.roi import cut, grey_limits, to_crop, to_film, window

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
