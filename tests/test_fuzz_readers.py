"""Damaged tables and films, DICOM headers above all, by the forty for each reader (by the thousand in `make test-all`).

Each gives a result or one clear line; nothing vanishes without a word, and no label changes beside the one that was edited.
"""

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import data
from data import forms
from data.errors import UserError
from data.record import Finding, Pixels, Record, Report
from tests.mutate import Mutation, dicom_mutations, files, image_mutations, table_mutations, unknown_labels

TABLES = (".csv", ".txt", ".xml")
DICOM, IMAGES = (".dcm", ".dicom"), (".png", ".tif", ".pgm")
SECRET = "DOE^JANE"  # the patient that every DICOM header names
MEMORY = 1 << 30  # bytes that the whole of a test may add to what the process held before
FUZZ = {"suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


@dataclass(frozen=True)
class Tree:
    """A phantom in a form, and what its reader says of it undamaged."""

    root: Path
    dataset: str
    records: tuple[Record, ...]
    left_out: dict[str, int]

    def read(self, *, skip_bad: bool) -> tuple[list[Record], Report]:
        """Raises UserError."""
        reader, report = data.reader(self.dataset), Report(skip_bad=skip_bad)
        return list(reader.records(self.root, reader.Options(), report)), report


@pytest.fixture(scope="module", params=forms.names())
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    root, name = tmp_path_factory.mktemp(request.param) / "form", request.param
    quirks = {"dicom"} & set(forms.load(name).FORM.quirks)
    dataset = forms.write_form(root, name, forms.suited(name, 4, {"size": 64}), quirks)["dataset"]
    for path in files(root, *DICOM):
        film = pydicom.dcmread(path)
        film.PatientName, film.PatientID = SECRET, SECRET
        film.save_as(path)
    records, report = Tree(root, dataset, (), {}).read(skip_bad=True)
    assert records
    yield Tree(root, dataset, tuple(records), dict(report.left_out))


def labels(records: list[Record] | tuple[Record, ...]) -> dict[str, Any]:
    """Of every finding and every film what training or a split reads."""
    found: dict[str, Any] = {f.finding_id: (f.kind, f.margin, f.malignant, f.box) for r in records for f in r.findings}
    return found | {r.record_id: (r.has_mass, r.official_split, r.patient_id, r.laterality, r.view) for r in records}


def one_line(error: UserError) -> None:
    text = str(error)
    assert "\n" not in text and len(text) < 2000 and error.what and error.where and error.do, text
    assert SECRET not in text


def read_damaged(tree: Tree, path: Path, change: Mutation) -> tuple[list[Record], Report] | None:
    """The reader on the tree with one file changed, strict first; None where it refuses it. The file is put back."""
    whole = path.read_bytes()
    path.write_bytes(change(whole))
    try:
        try:
            tree.read(skip_bad=False)
        except UserError as error:
            one_line(error)
        try:
            return tree.read(skip_bad=True)
        except UserError as error:
            one_line(error)
            return None
    finally:
        path.write_bytes(whole)


def check_table(tree: Tree, path: Path, change: Mutation) -> None:
    found = read_damaged(tree, path, change)
    if found is None:
        return
    records, report = found
    for message in report.problems:
        assert "\n" not in message["message"] and message["file"], message
    before, after = labels(tree.records), labels(records)
    told = report.problems or dict(report.left_out) != tree.left_out
    changed = [finding for finding in before.keys() & after.keys() if before[finding] != after[finding]]
    assert len(changed) <= 8 or told, changed  # of one row and its film, or of two that changed places
    whole = path.read_bytes()
    if before.keys() - after.keys() and not after.keys() - before.keys() and _lines(whole) == _lines(change(whole)):
        assert told, "findings are gone without a word"


def _lines(text: bytes) -> int:
    return len(text.splitlines())


def pixels_of(records: list[Record], path: Path) -> Iterator[Pixels]:
    def parts(record: Record) -> Iterator[Pixels | None]:
        finding: Finding
        yield record.image
        for finding in record.findings:
            yield from (finding.mask, finding.fine_mask)

    for record in records:
        yield from (p for p in parts(record) if p is not None and path.name in p.name)


def check_film(tree: Tree, path: Path, change: Mutation) -> None:
    whole = path.read_bytes()
    path.write_bytes(change(whole))
    try:
        try:
            records, _ = tree.read(skip_bad=True)
        except UserError as error:
            one_line(error)
            return
        for pixels in pixels_of(records, path):
            try:
                decoded = np.asarray(pixels.read())
            except UserError as error:
                one_line(error)
                assert path.name in error.where, error.where
            else:
                assert decoded.ndim == 2 and decoded.size < 1 << 26
    finally:
        path.write_bytes(whole)


def bounded(check: Any, tree: Tree, path: Path, change: Mutation) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check(tree, path, change)
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < MEMORY


def draw_table(tree: Tree, data: st.DataObject) -> None:
    bounded(check_table, tree, data.draw(st.sampled_from(files(tree.root, *TABLES))), data.draw(table_mutations()))


def check_unknown_label(tree: Tree, path: Path, change: Mutation) -> None:
    """A word that no form knows is refused, or told and left out; the film's other labels stay."""
    whole = path.read_bytes()
    damaged = change(whole)
    if damaged == whole:
        return
    path.write_bytes(damaged)
    try:
        with pytest.raises(UserError) as error:
            tree.read(skip_bad=False)
            pytest.fail(f"read as if nothing were wrong: {[line for line in damaged.splitlines() if b'Zq' in line]}")
        one_line(error.value)
        try:
            records, report = tree.read(skip_bad=True)
        except UserError:
            return
    finally:
        path.write_bytes(whole)
    assert report.problems, damaged
    before, after = labels(tree.records), labels(records)
    gained = {
        key: after[key]
        for key in before.keys() & after.keys()
        if after[key] != before[key] and not _less(before[key], after[key])
    }
    assert not gained, gained


def _less(before: Any, after: Any) -> bool:
    """Whether only knowledge was lost: a value became None, or a film lost its mass for "unknown"."""
    return all(one == other or other is None for one, other in zip(before, after, strict=True))


def draw_label(tree: Tree, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files(tree.root, *TABLES)))
    check_unknown_label(tree, path, data.draw(unknown_labels()))


