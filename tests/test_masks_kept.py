"""Training that sees masks of a part of its patients: who they are, and what stays as it was."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.engine.evaluate import _supervision
from data._stand_ins import kept_patients, withheld
from data.cache import Prepared, open_prepared, prepare, verify
from data.errors import ConfigError, DataError
from data.inputs import Inputs, Roi, Stream
from data.loading import batches
from data.passport import summary
from data.record import Options
from data.samples import Samples, TrainingData
from data.split import strata
from tests import toy_films  # noqa: F401 (registers the reader)
from tests.toy import toy_method

pytestmark = pytest.mark.long

STREAMS = (Stream("train", 6), Stream("fine", 2, only="fine"), Stream("masked", 2, only="mask"))
INPUTS = Inputs((16, 16), "margin", STREAMS, Roi(strategy="box_scale", scale=1.6))
WHOLE = Inputs((30, 20), "detection", (Stream("all", 4),), Roi(strategy="whole"))


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Films of 1 to 30 patients, 1 to 3 masses each, some without a mask."""
    rows = []
    for patient in range(draw(st.integers(1, 30))):
        malignant = draw(st.integers(-1, 1))
        for _ in range(draw(st.integers(1, 3))):
            margin, mask = draw(st.integers(-1, 2)), draw(st.booleans())
            rows.append((f"p{patient:02}", "mass", malignant, 1, margin, mask, mask and draw(st.booleans())))
    columns = ["patient", "kind", "malignant", "has_mass", "margin", "has_mask", "has_fine"]
    return pd.DataFrame(rows, columns=columns).assign(mask_hash="a", fine_hash="b")


@settings(max_examples=50)
@given(tables(), st.floats(0, 1), st.floats(0, 1), st.integers(0, 9))
def test_who_is_kept_at_a_share_is_kept_at_every_larger_one(
    table: pd.DataFrame, one: float, other: float, seed: int
) -> None:
    few, many = (kept_patients(table, share, seed) for share in sorted((one, other)))
    owners = set(table.loc[table["has_mask"], "patient"])
    assert few <= many <= owners == kept_patients(table, 1, seed) and not kept_patients(table, 0, seed)
    assert abs(len(few) - min(one, other) * len(owners)) <= 1
    shuffled = table.sample(frac=1, random_state=seed)
    assert kept_patients(shuffled, one, seed) == kept_patients(table, one, seed)


@given(tables(), st.floats(0, 1), st.integers(0, 9))
def test_no_stratum_is_empty_where_there_are_patients_enough(table: pd.DataFrame, share: float, seed: int) -> None:
    masked = table[table["has_mask"]]
    kept = kept_patients(table, share, seed)
    of_patient = strata(masked).groupby(masked["patient"]).first()
    size = of_patient.value_counts()
    found = of_patient[of_patient.index.isin(kept)].value_counts().reindex(size.index, fill_value=0)
    assert (found > 0).sum() == min(len(kept), len(size))
    if len(size):  # Adams' inequality: one patient moved to another stratum would make the shares no more alike
        assert ((found - 1) / size).max() <= (found / size).min() + 1e-12


@given(tables(), st.floats(0, 1), st.integers(0, 9), st.data())
def test_patients_go_as_a_whole_and_other_sides_stay(
    table: pd.DataFrame, share: float, seed: int, data: st.DataObject
) -> None:
    patients = sorted(set(table["patient"]))
    trains = table["patient"].isin(data.draw(st.sets(st.sampled_from(patients))))
    flags = ["has_mask", "has_fine"]
    if not table.loc[trains, "has_mask"].any():
        with pytest.raises(ConfigError, match="no training patient has a mask"):
            withheld(table, trains, share, seed)
        return
    found = withheld(table, trains, share, seed)
    pd.testing.assert_frame_equal(found[~trains], table[~trains])
    pd.testing.assert_frame_equal(found.drop(columns=[*flags, "mask_hash", "fine_hash"]),
                                  table.drop(columns=[*flags, "mask_hash", "fine_hash"]))  # fmt: skip
    for _, films in found[trains].groupby("patient"):
        assert films[flags].equals(table.loc[films.index, flags]) or not films[flags].to_numpy().any()


def toys(folder: Path, **options: object) -> Prepared:
    return prepare("toy_films", None, {"patients": 40, **options}, folder)


def training(prepared: Prepared, inputs: Inputs = INPUTS) -> TrainingData:
    return prepared.training(prepared.split(), inputs)


def rows(samples: Samples, name: str) -> list[bytes]:
    array = getattr(samples, name)
    return [array[i].tobytes() for i in range(len(array))]


