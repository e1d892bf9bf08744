"""Outlines as masks: the even-odd rule, the film's edge, and back again."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from data._polygon import Outline, filled, traced
from data.cache import prepare
from data.dicom import ImageFile
from data.errors import DataError
from data.phantom import Options as Phantom
from data.phantom import exams
from tests.bcdr_tree import line, save


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> ImageFile:
    root = tmp_path_factory.mktemp("film")
    Image.fromarray(np.zeros((14, 12), dtype=np.uint8)).save(root / "film.tif")
    return ImageFile(root, "film.tif")


def outline(film: ImageFile, *points: tuple[float, float]) -> Outline:
    return Outline(points, film, "outlines.csv", 7)


Corner = tuple[int, int]


def by_hand(points: list[Corner], x: int, y: int) -> bool | None:
    """Whether a pixel's centre is inside (crossings of a ray are odd); None on the polygon itself."""
    inside = False
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        side = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
        if side == 0 and min(x0, x1) <= x <= max(x0, x1) and min(y0, y1) <= y <= max(y0, y1):
            return None
        if (y0 > y) != (y1 > y) and (side > 0) == (y1 > y0):
            inside = not inside
    return inside


@given(st.lists(st.tuples(st.integers(-4, 16), st.integers(-4, 18)), min_size=3, max_size=8))
def test_filling_is_the_even_odd_rule(points: list[Corner]) -> None:
    mask = filled(points, (14, 12))
    if mask is None:
        xs, ys = zip(*points, strict=True)
        assert min(xs) < 0 or min(ys) < 0 or max(xs) > 11 or max(ys) > 13
        return
    expected = {(x, y): by_hand(points, x, y) for x in range(12) for y in range(14)}
    assert not [place for place, inside in expected.items() if inside not in (None, bool(mask[place[1], place[0]]))]
    assert all(mask[y, x] for x, y in points if 0 <= x < 12 and 0 <= y < 14)


numbers = st.one_of(st.integers(-30, 30), st.floats(-30, 30), st.floats(-1e9, 1e9), st.integers(-(10**9), 10**9))


@given(points=st.lists(st.tuples(numbers, numbers), min_size=3, max_size=12))
@example(points=[(3, 3)] * 3)
@example(points=[(0.2, 0.2), (0.4, 0.2), (0.3, 0.4)])
def test_an_outline_is_a_mask_of_its_film_or_a_problem(film: ImageFile, points: list[tuple[float, float]]) -> None:
    try:
        mask = outline(film, *points).read()
    except DataError as error:
        assert error.where == "outlines.csv, row 7"
    else:
        assert mask.shape == (14, 12) and mask.dtype == bool and mask.any()


def test_an_outline_is_cut_at_the_films_edge(film: ImageFile) -> None:
    mask = outline(film, (-2, 4), (5, 4), (5, 8), (-2, 8)).read()
    assert mask.sum() == 6 * 5 and mask[4:9, :6].all()


@pytest.mark.parametrize(
    "points", [[(20, 20), (30, 20), (30, 30)], [(-9, 3), (-2, 3), (-2, 9)], [(2, 2), (60, 2), (60, 9)]]
)
def test_an_outline_of_a_larger_film_is_a_problem(points: list[Corner], tmp_path: Path) -> None:
    """As where films were made smaller, and the outlines were not."""
    x, y = (" ".join(str(10 * point[axis]) for point in points) for axis in (0, 1))
    root = save(tmp_path / "own", line(901, 1), line(902, 2, x=x, y=y))
    with pytest.raises(DataError, match=r"outside of its film of 64 x 80 pixels.*outlines\.csv, row 2"):
        prepare("bcdr", root, {"sets": "d01"}, tmp_path / "cache")
    assert prepare("bcdr", root, {"sets": "d01"}, tmp_path / "cache", skip_bad=True).passport["findings"] == 1


@pytest.mark.parametrize("content", [b"", b"II*\0", b"no film"])
def test_a_film_whose_size_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "film.tif").write_bytes(content)
    with pytest.raises(DataError, match=r"size cannot be read.*film\.tif"):
        outline(ImageFile(tmp_path, "film.tif"), (1, 1), (5, 1), (5, 5)).read()
    with pytest.raises(DataError, match=r"size cannot be read.*gone\.tif"):
        outline(ImageFile(tmp_path, "gone.tif"), (1, 1), (5, 1), (5, 5)).read()


def test_a_mask_of_a_large_film_takes_little_memory(tmp_path: Path) -> None:
    Image.new("L", (3328, 4084)).save(tmp_path / "film.tif", compression="tiff_deflate")
    large = outline(ImageFile(tmp_path, "film.tif"), (0, 0), (3327, 0), (3327, 4083), (0, 4083))
    tracemalloc.start()
    try:
        assert large.read().all()
        assert tracemalloc.get_traced_memory()[1] < 5 * 3328 * 4084
    finally:
        tracemalloc.stop()


def test_outlines_tell_their_content(film: ImageFile) -> None:
    one, same, other = (outline(film, (1, 1), (5, 1), (5, last)) for last in (5, 5, 6))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("size", [128, 256])
def test_a_mask_comes_back_from_its_outline(size: int) -> None:
    for exam in exams(Phantom(size=size, exams={"train": 8, "validation": 0, "test": 0})):  # type: ignore[arg-type]
        for record in exam.records():
            for finding in record.findings:
                assert finding.mask is not None
                mask = finding.mask.read()
                again = filled(traced(mask), mask.shape)
                assert again is not None and (mask & again).sum() > 0.9 * (mask | again).sum()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (1, 5), (4, 4)])
def test_a_small_mask_has_an_outline_too(shape: tuple[int, int]) -> None:
    mask = np.zeros((9, 8), dtype=bool)
    mask[2 : 2 + shape[0], 3 : 3 + shape[1]] = True
    again = filled(traced(mask), (9, 8))
    assert len(traced(mask)) >= 3 and again is not None and np.array_equal(again, mask)
