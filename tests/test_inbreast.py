"""INbreast as downloaded: its CSV, film names, OsiriX files; what is mass, normal or neither. On made-up films."""

import plistlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data.cache import prepare
from data.errors import DataError
from data.forms._files import save_dicom
from data.inbreast import CARD, Options, records
from data.record import Record, Report

HEADER = "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"
ROWS = (
    "removed;removed;R;CC;201001;90000001;4;1",
    "removed;removed;L;MLO;201001;90000002; ;4a",
    "removed;removed;L;CC;201001;90000003;2;3",
    "removed;removed;R;MLO;201001;90000004;1;2",
    "removed;removed;R;FB;201001;90000005;3;6",
)
NAMES = ("a1_MG_R_CC", "b2_MG_L_ML", "b2_MG_L_CC", "a1_MG_R_ML", "c3_MG_R_FB")
SQUARE = ["(10.000000, 20.000000)", "(30.000000, 20.000000)", "(30.000000, 50.000000)", "(10.000000, 50.000000)"]


def roi(name: str = "Mass", points: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    points = SQUARE if points is None else points
    return {"Area": 1.5, "Name": name, "NumberOfPoints": len(points), "Point_px": points, **changes}


def plist(*rois: dict[str, Any], **changes: Any) -> bytes:
    image = {"ImageIndex": 0, "NumberOfROIs": len(rois), "ROIs": list(rois), **changes}
    return plistlib.dumps({"Images": [image]})


def add(root: Path, number: int, content: bytes) -> None:
    (root / "AllXML").mkdir(exist_ok=True)
    (root / "AllXML" / f"{number}.xml").write_bytes(content)


def tree(folder: Path, *rows: str, header: str = HEADER) -> Path:
    """Films 1 to 5: normal, a mass, two masses and a calcification, a calcification alone, no region."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(NAMES, start=1):
        grey = np.random.default_rng(number).integers(0, 1 << 14, (80, 64)).astype(np.uint16)
        path = folder / "AllDICOMs" / f"{90_000_000 + number}_{name}_ANON.dcm"
        save_dicom(path, grey, stored=14, SeriesInstanceUID=f"1.2.{number}")
    add(folder, 90000002, plist(roi()))
    triangle = ["(5, 5)", "(25, 5)", "(5, 25)"]
    add(folder, 90000003, plist(roi(), roi("Calcification", ["(3, 3)"]), roi(points=triangle)))
    add(folder, 90000004, plist(roi("Calcifications", ["(3, 3)"]), roi("Espiculated Region")))
    (folder / "INbreast.csv").write_bytes("\r\n".join([header, *(rows or ROWS), ""]).encode())
    return folder


def read(root: Path, *, skip_bad: bool = False, malignant_from: str = "none") -> tuple[list[Record], Report]:
    report = Report(skip_bad=skip_bad)
    options = Options.model_validate({"malignant_from": malignant_from})
    return list(records(root, options, report)), report


def test_rows_become_films_and_masses(tmp_path: Path) -> None:
    found, report = read(tree(tmp_path))
    normal, one, two, other, bare = found
    assert [r.has_mass for r in found] == [False, True, True, None, None]
    assert [(r.laterality, r.view) for r in found] == [
        ("R", "CC"),
        ("L", "MLO"),
        ("L", "CC"),
        ("R", "MLO"),
        ("R", "other"),
    ]
    assert [r.patient_id for r in found] == ["a1", "b2", "b2", "a1", "c3"]
    assert [r.attributes["density"] for r in found] == ["d", None, "b", "a", "c"]
    assert [len(r.findings) for r in found] == [0, 1, 2, 0, 0] and one.attributes["birads"] == "4a"
    assert len({f.finding_id for r in found for f in r.findings}) == 3
    assert all(f.kind == "mass" and f.malignant is None for r in found for f in r.findings)
    [mask] = [finding.mask for finding in one.findings]
    assert mask is not None and mask.read().sum() == 21 * 31 and mask.read().shape == one.image.read().shape
    assert normal.findings == other.findings == bare.findings == () and two.findings[1].mask is not None
    assert report.left_out == {
        "region of another kind: calcification": 2,
        "region of another kind: spiculated region": 1,
        "not in track malignancy: no pathology is given": 3,
        "not in track detection: other regions alone": 1,
        "not in track detection: no region, though Bi-Rads is not 1": 1,
    }


def test_malignancy_is_read_from_birads_only_where_asked_for(tmp_path: Path) -> None:
    found, report = read(tree(tmp_path), malignant_from="birads")
    assert [[f.malignant for f in r.findings] for r in found] == [[], [True], [False, False], [], []]
    assert not any("malignancy" in reason for reason in report.left_out)


@pytest.mark.parametrize(
    ("birads", "malignant"),
    [("1", False), ("2", False), ("3", False), ("4a", True), ("4B", True), ("4c", True), ("5", True), ("6", True)],
)
def test_birads_of_a_mass(birads: str, malignant: bool, tmp_path: Path) -> None:
    root = tree(tmp_path, f"removed;removed;L;MLO;201001;90000002;1;{birads}")
    [record] = read(root, malignant_from="birads")[0]
    assert record.findings[0].malignant is malignant and record.has_mass


def test_it_is_prepared(tmp_path: Path) -> None:
    prepared = prepare("inbreast", tree(tmp_path / "own"), None, tmp_path / "cache")
    counts = prepared.counts()
    assert counts["detection"] == {"none": {"normal": 1, "mass": 2}} and counts["malignancy"] == {}
    assert (prepared.passport["records"], prepared.passport["findings"], prepared.passport["patients"]) == (5, 3, 3)
    assert {area for area in prepared.table["area_px"] if area} == {21 * 31, 231}
    read_as = prepare("inbreast", tmp_path / "own", {"malignant_from": "birads"}, tmp_path / "cache")
    assert read_as.counts()["malignancy"] == {"none": {"benign": 2, "malignant": 1}}
    assert CARD.tracks == ("detection", "malignancy")


WRONG = {
    "ragged": ("removed;removed;R;CC", "more or fewer values"),
    "side": ("removed;removed;X;CC;201001;90000001;4;1", "Laterality is 'X'"),
    "view": ("removed;removed;R;ML;201001;90000001;4;1", "View is 'ML', known are 'CC', 'MLO', 'FB'"),
    "density": ("removed;removed;R;CC;201001;90000001;5;1", "ACR is '5'"),
    "birads": ("removed;removed;R;CC;201001;90000001;4;4", "Bi-Rads is '4', known are '1'"),
    "no birads": ("removed;removed;R;CC;201001;90000001;4;", "Bi-Rads is ''"),
    "no film": ("removed;removed;R;CC;201001;;4;1", "File Name is ''"),
    "way out": ("removed;removed;R;CC;201001;../../90000001;4;1", "File Name is '../../90000001'"),
    "not there": ("removed;removed;R;CC;201001;90000009;4;1", "film 90000009_<patient>_MG_"),
    "twice": ("removed;removed;L;MLO;201001;90000002;1;2", "the same film as in row 1"),
    "other side than the name": ("removed;removed;L;CC;201001;90000001;4;1", "the row says L CC, the film's name R CC"),
    "other view than the name": (
        "removed;removed;R;MLO;201001;90000001;4;1",
        "the row says R MLO, the film's name R CC",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_row_is_named(wrong: str, tmp_path: Path) -> None:
    row, said = WRONG[wrong]
    root = tree(tmp_path, ROWS[1], row)
    with pytest.raises(DataError) as error:
        read(root)
    assert said in str(error.value) and "INbreast.csv, row 2" in str(error.value) and "\n" not in str(error.value)
    found, report = read(root, skip_bad=True)
    assert len(found) == 1 and len(report.problems) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (HEADER.replace(";", ","), r"no column 'Laterality'.*\(INbreast\.csv\).*separated by ';'"),
        (HEADER.replace("ACR", "Density"), r"no column 'ACR' \(INbreast\.csv"),
        ("", r"the CSV is empty \(INbreast\.csv\)"),
        (HEADER + "\r\n\xff", r"the CSV is not UTF-8 text .*INbreast\.csv"),
    ],
)
def test_a_csv_that_is_none_is_told(content: str, said: str, tmp_path: Path) -> None:
    (tree(tmp_path) / "INbreast.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=said):
        read(tmp_path)


def test_copies_of_the_table_agree(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "copy").mkdir()
    copy = root / "copy" / "INbreast.csv"
    copy.write_bytes((root / "INbreast.csv").read_bytes())
    assert len(read(root)[0]) == 5
    copy.write_bytes(copy.read_bytes().replace(b";4a", b";3"))
    with pytest.raises(DataError, match="2 files of this name differ"):
        read(root, skip_bad=True)


def test_folders_that_are_not_there_are_told(tmp_path: Path) -> None:
    root = tree(tmp_path / "own")
    for path in (root / "AllXML").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no ROI file, so no mass is known"):
        read(root)
    (root / "INbreast.csv").unlink()
    with pytest.raises(DataError, match="CSV is missing"):
        read(root)
    with pytest.raises(DataError, match="no folder with INbreast"):
        read(tmp_path / "nowhere")


def test_the_patient_comes_from_the_name_of_the_film(tmp_path: Path) -> None:
    root = tree(tmp_path, ROWS[1])
    film = next((root / "AllDICOMs").glob("90000002*"))
    copy = film.rename(film.with_name("90000002.dcm"))
    with pytest.raises(DataError, match=r"90000002\.dcm does not tell its patient"):
        read(root)
    (root / "copy").mkdir()
    (root / "copy" / film.name).write_bytes(copy.read_bytes())
    with pytest.raises(DataError, match="several files of one film"):
        read(root)


def test_outlines_of_the_muscle_are_no_regions(tmp_path: Path) -> None:
    root = tree(tmp_path, ROWS[0])
    folder = root / "PectoralMuscle" / "Pectoral Muscle XML"
    folder.mkdir(parents=True)
    (folder / "90000001_muscle.xml").write_bytes(plist(roi("Muscle")))
    assert [record.has_mass for record in read(root)[0]] == [False]


# ---- ROI files ------------------------------------------------------------------------------------------------------
BOMB = b"""<?xml version="1.0"?><!DOCTYPE plist [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<plist version="1.0"><dict><key>Images</key><array><string>&b;</string></array></dict></plist>"""
OUTSIDE = b"""<?xml version="1.0"?><!DOCTYPE plist [<!ENTITY a SYSTEM "file:///etc/hostname">]>
<plist version="1.0"><dict><key>Images</key><array><string>&a;</string></array></dict></plist>"""
BAD_FILES = {
    "entities": (BOMB, "90000002.xml is no property list"),
    "a file of the machine": (OUTSIDE, "90000002.xml is no property list"),
    "empty": (b"", "90000002.xml is no property list"),
    "cut short": (plist(roi())[:-60], "90000002.xml is no property list"),
    "other XML": (b"<html></html>", "90000002.xml"),
    "a list": (plistlib.dumps([]), "has no list 'Images'"),
    "no images": (plistlib.dumps({"Images": []}), "regions of 0 images, of 1 was expected"),
    "two images": (plistlib.dumps({"Images": [{"ROIs": []}] * 2}), "regions of 2 images"),
    "no regions": (plistlib.dumps({"Images": [{}]}), "has no list 'ROIs'"),
    "a region of text": (plistlib.dumps({"Images": [{"ROIs": ["Mass"]}]}), "has no list 'ROIs'"),
    "fewer regions": (plist(roi(), NumberOfROIs=2), "has 1 ROIs, NumberOfROIs says 2"),
    "fewer points": (plist(roi(NumberOfPoints=5)), "ROI 1 has 4 Point_px, NumberOfPoints says 5"),
    "no points": (plist(roi(Point_px=7)), "ROI 1 has no list 'Point_px'"),
    "two points": (plist(roi("Cluster"), roi(points=SQUARE[:2])), "ROI 2: outline of 2 points"),
    "a point of words": (plist(roi(points=[*SQUARE[:3], "(a, 2)"])), r"ROI 1 has a point '\(a, 2\)'"),
    "a point of nan": (plist(roi(points=[*SQUARE[:3], "(nan, 2)"])), "ROI 1 has a point"),
    "a far point": (plist(roi(points=[*SQUARE[:3], "(1e300, 2)"])), "ROI 1: outline with a coordinate beyond"),
    "three numbers": (plist(roi(points=[*SQUARE[:3], "(1, 2, 3)"])), "ROI 1 has a point"),
    "a new name": (plist(roi("Masse")), "ROI 1 is named 'Masse', known are"),
    "a number for a name": (plist(roi(Name=5)), "ROI 1 is named '5'"),
}


@pytest.mark.parametrize("bad", BAD_FILES)
def test_a_roi_file_that_is_none_is_named(bad: str, tmp_path: Path) -> None:
    content, said = BAD_FILES[bad]
    root = tree(tmp_path, *ROWS[:2])
    add(root, 90000002, content)
    with pytest.raises(DataError, match=said) as error:
        read(root)
    assert "INbreast.csv, row 2" in str(error.value) and "\n" not in str(error.value)
    found, report = read(root, skip_bad=True)
    assert len(found) == 1 and len(report.problems) == 1


@pytest.mark.parametrize("name", ["Mass", "mass", " MASS "])
def test_a_mass_in_any_spelling(name: str, tmp_path: Path) -> None:
    root = tree(tmp_path, ROWS[1])
    add(root, 90000002, plist(roi(name)))
    assert len(read(root)[0][0].findings) == 1


def test_a_film_of_birads_1_with_a_region_is_not_normal(tmp_path: Path) -> None:
    root = tree(tmp_path, ROWS[0])
    add(root, 90000001, plist(roi("Asymmetry")))
    assert read(root)[0][0].has_mass is None
    add(root, 90000001, plist())
    assert read(root)[0][0].has_mass is False


def test_an_outline_beside_its_film_is_named_with_its_region(tmp_path: Path) -> None:
    root = tree(tmp_path / "own", ROWS[0], ROWS[1])
    add(root, 90000002, plist(roi(points=["(100, 10)", "(200, 10)", "(200, 60)"])))
    with pytest.raises(DataError, match=r"outside of its film of 64 x 80 pixels.*AllXML/90000002\.xml, ROI 1"):
        prepare("inbreast", root, None, tmp_path / "cache")


GOOD = plist(roi(), roi("Cluster"))


@given(at=st.integers(0, len(GOOD) - 1), put=st.binary(max_size=12), cut=st.integers(0, 30))
@example(at=0, put=b'<?xml version="1.0" encoding="nothing"?>', cut=38)
@example(at=GOOD.index(b"<real>"), put=b"<date>x</date>", cut=len(b"<real>1.5</real>"))
@example(at=GOOD.index(b"<real>"), put=b"<data>x</data>", cut=len(b"<real>1.5</real>"))
def test_whatever_a_roi_file_holds_it_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, at: int, put: bytes, cut: int
) -> None:
    root = tmp_path_factory.mktemp("rois")
    tree(root, ROWS[1])
    add(root, 90000002, GOOD[:at] + put + GOOD[at + cut :])
    found, report = read(root, skip_bad=True)
    assert len(found) + len(report.problems) == 1
