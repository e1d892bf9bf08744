"""FPN-IAIA-BL: levels and table of prototypes, readings, the class-pair fine loss, projection on levels, the negative class."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import models
from data.errors import ConfigError
from models import _focal as focal
from models._map_norms import squares
from models._pyramid import Pyramid, TopDown, Upsample
from models.method import Stage, Task
from tests import parity
from tests.toy import PROVIDES, ToyContext, lesion_free, subset, total, toy_batch, toy_config, toy_method, train_all

JOINT = Stage("joint")
NAMES = ("circumscribed", "indistinct", "spiculated", "negative")


def mixed(n: int = 6) -> Any:
    """A step as training has it: lesions, and a lesion-free region at the end."""
    lesions, free = toy_batch(n), lesion_free(2)
    parts = {}
    for name, value in vars(lesions).items():
        other = getattr(free, name)
        parts[name] = (
            torch.cat([value, other]) if isinstance(value, Tensor) else other if value is None else value + other
        )
    return type(lesions)(**parts)


# ---- numbers -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["03", "03b"])
def test_golden(name: str, dtype: str) -> None:
    (file,) = parity.GOLDEN.glob(f"{name}_*.npz")
    found = parity.checks(file, dtype)
    assert len(found) > 25
    assert [check.name for check in found if not check.share <= 1] == []


@settings(max_examples=30, deadline=None)
@given(
    cells=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    pixels=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 1000),
)
def test_norms_of_upsampled_maps_need_no_upsampling(cells: tuple[int, int], pixels: tuple[int, int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    s = torch.randn(2, 3, *cells, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.rand(2, *pixels, generator=generator, dtype=torch.float64)
    plain = (F.interpolate(s, size=pixels, mode="bilinear", align_corners=False).square() * weight[:, None]).sum((2, 3))
    lean = squares(s, weight)
    torch.testing.assert_close(lean, plain, rtol=1e-10, atol=1e-12)
    got, want = torch.autograd.grad(lean.sum(), s, retain_graph=True)[0], torch.autograd.grad(plain.sum(), s)[0]
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_a_map_that_no_pixel_weighs_has_norm_and_gradient_0() -> None:
    s = torch.randn(2, 3, 7, 7).requires_grad_()
    root = focal.safe_sqrt(focal.fine_squares(s, torch.ones(2, 28, 28), torch.zeros(2, 3), torch.ones(2, 3)))
    root.sum().backward()
    assert s.grad is not None
    assert float(root.detach().abs().max()) == 0 == float(s.grad.abs().max())


# ---- schedule, streams, table ------------------------------------------------------------------------------------
def test_published_schedule() -> None:
    config = models.load("fpn_iaia_bl").Config(width=0.05, weights="none")
    stages = models.load("fpn_iaia_bl")(config, Task.of("margin", provides=PROVIDES)).stages()
    names = [stage.name for stage in stages]
    assert names[:3] == ["frozen", "project 0", "joint 1"]
    assert names[-3:] == ["project 5", "h1 5", "malignancy"], "ends on a projection, then the last layer alone"
    assert sum("h1" in name for name in names) == 1
    assert {g.name for g in stages[0].groups} == {"pyramid", "prototypes", "h1"}, "stage A: the trunk is frozen"
    rates = {g.name: (g.lr, g.weight_decay) for g in stages[2].groups}
    assert rates == {"pyramid": (3e-3, 1e-3), "prototypes": (3e-3, 0), "h1": (1e-3, 0), "trunk": (2e-4, 1e-3)}
    assert stages[0].streams == ("train", "fine", "negative")
    each = toy_method("fpn_iaia_bl", joint_epochs=3, push_every=1, head_after="each").stages()
    assert [s.name for s in each if s.epochs] == ["frozen", "joint 1", "h1 1", "joint 2", "h1 2", "joint 3", "h1 3"]
    fixed = toy_method("fpn_iaia_bl", train_head=False).stages()
    assert all("h1" not in {g.name for g in stage.groups} for stage in fixed if not stage.name.startswith("h1"))


def test_published_table_of_prototypes() -> None:
    kinds, levels = models.load("fpn_iaia_bl").Config().prototypes.table(NAMES, 5)
    assert kinds == [k for k in range(4) for _ in range(5)]
    assert levels == [2, 3, 3, 4, 5] * 4
    method = toy_method("fpn_iaia_bl", trunk_blocks=5, size=64)
    assert method.sides == (16, 8, 8, 4, 4) * 4
    assert toy_method("fpn_iaia_bl", size=64).sides == (16, 8, 8, 8, 8) * 4, (
        "with 4 blocks level 5 is the trunk's level 4"
    )


def test_a_table_by_class() -> None:
    table = {"level_2": 0, "level_3": {**dict.fromkeys(NAMES[:3], 2), "negative": 1}, "level_4": 1, "level_5": 0}
    method = toy_method("fpn_iaia_bl", prototypes=table)
    assert method.classes.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert method.level_M.tolist() == [3, 3, 4] * 3 + [3, 4]
    assert set(method.pyramid.levels) == {3, 4}, "no level below the lowest prototype's is computed"
    for wrong, words in (
        ({"level_2": {"round": 1}}, "no class 'round'"),
        ({"level_2": {"negative": 1}}, "is left out"),
        ({f"level_{level}": 0 for level in (2, 3, 4, 5)}, "has no prototype"),
        ({"level_2": -1}, "give 0 or more"),
    ):
        with pytest.raises(ConfigError, match=words):
            toy_method("fpn_iaia_bl", prototypes=wrong)


def test_k_by_level_number_or_share() -> None:
    assert toy_method("fpn_iaia_bl", size=64, topk_k={2: 9, 3: 4, 4: 1}).k == {2: 9, 3: 4, 4: 1}
    assert toy_method("fpn_iaia_bl", size=64, topk_percent=5.0).k == {2: 13, 3: 3, 4: 3}
    with pytest.raises(ConfigError, match="no k for level 3"):
        toy_method("fpn_iaia_bl", topk_k={2: 9, 4: 1})
    with pytest.raises(ConfigError, match="level 3 with 16 cells"):
        toy_method("fpn_iaia_bl", topk_k=17)


def test_the_trunk_starts_from_a_trained_iaia_bl() -> None:
    kind = models.load("fpn_iaia_bl")
    config = toy_config("fpn_iaia_bl", iaia_bl={"joint_epochs": 2, "topk_k": 3})
    (need,) = kind.requires(config, Task.of("margin", provides=PROVIDES))
    assert (need.name, need.method) == ("iaia_bl", "iaia_bl")
    required = models.load("iaia_bl").Config.model_validate(need.config)
    assert (required.joint_epochs, required.topk_k, required.size, required.width) == (2, 3, config.size, config.width)
    donor, method = toy_method("iaia_bl", seed=5), toy_method("fpn_iaia_bl")
    image = torch.rand(2, 1, 32, 32)
    assert not torch.equal(method.trunk(image), donor.trunk(image))
    method.start_from("iaia_bl", donor.state_dict())
    assert torch.equal(method.trunk(image), donor.trunk(image))
    assert kind.requires(toy_config("fpn_iaia_bl", start="weights"), Task.of("margin", provides=PROVIDES)) == []


def test_levels_of_the_trunk_end_in_its_output() -> None:
    method = toy_method("fpn_iaia_bl", trunk_blocks=5, size=64)
    image = torch.rand(2, 1, 64, 64)
    found = method.trunk.pyramid(image)
    assert {level: value.shape[2] for level, value in found.items()} == {2: 16, 3: 8, 4: 4, 5: 4}
    assert {level: value.shape[1] for level, value in found.items()} == method.trunk.levels
    assert torch.equal(found[5], method.trunk(image))
    assert torch.equal(found[2], method.trunk.features[:10](image.expand(-1, 3, -1, -1)))


# ---- losses ------------------------------------------------------------------------------------------------------
READINGS: list[dict[str, Any]] = [
    {"topdown": "fpn"}, {"upsample": "bilinear"}, {"cosine": "deformable"}, {"topk_k": 3}, {"topk_percent": 10.0},
    {"score": "topk"}, {"angular_margin": 0.1}, {"outputs": 3}, {"clust_on": "topk"}, {"ortho": "frob_joint"},
    {"ortho": "frob_sum"}, {"ortho": "deformable_code"}, {"ortho_across_levels": False}, {"coef_l1": 1e-4},
    {"fine_reading": "literal_m_inside"}, {"fine_reading": "literal_m_outside"}, {"fine_reading": "swapped_m_outside"},
    {"fine_table_orientation": "transposed"}, {"fine_scope": "fine_only"}, {"fine_reduction": "mean"},
    {"fine_norm_at": None}, {"mask_binarise": True}, {"incorrect_class_weight": -0.5}, {"coef_fine": 0.0},
]  # fmt: skip


@pytest.mark.parametrize("overrides", READINGS, ids=str)
def test_every_reading_changes_the_loss_and_stays_finite(overrides: dict[str, Any]) -> None:
    values = []
    for chosen in ({}, overrides):
        method = toy_method("fpn_iaia_bl", **chosen)
        loss = method(mixed(), JOINT)
        total(loss).backward()
        assert all(bool(p.grad.isfinite().all()) for p in method.parameters() if p.grad is not None)
        values.append(float(total(loss).detach()))
    assert values[0] != values[1]


def test_signs_of_equation_4() -> None:
    loss = toy_method("fpn_iaia_bl")(mixed(), JOINT)
    assert {name: one.weight for name, one in loss.items()} == {
        "cross_entropy": 1, "cluster": -0.8, "separation": 0.08, "ortho": 0.1, "l1": 0.0, "fine": 0.001,
    }  # fmt: skip
    assert loss["fine"].reduction == "sum"


def test_the_angular_margin_turns_other_classes_nearer() -> None:
    s = torch.tensor([-1.0, -0.3, 0.0, 0.7, 1.0]).view(1, 1, 1, 5).double()
    near = focal.widened(s, torch.ones(1, 1, dtype=torch.bool), 0.1)
    torch.testing.assert_close(near, torch.cos((torch.acos(s) - 0.1).clamp_min(0)), rtol=1e-10, atol=1e-10)
    assert torch.equal(focal.widened(s, torch.zeros(1, 1, dtype=torch.bool), 0.1), s)


def weights_of(reading: Any, orientation: Any, sample: int, prototype: int) -> tuple[float, float]:
    config = models.load("fpn_iaia_bl").Config()
    table = focal.PairWeights.of(config.lambda_out, config.lambda_in, reading, orientation)
    return float(table.outside_KK[sample, prototype]), float(table.inside_KK[sample, prototype])


def test_what_the_tables_punish() -> None:
    circumscribed, spiculated, negative = 0, 2, 3
    assert weights_of("semantic", "printed", circumscribed, circumscribed) == (1, 0), "own class: outside alone"
    assert weights_of("semantic", "printed", spiculated, circumscribed) == (1, 1)
    assert weights_of("semantic", "printed", circumscribed, spiculated) == (1, 0)
    assert weights_of("semantic", "transposed", circumscribed, spiculated) == (1, 1), "as the prose says"
    assert weights_of("semantic", "printed", circumscribed, negative) == (1, 1)
    assert weights_of("semantic", "printed", negative, circumscribed) == (0, 0)
    assert weights_of("semantic", "transposed", negative, circumscribed) == (1, 1)
    outside, inside = weights_of("literal_m_inside", "printed", circumscribed, circumscribed)
    assert outside == inside > 0, "Eq. 5 to the letter punishes the right prototype on the lesion as much as beside it"


def moved(reading: Any, turned: bool) -> tuple[Tensor, Tensor]:
    """Mean square cosine (on the lesion, beside it) of an own-class prototype before and after the fine loss alone.

    Lesion and tissue have a direction each; the prototype starts between them.
    """
    torch.manual_seed(0)
    tissue, lesion = F.one_hot(torch.tensor([0, 1]), 16).float()
    z = tissue.view(1, 16, 1, 1) + 0.1 * torch.randn(4, 16, 8, 8)
    z[:, :, 2:5, 2:5] += (lesion - tissue).view(1, 16, 1, 1)
    mask = torch.zeros(4, 32, 32)
    mask[:, 6:22, 6:22] = 1  # with the rim onto which bilinear upsampling spreads the lesion
    p = torch.nn.Parameter((tissue + lesion)[None])
    out, inside = (torch.full((4, 1), weight) for weight in weights_of(reading, "printed", 0, 0))
    optimiser = torch.optim.SGD([p], lr=0.02)

    def activity() -> Tensor:
        s = focal.cosine_maps(z, p.detach())[:, 0].square()
        here = torch.zeros(8, 8, dtype=torch.bool)
        here[2:5, 2:5] = True
        return torch.stack([s[:, here].mean(), s[:, ~here].mean()])

    before = activity()
    for _ in range(60):
        loss = focal.safe_sqrt(focal.fine_squares(focal.cosine_maps(z, p), mask if turned else 1 - mask, out, inside))
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
    return before, activity()


@pytest.mark.parametrize("reading", ["semantic", "swapped_m_outside"])
def test_the_fine_loss_alone_moves_activation_to_where_the_mask_is(reading: Any) -> None:
    before, after = moved(reading, turned=False)
    assert after[0] > before[0] + 0.2 and after[1] < before[1] - 0.2
    before, after = moved(reading, turned=True)
    assert after[0] < before[0] - 0.2, "a turned mask drives it off the lesion"


@pytest.mark.parametrize("reading", ["literal_m_inside", "literal_m_outside"])
def test_equation_5_to_the_letter_does_not_know_the_lesion_from_the_rest(reading: Any) -> None:
    """It weighs the right prototype equally on and beside the lesion: where the lesion is has no say."""
    before, after = moved(reading, turned=False)
    same_before, same_after = moved(reading, turned=True)
    assert torch.equal(before, same_before)
    torch.testing.assert_close(after, same_after, rtol=1e-4, atol=1e-5)


def test_negatives_train_the_fourth_class_and_are_all_irrelevant() -> None:
    method = toy_method("fpn_iaia_bl")
    batch = mixed()
    assert method.labels(batch).tolist() == [0, 1, 2, 0, 1, 2, 3, 3]
    only = subset(batch, [6, 7])
    printed, transposed = (
        toy_method("fpn_iaia_bl", fine_table_orientation=o)(only, JOINT)["fine"].value
        for o in ("printed", "transposed")
    )
    assert float(printed.detach()) == 0 < float(transposed.detach()), "printed tables leave negative samples alone"
    three = toy_method("fpn_iaia_bl", outputs=3)
    assert three.h1.weight.shape[0] == 3
    assert float(three(only, JOINT)["cross_entropy"].value.detach()) == 0


def test_scores_are_log_probabilities_over_four_outputs() -> None:
    method, batch = toy_method("fpn_iaia_bl").eval(), toy_batch(6)
    with torch.no_grad():
        logits = method.look(batch.image).logits
    found = method.predict(batch, "margin")
    torch.testing.assert_close(found.scores.exp(), logits.softmax(dim=1)[:, :3])
    torch.testing.assert_close(found.probabilities, logits[:, :3].softmax(dim=1))


# ---- what stages do ----------------------------------------------------------------------------------------------
def test_after_projection_each_prototype_is_a_patch_of_its_class_and_level() -> None:
    method = toy_method("fpn_iaia_bl", prototype_init="lesion_patches", size=64)
    lesions = toy_batch(9, size=64)
    context = ToyContext([lesions])
    method.start_as_patches(context)
    method.project(context)
    free = lesion_free(size=64)
    for batch in (lesions, free):
        seen = method.look(batch.image)
        for j, (row, y, x) in enumerate(method.source_place.tolist()):
            here = (batch.index == row).nonzero()
            if not len(here):
                continue
            i = int(here[0])
            assert int(method.labels(batch)[i]) == int(method.classes[j])
            map_hw = seen.map_of(j)[i].detach()
            assert map_hw.shape == (method.sides[j],) * 2
            assert float(map_hw[y, x]) == pytest.approx(1, abs=1e-5) == float(map_hw.max())
            torch.testing.assert_close(method.source_map(j), map_hw, rtol=1e-4, atol=1e-5)
    assert set(method.source_place[:, 0].tolist()) <= set(lesions.index.tolist()) | set(free.index.tolist())


def test_any_class_may_become_a_patch_of_another() -> None:
    own, anything = (toy_method("fpn_iaia_bl", projection_classes=c) for c in ("own", "any"))
    batch = toy_batch(9)
    for method in (own, anything):
        method.project(ToyContext([batch]))
    assert bool((anything.source_distance <= own.source_distance + 1e-6).all())
    labels = {int(row): int(label) for row, label in zip(batch.index, batch.label, strict=True)}
    kinds = [
        labels.get(row, 3) == kind
        for row, kind in zip(anything.source_place[:, 0].tolist(), anything.classes.tolist(), strict=True)
    ]
    assert not all(kinds)


def test_pruning_takes_the_same_patch_of_the_same_level_out() -> None:
    method = toy_method("fpn_iaia_bl", prune={"rule": "duplicates"}, prototype_init="lesion_patches")
    context = ToyContext([toy_batch(9)])
    method.start_as_patches(context)
    method.project(context)
    first, second = (j for j, kind in enumerate(method.classes.tolist()) if kind == 0 and method.level_of(j) == 3)
    other = next(j for j, kind in enumerate(method.classes.tolist()) if kind == 0 and method.level_of(j) == 2)
    method.source_place[second] = method.source_place[other] = method.source_place[first]
    method.prune(context)
    assert (~method.active).nonzero()[:, 0].tolist() == [second], "on another level the same place is another patch"


def test_the_knn_rule_takes_prototypes_out_whose_neighbours_are_of_other_classes() -> None:
    method = toy_method("fpn_iaia_bl", prune={"rule": "knn", "k": 4, "threshold": 2}, prototype_init="lesion_patches")
    batch = toy_batch(9)
    context = ToyContext([batch])
    method.start_as_patches(context)
    method.project(context)
    free = lesion_free(size=32)
    distances = torch.cat([method.nearest(batch.image), method.nearest(free.image)])
    labels = torch.cat([batch.label, torch.full((len(free),), 3)])
    own = [int((labels[distances[:, j].argsort()[:4]] == kind).sum()) for j, kind in enumerate(method.classes.tolist())]
    lesions = [j for j, kind in enumerate(method.classes.tolist()) if kind < 3]
    assert {own[j] < 2 for j in lesions} == {True, False}, "the toy has prototypes of both kinds"
    method.prune(context)
    assert [bool(method.active[j]) for j in lesions] == [own[j] >= 2 for j in lesions]


@pytest.mark.parametrize("name", ["iaia_bl", "fpn_iaia_bl"])
@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({"coef_fine": 0.0}, "label"),
        ({"coef_fine": 0.0, "prototype_init": "lesion_patches"}, "label + mask"),
        ({"coef_fine": 1e-3}, "label + fine mask"),
    ],
    ids=str,
)
def test_masks_that_training_saw_are_said(name: str, settings: dict[str, Any], seen: str) -> None:
    start = {"start": "weights"} if name == "fpn_iaia_bl" else {}
    assert toy_method(name, **start, **settings).supervision == seen


def test_logits_of_the_margins_do_not_answer_to_the_negative_class() -> None:
    method = toy_method("fpn_iaia_bl", prototype_init="lesion_patches")
    batch = toy_batch(4)
    before = method.predict(batch, "margin")
    with torch.no_grad():
        method.h1.weight[3] += 1
    after = method.predict(batch, "margin")
    assert before.logits is not None and after.logits is not None
    assert torch.equal(before.logits, after.logits) and not torch.equal(before.scores, after.scores)
    torch.testing.assert_close(before.logits.softmax(dim=1), before.probabilities)


@pytest.mark.parametrize("topdown", ["eq1", "fpn"])
@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_as_many_cells_of_the_top_reach_a_cell_as_it_says(topdown: TopDown, upsample: Upsample) -> None:
    sides = {2: 32, 3: 16, 4: 8, 5: 8}
    pyramid = Pyramid(dict.fromkeys(sides, 2), 3, topdown, upsample).double()
    for level, side in sides.items():
        most = 0
        for cell in range(side):
            c = {one: torch.zeros(1, 2, n, n, dtype=torch.float64, requires_grad=one == 5) for one, n in sides.items()}
            pyramid(c)[level][0, :, cell, side // 2].sum().backward()
            assert c[5].grad is not None
            rows = c[5].grad.abs().sum(dim=(0, 1, 3)).nonzero()[:, 0]
            most = max(most, int(rows.max() - rows.min()) + 1)
        assert pyramid.reach(level, sides) == most


def test_the_last_layer_is_trained_again_after_pruning() -> None:
    pruned = toy_method("fpn_iaia_bl", prune={"rule": "knn", "h1_epochs": 7, "lr_h1": 0.5}).stages()
    head = pruned[[stage.name for stage in pruned].index("prune") + 1]
    assert (head.name, head.epochs, [group.lr for group in head.groups]) == ("h1 pruned", 7, [0.5])


def test_masks_that_its_trunk_was_taught_by_are_said() -> None:
    for coef_fine, seen in ((1e-3, "label + fine mask"), (0.0, "label")):
        method = toy_method("fpn_iaia_bl", coef_fine=0.0, start="iaia_bl", iaia_bl={"coef_fine": coef_fine})
        assert method.supervision == seen


def test_a_whole_run_explains_itself() -> None:
    method = toy_method("fpn_iaia_bl", prototype_init="lesion_patches", size=64)
    train_all(method, [toy_batch(6, size=64, seed=s, first_row=6 * s) for s in range(3)], steps=2)
    batch = toy_batch(3, size=64, seed=8)
    evidence = method.evidence(batch)
    assert evidence is not None and set(evidence.levels) == {2, 3, 4}
    assert {value.shape[1] for value in evidence.maps} == {16, 8}
    assert set(evidence.classes) == {-1, 0, 1, 2}, "the negative class is none of the track's"
    assert method.maps(batch, batch.label)["cav"].shape == (3, 16, 16)
    assert len(method.explain(batch)) == 3
    assert set(method.coefficients) == {*NAMES[:3], "intercept"}