@pytest.mark.parametrize("inputs", [INPUTS, WHOLE], ids=["finding", "image"])
def test_samples_keep_image_and_label_and_lose_their_mask(tmp_path: Path, inputs: Inputs) -> None:
    own, few = training(toys(tmp_path), inputs), training(toys(tmp_path, masks_kept=0.3), inputs)
    table, kept = own.train.table, few.train.table["has_mask"].to_numpy()
    flags = ["has_mask", "has_fine", "mask_hash", "fine_hash"]
    pd.testing.assert_frame_equal(few.train.table.drop(columns=flags), table.drop(columns=flags))
    assert 0 < len(set(table["patient"][kept])) == round(0.3 * table["patient"].nunique())
    assert not set(table["patient"][kept]) & set(table["patient"][~kept])
    assert rows(few.train, "image") == rows(own.train, "image")
    for name in ("mask", "fine"):
        both = zip(kept, rows(few.train, name), rows(own.train, name), strict=True)
        assert all(mine == theirs if keeps else not any(mine) for keeps, mine, theirs in both)
    for side in ("validation", "validation_pool"):
        pd.testing.assert_frame_equal(getattr(few, side).table, getattr(own, side).table)
        for name in ("image", "mask", "fine"):
            assert rows(getattr(few, side), name) == rows(getattr(own, side), name)
    for batch in batches(few.train, inputs, batch_size=8):
        assert batch.mask.flatten(1).any(dim=1).tolist() == kept[batch.index].tolist() == batch.has_mask.tolist()


def test_what_is_kept_can_be_exchanged(tmp_path: Path) -> None:
    kept, both = training(toys(tmp_path, masks_kept=0.5)), training(toys(tmp_path, masks_kept=0.5, masks="shuffled"))
    pd.testing.assert_frame_equal(kept.train.table, both.train.table)
    assert rows(kept.train, "mask") != rows(both.train, "mask")
    assert sorted(rows(kept.train, "mask")) == sorted(rows(both.train, "mask"))


def test_without_masks_their_streams_say_what_to_do(tmp_path: Path) -> None:
    none = training(toys(tmp_path, masks_kept=0)).train
    assert not none.table[["has_mask", "has_fine"]].to_numpy().any() and len(none.members(STREAMS[0])) == len(none)
    for stream in STREAMS[1:]:
        with pytest.raises(DataError, match=rf"stream '{stream.name}' .*masks_kept above 0"):
            none.members(stream)


def test_nothing_is_prepared_again_and_nothing_that_lies_there_is_renamed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    own = toys(tmp_path, log=str(log))
    training(own)
    looks = log.read_text()
    for more in ({"masks_kept": 0.1}, {"masks_kept": 0.1, "masks_seed": 3}, {"masks": "shuffled"}):
        few = toys(tmp_path, log=str(log), **more)
        training(few)
        assert few.folder == own.folder and few.data_hash == own.data_hash and few.split().hash == own.split().hash
        assert log.read_text() == looks
    before = {"masks": "own", "masks_seed": 0, "fine": "own", "band": 0.2, "patient_scope": "global"}
    assert Options().as_json() == Options(masks_kept=1).as_json() == before
    assert Options(masks_kept=0.5).as_json() == before | {"masks_kept": 0.5}


def test_a_set_that_was_first_prepared_with_fewer_masks_is_as_any_other(tmp_path: Path) -> None:
    few = toys(tmp_path, masks_kept=0.1)
    assert open_prepared("toy_films", None, {"patients": 40}, tmp_path).options.masks_kept == 1
    assert Prepared("toy_films", few.folder).options.masks_kept == 1 and few.options.masks_kept == 0.1
    assert not verify("toy_films", None, {"patients": 40, "masks_kept": 0.1}, tmp_path)[1].differences


def test_a_row_says_that_masks_were_withheld(tmp_path: Path) -> None:
    own, few = toys(tmp_path).passport, toys(tmp_path, masks_kept=0.3, masks="shuffled").passport
    assert own["grade"] == "synthetic" and few["grade"] == "synthetic, fewer_masks, placebo"
    assert "masks_kept" not in own["options"] and few["options"]["masks_kept"] == 0.3
    assert "masks of 30% of the training patients" in summary(few) and "masks of" not in summary(own)


def test_supervision_claims_no_mask_that_was_not_given() -> None:
    taught, plain = toy_method("iaia_bl"), toy_method("vgg16")
    assert _supervision(taught, {}) == taught.supervision == "label + fine mask"
    assert _supervision(taught, {"masks_kept": 0.1}) == "label + fine mask (10% of patients)"
    assert _supervision(taught, {"masks_kept": 0.0}) == _supervision(plain, {"masks_kept": 0.1}) == "label"
