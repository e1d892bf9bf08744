"""FPN-IAIA-BL: levels and table of prototypes, readings, the class-pair fine loss, the negative class."""

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
from tests.toy import PROVIDES, lesion_free, subset, total, toy_batch, toy_config, toy_method

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


@settings(max_examples=30)
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
    published, other = toy_method("fpn_iaia_bl"), toy_method("fpn_iaia_bl", **overrides)
    start_alike(published, other)
    values = []
    for method in (published, other):
        loss = method(mixed(), JOINT)
        total(loss).backward()
        assert all(bool(p.grad.isfinite().all()) for p in method.parameters() if p.grad is not None)
        values.append(float(total(loss).detach()))
    assert values[0] != values[1]


def start_alike(published: Any, other: Any) -> None:
    """Where a reading has parameters of other shapes, which shift the draws of the rest, only the reading shall differ:
    `other` gets the weights that both have, and a convolution of its own that changes nothing at first."""
    given, own = published.state_dict(), other.state_dict()
    shared = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    if len(shared) == len(given) == len(own):
        return
    other.load_state_dict(shared, strict=False)
    for name, parameter in other.named_parameters():
        if name not in given and parameter.ndim == 4:
            torch.nn.init.dirac_(parameter)


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


@pytest.mark.parametrize(
    "table", [[[0, 0, 0, 1]] * 3, [[0, 0, 0, 1]] * 5, [[0, 0, 1]] * 4, [[float("inf"), 0, 0, 1]] * 4]
)
def test_a_table_is_four_by_four_and_finite(table: list[list[float]]) -> None:
    for name in ("lambda_in", "lambda_out"):
        with pytest.raises(ValueError, match=name):
            models.load("fpn_iaia_bl").Config.model_validate({name: table})
    with pytest.raises(ValueError, match="coef_fine"):
        models.load("fpn_iaia_bl").Config(coef_fine=float("inf"))


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
