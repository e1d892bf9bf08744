"""The arithmetic of prototype networks. First of all: does the fine-annotation loss pull activation into the lesion?"""

import warnings
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.batch import Batch
from data.errors import DataError
from models import _projection as projection
from models import _prototypes as proto
from models._malignancy_head import logistic
from models.method import Method
from tests import parity
from tests.toy import ToyContext, subset, toy_batch, toy_method

KINDS: tuple[proto.Distance, ...] = ("l2", "l2sq")
NORMS: tuple[proto.FineNorm, ...] = ("stacked", "per_prototype", "square")


# ---- polarity ----------------------------------------------------------------------------------------------------
class Shallow(nn.Module):
    """A trunk whose cells see only themselves: grey value and local contrast, mixed into channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor, input_norm: str | None = None) -> Tensor:
        contrast = (x - F.avg_pool2d(x, 5, 1, 2)).abs() * 4
        return self.mix(F.adaptive_avg_pool2d(torch.cat([x, contrast], dim=1), 8)).relu()


def precision(method: Method, batch: Batch) -> float:
    """Share of the top 5 % pixels of own-class maps that lies in the lesion."""
    with torch.no_grad():
        s = proto.upsample(proto.similarity(method.look(batch.image).d), (64, 64))
        top = s >= torch.quantile(s.flatten(2), 0.95, dim=2)[:, :, None, None]
        share = (top * batch.mask).sum(dim=(2, 3)) / top.sum(dim=(2, 3))
        return float(share[proto.own_class(batch.label, method.classes)].mean())


def trained_on_fine_alone(norm: proto.FineNorm, distance: str, label: int, flipped: bool) -> tuple[float, float]:
    """Precision before and after 60 steps of SGD on the prototypes by the fine term alone, from patches drawn anywhere,
    on images of one class: those of other classes punish its prototypes everywhere, lesion included."""
    method = toy_method("iaia_bl", size=64, width=0.25, topk_k=1, distance=distance, fine_norm=norm)
    method.trunk = Shallow(method.trunk.out_channels)
    batch = toy_batch(24, size=64, seed=3)
    batch = subset(batch, (batch.label == label).nonzero()[:, 0])
    with torch.no_grad():
        z_NC = method.latent(batch.image).flatten(2).transpose(1, 2).flatten(0, 1)
        method.prototypes.copy_(z_NC[torch.randperm(len(z_NC))[: len(method.prototypes)]])
    before = precision(method, batch)
    taught = subset(batch, range(len(batch)))
    taught.has_fine[:] = False
    if flipped:
        taught.mask = 1 - taught.mask
    optimiser = torch.optim.SGD([method.prototypes], lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        method.fine_term(proto.similarity(method.look(taught.image).d), taught).value.backward()
        nn.utils.clip_grad_norm_([method.prototypes], 1.0)
        optimiser.step()
    return before, precision(method, batch)


@pytest.mark.long
@pytest.mark.parametrize(("norm", "distance"), [("stacked", "l2"), ("per_prototype", "l2"), ("stacked", "l2sq")])
def test_fine_loss_alone_moves_activation_into_the_mask(norm: proto.FineNorm, distance: str) -> None:
    before, inside = np.mean(
        [trained_on_fine_alone(norm, distance, label, flipped=False) for label in range(3)], axis=0
    )
    assert inside > before + 0.15
    away = np.mean([trained_on_fine_alone(norm, distance, label, flipped=True)[1] for label in range(3)])
    assert away < before, "with the mask's polarity turned round, activation leaves the lesion"


@pytest.mark.parametrize("norm", NORMS)
def test_fine_loss_punishes_own_class_outside_only_and_others_anywhere(norm: proto.FineNorm) -> None:
    kind, labels = torch.arange(3).repeat_interleave(2), torch.tensor([1, 2])
    s = torch.rand(2, 6, 4, 4, dtype=torch.float64).requires_grad_()
    outside = torch.ones(2, 1, 16, 16, dtype=torch.float64)
    outside[:, :, :, :10] = 0  # bilinear upsampling carries the first two columns of cells no further than pixel 9
    active = torch.ones(6, dtype=torch.bool)
    proto.fine_loss_per_sample(s, outside, labels, kind, active, norm).sum().backward()
    assert s.grad is not None
    own = proto.own_class(labels, kind)
    assert (s.grad[own][:, :, :2] == 0).all()
    assert (s.grad[own][:, :, 3] > 0).all()
    assert (s.grad[~own] > 0).all()


# ---- numbers -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["01", "02", "08", "12", "13"])
def test_golden(name: str, dtype: str) -> None:
    (file,) = parity.GOLDEN.glob(f"{name}_*.npz")
    found = parity.checks(file, dtype)
    assert found
    assert [check.name for check in found if not check.share <= 1] == []


def test_a_patch_is_at_distance_0_from_itself_in_float32() -> None:
    torch.manual_seed(0)
    z = torch.rand(4, 512, 6, 6).requires_grad_()
    p = z[0, :, 2, :5].T.detach().clone().requires_grad_()
    for kind in KINDS:
        d = proto.distances(z, p, kind)
        assert [float(d[0, j, 2, j].detach()) for j in range(5)] == [0] * 5
        assert float(proto.similarity(d.detach()).max()) == pytest.approx(9.2103, abs=1e-4)
        gradients = torch.autograd.grad(proto.similarity(d).sum(), (z, p))
        assert all(bool(g.isfinite().all()) for g in gradients)


def test_distances_hold_near_zero_and_in_gradients() -> None:
    torch.manual_seed(0)
    z, p = torch.rand(2, 512, 3, 3, dtype=torch.float64), torch.rand(4, 512, dtype=torch.float64)
    z[0, :, 1, 1] = p[2] + 1e-4 * torch.randn(512, dtype=torch.float64)
    direct = (z[:, None] - p[None, :, :, None, None]).square().sum(2).sqrt()
    for dtype, allowed in ((torch.float32, 1e-4), (torch.float64, 1e-6)):
        d = proto.distances(z.to(dtype), p.to(dtype), "l2")
        assert float(((d - direct) / direct).abs().max()) < allowed
    a, b = z.clone().requires_grad_(), p.clone().requires_grad_()
    got = torch.autograd.grad(proto.distances(a, b, "l2").sum(), (a, b))
    want = torch.autograd.grad((a[:, None] - b[None, :, :, None, None]).square().sum(2).sqrt().sum(), (a, b))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("norm", NORMS)
def test_lean_fine_loss_equals_the_plain_one(norm: proto.FineNorm) -> None:
    torch.manual_seed(0)
    kind, labels = torch.arange(3).repeat_interleave(3), torch.tensor([0, 1, 2, 1])
    active = torch.tensor([1, 1, 0, 1, 1, 1, 0, 1, 1], dtype=torch.bool)
    s = torch.rand(4, 9, 5, 7, dtype=torch.float64).requires_grad_()
    outside = torch.rand(4, 1, 20, 33, dtype=torch.float64)
    outside[3] = 0
    lean = proto.fine_loss_per_sample(s, outside, labels, kind, active, norm)
    plain = torch.stack([_plain(s[i], outside[i], int(labels[i]), kind, active, norm) for i in range(4)])
    torch.testing.assert_close(lean, plain, rtol=1e-10, atol=1e-12)
    got, want = torch.autograd.grad(lean.sum(), s, retain_graph=True)[0], torch.autograd.grad(plain.sum(), s)[0]
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)
    assert got.isfinite().all()


def _plain(s: Tensor, outside: Tensor, label: int, kind: Tensor, active: Tensor, norm: str) -> Tensor:
    up = proto.upsample(s[None], (outside.shape[1], outside.shape[2]))[0]
    groups = {"stacked": [kind == label, kind < label, kind > label]}.get(
        norm, [torch.arange(len(kind)) == j for j in range(len(kind))]
    )
    total = s.new_zeros(())
    for group in groups:
        here = up[group & active]
        if (kind[group] == label).all():
            here = here * outside
        total = total + (here.square().sum() if norm == "square" else proto.safe_sqrt(here.square().sum()))
    return total


def test_norm_at_224_is_what_half_the_size_gives_times_two() -> None:
    assert proto.norm_scale(224, (112, 112), "stacked") == 2
    assert proto.norm_scale(224, (112, 112), "square") == 4
    assert proto.norm_scale(None, (112, 112), "stacked") == 1


def test_inactive_prototypes_contribute_nothing() -> None:
    torch.manual_seed(0)
    kind = torch.arange(3).repeat_interleave(2)
    active = torch.tensor([1, 1, 0, 1, 1, 1], dtype=torch.bool)
    gamma, labels = torch.rand(5, 6) + 1, torch.tensor([0, 1, 2, 1, 0])
    gamma[:, 2] = 0  # would win every minimum
    cluster, separation = proto.cluster_separation(gamma, labels, kind, active)
    assert min(float(cluster), float(separation)) >= 1
    weight = proto.class_weights(kind, 3, -1.0)
    assert float(proto.other_class_l1(weight, kind, active)) == 10


# ---- projection and pruning ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("world", [1, 2, 3])
def test_projection_does_not_depend_on_how_samples_are_shared(world: int) -> None:
    torch.manual_seed(0)
    z = (torch.rand(9, 4, 3, 3) * 4).round() / 4  # many exact ties
    rows, labels = torch.arange(9), torch.arange(9) % 3
    p, kind = (torch.rand(6, 4) * 4).round() / 4, torch.arange(3).repeat_interleave(2)

    def share(part: Tensor) -> dict[int, projection.Patch]:
        found = projection.nearest_patches(z[part], rows[part], labels[part], p, kind)
        return {j: patch for j, (patch, _) in found.items()}

    whole = share(rows)
    for order in (range(world), reversed(range(world))):
        parts = projection.reduce_patches(share(rows[rank::world]) for rank in order)
        assert {j: patch.key for j, patch in parts.items()} == {j: patch.key for j, patch in whole.items()}


def test_start_in_lesions_does_not_depend_on_workers_and_stays_inside() -> None:
    z = torch.zeros(6, 2, 4, 4)
    z[:, 0] = torch.arange(16.0).view(4, 4)
    mask = torch.zeros(6, 1, 16, 16)
    mask[:5, :, 4:8, 8:16] = 1  # cells (1, 2) and (1, 3); the last sample has no mask
    rows, labels = torch.arange(6), torch.arange(6) % 2
    whole = projection.lesion_draws(z, mask, rows, labels, seed=3)
    assert {float(vector[0]) for _, _, vector in whole} <= {6.0, 7.0}
    assert len(whole) == 5
    halves = [
        draw
        for part in (rows[::2], rows[1::2])
        for draw in projection.lesion_draws(z[part], mask[part], part, labels[part], 3)
    ]
    keys = [[draw[0] for draw in projection.keep_lowest(draws, [2, 2])] for draws in (whole, halves)]
    assert keys[0] == keys[1]


def test_pruning_never_empties_a_class() -> None:
    with pytest.raises(DataError, match="spiculated"):  # of one training: a sweep goes on
        projection.after_pruning([True] * 4, [2, 3], [0, 1, 2, 2], ("circumscribed", "indistinct", "spiculated"))


def test_duplicates_keep_the_lowest_index() -> None:
    places = [(1, 0, 0), (1, 0, 0), (1, 0, 0), (2, 0, 0), (1, 0, 0)]
    assert projection.duplicates([0, 0, 1, 0, 0], places, [True] * 5) == [1, 4]
    assert projection.duplicates([0, 0, 1, 0, 0], places, [False, True, True, True, True]) == [4]


@pytest.mark.parametrize("penalty", ["none", "l2"])
def test_logistic_regression_meets_its_own_optimum(penalty: Literal["none", "l2"]) -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(300, 3)) * [1, 20, 5] + [3, 0, -40])
    y = torch.from_numpy(
        (rng.random(300) < 1 / (1 + np.exp(-(x[:, 0].numpy() - 3 + 0.1 * x[:, 1].numpy())))).astype(int)
    )
    weight, bias = logistic(x, y, penalty)
    residual = torch.sigmoid(x @ weight + bias) - y
    assert abs(float(residual.sum())) < 1e-4
    gradient = x.T @ residual + (weight if penalty == "l2" else 0)
    assert float(gradient.abs().max()) < 1e-2


def test_separable_logits_are_said_aloud() -> None:
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    y = torch.tensor([0, 0, 1, 1])
    with pytest.warns(RuntimeWarning, match="no finite optimum"):
        logistic(x, y, "none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logistic(x, y, "l2")


def test_projected_prototypes_are_patches_and_carry_their_source() -> None:
    method = toy_method("iaia_bl")
    batches = [toy_batch(6, seed=s, first_row=6 * s) for s in range(3)]
    method.project(ToyContext(batches))
    for j in range(15):
        row, y, x = method.source_place[j].tolist()
        source = batches[row // 6]
        assert int(source.label[row % 6]) == int(method.classes[j])
        with torch.no_grad():
            d = method.look(source.image).d[row % 6, j]
        assert float(d[y, x]) < 1e-5
        assert float(method.source_map(j).max()) == pytest.approx(9.2103, abs=1e-3)
        shown = method.source_image[j].float() / 255
        assert float((shown - source.image[row % 6, 0]).abs().max()) < 1 / 255


def test_a_patch_is_at_distance_0_from_itself_in_half_precision_too() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(4, 64, 8, 8, generator=generator)
    prototypes = z[:, :, 3, 5].clone()
    with torch.autocast("cpu", torch.bfloat16):
        own = proto.distances(z, prototypes, "l2")[range(4), range(4), 3, 5]
    assert float(own.max()) < 1e-6
    assert own.dtype == torch.float32


def test_similarity_to_the_own_source_is_the_highest_under_autocast() -> None:
    method = toy_method("protopnet", topk_k=1)
    with torch.autocast("cpu", torch.bfloat16):
        method.project(ToyContext([toy_batch(6, seed=s, first_row=6 * s) for s in range(3)]))
    highest = method.source_maps.max(dim=1).values
    assert torch.allclose(highest, proto.similarity(torch.zeros(())).expand_as(highest), atol=1e-2)
