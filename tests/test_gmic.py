"""GMIC (models/gmic.py): its network, its five maps, and what each setting changes. Parity: tests/parity_gmic.py."""

import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

import models
from data.batch import Batch
from data.errors import ConfigError
from models import _cams
from models._gmic_net import GmicNet, score_gradient, standardise, top_count
from models.gmic import MASS, Gmic
from tests import parity
from tests.parity_gmic import released_names
from tests.toy import freeze, total, toy_batch, toy_method, train

CAMS = tuple(_cams.TITLES)


def gmic(seed: int = 0, **settings_: object) -> Gmic:
    method = toy_method("gmic", "detection", seed, size=64, stages=2, blocks=1, **settings_)
    assert isinstance(method, Gmic)
    return method


def films(n: int = 6, size: int = 64) -> Batch:
    return toy_batch(n, size, classes=2)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_parity_with_the_authors_numbers(dtype: str) -> None:
    for file in ("04_gmic.npz", "05b_cams_gmic.npz"):
        found = parity.checks(parity.GOLDEN / file, dtype)
        assert len(found) > 90
        assert [(check.name, check.deviation) for check in found if check.share > 1] == []


# ---- the network ----------------------------------------------------------------------------------------------------
def test_the_published_network_has_the_parameters_that_its_description_counts() -> None:
    net = GmicNet(2)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    assert (counts["trunk"], counts["local"]) == (2_799_536, 11_176_512)
    assert sum(counts.values()) == 14_110_322


@pytest.mark.parametrize(
    ("film", "cells"), [((2944, 1920), (46, 30)), ((736, 480), (12, 8)), ((512, 384), (8, 6)), ((883, 576), (14, 9))]
)
def test_the_map_s_size_follows_from_the_film_s(film: tuple[int, int], cells: tuple[int, int]) -> None:
    trunk = GmicNet(1, width=0.0625).trunk.eval()
    assert trunk.map_size(film) == cells
    with torch.no_grad():
        assert trunk(torch.zeros(1, 1, *film)).shape[2:] == cells


def test_crops_shrink_with_the_film() -> None:
    config = models.load("gmic").Config()
    assert config.film == (2944, 1920) and config.crop_size(config.film) == (256, 256)
    small = config.model_copy(update={"size": 736, "input_width": 480})
    assert small.film == (736, 480) and small.crop_size(small.film) == (64, 64)


# ---- the released weights -------------------------------------------------------------------------------------------
def released_file(folder: Path, method: Gmic) -> Path:
    names = released_names(method.net)
    state = {
        names[key]: torch.rand_like(value.float()).to(value.dtype) for key, value in method.net.state_dict().items()
    }
    torch.save(state, folder / "model.p")
    return folder / "model.p"


def test_a_checkpoint_with_the_released_names_is_loaded(tmp_path: Path) -> None:
    state = torch.load(released_file(tmp_path, gmic()))
    started = gmic(weights="released")
    started.start_from("weights", state)
    assert torch.equal(started.net.saliency.weight, state["left_postprocess_net.gn_conv_last.weight"])
    assert torch.equal(started.net.local.conv1.weight, state["dn_resnet.conv1.weight"])
    untrained = started.untrained()
    assert isinstance(untrained, Gmic) and untrained.config.start_file is None
    assert not torch.equal(untrained.net.saliency.weight, started.net.saliency.weight)


def test_its_own_state_is_loaded_as_well() -> None:
    before, after = gmic(seed=1), gmic(seed=2)
    after.start_from("weights", before.state_dict())
    assert all(torch.equal(value, before.state_dict()[key]) for key, value in after.state_dict().items())


def test_a_checkpoint_that_does_not_fit_is_refused_with_the_keys(tmp_path: Path) -> None:
    state = torch.load(released_file(tmp_path, gmic()))
    state["more.weight"] = torch.zeros(1)
    del state["fusion_dnn.bias"]
    state["classifier_linear.weight"] = torch.zeros(7, 3)
    with pytest.raises(
        ConfigError,
        match=r"1 missing: fusion_head.bias; 1 unknown: more.weight; 1 of another shape: local_head.weight \(7, 3\)",
    ):
        gmic().start_from("weights", state)


