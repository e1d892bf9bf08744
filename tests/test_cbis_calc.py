"""Calcifications of CBIS-DDSM beside its masses: films that are there twice, patients of two sets, labels and masks."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest

from data import forms
from data._cbis_csv import CALC, MASS
from data.cache import prepare
from data.cbis_ddsm import SHORT, SPLITS, Options, table_name
from data.errors import ConfigError, LeakError
from data.forms.cbis_ddsm import CROP, FILM, HEADER, MASK, Layout, cell_of, old_form, save_file, save_rows
from data.record import Record
from tests.cbis_tree import SOURCE, read, read_rows, read_skipping, rewrite, the_line

pytestmark = pytest.mark.long

BOTH = ["mass+calc", "calc"]
CALC_TRAIN = table_name(CALC, "train")
SIZE = (48, 30)


# ---- the patients of the collection who stand in CSVs of both kinds


def patients_of_both_kinds() -> list[dict[str, str]]:
    with (SOURCE / "patients_of_both_kinds.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A download of those patients: all their rows, on films of their own grey; not to be changed."""
    root = tmp_path_factory.mktemp("both")
    tables: dict[tuple[str, str], list[list[str]]] = {}
    for number, row in enumerate(patients_of_both_kinds()):
        kind = {short: kind for kind, short in SHORT.items()}[row["kind"]]
        film = "_".join(row[name] for name in ("patient_id", "left or right breast", "image view"))
        folder = f"{row['kind'].capitalize()}-{ {'train': 'Training', 'test': 'Test'}[row['set']] }_{film}"
        grey = np.random.default_rng(number).integers(1, 65535, SIZE, dtype=np.uint16)
        lesion = np.zeros(SIZE, np.uint8)
        lesion[5 : 9 + number % 20, 4:12] = 255
        numbers = (0, 1) if kind == MASS else (1, 0)
        lesion_folder = f"{folder}_{row['abnormality id']}"
        cells = {
            FILM: cell_of(folder, 0),
            CROP: cell_of(lesion_folder, numbers[0]),
            MASK: cell_of(lesion_folder, numbers[1]),
        }
        for (name, cell), pixels in zip(cells.items(), (grey, grey[:9, :9], lesion), strict=True):
            path = root / Layout().path(cell, name)
            if not path.exists():
                save_file(path, pixels, cell, None)
        words = ("OVAL", "CIRCUMSCRIBED") if kind == MASS else ("PUNCTATE", "N/A")
        labels = [row["patient_id"], "2", row["left or right breast"], row["image view"], row["abnormality id"], kind]
        tables.setdefault((kind, row["set"]), [list(HEADER[kind])]).append(
            [*labels, *words, "4", row["pathology"], "3", *cells.values()]
        )
    for (kind, split), rows in tables.items():
        save_rows(root / table_name(kind, split), rows)
    return root


@pytest.fixture(scope="module")
def joined(whole: Path) -> list[Record]:
    """What is read there of both kinds by default."""
    return read(whole, kinds="mass+calc")


def film_of(record: Record) -> tuple[str, str, str]:
    return record.patient_id, record.laterality, record.view


def findings(found: list[Record], kind: str) -> Counter[str | None]:
    """Findings of a kind on each side."""
    return Counter(record.official_split for record in found for f in record.findings if f.kind == kind)


@pytest.mark.parametrize(
    ("crossing", "left_out", "sides"),
    [("drop_calc", 84, (58, 21)), ("drop", 143, (45, 3)), ("to_test", 0, (45, 34))],
)
def test_a_patient_is_on_one_side_and_a_film_is_there_once(
    whole: Path, crossing: str, left_out: int, sides: tuple[int, int]
) -> None:
    """31 patients are in the training CSV of one kind and the test CSV of the other; the rows are the collection's."""
    found, report = read_skipping(whole, kinds="mass+calc", crossing=crossing)
    assert not report.problems and report.left_out["patient in a training and a test CSV"] == left_out
    of_side = {split: [r for r in found if r.official_split == split] for split in SPLITS}
    train, test = ({record.patient_id for record in of_side[split]} for split in SPLITS)
    assert not train & test
    assert len({film_of(record) for record in found}) == len({r.record_id for r in found}) == len(found)
    ids = [f.finding_id for record in found for f in record.findings]
    assert len(set(ids)) == len(ids) == len(patients_of_both_kinds()) - left_out
    patients = {kind: {row["patient_id"] for row in patients_of_both_kinds() if row["set"] == kind} for kind in SPLITS}
    two_sets = patients["train"] & patients["test"]
    assert len(two_sets) == 31 and {"P_00016", "P_00969", "P_01883"} < two_sets
    assert (len(train), len(test)) == sides


def test_the_masses_stay_as_they_are(whole: Path, joined: list[Record]) -> None:
    """By default the calcifications of those 31 patients are left out, and every mass keeps its side and its ids."""
    masses = read(whole)
    for split in SPLITS:
        one, two = (
            {(r.record_id, r.image.name, f.finding_id, f.lesion_id, f.malignant) for r in found if r.official_split == split
             for f in r.findings if f.kind == MASS}
            for found in (masses, joined)
        )  # fmt: skip
        assert one == two and one
    assert findings(masses, CALC) == Counter() and findings(joined, MASS) == findings(masses, MASS)


