"""The same network with random weights: what it is built from, and what an evaluation keeps of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import models
from bench.config import Job
from bench.engine.evaluate import evaluate
from bench.engine.loop import Settings
from bench.engine.run import build
from bench.engine.worker import Worker
from bench.home import Home
from bench.metrics import Frame, compute, explain, unavailable
from bench.metrics.maps import UNTRAINED
from bench.plan import Ready
from data.samples import Samples
from models.method import Method
from tests.toy import toy_batch, toy_config, toy_method, train_all
from tests.toy_cells import LINEAR, toy_cell
from tests.toy_engine import Tiny

pytestmark = pytest.mark.long

METHODS = models.names()


# ---- the copy -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", METHODS)
def test_an_untrained_copy_has_nothing_of_the_trained_one_but_its_shape(name: str) -> None:
    track = next(iter(models.load(name).card.tracks.values()))
    method = toy_method(name, track)
    train_all(method, [toy_batch(6, classes=len(method.task.classes), seed=s, first_row=6 * s) for s in range(3)])
    before = {key: value.clone() for key, value in method.state_dict().items()}
    copies = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        copies.append(method.untrained().eval())
    for key, value in dict(method.named_parameters()).items():
        one, other = (dict(copy.named_parameters())[key] for copy in copies)
        assert one.shape == value.shape, key
        drawn = len(one.unique()) > 8  # biases and the last layer of prototypes start from constants
        assert not drawn or not (torch.equal(one, other) or torch.equal(one, value)), f"{key} is no draw of its own"
    batch = toy_batch(4, classes=len(method.task.classes))
    assert {k: v.shape for k, v in copies[0].maps(batch, batch.label).items()} == {
        k: v.shape for k, v in method.maps(batch, batch.label).items()
    }
    assert all(torch.equal(v.nan_to_num(), before[k].nan_to_num()) for k, v in method.state_dict().items())


@pytest.mark.parametrize("name", [name for name in METHODS if "weights" in models.load(name).Config.model_fields])
def test_an_untrained_copy_starts_from_no_weights_whatever_the_settings_say(name: str) -> None:
    method = toy_method(name, next(iter(models.load(name).card.tracks.values())))
    method.config = toy_config(name, width=1.0, weights="imagenet")
    assert method.untrained().config == method.config.model_copy(update={"weights": "none"})


def test_imagenet_weights_are_not_in_the_untrained_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the file on the machine the method starts from it, and its untrained copy does not."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    from models._trunks import imagenet_file

    method = toy_method("vgg16", width=1.0)
    state = {key: value for key, value in method.trunk.state_dict().items() if key.startswith("features.")}
    file = imagenet_file("none")
    file.parent.mkdir(parents=True)
    torch.save(state, file)
    started = toy_method("vgg16", seed=5, width=1.0, weights="imagenet")
    first = started.trunk.features[0].weight
    assert torch.equal(first, state["features.0.weight"])
    assert not torch.equal(started.untrained().trunk.features[0].weight, first)


# ---- what an evaluation keeps ---------------------------------------------------------------------------------------
SETTINGS = {"vgg16": LINEAR, "protopnet": {"topk_k": 1}}


def run_of(tiny: Tiny, folder: Path, method: str, seed: int = 1) -> tuple[Job, Method, Samples]:
    above = Ready(Home.at(folder), toy_cell(method, SETTINGS[method]), tiny.prepared)
    job = above.job(above.spec(above.base, seed=seed), folder / "run")
    made = build(job, above.prepared)
    return job, made, tiny.training(made.inputs()).validation


def frame_of(job: Job, method: Method, samples: Samples, track: str = "margin") -> Frame:
    frame = evaluate(job, method, samples, track, "validation", Worker(), Settings(seed=job.spec.seed))
    frame.validate()
    return frame


def untrained_of(frame: Frame) -> pd.DataFrame:
    assert frame.maps is not None
    entries = frame.maps.entries
    return entries[entries["map"].str.startswith(UNTRAINED)]


def masked_where(samples: Samples, kept_N: np.ndarray) -> Samples:
    """The same samples, of which those alone have masks."""
    return replace(samples, table=samples.table.assign(has_mask=kept_N, has_fine=kept_N))


@pytest.mark.parametrize(("method", "judged"), [("vgg16", "gradcam"), ("protopnet", "evidence")])
def test_a_frame_holds_the_maps_of_an_untrained_copy(tiny: Tiny, tmp_path: Path, method: str, judged: str) -> None:
    job, made, samples = run_of(tiny, tmp_path, method)
    frame = frame_of(job, made, samples)
    entries = untrained_of(frame)
    assert explain.chosen_map(frame) == judged
    assert set(entries["map"]) == {UNTRAINED + judged}, "the map that is judged, and no other"
    assert set(entries["of"]) == {"true"}
    labels = frame.predictions.set_index("record_id")["label"]
    assert (entries["class"].to_numpy() == labels.loc[entries["record_id"]].to_numpy()).all()
    each = entries.groupby(["record_id", "finding_id"]).size()
    assert len(each) == (labels >= 0).sum() and set(each) == {5 if judged == "evidence" else 1}
    found = compute(frame)
    assert found["blind_random_lesion"].value is not None and found["blind_random_lesion"].n == len(each)
    assert "no untrained copy" not in (found["skill_lesion"].note if "skill_lesion" in found else "")


def test_its_weights_follow_from_the_seed_and_not_from_the_training(tiny: Tiny, tmp_path: Path) -> None:
    values = {}
    for name, seed, shift in (("one", 1, 0.0), ("trained", 1, 0.3), ("other seed", 2, 0.0)):
        job, method, samples = run_of(tiny, tmp_path / name, "protopnet", seed)
        with torch.no_grad():
            for parameter in method.parameters():
                parameter += shift
        torch.manual_seed(len(values))
        state = torch.random.get_rng_state()
        frame = frame_of(job, method, samples)
        assert torch.equal(torch.random.get_rng_state(), state), "what comes after is drawn as without it"
        assert frame.maps is not None
        entries = untrained_of(frame)
        key = entries["key"].iloc[0]
        values[name] = frame.maps.read(entries[entries["key"] == key])
    assert np.array_equal(values["one"], values["trained"])
    assert values["one"].shape == values["other seed"].shape
    assert not np.allclose(values["one"], values["other seed"])


def test_samples_without_a_mask_get_no_untrained_map(tiny: Tiny, tmp_path: Path) -> None:
    job, method, samples = run_of(tiny, tmp_path, "vgg16")
    kept = np.arange(len(samples)) == 0
    frame = frame_of(job, method, masked_where(samples, kept))
    assert list(untrained_of(frame)["record_id"]) == [samples.table["record_id"].iloc[0]]
    assert compute(frame, ["blind_random_lesion"])["blind_random_lesion"].n == 1
    bare = frame_of(job, method, masked_where(samples, np.zeros(len(samples), bool)))
    assert not len(untrained_of(bare))
    assert unavailable(bare)["blind_random_lesion"] == "no row has a lesion mask"


@pytest.mark.parametrize("method", ["vgg16", "protopnet"])
def test_a_row_of_unknown_class_has_the_maps_of_the_predicted_one_alone(
    tiny: Tiny, tmp_path: Path, method: str
) -> None:
    job, made, samples = run_of(tiny, tmp_path, method)
    samples = replace(samples, table=samples.table.assign(margin=[-1, *samples.table["margin"][1:]]))
    frame = frame_of(job, made, samples)
    unknown = samples.table["record_id"].iloc[0]
    assert unknown not in set(untrained_of(frame)["record_id"])
    assert frame.maps is not None
    mine = frame.maps.entries[frame.maps.entries["record_id"] == unknown]
    assert set(mine["of"]) == {"predicted"} and (mine["class"] >= 0).all()
    assert compute(frame, ["blind_random_lesion"])["blind_random_lesion"].n == len(samples.table) - 1


def test_on_a_further_track_it_is_judged_by_the_class_that_was_predicted(tiny: Tiny, tmp_path: Path) -> None:
    job, method, _ = run_of(tiny, tmp_path, "protopnet")
    data = tiny.training(method.inputs())
    frame = frame_of(job, method, data.validation_for("malignancy"), "malignancy")
    entries = untrained_of(frame)
    assert set(entries["map"]) == {UNTRAINED + "cav"} and set(entries["of"]) == {"predicted"}
    assert frame.maps is not None
    own = frame.maps.entries
    own = own[own["map"] == "cav"].set_index("record_id")["class"]
    assert (own.loc[entries["record_id"]].to_numpy() == entries["class"].to_numpy()).all()
    assert "blind_random_lesion" in compute(frame)


def test_a_map_of_a_class_that_is_true_and_predicted_is_kept_once(tiny: Tiny, tmp_path: Path) -> None:
    frame = frame_of(*run_of(tiny, tmp_path, "protopnet"))
    assert frame.maps is not None
    entries = frame.maps.entries
    assert not entries.duplicated(["record_id", "finding_id", "map", "class", "source"]).any()
    label = frame.predictions["label"].to_numpy()
    right = dict(zip(frame.predictions["record_id"], frame.predicted == label, strict=True))
    own = entries[entries["map"] == "cav"]
    for record, of in own.groupby("record_id")["of"].agg(lambda column: tuple(sorted(column))).items():
        assert of == (("both",) if right[record] else ("predicted", "true"))
