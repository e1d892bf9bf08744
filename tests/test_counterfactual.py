"""Counterfactual faithfulness: closed forms, chance, shams of equal energy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from bench.engine.shams import LEAST_ENERGY, MOST_ON_LESION, sham
from bench.metrics import COUNTERFACTUAL, Frame, compute, over_seeds, unavailable
from bench.metrics.counterfactual import TRAINED, changed, lift, own_logit, region
from tests.toy_frames import samples as toy_samples
from tests.toy_frames import toy_frame, toy_pairs, with_pairs


# ---- measures over a table ------------------------------------------------------------------------------------------
def test_a_random_table_is_at_chance_and_an_effect_is_found() -> None:
    rows = toy_samples(400, 200)
    found = compute(with_pairs(toy_pairs(rows), rows), COUNTERFACTUAL)
    assert set(found) == set(COUNTERFACTUAL)
    for name, chance in {"sign": 0.5, "sign_removed": 0.5, "auroc": 0.5, "lift": 1.0, "spearman": 0.0}.items():
        estimate = found[f"counterfactual_{name}"]
        assert estimate.low < chance < estimate.high, name
    shown = compute(with_pairs(toy_pairs(rows, effect=3.0), rows), COUNTERFACTUAL)
    assert shown["counterfactual_sign"].low > 0.98 > 0.6 > shown["counterfactual_sign_random"].high
    assert shown["counterfactual_auroc"].low > 0.9 > 0.6 > shown["counterfactual_auroc_random"].high


def test_every_number_is_the_plain_formula() -> None:
    rows = toy_samples(60, 30)
    table = toy_pairs(rows, networks=5, effect=0.7)
    removed = table["edit"] == "removed"
    table.loc[removed & table["record_id"].isin(rows["record_id"].iloc[::7]), "sham"] = np.nan
    table.loc[removed & (np.arange(len(table)) % 11 == 0), "delta"] = 0.0
    found = compute(with_pairs(table, rows), COUNTERFACTUAL)
    mine, edited = table[(table["network"] == TRAINED) & removed], table[(table["network"] == TRAINED) & ~removed]
    right = np.concatenate([np.sign(mine["delta"]), np.sign(edited["rise"])]) / 2 + 0.5
    assert found["counterfactual_sign"].value == pytest.approx(right.mean())
    kept = mine[mine["sham"].notna()]
    scores = np.abs(np.concatenate([kept["delta"], kept["sham"]]))
    auroc = found["counterfactual_auroc"]
    assert auroc.value == pytest.approx(roc_auc_score(np.repeat([1, 0], len(kept)), scores))
    assert auroc.n == len(kept) and f"{len(mine) - len(kept)} of {len(mine)} pairs have no sham" in auroc.note
    assert found["counterfactual_lift"].value == pytest.approx(mine["lift"].mean())
    assert found["counterfactual_spearman"].value == pytest.approx(
        spearmanr(mine["lift"], mine["delta"].abs()).statistic
    )
    each = [table[(table["network"] == f"random {i}") & removed]["lift"].mean() for i in range(5)]
    null = found["counterfactual_lift_random"]
    assert (null.value, null.low, null.high) == pytest.approx((np.mean(each), min(each), max(each)))


def test_of_two_classes_the_logit_is_the_difference_and_a_benign_removal_has_no_right_sign() -> None:
    scores = np.array([[1.0, 3.0, 2.0], [4.0, 0.0, 1.0]])
    assert own_logit(scores, np.array([1, 0])).tolist() == [3.0, 4.0]
    assert own_logit(scores[:, :2], np.array([1, 0])).tolist() == [2.0, 4.0]
    rows = toy_samples(40, 20, track="malignancy")
    table = toy_pairs(rows, track="malignancy")
    frame = with_pairs(table, rows, "malignancy")
    found, malignant = compute(frame, COUNTERFACTUAL), rows["malignant"].to_numpy() == 1
    right = (table.loc[table["network"] == TRAINED, "delta"].to_numpy() > 0)[malignant]
    assert found["counterfactual_sign"].value == pytest.approx(right.mean())
    assert found["counterfactual_sign"].n == malignant.sum() < len(rows) == found["counterfactual_lift"].n
    assert "counterfactual_sign_exchanged" not in found


def test_pairs_go_through_files_seeds_folds_and_subsets(tmp_path: Path) -> None:
    rows = toy_samples(40, 20)
    seeds = [with_pairs(toy_pairs(rows, seed=seed, effect=1.0), rows, seed=seed) for seed in (1, 2)]
    again = Frame.load(seeds[0].save(tmp_path / "frame"))
    assert compute(again, COUNTERFACTUAL) == compute(seeds[0], COUNTERFACTUAL)
    joint = over_seeds(seeds, ["counterfactual_sign"])["counterfactual_sign"]
    assert joint.value == pytest.approx(np.mean([compute(f)["counterfactual_sign"].value for f in seeds]))
    assert "2 seeds" in joint.interval
    first = np.arange(len(rows)) < 20
    parts = [seeds[0].rows(first), seeds[0].rows(~first)]
    assert compute(parts[0])["counterfactual_lift"].n == 20
    for fold, part in enumerate(parts):
        part.predictions["fold"] = fold
        ids = set(part.predictions["record_id"])
        part.counterfactual = part.counterfactual[part.counterfactual["record_id"].isin(ids)]
    folds = compute(Frame.joined(parts))["counterfactual_lift"]
    assert folds.value == pytest.approx(np.mean([compute(part)["counterfactual_lift"].value for part in parts]))


def test_a_frame_without_pairs_says_so() -> None:
    frame = toy_frame()
    assert not compute(frame, COUNTERFACTUAL)
    assert set(unavailable(frame, ["counterfactual_sign", "counterfactual_auroc_random"]).values()) == {
        "the frame has no counterfactual pairs"
    }


# ---- regions, lift, shams -------------------------------------------------------------------------------------------
def test_the_region_is_the_change_and_one_cell_around_it() -> None:
    film = np.full((32, 48), 0.5)
    copy = film.copy()
    copy[16, 20] = 0.4
    copy[0, 0] = 0.5 + 0.4 / 255  # less than half a grey level
    inside = region(changed(film, copy), (8, 8))  # cells of 4 x 6 pixels
    rows, columns = np.nonzero(inside)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 20, 14, 26) and inside.sum() == 9 * 13
    hot = np.zeros((32, 48))
    hot[10:22, 12:20] = np.linspace(1, 2, 96).reshape(12, 8)
    value, area = lift(hot, changed(film, copy))
    assert area == pytest.approx(3 * 3 / (32 * 48)), "a cell of a map of the input's size is a pixel"
    assert value == pytest.approx((3 / 77) / area), (
        "the top 5 % are 77 pixels; 3 of them lie on the 3 x 3 of the change"
    )
    assert lift(np.ones((8, 8)), changed(film, copy))[0] == pytest.approx(1), "a flat map is active everywhere"
    assert np.isnan(lift(hot, changed(film, film))).all()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([24, 40, 64]),
    radius=st.floats(0.05, 0.4),
    grey=st.floats(0.2, 0.95),
)
def test_a_sham_has_the_lesions_area_and_energy_elsewhere(seed: int, size: int, radius: float, grey: float) -> None:
    rng = np.random.default_rng(seed)
    bare = np.clip(grey + 0.05 * rng.standard_normal((size, size)), 0, 1)
    y, x = np.mgrid[:size, :size] / size - 0.5
    mass = 0.2 * (np.hypot(y - rng.uniform(-0.1, 0.1), x) < radius) * rng.uniform(0.5, 1, (size, size))
    film = np.clip(bare + mass, 0, 1)
    made = sham(film, bare, "record", "finding")
    difference = np.where(changed(film, bare), film - bare, 0)
    if made is None:
        return
    added, energy = made - film, (difference**2).sum()
    assert made.min() >= 0 and made.max() <= 1 and energy > 0
    assert LEAST_ENERGY * energy * (1 - 1e-4) <= (added**2).sum() <= energy * (1 + 1e-4)
    assert (added > 1e-6).sum() <= (difference != 0).sum() and (added > -1e-6).all()
    free = made < 1 - 1e-6  # where nothing was cut off
    assert np.isin(added[free].round(4), [0, *difference.round(4).ravel()]).mean() > 0.97, "the very same differences"
    # what falls on the lesion itself is bounded before cutting off, which only takes away
    assert (added[difference != 0] ** 2).sum() <= (MOST_ON_LESION + 1e-4) * energy
    again = sham(film, bare, "record", "finding")
    assert again is not None and np.array_equal(again, made)


def test_where_no_place_fits_there_is_no_sham() -> None:
    bare = np.full((16, 16), 0.5)
    assert sham(bare, bare, "same") is None
    assert sham(bare + 0.2, bare, "fills the crop") is None
    dark = np.zeros((16, 16))
    dark[4:12, 4:12] = 0.5
    film = dark.copy()
    film[5:11, 5:11] += 0.2
    assert sham(film, dark, "no breast beside it") is None
