"""The phantom in each form, and what its reader finds there: the counts that the phantom knows, quirk by quirk."""

from pathlib import Path
from typing import Any

import pytest

import data
from data import forms
from data.cache import Prepared, prepare
from data.errors import ConfigError, MachineError
from tests.cli import here

pytestmark = pytest.mark.long

SMALL = {"size": 64}
QUIRKS = [(name, quirk) for name in forms.names() for quirk in ("", *forms.load(name).FORM.quirks)]


def written(folder: Path, name: str, *quirks: str, exams: int = 6, **options: Any) -> dict[str, Any]:
    return forms.write_form(folder, name, forms.suited(name, exams, SMALL | options), quirks)


def found(prepared: Prepared) -> dict[str, Any]:
    """What `prepare` found, in the words of `forms.known`."""
    passport = prepared.passport
    return {name: passport[name] for name in ("records", "findings", "patients")} | {"tracks": prepared.counts()}


@pytest.mark.parametrize(("name", "quirk"), QUIRKS)
def test_a_reader_finds_what_the_phantom_knows(tmp_path: Path, name: str, quirk: str) -> None:
    document = written(tmp_path / "form", name, *([quirk] if quirk else []))
    prepared = prepare(document["dataset"], tmp_path / "form", None, tmp_path / "cache", skip_bad=bool(quirk))
    assert found(prepared) == document["known"]
    assert prepared.passport["grade"].split(", ")[0] == "synthetic", "generated films, whatever form they have"


@pytest.mark.parametrize("name", forms.names())
def test_all_quirks_at_once(tmp_path: Path, name: str) -> None:
    document = written(tmp_path / "form", name, *forms.load(name).FORM.quirks, exams=12)
    prepared = prepare(document["dataset"], tmp_path / "form", None, tmp_path / "cache", skip_bad=True)
    assert found(prepared) == document["known"]
    assert prepared.passport["patients"] > 0


@pytest.fixture(scope="module", params=forms.names())
def twenty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """20 exams in a form, as its reader prepares them."""
    folder = tmp_path_factory.mktemp(request.param)
    document = written(folder / "form", request.param, exams=20)
    return prepare(document["dataset"], folder / "form", None, folder / "cache")


@pytest.mark.parametrize("protocol", ["holdout", "kfold5"])
def test_no_patient_and_no_image_is_on_two_sides(twenty: Prepared, protocol: str) -> None:
    prepared = twenty
    for fold in range(5 if protocol == "kfold5" else 1):
        split = prepared.split(protocol, 0, fold)
        table = prepared.table.assign(side=split.sides_of(prepared.table))
        assert set(table["side"]) == {"train", "validation", "test"}
        for column in ("patient", "image_hash", "pixel_hash", "lesion_id"):
            rows = table[table[column] != ""]
            assert rows.groupby(column)["side"].nunique().max() == 1, column


@pytest.mark.parametrize("name", forms.names())
def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    trees = []
    for number in range(2):
        root = tmp_path / str(number)
        written(root, name, *forms.load(name).FORM.quirks, exams=4)
        trees.append({p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()})
    assert trees[0] == trees[1]


def test_every_form_is_of_a_data_set() -> None:
    assert {forms.load(name).FORM.dataset for name in forms.names()} <= set(data.names())


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no form 'duke'"):
        forms.load("duke")
    with pytest.raises(ConfigError, match=r"no quirk 'odd'.*--quirk"):
        written(tmp_path / "a", "manifest", "odd")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "film.png").write_bytes(b"")
    with pytest.raises(MachineError, match="not empty"):
        written(tmp_path / "full", "manifest")


def test_the_command(tmp_path: Path) -> None:
    done = here("phantom", tmp_path / "form", "--format", "manifest", "--exams", "6", "--size", "64", "--json")
    assert done.code == 0 and done.document["known"]["patients"] == 6
    assert "not empty" in here("phantom", tmp_path / "form").error
    assert "level" in here("phantom", tmp_path / "other", "--set", "level=soft").error
    assert not (tmp_path / "other").exists()
