"""The case-description CSVs of CBIS-DDSM, row by row, with the quirks that docs/datasets/cbis_ddsm.md lists."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from data._csv import Refusal

# The name in the current CSVs first, then that of the form of 2017, which is known of the mass CSVs alone.
_SHARED: Mapping[str, tuple[str, ...]] = {
    "patient": ("patient_id",),
    "density": ("breast_density", "breast density"),
    "side": ("left or right breast", "side"),
    "view": ("image view", "view"),
    "abnormality": ("abnormality id", "abn_num"),
    "type": ("abnormality type", "abnormality_type"),
    "assessment": ("assessment",),
    "pathology": ("pathology",),
    "subtlety": ("subtlety",),
    "film": ("image file path", "od_img_path"),
    "crop": ("cropped image file path", "od_crop_path"),
    "mask": ("ROI mask file path", "mask_path"),
}
MASS, CALC = "mass", "calcification"  # as in the column "abnormality type"
COLUMNS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    MASS: {**_SHARED, "shape": ("mass shape", "mass_shape"), "margins": ("mass margins", "mass_margins")},
    CALC: {**_SHARED, "calc_type": ("calc type",), "calc_distribution": ("calc distribution",)},
}
WORDS = {  # columns that are kept as they are written -> their attribute
    MASS: {"shape": "shape", "margins": "margin_text"},
    CALC: {"calc_type": "calc_type", "calc_distribution": "calc_distribution"},
}
MARGIN_OF = {"CIRCUMSCRIBED": "circumscribed", "ILL_DEFINED": "indistinct", "SPICULATED": "spiculated"}
OTHER_MARGINS = ("OBSCURED", "MICROLOBULATED", "N/A")
MALIGNANT_OF = {"MALIGNANT": True, "BENIGN": False, "BENIGN_WITHOUT_CALLBACK": False}
DENSITY_OF = {"1": "a", "2": "b", "3": "c", "4": "d", "0": None, "": None}
GRADES = tuple("0123456")  # BI-RADS assessment; subtlety ends at 5
SIDES, VIEWS = {"LEFT": "L", "RIGHT": "R"}, {"CC": "CC", "MLO": "MLO"}
UID_FORM = re.compile(r"[0-9]+(\.[0-9]+)+")


@dataclass(frozen=True)
class Place:
    """What a path of the CSV says that holds in every download: the first folder and the series."""

    folder: str
    series: str


@dataclass(frozen=True)
class Row:
    """One lesion in one view. `number` counts the rows below the header from 1; `words`: attributes as written."""

    kind: str  # MASS | CALC
    file: str
    number: int
    patient: str
    side: str  # L | R
    view: str  # CC | MLO
    abnormality: str
    margin: str | None
    pathology: str
    malignant: bool
    words: Mapping[str, str]
    density: str | None
    assessment: float | None
    subtlety: float | None
    film: Place
    lesion: tuple[Place, ...]  # crop and mask, in one series or two

    @property
    def where(self) -> str:
        """The row as a message names it."""
        return f"{self.file}, row {self.number}"


def read_row(kind: str, file: str, number: int, cells: dict[str, str] | None) -> Row:
    """A row of a CSV of one kind, with its labels checked against the known values. Raises Refusal."""
    if cells is None:
        raise Refusal("more or fewer values than the header has columns", "row that cannot be read", "mend the row")
    if not cells["patient"] or not cells["abnormality"]:
        raise Refusal("no patient_id or no abnormality id", "row that cannot be read", "mend the row")
    margins = dict.fromkeys(cells.get("margins", "").split("-"))  # a word that stands there twice says it once
    if kind == MASS:
        for margin in margins:
            _known("mass margins", margin, (*MARGIN_OF, *OTHER_MARGINS))
    _known("abnormality type", cells["type"], (kind,))
    crop, mask = _place("cropped image file path", cells["crop"]), _place("ROI mask file path", cells["mask"])
    return Row(
        kind=kind,
        file=file,
        number=number,
        patient=cells["patient"].upper(),  # P_00021; the same patient must not sit on two sides as p_00021
        side=SIDES[_known("left or right breast", cells["side"], SIDES)],
        view=VIEWS[_known("image view", cells["view"], VIEWS)],
        abnormality=cells["abnormality"],
        margin=MARGIN_OF.get("-".join(margins)),
        pathology=cells["pathology"],
        malignant=MALIGNANT_OF[_known("pathology", cells["pathology"], MALIGNANT_OF)],
        words={name: cells[key] for key, name in WORDS[kind].items()},
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
            place = _place(_SHARED[key][0], (cells or {}).get(key, ""))
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
