"""The two CSVs of VinDr-Mammo, row by row and film by film, with the quirks that docs/datasets/vindr_mammo.md lists."""

import ast
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from data._csv import Refusal, read_cells
from data.errors import DataError, LeakError
from data.record import Box, Report

FINDINGS, BREASTS = "finding_annotations.csv", "breast-level_annotations.csv"
OF_FILM = (  # columns of both CSVs
    "study_id", "series_id", "image_id", "laterality", "view_position", "height", "width", "breast_birads",
    "breast_density", "split",
)  # fmt: skip
IDS, BOX = ("study_id", "series_id", "image_id"), ("xmin", "ymin", "xmax", "ymax")
OF_FINDING = ("finding_categories", "finding_birads", *BOX)
MASS, NO_FINDING = "Mass", "No Finding"
CATEGORIES = (
    MASS, "Suspicious Calcification", "Focal Asymmetry", "Architectural Distortion", "Asymmetry", "Skin Thickening",
    "Suspicious Lymph Node", "Nipple Retraction", "Global Asymmetry", "Skin Retraction", NO_FINDING,
)  # fmt: skip
SIDES, VIEWS = ("L", "R"), ("CC", "MLO")
BIRADS = {f"BI-RADS {number}": float(number) for number in range(7)}
DENSITY = {f"DENSITY {letter.upper()}": letter for letter in "abcd"}
SPLIT = {"training": "train", "test": "test"}
WORD = r"(?:'[A-Za-z ]*'|\"[A-Za-z ]*\")"
LIST = re.compile(
    rf"\[ *{WORD}(?: *, *{WORD})*,? *\]"
)  # what literal_eval may see: nothing deep, escaped or long to parse
SIZE = re.compile(r"[1-9][0-9]{0,5}")
MEND = "correct the row"
UNREADABLE, UNKNOWN, CONTRADICTION = "row that cannot be read", "label outside the known set", "rows that disagree"


@dataclass(frozen=True)
class Marked:
    """One finding of a film. `number` counts the rows below the header from 1, as everywhere here."""

    number: int
    categories: tuple[str, ...]
    assessment: float | None  # BI-RADS; None: not given
    box: Box  # smallest one of whole pixels that holds the CSV's; may reach beyond the film


@dataclass(frozen=True)
class Film:
    """What the CSVs say of one film. No findings: its one row says No Finding."""

    number: int  # its first row in finding_annotations.csv
    study: str
    image: str
    laterality: str  # L | R
    view: str  # CC | MLO
    height: int
    width: int
    birads: float  # of the breast
    density: str  # a-d
    split: str  # train | test
    findings: tuple[Marked, ...] = ()

    @property
    def masses(self) -> int:
        """How many of its rows name Mass."""
        return sum(MASS in finding.categories for finding in self.findings)


def read_films(findings: Path, breasts: Path, report: Report) -> list[Film]:
    """The films that both CSVs name, in the order of finding_annotations.csv; rows that cannot be used are problems.

    A film is given with all its rows or not at all, since one that lost a mass is not known to be normal. Raises
    DataError where a CSV cannot be read as a whole or has a ragged row, LeakError for a study on both sides.
    """
    refused: set[str] = set()  # films with a row that cannot be used
    stated = _breast_rows(breasts, report, refused)
    films: dict[str, list[tuple[Film, Marked | None]]] = {}
    for number, cells in _whole_rows(findings, FINDINGS, (*OF_FILM, *OF_FINDING)):
        try:
            row = _row(number, cells)
            film, marked = row
            _agree(film.image, cells, stated, refused)
            _fits(films.get(film.image, []), film, marked)
        except Refusal as refusal:
            _refuse(FINDINGS, number, cells, refusal, report, refused)
        else:
            films.setdefault(film.image, []).append(row)
    for image, (number, _) in stated.items():
        if image not in films and image not in refused:
            what = f"image {image!r} has no row in {FINDINGS}"
            report.problem(BREASTS, number, what, "download the CSVs again", "image in one of the CSVs only")
    found = []
    for image, rows in films.items():
        if image in refused:
            report.leave_out("row of a film with another row that cannot be used", len(rows))
            continue
        found.append(replace(rows[0][0], findings=tuple(marked for _, marked in rows if marked is not None)))
    _refuse_overlap(found)
    return found


