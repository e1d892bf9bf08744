"""Lesion and Background in numbers: known values of a small table (runs: tests/test_cells.py)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from bench.metrics import CELLS, Frame, compute, over_seeds, unavailable
from bench.metrics.cells import ASKED, COLUMNS, MUS, RANDOM, TRAINED
from tests.toy_frames import samples, toy_frame

# ---- metrics of a table that is known ---------------------------------------------------------------------------
KEYS = ["record_id", "finding_id"]
#                 coverage activation variance lesion background confounder
FIRST = np.array([[1.00, 4.0, 9.0, 1.0, 3.0, 0], [0.50, 2.0, 7.0, 2.0, 1.0, 1],
                  [0.49, 1.0, 8.0, 1.0, 2.0, 1], [0.00, 1.0, 1.0, 5.0, 1.0, 1]])  # fmt: skip
SECOND = np.array([[0.90, 0.0, 1.0, 2.0, 1.0, 0], [0.10, 6.0, 2.0, 2.0, 2.0, 0],
                   [0.00, 3.0, 3.0, 3.0, 1.0, 0], [0.00, 3.0, 4.0, 4.0, 1.0, 0]])  # fmt: skip


def of_lesion(row: pd.Series, values: np.ndarray, mu: str, network: str) -> pd.DataFrame:
    names = ["coverage", "activation", "variance", "to_lesion", "to_background", "confounder"]
    table = pd.DataFrame(values, columns=names).assign(**row[KEYS].to_dict(), mu=mu, network=network)
    return table.assign(row=[0, 0, 1, 1], column=[0, 1, 0, 1])[list(COLUMNS)]


def exchanged(values: np.ndarray) -> np.ndarray:
    """What was Lesion is Background: the distances change places."""
    return values[:, [0, 1, 2, 4, 3, 5]]


def known(patients: tuple[str, str] = ("p1", "p2"), seed: int = 0) -> Frame:
    table = samples(4).assign(patient=[*patients, "p3", "p4"])
    frame = toy_frame(seed=seed, table=table)
    frame.cells = pd.concat(
        [
            of_lesion(table.iloc[i], values if mu == "printed" else exchanged(values), mu, network)
            for i, values in enumerate((FIRST, SECOND))
            for mu in MUS
            for network in (TRAINED, RANDOM)
        ],
        ignore_index=True,
    )
    frame.meta[ASKED] = {"asked": 2, "missing": ""}
    return frame


def test_a_small_table_by_hand() -> None:
    found = compute(known(), CELLS)
    assert {found[name].n for name in found} == {2}, "n counts lesions, not cells"
    assert found["cells_in_mask"].value == 0.5, "of the first lesion's two; the second has none, as a tie is Background"
    assert "1 of 2 lesions left out: no Lesion cell" in found["cells_in_mask"].note
    assert found["cells_in_mask_chance"].value == 0.5, "of the lesions that have Lesion cells"
    assert found["cells_activation_lesion"].value == pytest.approx((4 + 1) / 2 / 2)
    assert found["cells_activation_background"].value == pytest.approx(((2 + 1) / 2 / 2 + 1) / 2)
    assert found["cells_activation_difference"].value == pytest.approx((2.5 - 1.5) / 2)
    assert found["cells_confounder"].value == 0.5, "of its two cells off the mask, one is Background"
    assert "cells_confounder_others" not in found, "there is no other cell off the mask"
    both = np.concatenate([FIRST, SECOND])
    inside = both[:, 0] >= 0.5
    assert found["cells_auroc"].value == pytest.approx(roc_auc_score(inside, both[:, 4] - both[:, 3]))
    assert found["cells_auroc_variance"].value == pytest.approx(roc_auc_score(inside, both[:, 2]))
    each = [spearmanr(part[:, 1], part[:, 2]).statistic for part in (FIRST, SECOND)]
    assert found["cells_spearman"].value == pytest.approx(np.mean(each))


def test_each_reading_has_its_own_numbers() -> None:
    found = compute(known(), CELLS)
    assert found["cells_auroc_standard"].value == pytest.approx(1 - found["cells_auroc"].value)
    assert found["cells_in_mask_standard"].value == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert found["cells_confounder_standard"].value == 0.5
    assert found["cells_activation_lesion_standard"].value == pytest.approx((0.75 + 2 / 3) / 2)


def test_the_same_with_random_weights_stands_beside_it() -> None:
    frame = known()
    assert frame.cells is not None
    random = frame.cells["network"] == RANDOM
    frame.cells.loc[random, "to_background"] = frame.cells.loc[random, "to_lesion"] + frame.cells["coverage"]
    found = compute(frame, CELLS)
    assert found["cells_auroc_random"].value == 1 > found["cells_auroc"].value
    assert found["cells_in_mask_random"].value == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_patients_are_the_clusters_and_seeds_may_leave_out_other_lesions() -> None:
    wide, narrow = (
        compute(known(patients), ["cells_spearman"])["cells_spearman"] for patients in (("p1", "p2"), ("p1",) * 2)
    )
    assert wide.low is not None and narrow.low is None, "one patient has no interval, however many lesions"
    other = known(seed=1)
    assert other.cells is not None
    other.cells = other.cells.assign(to_lesion=0.0)  # all cells are Lesion: no Background cell is left
    seeds = over_seeds([known(), other], CELLS)
    assert seeds["cells_in_mask"].value == pytest.approx((0.5 + (0.5 + 0.25) / 2) / 2)
    assert seeds["cells_in_mask"].n == 2 and "cells_activation_background" not in seeds


def test_seeds_that_were_asked_about_other_lesions_have_no_mean() -> None:
    """As where a command that adds cells to finished runs was stopped: all else of the row has its numbers."""
    fewer = known(seed=1)
    assert fewer.cells is not None
    fewer.cells = fewer.cells[fewer.cells["record_id"] == "r0"]
    found = over_seeds([known(), fewer])
    assert "auroc_mean" in found and not set(found) & set(CELLS)


def test_why_there_are_no_numbers_is_said() -> None:
    frame = toy_frame()
    assert not compute(frame, CELLS)
    assert set(unavailable(frame, CELLS).values()) == {
        "the frame has no Lesion and Background cells; `final --cells` asks for them"
    }
    frame.meta[ASKED] = {"asked": 3, "missing": "the method has no spatial activations"}
    assert set(unavailable(frame, CELLS).values()) == {"the method has no spatial activations"}
    elsewhere = known()
    assert elsewhere.cells is not None
    elsewhere.cells = elsewhere.cells.assign(confounder=np.nan)
    assert "no confounder cell" in unavailable(elsewhere, CELLS)["cells_confounder"]


def test_a_frame_keeps_its_cells(tmp_path: Path) -> None:
    frame = known()
    again = Frame.load(frame.save(tmp_path / "frame"))
    assert frame.cells is not None and again.cells is not None
    pd.testing.assert_frame_equal(again.cells, frame.cells)
    assert compute(again, CELLS) == compute(frame, CELLS)
    folds = [known(), replace(known(), predictions=known().predictions.assign(fold=1), cells=None)]
    assert Frame.joined(folds[:1]).cells is not None
    folds[1].predictions["record_id"] += " of another fold"
    assert Frame.joined(folds).cells is None, "no numbers over the folds that happen to have some"
