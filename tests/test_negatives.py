"""Lesion-free regions: of the training side alone, free of lesions, mostly breast, drawn once per seed."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data._negatives import BREAST, PER_FILM, lesion_free, sizes, sources
from data.cache import Prepared, prepare
from data.errors import DataError
from data.inputs import Inputs, Roi, Stream
from data.loading import batches
from data.record import Record
from data.roi import window
from data.samples import TrainingData, side_samples

ROI = Roi(strategy="box_scale", scale=1.5)
STREAMS = (Stream("train", 8), Stream("negatives", 4, only="negative"))
INPUTS = Inputs((16, 16), "margin", STREAMS, ROI, negatives=20)
PHANTOM = {"size": 128, "exams": {"train": 16, "validation": 4, "test": 4}}


def breast_of(size: int) -> np.ndarray:
    """A film whose left half is breast."""
    film = np.zeros((size, size), np.uint16)
    film[:, : size // 2] = np.random.default_rng(0).integers(500, 1000, (size, size // 2))
    return film


@given(st.integers(20, 200), st.text(min_size=1, max_size=6), st.integers(0, 60), st.integers(0, 60))
def test_regions_meet_no_lesion_and_lie_on_the_breast(size: int, record: str, x: int, y: int) -> None:
    lesion, film = (x, y, x + 15, y + 10), breast_of(size)
    found = lesion_free(film, record, [lesion], [(8, 8), (12, 10)], ROI, 1.0)
    assert len(found) <= PER_FILM
    for box in found:
        x0, y0, x1, y1 = window(box, film.shape, ROI)
        assert x1 <= lesion[0] or x0 >= lesion[2] or y1 <= lesion[1] or y0 >= lesion[3]
        assert (film[max(y0, 0) : y1, max(x0, 0) : x1] > 0).mean() >= BREAST - 0.2
    assert found == lesion_free(film, record, [lesion], [(8, 8), (12, 10)], ROI, 1.0)


def test_where_the_lesion_fills_the_breast_there_is_none() -> None:
    assert lesion_free(breast_of(60), "a", [(0, 0, 60, 60)], [(8, 8)], ROI, 1.0) == []


@pytest.fixture(scope="module", params=["phantom", "phantom with normals"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    options = PHANTOM | ({"normal_share": 0.4} if "normals" in request.param else {})
    return prepare("phantom", None, options, tmp_path_factory.mktemp("cache"))


def training(prepared: Prepared, seed: int = 1, inputs: Inputs = INPUTS) -> TrainingData:
    return prepared.training(prepared.split(), inputs, seed=seed)


def test_they_are_of_training_films_alone(prepared: Prepared) -> None:
    found = training(prepared)
    regions = found.train.table[found.train.table["kind"] == "negative"]
    side = prepared.split().table.drop_duplicates("record_id").set_index("record_id")["side"]
    assert len(regions) == INPUTS.negatives and set(side[regions["record_id"]]) == {"train"}
    assert not (found.validation.table["kind"] == "negative").any()
    has_normals = (prepared.table["has_mass"] == 0).any()
    of_normals = prepared.table.set_index("record_id").loc[regions["record_id"], "has_mass"]
    assert (of_normals == 0).all() == has_normals


def test_no_lesion_is_in_a_region(prepared: Prepared) -> None:
    regions = training(prepared).train.table.query("kind == 'negative'")
    lesions = prepared.table[prepared.table["kind"] == "mass"].groupby("record_id")
    for region in regions.itertuples():
        if region.record_id in lesions.groups:
            for lesion in lesions.get_group(region.record_id).itertuples():
                apart = (
                    region.wx1 <= lesion.x0,
                    region.wx0 >= lesion.x1,
                    region.wy1 <= lesion.y0,
                    region.wy0 >= lesion.y1,
                )
                assert any(apart)


def test_they_are_drawn_once_per_seed(prepared: Prepared) -> None:
    def chosen(seed: int) -> list[tuple[str, str]]:
        table = training(prepared, seed).train.table.query("kind == 'negative'")
        return list(zip(table["record_id"], table["finding_id"], strict=True))

    assert chosen(1) == chosen(1) and chosen(1) != chosen(2)


def test_batches_hold_them_in_their_stream_alone(prepared: Prepared) -> None:
    train = training(prepared).train
    kinds = train.table["kind"].to_numpy()
    for batch in batches(train, INPUTS, ("train", "negatives"), shuffle=True, seed=3):
        negative = kinds[batch.index.numpy()] == "negative"
        assert np.array_equal(negative, batch.stream.numpy() == 1)
        assert (batch.label.numpy()[negative] == -1).all() and (batch.label.numpy()[~negative] >= 0).all()
        assert batch.has_mask.numpy()[negative].all() and batch.has_fine.numpy()[negative].all()
        assert not batch.mask[negative].any() and not batch.fine_mask[negative].any()
        assert batch.image[negative].std() > 0
    plain = [index for batch in batches(train, INPUTS) for index in batch.index.tolist()]
    assert plain == np.flatnonzero(kinds == "mass").tolist()


def test_the_other_samples_are_as_without_them(prepared: Prepared) -> None:
    with_them = training(prepared).train
    without = training(prepared, inputs=replace(INPUTS, negatives=0, streams=STREAMS[:1])).train
    pd.testing.assert_frame_equal(with_them.table.iloc[: len(without)], without.table, check_dtype=False)
    assert all(np.array_equal(with_them.image[i], without.image[i]) for i in range(len(without)))


def test_how_many_there_are_is_told_for_the_record(prepared: Prepared) -> None:
    """Fewer than asked for where the films hold no more: a figure of the run, not a warning alone."""
    asked = training(prepared)
    with pytest.warns(UserWarning, match="1000000 are asked for"):
        most = training(prepared, inputs=replace(INPUTS, negatives=10**6))
    assert asked.facts()["lesion_free"] == 20 and 20 < most.facts()["lesion_free"] < 10**6
    masses = asked.train.table.query("kind == 'mass'")
    assert asked.facts()["samples"] == len(masses) == most.facts()["samples"]
    assert asked.facts()["has_mask"] == masses["has_mask"].sum() > 0


def test_they_travel_to_another_process(prepared: Prepared) -> None:
    train = training(prepared).train
    again = pickle.loads(pickle.dumps(train))
    last = train.select([len(train) - 1, 0])
    assert np.array_equal(again.image[len(train) - 1], train.image[len(train) - 1])
    assert np.array_equal(last.image[0], train.image[len(train) - 1]) and np.array_equal(last.image[1], train.image[0])


def test_none_is_asked_for_and_a_stream_wants_some(prepared: Prepared) -> None:
    train = training(prepared, inputs=replace(INPUTS, negatives=0)).train
    with pytest.raises(DataError, match="no train sample for the stream 'negatives'"):
        train.members(STREAMS[1])


def test_sizes_are_those_of_masses(prepared: Prepared) -> None:
    table = prepared.table[prepared.table["kind"] == "mass"]
    widths = [w for w, _ in sizes(prepared.table)]
    assert min(widths) == (table["x1"] - table["x0"]).min() and max(widths) == (table["x1"] - table["x0"]).max()
    assert sizes(prepared.table[prepared.table["kind"] == "none"]) == []


def manifest(folder: Path, normal_on: str = "none", lost: bool = False) -> Path:
    """Twelve films of a mass each; one film of `normal_on` is normal. Masses of the test side are larger."""
    folder.mkdir()
    lines = ["image,patient,laterality,view,finding,box,split"]
    for number in range(12):
        side = ("train", "train", "validation", "test")[number % 4]
        grey = np.random.default_rng(number).integers(100, 255, (96, 96), dtype=np.uint8)
        grey[:, 80:] = 0
        Image.fromarray(grey).save(folder / f"{number}.png")
        size = 30 if side == "test" else 10
        normal = number < 4 and side == normal_on and number != 1
        said = "normal," if normal else f"mass,5 5 {5 + size} {5 + size}"
        lines.append(f"{number}.png,P{number},L,CC,{said},{side}")
        if lost:
            lines.append(f"{number}.png,P{number},L,CC,mass,9 9,{side}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def negatives_of(folder: Path, cache: Path, count: int = 12, **tree: Any) -> pd.DataFrame:
    own = prepare("manifest", manifest(folder, **tree), None, cache, skip_bad=True)
    split = own.split()
    films = split.table.loc[split.table["side"] == "train", "record_id"].unique().tolist()
    inputs = replace(INPUTS, negatives=count)
    pixels = own.ensure_pixels(own.spec_of(inputs))
    train = side_samples(
        own.table, split, ["train"], pixels, own.spec_of(inputs), inputs, own.passport["record_attributes"]
    )
    return own._with_negatives(train, films, inputs, 1).table.query("kind == 'negative'")


def test_the_test_side_decides_nothing(tmp_path: Path) -> None:
    """Neither its normal films nor the sizes of its masses; and its films are not decoded."""
    found = negatives_of(tmp_path / "a", tmp_path / "c", normal_on="test")
    plain = negatives_of(tmp_path / "b", tmp_path / "d")
    assert len(found) == 12 and found["finding_id"].tolist() == plain["finding_id"].tolist()
    [index] = (tmp_path / "c").glob("*/pixels/*-*/rows.parquet")
    assert pd.read_parquet(index)["record_id"].nunique() == 6  # the training films
    assert ((found["wx1"] - found["wx0"]) <= 2 * 10).all()


def test_normal_films_of_the_training_side_are_preferred(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"4 lesion-free regions in the 6 training films of manifest, 12 are asked for"
    ):
        found = negatives_of(tmp_path / "a", tmp_path / "c", normal_on="train")
    assert found["record_id"].nunique() == 1


def test_films_that_lost_a_mass_give_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no lesion-free region in the 6 training films") as error:
        negatives_of(tmp_path / "a", tmp_path / "c", lost=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("normal", [0, 1])
def test_sources_know_every_lesion(normal: int) -> None:
    columns = {"record_id": ["a", "b"], "counterfactual_of": "", "has_mass": 1 - normal, "lesions_known": [True, False]}
    records = [Record("d", name, name, "L", "CC", image=None) for name in "ab"]  # type: ignore[arg-type]
    assert [record.record_id for record in sources(records, pd.DataFrame(columns))] == ["a"]
