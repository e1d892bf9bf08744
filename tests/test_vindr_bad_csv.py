"""Wrong rows of VinDr-Mammo's two CSVs, each by name."""

from pathlib import Path

import pytest

from data._vindr_csv import BREASTS, FINDINGS, OF_FILM
from data.errors import DataError, LeakError
from tests.vindr_tree import NOTHING, by_film, film, name, read, tables, tree

D1 = "['Mass'],BI-RADS 3,8.0000000000,-0.5000000000,20.0000000000,57.0600000000"  # row 16, of the film d 1
# what is replaced, by what, what is said. All of it in row 16 of finding_annotations.csv
WRONG = {
    "no list": ("['Mass'],BI-RADS 3,8", "Mass,BI-RADS 3,8", "finding_categories is 'Mass', no list of words"),
    "broken list": ("['Mass'],BI-RADS 3,8", "['Mass,BI-RADS 3,8", "no list of words"),
    "empty list": ("['Mass'],BI-RADS 3,8", "[],BI-RADS 3,8", "no list of words"),
    "code": ("['Mass'],BI-RADS 3,8", "[__import__('os')],BI-RADS 3,8", "no list of words"),
    "deep": ("['Mass'],BI-RADS 3,8", f"[{'not ' * 9000}a],BI-RADS 3,8", "no list of words"),
    "numbers": ("['Mass'],BI-RADS 3,8", "[1],BI-RADS 3,8", "no list of words"),
    "unknown category": ("['Mass'],BI-RADS 3,8", "['Lump'],BI-RADS 3,8", "finding_categories is 'Lump', known are 'Mass'"),
    "category twice": ("['Mass'],BI-RADS 3,8", "\"['Mass', 'Mass']\",BI-RADS 3,8", "contradicts itself"),
    "nothing and a mass": ("['Mass'],BI-RADS 3,8", "\"['No Finding', 'Mass']\",BI-RADS 3,8", "contradicts itself"),
    "nothing with a box": ("['Mass'],BI-RADS 3,8", "['No Finding'],,8", "a row of No Finding has xmin"),
    "nothing with a grade": (D1, "['No Finding'],BI-RADS 2,,,,", "a row of No Finding has finding_birads"),
    "no box": (D1, "['Mass'],BI-RADS 3,,,,", "xmin of a finding is empty"),
    "half a box": (D1, "['Mass'],BI-RADS 3,8.0,1.0,20.0,", "ymax of a finding is empty"),
    "inverted box": (D1, "['Mass'],BI-RADS 3,20.0,1.0,8.0,57.0", "the box 20 1 8 57 has no area: xmin < xmax"),
    "flat box": (D1, "['Mass'],BI-RADS 3,8.0,57.0,20.0,57.0", "has no area"),
    "nan": (D1, "['Mass'],BI-RADS 3,8.0,nan,20.0,57.0", "ymin is 'nan', a number was expected"),
    "infinite": (D1, "['Mass'],BI-RADS 3,8.0,1.0,inf,57.0", "xmax is 'inf', a number"),
    "words": (D1, "['Mass'],BI-RADS 3,8.0,1.0,wide,57.0", "xmax is 'wide', a number"),
    "box beside the film": (D1, "['Mass'],BI-RADS 3,-9.0,1.0,0.0,57.0", r"lies outside of the film \(60 x 80\)"),
    "box below the film": (D1, "['Mass'],BI-RADS 3,8.0,80.0,20.0,87.0", r"lies outside of the film \(60 x 80\)"),
    "grade of a finding": ("['Mass'],BI-RADS 3,8", "['Mass'],BI-RADS 9,8", "finding_birads is 'BI-RADS 9', known are"),
}  # fmt: skip
# likewise, in row 18 of breast-level_annotations.csv too where the value stands in both
OF_BOTH = {
    "split": (",test", ",validation", "split is 'validation', known are 'training', 'test'"),
    "laterality": (",L,MLO,", ",LEFT,MLO,", "laterality is 'LEFT', known are 'L', 'R'"),
    "view": (",L,MLO,", ",L,ML,", "view_position is 'ML', known are 'CC', 'MLO'"),
    "size": (",80,60,", ",80,60.5,", "width is '60.5', pixels were expected"),
    "no size": (",80,60,", ",0,60,", "height is '0', pixels were expected"),
    "density": ("DENSITY D", "DENSITY E", "breast_density is 'DENSITY E'"),
    "birads": ("BI-RADS 3,DENSITY", ",DENSITY", "breast_birads is ''"),
    "climbing": (film("d", 1), "../../etc/passwd", "image_id '../../etc/passwd' is a path"),
    "separator": (film("d", 1), "a\\b", "image_id .* is a path"),
    "climbing study": (name("d"), "..", "study_id '..' is a path"),
    "no id": (film("d", 1), "", "image_id is empty"),
}


def changed(lines: list[str], row: int, old: str, new: str) -> list[str]:
    """The lines with one row changed; rows count from 1 below the header."""
    assert old in lines[row]
    return [line.replace(old, new, 1) if number == row else line for number, line in enumerate(lines)]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_finding_is_named_and_its_film_left_out(wrong: str, tmp_path: Path) -> None:
    old, new, said = WRONG[wrong]
    lines = tables()
    root = tree(tmp_path, lines | {FINDINGS: changed(lines[FINDINGS], 16, old, new)})
    with pytest.raises(DataError, match=rf"{said}.*\({FINDINGS}, row 16\); .*--skip-bad") as error:
        read(root)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    found, report = read(root, selection="all", skip_bad=True)
    assert len(found) == 19 and film("d", 1) not in by_film(found)
    assert [problem["row"] for problem in report.problems][:1] == [16]


