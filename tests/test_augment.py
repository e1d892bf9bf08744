"""Image, masks and boxes move together, by the distribution that was asked for."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augment import _draw_paper002, augment, cached_margin, centre, turn
from data.inputs import Augment

SIZE = (40, 40)


def block(x0: int, y0: int, w: int, h: int, shape: tuple[int, int] = SIZE):
    mask = np.zeros((2, *shape), np.uint8)
    mask[:, y0 : y0 + h, x0 : x0 + w] = 255
    image = np.where(mask[:1] > 0, 50000, 20000).astype(np.uint16)
    return image, mask, np.array([[x0, y0, min(x0 + w, shape[1]), min(y0 + h, shape[0])]], np.float32)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 30), st.integers(0, 30), st.integers(4, 12), st.integers(4, 12), st.integers(0, 10**6),
    st.sampled_from(["none", "turns", "window_turns"]), st.sampled_from([(40, 40), (40, 32)]),
)  # fmt: skip
def test_image_mask_and_box_move_together(x, y, w, h, seed, recipe, size):
    spec = Augment(recipe=recipe)
    margin = cached_margin(spec)
    image, masks, boxes = block(x, y, w, h, (round(size[0] * margin), round(size[1] * margin)))
    image, masks, boxes = augment(image, masks, boxes, spec, size, np.random.default_rng(seed))
    assert image.shape == (1, *size) and masks.shape == (2, *size)
    assert np.array_equal(image[0] == 50000, masks[0] == 255) and np.array_equal(masks[0], masks[1])
    x0, y0, x1, y1 = boxes[0].astype(int)
    expected = np.zeros(size, bool)
    expected[y0:y1, x0:x1] = True
    assert np.array_equal(masks[0] == 255, expected)


@settings(max_examples=80, deadline=None)
@given(st.integers(8, 20), st.integers(8, 20), st.integers(6, 14), st.integers(0, 10**6))
def test_paper002_moves_them_together(x, y, w, seed):
    image, masks, boxes = block(x, y, w, 8)
    varied, moved, box = augment(image, masks, boxes, Augment(recipe="paper002"), SIZE, np.random.default_rng(seed))
    grey, lesion = varied[0].astype(float), moved[0] / 255.0
    assert varied.dtype == np.uint16 and moved.dtype == np.uint8
    # inside the canvas the image is 20000 + 30000 x lesion; outside it is 0, and no lesion
    inside = grey > 19000
    assert np.abs(grey - 20000 - 30000 * lesion)[inside].max() < 2000
    assert lesion[grey < 100].max(initial=0) < 0.01
    rows, columns = np.nonzero(lesion > 0.5)
    if len(rows):
        x0, y0, x1, y1 = box[0]
        assert (
            x0 - 1 <= columns.min()
            and columns.max() + 1 <= x1 + 1
            and y0 - 1 <= rows.min()
            and rows.max() + 1 <= y1 + 1
        )


@given(st.integers(0, 3), st.booleans())
def test_states_of_the_square_keep_every_pixel(quarter, mirror):
    image = np.arange(12.0).reshape(1, 3, 4)
    out, _, _ = turn(image, image, np.zeros((0, 4)), quarter, mirror)
    assert sorted(out.ravel()) == sorted(image.ravel())
    expected = np.rot90(image[0, :, ::-1] if mirror else image[0], quarter)
    assert np.array_equal(out[0], expected)


def test_the_eight_states_are_equally_likely():
    image = np.arange(16, dtype=np.uint16).reshape(1, 4, 4)
    rng = np.random.default_rng(0)
    seen = Counter(
        augment(image, image, np.zeros((0, 4)), Augment(recipe="turns"), (4, 4), rng)[0].tobytes() for _ in range(4000)
    )
    assert len(seen) == 8
    assert max(abs(count - 500) for count in seen.values()) < 90  # 4 standard deviations


def test_windows_are_uniform_and_the_centre_is_one_of_them():
    image = np.arange(144, dtype=np.uint16).reshape(1, 12, 12)
    rng = np.random.default_rng(0)
    none: np.ndarray = np.zeros((0, 4))
    corners = Counter()
    for _ in range(3000):
        corners[int(augment(image, image, none, Augment(recipe="window_turns"), (10, 10), rng)[0].min())] += 1
    assert set(corners) == {0, 1, 2, 12, 13, 14, 24, 25, 26}
    assert max(abs(count - 3000 / 9) for count in corners.values()) < 75
    assert centre(image, image, none, (10, 10))[0].min() == 13


def test_paper002_draws_what_the_paper_says():
    rng = np.random.default_rng(1)
    draws = [_draw_paper002(100, 100, rng) for _ in range(4000)]
    scale = np.array([abs(np.linalg.det(to_source[:2, :2])) for to_source, _ in draws])
    assert np.allclose(scale, 1)  # rotation, flips and turns only: the canvas grows, pixels do not
    mirrored = np.mean([np.linalg.det(to_source[:2, :2]) < 0 for to_source, _ in draws])
    assert mirrored == pytest.approx(0.5, abs=0.04)  # one of two flips, not both
    upright = [canvas for to_source, canvas in draws if np.allclose(np.abs(to_source[:2, :2]).max(axis=0), 1)]
    assert len(upright) / 4000 == pytest.approx(0.1 + 0.9 / 90, abs=0.02)  # unrotated, or by the angle 0
    assert np.mean([canvas[0] == 90 for canvas in upright]) == pytest.approx(0.8, abs=0.08)
    angles = np.degrees([np.arctan2(abs(m[1, 0]), abs(m[0, 0])) for m, _ in draws])
    assert np.allclose(angles, np.round(angles))
    for to_source, canvas in draws[:50]:  # the canvas holds all of the crop, centre on centre
        middle = to_source @ np.array([canvas[1] / 2, canvas[0] / 2, 1])
        assert np.all(np.abs(middle[:2] - 50) <= 5 + 1e-6)


def test_paper002_rejects_what_is_nearly_black():
    image = np.zeros((1, *SIZE), np.uint16)
    image[:, :, 29:] = 30000  # 72 % black: with the corners that a rotation adds more than 80 %
    rng = np.random.default_rng(0)
    black = []
    for _ in range(200):
        varied = augment(image, image.astype(np.uint8), np.zeros((0, 4)), Augment(recipe="paper002"), SIZE, rng)[0]
        black.append((np.round(varied / 65535, 2) == 0).mean())
    assert max(black) < 0.8
    assert max(black) > 0.6
    dark = np.zeros((1, *SIZE), np.uint16)  # rejected every time: taken as it is
    assert not augment(dark, dark.astype(np.uint8), np.zeros((0, 4)), Augment(recipe="paper002"), SIZE, rng)[0].any()


def test_it_depends_on_the_generator_alone():
    sample = block(10, 12, 9, 7, (48, 48))
    for recipe in ("turns", "window_turns", "paper002"):
        spec = Augment(recipe=recipe)
        first, second = (augment(*sample, spec, SIZE, np.random.default_rng(5)) for _ in range(2))
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_window_turns_cost_little():
    sample = block(10, 12, 9, 7, (77, 77))
    rng, spec = np.random.default_rng(0), Augment(recipe="window_turns")
    best = np.inf
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(200):
            augment(*sample, spec, (64, 64), rng)
        best = min(best, time.perf_counter() - started)
    assert best / 200 < 100e-6