def draw_film(tree: Tree, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files(tree.root, *DICOM) or files(tree.root, *IMAGES)))
    damage = dicom_mutations() if path.suffix in DICOM else image_mutations()
    bounded(check_film, tree, path, data.draw(damage))


@settings(max_examples=25, **FUZZ)
@given(st.data())
def test_damaged_tables(tree: Tree, data: st.DataObject) -> None:
    draw_table(tree, data)


@settings(max_examples=25, **FUZZ)
@given(st.data())
def test_labels_that_no_form_knows(tree: Tree, data: st.DataObject) -> None:
    draw_label(tree, data)


@settings(max_examples=25, **FUZZ)
@given(st.data())
def test_damaged_films(tree: Tree, data: st.DataObject) -> None:
    draw_film(tree, data)


@pytest.mark.long
@settings(max_examples=1000, **FUZZ)
@given(st.data())
def test_a_thousand_damaged_tables(tree: Tree, data: st.DataObject) -> None:
    draw_table(tree, data)


@pytest.mark.long
@settings(max_examples=1000, **FUZZ)
@given(st.data())
def test_a_thousand_labels_that_no_form_knows(tree: Tree, data: st.DataObject) -> None:
    draw_label(tree, data)


@pytest.mark.long
@settings(max_examples=1000, **FUZZ)
@given(st.data())
def test_a_thousand_damaged_films(tree: Tree, data: st.DataObject) -> None:
    draw_film(tree, data)
