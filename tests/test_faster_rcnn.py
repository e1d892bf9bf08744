"""Faster R-CNN: torchvision's detector behind this program's input, what it learns from, and what it gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models import resnet18
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from bench.engine.loop import Settings, fit
from bench.engine.worker import Worker
from data.batch import Batch
from data.cache import Prepared, prepare
from data.errors import ConfigError
from data.inputs import Roi
from models import _resnet_fpn
from models.faster_rcnn import score_map
from models.method import Method
from tests.toy import subset, total, toy_batch, toy_method, train
from tests.toy_engine import Tiny, content
from tests.toy_workers import on_two_workers

pytestmark = pytest.mark.usefixtures("one_thread")
FILMS = {"exams": {"train": 10, "validation": 4, "test": 1}, "level": "easy", "size": 64, "normal_share": 0.5}
WHOLE = Roi(strategy="whole")
SIZE = 32
FEW: dict[str, Any] = {"rpn": {"kept_train": 50, "kept_test": 50}, "head": {"samples": 32}}  # for speed
SMALL: dict[str, Any] = {"size": SIZE, "backbone": "resnet18", **FEW}


def net(seed: int = 0, **overrides: Any) -> Method:
    return toy_method("faster_rcnn", "detection", seed, **overrides)


def squares(n: int, seed: int, size: int = 64) -> Batch:
    """n films of noise; every second one has a bright square of 10 to 20 pixels, with its box."""
    rng = np.random.default_rng(seed)
    batch = toy_batch(n, size, classes=2, seed=seed)
    image = 0.3 + 0.1 * rng.standard_normal((n, 1, size, size))
    for i in range(n):
        side = int(rng.integers(10, 21))
        x, y = rng.integers(0, size - side, 2)
        batch.boxes[i] = torch.zeros(0, 4)
        if batch.label[i] == 1:
            image[i, 0, y : y + side, x : x + side] += 0.5
            batch.boxes[i] = torch.tensor([[x, y, x + side, y + side]], dtype=torch.float32)
    batch.image = torch.from_numpy(np.clip(image, 0, 1)).float()
    return batch


# ---- what it is ---------------------------------------------------------------------------------------------------
@pytest.mark.long
def test_it_is_torchvisions_detector() -> None:
    """The same weights give the same boxes and the same losses; anchors at 800 pixels are torchvision's own."""
    size = 128
    every = 10_000  # samples: none is left to chance
    ours = net(width=1.0, size=size, cell=32, rpn={"samples": every}, head={"samples": every, "score": 0.4}).eval()
    anchors = AnchorGenerator(tuple((share * size,) for share in ours.config.anchors), ((0.5, 1.0, 2.0),) * 5)
    theirs = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2, min_size=size, max_size=size, box_score_thresh=0.4,
        rpn_anchor_generator=anchors, rpn_batch_size_per_image=every, box_batch_size_per_image=every,
    ).eval()  # fmt: skip
    theirs.load_state_dict(
        {
            key.replace("heads.", "roi_heads.", 1) if key.startswith("heads.") else key: value
            for key, value in ours.state_dict().items()
        }
    )
    batch = squares(2, seed=1, size=size)
    rgb = list(batch.image.expand(-1, 3, -1, -1))
    with torch.no_grad():
        wanted = theirs(rgb)
        found = ours.predict(batch, "detection").boxes
        assert found is not None and sum(len(boxes) for boxes in found) > 10
        for boxes, one in zip(found, wanted, strict=True):
            torch.testing.assert_close(boxes[:, :4], one["boxes"], rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(boxes[:, 4], one["scores"], rtol=1e-4, atol=1e-5)
        targets = [{"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)} for boxes in batch.boxes]
        losses = theirs.train()(rgb, targets)
        terms = ours.train()(batch, ours.stages()[0])
    assert float(total(terms)) == pytest.approx(float(sum(losses.values())), rel=1e-5)
    published = net(size=800).rpn.anchor_generator
    assert published.sizes == ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)) == theirs_sizes()
    assert len(published.aspect_ratios) == 5 and set(published.aspect_ratios) == {(0.5, 1.0, 2.0)}


def theirs_sizes() -> tuple[tuple[float], ...]:
    generator = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).rpn.anchor_generator
    return tuple((float(side),) for (side,) in generator.sizes)


