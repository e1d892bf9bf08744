"""VinDr-Mammo as downloaded: rows in the form of its two CSVs, films by name, and the phantom in this form."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from data import forms, phantom
from data._vindr_csv import BREASTS, FINDINGS
from data.cache import prepare
from data.errors import DataError
from data.forms._files import save_dicom
from data.record import Record, Report
from data.vindr_mammo import CARD, Options, records
from tests.vindr_tree import WIDTH, by_film, film, name, read, tables, tree


# ---- rows -----------------------------------------------------------------------------------------------------------
def test_rows_become_films_and_findings(tmp_path: Path) -> None:
    found, report = read(tree(tmp_path), selection="all")
    films = by_film(found)
    assert len(films) == 20 and not report.left_out
    two, also, normal = films[film("a", 2)], films[film("a", 3)], films[film("a", 0)]
    assert (two.laterality, two.view, two.official_split, two.patient_id) == ("R", "CC", "train", name("a"))
    assert dict(two.attributes) == {"density": "c", "breast_birads": 4.0}
    assert [finding.box for finding in two.findings] == [(36, 42, 48, 54), (10, 29, 18, 36)]
    assert [finding.attributes["assessment"] for finding in two.findings] == [4.0, 3.0]
    assert len({finding.finding_id for finding in two.findings} | {f.lesion_id for f in two.findings}) == 2
    assert [f.kind for f in also.findings] == ["mass"]
    assert also.findings[0].attributes["categories"] == "Mass, Nipple Retraction"
    assert normal.findings == () and normal.has_mass is False and normal.attributes["breast_birads"] == 1.0
    assert all((f.malignant, f.margin, f.mask) == (None, None, None) for record in found for f in record.findings)


def test_findings_besides_masses_are_of_their_own_kind(tmp_path: Path) -> None:
    films = by_film(read(tree(tmp_path), selection="all")[0])
    other, mass = films[film("b", 0)], films[film("b", 1)]
    assert [f.kind for f in other.findings] == ["suspicious calcification", "skin thickening"]
    assert other.has_mass is None and films[film("d", 2)].has_mass is None
    assert [f.attributes["assessment"] for f in other.findings] == [5.0, None]
    assert mass.has_mass is True and [f.kind for f in mass.findings] == ["mass"]
    assert mass.findings[0].attributes["assessment"] is None
    assert sum(record.has_mass is False for record in films.values()) == 14


def test_it_is_prepared_and_boxes_are_clipped(tmp_path: Path) -> None:
    root = tree(tmp_path / "vindr", films=True)
    prepared = prepare("vindr_mammo", root, {"selection": "all"}, tmp_path / "cache")
    assert prepared.counts()["detection"] == {"train": {"normal": 8, "mass": 3}, "test": {"normal": 6, "mass": 1}}
    assert prepared.passport["boxes_clipped"] == 3 and prepared.passport["patients"] == 5
    assert prepared.passport["kinds"]["mass"] == 5
    table = prepared.table
    assert set(map(tuple, table[table["kind"] == "mass"][["x0", "y0", "x1", "y1"]].to_numpy().tolist())) == {
        (36, 42, 48, 54), (10, 29, 18, 36), (48, 31, WIDTH, 43), (0, 27, 21, 49), (8, 0, 20, 58),
    }  # fmt: skip
    assert table.loc[table["kind"] == "skin thickening", "x0"].tolist() == [0]


def test_published_counts_are_those_of_a_prepared_set(tmp_path: Path) -> None:
    for selection in ("balanced", "all"):
        prepared = prepare("vindr_mammo", tree(tmp_path / "v", films=True), {"selection": selection}, tmp_path / "c")
        here = {name: pair["here"] for name, pair in prepared.passport["published"].items()}
        assert here == {"mass films": 4, "masses": 5, "train/masses": 4, "test/masses": 1}
    assert CARD.published_counts["train/masses"] + CARD.published_counts["test/masses"] == 1226


def test_a_resized_copy_is_refused_since_its_boxes_would_lie_elsewhere(tmp_path: Path) -> None:
    root = tree(tmp_path / "vindr", films=True)
    path = root / "images" / name("a") / f"{film('a', 2)}.dicom"
    save_dicom(path, np.arange(1200, dtype=np.uint16).reshape(40, 30), stored=12)
    with pytest.raises(DataError, match=rf"40 x 30 pixels, its row says 80 x 60.*{FINDINGS}, row 3"):
        prepare("vindr_mammo", root, None, tmp_path / "cache")
    prepared = prepare("vindr_mammo", root, None, tmp_path / "cache", skip_bad=True)
    assert {"reason": "film of another size than its row says", "count": 1} in prepared.passport["left_out"]


def test_ids_are_text_and_order_does_not_matter(tmp_path: Path) -> None:
    lines = tables()
    plain, _ = read(tree(tmp_path / "a", lines))
    turned = {table: [rows[0], *reversed(rows[1:])] for table, rows in lines.items()}
    stray = {
        table: [row.replace(name("series", "c"), "080c6e\u00b7 7") for row in rows] for table, rows in turned.items()
    }
    assert stray != turned
    other, _ = read(tree(tmp_path / "b", stray))

    def facts(found: list[Record]) -> set[tuple[Any, ...]]:
        return {(r.record_id, r.has_mass, frozenset((f.finding_id, f.box) for f in r.findings)) for r in found}

    assert facts(plain) == facts(other)


# ---- files ----------------------------------------------------------------------------------------------------------
def test_films_are_found_by_name_wherever_they_lie(tmp_path: Path) -> None:
    root = tree(tmp_path / "v")
    (root / "images").rename(root / "vindr-mammo-1.0.0")
    path = next(root.rglob(f"{film('a', 2)}.dicom"))
    path.rename(root / f"{film('a', 2)}.dcm")
    (root / FINDINGS).rename(root / "vindr-mammo-1.0.0" / FINDINGS)
    found, _ = read(root)
    assert len(found) == 8 and film("a", 2) in by_film(found)


def test_of_two_files_the_one_in_its_study_counts(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "copy").mkdir()
    (root / "copy" / f"{film('a', 2)}.dicom").write_bytes(b"")
    assert by_film(read(root)[0])[film("a", 2)].image.name == f"images/{name('a')}/{film('a', 2)}.dicom"
    (root / "images" / name("a") / f"{film('a', 2)}.dcm").write_bytes(b"")
    with pytest.raises(DataError, match=r"several files of one film.*row 3"):
        read(root)


def test_a_film_that_is_not_there_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path)
    next(root.rglob(f"{film('a', 2)}.dicom")).unlink()
    with pytest.raises(DataError, match=rf"film '{film('a', 2)}' of study.*{FINDINGS}, row 3"):
        read(root)
    for path in root.rglob("*.dicom"):
        path.unlink()
    with pytest.raises(DataError, match="none of the 8 films that are asked for is on disk"):
        read(root, skip_bad=True)


@pytest.mark.parametrize("table", [FINDINGS, BREASTS])
def test_tables_that_are_not_there_or_not_whole(table: str, tmp_path: Path) -> None:
    root = tree(tmp_path)
    text = (root / table).read_text()
    (root / "old").mkdir()
    (root / "old" / table).write_text(text)
    assert len(read(root)[0]) == 8
    (root / "old" / table).write_text(text + "\n,")
    with pytest.raises(DataError, match="2 files of this name differ"):
        read(root)
    (root / "old" / table).unlink()
    for column in ("image_id", "split"):
        (root / table).write_text(text.replace(column, "other", 1))
        with pytest.raises(DataError, match=rf"no column '{column}' \({table}\)"):
            read(root)
    (root / table).unlink()
    with pytest.raises(DataError, match=f"CSV is missing.*{table}"):
        read(root)


def test_no_folder() -> None:
    with pytest.raises(DataError, match="no folder with VinDr-Mammo"):
        records(None, Options(), Report())


# ---- the form -------------------------------------------------------------------------------------------------------
def write(folder: Path, *quirks: str, **options: Any) -> tuple[Path, list[dict[str, str]]]:
    """A tree of the form, and the rows of its findings."""
    forms.write_form(folder, "vindr_mammo", forms.suited("vindr_mammo", 12, {"size": 64} | options), quirks)
    with (folder / FINDINGS).open(encoding="utf-8", newline="") as stream:
        return folder, list(csv.DictReader(stream))


def test_the_form_has_the_films_and_boxes_of_the_phantom(tmp_path: Path) -> None:
    root, rows = write(tmp_path / "form")
    options = forms.suited("vindr_mammo", 12, {"size": 64})
    films = [record for exam in phantom.exams(options) for record in exam.records()]
    found, report = read(root, selection="all")
    assert not report.left_out and len(found) == len(films) == 48

    def facts(record: Record) -> tuple[Any, ...]:
        boxes = tuple(finding.box for finding in record.findings)
        return record.laterality, record.view, record.has_mass, record.attributes["density"], boxes

    assert [facts(record) for record in found] == [facts(record) for record in films]
    assert all(
        np.array_equal(a.image.read(), b.image.read() * 4095.0 // 255) for a, b in zip(found, films, strict=True)
    )
    assert {len(row[key]) for row in rows for key in ("study_id", "series_id", "image_id")} == {32}


def test_each_quirk_of_the_form_does_what_it_says(tmp_path: Path) -> None:
    root, plain = write(tmp_path / "plain")
    headers = {path.stem: pydicom.dcmread(path) for path in root.rglob("*.dicom")}
    assert {(h.PhotometricInterpretation, h.BitsStored, "WindowWidth" in h) for h in headers.values()} == {
        ("MONOCHROME2", 12, False)
    }

    inverted, _ = write(tmp_path / "monochrome1", "monochrome1")
    kinds = Counter(pydicom.dcmread(path).PhotometricInterpretation for path in inverted.rglob("*.dicom"))
    assert 6 <= kinds["MONOCHROME1"] <= 26
    same = by_film(read(root, selection="all")[0])
    for stem, record in by_film(read(inverted, selection="all")[0]).items():
        assert np.array_equal(*(pixels - pixels.min() for pixels in (record.image.read(), same[stem].image.read())))
    window, _ = write(tmp_path / "window", "window")
    assert all("WindowWidth" in pydicom.dcmread(path) for path in window.rglob("*.dicom"))

    def rows(quirk: str) -> list[dict[str, str]]:
        return write(tmp_path / quirk, quirk)[1]

    beyond = [row for row in rows("beyond") if row["xmin"]]
    out = [
        float(r["xmin"]) < 0 or float(r["ymin"]) < 0 or float(r["xmax"]) > 40 or float(r["ymax"]) > 64 for r in beyond
    ]
    assert 0 < sum(out) < len(out)
    assert any(", '" in row["finding_categories"] for row in rows("several_categories"))
    assert any(row["finding_categories"] == "['Suspicious Calcification']" for row in rows("other_findings"))
    birads = rows("birads")
    assert any(row["breast_birads"] == "BI-RADS 3" for row in birads if not row["xmin"])
    assert {row["finding_birads"] for row in birads if row["xmin"]} > {"", "BI-RADS 3"}
    assert not any(row["finding_birads"] == "" for row in plain if row["xmin"])
    turned = Counter((row["study_id"], row["laterality"], row["view_position"]) for row in rows("extra_view"))
    assert len(turned) == len({(row["study_id"], row["laterality"], row["view_position"]) for row in plain}) - 1
    assert sum(not set(row["series_id"]) <= set("0123456789abcdef") for row in rows("stray_id")) >= 4
    lacking, _ = write(tmp_path / "missing", "missing")
    assert len(list(lacking.rglob("*.dicom"))) == len(headers) - 1
    with pytest.raises(DataError, match="is not there"):
        read(lacking)


def test_validation_exams_of_the_phantom_count_as_training(tmp_path: Path) -> None:
    root, rows = write(tmp_path / "form", exams={"train": 2, "validation": 2, "test": 1})
    assert Counter(row["split"] for row in {row["image_id"]: row for row in rows}.values()) == {
        "training": 16,
        "test": 4,
    }
    assert {record.official_split for record in read(root)[0]} <= {"train", "test"}


def test_validation_is_carved_from_the_training_studies(tmp_path: Path) -> None:
    root, rows = write(tmp_path / "form")
    prepared = prepare("vindr_mammo", root, None, tmp_path / "cache")
    split = prepared.split()
    assert split.source == "official, validation carved from train"
    sides = split.table.groupby("side")["patient"].agg(set)
    assert not sides["train"] & sides["test"] and sides["validation"] and not sides["validation"] & sides["train"]
    test = {row["study_id"] for row in rows if row["split"] == "test"}
    assert {r.patient_id for r in read(root)[0] if r.official_split == "test"} <= test
