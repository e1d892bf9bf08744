"""The phantom's counterfactual pairs: what an edit changes, and what not."""

import numpy as np
import pytest

from data import _phantom_anatomy, _phantom_film
from data.phantom import Exam, FilmPixels, Options, exams
from tests.phantom_films import SMALL, read_all

# -- counterfactual pairs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edit", ["removed", "margin=circumscribed", "margin=indistinct", "margin=spiculated"])
def test_edits_change_no_pixel_away_from_the_lesion(edit: str) -> None:
    for index in range(3):
        exam = Exam(Options(), "test", index)
        twin = exam.counterfactual(edit)
        for record, other in zip(exam.records(), twin.records(), strict=True):
            change = record.image.read() != other.image.read()
            origin = record.findings[0]
            assert change.any() == (edit != f"margin={origin.margin}")
            assert change.mean() < 0.08
            assert origin.box is not None and other.findings[0].box == origin.box
            x0, y0, x1, y1 = origin.box
            rows, columns = np.nonzero(change)
            distance = np.hypot(columns + 0.5 - (x0 + x1) / 2, rows + 0.5 - (y0 + y1) / 2)
            assert distance.max(initial=0) < 2.7 * max(x1 - x0, y1 - y0) / 2
            assert other.findings[0].finding_id == origin.finding_id
            assert other.counterfactual_of == record.record_id != other.record_id
            assert other.patient_id == record.patient_id and other.official_split == "test"
            if edit == "removed":
                assert other.has_mass is False and other.findings[0].mask is None and other.findings[0].margin is None
            else:
                assert other.findings[0].margin == edit.removeprefix("margin=")
                assert other.findings[0].malignant == origin.malignant


def test_a_sham_has_the_lesions_area_and_energy_beside_it() -> None:
    for index in range(4):
        exam = Exam(Options(), "test", index)
        for key, sham_key in zip(exam.keys(), exam.counterfactual("sham").keys(), strict=True):
            shape = _phantom_anatomy.anatomy(key.recipe, key.other, key.view)
            lesion = _phantom_film._change(key, shape)
            sham = _phantom_film._change(sham_key, shape) - lesion
            support = np.abs(sham) > 1e-12
            assert support.any() and not (support & (lesion != 0)).any()
            assert np.sum(sham**2) == pytest.approx(np.sum(lesion**2), rel=1e-6)
            assert 0.5 < support.sum() / (lesion != 0).sum() < 1.1
            before, after = FilmPixels(key).read(), FilmPixels(sham_key).read()
            mirrored = support[:, ::-1] if key.laterality == "R" else support
            assert not (before != after)[~mirrored].any()


def test_a_sham_is_no_black_hole() -> None:
    """No part of it is darker than nearly all of the breast was, unless that place was darker already."""
    for index in range(12):
        exam = Exam(Options(), "test", index)
        for key, sham_key in zip(exam.keys(), exam.counterfactual("sham").keys(), strict=True):
            shape = _phantom_anatomy.anatomy(key.recipe, key.other, key.view)
            film, sham = FilmPixels(key).read().astype(int), FilmPixels(sham_key).read().astype(int)
            inside = shape.depth[:, ::-1] if key.laterality == "R" else shape.depth
            floor = np.percentile(film[inside > 0.03], 2)
            darker = (sham < film) & (sham < floor - 10)
            assert (film - sham)[darker].max(initial=0) < 25


def test_one_of_several_masses_can_be_edited() -> None:
    options = Options(masses=4)
    exam = next(e for e in exams(options) if len(e.records()[0].findings) > 1)
    found = exam.counterfactual("removed", mass=1).records()[0].findings
    assert [finding.mask is None for finding in found[:2]] == [False, True]


def test_records_carry_the_pairs_of_the_test_side() -> None:
    options = SMALL.model_copy(update={"counterfactuals": True, "normal_share": 0.5})
    found = read_all(options)
    ids = {record.record_id for record in found}
    assert len(ids) == len(found)
    twins = [record for record in found if record.counterfactual_of is not None]
    assert {record.official_split for record in twins} == {"test"}
    assert all(record.counterfactual_of in ids for record in twins)
    assert len(twins) == 2 * 2 * 4  # two exams of three have a mass, two views; removed, two margins, sham
    assert [record.record_id for record in found if record.counterfactual_of is None] == [
        record.record_id for record in read_all(options.model_copy(update={"counterfactuals": False}))
    ]
