"""How often the 95 % interval of `ece` holds the truth, simulated with clusters of patients and effects of seeds: docs/metrics/calibration.md has
the figures of `pytest tests/test_coverage_ece_long.py -m long --log-cli-level=INFO`.

Two films a patient; the log odds of a film are normal, correlated within a patient; a network states them times a slope, with noise of its
own and of its seed. Shapes: G patients, K seeds.
"""

import logging

import numpy as np
import pandas as pd
import pytest

from bench.metrics import Frame, combine
from bench.metrics.agreement import calibration_error

pytestmark = pytest.mark.long
LOG = logging.getLogger(__name__)
RUNS, LARGE = 300, 100_000


def drawn(rng: np.random.Generator, patients: int, slope: float, seeds: int) -> list[Frame]:
    who = np.repeat(np.arange(patients), 2)
    odds = 1.6 * (0.6 * rng.normal(size=patients)[who] + 0.8 * rng.normal(size=len(who)))
    rows = pd.DataFrame({"record_id": np.arange(len(who)).astype(str), "finding_id": "f", "lesion_id": "l"})
    rows = rows.assign(patient=who.astype(str), laterality="L", view="CC", area_px=1.0)
    rows["malignant"] = (rng.random(len(who)) < 1 / (1 + np.exp(-odds))).astype(int)
    frames = []
    for seed in range(seeds):
        stated = 1 / (1 + np.exp(-(slope * odds + 0.3 * rng.normal(size=len(who)) + 0.2 * rng.normal())))
        both = np.stack([1 - stated, stated], axis=1)
        frames.append(Frame.build(rows, "malignancy", both, both, side="test", seed=seed))
    return frames


@pytest.mark.parametrize(
    ("patients", "seeds", "slope", "least"),
    [(200, 5, 1.0, 0.6), (200, 5, 2.0, 0.9), (75, 1, 2.0, 0.8), (75, 5, 1.0, 0.5)],
)
def test_the_interval_holds_its_value_and_where_it_is_not_small_the_truth(
    patients: int, seeds: int, slope: float, least: float
) -> None:
    rng = np.random.default_rng(5)
    truth = float(np.mean([calibration_error(one).value for one in drawn(np.random.default_rng(9), LARGE, slope, 20)]))
    found = [
        combine.estimate([calibration_error(one) for one in drawn(rng, patients, slope, seeds)]) for _ in range(RUNS)
    ]
    held = float(np.mean([e.low is not None and e.high is not None and e.low <= truth <= e.high for e in found]))
    mean = float(np.mean([e.value or 0 for e in found]))
    LOG.info("%d patients, %d seeds, slope %g: %.3f, mean %.3f of %.3f", patients, seeds, slope, held, mean, truth)
    assert all(e.low is not None and e.high is not None and e.value is not None for e in found)
    assert all(e.low <= e.value <= e.high for e in found)  # type: ignore[operator]
    assert held > least  # BCa's: 0 where the network is well calibrated
