"""A patient on one side only, sides alike, the same for the same seed."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import ConfigError, DataError, LeakError
from data.split import SIDES, Split, make_split
from tests.cli import here


def table(patients: int = 100, seed: int = 0, sides: bool = False) -> pd.DataFrame:
    """Patients with 1 to 6 findings; malignancy is the patient's own, margins differ."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        malignant = int(rng.random() < 0.4)
        for film in range(int(rng.integers(1, 4))):
            for finding in range(int(rng.integers(1, 3))):
                record = f"r{patient}-{film}"
                side = ("train", "train", "train", "test")[patient % 4] if sides else ""
                rows.append(
                    (record, f"{record}-{finding}", f"p{patient}", record, malignant, rng.integers(-1, 3), 1, side)
                )
    columns = ["record_id", "finding_id", "patient", "image_hash", "malignant", "margin", "has_mass", "official_split"]
    return pd.DataFrame(rows, columns=columns).assign(
        counterfactual_of="", pixel_hash=lambda t: "pixels of " + t["image_hash"]
    )


def sides_per_patient(split: Split) -> pd.Series:
    return split.table.groupby("patient")["side"].nunique()


@settings(max_examples=25)
@given(st.integers(10, 60), st.integers(0, 1000), st.sampled_from(["holdout", "kfold5"]), st.booleans())
def test_a_patient_is_on_one_side(patients, seed, protocol, official):
    rows = table(patients, seed, official and patients >= 12)
    split = make_split(rows, protocol, seed)
    assert (sides_per_patient(split) == 1).all()
    assert set(split.table["side"]) == set(SIDES)
    assert len(split.table) == len(rows)


def test_seeded_shares_and_strata():
    rows = table(600)
    shares, malignant = [], []
    for seed in range(5):
        split = make_split(rows, "holdout", seed)
        patients = rows.assign(side=split.sides_of(rows)).drop_duplicates("patient")
        shares.append([(patients["side"] == side).mean() for side in SIDES])
        malignant.append([patients["malignant"][patients["side"] == side].mean() for side in SIDES])
    assert np.allclose(shares, [0.73, 0.12, 0.14], atol=0.02)
    assert np.ptp(malignant) < 0.04


def test_sides_do_not_favour_patients_with_many_films():
    rows = table(300)
    films = rows.groupby("patient")["record_id"].nunique()
    on_test = []
    for seed in range(30):
        test = make_split(rows, "holdout", seed).table.query("side == 'test'")
        on_test.append(films[test["patient"].unique()].mean())
    assert np.mean(on_test) == pytest.approx(films.mean(), abs=0.06)


def test_the_same_seed_gives_the_same_sides_whatever_the_order_of_rows():
    rows = table()
    for protocol in ("holdout", "kfold5"):
        first = make_split(rows, protocol, 3)
        assert make_split(rows.sample(frac=1, random_state=1).reset_index(drop=True), protocol, 3).hash == first.hash
        assert make_split(rows, protocol, 4).hash != first.hash


def test_the_hash_covers_images_and_patients():
    rows = table(sides=True)
    first = make_split(rows).hash
    for column in ("image_hash", "patient"):
        changed = rows.assign(**{column: rows[column].where(rows.index > 2, rows[column] + "x")})
        changed.loc[changed["patient"] == "p0x", "patient"] = "p0y"
        assert make_split(changed).hash != first


def test_folds_cover_every_patient_once():
    rows = table(97)
    tested = [
        make_split(rows, "kfold5", 1, fold).table.query("side == 'test'")["patient"].unique() for fold in range(5)
    ]
    assert sorted(np.concatenate(tested)) == sorted(rows["patient"].unique())
    sizes = [
        make_split(rows, "kfold5", 1, fold).table.drop_duplicates("patient")["side"].value_counts() for fold in range(5)
    ]
    assert all(size["test"] in (19, 20) and abs(size["validation"] - 15.5) < 2 for size in sizes)


def test_official_sides_are_kept_and_validation_comes_from_training_patients():
    rows = table(sides=True)
    split = make_split(rows, "holdout", 2)
    side = split.sides_of(rows)
    assert split.source == "official, validation carved from train"
    assert set(rows["record_id"][side == "test"]) == set(rows["record_id"][rows["official_split"] == "test"])
    assert set(rows["official_split"][side == "validation"]) == {"train"}
    whole = rows.assign(official_split=side)
    assert make_split(whole, "holdout", 5).hash == make_split(whole, "holdout", 6).hash == split.hash
    assert make_split(rows, "kfold5", 0).source == "seeded"


