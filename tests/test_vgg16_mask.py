"""VGG-16 with a mask penalty on its map. First of all: does the penalty alone pull the map into the lesion?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.batch import Batch
from models import _cams
from models import _prototypes as proto
from models.method import Method, Stage
from tests import parity
from tests.toy import as_double, subset, total, toy_batch, toy_method

HEADS = ("pool_linear", "published")
TRAIN = Stage("train")


def made(head: str, name: str = "vgg16_mask", **overrides: Any) -> Method:
    """At toy size, as it is read: without dropout."""
    return toy_method(name, head=head, hidden=16, **overrides).eval()


# ---- polarity ----------------------------------------------------------------------------------------------------
class FreeCells(nn.Module):
    """A trunk whose activations are its parameters, of each image and cell its own: they go where a loss sends them."""

    def __init__(self, images: int, channels: int) -> None:
        super().__init__()
        self.cells = nn.Parameter(torch.rand(images, channels, 8, 8))

    def forward(self, image: Tensor) -> Tensor:
        return self.cells.relu()


def precision(method: Method, batch: Batch) -> float:
    """Share of the top 5 % pixels of the true class's GradCAM that lies in the lesion."""
    size = (batch.mask.shape[2], batch.mask.shape[3])
    cam = proto.upsample(method.maps(batch, batch.label)["gradcam"][:, None], size)
    top = cam >= torch.quantile(cam.flatten(1), 0.95, dim=1)[:, None, None, None]
    return float(((top * batch.mask).sum(dim=(1, 2, 3)) / top.sum(dim=(1, 2, 3))).mean())


def taught_by_the_penalty_alone(head: str, flipped: bool) -> tuple[float, float]:
    """Precision before and after 50 steps of the penalty alone, on activations that nothing else holds."""
    method = toy_method("vgg16_mask", size=64, head=head, hidden=64, dropout=0.0)
    batch = toy_batch(12, size=64, seed=3)
    method.trunk = FreeCells(12, method.trunk.out_channels)
    before = precision(method, batch)
    taught = subset(batch, range(12))
    taught.has_fine[:] = False
    if flipped:
        taught.mask = 1 - taught.mask
    optimiser = torch.optim.Adam(method.trunk.parameters(), lr=0.04)
    for _ in range(50):
        optimiser.zero_grad()
        method(taught, TRAIN)["mask"].value.backward()
        optimiser.step()
    return before, precision(method, batch)


@pytest.mark.parametrize("head", HEADS)
def test_the_penalty_alone_moves_the_map_into_the_mask(head: str) -> None:
    before, inside = taught_by_the_penalty_alone(head, flipped=False)
    _, away = taught_by_the_penalty_alone(head, flipped=True)
    assert inside > before + 0.3
    assert away < before, "with the mask's polarity turned round, the map leaves the lesion"


# ---- numbers -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_golden(dtype: str) -> None:
    (file,) = parity.GOLDEN.glob("05_*.npz")
    found = parity.checks(file, dtype)
    assert len(found) > 30
    assert [check.name for check in found if not check.share <= 1] == []


@pytest.mark.parametrize("head", HEADS)
def test_without_the_penalty_it_is_vgg16_to_the_bit(head: str) -> None:
    plain, ours = made(head, "vgg16"), made(head, coef_mask=0.0)
    batch = toy_batch(6)
    found: list[dict[str, Tensor]] = []
    for method in (plain, ours):
        method.train()
        torch.manual_seed(5)  # dropout's
        loss = method(batch, TRAIN)
        assert list(loss) == ["cross_entropy"] and loss["cross_entropy"].weight == 1
        loss["cross_entropy"].value.backward()
        gradients = {k: p.grad for k, p in method.named_parameters() if p.grad is not None}
        assert len(gradients) == len(list(method.parameters()))
        found.append({"loss": loss["cross_entropy"].value} | gradients)
    theirs, own = found
    assert theirs.keys() == own.keys()
    assert all(torch.equal(theirs[k], own[k]) for k in theirs)
    assert ours.supervision == "label" and made(head).supervision == "label + fine mask"


