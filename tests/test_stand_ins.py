"""Bands in place of fine annotations, masks of other patients as a placebo, and splits that keep less together."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data._stand_ins import Band, exchanged
from data.cache import Prepared, prepare
from data.errors import ConfigError
from data.inputs import Inputs, Roi, Stream
from data.samples import TrainingData
from data.split import make_split
from tests import toy_films  # noqa: F401 (registers the reader)

INPUTS = Inputs(
    (16, 16), "margin", (Stream("train", 6), Stream("fine", 2, only="fine")), Roi(strategy="box_scale", scale=1.6)
)


@dataclass(frozen=True)
class Disc:
    """A disc as a mask."""

    radius: int
    size: int = 100

    name = "disc"

    def read(self) -> np.ndarray:
        y, x = np.ogrid[: self.size, : self.size]
        return np.asarray((y - self.size // 2) ** 2 + (x - self.size // 2) ** 2 <= self.radius**2)

    def fingerprint(self) -> str:
        return f"disc {self.radius}"


@given(st.integers(4, 30), st.floats(0.1, 1.0))
def test_a_band_lies_around_the_contour(radius: int, share: float) -> None:
    band = Band(Disc(radius), share).read()
    y, x = np.nonzero(band)
    away = np.abs(np.hypot(y - 50, x - 50) - radius)
    assert band.any() and away.max() <= max(1.0, share * radius) + 1.5
    ring = np.abs(np.hypot(*(np.indices(band.shape) - 50)) - radius) < max(1.0, share * radius) - 1.5
    assert band[ring].all()


def test_a_band_at_the_films_edge_stays_on_the_film() -> None:
    band = Band(Disc(60), 0.2).read()  # the disc is cut by all four edges
    assert band.shape == (100, 100) and band[0, 50] and not band[50, 50]


def toys(folder: Path, **options: object) -> Prepared:
    return prepare("toy_films", None, {"patients": 40, **options}, folder)


def training(prepared: Prepared) -> TrainingData:
    return prepared.training(prepared.split(), INPUTS)


def test_bands_stand_in_where_a_fine_annotation_lacks_and_say_so(tmp_path: Path) -> None:
    own, banded = toys(tmp_path), toys(tmp_path, fine="band")
    assert own.table["has_fine"].mean() == 0.5 and banded.table["has_fine"].all()
    assert (banded.table["attr_fine"] == "band").mean() == 0.5
    assert own.passport["grade"] == "synthetic" and banded.passport["grade"] == "synthetic, band"
    kept = own.table["has_fine"]
    assert (own.table.loc[kept, "fine_hash"] == banded.table.loc[kept, "fine_hash"]).all()


def test_a_placebo_exchanges_masks_on_the_training_side_alone(tmp_path: Path) -> None:
    own, placebo = training(toys(tmp_path)), training(toys(tmp_path, masks="shuffled"))
    pd.testing.assert_frame_equal(own.train.table, placebo.train.table)

    def rows(samples: object, name: str) -> list[bytes]:
        array = getattr(samples, name)
        return [array[i].tobytes() for i in range(len(array))]

    assert rows(own.train, "image") == rows(placebo.train, "image")
    assert rows(own.validation, "mask") == rows(placebo.validation, "mask")
    assert sorted(rows(own.train, "mask")) == sorted(rows(placebo.train, "mask"))
    assert rows(own.train, "mask") != rows(placebo.train, "mask")
    with_fine = own.train.table["has_fine"].to_numpy()
    assert all(np.asarray(placebo.train.fine[i]).any() == with_fine[i] for i in range(len(with_fine)))


@given(st.lists(st.integers(1, 3), min_size=4, max_size=12), st.integers(0, 5))
def test_an_exchanged_mask_is_another_patients(films: list[int], seed: int) -> None:
    patients = [f"p{i}" for i, count in enumerate(films) for _ in range(count)]
    table = pd.DataFrame({"patient": patients, "has_mask": True, "has_fine": False})
    if 2 * max(films) > len(table):
        with pytest.raises(ConfigError, match="no other patient to go to"):
            exchanged(table, seed)
        return
    given_ = exchanged(table, seed)
    assert sorted(given_) == list(range(len(table)))
    assert all(patients[i] != patients[j] for i, j in enumerate(given_))
    assert np.array_equal(given_, exchanged(table, seed))


def test_a_placebo_without_masks_is_refused() -> None:
    table = pd.DataFrame({"patient": list("abc"), "has_mask": False, "has_fine": False})
    with pytest.raises(ConfigError, match="no sample has a mask"):
        exchanged(table, 0)


def test_samples_without_masks_keep_none() -> None:
    table = pd.DataFrame({"patient": list("abcdef"), "has_mask": [True, False] * 3, "has_fine": False})
    given_ = exchanged(table, 0)
    assert np.array_equal(given_[1::2], [1, 3, 5]) and sorted(given_[::2]) == [0, 2, 4]


@pytest.mark.parametrize("protocol", ["holdout", "kfold5"])
def test_a_patient_may_be_on_two_sides_only_on_request(tmp_path: Path, protocol: str) -> None:
    table = toys(tmp_path, patients=60).table
    # every patient has a film of each of two margins
    table = table.assign(margin=np.where(table["view"] == "CC", 0, 2))
    whole = make_split(table, protocol)
    assert whole.table.groupby("patient")["side"].nunique().max() == 1
    parted = make_split(table, protocol, patient_scope="within_class")
    sides = parted.table.merge(table[["record_id", "margin"]], on="record_id")
    assert sides.groupby(["patient", "margin"])["side"].nunique().max() == 1
    assert sides.groupby("patient")["side"].nunique().max() > 1
    assert set(parted.table["patient"]) == set(whole.table["patient"]) and parted.hash != whole.hash


@pytest.mark.parametrize("scope", ["lesion", "film"])
def test_sides_by_lesion_or_by_film_keep_just_these_together(tmp_path: Path, scope: str) -> None:
    """A patient has a lesion in each of two views of the left breast, and one in the right: three films, two lesions."""
    table = toys(tmp_path, patients=60).table
    extra = table[table["view"] == "CC"].assign(laterality="R")
    extra = extra.assign(
        **{
            name: extra[name] + "-right"
            for name in ("record_id", "finding_id", "lesion_id", "image_hash", "pixel_hash")
        }
    )
    both = pd.concat([table.assign(lesion_id=table["patient"] + "-left"), extra], ignore_index=True)
    both["lesion_id"] = both["lesion_id"].mask(both["laterality"] == "R", both["patient"] + "-right")
    parted = make_split(both, "kfold5", patient_scope=scope)
    sides = parted.table.merge(both[["record_id", "lesion_id"]], on="record_id")
    of_lesion = sides.groupby("lesion_id")["side"].nunique().max()
    assert sides.groupby("patient")["side"].nunique().max() > 1
    assert (of_lesion == 1) if scope == "lesion" else (of_lesion > 1)


def test_lesions_that_share_a_film_stay_on_one_side(tmp_path: Path) -> None:
    """Lesion a is on films 1 and 2, b on films 2 and 3: the three films are one group, since film 2 has both."""
    table = toys(tmp_path, patients=60).table
    chain = table.groupby("patient").head(1)
    rows = [chain.assign(record_id=chain["record_id"] + f"-{film}", image_hash=chain["image_hash"] + f"-{film}",
                         pixel_hash=chain["pixel_hash"] + f"-{film}", lesion_id=chain["patient"] + lesion)
            for film, lesion in ((1, "a"), (2, "a"), (2, "b"), (3, "b"))]  # fmt: skip
    split = make_split(pd.concat(rows, ignore_index=True), "kfold5", patient_scope="lesion")
    assert split.table.groupby("patient")["side"].nunique().max() == 1


def test_the_option_reaches_the_split_and_the_passport(tmp_path: Path) -> None:
    prepared = toys(tmp_path, patient_scope="within_class")
    assert prepared.split().patient_scope == "within_class"
    assert prepared.passport["grade"] == "synthetic, within_class"
