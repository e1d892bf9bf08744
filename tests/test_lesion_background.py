"""Lesion and Background: the variance by box sums against co-occurrence matrices, and cells whose class is known."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import _glcm as glcm
from models import _lesion_background as lb
from tests.toy import toy_batch, toy_method


def by_matrices(
    image: np.ndarray, window: int, levels: int, mu: str, pool: str, distances: tuple[int, ...] = (1,),
    angles: tuple[glcm.Angle, ...] = (0, 45, 90, 135), symmetric: bool = True, pad: glcm.Pad = "reflect",
) -> np.ndarray:  # fmt: skip
    """The general way: a co-occurrence matrix of every window and direction."""
    half = window // 2
    q = np.pad(glcm.quantised(image, levels), half, mode=pad)
    found = np.zeros(image.shape)
    m = np.arange(levels)[:, None]
    for y, x in np.ndindex(*image.shape):
        part = q[y : y + window, x : x + window]
        counts = []
        for far, angle in product(distances, angles):
            dy, dx = (far * step for step in glcm.DIRECTIONS[angle])
            one = part[max(0, -dy) : window - max(0, dy), max(0, -dx) : window - max(0, dx)]
            other = part[max(0, dy) : window - max(0, -dy), max(0, dx) : window - max(0, -dx)]
            count = np.zeros((levels, levels))
            np.add.at(count, (one.ravel(), other.ravel()), 1)
            counts.append(count + count.T if symmetric else count)
        values = []
        for count in [sum(counts)] if pool == "pooled" else counts:
            p = count / count.sum()
            mean = (m * p).sum() / (levels**2 if mu == "printed" else 1)
            values.append(((m - mean) ** 2 * p).sum())
        found[y, x] = np.mean(values)
    return found


@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 5, 7]), st.sampled_from([2, 8, 32]))
@settings(max_examples=15)
def test_box_sums_are_the_matrices(seed: int, window: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, rng.integers(1, 300), size=(9, 11)).astype(float)
    for mu in ("printed", "standard"):
        for pool in ("pooled", "mean"):
            found = glcm.variance(image, window=window, levels=levels, mu=mu, pool=pool)  # type: ignore[arg-type]
            np.testing.assert_allclose(found, by_matrices(image, window, levels, mu, pool), rtol=1e-9, atol=1e-9)


@given(
    st.integers(0, 2**32 - 1), st.sets(st.integers(1, 4), min_size=1), st.sets(st.sampled_from((0, 45, 90, 135)), min_size=1),
    st.booleans(), st.sampled_from(("reflect", "symmetric", "edge")),
)  # fmt: skip
@settings(max_examples=15)
def test_other_pairs_are_the_matrices_too(
    seed: int, distances: set[int], angles: set[glcm.Angle], symmetric: bool, pad: glcm.Pad
) -> None:
    image = np.random.default_rng(seed).integers(0, 99, size=(8, 9)).astype(float)
    for mu, pool in product(("printed", "standard"), ("pooled", "mean")):
        rules = {"distances": tuple(distances), "angles": tuple(angles), "symmetric": symmetric, "pad": pad}
        found = lb.variance(image, lb.Rules(mu=mu, pool=pool, window=5, levels=8, **rules))  # type: ignore[arg-type]
        np.testing.assert_allclose(found, by_matrices(image, 5, 8, mu, pool, **rules), rtol=1e-9, atol=1e-9)  # type: ignore[arg-type]


def test_a_pair_fits_into_its_window() -> None:
    with pytest.raises(ValueError, match="no pair of distance 5 in a window of 5"):
        glcm.variance(np.zeros((12, 12)), window=5, distances=(5,))


def test_a_region_without_contrast_has_no_variance() -> None:
    assert not glcm.variance(np.full((12, 12), 7.0)).any()
    with pytest.raises(ValueError, match="a window of 8"):
        glcm.variance(np.zeros((12, 12)), window=8)
    with pytest.raises(ValueError, match="less than twice the side"):
        glcm.variance(np.zeros((4, 4)), window=9)


def test_printed_is_bright_inside_and_standard_at_the_rim() -> None:
    """What the two readings of mu mean (Eq. 2)."""
    y, x = np.mgrid[:64, :64]
    radius = np.hypot(y - 32, x - 32)
    disc = (radius < 18) * 200.0 + np.random.default_rng(0).normal(0, 5, (64, 64)) + 30
    printed, standard = glcm.variance(disc), glcm.variance(disc, mu="standard")
    inside, rim, outside = radius < 10, abs(radius - 18) < 3, radius > 28
    assert printed[inside].mean() > 1.3 * printed[rim].mean() > 1.3 * printed[outside].mean()
    assert standard[rim].mean() > 10 * standard[inside].mean()


def brightness(image: Tensor) -> Tensor:
    """A network of 4 x 4 cells that sees the mean grey of each."""
    return torch.nn.functional.avg_pool2d(image, image.shape[2] // 4)


def test_a_cell_is_called_after_the_picture_that_it_is_like() -> None:
    region = torch.zeros(16, 16)
    region[4:12, 4:12] = 1
    lesion, background = region.double().numpy(), 1 - region.double().numpy()
    found = lb.cells_of(brightness, region, (lesion, background))
    want = np.zeros((4, 4), bool)
    want[1:3, 1:3] = True
    # replaced by Lesion nothing changes anywhere; by Background every cell turns round
    assert found.is_lesion.all() and np.allclose(found.to_lesion, 0) and np.allclose(found.to_background, 1 / 16)
    swapped = lb.cells_of(brightness, region, (background, lesion))
    assert not swapped.is_lesion.any()
    mixed = (
        np.where(want.repeat(4, 0).repeat(4, 1), lesion, 0.5),
        np.where(want.repeat(4, 0).repeat(4, 1), 0.5, background * 0),
    )
    assert np.array_equal(lb.cells_of(brightness, region, mixed).is_lesion, want)
    assert np.array_equal(found.activation > 0.5, want)


def test_a_tie_is_background_and_batches_change_nothing() -> None:
    region = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    pictures = lb.pictures(region.double().numpy(), lb.Rules(window=3))
    tied = lb.cells_of(brightness, region, (pictures[0], pictures[0]))
    assert not tied.is_lesion.any()
    one, many = (lb.cells_of(brightness, region, pictures, batch=n) for n in (1, 99))
    np.testing.assert_allclose(one.to_lesion, many.to_lesion, rtol=1e-6)
    with pytest.raises(ValueError, match="no whole number"):
        lb.cells_of(lambda image: brightness(image)[:, :, :3], region, pictures)


# ---- activation and variance of the same cells -------------------------------------------------------------------
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_the_products_of_cells_have_pearsons_r_as_their_mean(seed: int) -> None:
    rng = np.random.default_rng(seed)
    activation, variance = rng.random((3, 4)), rng.random((12, 20))
    product, r = lb.correlation(activation, variance)
    of_cells = variance.reshape(3, 4, 4, 5).mean(axis=(1, 3))
    assert product.shape == (3, 4) and product.mean() == pytest.approx(r)
    assert r == pytest.approx(np.corrcoef(activation.ravel(), of_cells.ravel())[0, 1])
    high = (activation > activation.mean()) == (of_cells > of_cells.mean())
    assert np.array_equal(product > 0, high), "above 0 where both are high or both low"


def test_a_level_map_has_no_correlation() -> None:
    product, r = lb.correlation(np.ones((2, 2)), np.random.default_rng(0).random((4, 4)))
    assert np.isnan(r) and not product.any()
    said = lb.panels(lambda image: brightness(image) * 0 + 1, torch.rand(16, 16), lb.Rules(window=3))[-1]
    assert "no correlation" in said.caption and said.scale == (-1, 1)


def test_the_heat_map_stands_on_a_scale_with_0_in_the_middle() -> None:
    region = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    shown = lb.panels(brightness, region, lb.Rules(window=3))[-1]
    assert shown.signed and shown.map is not None and shown.scale is not None
    assert shown.scale[0] == -shown.scale[1] == -abs(shown.map).max()
    assert f"r = {shown.map.mean():.2f}" in shown.caption


# ---- of any method -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["vgg16", "iaia_bl", "densenet121"])
def test_any_method_with_activations_is_asked(name: str) -> None:
    method, batch = toy_method(name).eval(), toy_batch(3)
    batch.has_mask[1] = False
    assert lb.refusal(method, batch.image) == ""
    cases = lb.explain(method, batch)
    groups = method.activations(batch.image)
    cells = tuple(groups[max(groups)].shape[2:])
    assert [len(case) for case in cases] == [5, 5, 5]
    assert all(panel.map is not None and panel.map.shape == cells for case in cases for panel in case[2:])
    assert [case[2].outline is not None for case in cases] == [True, False, True]


def test_what_cannot_be_asked_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    method, image = toy_method("densenet121").eval(), toy_batch(2).image
    assert "32 x 29 pixels are no whole number of 4 x 3 cells" in lb.refusal(method, image[..., :29])
    wide = toy_method("densenet121", lesion_background={"window": 99}).eval()
    assert "no windows of 99 pixels" in lb.refusal(wide, image)
    monkeypatch.setattr(lb, "MOST_CELLS", 15)
    assert lb.refusal(method, image) == "4 x 4 cells are more than are asked of a case, 15"
    monkeypatch.setattr(type(method), "activations", lambda self, image: {})
    assert "no spatial activations" in lb.refusal(method, image)
