"""FPN-IAIA-BL through its stages: projection on levels, pruning, what taught it, and what it says of itself."""

from typing import Any

import pytest
import torch

from tests.toy import ToyContext, lesion_free, toy_batch, toy_method, train_all


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
    assert set(method.coefficients) == {"circumscribed", "indistinct", "spiculated", "intercept"}
