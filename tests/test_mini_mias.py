"""mini-MIAS as it is unpacked: the form of Info.txt, circles counted from the bottom, film pairs; on made-up films."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data import forms
from data.cache import prepare
from data.errors import ConfigError, DataError
from data.forms.mini_mias import squared
from data.mini_mias import CARD, SIDE, Circle, records
from data.phantom import exams
from data.record import Options, Record, Report

HEAD = "               SOCIETY\n\n1st column: film\n=====\n\n"
# Most rows of the collection end in a blank.
ROWS = (
    "mdb001 G CIRC B 535 425 97\nmdb002 G NORM \nmdb003 D SPIC M 400 700 60\nmdb003 D SPIC B 500 168 26\n"
    "mdb004 F CIRC B\nmdb005 F CALC M *NOTE 3* \nmdb006 F MISC M 300 300 40\n"
)


def tree(folder: Path, rows: str = ROWS, newline: str = "\n") -> Path:
    root = folder / "all-mias"
    root.mkdir()
    (root / "Info.txt").write_bytes((HEAD + rows + "=====\n").replace("\n", newline).encode())
    for number in range(1, 7):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 255, (SIDE, SIDE), dtype=np.uint8)).save(root / f"mdb{number:03d}.pgm")
    return folder


def read(root: Path, *, skip_bad: bool = False) -> tuple[list[Record], Report]:
    report = Report(skip_bad=skip_bad)
    return list(records(root, Options(), report)), report


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_rows_become_films_and_findings(tmp_path: Path, newline: str) -> None:
    found, _ = read(tree(tmp_path, newline=newline))
    assert [record.has_mass for record in found] == [True, False, True, True, None, True]
    assert [record.laterality for record in found] == ["R", "L"] * 3
    assert [record.patient_id for record in found] == ["pair 1", "pair 1", "pair 2", "pair 2", "pair 3", "pair 3"]
    assert [[f.margin for f in r.findings] for r in found] == [
        ["circumscribed"], [], ["spiculated", "spiculated"], ["circumscribed"], [None], ["indistinct"],
    ]  # fmt: skip
    assert [f.malignant for f in found[2].findings] == [True, False]
    assert found[3].findings[0].mask is None and found[4].findings[0].kind == "calcification"
    assert len({f.finding_id for r in found for f in r.findings}) == 6


@given(st.integers(0, SIDE - 1), st.integers(1, SIDE), st.integers(0, 300))
def test_a_circle_counts_from_the_bottom(x: int, y: int, radius: int) -> None:
    mask = Circle(x, y, radius, ("Info.txt", 1)).read()
    rows, columns = np.nonzero(mask)
    assert mask.shape == (SIDE, SIDE) and mask[SIDE - y, x]
    assert np.all((columns - x) ** 2 + (rows - (SIDE - y)) ** 2 <= radius**2)
    assert columns.min() == max(0, x - radius) and rows.max() == min(SIDE - 1, SIDE - y + radius)


def test_it_is_prepared(tmp_path: Path) -> None:
    prepared = prepare("mini_mias", tree(tmp_path), None, tmp_path / "cache")
    counts = prepared.counts()
    assert counts["margin"]["none"] == {"circumscribed": 1, "indistinct": 1, "spiculated": 2}
    assert counts["detection"]["none"]["normal"] == 1
    assert prepared.passport["grade"] == CARD.grade == "proxy"
    assert {"reason": "finding with neither mask nor box", "count": 2} in prepared.passport["left_out"]
    row = prepared.table[prepared.table["area_px"] > 20000].iloc[0]
    assert (row["x0"], row["y0"], row["x1"], row["y1"]) == (
        535 - 97,
        SIDE - 425 - 97,
        535 + 97 + 1,
        SIDE - 425 + 97 + 1,
    )


MISTAKES = {
    "tissue": ("mdb001 X CIRC B 535 425 97", "tissue 'X'"),
    "class": ("mdb001 G ROUND B 535 425 97", "class 'ROUND'"),
    "severity": ("mdb001 G CIRC b 535 425 97", "severity 'b'"),
    "no severity": ("mdb001 G CIRC", "severity ''"),
    "two numbers": ("mdb001 G CIRC B 535 425", "x, y and radius"),
    "not a number": ("mdb001 G CIRC B 535 425 r", "x, y and radius"),
    "30 digits": (f"mdb001 G CIRC B {'9' * 30} 425 97", "x, y and radius"),
    "5000 digits": (f"mdb001 G CIRC B 535 {'9' * 5000} 97", "x, y and radius"),
    "huge circle": ("mdb001 G CIRC B 535 425 999999999999", "x, y and radius"),
    "circle beyond the film": ("mdb001 G CIRC B 535 425 1025", "a radius of 1 to 1024"),
    "no radius": ("mdb001 G CIRC B 535 425 0", "a radius of 1 to 1024"),
    "x beside the film": ("mdb001 G CIRC B 1025 425 97", "x and y of 0 to 1024"),
    "y above the film": ("mdb001 G CIRC B 535 1025 97", "x and y of 0 to 1024"),
    "cut off": ("mdb001 G", "film, background tissue and class"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_line_of_another_form_is_named(mistake: str, tmp_path: Path) -> None:
    line, said = MISTAKES[mistake]
    root = tree(tmp_path, line + "\nmdb002 G NORM\n")
    with pytest.raises(DataError, match=rf"{said}.*Info\.txt, row 6") as error:
        read(root)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    found, report = read(root, skip_bad=True)
    assert len(found) == 1 and report.left_out == {"line of another form": 1}


@pytest.mark.parametrize("second", ["mdb001 G NORM ", "mdb001 D CIRC B 1 2 3"])
def test_lines_of_a_film_agree(tmp_path: Path, second: str) -> None:
    root = tree(tmp_path, f"mdb001 G CIRC B 535 425 97\n{second}\nmdb002 G NORM \n")
    with pytest.raises(DataError, match=r"lines of film mdb001 disagree.*Info\.txt, row 7"):
        read(root)
    found, report = read(root, skip_bad=True)
    assert [record.has_mass for record in found] == [False] and report.left_out == {"lines of a film that disagree": 1}


@pytest.mark.parametrize("line", ["mdb001 G CIRC B 535 425 97", "mdb001 G CALC B *NOTE 3*"])
def test_a_line_that_is_there_twice_is_told(tmp_path: Path, line: str) -> None:
    root = tree(tmp_path, f"{line}\nmdb001 G SPIC M 1 2 3\n{line} \nmdb002 G NORM \n")
    with pytest.raises(DataError, match=r"mdb001 has the same finding in line 6 \(all-mias/Info\.txt, row 8"):
        read(root)
    found, report = read(root, skip_bad=True)
    assert len(found) == 1 and report.left_out == {"line of a film that is there twice": 1}


def test_copies_of_a_table_or_film_agree(tmp_path: Path) -> None:
    root = tree(tmp_path)
    copy = root / "copy"
    copy.mkdir()
    for name in ("Info.txt", "mdb001.pgm"):
        (copy / name).write_bytes((root / "all-mias" / name).read_bytes())
    assert len(read(root)[0]) == 6
    Image.new("L", (SIDE, SIDE), 7).save(copy / "mdb001.pgm")
    with pytest.raises(DataError, match=r"several files of one film differ: all-mias/mdb001\.pgm, copy/mdb001\.pgm"):
        read(root)
    found, report = read(root, skip_bad=True)
    assert len(found) == 5 and report.left_out == {"several files of one film": 1}
    (copy / "Info.txt").write_text(HEAD + "mdb001 G NORM\n")
    for skip_bad in (False, True):
        with pytest.raises(DataError, match="2 files of this name differ"):
            read(root, skip_bad=skip_bad)


@pytest.mark.parametrize("size", [64, 96])
def test_circles_of_the_phantom_hold_its_masses(tmp_path: Path, size: int) -> None:
    """Films and circles as written are films and circles as read, and a circle is no larger than its mass needs."""
    form = forms.load("mini_mias")
    options = forms.suited("mini_mias", 6, {"size": size, "masses": 2})
    films = [film for exam in exams(options) for film in exam.records()]
    form.write(tmp_path, films, frozenset(), lambda: None)
    drawn = {
        (2 * pair + (film.laterality == "L")): film
        for pair, exam in enumerate(exams(options))
        for film in exam.records()
        if film.view == "MLO"
    }
    found, _ = read(tmp_path)
    assert len(found) == len(drawn) == 12 and any(len(record.findings) == 2 for record in found)
    for record, (_, film) in zip(found, sorted(drawn.items()), strict=True):
        assert np.array_equal(record.image.read(), squared(film.image.read()))
        for finding, mass in zip(record.findings, film.findings, strict=True):
            assert (finding.margin, finding.malignant) == (mass.margin, mass.malignant)
            assert isinstance(finding.mask, Circle) and mass.mask is not None
            circle, lesion = finding.mask.read(), squared(mass.mask.read().astype(np.uint8)) > 0
            assert not (lesion & ~circle).any()
            assert (lesion & ~replace(finding.mask, radius=finding.mask.radius - 1).read()).any()


@pytest.mark.parametrize("line", [0, 2, 6])
def test_a_line_that_lost_its_films_number_is_told(tmp_path: Path, line: int) -> None:
    lines = ROWS.splitlines()
    lines[line] = "x" + lines[line]
    root = tree(tmp_path, "\n".join(lines) + "\n")
    with pytest.raises(DataError, match=rf"no film's number.*row {6 + line}"):
        read(root)
    assert read(root, skip_bad=True)[1].left_out["line of another form"] == 1


def test_films_and_tables_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file Info\.txt"):
        read(tmp_path)
    root = tree(tmp_path)
    (root / "all-mias" / "mdb003.pgm").unlink()
    with pytest.raises(DataError, match=r"film mdb003\.pgm is not there"):
        read(root)
    found, report = read(root, skip_bad=True)
    assert len(found) == 5 and report.left_out == {"film not on disk": 1}
    (root / "all-mias" / "Info.txt").write_text("nothing\n")
    with pytest.raises(DataError, match="no line begins with a film's number"):
        read(root)


def test_a_film_of_another_size_is_told(tmp_path: Path) -> None:
    root = tree(tmp_path)
    Image.new("L", (512, 512), 7).save(root / "all-mias" / "mdb001.pgm")
    with pytest.raises(DataError):
        prepare("mini_mias", root, None, tmp_path / "cache")


def test_a_form_of_too_many_pairs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 499 exams"):
        forms.write_form(tmp_path / "form", "mini_mias", forms.suited("mini_mias", 500, {"size": 64}))


def test_a_film_says_which_lesions_it_lost(tmp_path: Path) -> None:
    rows = (
        "mdb001 G CIRC B 535 425 97\nmdb001 G SPIC B 1 2\nmdb002 G NORM\n"
        "mdb003 G CIRC B 535 425 97\nmdb003 G CALC X 1 2 3\n"
    )
    found, _ = read(tree(tmp_path, rows), skip_bad=True)
    assert [(record.unlisted, record.other_lesions) for record in found] == [(1, 0), (0, 0), (0, 1)]
