"""What training sees: the right rows, in an order that neither workers nor a restart change, and no test row at all."""

import dataclasses
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.batch import Batch
from data.cache import Prepared, prepare
from data.errors import ConfigError, DataError
from data.inputs import Augment, Inputs, Roi, Stream
from data.loading import batches, step_sizes, steps_per_epoch
from data.samples import Samples, TrainingData
from tests import toy_films

ROI = Roi(strategy="box_scale", scale=1.5)
STREAMS = (Stream("train", 6), Stream("fine", 3, only="fine"), Stream("even", 6, samples_per_class=9))
INPUTS = Inputs((16, 16), "margin", STREAMS, ROI, Augment(recipe="window_turns", margin=1.25))
WHOLE = Inputs(
    (30, 20), "detection", (Stream("mass", 4, only="mass"), Stream("normal", 2, only="normal")), Roi(strategy="whole")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def prepared(folder: Path) -> Prepared:
    return prepare("toy_films", None, {"patients": 40, "normals": True}, folder)


@pytest.fixture(scope="module")
def training(prepared: Prepared) -> TrainingData:
    return prepared.training(prepared.split(), INPUTS)


def epoch(
    samples: Samples, inputs: Inputs = INPUTS, streams: tuple[str, ...] = ("train", "fine"), **more
) -> list[Batch]:
    settings = {"seed": 3, "stage": "joint", "epoch": 2, "augment": True, "shuffle": True} | more
    return list(batches(samples, inputs, streams, **settings))


def same(a: Batch, b: Batch) -> bool:
    tensors = ("image", "mask", "fine_mask", "label", "stream", "index")
    boxes = all(torch.equal(x, y) for x, y in zip(a.boxes, b.boxes, strict=True))
    return boxes and all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)


def test_shapes_ranges_and_labels(training):
    for batch in epoch(training.train):
        n = len(batch)
        assert batch.image.shape == batch.mask.shape == batch.fine_mask.shape == (n, 1, 16, 16)
        assert batch.image.dtype == batch.mask.dtype == torch.float32
        for name in ("image", "mask", "fine_mask"):
            assert getattr(batch, name).min() >= 0 and getattr(batch, name).max() <= 1
        rows = training.train.table.iloc[batch.index.numpy()]
        assert rows["margin"].tolist() == batch.label.tolist() == batch.margin.tolist()
        assert rows["malignant"].tolist() == batch.malignant.tolist()
        assert rows["has_fine"].tolist() == batch.has_fine.tolist() and batch.has_mask.all()
        assert (batch.fine_mask.amax(dim=(1, 2, 3))[~batch.has_fine] == 0).all()
        assert (batch.mask.amax(dim=(1, 2, 3)) > 0.9).all()
        assert len(batch.boxes) == n and all(box.shape == (1, 4) for box in batch.boxes)


def test_image_mask_and_box_belong_together(training):
    for batch in epoch(training.train):
        for image, mask, boxes in zip(batch.image, batch.mask, batch.boxes, strict=True):
            x0, y0, x1, y1 = (round(v) for v in boxes[0].tolist())
            inside = torch.zeros(16, 16)
            inside[y0:y1, x0:x1] = 1
            assert (inside - mask[0]).abs().mean() < 0.12
            assert image[0][mask[0] > 0.9].mean() > 0.7 > 0.5 > image[0][mask[0] < 0.1].mean()


def test_evaluation_sees_the_centre_in_table_order(training):
    found = list(batches(training.validation, INPUTS, (), batch_size=4))
    assert torch.cat([b.index for b in found]).tolist() == list(range(len(training.validation)))
    assert len(found[-1]) == (len(training.validation) - 1) % 4 + 1
    cached = training.validation.image[0] / 65535
    assert cached.shape == (20, 20)
    assert np.allclose(found[0].image[0, 0], cached[2:18, 2:18], atol=1e-6)
    fine = torch.cat([b.index for b in batches(training.train, INPUTS, ("fine",))])
    assert fine.tolist() == np.flatnonzero(training.train.table["has_fine"]).tolist()
    shares = [
        torch.cat([b.index for b in batches(training.train, INPUTS, ("train",), rank=r, world=3)]) for r in range(3)
    ]
    assert sorted(torch.cat(shares).tolist()) == list(range(len(training.train)))


def test_the_first_stream_is_walked_once_and_the_others_drawn_afresh(training):
    found = epoch(training.train)
    first = torch.cat([b.index[b.stream == 0] for b in found])
    assert sorted(first.tolist()) == list(range(len(training.train))) and first.tolist() != sorted(first.tolist())
    fine = [b.index[b.stream == 1] for b in found]
    assert all(len(set(draw.tolist())) == 3 for draw in fine)
    assert training.train.table["has_fine"].iloc[torch.cat(fine).numpy()].all()
    assert len({tuple(draw.tolist()) for draw in fine}) > 1
    assert len(found) == steps_per_epoch(training.train, INPUTS, ("train", "fine"))


def test_samples_per_class_evens_the_classes(training):
    found = epoch(training.train, streams=("even",))
    assert Counter(torch.cat([b.label for b in found]).tolist()) == {0: 9, 1: 9, 2: 9} and len(found) == 5
    assert training.train.epoch_length(STREAMS[2]) == 27
    assert {int(b.stream.unique()) for b in found} == {2}