@pytest.mark.parametrize("head", HEADS)
def test_what_is_punished_is_gradcam_in_units_of_the_logit(head: str) -> None:
    method, batch = made(head).double(), as_double(toy_batch(6))
    with torch.no_grad():
        activation = method.trunk(batch.image)
        logits, maps = method.look(activation)
    torch.testing.assert_close(logits, method.predict(batch, "margin").scores, rtol=1e-9, atol=1e-12)
    cells = maps.shape[2] * maps.shape[3]
    for c in range(3):
        a, gradient = _cams.class_gradient(activation, method.head, torch.full((6,), c))
        torch.testing.assert_close(maps[:, c], _cams.gradcam(a, gradient) * cells, rtol=1e-9, atol=1e-12)
    own = maps[torch.arange(6), batch.label]
    assert float(own.min()) < 0 < float(own.max()), "signed"
    shown = method.maps(batch, batch.label)["gradcam"]
    torch.testing.assert_close(shown, own.relu() / cells, rtol=1e-9, atol=1e-12)
    if head == "pool_linear":  # the map's mean is the logit without its bias
        torch.testing.assert_close(maps.mean(dim=(2, 3)), logits - method.head[-1].bias, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mask_map", ["signed", "positive"])
@pytest.mark.parametrize("norm", ["stacked", "per_prototype", "square"])
@pytest.mark.parametrize("head", HEADS)
def test_the_penalty_is_the_fine_term_of_eq_7(head: str, norm: str, mask_map: str) -> None:
    """Written out: norms of upsampled maps, of the own class outside the mask, of lower and of higher classes anywhere."""
    method = made(head, fine_norm=norm, mask_map=mask_map).double()
    batch = as_double(toy_batch(6))
    with torch.no_grad():
        loss = method(batch, TRAIN)
        maps = method.look(method.trunk(batch.image))[1]
        maps = F.interpolate(maps.relu() if mask_map == "positive" else maps, size=(32, 32), mode="bilinear")
    kinds, want = torch.arange(3), []
    for i, label in enumerate(batch.label.tolist()):
        mask = (batch.fine_mask if batch.has_fine[i] else batch.mask)[i, 0]
        squares = [((maps[i, k] * (1 - mask if k == label else 1)) ** 2).sum() for k in range(3)]
        groups = {
            "stacked": [squares[label], sum(squares[:label]), sum(squares[label + 1 :])],
            "per_prototype": squares,
            "square": [sum(squares)],
        }[norm]
        want.append(sum(float(g) if norm == "square" else float(g) ** 0.5 for g in groups))
    scale = 224 / 32
    factor = scale**2 if norm == "square" else scale
    assert float(loss["mask"].value) == pytest.approx(sum(want) * factor, rel=1e-9)
    assert loss["mask"].reduction == "sum" and loss["mask"].weight == 1e-5
    outside = 1 - torch.where(batch.has_fine.view(-1, 1, 1, 1), batch.fine_mask, batch.mask)
    theirs = proto.fine_loss_per_sample(maps, outside, batch.label, kinds, torch.ones(3, dtype=torch.bool), norm)  # type: ignore[arg-type]
    torch.testing.assert_close(theirs, torch.tensor(want, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    cross_entropy = F.cross_entropy(method.predict(batch, "margin").scores, batch.label)
    assert float(loss["cross_entropy"].value) == pytest.approx(float(cross_entropy), rel=1e-9)


@pytest.mark.parametrize("head", HEADS)
def test_samples_without_any_mask_are_not_punished(head: str) -> None:
    method, batch = made(head), toy_batch(6)
    bare = torch.tensor([False, True, True, False, True, False])
    batch.has_mask[bare] = False
    batch.has_fine[bare] = False
    batch.mask[bare] = 0.7  # nothing that stands where there is no mask may count
    some = method(batch, TRAIN)
    masked = method(subset(batch, (~bare).nonzero()[:, 0]), TRAIN)
    torch.testing.assert_close(some["mask"].value, masked["mask"].value)
    assert some["mask"].value > 0
    batch.has_mask[:] = batch.has_fine[:] = False
    none = method(batch, TRAIN)
    assert none["mask"].value == 0
    total(none).backward()
    plain = made(head, "vgg16")
    plain(batch, TRAIN)["cross_entropy"].value.backward()
    for (name, ours), theirs in zip(method.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=f"{name}: without masks it trains as vgg16 does")


# ---- gradients ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bend", [torch.tanh, torch.relu], ids=["tanh", "relu"])
def test_gradients_pass_through_maps_and_their_weights(bend: Callable[[Tensor], Tensor]) -> None:
    """Against finite differences, for activations and for both layers of a head: of the ReLU, where it is not bent."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    def maps(a: Tensor, first: Tensor, last: Tensor) -> Tensor:
        return _cams.class_maps(a, lambda x: F.linear(bend(F.linear(x.flatten(1), first)), last))[1]

    assert torch.autograd.gradcheck(maps, (leaf(2, 3, 2, 2), leaf(4, 12), leaf(3, 4)))


@pytest.mark.parametrize("head", HEADS)
def test_the_penalty_reaches_trunk_and_head_with_the_right_gradient(head: str) -> None:
    method, batch = made(head).double(), as_double(toy_batch(6))
    method(batch, TRAIN)["mask"].value.backward()
    for parameter in (next(method.trunk.parameters()), method.head[-1].weight):
        assert parameter.grad is not None
        length = float(parameter.grad.norm())
        direction = parameter.grad / length

        def at(step: float, parameter: Tensor = parameter, direction: Tensor = direction) -> float:
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
                value = float(method(batch, TRAIN)["mask"].value)
                parameter.sub_(direction, alpha=step)
            return value

        assert 0 < length == pytest.approx((at(1e-6) - at(-1e-6)) / 2e-6, rel=1e-4)
