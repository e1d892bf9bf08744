"""AUROC: closed forms, published and golden values, real clusters, laws; over seeds and between methods."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from bench import metrics
from bench.metrics import Frame, auroc, combine, parts
from data.errors import DataError
from tests import parity
from tests.toy_frames import samples, toy_frame

LABELS = Path(__file__).parent / "data" / "cbis_ddsm_labels" / "labels.csv"


def binary(positive: np.ndarray, score: np.ndarray, patients: np.ndarray | None = None, **more: int) -> Frame:
    names = [f"r{i}" for i in range(len(score))]
    who = names if patients is None else [f"p{i}" for i in patients]
    table = pd.DataFrame({"record_id": names, "finding_id": "", "patient": who, "malignant": np.asarray(positive, int)})
    scores = np.stack([np.zeros(len(score)), score], axis=1)
    facts = {"side": "test", "seed": 0} | more
    return Frame.build(table, "malignancy", scores, np.full((len(score), 2), 0.5), **facts)  # type: ignore[arg-type]


scored = st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=4, max_size=40).filter(
    lambda rows: 0 < sum(y for y, _ in rows) < len(rows)
)


# ---- golden and published values ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["06_delong.npz", "08_activation_precision.npz", "09_kappa.npz"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_golden_files_are_met(name: str, dtype: str) -> None:
    over = [(check.name, check.deviation) for check in parity.checks(parity.GOLDEN / name, dtype) if check.share > 1]
    assert not over


def test_parity_defines_p_where_nothing_varies() -> None:
    same = auroc.delong(np.array([0, 1, 0, 1, 1]), np.array([[1.0, 2, 3, 4, 5], [2.0, 4, 6, 8, 10]]))
    assert same.paired()[1] == 0
    assert same.paired()[3] == 1.0
    apart = auroc.delong(np.array([0, 0, 1, 1]), np.array([[1.0, 2, 3, 4], [1.0, 1, 1, 1]]))
    assert np.isnan(apart.paired()[3])
    assert np.isnan(auroc.delong(np.array([1, 0, 0]), np.array([[1.0, 2, 3]])).cov).all()


def test_patient_clusters_of_cbis_ddsm_widen_the_standard_error() -> None:
    """BI-RADS assessment against pathology, 378 rows of 201 patients: 0.0201 by DeLong, 0.0272 clustered."""
    table = pd.read_csv(LABELS).query("side == 'test'")
    score = table["assessment"].replace(0, 2.5).to_numpy(dtype=float)
    positive = table["malignant"].to_numpy() == 1
    assert np.sqrt(auroc.delong(positive, score[None]).cov.item()) == pytest.approx(0.0201, abs=5e-5)
    part = auroc.part(binary(positive, score, table["patient"].to_numpy()))
    assert part.value == pytest.approx(0.829, abs=5e-4)
    assert np.sqrt(part.variance) == pytest.approx(0.0272, abs=5e-5)


def test_holm_as_in_a_worked_example() -> None:
    adjusted, rejected = metrics.holm([0.01, 0.04, np.nan, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)
    assert rejected.tolist() == [True, False, False, False, True]
    assert np.isnan(metrics.holm([np.nan])[0]).all()


# ---- closed forms ---------------------------------------------------------------------------------------------------
@given(scored)
@settings(max_examples=60)
def test_auroc_and_placements_by_counting_pairs(rows: list[tuple[bool, int]]) -> None:
    y, score = (np.array(column) for column in zip(*rows, strict=True))
    value, placed = auroc.placements(y, score.astype(float))
    wins = (score[y][:, None] > score[~y]) + 0.5 * (score[y][:, None] == score[~y])
    assert value == pytest.approx(wins.mean(), abs=1e-12)
    assert value == pytest.approx(roc_auc_score(y, score), abs=1e-12)
    assert placed[y] == pytest.approx(wins.mean(axis=1), abs=1e-12)
    assert placed[~y] == pytest.approx(wins.mean(axis=0), abs=1e-12)


def test_one_image_per_patient_gives_delong_but_for_its_small_sample_factor() -> None:
    rng = np.random.default_rng(0)
    y, score = rng.random(80) < 0.3, rng.normal(size=80)
    part = auroc.part(binary(y, score + y))
    _, placed = auroc.placements(y, score + y)
    m, n = y.sum(), (~y).sum()
    by_class = (m - 1) / m * placed[y].var(ddof=1) / m + (n - 1) / n * placed[~y].var(ddof=1) / n
    assert part.variance == pytest.approx(80 / 79 * by_class, rel=1e-12)
    assert part.variance == pytest.approx(auroc.delong(y, (score + y)[None]).cov.item(), rel=0.06)
    a, b = placed[y].var(ddof=0) / m, placed[~y].var(ddof=0) / n
    welch = (a + b) ** 2 / (a**2 / (m - 1) + b**2 / (n - 1))
    assert parts.patient_freedom(part.psi, part.strata) == pytest.approx(welch, rel=1e-12)


def test_a_second_identical_view_of_each_lesion_adds_no_certainty() -> None:
    rng = np.random.default_rng(1)
    y = rng.random(60) < 0.5
    score = rng.normal(size=60) + y
    once = metrics.quick(binary(y, score))["auroc_mean"]
    twice = metrics.quick(binary(np.tile(y, 2), np.tile(score, 2), np.tile(np.arange(60), 2)))["auroc_mean"]
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), abs=1e-12)
    assert (
        auroc.delong(np.tile(y, 2), np.tile(score, 2)[None]).cov.item() < 0.55 * auroc.delong(y, score[None]).cov.item()
    )


def test_macro_auroc_carries_the_covariance_between_classes() -> None:
    frame = toy_frame()
    part = auroc.part(frame)
    singles = [auroc.part(frame, name) for name in frame.classes]
    assert part.value == pytest.approx(np.mean([single.value for single in singles]))
    assert part.psi == pytest.approx(np.mean([single.psi for single in singles], axis=0), abs=1e-15)
    assert abs(part.psi.sum()) < 1e-12


# ---- laws -----------------------------------------------------------------------------------------------------------
@given(scored, st.sampled_from(["affine", "cube", "exp", "rank"]))
@settings(max_examples=60)
def test_auroc_and_its_interval_do_not_change_under_monotone_maps(rows: list[tuple[bool, int]], kind: str) -> None:
    y, score = (np.array(column) for column in zip(*rows, strict=True))
    maps = {"affine": lambda s: 3 * s - 7, "cube": lambda s: s**3, "exp": np.exp, "rank": pd.Series.rank}
    mapped = np.asarray(maps[kind](pd.Series(score.astype(float))), dtype=float)
    assert metrics.quick(binary(y, mapped))["auroc_mean"] == metrics.quick(binary(y, score.astype(float)))["auroc_mean"]


@given(scored)
@settings(max_examples=40)
def test_turning_the_scores_turns_the_interval(rows: list[tuple[bool, int]]) -> None:
    y, score = (np.array(column) for column in zip(*rows, strict=True))
    one, other = (metrics.quick(binary(y, sign * score.astype(float)))["auroc_mean"] for sign in (1, -1))
    assert one.value == pytest.approx(1 - other.value)
    if one.low is not None:
        assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low))
        assert 0 <= one.low <= one.value <= one.high <= 1


@given(st.permutations(range(30)))
@settings(max_examples=10)
def test_the_order_of_rows_does_not_matter(order: list[int]) -> None:
    table = samples(30)
    frame = toy_frame(table=table)
    turned = frame.rows(np.ones(30, bool))
    turned.predictions = turned.predictions.iloc[order].reset_index(drop=True)
    assert turned.identity == frame.identity
    got, want = metrics.quick(turned)["auroc_mean"], metrics.quick(frame)["auroc_mean"]
    assert (got.value, got.low, got.high) == pytest.approx((want.value, want.low, want.high))


# ---- edges ----------------------------------------------------------------------------------------------------------
def test_a_perfect_auroc_has_a_one_sided_bound_and_says_so() -> None:
    y = np.repeat([True, False], [19, 59])
    found = metrics.quick(binary(y, y.astype(float)))["auroc_mean"]
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.05 ** (1 / 19))
    assert "one-sided" in found.interval
    worst = metrics.quick(binary(y, -y.astype(float)))["auroc_mean"]
    assert (worst.low, worst.high) == (0.0, pytest.approx(1 - 0.05 ** (1 / 19)))
    few = metrics.quick(binary(y, y.astype(float), np.arange(78) % 4))["auroc_mean"]
    assert few.low == pytest.approx(0.05 ** (1 / 2))  # 4 patients make 2 independent comparisons


def test_a_class_without_cases_is_left_out_and_said() -> None:
    table = samples()
    frame = toy_frame(table=table[table["margin"] != 2].reset_index(drop=True))
    found = metrics.quick(frame)
    assert "2 of 3 classes used; left out: spiculated" in found["auroc_mean"].note
    assert "auroc_spiculated" not in found
    assert "positives and negatives" in metrics.unavailable(frame)["auroc_spiculated"]
    one = toy_frame(table=table[table["margin"] == 1].reset_index(drop=True))
    assert "auroc_mean" not in metrics.quick(one)
    assert metrics.quick(one)["accuracy"].n == len(one.predictions)


def test_no_interval_where_none_can_be_estimated() -> None:
    single = metrics.quick(binary(np.array([True, False, False, False]), np.array([2.0, 1, 3, 0])))["auroc_mean"]
    assert (single.low, single.high) == (None, None)
    assert "fewer than 2 patients" in single.note
    tied = metrics.quick(binary(np.array([True, False] * 10), np.zeros(20)))["auroc_mean"]
    assert tied.value == 0.5
    assert tied.low is None


def test_two_classes_are_one_problem_of_the_difference_of_scores() -> None:
    frame = toy_frame(track="malignancy")
    scores = frame.scores
    value = roc_auc_score(frame.labels, scores[:, 1] - scores[:, 0])
    found = metrics.quick(frame)
    assert found["auroc_mean"].value == pytest.approx(value)
    assert found["auroc_malignant"] == found["auroc_mean"]
    assert "auroc_benign" not in found


def test_folds_are_averaged_never_pooled() -> None:
    """Two folds whose scores live on different scales: each ranks perfectly, the pool does not."""
    y = np.array([True, False, True, False, True, False])
    first, second = binary(y, y + 0.0), binary(y, y + 100.0, np.arange(6) + 50, fold=1)
    second.predictions["record_id"] = "s" + second.predictions["record_id"]
    found = metrics.over_seeds([first, second])["auroc_mean"]
    assert (found.value, found.n) == (1.0, 12)
    assert "one seed" in found.note


# ---- seeds and differences ------------------------------------------------------------------------------------------
def test_over_seeds_is_the_closed_form_of_patients_and_seeds() -> None:
    frames = [toy_frame(seed) for seed in range(5)]
    found = metrics.over_seeds(frames)["auroc_mean"]
    single = [auroc.part(frame) for frame in frames]
    values = np.array([part.value for part in single])
    psi = np.mean([part.psi for part in single], axis=0)
    patients = len(psi) / (len(psi) - 1) * np.sum(psi**2)
    seeds = values.var(ddof=1) / 5
    freedom = (patients + seeds) ** 2 / (patients**2 / parts.patient_freedom(psi, single[0].strata) + seeds**2 / 4)
    value = values.mean()
    half = student.ppf(0.975, freedom) * np.sqrt(patients + seeds) / (value * (1 - value))
    assert found.value == pytest.approx(value)
    assert (found.low, found.high) == pytest.approx((expit(logit(value) - half), expit(logit(value) + half)))
    assert "5 seeds" in found.interval
    assert "patients only" in metrics.compute(frames[0], ["auroc_mean"])["auroc_mean"].note


def test_a_difference_is_paired_by_patient_and_can_be_redone_from_psi() -> None:
    a, b = [toy_frame(seed) for seed in range(5)], [toy_frame(seed, skill=1.6) for seed in range(20, 25)]
    estimate, p = metrics.difference(a, b, "auroc_mean")
    back, p_back = metrics.difference(b, a, "auroc_mean")
    assert (back.value, back.low, p_back) == pytest.approx((-estimate.value, -estimate.high, p))
    assert estimate.high < 0
    assert p < 0.01
    psi = metrics.influence(a)["auroc_mean"] - metrics.influence(b)["auroc_mean"]
    seeds = sum(np.var([auroc.part(f).value for f in group], ddof=1) / 5 for group in (a, b))
    error = np.sqrt(len(psi) / (len(psi) - 1) * np.sum(psi**2) + seeds)
    assert combine.spread([auroc.part(f) for f in a], [auroc.part(f) for f in b]).error == pytest.approx(error)
    paired = estimate.high - estimate.low
    alone = [metrics.over_seeds(group)["auroc_mean"] for group in (a, b)]
    assert paired < np.sqrt(sum((e.high - e.low) ** 2 for e in alone))  # the patients are the same


def test_a_method_does_not_differ_from_itself() -> None:
    frames = [toy_frame()]
    estimate, p = metrics.difference(frames, frames, "auroc_mean")
    assert (estimate.value, estimate.low, p) == (0.0, None, 1.0)
    assert metrics.smallest_difference(frames, frames, "auroc_mean") is None


def test_rows_of_other_test_sides_are_never_compared() -> None:
    table = samples()
    other = toy_frame(table=table.iloc[:-1])
    relabelled = toy_frame(table=table.assign(margin=(table["margin"] + 1) % 3))
    for frame in (other, relabelled):
        with pytest.raises(DataError, match="different test rows"):
            metrics.difference([toy_frame()], [frame], "auroc_mean")
        with pytest.raises(DataError, match="different test rows"):
            metrics.over_seeds([toy_frame(), Frame(frame.predictions.assign(seed=1), frame.meta)])


def test_the_smallest_difference_is_what_the_power_formula_gives() -> None:
    a, b = [toy_frame(s) for s in range(5)], [toy_frame(s + 9) for s in range(5)]
    spread = combine.spread([auroc.part(f) for f in a], [auroc.part(f) for f in b])
    found = metrics.smallest_difference(a, b, "auroc_mean")
    assert found is not None
    assert 2.8 < found / spread.error < 3.3  # z_0.975 + z_0.8 = 2.80, a little more with few degrees of freedom
