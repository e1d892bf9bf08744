"""IAIA-BL and ProtoPNet: stages, readings of the tables, what happens to prototypes, malignancy, explanation."""

from typing import Any

import numpy as np
import pytest
import torch

import models
from data.errors import ConfigError, DataError
from models import _fine_annotation
from models import _prototypes as proto
from models._prototype_base import stretches
from models.method import Stage, Task
from tests.toy import (
    PROVIDES,
    ToyContext,
    as_double,
    cached,
    freeze,
    subset,
    total,
    toy_batch,
    toy_config,
    toy_method,
)

JOINT = Stage("joint")


def batches(n: int = 3) -> list[Any]:
    return [toy_batch(6, seed=s, first_row=6 * s) for s in range(n)]


# ---- schedule ----------------------------------------------------------------------------------------------------
def test_published_schedule() -> None:
    config = models.load("iaia_bl").Config(weights="none")
    stages = models.load("iaia_bl")(
        config.model_copy(update={"width": 0.05}), Task.of("margin", provides=PROVIDES)
    ).stages()
    assert [s.name for s in stages[:4]] == ["warm", "joint 1", "project 1", "h1 1"]
    assert [s.name for s in stages[-3:]] == ["prune", "h1 pruned", "malignancy"]
    done, pushes = 0, []
    for stage in stages:
        done += stage.epochs if stage.name.split()[0] in ("warm", "joint") else 0
        pushes += [done - 1] if stage.name.startswith("project") else []
    assert pushes == [10, 20, 30, 40, 50]
    assert {s.optimiser for s in stages if s.name.startswith("joint")} == {"joint"}
    assert [s.selectable for s in stages if s.name.startswith(("warm", "joint"))] == [False] * 6
    assert all(s.selectable and s.cache is not None for s in stages if s.name.startswith("h1"))
    factor = next(s.schedule for s in stages if s.name == "joint 1")
    assert factor is not None
    assert [factor(e) for e in (0, 4.9, 5, 12)] == pytest.approx([1, 1, 0.1, 0.01])
    rates = {g.name: (g.lr, g.weight_decay) for g in stages[1].groups}
    assert rates == {"add_on": (3e-3, 1e-3), "prototypes": (3e-3, 0.0), "trunk": (2e-4, 1e-3)}
    assert stages[0].groups[0].lr == 2e-3
    assert stages[0].streams == ("train", "fine")


def test_stretches_end_on_a_projection() -> None:
    assert stretches(41, 10) == [1, 10, 10, 10, 10]
    assert stretches(3, 10) == [3]
    assert stretches(6, 3) == [3, 3]
    assert all(sum(stretches(n, k)) == n for n in range(1, 30) for k in range(1, 12))


def test_streams_follow_what_the_data_provide() -> None:
    kind = models.load("iaia_bl")
    assert [s.name for s in toy_method("iaia_bl").inputs().streams] == ["train", "fine"]
    bare = kind(toy_config("iaia_bl"), Task.of("margin", provides={"margin", "mask"}))
    assert [s.name for s in bare.inputs().streams] == ["train"]
    assert bare.supervision == "label + mask"
    assert [s.name for s in bare.stages()][-1] == "h1 pruned", "no malignancy head where malignancy is unknown"
    with pytest.raises(ConfigError, match="finely annotated"):
        kind(toy_config("iaia_bl", projection_set="fine_annotated"), Task.of("margin", provides={"mask"})).stages()
    assert toy_method("protopnet").supervision == "label"
    assert toy_method("protopnet", prototype_init="lesion_patches").supervision == "label + mask"


def test_protopnet_is_the_same_program_without_the_fine_loss() -> None:
    a = toy_method("protopnet")
    b = toy_method("iaia_bl", topk_k=1, coef_fine=0.0)
    assert float(a.h1.weight.detach().min()) == -1
    batch = toy_batch(6)
    assert torch.equal(total(a(batch, JOINT)), total(b(batch, JOINT)))
    original = toy_method("protopnet", variant="neurips2019")
    assert (original.config.distance, float(original.h1.weight.detach().min())) == ("l2sq", -0.5)
    assert original.config.prune.rule == "none"
    again = type(original).Config.model_validate_json(original.config.model_dump_json())
    assert again == original.config
    with pytest.raises(ValueError, match="coef_fine"):
        toy_config("protopnet", coef_fine=1e-3)


