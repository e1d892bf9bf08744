"""Two readings of the same trainings: their seeds are paired, in numbers and in words; and what is left in proposed regions."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bench import metrics
from bench.leaderboard import page, table
from bench.leaderboard.build import build_board
from bench.leaderboard.compare import LEFT
from bench.leaderboard.measure import ALL_MASSES, THREE_MARGINS, Measured
from bench.leaderboard.rows import Comparison, Registration, SeedRun
from bench.metrics import Frame, auroc, combine
from bench.metrics.frame import PROPOSED
from bench.metrics.parts import Part
from tests.board_samples import REGISTERED, five, frame_of, row_of
from tests.toy_frames import toy_frame

A = (0.80, 0.84, 0.76, 0.82, 0.78)
LESS = (0.02, 0.03, 0.01, 0.02, 0.02)  # mean 0.02, s^2 5e-5


def parts_of(values: Sequence[float], psi: Sequence[float], **more: Any) -> list[Part]:
    count = len(psi)
    names, strata = np.array([f"p{i}" for i in range(count)]), np.zeros(count, dtype=np.int64)
    return [Part(value, names, np.array(psi), strata, count, **more) for value in values]


# ---- in closed form -------------------------------------------------------------------------------------------------
def test_the_seeds_part_is_that_of_their_differences() -> None:
    a = parts_of(A, (0.01, -0.01, 0.02, -0.02))
    b = parts_of(np.subtract(A, LESS).tolist(), (0.005, -0.005, 0.01, -0.01))
    patients, seeds = 4 / 3 * 2.5e-4, 5e-5 / 5
    freedom = (patients + seeds) ** 2 / (patients**2 / 3 + seeds**2 / 4)
    error = np.sqrt(patients + seeds)
    half = stats.t.ppf(0.975, freedom) * error
    found, p = combine.difference(a, b, paired_seeds=True)
    assert (found.value, found.low, found.high) == pytest.approx((0.02, 0.02 - half, 0.02 + half))
    assert p == pytest.approx(2 * stats.t.sf(0.02 / error, freedom))
    assert found.interval == "paired patients, paired seeds, t (5 seeds)"
    least = combine.smallest_difference(a, b, paired_seeds=True)
    assert least is not None
    assert stats.nct.sf(stats.t.ppf(0.975, freedom), freedom, least / error) == pytest.approx(0.8)
    apart = combine.spread(a, b)
    assert apart.seeds == pytest.approx((np.var(A, ddof=1) + np.var(np.subtract(A, LESS), ddof=1)) / 5)
    assert apart.seeds > 30 * seeds, "what the seeds do to both readings alike was counted twice"


def test_seeds_alone_are_a_paired_t_test() -> None:
    """A fact of a network that no patient moves, read twice."""
    b = np.subtract(A, LESS)
    a, b = (parts_of(values, (0.0,) * 4, of_model=True) for values in (A, b.tolist()))
    found, p = combine.difference(a, b, paired_seeds=True)
    want = stats.ttest_rel([part.value for part in a], [part.value for part in b])
    low, high = want.confidence_interval()
    assert (found.low, found.high, p) == pytest.approx((low, high, want.pvalue))
    assert found.interval == "paired seeds alone, t (5 seeds)"


def test_seeds_cannot_be_paired_with_fewer() -> None:
    parts = parts_of(A, (0.01, -0.01))
    with pytest.raises(ValueError, match="zip"):
        combine.spread(parts, parts[:3], paired_seeds=True)


# ---- under the null -------------------------------------------------------------------------------------------------
def readings(rng: np.random.Generator, seeds: int, cases: int = 40) -> tuple[list[Part], list[Part]]:
    """Two readings of equal worth: what a seed does to both, to one of them, and what a reading does to a case."""
    names, strata = np.array([f"{i:03d}" for i in range(cases)]), np.zeros(cases, dtype=np.int64)
    own, both = rng.normal(size=cases), 0.5 * rng.normal(size=seeds)
    sides = []
    for _ in range(2):
        case, seed = own + 0.4 * rng.normal(size=cases), both + 0.1 * rng.normal(size=seeds)
        psi = (case - case.mean()) / cases
        sides.append([Part(case.mean() + shift, names, psi, strata, cases) for shift in seed])
    return sides[0], sides[1]


def test_readings_of_equal_worth_are_told_apart_in_one_of_twenty() -> None:
    rng = np.random.default_rng(0)
    drawn = [readings(rng, 5) for _ in range(1500)]
    rejected = {
        paired: np.mean([combine.difference(a, b, paired_seeds=paired)[1] < 0.05 for a, b in drawn])
        for paired in (True, False)
    }
    assert 0.035 <= rejected[True] <= 0.065  # three standard errors of 1,500 runs around 0.05
    assert rejected[False] < 0.01, "as independent seeds they were hardly ever told apart"


# ---- who knows that they are the same -------------------------------------------------------------------------------
def reading(seed: int, run: str, skill: float) -> Frame:
    return toy_frame(seed, skill, meta={"method": "toy", "identity": f"{run}-{seed}"})


def test_frames_of_the_same_runs_are_paired_and_others_are_as_before() -> None:
    a = [reading(seed, "one", 1.0) for seed in range(5)]
    b = [reading(seed, "one", 1.1) for seed in range(5)]
    other = [reading(seed, "two", 1.1) for seed in range(5)]
    nameless = [[toy_frame(seed, skill) for seed in range(5)] for skill in (1.0, 1.1)]
    name = "auroc_mean"
    found, p = metrics.difference(a, b[::-1], name)
    assert "paired seeds" in found.interval
    single = [[metrics.compute(frame, [name])[name].value for frame in side] for side in (a, b)]
    psi = metrics.influence(a, [name])[name] - metrics.influence(b, [name])[name]
    variance = len(psi) / (len(psi) - 1) * np.sum(psi**2) + np.var(np.subtract(*single), ddof=1) / 5
    spread = combine.spread(*([auroc.part(frame) for frame in side] for side in (a, b)), paired_seeds=True)
    assert spread.variance == pytest.approx(variance)
    assert found.value is not None and found.high == pytest.approx(found.value + spread.quantile * spread.error)
    assert p == pytest.approx(2 * stats.t.sf(abs(found.value) / spread.error, spread.freedom))
    apart = metrics.difference(a, other, name)
    assert apart == metrics.difference(*nameless, name) == metrics.difference(a, b, name, paired_seeds=False)
    assert apart[0].interval == "paired patients, t (5 seeds and 5 seeds)"
    assert not metrics.same_runs(a, a[:3]) and not metrics.same_runs(*nameless)
    assert metrics.smallest_difference(a, b, name) != metrics.smallest_difference(a, other, name)


# ---- on the board ---------------------------------------------------------------------------------------------------
def shown_twice(method: str, oracle: float, proposed: float, track: str = "margin", asked: int = 5) -> list[SeedRun]:
    """Runs whose frames hold the lesions once more, in proposed regions: the variants differ in skill."""

    def load(seed: int) -> Frame:
        own = frame_of(track, seed, oracle, variant_inputs={PROPOSED: PROPOSED})
        again = frame_of(track, seed, proposed, (PROPOSED,))
        return Frame(pd.concat([own.predictions, again.predictions], ignore_index=True), own.meta)

    runs = five(method, oracle, track=track, facts={"seeds_asked": asked})[:asked]
    return [replace(run, load=lambda seed=run.place[0]: load(seed)) for run in runs]


def contrast(comparisons: Sequence[Comparison]) -> Comparison:
    (found,) = [c for c in comparisons if c.asks]
    return found


def test_a_classifier_in_proposed_regions_is_compared_with_itself_in_the_oracles() -> None:
    runs = shown_twice("vgg16", 2.0, 1.0)
    board = build_board(runs)
    assert not board.matrices, "an oracle's region and a proposed one are no choice"
    (found,) = board.comparisons
    assert (found.a, found.b, found.metric) == ("vgg16 [proposed ROI]", "vgg16", "auroc_mean")
    sides = [[run.load().of_variant(name) for run in runs] for name in (PROPOSED, "default")]  # type: ignore[misc]
    want, p = metrics.difference(*sides, "auroc_mean", paired_seeds=True)
    assert (found.difference, found.p) == (want, p) and p < 0.05
    assert want.value is not None and want.value < 0 and found.smallest is not None
    assert (found.p_holm, found.rejected, found.planned, found.control) == (None, False, False, "")
    assert found.test == f"paired patients, paired seeds; outside the family: {LEFT}"


def test_it_is_no_member_of_the_family_and_gives_no_rank() -> None:
    runs = [*shown_twice("vgg16", 1.0, 0.6), *five("iaia_bl", 2.2)]
    made, without = (build_board(some, registrations=REGISTERED) for some in (runs, [*five("vgg16", 1.0), *runs[5:]]))
    (member,) = [c for c in made.comparisons if not c.asks]
    assert [member] == without.comparisons and member.p_holm == member.p
    assert member.test == "paired patients, independent seeds; Holm over the family"
    assert [row_of(made, name).ranks for name in ("vgg16", "iaia_bl")] == [(2, 2), (1, 1)]
    assert not made.notes


def test_no_test_below_five_seeds_nor_on_a_secondary_view() -> None:
    few = contrast(build_board(shown_twice("vgg16", 2.0, 1.0, asked=4)).comparisons)
    assert few.p is None and few.difference.low is not None
    both = build_board(shown_twice("vgg16", 2.0, 1.0, "malignancy")).comparisons
    assert [(c.subset, c.p is None) for c in both] == [(THREE_MARGINS, False), (ALL_MASSES, True)]
    assert all(c.difference.low is not None for c in both)


@pytest.mark.parametrize("registrations", [[], REGISTERED])
def test_page_text_and_document_say_what_it_is(registrations: list[Registration]) -> None:
    board = build_board([*shown_twice("vgg16", 2.0, 1.0), *five("iaia_bl", 2.2)], registrations=registrations)
    (said,) = [c for c in board.to_json()["comparisons"] if c["asks"]]
    assert (said["asks"], said["paired_seeds"], said["p_holm"], said["control"]) == (LEFT, True, None, "")
    (line,) = [line for line in table.to_markdown(board).splitlines() if line.startswith("- vgg16 [proposed ROI] - ")]
    assert line.endswith(f"Holm –, the same trainings, outside the family: {LEFT}")
    text = page.render(board)
    assert f"<td>nothing ({LEFT})</td>" in text and "paired where both sides are readings of the same trainings" in text
    assert ("Each method against the reference" in text) == bool(registrations)
    assert ("member of the family" in text or "primary contrast" in text) == bool(registrations)


def test_variants_of_one_training_are_paired_within_the_family() -> None:
    def load(seed: int) -> Frame:
        return frame_of("margin", seed, 1.0, ("default", "gradcam++"))

    runs = [replace(run, load=lambda seed=run.place[0]: load(seed)) for run in five("vgg16", 1.0)]
    found = build_board([*runs, *five("iaia_bl", 2.2)], registrations=REGISTERED).comparisons
    assert {(c.a, c.paired_seeds, bool(c.asks)) for c in found} == {
        ("vgg16 [gradcam++]", True, False), ("iaia_bl", False, False),
    }  # fmt: skip
    assert {c.p_holm is None for c in found} == {False}
    told = {re.split(";", c.test)[0] for c in found}
    assert told == {"paired patients, paired seeds", "paired patients, independent seeds"}


def test_what_was_compared_once_is_kept(tmp_path: Path) -> None:
    loads = {run.frame_id: run.load for run in shown_twice("vgg16", 2.0, 1.0) if run.load is not None}
    found = Measured(tmp_path).difference(loads, loads, "auroc_mean", "all", (PROPOSED, "default"))
    assert found["paired_seeds"] and found["p"] < 0.05
    unread = dict.fromkeys(loads, lambda: pytest.fail("a frame was read again"))
    assert Measured(tmp_path).difference(unread, unread, "auroc_mean", "all", (PROPOSED, "default")) == found
