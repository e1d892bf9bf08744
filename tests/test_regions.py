"""Regions of a map (models/_regions.py): the search of paper 004 against its description in loops, crops, pixels."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models._regions import cells_of, crops, greedy_windows, to_pixels


def greedily(total_hw: np.ndarray, window: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """The description, word by word, in loops."""
    left, found = total_hw.copy(), []
    for _ in range(count):
        places = [(i, j) for i in range(left.shape[0] - window[0] + 1) for j in range(left.shape[1] - window[1] + 1)]
        means = [left[i : i + window[0], j : j + window[1]].mean() for i, j in places]
        i, j = places[int(np.argmax(means))]
        left[i : i + window[0], j : j + window[1]] = 0
        found.append((i, j))
    return found


@settings(max_examples=60)
@given(
    st.integers(0, 10_000),
    st.integers(2, 9),
    st.integers(2, 9),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 5),
)
def test_the_search_is_the_one_that_the_paper_describes(
    seed: int, h: int, w: int, wh: int, ww: int, count: int
) -> None:
    window, rng = (min(wh, h), min(ww, w)), np.random.default_rng(seed)
    maps = rng.integers(0, 17, (3, 2, h, w)) / 16.0  # sums are exact, so that a tie is one for both
    maps[:, :, 0, 0], maps[:, :, -1, -1] = 0, 1
    found = greedy_windows(torch.from_numpy(maps), window, count).tolist()
    for one, places in zip(maps, found, strict=True):
        low, high = one.min(axis=(1, 2), keepdims=True), one.max(axis=(1, 2), keepdims=True)
        scaled = np.where(high > low, (one - low) / np.where(high > low, high - low, 1), 0).sum(axis=0)
        assert [tuple(place) for place in places] == greedily(scaled, window, count)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(4, 20), st.integers(4, 20), st.integers(1, 9), st.integers(1, 9))
def test_a_crop_is_the_film_where_there_is_one_and_its_minimum_elsewhere(
    seed: int, h: int, w: int, ch: int, cw: int
) -> None:
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.normal(size=(1, 1, h, w)))
    top, left = int(rng.integers(0, h)), int(rng.integers(0, w))
    [[cut]] = crops(image, torch.tensor([[[top, left]]]), (ch, cw))
    inside = image[0, 0, top : top + ch, left : left + cw]
    rows, columns = inside.shape
    assert torch.equal(cut[ch - rows :, cw - columns :], inside)
    rest = torch.ones(ch, cw, dtype=torch.bool)
    rest[ch - rows :, cw - columns :] = False
    assert bool((cut[rest] == image.min()).all())


def test_regions_lie_on_what_the_map_shows() -> None:
    lit = torch.zeros(1, 1, 16, 10)
    lit[0, 0, 9:12, 4:7] = 1
    window = cells_of((48, 48), (256, 160), (16, 10))
    assert window == (3, 3)
    found = greedy_windows(lit, window, 1)
    assert found.tolist() == [[[9, 4]]] and to_pixels(found, (16, 10), (256, 160)).tolist() == [[[144, 64]]]
