"""Windows of bbox_overlap: nine tenths of the box, kept by the finding."""

import numpy as np
import pytest

from data._store import PixelSpec
from data.cache import prepare
from data.errors import ConfigError
from data.inputs import Augment, Inputs, Roi, Stream
from data.loading import batches
from data.roi import OVERLAP, overlap_corners, to_crop, window
from tests import toy_films  # noqa: F401 - registers the data set
from tests.roi_boxes import FILM

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
        ConfigError, match=r"bbox_overlap draws the window, and so does this recipe \(augment.recipe: noisy_window"
    ):
        Inputs((40, 40), "margin", (), Roi(strategy="bbox_overlap"), Augment(recipe="noisy_window"))
