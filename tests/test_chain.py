"""A network that was trained on other lesions before (Table 2 of paper 003): what is asked for, what it takes over, what
is refused. The other lesions are those of a phantom in the form of BCDR."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import data
import models
from bench.config import Job
from bench.engine import checkpoint
from bench.engine.run import build, open_data, train_run
from bench.home import Home
from bench.phantom import write_phantom
from bench.plan import Place, Ready, inputs_of, look_alike, make_ready
from bench.prepare import Roots
from bench.sweep import SweepPlan, _job_maker
from data.cache import Prepared
from data.errors import ConfigError, LeakError
from models.method import Task
from tests.toy import PROVIDES, toy_config
from tests.toy_cells import toy_cell
from tests.toy_engine import OPTIONS

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.long]
SMALL = {"epochs": 1, "cell": 16, "head": "pool", "augment.recipe": "turns"}


def chained(method: str = "densenet121", **pretrain: Any) -> Any:
    before = {"dataset": "bcdr", "settings": {"epochs": 1}, **pretrain}
    teacher = {"teacher_settings": {"epochs": 1, "trainable": "all"}} if method == "densenet121_kt" else {}
    settings = {**SMALL, "trainable": "group4", "pretrain": before, **teacher}
    return toy_cell(method, settings).model_copy(update={"track": "malignancy"})


# ---- what is asked for -------------------------------------------------------------------------------------------
def test_the_teacher_goes_the_same_way_on_masks() -> None:
    config = toy_config("densenet121_kt", pretrain={"dataset": "cbis_ddsm"})
    task = Task.of("malignancy", "bcdr", PROVIDES)
    own, teacher = models.load("densenet121_kt").requires(config, task)
    assert own.source and own.source.dataset == "cbis_ddsm" and own.config["picture"] == "image"
    assert own.config["trainable"] == "all" and "pretrain" not in own.config
    kind = models.load(teacher.method)
    [before] = kind.requires(kind.Config.model_validate(teacher.config), task)
    assert before.source == own.source and before.config["picture"] == "mask"


def test_what_both_share_is_not_set_apart() -> None:
    config = toy_config("densenet121", pretrain={"dataset": "cbis_ddsm", "settings": {"head": "pool"}})
    with pytest.raises(ConfigError, match="head is shared with the run that starts from this one"):
        models.load("densenet121").requires(config, Task.of("malignancy", "bcdr", PROVIDES))


def with_table(prepared: Prepared, table: pd.DataFrame) -> Prepared:
    """Prepared data whose table is another."""
    copied = Prepared(prepared.name, prepared.folder, prepared.root, prepared.asked)
    copied.__dict__["table"] = table
    return copied


# ---- through plan and engine -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Roots:
    films = tmp_path_factory.mktemp("other") / "films"
    write_phantom(films, "bcdr", 24, {"size": 128, "seed": 7}, [], lambda done, total: None)
    return Roots.of_words([f"bcdr={films}"])


@pytest.fixture(scope="module")
def ready(roots: Roots, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    return make_ready(Home.at(tmp_path_factory.mktemp("runs")), chained("densenet121_kt"), roots)


def run(ready: Ready) -> Job:
    for needed in ready.all_requirements(ready.base, 1):
        list(train_run(needed))
    spec = ready.spec(ready.base, seed=1)
    return ready.job(spec, ready.home.checkpoints / spec.identity)


def test_each_run_below_is_made_where_it_belongs(ready: Ready) -> None:
    below = ready.all_requirements(ready.base, 1)
    [place] = ready.sources.values()
    places = [(job.spec.config["picture"], job.spec.data_hash == place.prepared.data_hash) for job in below]
    assert places == [("image", True), ("mask", True), ("mask", False)]  # the deepest before what starts from it
    assert all(Path(job.prepared) == place.prepared.folder for job in below[:2])
    assert {job.spec.identity for job in below} != {job.spec.identity for job in ready.all_requirements(ready.base, 2)}


def test_it_starts_from_what_was_learnt_there_and_inherits_whom_that_saw(ready: Ready) -> None:
    job = run(ready)
    first = ready.requirement_jobs(ready.base, 1)["pretrained"]
    learnt = checkpoint.load(Path(first.folder) / "final.pt")
    method = build(job, open_data(job)).state_dict()
    assert all(torch.equal(method[key], value) for key, value in learnt.items())
    *_, last = train_run(job)
    assert last.final
    seen, before = (json.loads((Path(one.folder) / "lineage.json").read_text()) for one in (job, first))
    assert set(before["patients"]) < set(seen["patients"]) and set(before["images"]) < set(seen["images"])


def test_five_folds_share_what_was_learnt_elsewhere(ready: Ready) -> None:
    cell = ready.cell.model_copy(update={"protocol": "kfold5"})
    folds = Ready(ready.home, cell, ready.prepared, sources=ready.sources).each_fold()
    below = [{name: job.spec.identity for name, job in one.requirement_jobs(one.base, 1).items()} for one in folds]
    assert len({each["pretrained"] for each in below}) == 1 and len({each["teacher"] for each in below}) == 5


def test_all_rows_of_the_other_data_train_or_validate(ready: Ready, roots: Roots) -> None:
    sides = []
    for rows in ("train", "all"):
        [place] = make_ready(ready.home, chained(rows=rows), roots).sources.values()
        sides.append(set(place.split.table["side"]))
    assert sides == [{"train", "validation", "test"}, {"train", "validation"}]


# ---- what is refused ---------------------------------------------------------------------------------------------
def test_what_judges_is_not_trained_on_before(tmp_path: Path) -> None:
    """Five folds of the same films: the training side of the one split has patients that a fold tests."""
    cell = chained(dataset="phantom", options=OPTIONS).model_copy(update={"protocol": "kfold5"})
    with pytest.raises(
        LeakError, match=r"\d+ patients that judge this cell would train another run before, or choose its epoch"
    ):
        make_ready(Home.at(tmp_path), cell)


def test_nor_is_an_epoch_chosen_before_by_what_judges(ready: Ready) -> None:
    """The other data's validation side is the test side here; their training side trains here, too."""
    swapped = {"train": "train", "test": "validation", "validation": "test"}
    split = replace(ready.split, table=ready.split.table.assign(side=ready.split.table["side"].map(swapped)))
    with pytest.raises(LeakError, match="would train another run before, or choose its epoch"):
        Ready(ready.home, ready.cell, ready.prepared, sources={"other": Place(ready.prepared, split, "holdout")})


