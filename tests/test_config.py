"""Settings, suites and options that cannot be meant end in one line that names file and key; those that can are read."""

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import data
import models
import search_spaces
from bench.config import RunSpec, check_budget, parse_set, read_yaml, resolve, unflatten
from bench.home import Home
from bench.pictures import job_file
from bench.suite import Suite, cells, read_suite
from data import plugins
from data.errors import ConfigError, DataError, brief
from tests.cli import here

SUITE = """
name: mine
budget: {width: 0.125, size: 64, batch: 32, samples: null, weights: none, trunk_blocks: 4, bf16: true}
settings: {vgg16: {epochs: 3}}
primary: {margin: {reference: vgg16, contrast: iaia_bl, alpha: 0.05}}
cells:
  - {methods: [iaia_bl, vgg16], dataset: phantom, track: margin}
"""


def the_line(file: Path, text: str) -> str:
    """The error that a suite ends with: one short line that names its file, and no folder."""
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_suite(str(file))
    line = str(caught.value)
    assert "\n" not in line and len(line) < 300 and line.count(file.name) == 1
    return line


# ---- YAML and KEY=VALUE -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1.5: 2", r"the key 1.5 is no text \(.*x.yaml, line 1\)"),
        ("a:\n  - {b: 1, null: 3}", r"the key null is no text \(.*x.yaml, line 2\)"),
        ("a: {2: 1, '2': 3}", "the key '2' stands there twice"),
        ("on: 1", "the key on is no text"),
        ("? [a]\n: 1", "is no text"),
        ("a: 1\nb: 2\na: 3", r"the key 'a' stands there twice, first in line 1 \(.*x.yaml, line 3\)"),
        ("c: {a: 1, a: 1}", "the key 'a' stands there twice"),
        ("a: 3\na.b: 4", r"'a' is given twice, as 3 and as \{'b': 4\}"),
        ("a.b: 4\na: 3", r"'a' is given twice, as \{'b': 4\} and as 3"),
        ("a.b: 4\na: {b: 5}", "'a.b' is given twice, as 4 and as 5"),
        ("a: [1,", r"x.yaml, line 1\)"),
        ("a: 2024-99-99", "not readable as YAML"),
        ("a: &a [*a]", "not readable as YAML"),
        ("- 1", "a mapping of keys to values"),
    ],
)
def test_a_file_that_cannot_be_meant_names_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_yaml(tmp_path / "x.yaml")


def test_what_a_file_may_hold(tmp_path: Path) -> None:
    text = """
    one: &one {lr: 2e-4, prune: {h1: 2}}
    two: {<<: *one, lr: -1e-3}
    three: {<<: {<<: *one, lr: 3}, lr: 4}
    a.b.c: 1
    a: {b: {d: 2}}
    "1": 4e
    note: "3 e: ["
    """
    (tmp_path / "x.yaml").write_text(text)
    assert read_yaml(tmp_path / "x.yaml") == {
        "one": {"lr": 2e-4, "prune": {"h1": 2}},
        "two": {"lr": -1e-3, "prune": {"h1": 2}},
        "three": {"lr": 4, "prune": {"h1": 2}},
        "a": {"b": {"c": 1, "d": 2}},
        "1": "4e",
        "note": "3 e: [",
    }


def test_pairs() -> None:
    assert parse_set(["a=1e-3", "b=true", "c=[1, 2e-1]", "d=", "e=none", "b=false", "k={2: 5}"]) == {
        "a": 1e-3, "b": False, "c": [1, 0.2], "d": None, "e": "none", "k": {"2": 5},
    }  # fmt: skip
    for wrong, says in {
        "lr=[1,": r"\(--set lr\)", "lr={1.5: 2}": "the key 1.5 is no text", "lr={a: 1, a: 2}": "stands there twice",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=says) as caught:
            parse_set([wrong])
        assert "\n" not in str(caught.value)
    for pair in itertools.permutations(["lr=1", "lr.x=2"]):
        with pytest.raises(ConfigError, match=r"'lr' is given twice.*\(--set\)"):
            parse_set(pair)


