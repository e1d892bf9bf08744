"""Health and necessity of prototypes, against hand-made contributions and closed forms."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from bench import metrics
from bench.metrics import Estimate, Frame, prototypes
from tests.toy_evidence import evidence_frame
from tests.toy_frames import samples, toy_frame, value_of

NAMES = [name for name, metric in metrics.METRICS.items() if "evidence" in metric.needs]
FACTS = ["prototype_duplicates", "prototype_dead", "prototype_purity", "prototype_purity_chance"]


def random_frame(seed: int = 0, rows: int = 40, kinds: tuple[int, ...] = (0, 0, 0, 1, 1, 2, 2, -1)) -> Frame:
    """Contributions that lean to the source's class, levels and training patches, two of which are one."""
    rng = np.random.default_rng(seed)
    contribution = rng.normal(size=(rows, len(kinds), 3)) + np.eye(4)[list(kinds)][None, :, :3]
    places = [f"{j} 0 0" for j in range(len(kinds))]
    places[1] = places[0]
    levels = [2 + j % 4 for j in range(len(kinds))]
    levels[1] = levels[0]
    table = samples(rows, rows // 2)
    return evidence_frame(contribution, kinds, table=table, seed=seed, levels=levels, places=places)


# ---- necessity ------------------------------------------------------------------------------------------------------
def test_necessity_in_closed_form() -> None:
    """Two classes and a bias that is another for each: the probability is a logistic function of what is left."""
    first, second, bias = 2.0, 0.5, np.array([[0.25, 0.0], [1.0, 0.3]])
    contribution = np.zeros((2, 2, 2))
    contribution[:, 0, 1], contribution[:, 1, 1] = first, second
    frame = evidence_frame(contribution, [1, 1], bias=bias, track="malignancy")
    logit = first + second + bias[:, 1] - bias[:, 0]
    top = np.mean(expit(logit) - expit(logit - first))
    random = np.mean(expit(logit) - (expit(logit - first) + expit(logit - second)) / 2)
    assert value_of(frame, "necessity_top") == pytest.approx(top)
    assert value_of(frame, "necessity_random") == pytest.approx(random)
    assert value_of(frame, "necessity") == pytest.approx(top - random)
    # without the first only row 1 changes its class: 0.5 - 0.25 is above 0, 0.5 - 0.7 below
    assert value_of(frame, "necessity_flips") == 0.5
    assert value_of(frame, "necessity_flips_random") == 0.25


def test_a_source_that_speaks_for_another_class_is_not_the_strongest_of_the_predicted_one() -> None:
    contribution = np.zeros((1, 3, 3))
    contribution[0, 0, 0], contribution[0, 1, 0], contribution[0, 2, 1] = 2.0, 1.5, 3.0  # class 0 is predicted
    frame = evidence_frame(contribution, [0, 0, 1])
    [network] = prototypes.networks(frame)
    assert network.strongest().tolist() == [[1.0, 0.0, 0.0]]
    falls, other = network.without()
    assert falls[0, 2] < 0, "what spoke for another class makes room for the predicted one"
    assert other.tolist() == [[True, True, False]]


def test_twins_share_what_the_strongest_costs() -> None:
    contribution = np.tile(np.array([[[1.0, 0.0], [1.0, 0.0], [0.2, 0.0]]]), (6, 1, 1))
    frame = evidence_frame(contribution, [0, 0, 0], track="malignancy")
    [network] = prototypes.networks(frame)
    assert network.strongest()[0].tolist() == [0.5, 0.5, 0.0]
    assert value_of(frame, "necessity_top") == pytest.approx(expit(2.2) - expit(1.2))
    assert value_of(frame, "prototypes_used") == pytest.approx(2.0)
    found = metrics.compute(frame, ["necessity_flips"])["necessity_flips"]
    assert found.interval == "Wilson" and found.value == 0
    assert found.low == pytest.approx(0)
    assert found.high is not None and 0.3 < found.high < 0.5  # none of six patients


def test_necessity_rests_on_patients() -> None:
    found = metrics.compute(random_frame(), ["necessity", "necessity_top", "prototypes_used"])
    for name, estimate in found.items():
        kind = "jackknife t" if name == "prototypes_used" else "patient bootstrap"
        assert estimate.n == 40 and estimate.interval.startswith(kind)
        assert estimate.value is not None and estimate.low is not None and estimate.high is not None
        assert estimate.low < estimate.value < estimate.high
    assert (found["necessity"].value or 0) > 0


# ---- use ------------------------------------------------------------------------------------------------------------
def speaking(strongest: list[int], kinds: tuple[int, ...] = (0, 1, 2, 0), **facts: object) -> Frame:
    """Row i: source strongest[i] contributes 5 to its class, every other source 1."""
    contribution = np.zeros((len(strongest), len(kinds), 3))
    contribution[:, np.arange(len(kinds)), kinds] = 1.0
    contribution[np.arange(len(strongest)), strongest, np.array(kinds)[strongest]] = 5.0
    return evidence_frame(contribution, kinds, **facts)  # type: ignore[arg-type]


def test_the_effective_number_counts_prototypes_that_decide() -> None:
    assert value_of(speaking([0, 1, 2, 3] * 3), "prototypes_used") == pytest.approx(4.0)
    assert value_of(speaking([1] * 8), "prototypes_used") == pytest.approx(1.0)
    half = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert value_of(speaking([2, 2, 2, 0]), "prototypes_used") == pytest.approx(half)


def test_the_interval_of_the_effective_number_is_corrected_for_its_bias() -> None:
    """60 images of 15 prototypes that decide equally often show fewer than 15; resamples would show fewer still."""
    kinds, held = tuple(j % 3 for j in range(15)), 0
    for seed in range(30):
        frame = speaking(np.random.default_rng(seed).integers(0, 15, 60).tolist(), kinds)
        found = metrics.compute(frame, ["prototypes_used"])["prototypes_used"]
        assert found.value is not None and found.low is not None and found.high is not None
        assert found.low <= found.value <= found.high <= 15
        assert found.value < 14.5 and found.interval.startswith("jackknife t")
        held += found.high > 15 - 1e-9
    assert held >= 27


def test_use_of_levels_adds_up_and_absent_levels_are_zero() -> None:
    frame = speaking([0, 0, 1, 2, 2, 2, 3, 1], levels=[3, 4, 5, 3])
    found = metrics.compute(frame, [f"prototype_use_level_{level}" for level in (2, 3, 4, 5)])
    assert [estimate.value for estimate in found.values()] == [0.0, 0.375, 0.25, 0.375]
    assert found["prototype_use_level_3"].note.startswith("2 of 4 prototypes stand on it")
    flat = speaking([0, 1])
    assert metrics.unavailable(flat, ["prototype_use_level_2"])["prototype_use_level_2"] == (
        "the sources stand on no levels"
    )


# ---- facts of the network -------------------------------------------------------------------------------------------
def test_duplicates_are_one_patch_of_one_class_on_one_level() -> None:
    kinds = (0, 0, 0, 1, 1, 1, 2)
    places = ["7 1 1", "7 1 1", "7 1 2", "7 1 1", "8 0 0", "", ""]
    frame = speaking([0, 3, 6], kinds, places=places, levels=[3, 3, 3, 3, 3, 3, 3])
    found = metrics.compute(frame, ["prototype_duplicates"])["prototype_duplicates"]
    assert found.value == pytest.approx(2 / 5)
    assert found.n == 5
    assert "2 of 7 were never projected" in found.note
    levels = speaking([0, 3, 6], kinds, places=places, levels=[3, 4, 3, 3, 3, 3, 3])
    assert value_of(levels, "prototype_duplicates") == 0
    never = speaking([0, 3, 6], kinds, places=[""] * 7)
    assert "none was projected" in metrics.unavailable(never)["prototype_duplicates"]
    assert "prototype_dead" in metrics.compute(never)


def test_a_prototype_that_is_never_among_the_three_strongest_of_its_class_is_dead() -> None:
    contribution = np.zeros((3, 5, 3))
    contribution[:, :, 0] = [5.0, 4.0, 3.0, 2.0, 1.0]
    frame = evidence_frame(contribution, [0] * 5)
    assert value_of(frame, "prototype_dead") == pytest.approx(2 / 5)
    contribution[2, 4, 0] = 4.5  # on one image the last one is second
    assert value_of(evidence_frame(contribution, [0] * 5), "prototype_dead") == pytest.approx(1 / 5)
    contribution[1, 3, 0] = 3.0  # on another the fourth is as strong as the third
    assert value_of(evidence_frame(contribution, [0] * 5), "prototype_dead") == 0
    others = np.zeros((3, 5, 3))
    others[:, :, 0] = [5.0, 4.0, 3.0, 2.0, 1.0]
    others[:, 3, 1] = 1.0  # of class 1, whose strongest it is
    assert value_of(evidence_frame(others, [0, 0, 0, 1, 0]), "prototype_dead") == pytest.approx(1 / 5)


def test_purity_is_the_share_of_the_ten_most_activated_images_of_the_class() -> None:
    labels = [0] * 8 + [1] * 8 + [2] * 4
    contribution = np.zeros((20, 2, 3))
    contribution[:, 0, 0] = -np.arange(20)  # its ten images: eight of class 0
    contribution[:, 1, 2] = np.arange(20)  # its ten images: the four of class 2, six of class 1
    found = metrics.compute(evidence_frame(contribution, [0, 2], labels=labels))
    assert found["prototype_purity"].value == pytest.approx((0.8 + 0.4) / 2)
    assert found["prototype_purity_chance"].value == pytest.approx((8 / 20 + 4 / 20) / 2)
    few = evidence_frame(contribution[:4], [0, 2], labels=[0, 0, 1, 2])
    assert metrics.compute(few)["prototype_purity"].note.endswith("only 4 images to look at")
    assert value_of(few, "prototype_purity") == value_of(few, "prototype_purity_chance")  # all images are looked at


def test_images_that_tie_for_the_tenth_place_share_it() -> None:
    labels = [0] * 9 + [1, 0, 0, 1]
    contribution = np.zeros((13, 1, 3))
    contribution[:9, 0, 0] = 2.0
    assert value_of(evidence_frame(contribution, [0], labels=labels), "prototype_purity") == pytest.approx(0.95)
    level = np.ones((13, 1, 3))  # every image is as good: chance
    assert value_of(evidence_frame(level, [0], labels=labels), "prototype_purity") == pytest.approx(11 / 13)


# ---- intervals of facts ---------------------------------------------------------------------------------------------
def with_duplicates(seed: int, copies: int, total: int = 6) -> Frame:
    places = [f"{min(j, total - copies)} 0 0" for j in range(total)]
    contribution = np.random.default_rng(seed).random((12, total, 3))
    return evidence_frame(contribution, [0] * total, seed=seed, places=places)


def test_a_fact_of_one_network_has_no_interval() -> None:
    found = metrics.compute(random_frame(), FACTS)
    assert list(found) == FACTS
    for estimate in found.values():
        assert estimate.value is not None
        assert (estimate.low, estimate.high, estimate.interval) == (None, None, "none")
        assert "one trained network" in estimate.note
    assert found["prototype_duplicates"].n == 7, "the source without a class is no prototype"


def test_the_interval_of_a_fact_is_that_of_its_seeds() -> None:
    frames = [with_duplicates(seed, copies) for seed, copies in enumerate((2, 3, 4))]
    found = metrics.over_seeds(frames, ["prototype_duplicates"])["prototype_duplicates"]
    values = np.array([2, 3, 4]) / 6
    half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    assert found.interval == "t over 3 seeds, no patients"
    alike = metrics.over_seeds([with_duplicates(seed, 3) for seed in range(3)], ["prototype_duplicates"])
    assert alike["prototype_duplicates"] == Estimate(0.5, None, None, 6, "none", "the seeds do not differ")


def test_pruning_may_leave_each_seed_another_number_of_prototypes() -> None:
    frames = [with_duplicates(seed, 2, total) for seed, total in enumerate((6, 4, 5))]
    found = metrics.over_seeds(frames, [*NAMES])
    assert found["prototype_duplicates"].n == 4
    assert found["prototype_duplicates"].value == pytest.approx(np.mean([2 / 6, 2 / 4, 2 / 5]))
    used = found["prototypes_used"]
    assert used.value == pytest.approx(np.mean([value_of(frame, "prototypes_used") for frame in frames]))
    assert used.low is not None and "patients x 3 seeds" in used.interval


def test_facts_of_two_methods_are_compared_over_seeds() -> None:
    a = [with_duplicates(seed, copies) for seed, copies in enumerate((4, 5, 4))]
    b = [with_duplicates(seed, copies) for seed, copies in enumerate((2, 3, 2))]
    estimate, p = metrics.difference(a, b, "prototype_duplicates")
    want = stats.ttest_ind([4 / 6, 5 / 6, 4 / 6], [2 / 6, 3 / 6, 2 / 6], equal_var=False)
    assert p == pytest.approx(want.pvalue)
    low, high = want.confidence_interval()
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1 / 3, low, high))
    assert "seeds alone" in estimate.interval
    estimate, p = metrics.difference(a, b[:1], "prototype_duplicates")
    assert estimate.value is not None and estimate.low is None and np.isnan(p)


