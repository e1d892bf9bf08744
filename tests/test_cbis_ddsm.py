"""The reader of CBIS-DDSM on a tiny tree of real films: labels, ids, pixels, and every form of a download."""

import json
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest

import data
from data import forms
from data.cache import prepare
from data.cbis_ddsm import CARD, Options, records
from data.phantom import exams
from data.record import Record, Report
from data.tracks import MARGINS
from tests import cbis_tree
from tests.cbis_tree import Tree, build, read

TRAIN = cbis_tree.csv_name("train")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree without defects, not to be changed."""
    return build(tmp_path_factory.mktemp("cbis"))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree to break."""
    return build(tmp_path / "tree")


# ---- what is read


def test_the_data_set_is_offered() -> None:
    assert data.reader("cbis_ddsm").CARD is CARD
    assert CARD.tracks == ("margin", "malignancy")


def test_films_findings_and_labels(clean: Tree) -> None:
    report = Report()
    found = list(records(clean.root, Options(), report))
    assert [len(record.findings) for record in found] == [1, 1, 1, 2, 2]
    assert Counter(record.official_split for record in found) == {"train": 4, "test": 1}
    assert [f.margin for r in found for f in r.findings] == [
        "spiculated", "spiculated", None, "circumscribed", "indistinct", "circumscribed", None,
    ]  # fmt: skip
    assert [f.malignant for r in found for f in r.findings] == [True, True, True, False, True, False, True]
    assert not report.problems
    assert report.left_out == {"not in track margin: OBSCURED": 1, "not in track margin: N/A": 1}


def test_attributes(clean: Tree) -> None:
    first = read(clean.root)[0]
    assert (first.laterality, first.view, first.has_mass) == ("L", "CC", True)
    assert first.attributes == {"density": "c", "grade": "reduced"}
    assert first.findings[0].attributes == {
        "assessment": 4.0,
        "shape": "IRREGULAR-ARCHITECTURAL_DISTORTION",
        "subtlety": 4.0,
        "margin_text": "SPICULATED",
        "pathology": "MALIGNANT",
    }


def test_two_views_share_their_lesion_and_nothing_else(clean: Tree) -> None:
    cc, mlo = read(clean.root)[:2]
    assert (cc.view, mlo.view) == ("CC", "MLO")
    assert cc.findings[0].lesion_id == mlo.findings[0].lesion_id
    assert cc.findings[0].finding_id != mlo.findings[0].finding_id
    assert cc.patient_id == mlo.patient_id and cc.record_id != mlo.record_id


def test_public_ids_are_unique_and_hold_no_patient_number(clean: Tree) -> None:
    found = read(clean.root)
    ids = [r.record_id for r in found] + [f.finding_id for r in found for f in r.findings]
    assert len(set(ids)) == len(ids)
    assert not any(number in i for i in ids for number in ("00001", "00059", "00419", "00969"))


def test_pixels_are_the_film_and_its_mask(clean: Tree) -> None:
    for record in read(clean.root):
        film = record.image.read()
        assert film.dtype == np.float32 and film.shape == (256, 160) and film.max() > 30000
        for finding in record.findings:
            assert finding.mask is not None
            mask = finding.mask.read()
            assert mask.dtype == bool and mask.shape == film.shape and 0 < mask.mean() < 0.05
            assert film[mask].mean() > film.mean()  # masses are dense


def test_records_travel_between_processes(clean: Tree) -> None:
    record = read(clean.root)[0]
    again = pickle.loads(pickle.dumps(record))
    assert again == record and again.image.fingerprint() == record.image.fingerprint()
    assert len({record.image, again.image}) == 1


def test_a_film_of_full_height_is_full_grade(tmp_path: Path) -> None:
    root = build(tmp_path, size=(2000, 200)).root
    assert {record.attributes["grade"] for record in read(root)} == {"full"}


def test_films_limits_each_official_set(clean: Tree) -> None:
    report = Report()
    found = list(records(clean.root, Options(films=2), report))
    assert Counter(record.official_split for record in found) == {"train": 2, "test": 1}
    assert report.left_out["beyond the number of films asked for"] == 3


# ---- several masses on a film


def shown(record: Record) -> list[tuple[str | None, bool | None, np.ndarray]]:
    """Margin, malignancy and pixels (H, W) of each mass."""
    return [(f.margin, f.malignant, f.mask.read()) for f in record.findings if f.mask is not None]


def truth(film: str) -> list[np.ndarray]:
    """The masks of a film's masses, in the order of the CSV."""
    boxes = json.loads((cbis_tree.SOURCE / "boxes.json").read_text())[film]
    return [cbis_tree.ellipse(cbis_tree.box_pixels(box, (256, 160)), (256, 160)) > 0 for box in boxes]


