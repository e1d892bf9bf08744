"""Methods that were made for regions, on whole films: mass against normal."""

import pytest
import torch

import models
from data.prepared import pixel_spec
from models.method import not_applicable
from tests.toy import PROVIDES, toy_batch, toy_method, train

pytestmark = pytest.mark.long

SERVING = [name for name in models.names() if "detection" in models.load(name).card.tracks]
PROTOTYPES = ("protopnet", "iaia_bl")


def test_who_serves_detection_and_who_says_why_not() -> None:
    assert {"vgg16", "densenet121", "faster_rcnn", *PROTOTYPES} <= set(SERVING)
    for name, why in (("densenet121_kt", "mask"), ("fpn_iaia_bl", "margins")):
        assert why in str(not_applicable(models.load(name).card, "detection", PROVIDES))


@pytest.mark.parametrize("name", SERVING)
def test_it_reads_the_whole_film_as_its_settings_crop_and_mirror_it(name: str) -> None:
    """A region of a finding means nothing there; what the settings say of whole films holds."""
    method = toy_method(name, "detection", roi={"strategy": "max224", "crop": "breast", "flip": "breast_left"})
    roi = pixel_spec(method.inputs().roi, method.inputs().size, 1.0, "image").roi
    assert (roi.strategy, roi.crop, roi.flip) == ("whole", "breast", "breast_left")


@pytest.mark.parametrize("name", PROTOTYPES)
def test_prototypes_are_of_the_tracks_classes_and_no_malignancy_head_follows(name: str) -> None:
    method = toy_method(name, "detection")
    assert method.class_names == ("normal", "mass")
    assert method.classes.bincount().tolist() == [5, 5]
    assert "malignancy" not in {stage.name for stage in method.stages()}
    assert not [key for key in method.facts() if key.startswith("malignancy")]


def test_a_normal_film_has_no_part_in_the_fine_annotation_loss_unless_asked() -> None:
    """It has no mask; asked, all of it is irrelevant to prototypes of a mass, and none of it to its own."""
    batch = toy_batch(4, classes=2)
    normal = batch.label == 0
    batch.has_mask &= ~normal
    batch.has_fine &= ~normal
    batch.mask[normal] = batch.fine_mask[normal] = 0
    values = {}
    for rule in ("skip", "all_relevant"):
        method = toy_method("iaia_bl", "detection", fine_unannotated=rule).train()
        stage = next(stage for stage in method.stages() if stage.epochs)
        with torch.no_grad():
            values[rule] = method(batch, stage)["fine"].value
    alone = toy_method("iaia_bl", "detection").train()
    batch.has_mask[:] = batch.has_fine[:] = False
    with torch.no_grad():
        assert float(alone(batch, stage)["fine"].value) == 0
    assert 0 < float(values["skip"]) < float(values["all_relevant"])


@pytest.mark.parametrize("name", ["densenet121", *PROTOTYPES])
def test_a_film_with_a_mass_is_told_from_one_without(name: str) -> None:
    """Discs and plain noise, in a few steps of the stage that trains most."""
    batch = toy_batch(12, classes=2)
    normal = batch.label == 0
    batch.image[normal] = 0.3 + 0.05 * torch.randn(
        int(normal.sum()), 1, 32, 32, generator=torch.Generator().manual_seed(0)
    )
    method = toy_method(name, "detection", **({"topk_k": 1} if name in PROTOTYPES else {}))
    stage = max(method.stages(), key=lambda stage: sum(p.numel() for g in stage.groups for p in g.parameters))
    history = train(method, stage, [batch], steps=70, plain_lr=1e-3)
    assert history[-1]["cross_entropy"] < 0.5 * history[0]["cross_entropy"]