# ---- laws -----------------------------------------------------------------------------------------------------------
def relabelled(frame: Frame, seed: int) -> Frame:
    """The same network with its prototypes numbered otherwise, and the rows of its evidence in another order."""
    rng = np.random.default_rng(seed)
    assert frame.evidence is not None
    names = frame.evidence["source"].unique()
    other = dict(zip(names, rng.permutation(names), strict=True))
    evidence = frame.evidence.assign(source=frame.evidence["source"].map(other))
    evidence = evidence.sample(frac=1, random_state=seed).reset_index(drop=True)
    return Frame(frame.predictions, frame.meta, evidence=evidence)


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=10)
def test_a_random_relabelling_of_prototypes_changes_nothing(seed: int, ties: bool) -> None:
    frame = random_frame(seed % 97)
    if ties:
        assert frame.evidence is not None
        frame = random_frame(seed % 97)
        frame.evidence["contribution"] = frame.evidence["contribution"].round(0)
    before, after = metrics.compute(frame, NAMES), metrics.compute(relabelled(frame, seed), NAMES)
    assert before.keys() == after.keys() and "prototype_use_level_5" in before
    for name, estimate in before.items():
        pair = [[e.value, e.low or 0, e.high or 0] for e in (estimate, after[name])]
        assert pair[0] == pytest.approx(pair[1], abs=1e-9), name


