"""mini-MIAS: 322 digitised films of 161 women as PGM, with a circle for each abnormality (Info.txt).

J. Suckling et al. 1994, "The Mammographic Image Analysis Society digital mammogram database". Every film is an MLO of 1024 x
1024 pixels of 0.2 mm. Odd film numbers are right breasts, even ones left, and a pair is a patient. Masks are the circles,
so their grade is "proxy"; CIRC, MISC (other, ill-defined) and SPIC stand for circumscribed, indistinct and spiculated.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from data._walk import find_table, walk
from data.dicom import ImageFile
from data.errors import DataError
from data.record import DataCard, Finding, Options, Record, Report, public_id

CARD = DataCard(
    name="mini_mias",
    title="mini-MIAS: 322 films as PGM with circles",
    version=1,
    tracks=("margin", "malignancy", "detection"),
    provides=frozenset({"margin", "malignant", "mask", "box", "normal"}),
    licence="research purposes only; may not be sold (Licence.txt of the collection)",
    source="all-mias.tar.gz of the Mammographic Image Analysis Society: Info.txt and the films mdb001.pgm to mdb322.pgm",
    grade="proxy",
    published_counts={  # of what has a place: one more film (mdb059) has a circumscribed mass without one
        "normal films": 207,
        "mass films": 55,
        "masses": 58,
        "circumscribed": 24,
        "indistinct": 15,
        "spiculated": 19,
        "malignant": 20,
    },
)
SIDE = 1024  # pixels of every film
MARGIN = {"CIRC": "circumscribed", "MISC": "indistinct", "SPIC": "spiculated"}
OTHER = {"CALC": "calcification", "ARCH": "architectural distortion", "ASYM": "asymmetry"}
NORMAL = "NORM"
TISSUE = {"F": "fatty", "G": "fatty-glandular", "D": "dense-glandular"}
TABLE, FETCH = "info.txt", "give the folder of the unpacked all-mias.tar.gz"
NUMBER = re.compile(r"[0-9]{1,4}")  # no longer, so that every one can be reckoned with
FILM = re.compile(r"mdb(\d{3})\b", re.IGNORECASE)
RULE = re.compile(r"\s*=+\s*")  # encloses the table
DO = "restore it from the collection"


@dataclass(frozen=True)
class Circle:
    """A disc as a mask. y counts from the bottom edge, as in Info.txt."""

    x: int
    y: int
    radius: int
    place: tuple[str, int]  # the table and its line

    @property
    def name(self) -> str:
        return f"{self.place[0]}, line {self.place[1]}"

    def read(self) -> np.ndarray:
        """(1024, 1024) bool. Raises DataError for a circle that meets no pixel."""
        rows, columns = np.ogrid[:SIDE, :SIDE]
        inside = (columns - self.x) ** 2 + (rows - (SIDE - self.y)) ** 2 <= self.radius**2
        if not inside.any():
            raise DataError("the circle meets no pixel of the film", self.name, DO)
        return np.asarray(inside)

    def fingerprint(self) -> str:
        return f"circle {self.x} {self.y} {self.radius}"


@dataclass(frozen=True)
class _Row:
    """A line of Info.txt. circle: x, y, radius; None where the collection gives none."""

    line: int
    film: str
    tissue: str
    kind: str
    malignant: bool | None
    circle: tuple[int, int, int] | None


def records(root: Path, options: Options, report: Report) -> Iterator[Record]:
    """One record per film, in the order of Info.txt.

    Raises DataError where Info.txt is missing, names no film, or lies there twice and differs.
    """
    paths = list(walk(root))
    table = _find_table(root, paths)
    films: dict[str, list[_Row]] = {}
    lost: Counter[tuple[str, bool]] = Counter()  # refused lines, by film and whether they are of a mass
    for row in _rows(table, root, report, lost):
        films.setdefault(row.film, []).append(row)
    if not films:
        raise DataError("no line begins with a film's number (mdb001 ...)", table, DO)
    images: dict[str, list[str]] = {}
    for path in paths:
        if path.lower().endswith(".pgm"):
            images.setdefault(PurePosixPath(path).stem.lower(), []).append(path)
    for film, rows in films.items():
        if (trouble := _contradiction(film, rows) or _no_image(root, film, rows, images.get(film, []))) is not None:
            report.problem(table, *trouble)
            continue
        record = _record(film, rows, ImageFile(root, images[film][0]), table)
        yield replace(record, unlisted=lost[film, True], other_lesions=lost[film, False])


def _find_table(root: Path, paths: list[str]) -> str:
    """Info.txt, relative to the root; copies of it must agree. Raises DataError."""
    if not any(PurePosixPath(path).name.lower() == TABLE for path in paths):
        raise DataError("no file Info.txt", str(root), FETCH)
    return find_table(root, paths, TABLE, FETCH)


def _rows(table: str, root: Path, report: Report, lost: Counter[tuple[str, bool]]) -> Iterator[_Row]:
    """Lines of the table; those that do not have its form are problems, by line, and are added to `lost`."""
    lines = (root / table).read_text(encoding="ascii", errors="replace").splitlines()
    for number in _table_lines(lines):
        line = lines[number - 1]
        found = FILM.match(line)
        if found is None:
            report.problem(table, number, "no film's number (mdb001 ...)", "correct the line", "line of another form")
            continue
        film, fields = f"mdb{found[1]}", line.split()
        row = _parse(number, fields, film)
        if isinstance(row, str):
            report.problem(table, number, row, "correct the line", "line of another form")
            lost[film, fields[2:3] == [] or fields[2] not in OTHER] += 1
        else:
            yield row


def _table_lines(lines: list[str]) -> list[int]:
    """Numbers of the lines that are the table's: those around the films' up to the lines of = that enclose them."""
    films = [number for number, line in enumerate(lines, start=1) if FILM.match(line)]
    rules = [number for number, line in enumerate(lines, start=1) if RULE.fullmatch(line)]
    if not films:
        return []
    first = max((number + 1 for number in rules if number < films[0]), default=films[0])
    last = min((number - 1 for number in rules if number > films[-1]), default=films[-1])
    inside = range(first, last + 1)
    return [number for number in inside if lines[number - 1].strip() and not RULE.fullmatch(lines[number - 1])]


def _contradiction(film: str, rows: list[_Row]) -> tuple[int, str, str, str] | None:
    """What is wrong between a film's lines, as line, message, do and reason: it has one tissue, is normal in one line alone,
    and each finding stands once."""
    if len({row.tissue for row in rows}) > 1 or (len(rows) > 1 and any(row.kind == NORMAL for row in rows)):
        what = f"the lines of film {film} disagree: its tissue, or normal and not normal"
        return rows[1].line, what, DO, "lines of a film that disagree"
    first: dict[_Row, int] = {}
    for row in rows:
        if (line := first.setdefault(replace(row, line=0), row.line)) != row.line:
            what = f"film {film} has the same finding in line {line}"
            return row.line, what, DO, "line of a film that is there twice"
    return None


def _no_image(root: Path, film: str, rows: list[_Row], paths: list[str]) -> tuple[int, str, str, str] | None:
    """Why a film has no image, as line, message, do and reason; copies of one image are one."""
    if not paths:
        return rows[0].line, f"film {film}.pgm is not there", "add the film", "film not on disk"
    if len(paths) > 1 and not all(_same(root / paths[0], root / path) for path in paths[1:]):
        what = f"several files of one film differ: {', '.join(paths[:2])}"
        return rows[0].line, what, "leave one", "several files of one film"
    return None


def _same(one: Path, other: Path) -> bool:
    try:
        return one.read_bytes() == other.read_bytes()
    except OSError:  # one that cannot be read is not known to agree
        return False


def _parse(number: int, fields: list[str], film: str) -> _Row | str:
    """The row, or what is wrong with it. `*NOTE 3*` in place of numbers: calcifications without one site."""
    if len(fields) < 3:
        return "film, background tissue and class were expected"
    if fields[1] not in TISSUE:
        return f"background tissue {fields[1][:40]!r} is none of {', '.join(TISSUE)}"
    tissue, kind, rest = fields[1], fields[2], fields[3:]
    if kind == NORMAL:
        return _Row(number, film, tissue, kind, None, None)
    if kind not in MARGIN and kind not in OTHER:
        return f"class {kind[:40]!r} is none of {', '.join((*MARGIN, *OTHER, NORMAL))}"
    if not rest or rest[0] not in ("B", "M"):
        return f"severity {rest[0][:40] if rest else ''!r} is neither B nor M"
    places = rest[1:]
    if len(places) == 3 and all(NUMBER.fullmatch(place) for place in places):
        x, y, radius = (int(place) for place in places)
        if x <= SIDE and y <= SIDE and 1 <= radius <= SIDE:
            return _Row(number, film, tissue, kind, rest[0] == "M", (x, y, radius))
    if not places or places[0].startswith("*"):
        return _Row(number, film, tissue, kind, rest[0] == "M", None)
    return f"x, y and radius were expected, x and y of 0 to {SIDE} and a radius of 1 to {SIDE}, not {' '.join(places)[:40]!r}"


def _record(film: str, rows: list[_Row], image: ImageFile, table: str) -> Record:
    number = int(film[3:])
    findings = tuple(_finding(film, i, row, table) for i, row in enumerate(rows) if row.kind != NORMAL)
    masses = any(finding.kind == "mass" for finding in findings)
    return Record(
        dataset=CARD.name,
        record_id=public_id(CARD.name, film),
        patient_id=f"pair {(number + 1) // 2}",
        laterality="R" if number % 2 else "L",
        view="MLO",
        image=image,
        findings=findings,
        # a film with another abnormality shows no mass that was marked, and is no healthy breast either
        has_mass=True if masses else None if findings else False,
        attributes={"tissue": TISSUE[rows[0].tissue]},
    )


def _finding(film: str, position: int, row: _Row, table: str) -> Finding:
    return Finding(
        finding_id=public_id(CARD.name, film, str(position)),
        lesion_id=public_id(CARD.name, film, str(position)),
        kind="mass" if row.kind in MARGIN else OTHER[row.kind],
        margin=MARGIN.get(row.kind),
        malignant=row.malignant,
        mask=Circle(*row.circle, (table, row.line)) if row.circle is not None else None,
    )