def test_anchors_and_boxes_are_in_full_precision_under_autocast() -> None:
    method = net().eval()
    with torch.autocast("cpu", torch.bfloat16):
        boxes = method.find(toy_batch(2).image)
    assert {one.dtype for one in boxes} == {torch.float32}
    assert {one.dtype for one in method.rpn.anchor_generator.cell_anchors} == {torch.float32}


def test_the_narrowest_trunk_has_the_channels_that_its_gradient_needs() -> None:
    body = net(width=0.01).backbone.body
    strided = [
        m for m in body.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (1, 1) and m.stride == (2, 2)
    ]
    assert strided and min(m.in_channels for m in strided) >= 16


# ---- where it starts from -----------------------------------------------------------------------------------------
def test_imagenet_is_never_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    method = net(width=1.0, weights="imagenet", trainable="upper", backbone="resnet18")
    with pytest.raises(ConfigError, match="ImageNet weights of resnet18 are not on this machine: resnet18-f37072fd"):
        method.stages()
    with pytest.raises(ConfigError, match=r"fit only width 1, not 0\.5"):
        net(width=0.5, weights="imagenet").stages()
    with pytest.raises(ConfigError, match="what is frozen would stay random"):
        net(trainable="upper").stages()


def test_imagenet_is_the_start_and_its_stem_and_norms_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = _resnet_fpn.imagenet_file("resnet18")
    file.parent.mkdir(parents=True)
    torch.manual_seed(7)
    state = resnet18().state_dict()
    torch.save(state, file)
    method = net(width=1.0, weights="imagenet", trainable="upper", backbone="resnet18")
    body = method.backbone.body.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in body.items()) and len(body) > 90
    [stage] = method.stages()
    trained = {id(p) for group in stage.groups for p in group.parameters}
    names = {name for name, p in method.named_parameters() if id(p) not in trained}
    assert {name.split(".")[2] for name in names} == {"conv1", "layer1"}
    assert not [name for name, _ in method.named_parameters() if ".bn" in name], "norms of ImageNet are no parameters"


# ---- what it learns from ------------------------------------------------------------------------------------------
def test_a_film_without_a_box_holds_no_mass() -> None:
    """A normal film, or one whose mass lies outside the window: every anchor is background, and no box is fitted."""
    method, batch = net(), toy_batch(4, classes=2)
    batch.boxes = [torch.zeros(0, 4) for _ in batch.boxes]
    loss = method.train()(batch, method.stages()[0])
    assert loss["box"].value.item() == loss["proposal_box"].value.item() == 0
    assert loss["classifier"].value.item() > 0 and loss["objectness"].value.item() > 0
    total(loss).backward()


@pytest.mark.long
def test_it_learns_to_find_bright_squares() -> None:
    method = net(size=64, backbone="resnet18", width=0.125, **FEW)
    [stage] = method.stages()
    test = squares(40, seed=1000)
    before = found_share(method.eval(), test)
    train(method, stage, [squares(8, seed) for seed in range(60)], steps=80, plain_lr=1e-3)
    method.eval()
    scores = method.predict(test, "detection").scores[:, 1]
    assert bool((scores[test.label == 1].min() > scores[test.label == 0].quantile(0.9)).all()), (
        "told by the score alone"
    )
    assert found_share(method, test) >= 0.9 > 0.3 > before


def found_share(method: Method, batch: Batch) -> float:
    """Share of films with a mass whose highest box has IoU > 0.5 with it."""
    boxes = method.find(batch.image)
    masses = [i for i in range(len(batch)) if len(batch.boxes[i])]
    return float(np.mean([float(box_iou(boxes[i][:1, :4], batch.boxes[i]).max()) > 0.5 for i in masses]))


