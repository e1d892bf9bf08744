"""The nearest training lesions: by the cosine of features, a lesion once, none of the case's own patient."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from bench.engine.evaluate import sample_batch
from bench.engine.nearest import K, features, nearest, panels, training_features
from models.method import Method
from tests.toy import toy_batch, toy_method
from tests.toy_engine import ROI, SIZE, Tiny


def table(**columns: Any) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    given = {"patient": [f"p{i}" for i in range(n)], "lesion_id": [f"l{i}" for i in range(n)]}
    return pd.DataFrame({**given, "record_id": [f"r{i}" for i in range(n)], **columns})


def unit(*rows: tuple[float, float]) -> Tensor:
    found = torch.tensor(rows, dtype=torch.float64)
    return found / found.norm(dim=1, keepdim=True)


ANGLES = unit((1, 0), (1, 0.1), (1, 0.5), (0, 1), (1, 0.2))


def rows_of(found: list[Any]) -> list[int]:
    return [one.row for one in found]


def test_the_nearest_come_first_with_their_distance() -> None:
    known = table(label=[0] * 5)
    found = nearest(unit((2, 0))[0], ANGLES, np.arange(5), known, "other")
    assert rows_of(found) == [0, 1, 4]
    assert found[0].distance == pytest.approx(0) and found[1].distance == pytest.approx(1 - 1 / 1.01**0.5)
    shifted = nearest(unit((2, 0))[0], ANGLES, np.array([7, 3, 5, 1, 0]), table(label=[0] * 8), "other")
    assert rows_of(shifted) == [7, 3, 0], "rows of the table, not positions in the features"


def test_a_lesion_stands_once_and_the_own_patient_never() -> None:
    known = table(label=[0] * 5, patient=["a", "a", "b", "b", "a"], lesion_id=["1", "1", "1", "2", ""])
    assert rows_of(nearest(unit((1, 0))[0], ANGLES, np.arange(5), known, "other")) == [0, 4, 2]
    assert rows_of(nearest(unit((1, 0))[0], ANGLES, np.arange(5), known, "a")) == [2, 3]
    assert nearest(unit((1, 0))[0], ANGLES[:2], np.arange(2), known, "a") == []


def test_features_are_the_mean_of_the_last_activations() -> None:
    method, batch = toy_method("densenet121").eval(), toy_batch(4)
    with torch.no_grad():
        mean = method.activations(batch.image)[4].double().mean(dim=(2, 3))
    torch.testing.assert_close(features(method, batch), mean / mean.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["densenet121", "protopnet"])
def test_cases_of_validation_get_lesions_of_training(name: str, tiny: Tiny) -> None:
    method: Method = toy_method(name, size=SIZE, roi=ROI).eval()
    data = tiny.training(method.inputs())
    cases, train = data.validation_for("margin"), data.train
    batch = sample_batch(cases, method.inputs(), [0, 2])
    patients = [str(cases.table["patient"].iat[i]) for i in (0, 2)]
    made = panels(method, batch, patients, train)
    known, rows = training_features(method, train, method.inputs())
    assert sorted(rows.tolist()) == list(range(len(train))) and len(known) == len(train)
    for i, case in enumerate(made):
        assert len(case) == K
        lesions = train.table.iloc[[panel.training_row for panel in case]]
        assert lesions["lesion_id"].is_unique and patients[i] not in set(lesions["patient"])
        alike = int((lesions["label"] == int(batch.label[i])).sum())
        share = (train.table["label"] == int(batch.label[i])).mean()
        assert (
            f"{alike} of 3 have the case's true label" in case[-1].beside and f"; {share:.0%} of all" in case[-1].beside
        )
        assert "left out" not in case[-1].beside
    shown = sample_batch(train, method.inputs(), [made[0][0].training_row or 0])
    assert np.array_equal(made[0][0].image, shown.image[0, 0].numpy())


def test_a_split_that_divides_patients_says_what_is_left_out(tiny: Tiny) -> None:
    method = toy_method("densenet121", size=SIZE, roi=ROI).eval()
    train = tiny.training(method.inputs()).train
    own = str(train.table["patient"].iat[0])
    [case] = panels(method, sample_batch(train, method.inputs(), [0]), [own], train)
    count = int((train.table["patient"] == own).sum())
    assert own not in set(train.table.iloc[[panel.training_row for panel in case]]["patient"])
    assert f"{count} pictures of the case's own patient are left out" in case[-1].beside


def test_a_method_without_activations_has_none(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    method = toy_method("densenet121", size=SIZE, roi=ROI).eval()
    monkeypatch.setattr(type(method), "activations", lambda self, image: {})
    train = tiny.training(method.inputs()).train
    assert panels(method, sample_batch(train, method.inputs(), [0]), ["x"], train) == [[]]
