"""The VGG-16 baseline: trunk, weights, folding, maps."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import models
from data.errors import ConfigError
from models import _cams
from models._trunks import Trunk, imagenet_file, normalise, vgg16_trunk
from models.method import Task
from tests.toy import PROVIDES, toy_batch, toy_config, toy_method, train


def trained_batch_norm(method: nn.Module) -> None:
    """Statistics and scales away from their start."""
    generator = torch.Generator().manual_seed(0)
    for module in method.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)


@pytest.mark.parametrize("blocks", [4, 5])
def test_folding_the_batch_norm_is_exact(blocks: int) -> None:
    common = {"trunk_blocks": blocks, "head": "pool_linear", "input_norm": "per_image", "width": 0.125, "size": 64}
    donor = toy_method("vgg16", norm="batch", **common).eval()
    trained_batch_norm(donor)
    plain = toy_method("vgg16", seed=1, **common, weights="pretext").eval()
    plain.start_from("trunk", donor.state_dict())
    plain.head.load_state_dict(donor.head.state_dict())
    batch = toy_batch(8, size=64)
    a, b = donor.predict(batch, "margin").scores, plain.predict(batch, "margin").scores
    assert float((a - b).abs().max()) < 1e-5 * max(1.0, float(a.abs().max()))
    copied = toy_method("vgg16", seed=2, norm="batch", **common, weights="pretext").eval()
    copied.start_from("trunk", donor.state_dict())
    assert torch.equal(copied.trunk(batch.image), donor.trunk(batch.image))


def test_the_published_trunk_is_torchvisions() -> None:
    trunk = Trunk(1.0, 5, "none", "none")
    assert sum(p.numel() for p in trunk.parameters()) == 14_714_688
    assert trunk.out_channels == 512
    assert trunk.map_size(224) == 14
    with torch.no_grad():
        assert Trunk(0.125, 5, "none", "none")(torch.rand(1, 1, 64, 64)).shape == (1, 64, 4, 4)
        assert Trunk(0.125, 4, "none", "none")(torch.rand(1, 1, 64, 64)).shape == (1, 64, 8, 8)


def test_imagenet_weights_are_read_where_they_lie_and_asked_for_where_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = toy_config("vgg16", weights="imagenet", width=1.0, trunk_blocks=4)
    method, task = models.load("vgg16"), Task.of("margin")
    with pytest.raises(ConfigError, match=r"vgg16-397923af\.pth.*hub/checkpoints"):
        method.requires(config, task)
    file = imagenet_file("none")
    assert str(file).startswith(str(tmp_path))
    file.parent.mkdir(parents=True)
    donor = Trunk(1.0, 5, "none", "none")
    torch.save({**donor.state_dict(), "classifier.0.weight": torch.zeros(1)}, file)
    assert method.requires(config, task) == []
    assert torch.equal(vgg16_trunk(config).features[0].weight, donor.features[0].weight)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [({"weights": "imagenet"}, "fit only width 1"), ({"weights": "pretext"}, "input_norm per_image")],
)
@pytest.mark.parametrize("name", ["vgg16", "iaia_bl", "protopnet"])
def test_impossible_starts_are_refused(name: str, overrides: dict[str, str], words: str) -> None:
    config = toy_config(name, **overrides)
    with pytest.raises(ConfigError, match=words):
        models.load(name).requires(config, Task.of("margin"))
    with pytest.raises(ConfigError, match=words):
        models.load(name)(config, Task.of("margin"))


def test_methods_of_one_budget_share_one_pretext() -> None:
    made = []
    for name in ("vgg16", "iaia_bl", "protopnet"):
        config = toy_config(name, weights="pretext", input_norm="per_image", augment={"recipe": "turns"})
        (one,) = models.load(name).requires(config, Task.of("margin", provides=PROVIDES))
        donor = models.load(one.method)(models.load(one.method).Config.model_validate(one.config), Task.of(one.track))
        assert donor.requires(donor.config, donor.task) == []
        made.append(one)
    assert made[0] == made[1] == made[2]


def test_input_norms() -> None:
    x = torch.rand(3, 1, 8, 8) * 0.5
    assert torch.equal(normalise(x, "none")[:, 1:2], x)
    y = normalise(x, "per_image")
    sd = x.std(dim=(1, 2, 3), correction=0)
    torch.testing.assert_close(y.std(dim=(1, 2, 3), correction=0), sd / (sd + 0.02))
    torch.testing.assert_close(normalise(x, "imagenet")[:, 2:], (x - 0.406) / 0.225)
    assert normalise(x, "imagenet").is_contiguous(memory_format=torch.channels_last)


def test_gradcam_of_a_linear_head_on_the_mean_is_the_classic_map() -> None:
    torch.manual_seed(0)
    a, w = torch.rand(4, 6, 5, 5), torch.randn(3, 6)
    target = torch.tensor([0, 1, 2, 1])
    got_a, g = _cams.class_gradient(a, lambda x: F.linear(x.mean(dim=(2, 3)), w), target)
    classic = torch.einsum("bc,bchw->bhw", w[target], a)
    torch.testing.assert_close(_cams.gradcam(got_a, g) * 25 * 25, classic * 25)
    share = g**2 / (2 * g**2 + a.sum(dim=(2, 3), keepdim=True) * g**3 + 1e-6)
    plus = torch.einsum("bc,bchw->bhw", (share * g.clamp_min(0)).sum(dim=(2, 3)), a)
    torch.testing.assert_close(_cams.gradcampp(got_a, g), plus)


def test_maps_work_wherever_gradients_are_switched_off() -> None:
    method, batch = toy_method("vgg16", head="pool_linear").eval(), toy_batch(4)
    plain = method.maps(batch, batch.label)
    with torch.no_grad():
        quiet = method.maps(batch, batch.label)
    with torch.inference_mode():
        still = method.maps(batch, batch.label)
    with torch.autocast("cpu", torch.bfloat16):
        half = method.maps(batch, batch.label)
    for name, value in plain.items():
        assert torch.equal(value, quiet[name])
        assert torch.equal(value, still[name])
        assert half[name].dtype == torch.float32
        assert float((half[name] - value).abs().max()) < 0.2 * float(value.abs().max())
    assert all(p.grad is None for p in method.parameters())


def test_it_learns_the_toy_classes() -> None:
    method = toy_method(
        "vgg16", norm="batch", head="pool_linear", input_norm="per_image", width=0.125, lr=3e-3, weight_decay=0.0
    )
    batches = [toy_batch(12, seed=s, first_row=12 * s) for s in range(4)]
    train(method, method.stages()[0], batches, 40)
    method.eval()
    unseen = toy_batch(24, seed=99)
    assert float((method.predict(unseen, "margin").scores.argmax(1) == unseen.label).float().mean()) > 0.7
