"""Pointing game, energy in mask and blind maps: closed forms, what a frame gives, and laws."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import metrics
from bench.metrics import Frame, MapBuilder, MapTable, combine, explain, pack_masks
from bench.metrics.maps import UNTRAINED
from tests.toy_frames import mapped_frame, samples, toy_frame, value_of

LOCATED = [name for name in metrics.METRICS if name.startswith(("pointing_game", "energy_in_mask"))]


def score(name: explain.Score, one: np.ndarray, mask: np.ndarray) -> float:
    return float(explain.precision(explain.reading(one[None].astype(float))[name], mask[None].astype(float))[0])


# ---- closed forms ---------------------------------------------------------------------------------------------------
def test_the_pointing_game_is_where_the_maximum_lies() -> None:
    mask = np.zeros((6, 8))
    mask[1:3, 2:5] = 1
    one = np.zeros((6, 8))
    one[2, 4] = 1
    assert score("pointing_", one, mask) == 1
    one[5, 5] = 2
    assert score("pointing_", one, mask) == 0
    one[1, 2] = 2
    assert score("pointing_", one, mask) == 0.5, "two are equally high, one on the mask"
    one[0, 0] = one[0, 1] = 2
    assert score("pointing_", one, mask) == 0.25
    assert score("pointing_", np.full((6, 8), 0.3), mask) == pytest.approx(mask.mean()), "a flat map has no place"
    one = np.zeros((6, 8))
    one[1, 1] = 1
    mask[1, 1] = 0.4
    assert score("pointing_", one, mask) == pytest.approx(0.4), "fractions of masks count as fractions"


def test_ties_by_rounding_are_ties() -> None:
    mask = np.zeros((4, 4))
    mask[0] = 1
    one = np.zeros((4, 4))
    one[0, 0], one[3, 3] = 1.0, 1.0 - 1e-15
    assert score("pointing_", one, mask) == 0.5
    one[3, 3] = 1.0 - 1e-6
    assert score("pointing_", one, mask) == 1.0


def test_energy_is_the_share_of_what_is_positive() -> None:
    mask = np.zeros((5, 4))
    mask[:2, :2] = 1
    one = np.where(mask > 0, 3.0, 1.0)
    assert score("energy_", one, mask) == pytest.approx(3 * 4 / (3 * 4 + 16))
    assert score("energy_", 7 * one, mask) == pytest.approx(12 / 28), "no unit"
    assert score("energy_", one - 2, mask) == 1, "what is negative does not count"
    assert score("energy_", -one, mask) == pytest.approx(mask.mean()), "without a positive value it is flat"
    floor = [score("energy_", one + add, mask) for add in (0, 1, 10, 1000)]
    assert floor == sorted(floor, reverse=True)
    assert floor[-1] == pytest.approx(mask.mean(), abs=1e-3), "a floor makes it blind"
    assert len({score(name, one + add, mask) for add in (0, 10) for name in ("", "pointing_")}) == 1


def test_the_centre_prior_points_at_the_middle_of_even_and_odd_images() -> None:
    for size in (6, 7):
        mask = np.zeros((size, size))
        mask[: size // 2] = 1  # the upper half: of an even image it holds two of the four middle pixels
        centre = explain.blind_maps((size, size))["centre"]
        assert score("pointing_", centre, mask) == (0.5 if size % 2 == 0 else 0.0)
        assert centre.min() > 0 and np.argmax(centre.max(axis=0)) in (size // 2 - 1, size // 2)


# ---- what a frame gives ---------------------------------------------------------------------------------------------
def test_maps_on_the_lesion_point_at_it_and_keep_their_energy_there() -> None:
    found = metrics.compute(mapped_frame(on_lesion=True))
    for name in ("pointing_game_lesion", "pointing_game_lesion_predicted", "energy_in_mask_lesion"):
        assert found[name].value == pytest.approx(1.0), name
        assert found[name].n == 24
    patients = mapped_frame().predictions["patient"].nunique()
    assert found["pointing_game_lesion"].low == pytest.approx(combine.wilson(1.0, patients)[0])
    assert found["pointing_game_fine"].n == 8
    assert found["pointing_game_fine"].value == pytest.approx(found["energy_in_mask_fine"].value, abs=1e-3)


def test_they_are_means_over_the_pairs_that_activation_precision_is_taken_over() -> None:
    frame = mapped_frame()
    pairs = explain.pair_table(frame)
    own = pairs[pairs["of"].isin(["true", "both"])]
    assert value_of(frame, "pointing_game_lesion") == pytest.approx(own["pointing_lesion"].mean())
    assert value_of(frame, "energy_in_mask_lesion") == pytest.approx(own["energy_lesion"].mean())
    assert value_of(frame, "energy_in_mask_fine") == pytest.approx(own["energy_fine"].mean())
    predicted = pairs[pairs["of"].isin(["predicted", "both"])]
    for scale in explain.SCALES:
        want = predicted[f"pointing_{scale}"].mean()
        assert value_of(frame, f"pointing_game_{scale}_predicted") == pytest.approx(want)


def test_the_best_blind_map_stands_beside_each_score() -> None:
    frame = mapped_frame(rows=60)
    pairs = explain.pair_table(frame)
    own = pairs[pairs["of"].isin(["true", "both"])]
    found = metrics.compute(frame, LOCATED)
    for score_, name in (("pointing_", "pointing_game"), ("energy_", "energy_in_mask")):
        blind = [own["share_lesion"].mean(), *(own[f"{score_}{b}_lesion"].mean() for b in ("centre", *explain.DRAWN))]
        estimate = found[f"{name}_blind_lesion"]
        assert estimate.value == pytest.approx(max(blind))
        assert all(
            f"{words} {value:.3f}" in estimate.note for words, value in zip(explain.BLIND.values(), blind, strict=False)
        )
        assert estimate.low is not None and estimate.low < max(blind)
    share = own["share_lesion"].mean()
    assert 0.5 * share < found["energy_in_mask_lesion"].value < 1.2 * share, "noise of min-max 0 to 1 is nearly blind"


def test_without_maps_the_blind_values_are_means_over_images() -> None:
    frame = replace(mapped_frame(), maps=None, _cache={})
    found, missing = metrics.compute(frame), metrics.unavailable(frame)
    assert found["pointing_game_blind_lesion"].n == 24
    assert missing["pointing_game_lesion"] == "the frame has no maps"
    assert "untrained copy" in missing["blind_random_lesion"]
    bare = replace(frame, masks=pack_masks(frame.predictions), _cache={})
    assert metrics.unavailable(bare)["energy_in_mask_blind_fine"] == "the frame has no masks"


# ---- the same network with random weights ---------------------------------------------------------------------------
def with_untrained(
    frame: Frame, maps: np.ndarray, sources: int = 1, rows: int | None = None, of: str = "true"
) -> Frame:
    """The frame with maps (N, h, w) of an untrained copy, whose entries come first, for the first `rows` rows."""
    table = frame.predictions.iloc[: rows or len(frame.predictions)]
    builder = MapBuilder()
    name = explain.chosen_map(frame)
    ids = [table[key].tolist() for key in ("record_id", "finding_id")]
    for j in range(sources):
        shifted = np.roll(maps[: len(table)], j, axis=2)
        source = f"prototype {j}" if name == "evidence" else ""
        builder.add(UNTRAINED + name, shifted, *ids, table["label"].tolist(), [of] * len(table), source)
    made = builder.table()
    assert made is not None and frame.maps is not None
    found = replace(frame, maps=MapTable.joined([made, frame.maps]), meta=dict(frame.meta), _cache={})
    found.validate()
    return found


def test_random_weights_enter_the_best_blind_map() -> None:
    frame = mapped_frame(rows=40)
    assert frame.masks is not None
    lesion = frame.masks["lesion"] / 255.0
    rng = np.random.default_rng(2)
    good = lesion * (1 + rng.random(lesion.shape)) + 0.3 * rng.random(lesion.shape)
    good[:3] = rng.random(good[:3].shape)
    both = with_untrained(frame, good, sources=3)
    assert explain.chosen_map(both) == "evidence", "the untrained copy is never what is judged"
    assert value_of(both, "activation_precision_lesion") == value_of(frame, "activation_precision_lesion")
    images = np.stack([explain.precision(explain.most_active(np.roll(good, j, axis=2)), lesion) for j in range(3)])
    per_image = pd.Series(images.mean(axis=0), index=frame.predictions["record_id"])
    pairs = explain.pair_table(frame)
    own = pairs[pairs["of"].isin(["true", "both"])]
    want = per_image.loc[own["record_id"]].mean()  # weighted as the method's own pairs
    assert value_of(both, "blind_random_lesion") == pytest.approx(want, abs=2e-3)  # the maps are kept as float16
    skill = metrics.compute(both, ["skill_lesion"])["skill_lesion"]
    value, random = value_of(both, "activation_precision_lesion"), value_of(both, "blind_random_lesion")
    assert skill.note.startswith("best blind map: random"), skill.note
    assert skill.value == pytest.approx((value - random) / (1 - random))
    assert value_of(both, "skill_lesion") < value_of(frame, "skill_lesion")
    assert "random weights" in metrics.compute(both, ["pointing_game_blind_lesion"])["pointing_game_blind_lesion"].note
    assert value_of(both, "blind_random_fine") >= 0


def test_where_random_weights_find_the_lesion_there_is_no_skill() -> None:
    frame = mapped_frame()
    assert frame.masks is not None
    both = with_untrained(frame, frame.masks["lesion"] / 255.0)
    assert "random already reaches 1.000" in metrics.unavailable(both)["skill_lesion"]


def test_an_untrained_copy_that_saw_some_rows_alone_is_left_out() -> None:
    frame = mapped_frame()
    some = with_untrained(frame, np.random.default_rng(0).random((24, 7, 7)), rows=11)
    assert "untrained copy" in metrics.unavailable(some)["blind_random_lesion"]
    before, after = (metrics.compute(one, ["skill_lesion"])["skill_lesion"] for one in (frame, some))
    assert before == after and "no untrained copy" in after.note


def test_a_track_of_other_classes_is_judged_by_the_predicted_one() -> None:
    """Malignancy by a network of margins: maps are those of the margin that it predicts."""
    rng = np.random.default_rng(4)
    table = samples(30, 30, track="malignancy")
    lesion = np.zeros((30, 12, 12))
    lesion[:, 3:8, 3:8] = 1
    builder = MapBuilder()
    ids = [table[key].tolist() for key in ("record_id", "finding_id")]
    for prefix in ("", UNTRAINED):
        builder.add(prefix + "cav", rng.random((30, 6, 6)), *ids, rng.integers(0, 3, 30), ["predicted"] * 30)
    frame = toy_frame(table=table, track="malignancy", maps=builder.table(), masks=pack_masks(table, lesion))
    found, missing = metrics.compute(frame), metrics.unavailable(frame)
    assert {"pointing_game_lesion_predicted", "energy_in_mask_lesion_predicted", "blind_random_lesion"} <= set(found)
    assert found["blind_random_lesion"].value != found["activation_precision_lesion_predicted"].value
    assert {"pointing_game_lesion", "energy_in_mask_lesion", "skill_lesion"} <= set(missing)


def test_seeds_that_keep_different_blind_maps_still_have_a_mean() -> None:
    frames = [mapped_frame(0), mapped_frame(1, images=False), with_untrained(mapped_frame(2), np.ones((24, 5, 5)))]
    names = ["skill_lesion", "pointing_game_blind_lesion"]
    found = metrics.over_seeds(frames, names)
    for name in names:
        assert found[name].value == pytest.approx(np.mean([value_of(frame, name) for frame in frames]))
        assert found[name].low is not None
    assert "blind_sobel_lesion" not in metrics.over_seeds(frames, ["blind_sobel_lesion"])


# ---- laws -----------------------------------------------------------------------------------------------------------
TURNS = {"lr": np.s_[:, :, ::-1], "ud": np.s_[:, ::-1, :], "both": np.s_[:, ::-1, ::-1]}


def turned(frame: Frame, how: str) -> Frame:
    """Images, masks and maps of the frame, flipped together, or all turned by a quarter."""

    def turn(stack: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(stack, axes=(1, 2)) if how == "quarter" else stack[TURNS[how]])

    assert frame.maps is not None and frame.masks is not None
    maps = MapTable(frame.maps.entries, {key: turn(stack) for key, stack in frame.maps.stacks.items()})
    masks = {key: turn(value) if value.ndim == 3 else value for key, value in frame.masks.items()}
    return replace(frame, maps=maps, masks=masks, _cache={})


@given(st.integers(0, 10**6), st.sampled_from([*TURNS, "quarter"]))
@settings(max_examples=25)
def test_nothing_changes_when_image_mask_and_map_flip_together(seed: int, how: str) -> None:
    frame = with_untrained(mapped_frame(seed, rows=10), np.random.default_rng(seed).random((10, 7, 7)))
    before, after = explain.pair_table(frame), explain.pair_table(turned(frame, how))
    names = ["pixels", *(c for c in before.columns if c.endswith(explain.SCALES))]
    assert {"pointing_sobel_fine", "energy_random_lesion", "energy_lesion", "centre_fine"} <= set(names)
    assert before[names].to_numpy() == pytest.approx(after[names].to_numpy(), abs=1e-9, nan_ok=True)


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_a_map_that_is_stretched_points_and_covers_as_before(seed: int) -> None:
    """Pointing game and activation precision know the order of a map's values alone; energy knows their ratios."""
    rng = np.random.default_rng(seed)
    one, mask = rng.random((9, 9)), (rng.random((9, 9)) < 0.3).astype(float)
    assert score("pointing_", one, mask) == score("pointing_", np.exp(3 * one), mask)
    assert score("", one, mask) == score("", 5 * one + 2, mask)
    assert score("energy_", one, mask) == pytest.approx(score("energy_", 5 * one, mask))