def swap(tree: Tree, film: str, abnormality: str) -> None:
    """One lesion's mask and crop change their names, the other's do not."""
    mask, crop = (tree.file(film, kind, abnormality) for kind in ("mask", "crop"))  # type: ignore[arg-type]
    pixels = {path: path.read_bytes() for path in (mask, crop)}
    mask.write_bytes(pixels[crop])
    crop.write_bytes(pixels[mask])


def move_to_own_series(tree: Tree, film: str, abnormality: str, split: str, row: int) -> None:
    """One lesion's mask has a study and a series of its own, as 103 rows of the collection have it."""
    path, series = tree.file(film, "mask", abnormality), "1.3.6.1.4.1.9590.100.1.2.7.7"
    pixels = pydicom.dcmread(path).pixel_array
    path.unlink()
    cell = f"Mass-Training_P_{film}_{abnormality}/1.2.3/{series}/000000.dcm"
    cbis_tree.write_dicom(tree.root / "CBIS-DDSM" / cell, pixels, series=series)
    tree.edit(split, row, cbis_tree.MASK, cell)


@pytest.mark.parametrize("form", ["as it is", "swapped", "a series of its own", "both"])
def test_each_mask_keeps_its_margin_and_pathology(tree: Tree, form: str) -> None:
    """Both films have a circumscribed benign mass and a malignant one of another margin, or of none."""
    if form in ("swapped", "both"):
        swap(tree, "00419_LEFT_CC", "1")
        swap(tree, "00969_LEFT_CC", "3")
    if form in ("a series of its own", "both"):
        move_to_own_series(tree, "00419_LEFT_CC", "2", "train", 5)
    two = [record for record in read(tree.root) if len(record.findings) == 2]
    assert [[label[:2] for label in shown(record)] for record in two] == [
        [("circumscribed", False), ("indistinct", True)],
        [("circumscribed", False), (None, True)],
    ]
    for record, film in zip(two, ("00419_LEFT_CC", "00969_LEFT_CC"), strict=True):
        for (_, _, mask), drawn in zip(shown(record), truth(film), strict=True):
            assert np.array_equal(mask, drawn)


@pytest.mark.parametrize(
    "quirks", [(), ("mask_first", "own_series", "undescribed"), ("descriptive", "nbia", "form2017")]
)
def test_each_mask_keeps_its_label_on_phantom_films(tmp_path: Path, quirks: tuple[str, ...]) -> None:
    """Against what was drawn: pixels, margin and malignancy, also where the masses of a film differ."""
    form = forms.load("cbis_ddsm")
    films = [film for exam in exams(forms.suited("cbis_ddsm", 12, {"size": 96})) for film in exam.records()]
    known = form.write(tmp_path, films, frozenset(quirks), lambda: None)
    assert any(len({f.margin for f in record.findings}) > 1 for record in known)
    assert any(len({f.malignant for f in record.findings}) > 1 for record in known)
    for drawn, found in zip(known, read(tmp_path), strict=True):
        assert len(found.findings) == len(drawn.findings) and found.patient_id == drawn.patient_id
        for (margin, malignant, mask), label in zip(shown(drawn), shown(found), strict=True):
            assert label[:2] == (margin, malignant) and np.array_equal(label[2], mask)


def test_labels_and_boxes_stay_together_when_prepared(tree: Tree) -> None:
    table = prepare("cbis_ddsm", tree.root, {}, tree.root.parent / "cache").table
    rows = table[table.duplicated("record_id", keep=False)]
    found = [
        (MARGINS[row.margin] if row.margin >= 0 else None, row.malignant, (row.x0, row.y0, row.x1, row.y1))
        for row in rows.itertuples()
    ]
    drawn = [mask for film in ("00419_LEFT_CC", "00969_LEFT_CC") for mask in truth(film)]
    extents = [
        (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)
        for y, x in (np.nonzero(mask) for mask in drawn)
    ]
    labels: list[tuple[str | None, int]] = [("circumscribed", 0), ("indistinct", 1), ("circumscribed", 0), (None, 1)]
    assert found == [(*label, extent) for label, extent in zip(labels, extents, strict=True)]


# ---- the forms of a download


def labels(found: list[Record]) -> list[tuple[object, ...]]:
    return [
        (
            r.record_id,
            r.patient_id,
            r.official_split,
            f.finding_id,
            f.lesion_id,
            f.margin,
            f.malignant,
            f.mask.read().sum(),
        )
        for r in found
        for f in r.findings
        if f.mask is not None
    ]


