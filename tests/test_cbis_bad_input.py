"""Bad input of CBIS-DDSM: each ends in one line that names file and row, or is left out and counted."""

import csv
import io
import os
import re
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data._cbis_csv import COLUMNS, DENSITY_OF, MALIGNANT_OF, margin_group, read_row
from data._csv import Refusal, read_cells
from data.cache import prepare
from data.cbis_ddsm import Options, records
from data.errors import DataError, LeakError
from data.record import Record, Report
from tests import cbis_tree
from tests.cbis_tree import Tree, build
from tests.cli import here

TRAIN, TEST = cbis_tree.csv_name("train"), cbis_tree.csv_name("test")


def read(root: Path) -> list[Record]:
    """All records, without skipping anything."""
    return list(records(root, Options(), Report()))


def read_skipping(root: Path) -> tuple[list[Record], Report]:
    report = Report(skip_bad=True)
    return list(records(root, Options(), report)), report


def the_line(root: Path) -> str:
    """The error that reading ends with; it is one line and names no folder of this machine."""
    with pytest.raises((DataError, LeakError)) as caught:
        read(root)
    line = str(caught.value)
    assert "\n" not in line and str(root) not in line
    return line


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree to break."""
    return build(tmp_path / "tree")


# ---- the CSV


def test_the_real_bytes_hold_the_quirk() -> None:
    """LF within quotes, CR LF between rows: the file that the tests stand on was not converted by git."""
    raw = (cbis_tree.SOURCE / TRAIN).read_bytes()
    assert raw.count(b"\r\n") == 6 and raw.count(b"\n") == 11


CELL = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@given(
    st.lists(st.lists(CELL, min_size=len(COLUMNS), max_size=len(COLUMNS)), min_size=1, max_size=4),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\n", "\r\n", "  "]),
    st.permutations(sorted(COLUMNS)),
    st.booleans(),
)
def test_cells_survive_line_ends_blanks_and_column_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], end: str, tail: str, order: list[str], mark: bool
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow([COLUMNS[key][0] for key in order])
    writer.writerows([cell + tail for cell in row] for row in rows)
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    path.write_bytes(text.getvalue().encode("utf-8-sig" if mark else "utf-8"))
    cells = read_cells(path, path.name, COLUMNS)
    assert [number for number, _ in cells] == list(range(1, len(rows) + 1))
    assert [c and [c[key] for key in order] for _, c in cells] == [[cell.strip() for cell in row] for row in rows]


GOOD = {
    "patient": "P_00001", "density": "3", "side": "LEFT", "view": "CC", "abnormality": "1", "type": "mass",
    "shape": "N/A", "margins": "N/A", "assessment": "4", "pathology": "BENIGN", "subtlety": "0",
    "film": "F/1.2/1.3/000000.dcm", "crop": "L/1.2/1.4/000000.dcm", "mask": "L/1.2/1.4/000001.dcm",
}  # fmt: skip
MARGINS = ["CIRCUMSCRIBED", "ILL_DEFINED", "SPICULATED", "OBSCURED", "MICROLOBULATED"]


@given(st.lists(st.sampled_from(MARGINS), min_size=1, max_size=4, unique=True))
def test_only_a_single_margin_of_the_three_is_a_label(margins: list[str]) -> None:
    row = read_row("f", 1, {**GOOD, "margins": "-".join(margins)})
    assert (row.margin is not None) == (len(margins) == 1 and margins[0] in MARGINS[:3])
    assert (margin_group(row.margin_text) == "several margins") == (len(margins) > 1)


@given(
    st.sampled_from(["margins", "pathology", "side", "view", "type", "density", "assessment", "subtlety"]), st.text()
)
def test_a_label_is_known_or_refused(column: str, value: str) -> None:
    try:
        row = read_row("f", 7, {**GOOD, column: value})
    except Refusal as refusal:
        assert refusal.reason == "label outside the known set" and "\n" not in refusal.message
    else:
        assert row.malignant == MALIGNANT_OF[row.pathology]
        assert value in {
            *DENSITY_OF,
            "N/A",
            *map(str, range(7)),
            *MARGINS,
            *GOOD.values(),
            "RIGHT",
            "MLO",
            *MALIGNANT_OF,
        } or (set(value.split("-")) <= {*MARGINS, "N/A"})


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("pathology", "malignant", "pathology is 'malignant', known are 'MALIGNANT', 'BENIGN'"),
        ("pathology", "BENIGN_WITH_CALLBACK", "pathology is 'BENIGN_WITH_CALLBACK'"),
        ("pathology", "", "pathology is ''"),
        ("mass margins", "Spiculated", "mass margins is 'Spiculated'"),
        ("mass margins", "SPICULATED-FUZZY", "mass margins is 'FUZZY'"),
        ("image view", "cc", "image view is 'cc'"),
        ("left or right breast", "L", "left or right breast is 'L'"),
        ("abnormality type", "calcification", "abnormality type is 'calcification'"),
        ("breast_density", "5", "breast_density is '5'"),
        ("assessment", "4a", "assessment is '4a'"),
        ("patient_id", "", "no patient_id"),
        ("image file path", "../../secret/1.2/1.3/000000.dcm", "image file path leaves the data folder"),
        ("ROI mask file path", "/etc/1.2/1.3/x.dcm", "ROI mask file path leaves the data folder"),
        ("cropped image file path", "folder/000000.dcm", "cropped image file path names no series"),
    ],
)
def test_a_bad_value_names_file_and_row(tree: Tree, column: str, value: str, says: str) -> None:
    tree.edit("train", 3, column, value)
    line = the_line(tree.root)
    assert line.startswith(says) and f"({TRAIN}, row 3)" in line and "00059" not in line
    found, report = read_skipping(tree.root)
    assert len(found) == 4
    assert [(p["file"], p["row"]) for p in report.problems] == [(TRAIN, 3)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the CSV is empty"),
        (b"\r\n\r\n", "the CSV is empty"),
        (b"patient_id;pathology\r\nP_00001;BENIGN\r\n", "no column 'patient_id'"),
        ("patient_id".encode("utf-16"), "the CSV is not UTF-8"),
        (b'patient_id,"pathology\r\n', "the CSV is damaged"),
    ],
)
def test_a_csv_that_cannot_be_read(tree: Tree, content: bytes, says: str) -> None:
    tree.table("test").write_bytes(content)
    line = the_line(tree.root)
    assert line.startswith(says) and TEST in line
    with pytest.raises(DataError):  # nothing to skip: a whole set would be gone
        read_skipping(tree.root)


def test_a_csv_with_a_header_alone(tree: Tree) -> None:
    cbis_tree.write_rows(tree.table("train"), cbis_tree.read_rows(tree.table("train"))[:1])
    assert the_line(tree.root).startswith(f"the CSV has a header and no rows ({TRAIN})")


def test_a_csv_without_a_column(tree: Tree) -> None:
    rows = cbis_tree.read_rows(tree.table("train"))
    at = rows[0].index("mass margins")
    cbis_tree.write_rows(tree.table("train"), [row[:at] + row[at + 1 :] for row in rows])
    assert the_line(tree.root).startswith(f"no column 'mass margins' ({TRAIN})")


def test_a_csv_in_another_encoding_names_the_row(tree: Tree) -> None:
    raw = tree.table("train").read_bytes()
    tree.table("train").write_bytes(raw.replace(b"OBSCURED", "VERDECKT_Ä".encode("latin-1")))
    assert the_line(tree.root).startswith(f"the CSV is not UTF-8 text ({TRAIN}, row 3)")


def test_a_row_with_too_few_values(tree: Tree) -> None:
    rows = cbis_tree.read_rows(tree.table("train"))
    rows[2] = rows[2][:-1]
    cbis_tree.write_rows(tree.table("train"), rows)
    assert f"({TRAIN}, row 2)" in the_line(tree.root)


@pytest.mark.parametrize("split", cbis_tree.SPLITS)
def test_a_missing_csv(tree: Tree, split: str) -> None:
    tree.table(split).unlink()
    assert the_line(tree.root).startswith(f"CSV is missing ({cbis_tree.csv_name(split)})")


@pytest.mark.parametrize("twice", ["pathology", "side", "mass_margins"])
def test_a_column_that_is_there_twice(tree: Tree, twice: str) -> None:
    """By the same name, or by the names of both forms of the CSV."""
    rows = cbis_tree.read_rows(tree.table("train"))
    cbis_tree.write_rows(tree.table("train"), [[*rows[0], twice], *([*row, "MALIGNANT"] for row in rows[1:])])
    line = the_line(tree.root)
    assert f"({TRAIN}, header)" in line and line.startswith("2 columns for one thing") and repr(twice) in line


def test_nul_bytes_in_a_csv(tree: Tree) -> None:
    path = tree.table("train")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"P_00059", b"P_000\x0059", 1))
    assert the_line(tree.root).startswith(f"the CSV holds NUL bytes ({TRAIN}, row ")
    path.write_bytes(whole.decode().encode("utf-16-le"))
    assert the_line(tree.root).startswith(f"the CSV holds NUL bytes ({TRAIN})")


def test_a_patient_is_one_patient_in_either_case(tree: Tree) -> None:
    before = [(record.patient_id, record.record_id) for record in read(tree.root)]
    tree.edit("train", 2, "patient_id", "p_00001")
    assert [(record.patient_id, record.record_id) for record in read(tree.root)] == before
    tree.edit("test", 2, "patient_id", "p_00001")
    tree.edit("test", 2, "abnormality id", "9")
    with pytest.raises(LeakError, match=rf"\({TEST}, row 2\)"):
        read_skipping(tree.root)


@pytest.mark.parametrize(
    ("text", "margin", "counted"),
    [
        ("SPICULATED-SPICULATED", "spiculated", "SPICULATED"),
        ("ILL_DEFINED-ILL_DEFINED-ILL_DEFINED", "indistinct", "ILL_DEFINED"),
        ("OBSCURED-OBSCURED", None, "OBSCURED"),
        ("SPICULATED-OBSCURED-SPICULATED", None, "several margins"),
    ],
)
def test_a_margin_that_is_said_twice_is_said_once(text: str, margin: str | None, counted: str) -> None:
    row = read_row("f", 1, {**GOOD, "margins": text})
    assert (row.margin, row.margin_text, margin_group(row.margin_text)) == (margin, text, counted)


def test_two_csvs_that_differ(tree: Tree) -> None:
    shutil.copyfile(tree.table("train"), tree.root / TRAIN)
    tree.edit("train", 1, "assessment", "5")
    assert "2 files of this name differ" in the_line(tree.root)


def test_a_row_that_is_there_twice(tree: Tree) -> None:
    rows = cbis_tree.read_rows(tree.table("train"))
    cbis_tree.write_rows(tree.table("train"), [*rows, rows[2]])
    assert the_line(tree.root).startswith(f"the same mass in the same view as row 2 ({TRAIN}, row 6)")


def test_a_patient_in_both_sets_is_a_leak_even_when_skipping(tree: Tree) -> None:
    tree.edit("test", 2, "patient_id", "P_00001")
    tree.edit("test", 2, "abnormality id", "9")
    with pytest.raises(LeakError, match=rf"{TRAIN}, row 1.*\({TEST}, row 2\)"):
        read_skipping(tree.root)


# ---- the files


def test_no_folder(tmp_path: Path) -> None:
    for root in (None, tmp_path / "none"):
        with pytest.raises(DataError, match="no folder with CBIS-DDSM"):
            records(root, Options(), Report())


def test_no_film_at_all_is_an_error_even_when_skipping(tree: Tree) -> None:
    shutil.rmtree(tree.root / "CBIS-DDSM")
    with pytest.raises(DataError, match="none of the 7 films is on disk"):
        read_skipping(tree.root)


def test_films_that_are_not_on_disk_are_counted_by_row(tree: Tree) -> None:
    tree.file("00419_LEFT_CC", "film").unlink()
    assert the_line(tree.root).startswith(f"film not on disk ({TRAIN}, row 4)")
    found, report = read_skipping(tree.root)
    assert len(found) == 4 and report.left_out["film not on disk"] == 2
    assert [p["row"] for p in report.problems] == [4, 5]


def test_a_mask_that_is_not_on_disk_leaves_the_films_other_mass(tree: Tree) -> None:
    tree.file("00419_LEFT_CC", "mask", "2").unlink()
    tree.file("00419_LEFT_CC", "crop", "2").unlink()
    assert the_line(tree.root).startswith(f"mask not on disk ({TRAIN}, row 5)")
    found, _ = read_skipping(tree.root)
    assert [len(record.findings) for record in found] == [1, 1, 1, 1, 2]


def test_a_crop_is_never_taken_for_the_mask(tree: Tree) -> None:
    tree.file("00001_LEFT_CC", "mask").unlink()
    assert f"has more than two values ({TRAIN}, row 1)" in the_line(tree.root)


@pytest.mark.parametrize("size", [(264, 168), (128, 80), (160, 256)])
def test_a_mask_of_another_size_is_refused_by_name(tree: Tree, size: tuple[int, int]) -> None:
    path = tree.file("00001_LEFT_CC", "mask")
    mask = np.zeros(size, np.uint8)
    mask[50:60, 50:60] = 255
    cbis_tree.rewrite(path, mask)
    line = the_line(tree.root)
    assert line.startswith("mask of another size than its film") and f"({TRAIN}, row 1)" in line
    assert (
        path.relative_to(tree.root).as_posix() in line and f"{size[0]} x {size[1]} pixels, its film 256 x 160" in line
    )
    found, report = read_skipping(tree.root)
    assert len(found) == 4 and report.left_out["mask of another size than its film"] == 1


def test_an_empty_mask_names_file_and_row_when_it_is_read(tree: Tree) -> None:
    path = tree.file("00001_LEFT_CC", "mask")
    cbis_tree.rewrite(path, np.zeros((256, 160), np.uint8))
    mask = read(tree.root)[0].findings[0].mask
    assert mask is not None
    with pytest.raises(DataError, match=rf"the mask is empty \(.*{path.name}, cited in {TRAIN}, row 1\)"):
        mask.read()


def test_two_masks_and_no_crop(tree: Tree) -> None:
    mask = np.zeros((256, 160), np.uint8)
    mask[:9, :9] = 255
    cbis_tree.rewrite(tree.file("00001_LEFT_CC", "crop"), mask)
    assert the_line(tree.root).startswith("mask and crop cannot be told apart")


def test_two_films_in_a_series(tree: Tree) -> None:
    path = tree.file("00001_LEFT_CC", "film")
    shutil.copyfile(path, path.with_name("other.dcm"))
    cbis_tree.rewrite(path, np.full((300, 200), 7, np.uint16))
    assert the_line(tree.root).startswith("the film's series holds 2 images")


@pytest.mark.parametrize("kind", ["film", "mask"])
@pytest.mark.parametrize("left", [0, 60, 300, 5000])
def test_a_truncated_file_names_file_and_row(tree: Tree, kind: cbis_tree.Kind, left: int) -> None:
    path = tree.file("00059_LEFT_CC", kind)
    path.write_bytes(path.read_bytes()[:left])
    line = the_line(tree.root)
    assert path.relative_to(tree.root).as_posix() in line and f"({TRAIN}, row 3)" in line
    found, report = read_skipping(tree.root)
    assert len(found) == 4 and report.left_out[f"{kind} cannot be used"] == 1


@pytest.mark.parametrize("kind", ["film", "mask"])
@pytest.mark.parametrize("layout", ["uid", "descriptive"])
def test_a_jpeg_named_dcm(tmp_path: Path, kind: cbis_tree.Kind, layout: Literal["uid", "descriptive"]) -> None:
    tree = build(tmp_path, layout=layout, names="nbia")
    path = tree.file("00059_LEFT_CC", kind)
    Image.new("L", (40, 40)).save(path, format="jpeg")
    line = the_line(tree.root)
    assert f"{path.relative_to(tree.root).as_posix()}: not a DICOM file ({TRAIN}, row 3)" in line


def test_a_jpeg_named_dcm_that_no_row_names(tree: Tree) -> None:
    (tree.root / "lost").mkdir()
    Image.new("L", (40, 40)).save(tree.root / "lost" / "1-1.dcm", format="jpeg")
    assert the_line(tree.root).startswith("not a DICOM file (lost/1-1.dcm)")
    found, report = read_skipping(tree.root)
    assert len(found) == 5 and report.left_out["file that is not DICOM"] == 1


def test_a_broken_film_of_a_row_that_cannot_be_used_names_that_row(tree: Tree) -> None:
    path = tree.file("00059_LEFT_CC", "film")
    Image.new("L", (40, 40)).save(path, format="jpeg")
    tree.edit("train", 3, "pathology", "benign")
    _, report = read_skipping(tree.root)
    row, film = report.problems
    assert (row["file"], row["row"]) == (TRAIN, 3)
    assert (film["file"], film["row"]) == (f"{path.relative_to(tree.root).as_posix()}, cited in {TRAIN}", 3)


@pytest.mark.parametrize("kind", ["film", "mask"])
def test_a_link_to_nothing(tree: Tree, kind: cbis_tree.Kind) -> None:
    path = tree.file("00059_LEFT_CC", kind)
    path.unlink()
    path.symlink_to(tree.root / ".git" / "annex" / "gone")
    (tree.root / "notes").symlink_to(tree.root / "gone")
    line = the_line(tree.root)
    assert path.relative_to(tree.root).as_posix() in line and f"file is missing ({TRAIN}, row 3)" in line
    found, report = read_skipping(tree.root)
    assert len(found) == 4 and report.left_out[f"{kind} cannot be used"] == 1
    error = here("prepare", "cbis_ddsm", "--data-root", tree.root, "--out", tree.root.parent / "out", "--quiet").error
    assert f"file is missing ({TRAIN}, row 3)" in error


def test_a_csv_that_is_a_link_to_nothing(tree: Tree) -> None:
    tree.table("test").unlink()
    tree.table("test").symlink_to(tree.root / "gone")
    assert the_line(tree.root).startswith(f"cannot read the CSV: No such file or directory ({TEST})")
    error = here("prepare", "cbis_ddsm", "--data-root", tree.root, "--out", tree.root.parent / "out", "--quiet").error
    assert f"({TEST})" in error


def test_pipes_are_no_files(tree: Tree) -> None:
    """To open one is to wait for ever."""
    for name in ("pipe.dcm", "pipe", TRAIN):
        (tree.root / "pipes").mkdir(exist_ok=True)
        os.mkfifo(tree.root / "pipes" / name)
    (tree.root / "linked.dcm").symlink_to(tree.root / "pipes" / "pipe")
    assert len(read(tree.root)) == 5


@pytest.mark.parametrize("kind", ["film", "mask"])
def test_pixels_that_cannot_be_used_name_their_row(tree: Tree, kind: cbis_tree.Kind) -> None:
    """What is found when pixels are decoded, in the message and in the list of problems."""
    path = tree.file("00059_LEFT_CC", kind)
    cbis_tree.rewrite(path, np.full((256, 160), 0, np.uint8 if kind == "mask" else np.uint16))
    place = f"{path.relative_to(tree.root).as_posix()}, cited in {TRAIN}"
    says = {"film": "one grey value", "mask": "the mask is empty"}[kind]
    with pytest.raises(DataError, match=rf"{says}.* \({re.escape(place)}, row 3\)"):
        prepare("cbis_ddsm", tree.root, {}, tree.root.parent / "cache")
    [problem] = prepare("cbis_ddsm", tree.root, {}, tree.root.parent / "cache", skip_bad=True).passport["problems"]
    assert (problem["file"], problem["row"]) == (place, 3)


def test_a_dicom_without_an_image(tree: Tree) -> None:
    path = tree.file("00059_LEFT_CC", "film")
    dataset = pydicom.dcmread(path)
    del dataset.PixelData, dataset.Rows, dataset.Columns
    dataset.save_as(path)
    assert f"holds no image ({TRAIN}, row 3)" in the_line(tree.root)