# ---- losses ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "overrides",
    [
        {"distance": "l2sq"},
        {"topk_k": 5},
        {"fine_norm": "per_prototype"},
        {"fine_norm": "square"},
        {"fine_norm_at": None},
        {"fine_scope": "fine_only"},
        {"fine_reduction": "mean"},
        {"fine_unannotated": "all_relevant"},
        {"mask_binarise": True},
        {"incorrect_class_weight": -0.5},
        {"coef_l1": 0.0},
    ],
    ids=str,
)
def test_every_reading_changes_the_loss_and_stays_finite(overrides: dict[str, Any]) -> None:
    batch = toy_batch(6)
    batch.has_mask[1] = batch.has_fine[1] = False
    values = []
    for settings in ({}, overrides):
        method = toy_method("iaia_bl", **settings)
        loss = method(batch, JOINT)
        total(loss).backward()
        assert all(bool(p.grad.isfinite().all()) for p in method.parameters() if p.grad is not None)
        values.append(float(total(loss).detach()))
    assert np.isfinite(values).all()
    assert values[0] != values[1]


def test_who_takes_part_in_the_fine_loss() -> None:
    batch = toy_batch(4)
    batch.has_mask[:] = torch.tensor([True, True, True, False])
    batch.has_fine[:] = torch.tensor([True, False, False, False])
    for settings, taken in (
        ({}, [1, 1, 1, 0]),
        ({"fine_scope": "fine_only"}, [1, 0, 0, 0]),
        ({"fine_unannotated": "all_relevant"}, [1] * 4),
    ):
        outside, who = _fine_annotation.relevance(toy_config("iaia_bl", **settings), batch, batch.mask)
        assert who.tolist() == [bool(t) for t in taken]
        torch.testing.assert_close(outside[0], 1 - batch.fine_mask[0])
        torch.testing.assert_close(outside[1], 1 - batch.mask[1])
        if settings.get("fine_unannotated"):
            assert float(outside[3].abs().max()) == 0


def test_five_times_17_samples_give_the_gradient_of_85() -> None:
    """What N workers do: gradients averaged, a sum over samples counted N times."""
    method = toy_method("iaia_bl").double()
    whole = as_double(toy_batch(85, size=32))

    def gradient(batch: Any, world: int) -> torch.Tensor:
        method.zero_grad()
        loss = method(batch, JOINT)
        torch.stack(
            [t.value * t.weight * (world if t.reduction == "sum" else 1) for t in loss.values()]
        ).sum().backward()
        return torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])

    one = gradient(whole, 1)
    five = torch.stack([gradient(subset(whole, range(17 * r, 17 * r + 17)), 5) for r in range(5)]).mean(dim=0)
    torch.testing.assert_close(one, five, rtol=1e-8, atol=1e-10)


def test_h1_on_cached_scores_is_h1_on_images() -> None:
    method, batch = toy_method("iaia_bl"), toy_batch(6)
    stage = next(s for s in method.stages() if s.name == "h1 1")
    assert freeze(method, stage) == [method.h1.weight]
    slim, full = method(cached(method, stage, batch), stage), method(batch, stage)
    assert set(slim) == {"cross_entropy", "l1"}
    torch.testing.assert_close(slim["cross_entropy"].value, full["cross_entropy"].value)
    gradients = [torch.autograd.grad(total(loss), method.h1.weight)[0] for loss in (slim, full)]
    torch.testing.assert_close(*gradients)


# ---- prototypes --------------------------------------------------------------------------------------------------
def test_prototypes_start_in_lesions_of_their_class() -> None:
    method = toy_method("iaia_bl", prototype_init="lesion_patches")
    method.start_as_patches(ToyContext(batches()))
    with torch.no_grad():
        for j in range(15):
            own = [subset(b, (b.label == method.classes[j]).nonzero()[:, 0]) for b in batches()]
            assert min(float(method.look(b.image).d[:, j].min()) for b in own) < 1e-5
    for b in (made := batches()):
        b.has_mask[:] = False
    with pytest.raises(DataError, match="has a mask"):
        method.start_as_patches(ToyContext(made))


def test_prototypes_may_start_without_any_mask() -> None:
    method = toy_method("iaia_bl", prototype_init="patches")
    assert next(stage.name for stage in method.stages()) == "prototype_init"
    for batch in (made := batches()):
        batch.has_mask[:] = batch.has_fine[:] = False
    method.start_as_patches(ToyContext(made))
    with torch.no_grad():
        for j in range(15):
            own = [subset(b, (b.label == method.classes[j]).nonzero()[:, 0]) for b in made]
            assert min(float(method.look(b.image).d[:, j].min()) for b in own) < 1e-5
    assert len({tuple(p.tolist()) for p in method.prototypes.detach()}) == 15


