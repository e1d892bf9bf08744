"""What a sweep draws from: the published point first, readings on request alone, conditions as they are written."""

from typing import Any

import optuna
import pytest

import models
import search_spaces
from bench.cluster.search import inside
from bench.config import unflatten
from data.errors import ConfigError

WITH_READINGS = [name for name in search_spaces.names() if search_spaces.has_readings(name)]


def trials(name: str, count: int = 12, **options: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(overrides, parameters) of random trials of a real study."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked = [study.ask() for _ in range(count)]
    return [(search_spaces.suggest(name, trial, **options), trial.params) for trial in asked]


@pytest.mark.parametrize("name", WITH_READINGS)
def test_readings_are_searched_on_request_alone(name: str) -> None:
    every, base = search_spaces.published(name, readings=True), search_spaces.published(name)
    further = every.keys() - base.keys()
    assert further and every.items() >= base.items()
    assert not any(further & params.keys() for _, params in trials(name))
    drawn = {key: {params[key] for _, params in trials(name, readings=True) if key in params} for key in further}
    assert all(len(values) > 1 for values in drawn.values()), drawn


@pytest.mark.parametrize("name", WITH_READINGS)
def test_parameters_of_a_trial_give_its_settings_again(name: str) -> None:
    """What `final` trains is made of the parameters that the study keeps."""
    for overrides, params in trials(name, readings=True):
        assert search_spaces.suggest(name, optuna.trial.FixedTrial(params), readings=True) == overrides


def test_a_method_without_readings_says_so() -> None:
    assert not search_spaces.has_readings("vgg16")
    with pytest.raises(ConfigError, match=r"vgg16 has no readings \(--readings\); leave it out"):
        search_spaces.load("vgg16", readings=True)


@pytest.mark.parametrize(
    ("name", "of_the_loss"),
    [("iaia_bl", {"fine_norm", "fine_scope"}), ("fpn_iaia_bl", {"fine_reading", "fine_table_orientation"})],
)
def test_readings_of_a_loss_that_is_off_are_not_searched(name: str, of_the_loss: set[str]) -> None:
    for overrides, _ in trials(name, readings=True):
        assert (overrides["coef_fine"] > 0) == (of_the_loss <= overrides.keys()) == bool(of_the_loss & overrides.keys())
    assert of_the_loss <= search_spaces.published(name, readings=True).keys()
    assert not of_the_loss & search_spaces.published(name, {"coef_fine": 0.0}, readings=True).keys()


def test_the_pyramid_is_asked_one_form_of_k_and_no_k_of_a_level_without_prototypes() -> None:
    forms = set()
    for overrides, _ in trials("fpn_iaia_bl", 40):
        by_level = {key for key in overrides if key.startswith("topk_k.")}
        form = "by_level" if by_level else "percent" if "topk_percent" in overrides else "cells"
        assert (form == "cells") == ("topk_k" in overrides)
        assert all(overrides.get(f"prototypes.level_{key[-1]}", 1) for key in by_level)
        config = models.load("fpn_iaia_bl").Config.model_validate(unflatten(overrides))
        levels = set(config.prototypes.table(("a", "b", "c", "d"), 5)[1])
        assert all(config.cells(level, 196) >= 1 for level in levels)
        forms.add(form)
    assert forms == {"by_level", "percent", "cells"}
    held = {"topk_percent": 5.0}
    assert not any("topk_k" in key for overrides, _ in trials("fpn_iaia_bl", 20, held=held) for key in overrides)


def test_both_tables_of_the_fine_loss_are_searched() -> None:
    drawn = [overrides.get("lambda_in") for overrides, _ in trials("fpn_iaia_bl", 20, readings=True)]
    assert None in drawn and any(table is not None and table[0][1] == 1 for table in drawn)


def test_trial_0_of_a_variant_is_that_variant() -> None:
    held = {"variant": "neurips2019"}
    point, config = search_spaces.published("protopnet", held, readings=True), models.load("protopnet").Config
    variant = config.model_validate(held)
    assert point["joint_epochs"] == variant.joint_epochs == 36 and point["distance"] == "l2sq"
    fields = {key: value for key, value in point.items() if "." not in key}
    assert fields == {key: getattr(variant, key) for key in fields} and point["prune.rule"] == "none"


@pytest.mark.parametrize(
    "tried", [{"coef_fine": 0.001 * n} for n in (0, 1, 2, 5)] + [{"topk_k": k} for k in (1, 3, 5, 9)]
)
def test_what_the_paper_tried_can_be_drawn(tried: dict[str, float]) -> None:
    point = search_spaces.published("iaia_bl") | tried
    point["fine_annotation"] = point["coef_fine"] > 0
    asked = inside(lambda trial: search_spaces.suggest("iaia_bl", trial), point)  # raises where it cannot be drawn
    assert search_spaces.suggest("iaia_bl", optuna.trial.FixedTrial(asked)).items() >= tried.items()