# ---- training -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("train_cam", CAMS)
def test_the_map_that_picks_the_crops_leaves_the_saliency_layer_training(train_cam: str) -> None:
    method, batch = gmic(train_cam=train_cam), films()
    [stage] = method.stages()
    freeze(method, stage)
    total(method(batch, stage)).backward()
    gradient = method.net.saliency.weight.grad
    assert gradient is not None and float(gradient.abs().max()) > 0


def test_the_authors_scope_says_that_the_saliency_layer_never_trains_and_so_it_is() -> None:
    method, batch = gmic(train_cam="xgradcam", train_scope="rois_and_global"), films()
    with pytest.warns(UserWarning, match="the saliency layer never trains"):
        method.inputs()
    [stage] = method.stages()
    before = method.net.saliency.weight.detach().clone()
    freeze(method, stage)
    loss = method(batch, stage)
    total(loss).backward()
    assert method.net.saliency.weight.grad is None
    assert float(loss["global_bce"].value.detach()) > 0 and torch.equal(method.net.saliency.weight, before)


def test_with_cam_itself_the_authors_scope_replaces_nothing() -> None:
    method, batch = gmic(train_cam="cam", train_scope="rois_and_global"), films()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [stage] = method.stages()
    freeze(method, stage)
    total(method(batch, stage)).backward()
    assert method.net.saliency.weight.grad is not None


def test_a_score_without_a_gradient_in_the_fused_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no gradient in the stages before the last \(cam_layers: stage4_5\)"):
        gmic(cam_layers="stage4_5", cam_score="fusion_logit")


def test_the_l1_is_a_sum_over_cells_or_their_mean() -> None:
    batch = films()
    seen = {}
    for l1 in ("sum", "mean"):
        method = gmic(l1=l1)
        [stage] = method.stages()
        seen[l1] = float(method(batch, stage)["saliency_l1"].value.detach())
    cells = math.prod(gmic().net.trunk.map_size((64, 64)))
    assert seen["sum"] == pytest.approx(cells * seen["mean"], rel=1e-5)


def test_the_published_weight_of_the_l1_has_its_exponent() -> None:
    assert models.load("gmic").Config().beta == pytest.approx(3.259e-6, rel=1e-3)


# ---- maps -----------------------------------------------------------------------------------------------------------
def shown(method: Gmic, batch: Batch) -> dict[str, Tensor]:
    return method.maps(batch, torch.full_like(batch.label, MASS))


def of_features(method: Gmic, batch: Batch) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        features = method.net.trunk(standardise(batch.image))
        return features, method.net.saliency(features)[:, 0]


def trained(**settings_: object) -> tuple[Gmic, Batch]:
    method, batch = gmic(**settings_), films()
    train(method, method.stages()[0], [batch], steps=8, plain_lr=1e-2)
    return method.eval(), batch


def test_gradcam_is_the_logit_map_times_the_mean_gradient_whatever_the_score() -> None:
    for score in ("y_global", "sum_logit"):
        method, batch = trained(cam_score=score, cam_unit="raw")
        _, z = of_features(method, batch)
        named = "topt" if score == "y_global" else "sum_logit"
        m = score_gradient(z, named, top_count(z.shape[1] * z.shape[2], method.config.percent_t))  # type: ignore[arg-type]
        torch.testing.assert_close(
            shown(method, batch)["gradcam"], (m.mean(dim=(1, 2), keepdim=True) * z).clamp_min(0), rtol=1e-4, atol=1e-6
        )