def test_dots_and_groups_join() -> None:
    assert unflatten({"a.b": 1, "a": {"c.d": 2}, "a.c.e": 3}) == {"a": {"b": 1, "c": {"d": 2, "e": 3}}}
    with pytest.raises(ConfigError, match="the key 1 is no text"):
        unflatten({"a": {1: 2}})


@pytest.mark.parametrize("kind", ["folder", "nothing"])
def test_a_path_that_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.yaml"
    if kind == "folder":
        path.mkdir()
    with pytest.raises(ConfigError, match=r"Is a directory|no such file"):
        read_yaml(path)
    assert "x.yaml" in here("bench", path, "--dry-run").error
    assert "x.yaml" in here("train", "vgg16", "phantom", "--dry-run", "--config", path, "--out", tmp_path).error


# ---- suites ---------------------------------------------------------------------------------------------------------
def test_the_suite_that_the_others_break_is_one(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SUITE)
    assert [cell.method for cell in cells(read_suite(str(tmp_path / "s.yaml")))] == ["iaia_bl", "vgg16"]


@pytest.mark.parametrize(
    ("part", "other", "says"),
    [
        ("width: 0.125", "widht: 0.125", r"unknown key 'budget.widht' \(s.yaml, budget\); did you mean 'width'"),
        ("width: 0.125", "quality: 3", "unknown key 'budget.quality' .*valid keys: .*width"),
        ("width: 0.125", "lr: 0.1", r"'lr' is no budget \(s.yaml, budget\)"),
        ("batch: 32", "batch: 32, batch_size: 16", "'batch' and 'batch_size' are one key"),
        ("bf16: true", "bf16: 'no'", "bf16 = 'no' is refused"),
        ("budget: {", "budget: small #", "budget = 'small' is refused"),
        ("budget: {", "budget: #", "budget = None is refused"),
        ("name: mine", "name: mine\ndata: abc", "data = 'abc' is refused"),
        ("name: mine", "name: mine\ndata:", "data = None is refused"),
        ("name: mine", "name: mine\ndata: {roi: big}", r"roi = 'big' is refused \(s.yaml, data\)"),
        ("track: margin}", "track: margin, data: {roi: [1]}}", r"roi = \[1\] is refused \(s.yaml, cells.0.data\)"),
        ("name: mine", "name: mine\nname: yours", r"the key 'name' stands there twice, first in line 2 \(.*line 3\)"),
        ("margin: {ref", "margn: {ref", r"no track 'margn' \(s.yaml, primary\); did you mean 'margin'"),
        ("margin: {ref", "malignancy: {ref", r"vgg16 is in no cell of the track malignancy \(s.yaml, primary.malig"),
        ("reference: vgg16", "reference: vgg99", r"no method 'vgg99' \(s.yaml, primary.margin.reference\)"),
        ("contrast: iaia_bl", "contrast: iaia", r"no method 'iaia' \(s.yaml, primary.margin.contrast\)"),
        ("contrast: iaia_bl", "contrast: protopnet", "protopnet is in no cell of the track margin .*iaia_bl, vgg16"),
        ("contrast: iaia_bl", "contrast: vgg16", "vgg16 is compared with itself"),
        ("alpha: 0.05", "alpha: 5", "primary.margin.alpha = 5 is refused"),
        ("alpha: 0.05", "alpha: 0", "alpha = 0 is refused"),
        ("name: mine", "name: mine\nsearch: {seconds: -5}", "search.seconds = -5 is refused"),
        ("name: mine", "name: mine\nsearch: {seconds: .nan}", "search.seconds = nan is refused"),
        ("name: mine", "name: mine\nfinal: {seeds: 1000}", "final.seeds = 1000 is refused"),
        (
            "[iaia_bl, vgg16]",
            "[iaia_bl, vgg61]",
            r"no method 'vgg61' \(s.yaml, cells.0.methods\); did you mean 'vgg16'",
        ),
        ("[iaia_bl, vgg16]", "[]", r"cells.0.methods = \[\] is refused"),
        ("phantom", "fantom", r"no data set 'fantom' \(s.yaml, cells.0.dataset\); did you mean 'phantom'"),
        ("track: margin}", "track: margins}", r"no track 'margins' \(s.yaml, cells.0.track\)"),
        ("{vgg16: {e", "{vgg17: {e", r"no method 'vgg17' \(s.yaml, settings\)"),
        ("{epochs: 3}", "3", "settings.vgg16 = 3 is refused"),
        ("cells:\n  - {", "#", r"the key 'cells' is missing \(s.yaml\); add it"),
        ("cells:\n  - {", "cells: []\n# {", r"cells = \[\] is refused"),
        ("cells:\n  - {", "cells:\n# {", "cells = None is refused"),
    ],
)
def test_a_suite_that_cannot_be_meant(tmp_path: Path, part: str, other: str, says: str) -> None:
    assert SUITE.count(part) == 1
    line = the_line(tmp_path / "s.yaml", SUITE.replace(part, other))
    assert _matches(says, line.replace(f"{tmp_path}/", ""))


