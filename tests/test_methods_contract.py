"""The contract that every method keeps (models/method.py), on CPU, at toy size, on batches made by hand.

Methods are picked up from the folder: a new file in models/ is tested here without a line being added.
"""

import json
import sys
from typing import Any

import numpy as np
import pytest
import torch

import models
import search_spaces
from data.batch import Batch
from data.inputs import Inputs
from data.tracks import TRACKS
from models.method import Method, MethodConfig, Stage, not_applicable
from tests.toy import PROVIDES, freeze, subset, total, toy_batch, toy_config, toy_method, train, train_all

METHODS = models.names()
SERVED = [(name, track) for name in METHODS for track in models.load(name).card.tracks]


TRAINED = list(
    dict.fromkeys((name, models.load(name).card.tracks[track]) for name, track in SERVED)
)  # one training each


def trained_track(name: str, track: str) -> str:
    return models.load(name).card.tracks[track]


def made(name: str, track: str, seed: int = 0) -> Method:
    return toy_method(name, trained_track(name, track), seed)


def batches(track: str, n: int = 3) -> list[Batch]:
    classes = len(TRACKS[track].classes)
    return [toy_batch(6, classes=classes, seed=s, first_row=6 * s) for s in range(n)]


def stages_with_steps(method: Method) -> list[Stage]:
    return [stage for stage in method.stages() if stage.epochs]


def largest_stage(method: Method) -> Stage:
    """The stage that trains most parameters."""
    return max(stages_with_steps(method), key=lambda stage: sum(p.numel() for g in stage.groups for p in g.parameters))


# ---- the card and the config --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", METHODS)
def test_card_is_complete(name: str) -> None:
    card = models.load(name).card
    assert card.name == name
    assert card.title and card.explains and card.tracks
    assert 1900 < card.year < 2100
    assert set(card.tracks) | set(card.tracks.values()) | set(card.refuses) <= set(TRACKS)
    assert card.needs <= PROVIDES
    assert card.supervision.split(" + ")[0] == "label"
    for track in TRACKS:
        reason = not_applicable(card, track, PROVIDES)
        assert (reason is None) == (track in card.tracks)
    assert models.load(name).version >= 1
    module = sys.modules[models.load(name).__module__]
    assert module.__doc__ and len(module.__doc__.splitlines()) >= 3


@pytest.mark.parametrize("name", METHODS)
def test_config_survives_json_and_describes_itself(name: str) -> None:
    config = models.load(name).Config
    default = config()
    assert config.model_validate_json(default.model_dump_json()) == default
    assert config.model_validate(json.loads(json.dumps(default.model_dump(mode="json")))) == default
    for key, field in config.model_fields.items():
        assert field.description, f"{key} has no description"
        extra = field.json_schema_extra
        assert isinstance(extra, dict) and extra.get("kind") in ("science", "budget"), f"{key} has no kind"
    if config.start_file is not MethodConfig.start_file:
        assert "weights" in config.model_fields, "the field that a planned run's file is named in (bench/starts.py)"
    with pytest.raises(ValueError, match="extra"):
        config.model_validate({"no_such_field": 1})
    with pytest.raises(ValueError, match="frozen"):
        default.size = 1


@pytest.mark.parametrize("name", METHODS)
def test_published_config_lies_inside_its_search_space(name: str) -> None:
    search_spaces.check(name)
    params = search_spaces.published(name)
    assert params
    config = models.load(name).Config
    rng = np.random.default_rng(0)
    for _ in range(5):
        drawn = search_spaces.suggest(name, _RandomTrial(rng), readings=search_spaces.has_readings(name))
        nested: dict[str, Any] = {}
        for key, value in drawn.items():
            *parents, last = key.split(".")
            place = nested
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        config.model_validate(nested)
    key, value = next((key, value) for key, value in params.items() if key in config.model_fields)
    assert key not in search_spaces.suggest(name, _RandomTrial(rng), {key: value}), "what a suite holds is not searched"