def test_pruned_prototypes_contribute_nothing_and_states_still_load() -> None:
    method, context = toy_method("iaia_bl"), ToyContext(batches())
    method.project(context)
    method.prototypes.data[1], method.source_place[1] = (
        method.prototypes.data[0].clone(),
        method.source_place[0].clone(),
    )
    method.prune(context)
    assert not bool(method.active[1])
    assert bool(method.active[0])
    batch = toy_batch(6)
    before = method.predict(batch, "margin").scores
    method.prototypes.data[1] = 0.3
    method.h1.weight.data[:, 1] = 100
    assert torch.equal(method.predict(batch, "margin").scores, before)
    assert torch.isfinite(total(method(batch, JOINT)))
    assert "prototype 1" not in method.evidence(batch).names
    fresh = toy_method("iaia_bl", seed=5)
    fresh.load_state_dict(method.state_dict())
    assert torch.equal(fresh.predict(batch, "margin").scores, before)
    lines = {panel.line for panel in fresh.artifacts()["prototypes"]}
    assert len(lines) == len(method.active), "those that pruning took out are shown too"


@pytest.mark.parametrize("rule", [{"rule": "knn", "k": 6, "threshold": 0}, {"rule": "manual", "keep": (0, 5, 6, 10)}])
def test_other_pruning_rules(rule: dict[str, Any]) -> None:
    method = toy_method("iaia_bl", prune=rule)
    method.prune(ToyContext(batches()))
    assert method.active.nonzero()[:, 0].tolist() == ([0, 5, 6, 10] if rule["rule"] == "manual" else list(range(15)))


def test_pruning_refuses_to_empty_a_class() -> None:
    """What no training can mend is told before the first stage; what this training led to, as its failure."""
    with pytest.raises(
        ConfigError, match=r"'spiculated' would stay \(prune.keep\); name one of \[10, 11, 12, 13, 14\]"
    ):
        toy_method("iaia_bl", prune={"rule": "manual", "keep": (0, 5)}).stages()
    with pytest.raises(ValueError, match="no prototype would stay; give at most k"):
        toy_method("iaia_bl", prune={"rule": "knn", "k": 3, "threshold": 4})
    method = toy_method("iaia_bl", prune={"rule": "knn", "k": 6, "threshold": 6})
    with pytest.raises(DataError, match="would leave no prototype of class"):
        method.prune(ToyContext(batches()))


# ---- malignancy --------------------------------------------------------------------------------------------------
def test_malignancy_is_read_from_margins_and_touches_nothing_else() -> None:
    method = toy_method("iaia_bl", mal_head={"penalty": "l2"})
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    made = batches(6)
    made[0].malignant[:2] = -1
    made[1].margin[:3] = -1
    method.fit_malignancy(ToyContext(made))
    assert all(torch.equal(p, before[name]) for name, p in method.named_parameters())
    assert list(method.coefficients) == ["circumscribed", "indistinct", "spiculated", "intercept"]
    batch = made[1]
    prediction = method.predict(batch, "malignancy")
    logits = method.predict(batch, "margin").scores
    expected = (
        sum(logits[:, k] * v for k, v in enumerate(list(method.coefficients.values())[:3]))
        + method.coefficients["intercept"]
    )
    torch.testing.assert_close(prediction.scores[:, 1], expected, rtol=1e-4, atol=1e-4)
    assert (prediction.scores[:, 0] == 0).all()
    torch.testing.assert_close(prediction.probabilities[:, 1], torch.sigmoid(expected), rtol=1e-4, atol=1e-4)
    assert prediction.flagged is not None
    assert prediction.flagged.tolist() == [True] * 3 + [False] * 3
    for b in made:
        b.malignant[:] = 1
    with pytest.raises(DataError, match="one malignancy"):
        method.fit_malignancy(ToyContext(made))


# ---- precision, maps -----------------------------------------------------------------------
def test_bf16_autocast_keeps_distances_in_full_precision() -> None:
    method, batch = toy_method("iaia_bl").eval(), toy_batch(6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        seen = method.look(batch.image)
        total_half = total(method(batch, JOINT))
    assert {seen.d.dtype, seen.logits.dtype, total_half.dtype} == {torch.float32}
    with torch.no_grad():
        assert float((seen.d - method.look(batch.image).d).abs().max()) < 0.05


def test_float32_and_float64_agree() -> None:
    method, batch = toy_method("iaia_bl"), toy_batch(6)
    single = {name: float(t.value.detach()) for name, t in method(batch, JOINT).items()}
    double = {name: float(t.value.detach()) for name, t in method.double()(as_double(batch), JOINT).items()}
    assert single == pytest.approx(double, rel=1e-4)


def test_maps_are_equation_11() -> None:
    method, batch = toy_method("iaia_bl").eval(), toy_batch(6)
    got = method.maps(batch, batch.label)["cav"]
    with torch.no_grad():
        seen = method.look(batch.image)
        s = proto.similarity(seen.d)
    for i, label in enumerate(batch.label.tolist()):
        own = [j for j in range(15) if int(method.classes[j]) == label]
        torch.testing.assert_close(got[i], sum(seen.scores[i, j] * s[i, j] for j in own))