@pytest.mark.parametrize(
    "form",
    [
        {"names": "nbia"},
        {"names": "nbia8", "implicit": True},
        {"layout": "descriptive", "names": "nbia"},
        {"mask_first": True},
        {"descriptions": False},
        {"descriptions": False, "mask_first": True, "crop_bits": 8},
        {"csv_folder": "."},
        {"csv_folder": "some/where"},
        {"csv_form": "lf"},
        {"csv_form": "2017"},
    ],
    ids=str,
)
def test_every_form_of_the_download_gives_the_same(clean: Tree, tmp_path: Path, form: dict[str, object]) -> None:
    assert labels(read(build(tmp_path, **form).root)) == labels(read(clean.root))  # type: ignore[arg-type]


def test_names_say_nothing(clean: Tree, tree: Tree) -> None:
    """Files and folders by any name, below links too."""
    elsewhere = tree.root.parent / "elsewhere"
    elsewhere.mkdir()
    for number, path in enumerate(sorted(tree.root.rglob("*.dcm"), reverse=True)):
        path.rename(elsewhere / f"{number}.bin")
    shutil.rmtree(tree.root / "CBIS-DDSM")
    (tree.root / "linked").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(elsewhere)
    assert labels(read(tree.root)) == labels(read(clean.root))


def test_copies_of_a_download_count_once(clean: Tree, tree: Tree) -> None:
    shutil.copytree(tree.root / "CBIS-DDSM", tree.root / "copy")
    shutil.copytree(tree.root / "csv", tree.root / "copy" / "csv")
    (tree.root / "notes.txt").write_text("not an image")
    assert labels(read(tree.root)) == labels(read(clean.root))


def test_pixels_tell_mask_from_crop_where_headers_do_not(tree: Tree) -> None:
    """A crop as large as its film and of 8 bits: only its values tell."""
    film = pydicom.dcmread(tree.file("00001_LEFT_CC", "film")).pixel_array
    cbis_tree.rewrite(tree.file("00001_LEFT_CC", "crop"), (film // 257).astype(np.uint8))
    assert (
        read(tree.root)[0].findings[0].mask.path == tree.file("00001_LEFT_CC", "mask").relative_to(tree.root).as_posix()
    )  # type: ignore[union-attr]


def test_a_mask_of_16_bits_with_any_two_values(tree: Tree) -> None:
    path = tree.file("00001_LEFT_CC", "mask")
    before = pydicom.dcmread(path).pixel_array > 0
    cbis_tree.rewrite(path, before.astype(np.uint16) * 2)
    mask = read(tree.root)[0].findings[0].mask
    assert mask is not None and (mask.read() == before).all()


def test_a_lost_crop_does_not_matter(clean: Tree, tree: Tree) -> None:
    for key, path in tree.paths.items():
        if key[2] == "crop":
            path.unlink()
    assert labels(read(tree.root)) == labels(read(clean.root))


@pytest.mark.parametrize(
    ("column", "value"),
    [("pathology", "odd"), ("mass margins", "odd"), ("image view", "odd"), ("image file path", "odd"), ("ROI mask file path", "odd")],
)  # fmt: skip
def test_a_film_says_which_masses_it_lost(tree: Tree, column: str, value: str) -> None:
    """Whatever is wrong with the row of a mass: its film keeps the other one and is not fully annotated."""
    rows = cbis_tree.read_rows(tree.table("train"))
    head = rows[0]
    film = [head.index(name) for name in ("patient_id", "left or right breast", "image view")]
    keys = [tuple(row[i] for i in film) for row in rows]
    second = next(number for number, key in enumerate(keys) if key in keys[:number])
    assert {record.unlisted for record in read(tree.root)} == {0}
    tree.edit("train", second, column, value)
    found, report = cbis_tree.read_skipping(tree.root)
    assert len(report.problems) == 1 and sorted(record.unlisted for record in found) == [0, 0, 0, 0, 1]
    assert [len(record.findings) for record in found if record.unlisted] == [1]


def test_a_film_says_that_a_mask_is_not_on_disk(tree: Tree) -> None:
    film, abnormality, _ = next(key for key in tree.paths if key[1] == "2")
    kinds: tuple[cbis_tree.Kind, ...] = ("mask", "crop")
    for kind in kinds:
        tree.file(film, kind, abnormality).unlink(missing_ok=True)
    found, _ = cbis_tree.read_skipping(tree.root)
    assert sorted(record.unlisted for record in found) == [0, 0, 0, 0, 1]