def test_a_film_of_both_kinds_is_one_record(joined: list[Record]) -> None:
    """38 films of the training side and 4 of the test side show a mass and a calcification."""
    both = [record for record in joined if {f.kind for f in record.findings} == {MASS, CALC}]
    assert Counter(record.official_split for record in both) == {"train": 38, "test": 4}
    for record in both:
        assert "/Mass-" in record.image.name and record.has_mass
        masks = [f.mask.name for f in record.findings if f.mask is not None]
        assert len(set(masks)) == len(record.findings) and any("/Calc-" in name for name in masks)


def test_calcifications_alone_need_no_other_csv(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "calc"
    root.mkdir()
    masses = {table_name(MASS, split) for split in SPLITS}
    for path in whole.iterdir():
        if path.name not in masses:
            (root / path.name).symlink_to(path)
    found = read(root, kinds="calc")
    rows = Counter(row["set"] for row in patients_of_both_kinds() if row["kind"] == "calc")
    assert findings(found, CALC) == rows and findings(found, MASS) == Counter()
    assert {record.has_mass for record in found} == {None}
    assert the_line(root, kinds="mass+calc").startswith(f"CSV is missing ({table_name(MASS, 'train')})")


# ---- a small download


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight exams, two of them calcifications alone, in the form of the collection; not to be changed."""
    root = tmp_path_factory.mktemp("sound") / "tree"
    forms.write_form(root, "cbis_ddsm", forms.suited("cbis_ddsm", 8, {"size": 64, "normal_share": 0.3}), ["calc"])
    return root


@pytest.fixture
def tree(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, to be broken."""
    return shutil.copytree(sound, tmp_path / "tree")


def edit(root: Path, name: str, row: int, column: str, value: str) -> None:
    rows = read_rows(root / "csv" / name)
    rows[row][rows[0].index(column)] = value
    save_rows(root / "csv" / name, rows)


def lesions(root: Path, kinds: str) -> list[tuple[object, ...]]:
    return [
        (r.record_id, r.official_split, f.finding_id, f.kind, f.malignant, int(f.mask.read().sum()))
        for r in read(root, kinds=kinds)
        for f in r.findings
        if f.mask is not None
    ]


def test_labels_of_a_calcification(tree: Path) -> None:
    edit(tree, CALC_TRAIN, 1, "pathology", "MALIGNANT")
    edit(tree, CALC_TRAIN, 1, "calc type", "PUNCTATE-PLEOMORPHIC")
    first = read(tree, kinds="calc")[0]
    [finding] = first.findings
    assert (finding.kind, finding.margin, finding.malignant, first.has_mass) == (CALC, None, True, None)
    assert finding.attributes == {
        "assessment": 4.0, "subtlety": 3.0, "pathology": "MALIGNANT", "calc_type": "PUNCTATE-PLEOMORPHIC",
        "calc_distribution": "CLUSTERED",
    }  # fmt: skip
    assert first.attributes["density"] in set("abcd")


def test_tracks_count_masses_alone(tree: Path) -> None:
    masses = prepare("cbis_ddsm", tree, {}, tree.parent / "cache")
    joined = prepare("cbis_ddsm", tree, {"kinds": "mass+calc"}, tree.parent / "cache")
    assert joined.counts() == masses.counts() and joined.passport["kinds"][CALC] > 0
    masses_of, of_both = masses.passport["published"], joined.passport["published"]
    assert {name: of_both[name] for name in of_both if "patients" not in name} == {
        name: masses_of[name] for name in masses_of if "patients" not in name
    }
    assert joined.passport["records"] > masses.passport["records"]
    alone = prepare("cbis_ddsm", tree, {"kinds": "calc"}, tree.parent / "cache")
    assert set(alone.passport["kinds"]) == {CALC} and not any(alone.counts().values())


@pytest.mark.parametrize("kinds", BOTH)
@pytest.mark.parametrize("form", ["lf", "names of 2017"])
def test_forms_of_the_csv(tree: Path, form: str, kinds: str) -> None:
    """Of the form of 2017 only the columns are known that both kinds have."""
    before = lesions(tree, kinds)
    for split in SPLITS:
        path = tree / "csv" / table_name(CALC, split)
        if form == "lf":
            path.write_bytes(path.read_bytes().replace(b"\r", b""))
        else:
            rows = old_form(read_rows(path))
            rows[0] = [name.replace("breast density", "breast_density") for name in rows[0]]
            save_rows(path, rows)
    assert lesions(tree, kinds) == before


def test_mask_and_crop_are_told_apart_by_content(tree: Path) -> None:
    """The CSVs of calcifications name the mask first; a download may have it second, and a crop may be nearly the film."""
    before = lesions(tree, "calc")
    crops = [p for p in tree.rglob("000001.dcm") if "/Calc-" in p.as_posix()]
    for path in crops[::2]:
        path.rename(path.with_name("x.dcm"))
        path.with_name("000000.dcm").rename(path)
        path.with_name("x.dcm").rename(path.with_name("000000.dcm"))
    film = np.random.default_rng(0).integers(1, 65535, (64, 40), dtype=np.uint16)
    rewrite(crops[1], film[:60, :38])
    assert lesions(tree, "calc") == before


def test_the_copy_that_is_on_disk_is_the_film(tree: Path) -> None:
    """Of a film in both CSVs one copy suffices; what the other would have shown is named."""
    both = next(r for r in read(tree, kinds="mass+calc") if {f.kind for f in r.findings} == {MASS, CALC})
    (tree / both.image.name).unlink()
    found, report = read_skipping(tree, kinds="mass+calc")
    left = next(record for record in found if record.record_id == both.record_id)
    assert "/Calc-" in left.image.name and {f.kind for f in left.findings} == {CALC} and left.has_mass is None
    assert report.left_out["film not on disk"] == sum(f.kind == MASS for f in both.findings)
    assert all(problem["file"].startswith("mass_case") for problem in report.problems)


def test_the_same_number_on_a_mass_and_a_calcification(tree: Path) -> None:
    rows = read_rows(tree / "csv" / CALC_TRAIN)
    for row in range(1, len(rows)):
        edit(tree, CALC_TRAIN, row, "abnormality id", "1")
    found = read(tree, kinds="mass+calc")
    ids = [f.finding_id for record in found for f in record.findings]
    assert len(set(ids)) == len(ids)
    kinds: dict[str, set[str]] = {}
    for record in found:
        for finding in record.findings:
            kinds.setdefault(finding.lesion_id, set()).add(finding.kind)
    assert all(len(of) == 1 for of in kinds.values())


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("pathology", "benign", "pathology is 'benign'"),
        ("abnormality type", "mass", "abnormality type is 'mass', known are 'calcification'"),
        (MASK, "folder/000000.dcm", "ROI mask file path names no series"),
    ],
)
def test_a_bad_row_names_its_csv(tree: Path, column: str, value: str, says: str) -> None:
    edit(tree, CALC_TRAIN, 2, column, value)
    assert read(tree)  # not asked for, not looked at
    line = the_line(tree, kinds="mass+calc")
    assert line.startswith(says) and f"({CALC_TRAIN}, row 2)" in line