def test_gradient_maps_are_in_units_of_the_logit_so_that_films_compare() -> None:
    """A raw gradient vanishes where the network is sure. Of the rules that are multiples of it no region changes."""
    raw, batch = trained(cam_unit="raw")
    unit = gmic()
    unit.load_state_dict(raw.state_dict())
    _, z = of_features(raw, batch)
    plain, scaled = shown(raw, batch), shown(unit.eval(), batch)
    torch.testing.assert_close(scaled["gradcam"], z.clamp_min(0), rtol=1e-4, atol=1e-5)
    for name in ("gradcam", "xgradcam", "layercam"):
        for one, other in zip(plain[name], scaled[name], strict=True):
            if float(one.max()) > 0:
                torch.testing.assert_close(one / one.max(), other / other.max(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # a network that is as sure as single precision allows
        unit.net.saliency.weight *= 60 / float(z.abs().max())
    sure = shown(unit, batch)
    assert all(bool(value.isfinite().all()) for value in sure.values())
    assert float(sure["gradcam"].max()) > 20
    assert float(sure["gradcampp"].max()) > 0.1 * float(scaled["gradcampp"].max())


@pytest.mark.parametrize("score", ["y_global", "sum_logit"])
def test_how_sure_a_film_is_changes_no_gradient_map(score: str) -> None:
    """Of films that differ in that alone, each rule gives one map: GradCAM++ is no multiple of its gradient."""
    method, batch = trained(cam_score=score)
    features, _ = of_features(method, batch)
    cells = torch.Size((len(features), 1, *features.shape[2:]))
    for name in _cams.RULES:
        first, *others = (
            method._rule(
                name, features.double(), method._gradient(features.double(), method._pooled(torch.full(cells, z)))
            )  # type: ignore[arg-type]
            for z in (0.0, 8.0, 40.0)
        )
        assert float(first.abs().max()) > 0
        for other in others:
            torch.testing.assert_close(other, first)


def test_the_fused_layers_of_the_surest_film_show_something() -> None:
    """In single precision the sigmoid is 1 there, and its own gradient 0."""
    method, batch = trained(cam_layers="stage4_5")
    usual = shown(method, batch)
    with torch.no_grad():
        method.net.saliency.weight *= 60 / float(of_features(method, batch)[1].abs().max())
    sure = shown(method, batch)
    for name in ("gradcam", "xgradcam", "layercam"):
        assert torch.equal(*(maps[name].flatten(1).any(dim=1) for maps in (sure, usual)))


def test_cam_has_gradcam_s_nested_regions_at_other_thresholds() -> None:
    method, batch = trained()
    maps = shown(method, batch)
    for cam, grad in zip(maps["cam"].flatten(1), maps["gradcam"].flatten(1), strict=True):
        positive = grad > 0
        assert torch.equal(cam[positive].argsort(), grad[positive].argsort())
        assert bool((cam[positive] > 0.5).all()) and bool((cam[~positive] <= 0.5).all())


def test_what_the_method_declares_equal_by_algebra_is_equal() -> None:
    method, batch = trained(cam_score="sum_logit")
    maps = shown(method, batch)
    pairs = method.coincide()
    assert [pair[:2] for pair in pairs] == [("gradcam", "xgradcam")]
    for one, other, _ in pairs:
        torch.testing.assert_close(maps[one], maps[other], rtol=1e-3, atol=1e-5)
    top, batch = trained()
    assert top.coincide() == [] and not torch.allclose(
        shown(top, batch)["gradcam"], shown(top, batch)["xgradcam"], rtol=1e-2
    )


def test_layercam_of_a_top_t_score_shows_no_more_cells_than_were_pooled() -> None:
    method, batch = trained(percent_t=0.05)
    maps = shown(method, batch)
    most = top_count(maps["layercam"][0].numel(), 0.05)
    assert int((maps["layercam"] > 0).flatten(1).sum(dim=1).max()) <= most < maps["layercam"][0].numel()


def test_closed_forms_are_the_gradients_that_autograd_gives() -> None:
    for score in ("y_global", "sum_logit", "fusion_logit"):
        method, batch = trained(cam_score=score, cam_unit="raw")
        features, _ = of_features(method, batch)
        count = top_count(features.shape[2] * features.shape[3], method.config.percent_t)

        def head(a: Tensor, method: Gmic = method, score: str = score, count: int = count) -> Tensor:
            z = method.net.saliency(a)[:, 0].flatten(1)
            if score == "fusion_logit":
                return a.amax(dim=(2, 3)) @ method.net.fusion_head.weight[:, : a.shape[1]].T
            return (z.sigmoid().topk(count).values.mean(dim=1) if score == "y_global" else z.sum(dim=1))[:, None]

        a, g = _cams.class_gradient(features, head, torch.zeros(len(features), dtype=torch.int64))
        maps = shown(method, batch)
        for name, rule in _cams.RULES.items():
            torch.testing.assert_close(maps[name], rule(a, g).clamp_min(0), rtol=1e-3, atol=1e-6)


def test_maps_of_the_class_normal_are_those_of_the_opposite_score() -> None:
    method, batch = trained()
    mass, normal = shown(method, batch), method.maps(batch, torch.zeros_like(batch.label))
    torch.testing.assert_close(mass["cam"], 1 - normal["cam"])
    _, z = of_features(method, batch)
    assert bool((normal["gradcam"][z > 0] == 0).all())


@pytest.mark.parametrize("settings_", [{"cam_layers": "stage4_5"}, {"cam_impl": "torchcam"}, {"outputs": "two_author"}])
def test_every_reading_trains_and_draws(settings_: dict[str, str]) -> None:
    method, batch = trained(**settings_)
    maps = shown(method, batch)
    assert set(maps) == set(CAMS) and len({value.shape for value in maps.values()}) == 1
    assert all(bool(value.isfinite().all()) and float(value.max()) > 0 for value in maps.values())
    assert bool(method.predict(batch, "detection").probabilities.isfinite().all())


def test_drawing_leaves_gradients_hooks_statistics_and_modes_as_they_were() -> None:
    method, batch = gmic().train(), films()
    state = {key: value.clone() for key, value in method.state_dict().items()}
    before = {name: part.training for name, part in method.named_modules()}
    method.net.local.eval()
    before |= {name: part.training for name, part in method.named_modules()}
    shown(method, batch)
    method.explain(batch)
    broken = method.net.trunk.final_bn.forward
    method.net.trunk.final_bn.forward = lambda x: (_ for _ in ()).throw(RuntimeError("in the middle"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="in the middle"):
        shown(method, batch)
    method.net.trunk.final_bn.forward = broken  # type: ignore[method-assign]
    assert {name: part.training for name, part in method.named_modules()} == before
    assert all(torch.equal(value, state[key]) for key, value in method.state_dict().items())
    assert all(p.grad is None for p in method.parameters())
    assert not any(part._forward_hooks or part._backward_hooks for part in method.modules())


# ---- reading --------------------------------------------------------------------------------------------------------
def test_the_test_map_changes_what_detection_reads_and_nothing_else() -> None:
    method, batch = trained()
    prediction, maps = method.predict(batch, "detection"), shown(method, batch)
    assert [variant.name for variant in method.variants()] == list(CAMS)
    for variant in method.variants():
        assert variant.map in maps and variant.map == variant.name and variant.settings == {"test_cam": variant.name}
        assert not [name for name in maps if name != variant.map and torch.equal(maps[name], maps[variant.map])]
    other = gmic(test_cam="xgradcam")
    assert next(variant.name for variant in other.variants()) == "xgradcam"
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.eval().predict(batch, "detection").scores, prediction.scores)


def test_the_crops_of_a_prediction_follow_the_map_of_training_or_the_saliency() -> None:
    batch = films()
    cams = {}
    for crops_by in ("cam", "train_cam"):
        method, _ = trained(train_cam="layercam", test_crops=crops_by, K=1, crop=0.3)
        cams[crops_by] = torch.stack(method.predict(batch, "detection").regions or [])
    assert not torch.equal(cams["cam"], cams["train_cam"])


def test_its_regions_lie_in_the_film_and_their_attention_adds_up() -> None:
    method, batch = trained(K=3)
    regions = method.predict(batch, "detection").regions
    assert regions is not None and all(one.shape == (3, 5) for one in regions)
    for one in regions:
        assert (
            float(one[:, :4].min()) >= 0
            and float(one[:, [0, 2]].max()) <= 64
            and float(one[:, 4].sum()) == pytest.approx(1)
        )
        assert bool((one[:, 2] > one[:, 0]).all() and (one[:, 3] > one[:, 1]).all())


def test_a_case_shows_film_regions_saliency_crops_by_attention_and_all_five_maps() -> None:
    method, batch = trained(K=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [panels, *_] = method.explain(batch)
    assert [panel.title for panel in panels if panel.line == 0] == [
        "film",
        "regions, by attention",
        "saliency: CAM of mass",
    ]
    crops_ = [panel for panel in panels if panel.line == 1]
    weights = [float(panel.caption.removeprefix("attention ")) for panel in crops_]
    named = next(panel for panel in panels if panel.title == "regions, by attention").marks
    assert [word for *_, word in named] == [panel.title.removeprefix("region ") for panel in crops_]
    for (x, y, _), panel in zip(named, crops_, strict=True):
        assert panels[0].image[round(y), round(x)] == panel.image[panel.image.shape[0] // 2, panel.image.shape[1] // 2]
    assert len(crops_) == 3 and weights == sorted(weights, reverse=True)
    assert [panel.title for panel in panels if panel.line == 2] == [
        "CAM",
        "GradCAM",
        "GradCAM++",
        "XGradCAM",
        "LayerCAM",
    ]
