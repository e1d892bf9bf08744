"""CSVs of CBIS-DDSM with something wrong: each ends in one line that names file and row, or a row is left out and counted."""

import csv
import io
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data._cbis_csv import COLUMNS, DENSITY_OF, MALIGNANT_OF, MASS, margin_group, read_row
from data._csv import Refusal, read_cells
from data.cbis_ddsm import SPLITS
from data.errors import DataError, LeakError
from data.forms.cbis_ddsm import save_rows
from tests import cbis_tree
from tests.cbis_tree import Tree, build, read, read_rows, read_skipping, the_line

TRAIN, TEST = cbis_tree.csv_name("train"), cbis_tree.csv_name("test")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree to break."""
    return build(tmp_path / "tree")


def test_the_real_bytes_hold_the_quirk() -> None:
    """LF within quotes, CR LF between rows: the file that the tests stand on was not converted by git."""
    raw = (cbis_tree.SOURCE / TRAIN).read_bytes()
    assert raw.count(b"\r\n") == 6 and raw.count(b"\n") == 11


WIDTH = len(COLUMNS[MASS])
CELL = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@given(
    st.lists(st.lists(CELL, min_size=WIDTH, max_size=WIDTH), min_size=1, max_size=4),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\n", "\r\n", "  "]),
    st.permutations(sorted(COLUMNS[MASS])),
    st.booleans(),
)
def test_cells_survive_line_ends_blanks_and_column_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], end: str, tail: str, order: list[str], mark: bool
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow([COLUMNS[MASS][key][0] for key in order])
    writer.writerows([cell + tail for cell in row] for row in rows)
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    path.write_bytes(text.getvalue().encode("utf-8-sig" if mark else "utf-8"))
    cells = read_cells(path, path.name, COLUMNS[MASS])
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
    row = read_row(MASS, "f", 1, {**GOOD, "margins": "-".join(margins)})
    assert (row.margin is not None) == (len(margins) == 1 and margins[0] in MARGINS[:3])
    assert (margin_group(row.words["margin_text"]) == "several margins") == (len(margins) > 1)


@given(
    st.sampled_from(["margins", "pathology", "side", "view", "type", "density", "assessment", "subtlety"]), st.text()
)
def test_a_label_is_known_or_refused(column: str, value: str) -> None:
    try:
        row = read_row(MASS, "f", 7, {**GOOD, column: value})
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
    save_rows(tree.table("train"), read_rows(tree.table("train"))[:1])
    assert the_line(tree.root).startswith(f"the CSV has a header and no rows ({TRAIN})")


def test_a_csv_without_a_column(tree: Tree) -> None:
    rows = read_rows(tree.table("train"))
    at = rows[0].index("mass margins")
    save_rows(tree.table("train"), [row[:at] + row[at + 1 :] for row in rows])
    assert the_line(tree.root).startswith(f"no column 'mass margins' ({TRAIN})")


def test_a_csv_in_another_encoding_names_the_row(tree: Tree) -> None:
    raw = tree.table("train").read_bytes()
    tree.table("train").write_bytes(raw.replace(b"OBSCURED", "VERDECKT_Ä".encode("latin-1")))
    assert the_line(tree.root).startswith(f"the CSV is not UTF-8 text ({TRAIN}, row 3)")


def test_a_row_with_too_few_values(tree: Tree) -> None:
    rows = read_rows(tree.table("train"))
    rows[2] = rows[2][:-1]
    save_rows(tree.table("train"), rows)
    assert f"({TRAIN}, row 2)" in the_line(tree.root)


@pytest.mark.parametrize("split", SPLITS)
def test_a_missing_csv(tree: Tree, split: str) -> None:
    tree.table(split).unlink()
    assert the_line(tree.root).startswith(f"CSV is missing ({cbis_tree.csv_name(split)})")


@pytest.mark.parametrize("twice", ["pathology", "side", "mass_margins"])
def test_a_column_that_is_there_twice(tree: Tree, twice: str) -> None:
    """By the same name, or by the names of both forms of the CSV."""
    rows = read_rows(tree.table("train"))
    save_rows(tree.table("train"), [[*rows[0], twice], *([*row, "MALIGNANT"] for row in rows[1:])])
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
    row = read_row(MASS, "f", 1, {**GOOD, "margins": text})
    assert (row.margin, row.words["margin_text"], margin_group(text)) == (margin, text, counted)


def test_two_csvs_that_differ(tree: Tree) -> None:
    shutil.copyfile(tree.table("train"), tree.root / TRAIN)
    tree.edit("train", 1, "assessment", "5")
    assert "2 files of this name differ" in the_line(tree.root)


def test_a_row_that_is_there_twice(tree: Tree) -> None:
    rows = read_rows(tree.table("train"))
    save_rows(tree.table("train"), [*rows, rows[2]])
    assert the_line(tree.root).startswith(f"the same mass in the same view as row 2 ({TRAIN}, row 6)")


@pytest.mark.parametrize("column", ["ROI mask file path", "cropped image file path"])
def test_two_masses_with_one_mask(tree: Tree, column: str) -> None:
    """Else one mask would carry two labels; no two rows of the collection share a series."""
    rows = read_rows(tree.table("train"))
    tree.edit("train", 5, column, rows[4][rows[0].index(column)])
    assert the_line(tree.root).startswith(f"the mask or crop of row 4 again ({TRAIN}, row 5)")
    found, _ = read_skipping(tree.root)
    assert [len(record.findings) for record in found] == [1, 1, 1, 1, 2]


def test_a_patient_in_both_sets_is_a_leak_even_when_skipping(tree: Tree) -> None:
    tree.edit("test", 2, "patient_id", "P_00001")
    tree.edit("test", 2, "abnormality id", "9")
    with pytest.raises(LeakError, match=rf"{TRAIN}, row 1.*\({TEST}, row 2\)"):
        read_skipping(tree.root)