def test_counterfactuals_follow_their_origin():
    rows = table(60)
    edits = rows.drop_duplicates("record_id").assign(
        counterfactual_of=lambda t: t["record_id"], record_id=lambda t: t["record_id"] + "e", image_hash=lambda t: t["image_hash"] + "e"
    )  # fmt: skip
    both = pd.concat([rows, edits], ignore_index=True)
    split = make_split(both, "holdout", 0)
    side = both.assign(side=split.sides_of(both)).drop_duplicates("record_id").set_index("record_id")["side"]
    assert all(side[record + "e"] == side[record] for record in rows["record_id"].unique())
    own = make_split(rows, "holdout", 0)
    assert (
        own.table["side"].tolist()
        == split.table.set_index("record_id").loc[own.table["record_id"].unique()]["side"].tolist()
    )


def test_leaks_are_refused_in_one_line():
    rows = table(sides=True)
    leak = rows.copy()
    leak.loc[0, "official_split"] = "test"
    leak.loc[1:, "official_split"] = leak.loc[1:, "official_split"].where(leak["patient"] != "p0", "train")
    for second in (leak, leak.assign(official_split=leak["official_split"].where(leak.index % 9 != 8, "validation"))):
        with pytest.raises(LeakError, match="patient p0") as error:
            make_split(second)
        assert "\n" not in str(error.value)
    same_image = rows.copy()
    first_test = int(np.flatnonzero(rows["official_split"] == "test")[0])
    same_image.loc[first_test, "image_hash"] = rows["image_hash"].iloc[0]
    with pytest.raises(LeakError, match="image of record"):
        make_split(same_image)
    same_pixels = rows.copy()  # one film under two headers
    same_pixels.loc[first_test, "pixel_hash"] = rows["pixel_hash"].iloc[0]
    with pytest.raises(LeakError, match="film of record"):
        make_split(same_pixels)


def test_what_cannot_be_split_says_why():
    with pytest.raises(ConfigError, match="choose one of: holdout, kfold5"):
        make_split(table(), "kfold7")
    with pytest.raises(ConfigError, match="choose 0 to 4"):
        make_split(table(), "kfold5", 0, 5)
    with pytest.raises(DataError, match="3 patients cannot be divided"):
        make_split(table(3))
    with pytest.raises(DataError, match="unknown official side"):
        make_split(table().assign(official_split=lambda t: np.where(t["patient"] == "p1", "dev", "train")))
    with pytest.raises(DataError, match="some films have no official side"):
        make_split(table().assign(official_split=lambda t: np.where(t["patient"] == "p1", "", "train")))


@pytest.mark.parametrize(
    ("found", "lacks"), [(("validation", "test"), "train"), (("train", "validation"), "test"), (("train",), "test")]
)
def test_films_of_one_official_side_are_never_dealt_out_anew(found, lacks):
    rows = table(60).assign(official_split=lambda t: np.where(t["patient"] < "p3", found[0], found[-1]))
    with pytest.raises(DataError, match=f"official sides without a film for {lacks}") as error:
        make_split(rows)
    assert "\n" not in str(error.value)
    assert make_split(rows, "kfold5").source == "seeded"  # asked for, and said


def test_a_phantom_without_training_exams_is_refused(tmp_path):
    said = here(
        "prepare", "phantom", "--out", tmp_path, "--quiet", *(
            word for pair in ("exams.train=0", "exams.validation=8", "exams.test=8", "size=64") for word in ("--set", pair)
        ),
    )  # fmt: skip
    assert "train" in said.error


def test_the_manifest_is_written_once(tmp_path):
    split = make_split(table())
    path = split.save(tmp_path / "splits")
    before = path.stat().st_mtime_ns
    assert split.save(tmp_path / "splits") == path and path.stat().st_mtime_ns == before
    assert pd.read_parquet(path).equals(split.table)
    assert [p.name for p in path.parent.iterdir()] == [f"{split.hash}.parquet"]
