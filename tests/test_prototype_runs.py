"""Prototype networks through the engine: resumed in any stage, on several workers, the last layer without the trunk."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.engine.loop import Settings, fit
from bench.engine.worker import Worker
from data.batch import Batch
from models.method import Method
from tests.toy import as_double, toy_method
from tests.toy_engine import ROI, Tiny, content
from tests.toy_workers import on_two_workers

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.long]
SETTINGS = Settings(seed=3)
SIZE = 32  # of the input; a pyramid needs a few cells on every level
METHODS = ("protopnet", "iaia_bl", "fpn_iaia_bl")
SMALL: dict[str, Any] = {
    "size": SIZE,
    "roi": ROI,
    "prototype_init": "lesion_patches",
    "joint_epochs": 2,
    "push_every": 1,
    "prune": {"h1_epochs": 2},
}


def net(name: str, seed: int = 0, **more: Any) -> Method:
    return toy_method(name, seed=seed, **{**SMALL, **more})


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name].nan_to_num(), b[name].nan_to_num()) for name in a)


@pytest.mark.parametrize(
    "name", [name if name == "fpn_iaia_bl" else pytest.param(name, marks=pytest.mark.long) for name in METHODS]
)
def test_a_run_killed_in_any_stage_goes_on_bit_for_bit(name: str, tiny: Tiny, tmp_path: Path) -> None:
    """In the warm stage, in the joint one, after a projection, in the last layer's, after pruning, before the head."""
    method = net(name)
    data = tiny.training(method.inputs())
    told = []
    for report in fit(method, data, SETTINGS):
        report.save(tmp_path / str(report.number))
        told.append(content(report))
    assert {report["stage"].split()[0] for report in told} >= {"prototype_init", "joint", "project", "h1", "malignancy"}
    for number in {report["stage"].split()[0]: report["number"] for report in told[:-1]}.values():
        other = net(name, seed=99)  # whatever it starts from is replaced
        torch.manual_seed(number)
        resumed = [content(report) for report in fit(other, data, SETTINGS, resume=tmp_path / str(number))]
        assert resumed == told[number:], f"resumed after report {number}"
        assert same(other.state_dict(), method.state_dict()), f"resumed after report {number}"


@pytest.mark.parametrize("name", METHODS)
def test_epochs_of_the_last_layer_do_not_run_the_trunk(name: str, tiny: Tiny) -> None:
    """One pass over an epoch's samples fills the cache, however many epochs follow."""
    passes = []
    for epochs in (1, 4):
        method = net(name, h1_epochs=epochs, joint_epochs=1)
        method.stages = lambda m=method: [s for s in type(m).stages(m) if s.name == "h1 1"]  # type: ignore[misc]
        seen = [0]
        method.trunk.register_forward_pre_hook(
            lambda *_, seen=seen: seen.__setitem__(0, seen[0] + torch.is_grad_enabled())
        )  # type: ignore[union-attr]
        counted = [0]
        original = type(method).cache_scores  # type: ignore[attr-defined]

        def cache(batch: Any, method: Any = method, original: Any = original, counted: list[int] = counted) -> Any:
            counted[0] += len(batch)
            return original(method, batch)

        method.cache_scores = cache  # type: ignore[assignment]
        list(fit(method, tiny.training(method.inputs()), SETTINGS))
        assert seen[0] == 0, "the trunk was run with gradients"
        passes.append(counted[0])
    assert passes[0] == passes[1] > 0


# ---- several workers ----------------------------------------------------------------------------------------------
def training_on(worker: Worker, tiny: Tiny) -> dict[str, Any]:
    """Weights and places of patches after the joint stage, projection, last layer, pruning and malignancy head.

    In float64: Adam turns the sign of a gradient that is zero to rounding into a whole step, which in float32 a few
    weights of each layer meet.
    """
    plain = Batch.to
    Batch.to = lambda self, device: as_double(plain(self, device))  # type: ignore[method-assign]
    found: dict[str, Any] = {}
    for name in METHODS:
        method = net(name, joint_epochs=1, coef_fine=0.0 if name == "protopnet" else 1e-4).double()
        list(fit(method, tiny.training(method.inputs()), SETTINGS, worker))
        found[name] = method.state_dict()
    Batch.to = plain  # type: ignore[method-assign]
    return found


@pytest.mark.long
def test_two_workers_train_the_same_networks_as_one(tiny: Tiny, tmp_path: Path) -> None:
    """Two real processes through every stage: the weights of one worker within rounding, and each other's to the bit."""
    first, second = on_two_workers(training_on, tiny, tmp_path)
    alone = training_on(Worker(), tiny)
    for name in METHODS:
        assert same(first[name], second[name]), f"{name}: the workers do not hold the same state"
        assert torch.equal(first[name]["source_place"], alone[name]["source_place"]), f"{name}: other patches"
        for key, _ in net(name).named_parameters():
            torch.testing.assert_close(first[name][key], alone[name][key], rtol=1e-6, atol=1e-7, msg=f"{name} {key}")