def test_a_csv_without_its_own_columns(tree: Path) -> None:
    rows = read_rows(tree / "csv" / CALC_TRAIN)
    save_rows(tree / "csv" / CALC_TRAIN, [[name.replace("calc type", "kind") for name in rows[0]], *rows[1:]])
    assert the_line(tree, kinds="calc").startswith(f"no column 'calc type' ({CALC_TRAIN})")


def test_a_patient_in_both_sets_of_a_kind_is_a_leak(tree: Path) -> None:
    train = read_rows(tree / "csv" / CALC_TRAIN)
    edit(tree, table_name(CALC, "test"), 1, "patient_id", train[1][0])
    edit(tree, table_name(CALC, "test"), 1, "abnormality id", "9")
    for kinds in BOTH:
        with pytest.raises(LeakError, match=rf"{CALC_TRAIN}, row 1.*\({table_name(CALC, 'test')}, row 1\)"):
            read_skipping(tree, kinds=kinds)


@pytest.mark.parametrize(("kinds", "ignored"), [("mass", "Calc-"), ("calc", "Mass-")])
def test_broken_files_of_the_other_kind_do_not_matter(tree: Path, kinds: str, ignored: str) -> None:
    kind = {"Mass-": MASS, "Calc-": CALC}[ignored]
    cell = read_rows(tree / "csv" / table_name(kind, "test"))[1][-1]
    (tree / Layout().path(cell, "")).write_bytes(b"not an image")
    assert read(tree, kinds=kinds)
    assert f"{cell.strip()}: not a DICOM file" in the_line(tree, kinds="mass+calc", crossing="to_test")


def test_crossing_is_of_use_with_both_kinds_alone(tree: Path) -> None:
    for kinds in ("mass", "calc"):
        with pytest.raises(ConfigError, match=r"it is of use with kinds mass\+calc alone.*\(crossing"):
            prepare("cbis_ddsm", tree, {"kinds": kinds, "crossing": "drop"}, tree.parent / "cache")
    chosen = Options(kinds="mass+calc", crossing="to_test")
    assert Options.model_validate(chosen.model_dump(mode="json")) == chosen


def test_the_files_say_what_the_real_ones_say(tree: Path) -> None:
    """Folder and number of each file, the line end within quotes, bits."""
    raw = (tree / "csv" / CALC_TRAIN).read_bytes()
    rows = read_rows(tree / "csv" / CALC_TRAIN)
    assert raw.count(b"\r\n") == len(rows) and raw.count(b'\n",') == len(rows) - 1  # the crop's path, within the row
    film, crop, mask = rows[1][-3:]
    assert film.startswith("Calc-Training_P_") and crop.endswith("/000001.dcm\n") and mask.endswith("/000000.dcm")
    bits = [pydicom.dcmread(tree / "CBIS-DDSM" / cell.strip()).BitsAllocated for cell in (film, crop, mask)]
    assert bits == [16, 16, 8]
