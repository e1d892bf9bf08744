"""The training loop: resuming, choosing, failing, several workers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.engine import checkpoint, loop
from bench.engine.loop import Settings, fit
from bench.engine.report import Diverged, EpochReport
from bench.engine.worker import Worker
from bench.metrics import Estimate, Frame
from data.errors import DataError
from models.method import Stage
from tests.toy import toy_batch, toy_method
from tests.toy_engine import ROI, SIZE, Staged, Tiny, content, staged
from tests.toy_workers import on_two_workers

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = Settings(seed=3)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- resuming -----------------------------------------------------------------------------------------------------
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tiny: Tiny, tmp_path: Path) -> None:
    """Killed after each report in turn: in a stage, between stages, after a projection, on cached features."""
    method = staged()
    data = tiny.training(method.inputs())
    told = []
    for report in fit(method, data, SETTINGS):
        report.save(tmp_path / str(report.number))
        told.append(content(report))
    assert [(r["stage"], r["epoch"]) for r in told] == [
        ("warm", 1), ("joint", 1), ("joint", 2), ("project", 0), ("last", 1), ("last", 2), ("again", 1), ("centre", 0),
        ("centre", 0),
    ]  # fmt: skip
    assert told[-1]["final"] and {r["total"] for r in told} == {9}
    for number in range(1, len(told)):
        other = staged(seed=99)  # whatever it starts from is replaced
        torch.manual_seed(number)
        resumed = [content(report) for report in fit(other, data, SETTINGS, resume=tmp_path / str(number))]
        assert resumed == told[number:], f"resumed after report {number}"
        assert same(other.state_dict(), method.state_dict()), f"resumed after report {number}"


def test_the_seed_decides_the_run(tiny: Tiny) -> None:
    data = tiny.training(staged().inputs())
    states = []
    for seed in (3, 3, 4):
        method = staged()
        torch.manual_seed(int(torch.randint(1000, ())))
        list(fit(method, data, Settings(seed=seed)))
        states.append(method.state_dict())
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_a_truncated_checkpoint_is_one_line(tiny: Tiny, tmp_path: Path) -> None:
    method = staged()
    next(fit(method, tiny.training(method.inputs()), SETTINGS)).save(tmp_path)
    path = tmp_path / checkpoint.NAME
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a checkpoint at all"):
        path.write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"checkpoint cannot be read \(.*checkpoint\.pt\); delete that folder"
        ) as error:
            checkpoint.read(tmp_path, method, torch.device("cpu"))
        assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)


# ---- choosing -----------------------------------------------------------------------------------------------------
def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float | None], seen: list[set[str]] | None = None) -> None:
    """Validation goes as written, report by report."""
    left = list(values)

    def quick(frame: Frame) -> dict[str, Estimate]:
        if seen is not None:
            seen.append(set(frame.predictions["record_id"]))
        value = left.pop(0) if left else 0.5
        return {} if value is None else {"auroc_mean": Estimate(value, None, None, 1, "none")}

    monkeypatch.setattr(loop, "quick", quick)


def train_stages(method: Staged, stages: list[Stage], tiny: Tiny) -> list[EpochReport]:
    method.stages = lambda: stages  # type: ignore[method-assign]
    return list(fit(method, tiny.training(method.inputs()), SETTINGS))


def steps_in(tiny: Tiny, epochs: int) -> int:
    method = staged()
    return epochs * loop.steps_per_epoch(tiny.training(method.inputs()).train, method.inputs(), ("train",))


def test_the_best_selectable_epoch_on_validation_is_kept(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    method, seen = staged(), list[set[str]]()
    group = method.group("all", method.conv, method.norm, method.head, lr=0.01)
    scripted(monkeypatch, [0.99, 0.6, 0.8, None, float("nan"), 0.7, 0.8], seen)
    reports = train_stages(method, [Stage("warm", [group], 1, selectable=False), Stage("joint", [group], 6)], tiny)
    assert [r.selectable for r in reports] == [False] + 6 * [True] + [False]
    assert int(method.ages) == steps_in(tiny, 3), (
        "the first best one, 0.8 of the third epoch, not 0.99 of the warm stage"
    )
    split = tiny.prepared.split()
    validation = set(split.table["record_id"][split.table["side"] == "validation"])
    assert all(records and records <= validation for records in seen)


def test_after_resets_the_choice(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    method = staged()
    group = method.group("all", method.conv, method.norm, method.head, lr=0.01)
    scripted(monkeypatch, [0.9, 0.8, 0.3, 0.5, 0.4])
    train_stages(
        method, [Stage("a", [group], 2), Stage("project", epochs=0, after=method.project), Stage("b", [group], 2)], tiny
    )
    assert int(method.ages) == steps_in(tiny, 3), "0.5 of stage b, though 0.9 was reached before the projection"


def test_a_stage_may_begin_from_the_best(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    method, ages = staged(), []
    group = method.group("all", method.conv, method.norm, method.head, lr=0.01)
    scripted(monkeypatch, [0.9, 0.3, 0.2])
    stages = [
        Stage("a", [group], 3),
        Stage("end", epochs=0, start="best", after=lambda _: ages.append(int(method.ages))),
    ]
    train_stages(method, stages, tiny)
    assert ages == [steps_in(tiny, 1)] and int(method.ages) == ages[0]


def test_an_optimiser_outlives_its_stages(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments of `all` go on; its rates are the running stage's, and what a stage leaves out does not move."""
    method = staged()
    conv, head = method.group("conv", method.conv, lr=0.02), method.group("head", method.head, lr=0.01)
    tail = method.group("head", method.head, lr=0.001)
    data = tiny.training(method.inputs())
    method.stages = lambda: [
        Stage("a", [conv], 1, optimiser="x"),
        Stage("b", [head], 1, optimiser="x"),
        Stage("c", [tail, conv], 1, optimiser="x"),
    ]  # type: ignore[method-assign]
    run = loop._Run(method, data, SETTINGS, Worker(), None)
    before, steps = method.conv.weight.clone(), []
    for report in run.reports():
        if report.stage == "b":
            assert torch.equal(method.conv.weight, before)
        before = method.conv.weight.clone()
        adam = run.optimisers["x"]
        steps.append(
            [int(adam.state[p]["step"]) if p in adam.state else 0 for p in (method.conv.weight, method.head.weight)]
        )
    one = steps_in(tiny, 1)
    assert steps[:3] == [[one, 0], [one, one], [2 * one, 2 * one]]
    assert sorted(group["lr"] for group in run.optimisers["x"].param_groups) == [0.001, 0.02]