def test_folds_are_networks_of_their_own_whose_facts_are_averaged(tmp_path: Path) -> None:
    frames = []
    for fold, total in ((0, 6), (1, 5)):
        table = samples(12, 12).assign(record_id=lambda t, fold=fold: f"fold{fold}" + t["record_id"])
        table["patient"] = f"fold{fold}" + table["patient"]
        rng = np.random.default_rng(fold)
        places = [f"{min(j, total - 2)} 0 0" for j in range(total)]
        contribution = rng.random((12, total, 3))
        frames.append(
            evidence_frame(contribution, [j % 3 for j in range(total)], table=table, fold=fold, places=places)
        )
    joined = Frame.load(Frame.joined(frames).save(tmp_path / "frame"))
    for name in ("prototype_dead", "prototype_purity", "prototypes_used", "necessity", "necessity_flips"):
        single = [value_of(frame, name) for frame in frames]
        assert value_of(joined, name) == pytest.approx(np.mean(single)), name
    assert metrics.compute(joined, ["prototype_dead"])["prototype_dead"].n == 11


# ---- what they need -------------------------------------------------------------------------------------------------
def test_without_sources_they_are_absent_and_say_why() -> None:
    plain = toy_frame()
    assert not set(NAMES) & set(metrics.compute(plain))
    assert all("no evidence" in metrics.unavailable(plain)[name] for name in NAMES)
    crops = speaking([0, 1, 2]).rows([True] * 3)
    assert crops.evidence is not None
    crops.evidence = crops.evidence.assign(source_class=-1)
    missing = metrics.unavailable(crops)
    assert {name for name in NAMES if name.startswith("prototype")} <= set(missing)
    assert "no prototypes" in missing["prototype_dead"]
    assert "necessity" in metrics.compute(crops), "any sum of contributions has a strongest source"


def test_rows_without_evidence_are_not_passed_over() -> None:
    frame = random_frame()
    assert frame.evidence is not None
    frame.evidence = frame.evidence[frame.evidence["record_id"] != "r3"]
    assert metrics.unavailable(frame)["necessity"] == "a labelled row has no evidence"
    small = frame.rows(frame.predictions["record_id"] != "r3")
    assert metrics.compute(small, ["necessity"])["necessity"].n == 39
    unlabelled = random_frame()
    unlabelled.predictions.loc[:4, "label"] = -1
    assert metrics.compute(unlabelled, ["necessity"])["necessity"].n == 35
