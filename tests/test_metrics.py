"""The bootstrap, agreement, calibration and activation precision, against closed forms and published examples."""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import brier_score_loss, cohen_kappa_score, confusion_matrix

from bench import metrics
from bench.metrics import Frame, MapBuilder, agreement, auroc, bootstrap, combine, explain, pack_masks, parts
from bench.metrics.seeds import generator
from data.errors import ConfigError, DataError
from data.tracks import TRACKS
from tests.toy_frames import mapped_frame, samples, toy_frame

ROOT = Path(__file__).parent.parent


def one_each(right: np.ndarray, patients: np.ndarray) -> parts.Part:
    rows = np.stack([right, np.ones(len(right))], axis=1)
    zeros = np.zeros(len(right), int)
    return parts.part_of_totals(rows, patients, zeros, zeros, agreement.ratio, n=len(right))


# ---- bootstrap ------------------------------------------------------------------------------------------------------
@given(st.integers(5, 40), st.integers(0, 1000))
@settings(max_examples=15)
def test_patient_bootstrap_of_one_image_each_is_the_plain_bootstrap(count: int, seed: int) -> None:
    value = np.random.default_rng(seed).random(count)
    totals = one_each(value, np.array([f"{i:03d}" for i in range(count)])).totals
    assert totals is not None
    drawn = generator("patient bootstrap", count, bootstrap.RESAMPLES).integers(0, count, (bootstrap.RESAMPLES, count))
    assert bootstrap.resample(totals) == pytest.approx(value[drawn].mean(axis=1), abs=1e-12)


def test_weights_count_patients_and_depend_on_their_name_alone() -> None:
    drawn = bootstrap.weights(37)
    assert (drawn.sum(axis=1) == 37).all()
    bootstrap.weights.cache_clear()
    assert (bootstrap.weights(37) == drawn).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(37), abs=0.08)
    assert generator("a", 1).integers(10**9) != generator("a", 2).integers(10**9)


def test_bca_agrees_with_scipy_on_a_skewed_mean() -> None:
    value = np.random.default_rng(3).exponential(size=60)
    totals = one_each(value, np.arange(60)).totals
    assert totals is not None
    low, high = bootstrap.bca(totals.full(), bootstrap.resample(totals, 40000), totals.jackknife())
    want = stats.bootstrap((value,), np.mean, n_resamples=40000, rng=np.random.default_rng(0)).confidence_interval
    assert (low, high) == pytest.approx((want.low, want.high), abs=0.01)


def test_the_bootstrap_is_fast_enough_for_every_metric_of_500_patients() -> None:
    frame = toy_frame(table=samples(900, 600))
    bootstrap.weights.cache_clear()
    start = time.perf_counter()
    found = metrics.compute(frame, ["kappa"])
    took = time.perf_counter() - start
    assert found["kappa"].low is not None
    assert took < 3  # about 0.3 s on an idle core


def test_clustering_widens_the_interval_of_accuracy() -> None:
    right = np.repeat(np.random.default_rng(0).random(40) < 0.7, 3).astype(float)
    wide = combine.estimate([one_each(right, np.repeat(np.arange(40), 3))])
    narrow = combine.estimate([one_each(right, np.arange(120))])
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    quick = combine.quick_proportion(one_each(right, np.repeat(np.arange(40), 3)))
    assert (quick.low, quick.high) == pytest.approx((wide.low, wide.high), abs=0.03)


def test_wilson_as_in_newcombe_1998() -> None:
    assert combine.wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_a_perfect_accuracy_has_an_interval() -> None:
    frame = toy_frame(skill=50)
    found = metrics.compute(frame, ["accuracy", "kappa"])
    patients = frame.predictions["patient"].nunique()
    assert found["accuracy"].low == pytest.approx(combine.wilson(1.0, patients)[0])
    assert found["kappa"].value == 1
    assert found["kappa"].low is None
    assert "do not vary" in found["kappa"].note


# ---- agreement and calibration --------------------------------------------------------------------------------------
def test_kappa_and_ac1_of_published_tables() -> None:
    assert agreement.kappa(np.array([[20.0, 5], [10, 15]])).value == pytest.approx(0.4)
    skewed = np.array([[118.0, 5], [2, 0]])  # Gwet: 94 % agreement that kappa calls none
    assert agreement.kappa_value(skewed) == pytest.approx(-0.0234, abs=5e-4)
    assert agreement.ac1_value(skewed) == pytest.approx(0.9408, abs=5e-5)


@pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
def test_a_frames_kappa_is_scikit_learns(weights: agreement.Weights) -> None:
    frame = toy_frame()
    want = cohen_kappa_score(frame.labels, frame.predicted, weights=None if weights == "none" else weights)
    assert agreement.kappa_part(frame, weights).value == pytest.approx(want)


def test_confusion_is_a_table_of_counts() -> None:
    frame = toy_frame()
    table = metrics.confusion(frame)
    assert (table.to_numpy() == confusion_matrix(frame.labels, frame.predicted)).all()
    assert list(table.index) == list(frame.classes)
    found = metrics.compute(frame, ["balanced_accuracy", "accuracy"])
    shares = np.diag(table) / table.sum(axis=1)
    assert found["balanced_accuracy"].value == pytest.approx(shares.mean())
    assert found["accuracy"].value == pytest.approx(np.trace(table) / table.to_numpy().sum())


def test_brier_and_calibration_error_in_closed_form() -> None:
    table = samples(400, 400, track="malignancy")
    label = table["malignant"].to_numpy()
    p = np.where(label == 1, 0.75, 0.35)
    frame = Frame.build(table, "malignancy", np.stack([0 * p, p], 1), np.stack([1 - p, p], 1), side="test", seed=0)
    found = metrics.compute(frame, ["brier", "ece"])
    assert found["ece"].low <= found["ece"].value <= found["ece"].high, "upward biased: BCa's would lie below it"
    assert found["brier"].value == pytest.approx(brier_score_loss(label, p))
    assert found["ece"].value == pytest.approx(np.mean(np.where(label == 1, 0.25, 0.35)))


def test_calibration_bins_are_closed_on_the_right_with_zero_in_the_first() -> None:
    edges = np.array([0, 1e-9, 1 / 15, 0.2, 0.2000001, 0.5, 1.0])
    assert agreement.bins(edges).tolist() == [0, 0, 0, 2, 3, 7, 14]
    assert agreement.bins(edges, "left").tolist() == [0, 0, 1, 3, 3, 7, 14]


# ---- activation precision -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cells", [(14, 14), (7, 9), (1, 1), (64, 50)])
@pytest.mark.parametrize("pixels", [(224, 224), (33, 20)])
def test_upsampling_is_torchs(cells: tuple[int, int], pixels: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(0).random((2, *cells))
    want = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[:, None], pixels, mode="bilinear", align_corners=False
    )
    assert explain.upsample(maps, pixels) == pytest.approx(want[:, 0].numpy(), abs=1e-12)