# ---- failing ------------------------------------------------------------------------------------------------------
def test_a_loss_that_is_not_finite_ends_the_run(tiny: Tiny) -> None:
    one = steps_in(tiny, 1)
    method = staged(explode_at=one + 1)
    run = fit(method, tiny.training(method.inputs()), SETTINGS)
    next(run)
    with pytest.raises(Diverged, match=r"^stage joint, epoch 1, step 2: cross_entropy [\d.]+, pull nan$"):
        next(run)


def test_scores_that_are_not_finite_end_the_run(tiny: Tiny) -> None:
    """The last step of an epoch can ruin weights whose loss was finite before it."""
    method = staged()

    def after(_: object) -> None:
        method.head.bias.data[0] = torch.inf

    with pytest.raises(Diverged, match=r"^stage project, epoch 0: a validation score is not finite$"):
        train_stages(method, [Stage("project", epochs=0, after=after)], tiny)


# ---- workers ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("world", [5, 3])
def test_terms_of_85_samples_weigh_the_same_on_any_number_of_workers(world: int) -> None:
    """1 x 85 and 5 x 17 samples, sums and means: the average of the workers' gradients, scaled by the engine's rule."""
    batch = toy_batch(85, size=SIZE)
    method = staged(noisy=False).double()

    def gradient(rank: int, workers: int) -> list[Tensor]:
        part = [batch.image.double()[rank::workers], batch.label[rank::workers]]
        engine = object.__new__(loop._Run)
        engine.worker = Worker(rank, workers)
        method.zero_grad()
        whole = toy_batch(1, size=SIZE)
        whole.image, whole.label = part
        engine._total(method(whole, Stage("x")), len(part[1]) * workers / 85).backward()
        return [p.grad.clone() for p in method.parameters() if p.grad is not None]

    alone = gradient(0, 1)
    shares = [gradient(rank, world) for rank in range(world)]
    for i, expected in enumerate(alone):
        torch.testing.assert_close(sum(share[i] for share in shares) / world, expected, rtol=1e-10, atol=1e-12)


