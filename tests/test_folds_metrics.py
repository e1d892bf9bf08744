"""What a cross-validation prints, and the tests over folds: closed forms, golden values, and the paper's own matrices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from bench.metrics import Frame
from bench.metrics.folds import Over, corrected_t, discordant, mcnemar, over_folds, same_folds, sign_flip
from data.errors import DataError
from tests import parity
from tests.toy_frames import samples

FOLDS = 5


def frame(right: np.ndarray, seed: int = 1) -> Frame:
    """One row a patient in five folds; `right` says which malignancy is answered rightly."""
    labels = np.arange(len(right)) // FOLDS % 2
    table = samples(len(right), len(right)).assign(malignant=labels)
    said = np.where(right, labels, 1 - labels)
    parts = []
    for fold in range(FOLDS):
        here = np.arange(len(right)) % FOLDS == fold
        p = np.stack([1 - said[here], said[here]], axis=1) * 0.8 + 0.1
        parts.append(Frame.build(table[here], "malignancy", p, p, side="test", seed=seed, fold=fold))
    return Frame.joined(parts)


@pytest.mark.parametrize(
    ("matrix", "pooled", "gap"),
    [
        ([[53, 91], [42, 88]], 0.5146, abs(88 / 130 - 53 / 144)),  # Table 2 of paper 003
        ([[121, 23], [15, 115]], 0.8613, abs(115 / 130 - 121 / 144)),
    ],
)
def test_the_papers_matrices(matrix: list[list[int]], pooled: float, gap: float) -> None:
    over = Over(np.zeros(5), np.zeros(5), np.array(matrix))
    assert over.pooled == pytest.approx(pooled, abs=1e-4) and over.gap == pytest.approx(gap)
    assert over.balanced == pytest.approx((matrix[0][0] / 144 + matrix[1][1] / 130) / 2)


def test_folds_are_told_apart_and_matrices_summed() -> None:
    right = np.arange(40) % 4 > 0
    over = over_folds(frame(right))
    assert over.accuracy == pytest.approx([right[fold::FOLDS].mean() for fold in range(FOLDS)])
    assert over.confusion.sum() == 40 and over.pooled == right.mean()
    one = frame(right)
    with pytest.raises(DataError, match="one fold"):
        over_folds(one.subset((one.predictions["fold"] == 0).to_numpy(), "fold 0"))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_the_corrected_test_is_less_sure_by_the_closed_factor(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0.6, 0.1, FOLDS), rng.normal(0.5, 0.1, FOLDS)
    plain = ttest_rel(a, b)
    from scipy.stats import t

    want = 2 * t.sf(abs(plain.statistic) * np.sqrt((1 / 5) / (1 / 5 + 1 / 4)), 4)
    assert corrected_t(a, b) == pytest.approx(want) and corrected_t(a, b) >= plain.pvalue
    assert np.isnan(corrected_t(a, a))


def test_sign_flips_take_a_patient_as_a_whole_and_know_no_order() -> None:
    rng = np.random.default_rng(0)
    low, high = rng.random(60) < 0.5, np.ones(60, bool)
    better = sign_flip([frame(high)], [frame(low)])
    assert better < 0.001 and sign_flip([frame(low)], [frame(high)]) == pytest.approx(better, abs=0.01)
    assert sign_flip([frame(low)], [frame(low)]) == 1
    assert sign_flip([frame(low, 1), frame(high, 2)], [frame(high, 1), frame(low, 2)]) == 1, "averaged over seeds"
    with pytest.raises(DataError, match="different test rows"):
        sign_flip([frame(high)], [frame(low[:50])])


@pytest.mark.long
def test_under_no_difference_it_rejects_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    p = [sign_flip([frame(rng.random(30) < 0.6)], [frame(rng.random(30) < 0.6)]) for _ in range(60)]
    assert np.mean(np.array(p) <= 0.2) < 0.35


def test_mcnemar_and_holm_meet_the_golden_file() -> None:
    found = parity.checks(parity.GOLDEN / "15_mcnemar_holm.npz", "float64")
    assert len(found) == 14 and [check.name for check in found if not check.share <= 1] == []
    assert mcnemar(0, 0) == 1 and mcnemar(20, 2) < 0.001


def test_discordant_lesions_are_counted_by_their_names() -> None:
    a, b = np.zeros(20, bool), np.zeros(20, bool)
    a[:5] = b[3:10] = True
    assert discordant(frame(a), frame(b)) == (3, 5)


def test_folds_pair_where_they_judge_the_same_lesions() -> None:
    one, other = frame(np.ones(20, bool)), frame(np.zeros(20, bool))
    assert same_folds(one, other)
    other.predictions["fold"] = (other.predictions["fold"] + 1) % FOLDS  # the same lesions, dealt out otherwise
    assert not same_folds(one, other)