def _whole_rows(path: Path, file: str, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV. Raises DataError for a ragged one, whatever is to be skipped: its values may have moved, so the
    film that would lose a finding, or look normal, cannot be told."""
    for number, cells in read_cells(path, file, {name: (name,) for name in columns}):
        if cells is None:
            what = "more or fewer values than the header has columns, so its film cannot be told"
            raise DataError(what, f"{file}, row {number}", "mend the row, or download the CSV again")
        yield number, cells


def _breast_rows(path: Path, report: Report, refused: set[str]) -> dict[str, tuple[int, Mapping[str, str]]]:
    """Image -> its row in breast-level_annotations.csv."""
    stated: dict[str, tuple[int, Mapping[str, str]]] = {}
    for number, cells in _whole_rows(path, BREASTS, OF_FILM):
        try:
            film = _film(number, cells)
            if film.image in stated:
                what = f"image {film.image!r} stands in row {stated[film.image][0]}, too"
                raise Refusal(what, CONTRADICTION, "delete one of the rows")
        except Refusal as refusal:
            _refuse(BREASTS, number, cells, refusal, report, refused)
        else:
            stated[film.image] = number, cells
    return stated


def _refuse(file: str, number: int, cells: dict[str, str], refusal: Refusal, report: Report, refused: set[str]) -> None:
    report.problem(file, number, refusal.message, refusal.do, refusal.reason)
    refused.add(cells["image_id"])


def _row(number: int, cells: dict[str, str]) -> tuple[Film, Marked | None]:
    """The film of a row and its finding, None where the row says No Finding. Raises Refusal."""
    film = _film(number, cells)
    categories = _categories(cells["finding_categories"])
    given = [name for name in BOX if cells[name]]
    if categories == (NO_FINDING,):
        if said := [*given, *(["finding_birads"] if cells["finding_birads"] else [])]:
            raise Refusal(f"a row of {NO_FINDING} has {said[0]}", CONTRADICTION, MEND)
        return film, None
    if len(given) < len(BOX):
        missing = next(name for name in BOX if name not in given)
        raise Refusal(f"{missing} of a finding is empty", "box that cannot be read", MEND)
    text = cells["finding_birads"]
    assessment = BIRADS[_known("finding_birads", text, BIRADS)] if text else None
    return film, Marked(number, categories, assessment, _box(cells, film))


def _film(number: int, cells: dict[str, str]) -> Film:
    """What a row of either CSV says of its film. Raises Refusal."""
    for name in IDS:
        if not cells[name]:
            raise Refusal(f"{name} is empty", UNREADABLE, "mend the row")
        if ".." in cells[name] or "/" in cells[name] or "\\" in cells[name]:
            raise Refusal(f"{name} {_short(cells[name])} is a path", "id that leads out of its folder", MEND)
    for name in ("height", "width"):
        if not SIZE.fullmatch(cells[name]):
            raise Refusal(f"{name} is {_short(cells[name])}, pixels were expected", UNREADABLE, MEND)
    return Film(
        number=number,
        study=cells["study_id"],
        image=cells["image_id"],
        laterality=_known("laterality", cells["laterality"], SIDES),
        view=_known("view_position", cells["view_position"], VIEWS),
        height=int(cells["height"]),
        width=int(cells["width"]),
        birads=BIRADS[_known("breast_birads", cells["breast_birads"], BIRADS)],
        density=DENSITY[_known("breast_density", cells["breast_density"], DENSITY)],
        split=SPLIT[_known("split", cells["split"], SPLIT)],
    )


def _categories(text: str) -> tuple[str, ...]:
    """The words of `['Mass', 'Skin Thickening']`. Raises Refusal."""
    if not LIST.fullmatch(text):
        do = f"{MEND}: ['Mass', 'Skin Thickening']"
        raise Refusal(f"finding_categories is {_short(text)}, no list of words", UNREADABLE, do)
    found: list[str] = ast.literal_eval(text)
    for name in found:
        _known("finding_categories", name, CATEGORIES)
    if len(set(found)) < len(found) or (NO_FINDING in found and len(found) > 1):
        raise Refusal(f"finding_categories {_short(text)} contradicts itself", CONTRADICTION, MEND)
    return tuple(found)


def _box(cells: Mapping[str, str], film: Film) -> Box:
    """The box in whole pixels, half open. Raises Refusal."""
    reason, corners = "box that cannot be read", []
    for name in BOX:
        try:
            corners.append(float(cells[name]))
        except ValueError:
            corners.append(math.nan)
        if not math.isfinite(corners[-1]):
            raise Refusal(f"{name} is {_short(cells[name])}, a number was expected", reason, MEND)
    x0, y0, x1, y1 = corners
    said = " ".join(f"{value:.8g}" for value in corners)
    if x1 <= x0 or y1 <= y0:
        raise Refusal(f"the box {said} has no area: xmin < xmax and ymin < ymax", reason, MEND)
    if x1 <= 0 or y1 <= 0 or x0 >= film.width or y0 >= film.height:
        raise Refusal(f"the box {said} lies outside of the film ({film.width} x {film.height})", reason, MEND)
    return math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)


def _agree(
    image: str, cells: Mapping[str, str], stated: Mapping[str, tuple[int, Mapping[str, str]]], refused: set[str]
) -> None:
    """Raises Refusal where breast-level_annotations.csv has no row of the image, or one that says something else."""
    if image not in stated:
        if image in refused:  # its row there is a problem already
            return
        what = f"image {image!r} has no row in {BREASTS}"
        raise Refusal(what, "image in one of the CSVs only", "download the CSVs again")
    number, other = stated[image]
    for name in OF_FILM:
        if cells[name] != other[name]:
            what = f"{name} is {_short(cells[name])}, in {BREASTS}, row {number}, {_short(other[name])}"
            raise Refusal(what, CONTRADICTION, "make the CSVs agree")


def _fits(earlier: list[tuple[Film, Marked | None]], film: Film, marked: Marked | None) -> None:
    """Raises Refusal for a row that denies or repeats an earlier one of its film."""
    for other, its in earlier:
        if marked is None or its is None:
            raise Refusal(f"the film has {NO_FINDING} and another row ({other.number})", CONTRADICTION, MEND)
        if (marked.categories, marked.box) == (its.categories, its.box):
            raise Refusal(f"the same finding as in row {its.number}", CONTRADICTION, "delete one of the rows")


def _refuse_overlap(films: list[Film]) -> None:
    first: dict[str, Film] = {}
    for film in films:
        other = first.setdefault(film.study, film)
        if other.split != film.split:
            what = f"study {film.study!r} is in training and in test (row {other.number})"
            raise LeakError(what, f"{FINDINGS}, row {film.number}", "give all films of a study one split")


def _known(column: str, value: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    if value not in known:
        expected = ", ".join(map(repr, known))
        raise Refusal(f"{column} is {_short(value)}, known are {expected}", UNKNOWN, MEND)
    return value


def _short(value: str) -> str:
    return repr(value if len(value) <= 60 else f"{value[:40]}...{value[-17:]}")