class _RandomTrial:
    """The part of optuna's Trial that spaces use; asked for a parameter again it gives the same answer."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.answers: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self.answers.setdefault(name, choices[int(self.rng.integers(len(choices)))])

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        drawn = float(np.exp(self.rng.uniform(np.log(low), np.log(high))) if log else self.rng.uniform(low, high))
        return float(self.answers.setdefault(name, drawn))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self.answers.setdefault(name, low + step * int(self.rng.integers((high - low) // step + 1))))


# ---- training -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "track"), TRAINED)
def test_inputs_and_stages_fit_together(name: str, track: str) -> None:
    method = made(name, track)
    inputs = method.inputs()
    assert isinstance(inputs, Inputs)
    assert inputs.target == trained_track(name, track)
    streams = {stream.name for stream in inputs.streams}
    keys: dict[str, list[int]] = {}
    parameters = {id(p) for p in method.parameters()}
    for stage in method.stages():
        assert set(stage.streams) <= streams
        assert stage.epochs or stage.after is not None
        assert bool(stage.groups) == bool(stage.epochs)
        ids = [id(p) for group in stage.groups for p in group.parameters]
        assert set(ids) <= parameters
        assert len(ids) == len(set(ids)), "a parameter stands in two groups"
        if stage.optimiser is not None:
            assert keys.setdefault(stage.optimiser, ids) == ids, (
                "stages that share an optimiser train the same parameters"
            )
    for need in type(method).requires(method.config, method.task):
        models.load(need.method).Config.model_validate(need.config)
        assert need.track in TRACKS
        assert "weights" not in need.config or need.config["weights"] == "none", "weights: none goes down the chain"


@pytest.mark.parametrize(("name", "track"), TRAINED)
def test_loss_terms_are_finite_and_reach_what_is_trained(name: str, track: str) -> None:
    method = made(name, track)
    batch = batches(trained_track(name, track))[0]
    for stage in stages_with_steps(method):
        wanted = freeze(method, stage)
        if stage.cache is not None:
            method.eval()
            with torch.no_grad():
                batch.cached = stage.cache(batch)
            assert all(len(value) == len(batch) and not value.requires_grad for value in batch.cached.values())
        method.training_mode(stage)
        loss = method(batch, stage)
        batch.cached = None
        for key, one in loss.items():
            assert one.value.ndim == 0 and bool(one.value.isfinite()), key
            assert one.reduction in ("mean", "sum")
        total(loss).backward()
        for group in stage.groups:
            gradients = [p.grad for p in group.parameters if p.grad is not None]
            assert gradients, f"no gradient reaches group {group.name} in stage {stage.name}"
            assert all(bool(g.isfinite().all()) for g in gradients)
            assert any(bool((g != 0).any()) for g in gradients), (
                f"group {group.name} in stage {stage.name}: all gradients are 0"
            )
        frozen = [p for p in method.parameters() if not any(p is w for w in wanted)]
        assert all(p.grad is None for p in frozen), "a gradient reaches a frozen parameter"


@pytest.mark.long
@pytest.mark.parametrize(("name", "track"), TRAINED)
def test_loss_falls_in_a_few_steps(name: str, track: str) -> None:
    method = made(name, track)
    batch = batches(trained_track(name, track))[0]
    stage = largest_stage(method)

    def value() -> float:
        """As training sees it: batch norm's running statistics lag behind twenty steps."""
        method.training_mode(stage)
        torch.manual_seed(0)  # dropout's
        with torch.no_grad():
            return float(total(method(batch, stage)))

    before = value()
    train(method, stage, [batch], steps=20, plain_lr=1e-3)
    assert value() < before


@pytest.mark.parametrize(("name", "track"), TRAINED)
def test_same_seed_same_numbers(name: str, track: str) -> None:
    data = batches(trained_track(name, track))
    states = []
    for seed in (3, 3, 4):
        method = made(name, track, seed)
        torch.manual_seed(seed)
        train_all(method, data, steps=1, seed=seed)
        states.append(method.state_dict())
    first, again, other = states
    assert all(torch.equal(v.nan_to_num(), again[k].nan_to_num()) for k, v in first.items())
    assert any(not torch.equal(v.nan_to_num(), other[k].nan_to_num()) for k, v in first.items())


# ---- reading ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def trained() -> dict[tuple[str, str], Method]:
    """Every method after all its stages, trained on each of its tracks."""
    found: dict[tuple[str, str], Method] = {}
    for name, track in SERVED:
        key = (name, trained_track(name, track))
        if key not in found:
            found[key] = toy_method(name, key[1])
            train_all(found[key], batches(key[1]), steps=2)
    return found