def test_a_budget_may_hold_what_one_method_lacks(tmp_path: Path) -> None:
    check_budget({"epochs": 3, "h1_epochs": 2, "samples": None, "bf16": False}, "x")
    (tmp_path / "s.yaml").write_text(SUITE.replace("width: 0.125", "width: 0.125, epochs: 3"))
    read_suite(str(tmp_path / "s.yaml"))


def test_a_suite_made_by_a_program_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="roi = 3 is refused"):
        cells(Suite(name="x", data={"roi": 3}, cells=[{"methods": "all", "dataset": "phantom", "track": "margin"}]))  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"cells = 'a+\.\.\. is refused") as caught:
        resolve(Suite, {"name": "x", "cells": "a" * 5000}, "x")
    assert len(str(caught.value)) < 200


# ---- the command line -----------------------------------------------------------------------------------------------
GROUPS = {
    "data: abc": "data = 'abc' is refused",
    "data:": "data = None is refused",
    "data: {roi: big}": "roi = 'big' is refused",
    "data: [1]": r"data = \[1\] is refused",
}
BUDGETS = {
    "budget: small": "budget = 'small' is refused",
    "budget:": "budget = None is refused",
    "budget: {widht: 3}": "unknown key 'budget.widht' .*did you mean 'width'",
}


@pytest.mark.parametrize("text", [*GROUPS, *BUDGETS])
def test_a_settings_file_that_cannot_be_meant(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    out = ("--config", file, "--out", tmp_path / "out")
    pattern = {**GROUPS, **BUDGETS}[text]
    for command in ("train", "sweep", "final"):
        assert _matches(pattern, here(command, "vgg16", "phantom", "--dry-run", *out).error)
    if text in GROUPS:
        assert _matches(pattern, here("prepare", "phantom", *out).error)


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        (["budget.widht=3"], "did you mean 'width'"),
        (["budget=3"], "budget = 3 is refused"),
        (["data.roi=big"], "roi = 'big' is refused"),
        (["lr=1", "lr.x=2"], "'lr' is given twice"),
        (["lr=[1,"], r"--set lr\)"),
    ],
)
def test_pairs_that_cannot_be_meant(tmp_path: Path, pairs: list[str], says: str) -> None:
    flags = [word for pair in pairs for word in ("--set", pair)]
    assert _matches(says, here("train", "vgg16", "phantom", "--dry-run", "--out", tmp_path, *flags).error)


def test_prepare_checks_regions_and_says_that_it_leaves_them(tmp_path: Path) -> None:
    small = ["exams.train=4", "exams.validation=2", "exams.test=2", "size=64"]
    flags = ["prepare", "phantom", "--out", tmp_path, *(word for pair in small for word in ("--set", pair))]
    assert _matches("unknown key 'anything'", here(*flags, "--set", "roi.anything=3").error)
    assert _matches("scale = -1 is refused", here(*flags, "--set", "roi.scale=-1").error)
    said = here(*flags, "--json", "--set", "roi.scale=2")
    assert said.code == 0 and "not used here" in said.stderr and json.loads(said.stdout)["patients"] == 8


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep", "vgg16", "phantom", "--time-budget", "-1"],
        ["sweep", "vgg16", "phantom", "--time-budget", "0"],
        ["sweep", "vgg16", "phantom", "--time-budget", "nan"],
        ["sweep", "vgg16", "phantom", "--time-budget", "inf"],
        ["sweep", "vgg16", "phantom", "--trials", "0"],
        ["train", "vgg16", "phantom", "--seed", "-1"],
        ["train", "vgg16", "phantom", "--seed", str(2**31)],
        ["train", "vgg16", "phantom", "--gpus-per-worker", "nan"],
        ["final", "vgg16", "phantom", "--seeds", "0"],
        ["final", "vgg16", "phantom", "--seeds", "1000"],
        ["ui", "--port", "0"],
    ],
    ids=" ".join,
)
def test_numbers_out_of_range_are_told_with_the_usage(tmp_path: Path, arguments: list[str]) -> None:
    said = here(*arguments, "--out", tmp_path, "--dry-run")
    assert said.code == 2 and f"Invalid value for '{arguments[-2]}'" in said.stderr