@given(st.integers(0, 10**6), st.sampled_from(["lr", "ud", "both", "turn"]))
@settings(max_examples=25)
def test_precision_does_not_change_when_image_mask_and_map_flip_together(seed: int, how: str) -> None:
    rng = np.random.default_rng(seed)
    maps, masks, image = rng.random((3, 6, 6)), rng.random((3, 24, 24)), rng.integers(0, 256, (24, 24))
    turns = {"lr": np.fliplr, "ud": np.flipud, "both": lambda a: np.flipud(np.fliplr(a)), "turn": np.rot90}

    def precision(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
        return explain.precision(explain.most_active(explain.upsample(maps, (24, 24))), masks)

    flipped = [np.stack([turns[how](a) for a in stack]) for stack in (maps, masks)]
    assert precision(*flipped) == pytest.approx(precision(maps, masks), abs=1e-12)
    blind = explain.blind_maps((24, 24), turns[how](image))
    for name, want in explain.blind_maps((24, 24), image).items():
        assert blind[name] == pytest.approx(turns[how](want), abs=1e-9)


def test_a_map_on_the_lesion_is_precise_and_a_flat_one_gets_the_masks_share() -> None:
    mask = np.zeros((1, 20, 20))
    mask[0, 5:10, 5:13] = 1
    assert explain.precision(explain.most_active(mask), mask) == pytest.approx(1.0)
    flat = explain.most_active(np.ones((1, 20, 20)))
    assert flat.all()
    assert explain.precision(flat, mask) == pytest.approx(mask.mean())
    sparse = np.zeros((1, 20, 20))
    sparse[0, 0, :5] = 1  # 1.25 % of the pixels: the threshold is 0, and every pixel is at it
    assert explain.most_active(sparse).all()
    half = np.full((1, 20, 20), 0.5)
    assert explain.precision(explain.most_active(np.random.default_rng(0).random((1, 20, 20))), half) == pytest.approx(
        0.5
    )


def test_pairs_and_images_are_two_averages_of_a_frame() -> None:
    frame = mapped_frame()
    pairs = explain.pair_table(frame)
    assert set(pairs["map"]) == {"evidence"}  # prototypes come before the method's own map
    own = pairs[pairs["of"].isin(["true", "both"])]
    assert own.groupby("record_id").size().isin([3, 4]).all()
    part = explain.activation_precision(frame)
    assert part.value == pytest.approx(own["lesion"].mean())
    by_image = own.groupby("record_id")["lesion"].mean()
    assert explain.activation_precision(frame, average="images").value == pytest.approx(by_image.mean())
    assert part.n == len(by_image) == 24
    fine = explain.activation_precision(frame, "fine")
    assert fine.n == 8
    predicted = pairs[pairs["of"].isin(["predicted", "both"])]
    assert explain.activation_precision(frame, of="predicted").value == pytest.approx(predicted["lesion"].mean())
    assert explain.activation_precision(frame, name="own").n == 24


def test_a_named_variants_map_is_the_one_that_is_read() -> None:
    frame = mapped_frame()
    frame.meta["variant_maps"] = {"default": "own"}
    assert explain.chosen_map(frame) == "own"
    frame.meta["variant_maps"] = {"default": "missing"}
    assert "missing" in metrics.unavailable(frame)["activation_precision_lesion"]


def test_what_blind_maps_get_stands_beside_it() -> None:
    frame = mapped_frame(on_lesion=True)
    found = metrics.compute(frame)
    assert found["activation_precision_lesion"].value == 1.0
    assert found["skill_lesion"].value == 1.0
    assert found["mask_share_lesion"].value == pytest.approx(0.25, abs=0.002)
    assert found["ap_pixels"].value == pytest.approx(0.25, abs=0.002)  # the whole plateau is at the threshold
    noise = metrics.compute(mapped_frame(rows=80))
    best = max(noise[f"blind_{name}_lesion"].value for name in ("centre", "brightness", "sobel"))
    value = noise["activation_precision_lesion"].value
    assert noise["skill_lesion"].value == pytest.approx((value - best) / (1 - best))
    # below the share: upsampling repeats a map's edges, so noise peaks at the border and lesions lie at the centre
    assert 0.6 * noise["mask_share_lesion"].value < value < 1.1 * noise["mask_share_lesion"].value
    assert noise["ap_pixels"].value == pytest.approx(0.05, abs=0.001)
    without = metrics.compute(mapped_frame(images=False))
    assert "blind_sobel_lesion" not in without
    assert "no images" in without["skill_lesion"].note


def test_fractions_of_masks_count_as_fractions() -> None:
    table = samples(4, 4)
    builder = MapBuilder()
    ids = [table[key].tolist() for key in ("record_id", "finding_id")]
    builder.add("cam", np.random.default_rng(0).random((4, 5, 5)), *ids, table["margin"], ["true"] * 4)
    masks = pack_masks(table, np.full((4, 10, 10), 0.4))
    frame = toy_frame(table=table, maps=builder.table(), masks=masks)
    assert metrics.compute(frame, ["activation_precision_lesion"])[
        "activation_precision_lesion"
    ].value == pytest.approx(0.4)


# ---- the registry ---------------------------------------------------------------------------------------------------
def test_every_metric_has_a_page_a_direction_and_a_track() -> None:
    for name, metric in metrics.METRICS.items():
        assert metric.name == name
        assert metric.direction in {"max", "min", "none"}
        assert metric.tracks <= set(TRACKS)
        assert name in (ROOT / metric.doc).read_text(), f"{metric.doc} does not name {name}"
    assert {track.primary for track in TRACKS.values()} <= set(metrics.METRICS)


def test_compute_gives_what_the_frame_allows_and_unavailable_the_rest() -> None:
    plain = toy_frame()
    found, missing = metrics.compute(plain), metrics.unavailable(plain)
    names = {name for name, metric in metrics.METRICS.items() if "margin" in metric.tracks}
    assert set(found) | set(missing) == names
    assert not set(found) & set(missing)
    assert missing["activation_precision_lesion"] == "the frame has no maps"
    assert missing["mask_share_lesion"] == "the frame has no masks"
    assert all(estimate.interval and json.dumps(estimate.to_json()) for estimate in found.values())
    assert list(metrics.compute(plain, ["kappa", "activation_precision_fine"])) == ["kappa"]
    with pytest.raises(ConfigError, match="auroc_mean"):
        metrics.compute(plain, ["auroc_maen"])


def test_quick_takes_milliseconds_and_agrees_with_compute() -> None:
    frame = toy_frame(table=samples(500, 300))
    metrics.quick(frame)
    frame = toy_frame(table=samples(500, 300), seed=1)
    start = time.perf_counter()
    found = metrics.quick(frame)
    assert time.perf_counter() - start < 0.25  # about 10 ms on an idle core
    assert set(found) == {"auroc_mean", *(f"auroc_{name}" for name in frame.classes), "accuracy"}
    full = metrics.compute(frame, list(found))
    assert all(full[name].value == found[name].value for name in found)
    assert full["auroc_mean"] == found["auroc_mean"]


def test_there_is_no_mean_over_seeds_that_survived() -> None:
    bare = mapped_frame(1)
    bare.maps = None
    found = metrics.over_seeds([mapped_frame(0), bare])
    assert "activation_precision_lesion" not in found
    assert "accuracy" in found
    with pytest.raises(ConfigError, match="no frame"):
        metrics.over_seeds([])


def test_seeds_widen_a_bootstrapped_interval_by_the_closed_form() -> None:
    frames = [toy_frame(seed) for seed in range(5)]
    found = metrics.over_seeds(frames, ["accuracy"])["accuracy"]
    single = [agreement.accuracy(frame) for frame in frames]
    values = np.array([part.value for part in single])
    assert found.value == pytest.approx(values.mean())
    joint = combine._joint(single)
    drawn = bootstrap.resample(joint)
    low, high = bootstrap.bca(values.mean(), drawn, joint.jackknife())
    spread = combine.spread(single)
    factor = spread.quantile / stats.norm.ppf(0.975) * np.sqrt(1 + spread.seeds / drawn.var())
    assert found.high - found.low == pytest.approx(factor * (high - low), rel=0.02)
    assert found.high - found.low > high - low


def test_differences_and_influence_serve_every_metric() -> None:
    a, b = [mapped_frame(s) for s in range(2)], [mapped_frame(s, on_lesion=True) for s in range(2)]
    estimate, p = metrics.difference(a, b, "activation_precision_lesion")
    assert estimate.high < 0
    assert p < 0.05
    with pytest.raises(DataError, match="cannot be computed"):
        metrics.difference([toy_frame(table=samples(24, 12))], a[:1], "skill_lesion")
    table = metrics.influence(a, ["auroc_mean", "kappa", "activation_precision_fine"])
    assert list(table) == ["patient", "auroc_mean", "kappa", "activation_precision_fine"]
    assert table["activation_precision_fine"].isna().any()  # a patient without a fine mask
    assert table.drop(columns="patient").sum().abs().max() < 1e-9


def test_psi_of_a_mean_is_its_deviation() -> None:
    value = np.random.default_rng(0).random(30)
    part = one_each(value, np.array([f"{i:02d}" for i in range(30)]))
    assert part.psi == pytest.approx((value - value.mean()) / 30)
    assert part.variance == pytest.approx(value.var(ddof=1) / 30)


def test_folds_average_the_metric_of_each_fold() -> None:
    frames = []
    for fold in range(3):
        table = samples(60, 40, seed=fold).assign(record_id=lambda t, fold=fold: f"fold{fold}" + t["record_id"])
        table["patient"] = f"fold{fold}" + table["patient"]
        frames.append(toy_frame(table=table, fold=fold))
    joined = metrics.over_seeds(frames)
    for name in ("auroc_mean", "kappa", "accuracy"):
        single = [metrics.compute(frame, [name])[name].value for frame in frames]
        assert joined[name].value == pytest.approx(np.mean(single))
    variances = [auroc.part(frame).variance * 39 / 40 for frame in frames]
    assert auroc.part(Frame.joined(frames)).variance == pytest.approx(np.sum(variances) / 9, rel=0.03)
    assert isinstance(metrics.confusion(Frame.joined(frames)), pd.DataFrame)
