"""Reference rows: known figures on CBIS-DDSM's labels, and what each needs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.metrics import reference
from bench.metrics.parts import NotComputableError
from data.errors import ConfigError
from tests.toy_frames import samples

LABELS = Path(__file__).parent / "data" / "cbis_ddsm_labels" / "labels.csv"


def cbis(side: str) -> pd.DataFrame:
    table = pd.read_csv(LABELS).query("side == @side").reset_index(drop=True)
    table = table.rename(columns={"assessment": "attr_assessment", "density": "attr_density"})
    names = table.index.astype(str)
    return table.assign(record_id=names, finding_id=names, patient=side + table["patient"].astype(str))


def three_margins(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["margin"] >= 0].reset_index(drop=True)


def test_references_of_cbis_ddsm_are_the_published_ones() -> None:
    """BI-RADS assessment 0.83 for malignancy; perfect margins with the best table of malignancy given margin 0.77."""
    primary = reference.reference_rows(three_margins(cbis("train")), three_margins(cbis("test")), "malignancy")
    whole = reference.reference_rows(cbis("train"), cbis("test"), "malignancy")
    assert whole["birads"]["auroc_mean"].value == pytest.approx(0.83, abs=0.005)
    assert primary["margins"]["auroc_mean"].value == pytest.approx(0.77, abs=0.005)
    assert whole["chance"]["auroc_mean"].value == 0.5
    assert (whole["birads"]["auroc_mean"].n, primary["margins"]["auroc_mean"].n) == (378, 261)
    density = whole["density"]["auroc_mean"]
    assert density.low < 0.5 < density.high
    assert all("one seed" not in e.note for row in whole.values() for e in row.values())
    assert reference.unavailable(cbis("train"), cbis("test"), "malignancy") == {
        "lesion_size": "the data have no area_px"
    }


def test_the_margin_table_is_learnt_on_training_rows() -> None:
    frame = reference.frame("margins", three_margins(cbis("train")), three_margins(cbis("test")), "malignancy")
    shares = frame.predictions.groupby("margin")["prob_malignant"].first()
    assert shares.to_numpy() == pytest.approx([32 / 305, 175 / 278, 260 / 281], abs=0.002)


def test_lesion_size_alone_ranks_by_area() -> None:
    train, test = samples(300, 200, seed=1), samples(200, 150, seed=2)
    found = reference.reference_rows(train, test, "margin")
    assert found["lesion_size"]["auroc_mean"].low > 0.5  # areas grow with the class in this table
    frame = reference.frame("lesion_size", train, test, "margin")
    order = np.argsort(frame.predictions["area_px"].to_numpy(), kind="stable")
    assert (np.diff(frame.scores[order, 2]) >= -1e-12).all()
    unknown = test.assign(area_px=np.where(np.arange(200) < 5, np.nan, test["area_px"]))
    frame = reference.frame("lesion_size", train, unknown, "margin")
    assert np.ptp(frame.probabilities[:5], axis=0) == pytest.approx(0)


def test_the_assessment_is_read_as_it_is_written() -> None:
    table = pd.DataFrame({"attr_assessment": ["BI-RADS 4", 5.0, "0", None, 3]})
    assert reference.assessment(table).tolist() == [4, 5, 2.5, 2.5, 3]


def test_the_ceiling_of_a_generator_is_a_number_without_interval() -> None:
    train, test = samples(seed=1, track="malignancy"), samples(seed=2, track="malignancy")
    ceiling = reference.reference_rows(train, test, "malignancy", ceiling=0.93)["ceiling"]["auroc_mean"]
    assert (ceiling.value, ceiling.low, ceiling.interval) == (0.93, None, "exact")
    assert "birads" in reference.unavailable(train, test, "malignancy")
    assert reference.unavailable(train, test, "malignancy")["margins"] == "the data have no margin"


def test_unknown_rows_and_names() -> None:
    table = samples()
    with pytest.raises(ConfigError, match="lesion_size"):
        reference.frame("size", table, table, "margin")
    with pytest.raises(NotComputableError, match="track margin"):
        reference.frame("birads", table, table, "margin")
    with pytest.raises(NotComputableError, match="no labelled row"):
        reference.frame("chance", table, table.assign(margin=-1), "margin")
    some = table.assign(margin=np.where(np.arange(120) < 20, -1, table["margin"]))
    assert len(reference.frame("chance", table, some, "margin").predictions) == 100
