"""The case-description CSVs of CBIS-DDSM, row by row, with the quirks that docs/datasets/cbis_ddsm.md lists."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError

# The name in the current CSVs first, then that of the form of 2017.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "patient": ("patient_id",),
    "density": ("breast_density", "breast density"),
    "side": ("left or right breast", "side"),
    "view": ("image view", "view"),
    "abnormality": ("abnormality id", "abn_num"),
    "type": ("abnormality type", "abnormality_type"),
    "shape": ("mass shape", "mass_shape"),
    "margins": ("mass margins", "mass_margins"),
    "assessment": ("assessment",),
    "pathology": ("pathology",),
    "subtlety": ("subtlety",),
    "film": ("image file path", "od_img_path"),
    "crop": ("cropped image file path", "od_crop_path"),
    "mask": ("ROI mask file path", "mask_path"),
}
MARGIN_OF = {"CIRCUMSCRIBED": "circumscribed", "ILL_DEFINED": "indistinct", "SPICULATED": "spiculated"}
OTHER_MARGINS = ("OBSCURED", "MICROLOBULATED", "N/A")
MALIGNANT_OF = {"MALIGNANT": True, "BENIGN": False, "BENIGN_WITHOUT_CALLBACK": False}
DENSITY_OF = {"1": "a", "2": "b", "3": "c", "4": "d", "0": None, "": None}
GRADES = tuple("0123456")  # BI-RADS assessment; subtlety ends at 5
SIDES, VIEWS = {"LEFT": "L", "RIGHT": "R"}, {"CC": "CC", "MLO": "MLO"}
UID_FORM = re.compile(r"[0-9]+(\.[0-9]+)+")


class Refusal(Exception):
    """Why one row, or its files, cannot be used; the reader adds the file and the row."""

    def __init__(self, message: str, reason: str, do: str) -> None:
        super().__init__(message)
        self.message, self.reason, self.do = message, reason, do


@dataclass(frozen=True)
class Place:
    """What a path of the CSV says that holds in every download: the first folder and the series."""

    folder: str
    series: str


@dataclass(frozen=True)
class Row:
    """One mass in one view. `number` counts the rows below the header from 1."""

    file: str
    number: int
    patient: str
    side: str  # L | R
    view: str  # CC | MLO
    abnormality: str
    margin_text: str
    margin: str | None
    pathology: str
    malignant: bool
    shape: str
    density: str | None
    assessment: float | None
    subtlety: float | None
    film: Place
    lesion: tuple[Place, ...]  # crop and mask, in one series or two

    @property
    def where(self) -> str:
        """The row as a message names it."""
        return f"{self.file}, row {self.number}"


def read_cells(path: Path, file: str) -> list[tuple[int, dict[str, str] | None]]:
    """The rows as dictionaries with the keys of COLUMNS, blanks around values removed; None where the row is ragged.

    Rows may end in LF or CR LF, and a value in quotes may hold a line end. `N/A` stays text. Raises DataError where
    the file cannot be read as a whole.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the CSV: {error.strerror}", file, "check the file and its permissions") from error
    try:
        reader = csv.reader(io.StringIO(text.decode("utf-8-sig"), newline=""), strict=True)
        lines = [line for line in reader if line]
    except UnicodeDecodeError as error:
        raise DataError("the CSV is not UTF-8 text", _row_at(text, error.start, file), "save it as UTF-8") from error
    except csv.Error as error:
        where = f"{file}, line {reader.line_num}"
        raise DataError(f"the CSV is damaged: {error}", where, "download it again") from error
    if (nul := text.find(b"\0")) >= 0:
        raise DataError("the CSV holds NUL bytes", _row_at(text, nul, file), "download it again, or save it as UTF-8")
    if not lines:
        raise DataError("the CSV is empty", file, "download it again")
    header = [name.strip() for name in lines[0]]
    for names in COLUMNS.values():
        if len(same := [name for name in header if name in names]) > 1:
            known = f"{len(same)} columns for one thing: {', '.join(map(repr, same))}"
            raise DataError(known, f"{file}, header", "leave one of them")
    at = {key: next((header.index(name) for name in names if name in header), None) for key, names in COLUMNS.items()}
    missing = [COLUMNS[key][0] for key, position in at.items() if position is None]
    if missing:
        known = f"no column {', '.join(repr(name) for name in missing)}"
        raise DataError(known, file, "download it again, or put the column back (comma-separated)")
    if len(lines) == 1:
        raise DataError("the CSV has a header and no rows", file, "download it again")
    return [
        (number, {key: line[i].strip() for key, i in at.items() if i is not None} if len(line) == len(header) else None)
        for number, line in enumerate(lines[1:], start=1)
    ]