@given(st.integers(1, 300), st.integers(1, 40))
def test_no_step_is_too_large_or_too_small(count, per_step):
    sizes = step_sizes(count, per_step)
    assert sum(sizes) == count and max(sizes) <= per_step and len(sizes) == -(-count // per_step)
    assert len(sizes) == 1 or 2 * min(sizes) >= per_step


@pytest.mark.parametrize("world", [2, 3, 4])
def test_workers_share_what_one_worker_sees(training, world):
    alone = epoch(training.train)
    ranks = [epoch(training.train, rank=rank, world=world) for rank in range(world)]
    assert {len(rank) for rank in ranks} == {len(alone)}
    for step, whole in enumerate(alone):
        parts = [rank[step] for rank in ranks]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        for rank, part in enumerate(parts):  # dealt out in turn: sample for sample, pixel for pixel
            assert torch.equal(part.index, whole.index[rank::world])
            assert torch.equal(part.image, whole.image[rank::world])
            assert torch.equal(part.mask, whole.mask[rank::world])


def test_loader_processes_change_nothing(training):
    assert all(same(a, b) for a, b in zip(epoch(training.train), epoch(training.train, workers=2), strict=True))


def test_an_epoch_needs_none_before_it(training):
    wanted = epoch(training.train, epoch=5)
    for number in range(5):
        torch.rand(3), np.random.default_rng().random()
        epoch(training.train, epoch=number)
    assert all(same(a, b) for a, b in zip(wanted, epoch(training.train, epoch=5), strict=True))


def test_torch_s_own_generator_is_left_alone(training):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    epoch(training.train)
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_stage_and_epoch_each_matter(training):
    usual = epoch(training.train)[0]
    for change in ({"seed": 4}, {"stage": "warm"}, {"epoch": 3}):
        assert not same(usual, epoch(training.train, **change)[0])


def test_whole_images_carry_the_boxes_of_all_masses(prepared):
    data = prepared.training(prepared.split(), WHOLE)
    table = data.train.table
    assert set(table["label"]) == {0, 1} and table["record_id"].is_unique and "attr_shape" not in table
    assert len(table) == (prepared.split().sides_of(prepared.table) == "train").sum()
    for batch in epoch(data.train, WHOLE, ("mass", "normal")):
        for label, stream, boxes, image in zip(batch.label, batch.stream, batch.boxes, batch.image, strict=True):
            assert int(label) == 1 - int(stream) == len(boxes)
            if len(boxes):
                x0, y0, x1, y1 = boxes[0].tolist()
                assert image[0, int(y0) + 1 : int(y1) - 1, int(x0) + 1 : int(x1) - 1].min() > 0.5
    assert data.validation_for("detection").track.name == "detection"


def test_one_training_serves_a_second_track(prepared):
    data = prepared.training(prepared.split(), INPUTS)
    other = data.validation_for("malignancy")
    assert other.track.name == "malignancy" and other.table["label"].tolist() == other.table["malignant"].tolist()
    batch = next(iter(batches(other, INPUTS)))
    assert batch.label.tolist() == batch.margin.tolist()  # Batch.label is what training uses


def test_streams_without_samples_are_named(prepared, training, tmp_path):
    normal = dataclasses.replace(INPUTS, streams=(Stream("train", 6), Stream("negatives", 3, only="normal")))
    with pytest.raises(DataError, match=r"'negatives' .only: normal."):
        epoch(training.train, normal, ("train", "negatives"))
    with pytest.raises(ConfigError, match="choose of: train, fine, even"):
        epoch(training.train, streams=("coarse",))
    with pytest.raises(ConfigError, match="names at least one stream"):
        epoch(training.train, streams=())
    with pytest.raises(ConfigError, match="cannot be divided among 40 workers"):
        epoch(training.train, world=40)


def reachable(value: object) -> Iterator[object]:
    """Everything that hangs on an object of ours."""
    yield value
    if dataclasses.is_dataclass(value) or type(value).__module__.startswith("data."):
        for child in vars(value).values():
            yield from reachable(child)
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from reachable(child)


def test_training_data_hold_no_test_row(prepared):
    split = prepared.split()
    test = split.table[split.table["side"] == "test"]
    for inputs in (INPUTS, WHOLE):
        data = prepared.training(split, inputs)
        assert {"train", "validation"} == set(data.train.table["side"]) | set(data.validation.table["side"])
        for value in reachable(data):
            if isinstance(value, pd.DataFrame):
                assert not set(value["record_id"]) & set(test["record_id"])
                assert not set(value["patient"]) & set(test["patient"])
        pixels = pd.read_parquet(prepared.ensure_pixels(prepared.spec_of(inputs)) / "rows.parquet")
        hidden = pixels["row"][pixels["record_id"].isin(set(test["record_id"]))]
        shown = np.concatenate([data.train.image._rows, data.validation.image._rows, data.validation_pool.image._rows])
        assert len(hidden) and not set(hidden) & set(shown)
        mapped = {id(view.base): view.base for view in data.train.image._views}
        assert sum(len(array) for array in mapped.values()) == len(data.train)  # no row beside its own is mapped


def test_train_and_validation_may_train_together(prepared, training):
    both = prepared.training(prepared.split(), INPUTS, "train+validation")
    assert len(both.train) == len(training.train) + len(training.validation) and both.split_hash == training.split_hash


def test_a_film_with_an_unknown_mass_is_no_detection_sample(folder):
    prepared = prepare("toy_films", None, {"patients": 24, "defect": "empty"}, folder, skip_bad=True)
    assert not prepared.table["record_id"].isin([toy_films.public_id("toy_films", "3")]).any()


def test_samples_survive_pickling(training):
    again = pickle.loads(pickle.dumps(training))
    assert all(same(a, b) for a, b in zip(epoch(training.train), epoch(again.train), strict=True))