@pytest.mark.parametrize(("name", "track"), SERVED)
def test_predictions(name: str, track: str, trained: dict[tuple[str, str], Method]) -> None:
    own = trained_track(name, track)
    method, batch = trained[name, own], batches(own)[1]
    prediction = method.predict(batch, track)
    shape = (len(batch), len(TRACKS[track].classes))
    assert prediction.scores.shape == prediction.probabilities.shape == shape
    assert bool(prediction.scores.isfinite().all())
    torch.testing.assert_close(prediction.probabilities.sum(dim=1), torch.ones(len(batch)))
    assert float(prediction.probabilities.min()) >= 0
    assert torch.equal(prediction.scores, method.predict(batch, track).scores), "reading changes nothing"
    alone = torch.cat([method.predict(subset(batch, [i]), track).scores for i in range(len(batch))])
    torch.testing.assert_close(alone, prediction.scores, rtol=1e-3, atol=1e-3)  # a sample's score is its own affair
    if prediction.flagged is not None:
        assert prediction.flagged.shape == (len(batch),) and prediction.flagged.dtype == torch.bool
    if prediction.boxes is not None:
        assert len(prediction.boxes) == len(batch) and all(box.shape[1] == 5 for box in prediction.boxes)


@pytest.mark.parametrize(("name", "track"), SERVED)
def test_maps_evidence_and_panels(name: str, track: str, trained: dict[tuple[str, str], Method]) -> None:
    own = trained_track(name, track)
    method, batch = trained[name, own], batches(own)[1]
    state = {k: v.clone() for k, v in method.state_dict().items()}
    maps = method.maps(batch, batch.label)
    assert maps
    assert len({value.shape for value in maps.values()}) == 1, "maps of one resolution"
    for key, value in maps.items():
        assert value.ndim == 3 and len(value) == len(batch), key
        assert bool(value.isfinite().all())
        assert not value.requires_grad
        if key in method.maps_of_no_class:
            assert torch.equal(value, method.maps(batch, (batch.label + 1) % 2)[key]), key
        assert float((value.amax(dim=(1, 2)) - value.amin(dim=(1, 2))).max()) > 0, f"{key} is constant"
    evidence = method.evidence(batch)
    if evidence is not None:
        scores = method.predict(batch, own).scores
        bias = 0 if evidence.bias is None else evidence.bias
        torch.testing.assert_close(evidence.contributions.sum(dim=1) + bias, scores, rtol=1e-4, atol=1e-4)
        sources = len(evidence.names)
        assert evidence.contributions.shape[1] == sources == len(evidence.classes) == len(evidence.maps)
        assert all(value.ndim == 3 and len(value) == len(batch) for value in evidence.maps)
        assert len(evidence.levels) in (0, sources) and len(evidence.places) in (0, sources)
        assert len(set(evidence.names)) == sources
    rows = method.explain(batch)
    assert len(rows) == len(batch)
    for panel in [panel for row in rows for panel in row] + [
        panel for page in method.artifacts().values() for panel in page
    ]:
        assert panel.image.ndim == 2 and panel.image.min() >= 0 and panel.image.max() <= 1
        if panel.map is not None:
            low, high = panel.scale or (0.0, 1.0)
            assert np.isfinite(panel.map).all() and low < high
            assert panel.scale or (panel.map.min() >= low and panel.map.max() <= high)
    variants = method.variants()
    assert len({variant.name for variant in variants}) == len(variants) > 0
    assert all(variant.map is None or variant.map in maps for variant in variants)
    assert len(variants) > 1 or variants[0].name == "default"
    for variant in method.variants():
        assert len(method.vary(method.predict(batch, own), maps, variant).scores) == len(batch)
    assert all(torch.equal(v.nan_to_num(), state[k].nan_to_num()) for k, v in method.state_dict().items()), (
        "reading changes the state"
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_trained_state_loads_into_a_fresh_method(name: str, trained: dict[tuple[str, str], Method]) -> None:
    (key,) = [k for k in trained if k[0] == name][:1]
    method, batch = trained[key], batches(key[1])[0]
    fresh = toy_method(name, key[1], seed=9)
    fresh.load_state_dict(method.state_dict())
    assert torch.equal(fresh.eval().predict(batch, key[1]).scores, method.predict(batch, key[1]).scores)


@pytest.mark.parametrize("name", METHODS)
def test_toy_config_is_the_published_one_but_for_its_budget(name: str) -> None:
    published, toy = models.load(name).Config(), toy_config(name)
    for key, field in type(published).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("kind") == "science":
            assert getattr(published, key) == getattr(toy, key), key