def read_row(file: str, number: int, cells: dict[str, str] | None) -> Row:
    """A row with its labels checked against the known values. Raises Refusal."""
    if cells is None:
        raise Refusal("more or fewer values than the header has columns", "row that cannot be read", "mend the row")
    if not cells["patient"] or not cells["abnormality"]:
        raise Refusal("no patient_id or no abnormality id", "row that cannot be read", "mend the row")
    margins = dict.fromkeys(cells["margins"].split("-"))  # a word that stands there twice says it once
    for margin in margins:
        _known("mass margins", margin, (*MARGIN_OF, *OTHER_MARGINS))
    _known("abnormality type", cells["type"], ("mass",))
    crop, mask = _place("cropped image file path", cells["crop"]), _place("ROI mask file path", cells["mask"])
    return Row(
        file=file,
        number=number,
        patient=cells["patient"].upper(),  # P_00021; the same patient must not sit on two sides as p_00021
        side=SIDES[_known("left or right breast", cells["side"], SIDES)],
        view=VIEWS[_known("image view", cells["view"], VIEWS)],
        abnormality=cells["abnormality"],
        margin_text=cells["margins"],
        margin=MARGIN_OF.get("-".join(margins)),
        pathology=cells["pathology"],
        malignant=MALIGNANT_OF[_known("pathology", cells["pathology"], MALIGNANT_OF)],
        shape=cells["shape"],
        density=DENSITY_OF[_known("breast_density", cells["density"], DENSITY_OF)],
        assessment=_grade("assessment", cells["assessment"]),
        subtlety=_grade("subtlety", cells["subtlety"]),
        film=_place("image file path", cells["film"]),
        lesion=(mask,) if crop == mask else (mask, crop),
    )


def cited_names(cells: dict[str, str] | None) -> list[str]:
    """Folders and series that a row names, also one that cannot be used as a whole."""
    found: list[str] = []
    for key in ("film", "crop", "mask"):
        try:
            place = _place(COLUMNS[key][0], (cells or {}).get(key, ""))
        except Refusal:
            continue
        found += [place.folder, place.series]
    return found


def margin_group(margin_text: str) -> str:
    """How a margin that is not one of the three is counted."""
    margins = dict.fromkeys(margin_text.split("-"))
    return "several margins" if len(margins) > 1 else "-".join(margins)


def _known(column: str, value: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    if value not in known:
        expected = ", ".join(repr(name) for name in known if name)
        message = f"{column} is {_short(value)}, known are {expected}"
        raise Refusal(message, "label outside the known set", "correct the row")
    return value


def _grade(column: str, value: str) -> float | None:
    if value in ("", "N/A"):
        return None
    return float(_known(column, value, GRADES))


def _place(column: str, text: str) -> Place:
    """Folder and series of `folder/study/series/name.dcm`; the name and the study are not used."""
    parts = text.replace("\\", "/").split("/")
    if ".." in parts or text.startswith(("/", "\\")) or ":" in parts[0]:
        raise Refusal(f"{column} leaves the data folder", "path that cannot be used", "correct the row")
    if len(parts) < 3 or not UID_FORM.fullmatch(parts[-2]):
        do = "correct the row: folder/study/series/name.dcm"
        raise Refusal(f"{column} names no series", "path that cannot be used", do)
    return Place(parts[0], parts[-2])


def _short(value: str) -> str:
    return repr(value if len(value) <= 60 else f"{value[:40]}...{value[-17:]}")


def _row_at(text: bytes, position: int, file: str) -> str:
    """The row that holds a byte of the file."""
    before = text[:position].decode("utf-8-sig", errors="replace")
    rows: Iterator[list[str]] = (line for line in csv.reader(io.StringIO(before, newline="")) if line)
    number = sum(1 for _ in rows) - 1
    return f"{file}, row {number}" if number > 0 else file