# ---- files of others ------------------------------------------------------------------------------------------------
BREAKS = {"sys.exit(3)": "SystemExit: 3", "raise ValueError('one\\ntwo')": "ValueError: one", "import nowhere": "Modul"}


@pytest.fixture
def a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a module of a user's own and gives its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for registry in (models, data, search_spaces):
        monkeypatch.setattr(registry, "_extra", dict(registry._extra))

    def write(text: str) -> str:
        name = f"theirs_{len(list(tmp_path.glob('theirs_*')))}"
        (tmp_path / f"{name}.py").write_text(f"import sys\n{text}\n")
        return name

    yield write
    for name in [name for name in sys.modules if name.startswith("theirs_")]:
        del sys.modules[name]


@pytest.mark.parametrize("text", BREAKS)
def test_a_file_that_does_not_import_is_one_line(a_module: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    name = a_module(text)
    for registry, load in ((models, models.load), (data, data.reader), (search_spaces, search_spaces.load)):
        registry.register("theirs", name)
        with pytest.raises(ConfigError, match=f"does not import: {BREAKS[text]}") as caught:
            load("theirs")  # type: ignore[operator]
        assert "\n" not in str(caught.value) and "two" not in str(caught.value)
    monkeypatch.setenv(plugins.VARIABLE, name)
    for _ in range(2):  # the second time too
        assert _matches(f"{BREAKS[text]}.*{plugins.VARIABLE}: {name}", here("list", "methods").error)


def test_a_method_that_does_not_import_is_listed_once_as_unavailable(a_module: Any) -> None:
    models.register("theirs", a_module("raise ValueError('one')"))
    [entry] = [one for one in here("list", "methods", "--json").document["methods"] if one["name"] == "theirs"]
    assert entry["status"].count("unavailable") == 1 and entry["status"].endswith("ValueError: one")


def test_files_that_do_not_keep_the_contract(a_module: Any) -> None:
    search_spaces.register("theirs", a_module("pass"))
    with pytest.raises(ConfigError, match=r"defines space\(trial\)"):
        search_spaces.load("theirs")
    data.register("theirs", a_module("CARD = Options = records = 3"))
    with pytest.raises(ConfigError, match=r"CARD\.name is None, not 'theirs'"):
        data.reader("theirs")


def test_brief() -> None:
    assert brief(ValueError()) == "ValueError"
    assert brief(ValueError("\n  one \ntwo")) == "ValueError: one"
    assert len(brief(ValueError("x" * 999))) < 250


# ---- what a run left ------------------------------------------------------------------------------------------------
def test_a_damaged_job_is_named_and_keeps_no_other_run_from_being_found(tmp_path: Path) -> None:
    spec = {
        "method": "vgg16", "config": {}, "dataset": "phantom", "options": {}, "data_hash": "d", "split_hash": "s",
        "track": "margin",
    }  # fmt: skip
    home = Home.at(tmp_path)
    for name, text in (("a", '{"spec": {"met'), ("b", json.dumps({"spec": spec, "folder": "f", "prepared": "p"}))):
        (home.checkpoints / name).mkdir(parents=True)
        (home.checkpoints / name / "job.json").write_text(text)
    found = job_file(home, RunSpec.model_validate(spec).identity)
    assert found == home.checkpoints / "b" / "job.json"
    with pytest.raises(DataError, match=r"cannot be read \(checkpoints/a/job.json\); delete that folder"):
        job_file(home, "another")


def _matches(pattern: str, line: str) -> bool:
    assert re.search(pattern, line), line
    return True