@pytest.mark.parametrize("wrong", OF_BOTH)
def test_a_wrong_film_is_named_in_either_table(wrong: str, tmp_path: Path) -> None:
    old, new, said = OF_BOTH[wrong]
    lines = tables()
    both = {FINDINGS: changed(lines[FINDINGS], 16, old, new), BREASTS: changed(lines[BREASTS], 14, old, new)}
    for table, row in ((FINDINGS, 16), (BREASTS, 14)):
        root = tree(tmp_path, lines | {table: both[table]})
        with pytest.raises(DataError, match=rf"{said}.*\({table}, row {row}\)"):
            read(root)
    found, report = read(tree(tmp_path, both), selection="all", skip_bad=True)
    assert len(found) == 19 and len(report.problems) == 2


def test_a_wrong_row_of_a_breast_is_one_problem_not_two(tmp_path: Path) -> None:
    lines = tables()
    root = tree(tmp_path, lines | {BREASTS: changed(lines[BREASTS], 14, "DENSITY D", "DENSITY E")})
    found, report = read(root, selection="all", skip_bad=True)
    assert len(found) == 19 and [problem["row"] for problem in report.problems] == [14]
    assert report.left_out["row of a film with another row that cannot be used"] == 1


@pytest.mark.parametrize("column", [name for name in OF_FILM if name != "image_id"])
def test_the_tables_agree(column: str, tmp_path: Path) -> None:
    other = {
        "study_id": name("z"), "series_id": name("y"), "laterality": "R", "view_position": "CC", "height": "81",
        "width": "61", "breast_birads": "BI-RADS 2", "breast_density": "DENSITY A", "split": "training",
    }[column]  # fmt: skip
    lines = tables()
    cells = lines[BREASTS][14].split(",")
    cells[OF_FILM.index(column)] = other
    root = tree(tmp_path, lines | {BREASTS: [*lines[BREASTS][:14], ",".join(cells), *lines[BREASTS][15:]]})
    with pytest.raises(DataError, match=rf"{column} is .*, in {BREASTS}, row 14, '{other}' \({FINDINGS}, row 16\)"):
        read(root)
    found, report = read(root, selection="all", skip_bad=True)
    assert len(found) == 19 and report.left_out == {"rows that disagree": 1}


def test_films_stand_in_both_tables(tmp_path: Path) -> None:
    lines = tables()
    root = tree(tmp_path, lines | {BREASTS: lines[BREASTS][:-1]})
    with pytest.raises(DataError, match=rf"image '{film('e', 3)}' has no row in {BREASTS} \({FINDINGS}, row 22\)"):
        read(root)
    tree(tmp_path, lines | {FINDINGS: lines[FINDINGS][:-1]})
    with pytest.raises(DataError, match=rf"image '{film('e', 3)}' has no row in {FINDINGS} \({BREASTS}, row 20\)"):
        read(root)
    found, report = read(root, selection="all", skip_bad=True)
    assert len(found) == 19 and report.left_out == {"image in one of the CSVs only": 1}


def test_rows_that_are_there_twice(tmp_path: Path) -> None:
    lines = tables()
    for row, said in ((16, "the same finding as in row 16"), (1, "No Finding and another row")):
        root = tree(tmp_path, lines | {FINDINGS: [*lines[FINDINGS], lines[FINDINGS][row]]})
        with pytest.raises(DataError, match=rf"{said}.*{FINDINGS}, row 23"):
            read(root)
    denied = lines[FINDINGS][16].replace(D1, NOTHING)
    root = tree(tmp_path, lines | {FINDINGS: [*lines[FINDINGS], denied]})
    with pytest.raises(DataError, match=rf"No Finding and another row \(16\).*{FINDINGS}, row 23"):
        read(root)
    root = tree(tmp_path, lines | {BREASTS: [*lines[BREASTS], lines[BREASTS][3]]})
    with pytest.raises(DataError, match=rf"stands in row 3, too.*{BREASTS}, row 21"):
        read(root)


def test_a_film_with_one_wrong_row_is_not_given_with_the_others(tmp_path: Path) -> None:
    """One that lost a finding would look normal, or have its finds counted as false."""
    lines = tables()
    rows = changed(lines[FINDINGS], 4, "['Mass']", "['Lump']")  # the second of the film a 2
    found, report = read(tree(tmp_path, lines | {FINDINGS: rows}), skip_bad=True, selection="all")
    assert film("a", 2) not in by_film(found) and len(found) == 19
    assert report.left_out == {
        "label outside the known set": 1,
        "row of a film with another row that cannot be used": 1,
    }


@pytest.mark.parametrize(("table", "row"), [(FINDINGS, 4), (FINDINGS, 16), (BREASTS, 14)])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_ragged_row_refuses_its_table(table: str, row: int, skip_bad: bool, tmp_path: Path) -> None:
    """Which film it is of cannot be told: film a 2 of row 4 would be given with one of its two findings."""
    lines = tables()
    for ragged in (lines[table][row] + ",", lines[table][row].partition(",")[2]):
        root = tree(tmp_path, lines | {table: [*lines[table][:row], ragged, *lines[table][row + 1 :]]})
        with pytest.raises(DataError, match=rf"its film cannot be told \({table}, row {row}\)"):
            read(root, selection="all", skip_bad=skip_bad)


def test_a_study_on_both_sides_is_refused(tmp_path: Path) -> None:
    lines = tables()
    moved = {
        table: [row.replace(",training", ",test") if film("c", 3) in row else row for row in rows]
        for table, rows in lines.items()
    }
    for skip_bad in (False, True):
        with pytest.raises(LeakError, match=rf"is in training and in test \(row 11\).*{FINDINGS}, row 14"):
            read(tree(tmp_path, moved), skip_bad=skip_bad)