def training_on(worker: Worker, tiny: Tiny) -> dict[str, Any]:
    """What the tests of several workers compare, from one of them."""
    plain = staged(noisy=False, batch_size=17)
    group = plain.group("all", plain.conv, plain.head, lr=0.01)
    data = tiny.training(plain.inputs())
    plain.stages = lambda: [Stage("one", [group], 1)]  # type: ignore[method-assign]
    [report, _] = fit(plain, data, SETTINGS, worker)
    found: dict[str, Any] = {
        "gradients": [p.grad.clone() for p in (*plain.conv.parameters(), *plain.head.parameters())],
        "plain": plain.state_dict(),
        "terms": report.terms,
    }
    cached = staged(noisy=False)
    cached.stages = lambda: [s for s in Staged.stages(cached) if s.name == "last"]  # type: ignore[method-assign]
    list(fit(cached, data, SETTINGS, worker))
    found["cached"] = cached.state_dict()
    noisy = staged()
    list(fit(noisy, tiny.training(noisy.inputs()), SETTINGS, worker))
    found["noisy"] = noisy.state_dict()
    net = toy_method("protopnet", size=SIZE, roi=ROI, prototype_init="lesion_patches", topk_k=1)
    net.stages = lambda: [s for s in type(net).stages(net) if s.after and s.name in ("prototype_init", "project 1")]  # type: ignore[method-assign]
    list(fit(net, tiny.training(net.inputs()), SETTINGS, worker))
    found["prototypes"] = net.state_dict()["prototypes"]
    bad = staged(noisy=False, explode_at=1 if worker.rank == worker.world_size - 1 else -1)
    try:
        list(fit(bad, data, SETTINGS, worker))
    except Diverged as error:
        found["diverged"] = str(error)
    return found


@pytest.mark.long
def test_two_workers_train_as_one(tiny: Tiny, tmp_path: Path) -> None:
    """Two real processes: gradients, cached stages and projection as on one; the same state and verdict on both."""
    first, second = on_two_workers(training_on, tiny, tmp_path)
    alone = training_on(Worker(), tiny)
    for ours, theirs in zip(first["gradients"], alone["gradients"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    for name in ("plain", "cached"):
        for key, value in alone[name].items():
            if key != "ages":  # counts the steps of each worker's own samples
                torch.testing.assert_close(first[name][key], value, rtol=1e-3, atol=2e-4, msg=f"{name} {key}")
    assert first["terms"] == pytest.approx(alone["terms"], rel=1e-4)
    assert first["terms"] == second["terms"]
    for name in ("plain", "cached", "noisy"):
        assert same(first[name], second[name]), f"{name}: the workers do not hold the same state"
    torch.testing.assert_close(first["prototypes"], alone["prototypes"], rtol=1e-5, atol=1e-6)
    assert torch.equal(first["prototypes"], second["prototypes"])
    assert first["diverged"] == second["diverged"]
    assert first["diverged"].startswith("stage warm, epoch 1, step 2: ") and "pull nan" in first["diverged"]


# ---- memory -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("parts", [2, 5, 100])
def test_a_step_in_parts_is_the_step_in_one(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    """Means, sums and streams of a method without batch norm: the gradients of the parts are those of the whole."""
    states, told = [], []
    for count in (1, parts):
        monkeypatch.setattr(Staged, "accumulate", count)
        method = staged(noisy=False)
        told.append([report.terms for report in fit(method, tiny.training(method.inputs()), SETTINGS)])
        states.append(method.state_dict())
    for name in states[0]:
        if name != "ages":  # counts forward passes
            torch.testing.assert_close(states[1][name], states[0][name], rtol=1e-4, atol=1e-6)
    assert all(a == pytest.approx(b, rel=1e-4) for a, b in zip(*told, strict=True))