def test_nor_does_a_run_open_a_test_side_by_which_its_ancestor_was_chosen(ready: Ready, tmp_path: Path) -> None:
    """What the plan would refuse, the engine refuses as well, by what the ancestor left behind."""
    job = run(ready)
    before = Path(ready.requirement_jobs(ready.base, 1)["pretrained"].folder)
    shutil.copytree(before, tmp_path / "before")
    lineage = json.loads((before / "lineage.json").read_text())
    judged = ready.split.table[ready.split.table["side"] == "test"]["patient"].iloc[0]
    (tmp_path / "before" / "lineage.json").write_text(json.dumps(lineage | {"chosen_patients": [judged]}))
    planted = {
        "requirements": {**job.requirements, "pretrained": str(tmp_path / "before")},
        "folder": str(tmp_path / "run"),
    }
    with pytest.raises(LeakError, match="1 patients of test were in the choice of this state or its ancestors"):
        list(train_run(job.model_copy(update=planted)))


def test_films_that_look_alike_are_counted(ready: Ready) -> None:
    """The same pictures under other patients and hashes: nothing but their look tells."""
    table = ready.prepared.table
    renamed = table.assign(**{name: "other-" + table[name] for name in ("patient", "image_hash", "pixel_hash")})
    other = with_table(ready.prepared, renamed)
    found = Ready(ready.home, ready.cell, ready.prepared, sources={"other": Place(other, ready.split, "holdout")})
    judges = table[(ready.split.sides_of(table) == "validation") & (table["counterfactual_of"] == "")]
    assert look_alike(ready) == 0 < judges["look"].nunique() <= look_alike(found)


@pytest.mark.parametrize(
    ("pretrain", "said"),
    [
        ({"dataset": "nowhere"}, "no data set 'nowhere'"),
        ({"dataset": "vindr_mammo"}, "vindr_mammo cannot serve the track malignancy"),
        ({"options": {"patient_scop": 3}}, "unknown key 'patient_scop'"),
        ({"dataset": "phantom", "rows": "all"}, "its test side judges what starts from it"),
    ],
)
def test_other_data_that_cannot_serve_are_told_before_any_are_touched(pretrain: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        inputs_of(chained("densenet121_kt", **pretrain))


def test_a_teacher_on_masks_needs_masks_there_too(ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = data.reader("bcdr")
    monkeypatch.setattr(reader, "CARD", replace(reader.CARD, provides=reader.CARD.provides - {"mask"}))
    with pytest.raises(ConfigError, match="bcdr has no masks"):
        ready.all_requirements(ready.base, 1)


def test_settings_of_a_run_below_are_checked_before_it_starts(ready: Ready) -> None:
    before = {**ready.base.pretrain.model_dump(), "settings": {"epoch": 1}}
    with pytest.raises(ConfigError, match="unknown key 'epoch'"):
        ready.all_requirements(ready.config({"pretrain": before}), 1)


def test_a_trial_does_not_look_for_other_data(ready: Ready) -> None:
    other = {**ready.base.pretrain.model_dump(), "options": {"masks": "shuffled"}}
    with pytest.raises(ConfigError, match="was not prepared for this cell"):
        ready.spec(ready.config({"pretrain": other}), 1)


def test_a_trial_may_do_without_the_run_that_others_share_and_not_start_from_another(ready: Ready) -> None:
    make = _job_maker(ready, SweepPlan(trials=2), "study", {})
    assert set(make(0, {})["requirements"]) == {"pretrained", "teacher"}
    assert set(make(1, {"teacher": "same_weights"})["requirements"]) == {"pretrained"}
    with pytest.raises(ConfigError, match="would start from another run than the one that all trials share"):
        make(2, {"roi.strategy": "bbox"})


# ---- where data sets lie -----------------------------------------------------------------------------------------
def test_places_by_name_and_one_without() -> None:
    roots = Roots.of_words(["/films", "cbis_ddsm=/cbis"])
    assert roots.of("bcdr") == Path("/films") and roots.of("cbis_ddsm") == Path("/cbis")
    assert Roots.of_words(["/films/a=b"]).of("bcdr") == Path("/films/a=b")  # no data set is called /films/a
    assert Roots.of_words([]).of("bcdr") is None


@pytest.mark.parametrize("words", [["/a", "/b"], ["bcdr=/a", "bcdr=/b"]])
def test_two_places_for_one_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="two places"):
        Roots.of_words(words)


def test_the_other_data_are_not_looked_for_where_these_lie(ready: Ready) -> None:
    """--data-root DIR is of the command's own data set alone."""
    cell = chained(dataset="cbis_ddsm")
    with pytest.raises(ConfigError, match="cbis_ddsm lies on your disk; where is not known"):
        make_ready(ready.home, cell, Roots.of_words([str(ready.home.out)]))