# ---- what it gives ------------------------------------------------------------------------------------------------
def test_the_score_of_an_image_knows_boxes_below_the_threshold() -> None:
    method, batch = net(head={"score": 0.99}).eval(), toy_batch(3, classes=2)
    prediction = method.predict(batch, "detection")
    highest = torch.stack([boxes[:, 4].max() for boxes in method.find(batch.image)])
    assert torch.equal(prediction.scores[:, 1], highest) and bool((highest > 0).all() & (highest < 0.99).all())
    assert prediction.boxes is not None and [boxes.shape for boxes in prediction.boxes] == [(0, 5)] * 3
    low = net(head={"score": 0.0}).eval().predict(batch, "detection")
    assert low.boxes is not None and torch.equal(low.scores, prediction.scores)
    for boxes in low.boxes:
        assert len(boxes) and bool((boxes[:, 4].diff() <= 0).all()), "the highest score first"
        assert bool((boxes[:, 2:4] > boxes[:, :2]).all() & (boxes[:, :4] >= 0).all() & (boxes[:, :4] <= SIZE).all())


def test_a_cell_of_the_map_has_the_highest_score_of_the_boxes_that_reach_into_it() -> None:
    boxes = torch.tensor([[1.0, 1, 7, 7, 0.9], [0, 0, 17, 8, 0.5], [24, 24, 25, 25, 0.2]])
    wanted = torch.zeros(4, 5)
    wanted[0, :3] = torch.tensor([0.9, 0.5, 0.5])
    wanted[3, 3] = 0.2
    torch.testing.assert_close(score_map(boxes, 4, 5), wanted)
    torch.testing.assert_close(score_map(boxes[:0], 4, 5), torch.zeros(4, 5))


def test_the_map_of_normal_is_what_the_map_of_a_mass_leaves() -> None:
    method, batch = net().eval(), toy_batch(2, classes=2)
    mass, normal = (method.maps(batch, torch.full((2,), kind))["boxes"] for kind in (1, 0))
    assert mass.shape == (2, SIZE // 8, SIZE // 8)
    torch.testing.assert_close(mass + normal, torch.ones_like(mass))
    assert torch.equal(mass.amax(dim=(1, 2)), method.predict(batch, "detection").scores[:, 1])


def test_the_picture_shows_the_highest_box() -> None:
    method, batch = net().eval(), toy_batch(2, classes=2)
    for row, boxes in zip(method.explain(batch), method.find(batch.image), strict=True):
        assert row[-1].box == pytest.approx(boxes[0, :4].tolist())
        assert row[-1].caption == f"score {float(boxes[0, 4]):.2f}"


# ---- through the engine -------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare("phantom", None, FILMS, tmp_path_factory.mktemp("cache"), roi=WHOLE, size=(SIZE, SIZE), unit="image")


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(films: Prepared, tmp_path: Path) -> None:
    """Proposals are drawn at random, and drawn again."""
    settings = Settings(seed=3)
    method = net(**SMALL, epochs=2)
    data = films.training(films.split(), method.inputs())
    assert {len(boxes) for boxes in data.train.boxes} == {0, 1}, "films with a mass and without"
    told = []
    for report in fit(method, data, settings):
        report.save(tmp_path / str(report.number))
        told.append(content(report))
    other = net(seed=99, **SMALL, epochs=2)
    resumed = [content(report) for report in fit(other, data, settings, resume=tmp_path / "1")]
    assert resumed == told[1:] and set(told[0]["terms"]) == {"classifier", "box", "objectness", "proposal_box"}
    assert same(other.state_dict(), method.state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.long
def test_two_workers_end_with_one_network(films: Prepared, tmp_path: Path) -> None:
    first, second = on_two_workers(train_films, Tiny(films.folder), tmp_path)
    assert same(first, second)
    assert any(not torch.equal(first[name], value) for name, value in net(**SMALL).state_dict().items())


def train_films(worker: Worker, tiny: Tiny) -> dict[str, Tensor]:
    method = net(**SMALL)
    list(fit(method, tiny.training(method.inputs()), Settings(seed=3), worker))
    return {name: value.detach().clone() for name, value in method.state_dict().items()}


def test_a_sample_of_one_film_is_read_as_in_a_batch_of_many() -> None:
    method, batch = net().eval(), toy_batch(5, classes=2)
    together = method.find(batch.image)
    for i, boxes in enumerate(together):
        [alone] = method.find(subset(batch, [i]).image)
        torch.testing.assert_close(alone[0], boxes[0], rtol=1e-3, atol=1e-3)
