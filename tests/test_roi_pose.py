"""Which way films face, and the breast's own crop: boxes and masks go with them."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from data._breast import Pose, find_breast, pose_of
from data._store import PixelSpec
from data.cache import Prepared, prepare
from data.inputs import Inputs, Roi, Stream
from data.loading import batches
from data.phantom import Exams
from data.phantom import Options as PhantomOptions
from data.roi import cut, to_crop, to_film
from tests import toy_films  # noqa: F401 - registers the data set
from tests.cbis_tree import SOURCE, box_pixels, film_pixels
from tests.roi_boxes import FILM, boxes, rules


def test_boxes_of_a_flipped_cut_are_mirrored_and_come_back():
    box = np.array([[10.0, 20.0, 30.0, 60.0]])
    where = (0, 0, 100, 80)
    assert to_crop(box, where, (40, 50), True).tolist() == [[35.0, 10.0, 45.0, 30.0]]
    assert np.allclose(to_film(to_crop(box, where, (40, 50), True), where, (40, 50), True), box)


@settings(max_examples=40)
@given(boxes(), rules, st.sampled_from([1.0, 1.2]))
def test_a_flipped_cut_is_the_mirrored_cut(box, roi, margin):
    film = np.random.default_rng(0).integers(0, 4000, FILM)
    mask = np.zeros(FILM, dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    plain = cut(film, [mask], box, roi, (32, 24), margin)
    flipped = cut(film, [mask], box, roi, (32, 24), margin, pose=Pose(flipped=True))
    assert flipped.window == plain.window and flipped.flipped
    assert np.array_equal(flipped.image, plain.image[:, ::-1]) and np.array_equal(
        flipped.masks[0], plain.masks[0][:, ::-1]
    )
    back = to_film(flipped.to_crop(np.array([box])), flipped.window, flipped.image.shape, True)
    there = to_film(plain.to_crop(np.array([box])), plain.window, plain.image.shape)
    assert np.allclose(back, there, atol=1e-3)


def film_of(side: str, height: int = 300, width: int = 240) -> np.ndarray:
    """A bright half disc at one side, a label in the other upper corner, noise."""
    rows, columns = np.mgrid[:height, :width]
    breast = ((rows - 150) / 110) ** 2 + (columns / 150) ** 2 < 1
    film = 200.0 * breast + np.random.default_rng(0).normal(20, 3, (height, width))
    film[10:30, width - 40 : width - 10] = 255
    return film if side == "left" else film[:, ::-1]


def test_a_film_stands_by_its_breast_or_by_its_side():
    left, right = film_of("left"), film_of("right")
    seen, named = Roi(flip="breast_left"), Roi(flip="right_breasts")
    for laterality in "LR":
        assert not pose_of(left, laterality, seen).flipped and pose_of(right, laterality, seen).flipped
        assert (
            pose_of(left, laterality, named).flipped == pose_of(right, laterality, named).flipped == (laterality == "R")
        )
        assert pose_of(right, laterality, Roi()) == Pose()


def test_the_crop_holds_the_breast_and_not_the_label():
    whole = Roi(strategy="whole", crop="breast")
    pose = pose_of(film_of("left"), "L", whole)
    assert pose.breast is not None and not pose.missed and not pose.flipped
    x0, y0, x1, y1 = pose.breast
    assert x0 == 0 and 28 <= y0 <= 40 and 148 <= x1 <= 170 and 260 <= y1 <= 272
    region = cut(film_of("left"), [], None, whole, (60, 40), pose=pose)
    assert region.window == pose.breast and region.image.shape == (60, 40)
    mirrored = pose_of(film_of("right"), "R", whole.model_copy(update={"flip": "breast_left"}))
    assert mirrored.flipped and mirrored.breast == (240 - x1, y0, 240 - x0, y1)
    assert pose_of(film_of("left"), "L", Roi(crop="breast")) == Pose()  # a rule for whole films


@pytest.mark.parametrize("film", [np.full((300, 240), 7.0), np.eye(300) * 9.0], ids=["flat", "a scratch"])
def test_a_film_without_a_breast_is_taken_whole_and_that_is_noted(film):
    roi = Roi(strategy="whole", crop="breast", flip="breast_left")
    assert find_breast(film) is None
    assert pose_of(film, "R", roi) == Pose(flipped=False, breast=None, missed=True)
    film = film.copy()
    film[0, 0] = -1
    assert cut(film, [], None, roi, (30, 24), pose=pose_of(film, "R", roi)).window == (0, 0, film.shape[1], 300)


def test_real_films_keep_their_masses_and_turn_as_they_show():
    """Five real films, reduced (tests/data/cbis_ddsm)."""
    for name, shares in json.loads((SOURCE / "boxes.json").read_text()).items():
        film = film_pixels(name, (512, 320))
        found = find_breast(film)
        assert found is not None
        (x0, y0, x1, y1), right = found
        for share in shares:
            box = box_pixels(share, (512, 320))
            assert x0 <= box[0] and y0 <= box[1] and box[2] <= x1 and box[3] <= y1
        middle = ndimage.center_of_mass(film.astype(float) - film.min())[1]
        assert right == (middle > 160)


@pytest.fixture(scope="module")
def both_sides(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    options = {"exams": {"train": 6, "validation": 3, "test": 3}, "views": 4, "size": 128, "level": "easy"}
    return prepare("phantom", None, options, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("flip", ["breast_left", "right_breasts"])
@pytest.mark.parametrize("crop", ["none", "breast"])
def test_breasts_of_both_sides_come_to_lie_on_one(both_sides: Prepared, flip: str, crop: str) -> None:
    """Flipped once, noted, and boxes and masks with it; left breasts stay as they are."""
    prepared, split = both_sides, both_sides.split()
    roi = Roi.model_validate({"strategy": "whole", "flip": flip, "crop": crop})
    inputs = Inputs((96, 60), "detection", (Stream("train", 4),), roi)
    plain = prepared.training(split, Inputs((96, 60), "detection", (), Roi(strategy="whole", crop=roi.crop))).train
    train = prepared.training(split, inputs).train
    assert set(train.table["laterality"]) == {"L", "R"} and not train.table["no_breast"].any()
    assert (train.table["flipped"] == (train.table["laterality"] == "R")).all() and not plain.table["flipped"].any()
    columns = ["wx0", "wy0", "wx1", "wy1"]
    assert train.table[columns].equals(plain.table[columns])
    assert (train.table["wx1"] - train.table["wx0"] < train.table["width"]).mean() == (1.0 if crop == "breast" else 0.0)
    for i in range(len(train)):
        right = bool(train.table["flipped"][i])
        assert np.array_equal(train.image[i], plain.image[i][:, ::-1] if right else plain.image[i])
        assert np.array_equal(train.mask[i], plain.mask[i][:, ::-1] if right else plain.mask[i])
        assert train.image[i][:, :30].mean() > train.image[i][:, 30:].mean()
        for box in train.boxes[i]:
            x0, y0, x1, y1 = box
            inside = train.mask[i][int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]
            assert (
                inside.sum() > 0.6 * train.mask[i].astype(float).sum() > 0
            )  # the box is the mass without its spicules
        film_boxes = prepared.table.loc[
            (prepared.table["record_id"] == train.table["record_id"][i]) & (prepared.table["kind"] == "mass"),
            ["x0", "y0", "x1", "y1"],
        ].to_numpy()
        row = train.table.iloc[i]
        where = (int(row["wx0"]), int(row["wy0"]), int(row["wx1"]), int(row["wy1"]))
        assert np.allclose(to_film(train.boxes[i], where, (96, 60), right), film_boxes, atol=0.01)
    for batch in batches(train, inputs):  # and not a second time
        for row, image in zip(batch.index, batch.image, strict=True):
            assert np.allclose(image[0].numpy(), train.image[int(row)] / 65535, atol=1e-6)


def test_an_edited_film_stands_as_its_origin_does(tmp_path):
    options = PhantomOptions(exams=Exams(train=4, validation=2, test=3), size=128, counterfactuals=True)
    prepared = prepare("phantom", None, options, tmp_path)
    roi = Roi(strategy="whole", crop="breast", flip="breast_left")
    pixels = prepared.ensure_pixels(PixelSpec(roi, (48, 30), unit="image"))
    index = pd.read_parquet(pixels / "rows.parquet").set_index("record_id")
    films = prepared.table.drop_duplicates("record_id").set_index("record_id")
    edits = films[films["counterfactual_of"] != ""]
    same = ["wx0", "wy0", "wx1", "wy1", "flipped", "grey_low"]
    assert len(edits) > 3
    for name, origin in edits["counterfactual_of"].items():
        assert index.loc[name, same].tolist() == index.loc[origin, same].tolist()
