"""Knowledge transfer: Eq. 3-5, the teacher and its cached maps, and what the student is without it."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import models
from data.augment import posed
from data.errors import ConfigError
from models import _transfer as transfer
from models.densenet121 import DenseNet121
from models.densenet121_kt import DenseNet121Kt, teacher_run
from models.method import Stage
from tests import parity
from tests.toy import subset, toy_batch, toy_config, toy_method, train

STAGE = Stage("train")


def student(**more: Any) -> DenseNet121Kt:
    """With a teacher of random weights, another one than the student."""
    method = toy_method("densenet121_kt", **more)
    assert isinstance(method, DenseNet121Kt)
    kind, torch_seed = models.load(method.config.teacher_method), 7
    torch.manual_seed(torch_seed)
    method.start_from("teacher", kind(kind.Config(**teacher_run(method.config)), method.task).state_dict())
    return method


# ---- Eq. 3-5 -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("prefix", ["07", "11"])
def test_golden(dtype: str, prefix: str) -> None:
    (file,) = parity.GOLDEN.glob(f"{prefix}_*.npz")
    found = parity.checks(file, dtype)
    assert len(found) > 15
    assert [check.name for check in found if not check.share <= 1] == []


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
@settings(max_examples=30)
def test_a_distance_knows_no_scale_and_no_sign_of_channels(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = (torch.from_numpy(rng.normal(size=(2, 5, 4, 4))) for _ in range(2))
    d = transfer.distance(transfer.activation_map(a), transfer.activation_map(b))
    again = transfer.distance(transfer.activation_map(-a * scale), transfer.activation_map(b))
    torch.testing.assert_close(again, d, rtol=1e-9, atol=1e-9)
    assert bool((d >= 0).all()) and bool((d <= 2**0.5).all())


def test_equal_and_empty_maps_have_a_distance_and_a_gradient() -> None:
    a = torch.rand(2, 3, 4, 4, requires_grad=True)
    same = transfer.distance(transfer.activation_map(a.detach()), transfer.activation_map(a))
    empty = transfer.distance(torch.zeros(2, 4, 4), transfer.activation_map(a * 0))
    (same.sum() + empty.sum()).backward()
    assert same.tolist() == empty.tolist() == [0, 0] and a.grad is not None and bool(a.grad.isfinite().all())


def test_a_teacher_of_other_cells_is_resized() -> None:
    coarse = torch.zeros(1, 2, 2)
    coarse[0, 0, 0] = 1
    fine = torch.zeros(1, 4, 4)
    fine[0, :2, :2] = 1
    turned = fine.flip(1)
    assert transfer.distance(coarse, fine) < 0.5 < transfer.distance(coarse, turned)


# ---- the teacher -------------------------------------------------------------------------------------------------
def test_the_teacher_is_trained_on_masks_once_for_all_trials() -> None:
    config = toy_config("densenet121_kt")
    [need] = models.load("densenet121_kt").requires(config, student().task)
    assert need.method == "densenet121" and need.config["picture"] == "mask" and need.track == "margin"
    searched = config.model_copy(update={"lr": 1e-2, "beta": 3.0, "groups": (1, 2), "form": "at_code", "epochs": 9})
    assert models.load("densenet121_kt").requires(searched, student().task) == [need]
    for changes in ({"beta": 0.0}, {"teacher": "same_weights"}):
        assert models.load("densenet121_kt").requires(config.model_copy(update=changes), student().task) == []
    with pytest.raises(ConfigError, match="size is shared with the run that starts"):
        teacher_run(config.model_copy(update={"teacher_settings": {"size": 64}}))


@pytest.mark.parametrize("tap", ["post_norm", "block_out"])
def test_teacher_and_student_are_read_at_one_tap(tap: str) -> None:
    """A teacher of the student's own weights that is shown the student's own picture has its very maps."""
    method = student(tap=tap)
    twin = toy_method("densenet121")
    twin.load_state_dict({key: value for key, value in method.state_dict().items() if "map_distances" not in key})
    method._take(twin, twin.state_dict())
    image = torch.rand(2, 1, 32, 32)
    method.eval()
    with torch.no_grad():
        own, shown = method._own_maps(image), method._shown(image)
    assert set(own) == set(shown) == {1, 2, 3, 4}
    assert all(torch.equal(own[group], shown[group]) for group in own)


def test_workers_and_steps_do_not_change_what_a_lesion_weighs() -> None:
    """Samples without a mask count as nothing to transfer: the mean over halves of a batch is that over the whole."""
    method = student().eval()
    batch = toy_batch(8)
    batch.has_mask[:] = torch.tensor([1, 1, 1, 0, 1, 0, 0, 1]).bool()
    halves = [subset(batch, range(4)), subset(batch, range(4, 8))]
    whole, *parts = (method(one, STAGE)["transfer_4"].value.item() for one in (batch, *halves))
    assert whole == pytest.approx(sum(parts) / 2)


def test_its_maps_are_made_once_for_each_mask_in_all_poses() -> None:
    method, looked = student(), [0]
    original = method._look

    def look(masks: Tensor) -> list[Tensor]:
        looked[0] += 1
        return original(masks)

    method._look = look  # type: ignore[method-assign]
    batch = toy_batch(6)
    every = torch.ones(6, dtype=torch.bool)
    first = method.teacher_maps(batch, every)
    assert looked[0] == 6
    alone = method.teacher_maps(subset(batch, [3]), every[:1])
    assert torch.equal(alone[0], first[0][3:4]), "whatever else stands in the step"
    turned = subset(batch, range(6))
    turned.mask, turned.pose = posed(batch.mask, 5), torch.full((6,), 5)
    kept = method.teacher_maps(turned, every)
    assert looked[0] == 6, "every pose of a mask that was seen is there"
    fresh = student()  # the same teacher, which meets the masks in this pose first
    torch.testing.assert_close(fresh.teacher_maps(turned, every)[0], kept[0])
    torch.testing.assert_close(kept[0], torch.cat([original(mask[None])[0] for mask in turned.mask]))
    assert not torch.equal(kept[0], first[0])
    turned.pose = torch.full((6,), -1)
    method.teacher_maps(turned, every)
    assert looked[0] == 12, "a pose that is none of the eight is looked at afresh"


def test_it_is_no_part_of_the_student() -> None:
    method = student()
    own = {name for name in method.state_dict() if not name.startswith("map_distances.")}
    assert own == toy_method("densenet121").state_dict().keys()
    teacher = method._taught_by[0]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    train(method, method.stages()[0], [toy_batch(6)], steps=3, plain_lr=1e-2)
    assert (
        all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items()) and not teacher.training
    )


def test_another_network_may_teach() -> None:
    settings = {"weights": "none", "norm": "batch", "head": "pool_linear", "trunk_blocks": 4}
    method = student(teacher_method="vgg16", teacher_settings=settings)
    assert float(method(toy_batch(6), STAGE)["transfer_4"].value.detach()) > 0
    with pytest.raises(ConfigError, match="the student is fed with films"):
        toy_method("densenet121_kt", picture="mask")


def test_same_weights_is_the_students_own_start() -> None:
    method = toy_method("densenet121_kt", teacher="same_weights")
    assert isinstance(method, DenseNet121Kt)
    start = {name: value.clone() for name, value in method.trunk.state_dict().items()}
    train(method, method.stages()[0], [toy_batch(6)], steps=3, plain_lr=1e-2)
    teacher = method._taught_by[0].trunk.state_dict()
    assert all(torch.equal(teacher[name], value) for name, value in start.items())
    assert not all(torch.equal(method.trunk.state_dict()[name], value) for name, value in start.items())


# ---- the student -------------------------------------------------------------------------------------------------
def test_without_beta_it_is_densenet121_to_the_bit() -> None:
    plain, ours = toy_method("densenet121"), toy_method("densenet121_kt", beta=0.0)
    assert ours.supervision == "label" and student().supervision == "label + mask"
    for method in (plain, ours):
        method.train()
    a, b = plain(toy_batch(6), STAGE), ours(toy_batch(6), STAGE)
    assert list(a) == list(b) == ["cross_entropy"] and torch.equal(a["cross_entropy"].value, b["cross_entropy"].value)


def test_only_samples_with_a_mask_are_taught() -> None:
    method, batch = student(), toy_batch(6)
    method.eval()
    batch.has_mask[2:] = False
    some = float(method(batch, STAGE)["transfer_4"].value.detach())
    alone = float(method(subset(batch, [0, 1]), STAGE)["transfer_4"].value.detach())
    assert some == pytest.approx(alone * 2 / 6, rel=1e-5)  # a mean over all samples of the step
    batch.has_mask[:] = False
    assert list(method(batch, STAGE)) == ["cross_entropy"]


@pytest.mark.long
@pytest.mark.parametrize("form", ["l2", "l2_squared", "at_code"])
def test_transfer_alone_brings_the_maps_together(form: str) -> None:
    method, batch = student(form=form, groups=(4, 3)), toy_batch(6)

    def apart() -> float:
        method.train()
        with torch.no_grad():
            return float(sum(method(batch, STAGE)[f"transfer_{group}"].value for group in (3, 4)))

    before = apart()
    optimiser = torch.optim.Adam(method.trunk.parameters(), lr=3e-3)
    for _ in range(15):
        optimiser.zero_grad()
        loss = method(batch, STAGE)
        (loss["transfer_3"].value + loss["transfer_4"].value).backward()
        optimiser.step()
    assert apart() < 0.7 * before


# ---- DenseNet121 -------------------------------------------------------------------------------------------------
def test_groups_have_the_published_shapes_and_parameters() -> None:
    method = models.load("densenet121")(models.load("densenet121").Config(weights="none"), student().task)
    with torch.no_grad():
        shapes = [tuple(value.shape[1:]) for value in method.activations(torch.rand(1, 1, 224, 224)).values()]
    assert shapes == [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (1024, 7, 7)]
    counts = [
        sum(p.numel() for p in method.trunk.features.get_submodule(f"denseblock{j}").parameters()) for j in (1, 2, 3, 4)
    ]
    assert counts == [335_040, 919_680, 2_837_760, 2_158_080]
    binary = models.load("densenet121")(method.config, type(method.task).of("malignancy"))
    assert sum(p.numel() for p in binary.head.parameters()) == 100_354


def test_what_is_frozen_keeps_its_statistics() -> None:
    method = toy_method("densenet121")
    method.config = method.config.model_copy(update={"trainable": "group4"})
    method.training_mode(STAGE)
    frozen, trained = method.trunk.parts(transition3=False)
    assert not any(part.training for part in frozen) and all(part.training for part in trained)
    names = {name for name, part in method.trunk.features.named_children() if any(part is one for one in trained)}
    assert names == {"denseblock4", "norm5"}
    with pytest.raises(ConfigError, match="what is frozen would stay random"):
        method.stages()


def test_blocks_and_last_are_the_forward_pass() -> None:
    method, image = toy_method("densenet121").eval(), toy_batch(4).image
    assert isinstance(method, DenseNet121)
    with torch.no_grad():
        found = method.trunk.groups(image, "post_norm")
        assert torch.equal(found[4], method.trunk(image))
        assert torch.equal(method.trunk.last(method.trunk.groups(image, "block_out")[4]), found[4])


def test_a_network_on_masks_sees_nothing_else() -> None:
    method = toy_method("densenet121", picture="mask")
    inputs = method.inputs()
    assert inputs.picture == "mask" and [stream.only for stream in inputs.streams] == ["mask"]
