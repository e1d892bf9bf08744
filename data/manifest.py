"""Any data of yours: one CSV, and PNG, TIFF, PGM or DICOM files that it names (docs/datasets/manifest.md).

A row is a finding, or a film without one. What a column leaves empty is unknown, never guessed.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from data._csv import Refusal, read_cells
from data.dicom import DicomFile, ImageFile
from data.errors import ConfigError, LeakError
from data.record import Box, DataCard, Finding, Record, Report, public_id
from data.record import Options as BaseOptions
from data.tracks import MARGINS

NEEDED = ("image", "patient", "laterality", "view")
# column -> what it means: shown in the docs, and the only columns that are read
COLUMNS: Mapping[str, str] = {
    "image": "the film's file, relative to the folder: PNG, TIFF, PGM, JPEG or DICOM (.dcm, .dicom)",
    "patient": "any id; only its hash is kept. One patient is on one side of a split",
    "laterality": "L or R (left, right)",
    "view": "CC, MLO or other",
    "finding": "mass, normal (the film shows none), or another word (calcification...); empty: mass, if the row says anything of it",
    "lesion": "an id that the views of one lesion share; empty: the row is a lesion of its own",
    "margin": "circumscribed, indistinct or spiculated; another word is kept and counted, and is no label",
    "pathology": "benign or malignant",
    "mask": "the lesion's mask: a file of the film's size, lesion brighter",
    "fine_mask": "the fine annotation (margin band, spicules), likewise",
    "box": "x0 y0 x1 y1 in film pixels, half open, y from the top; wanted where there is no mask",
    "density": "BI-RADS density a-d",
    "assessment": "BI-RADS assessment 0-6",
    "grade": "full, reduced, proxy or synthetic; empty: full",
    "split": "train, validation or test, for every film or for none",
}
CARD = DataCard(
    name="manifest",
    title="Your own films, named in one CSV",
    version=2,
    tracks=("margin", "malignancy", "detection"),
    provides=frozenset({"margin", "malignant", "mask", "fine_mask", "box", "normal"}),
    licence="yours",
    source="a folder with a CSV of the columns in docs/datasets/manifest.md",
    columns=COLUMNS,
)
SIDES = {"l": "L", "left": "L", "r": "R", "right": "R"}
VIEWS = {"cc": "CC", "mlo": "MLO", "other": "other"}
MALIGNANT = {"benign": False, "malignant": True, "": None}
DENSITIES = ("a", "b", "c", "d", "")
GRADES = ("full", "reduced", "proxy", "synthetic", "")
SPLITS = ("train", "validation", "test", "")
OF_FILM = ("patient", "laterality", "view", "density", "grade", "split")  # the same in every row of a film
DICOM = (".dcm", ".dicom")
MEND = "correct the row"


class Options(BaseOptions):
    """What may be asked of a manifest."""

    file: str = Field("manifest.csv", description="name of the CSV in the folder of --data-root")


def records(root: Path, options: Options, report: Report) -> Iterator[Record]:
    """One record per film, in the order of the CSV. Raises DataError for a CSV that cannot be read as a whole."""
    if PurePosixPath(options.file).is_absolute() or ".." in PurePosixPath(options.file).parts:
        raise ConfigError("the CSV lies outside the folder", f"file: {options.file}", "give its name in --data-root")
    films: dict[str, list[tuple[int, dict[str, str]]]] = {}
    lost: Counter[tuple[str, bool]] = Counter()  # refused rows, by film and whether they are of a mass
    names = {key: (key,) for key in COLUMNS}
    optional = set(COLUMNS) - set(NEEDED)

    def unread(name: str) -> None:
        report.leave_out(f"column that is not read: {name[:40]!r}")

    for number, cells in read_cells(root / options.file, options.file, names, optional, unread=unread):
        try:
            row = _checked(root, cells)
            if (first := films.get(row["image"], [(number, row)])[0][1]) is not row:
                _same_film(first, row)
                _another_lesion(films[row["image"]], row)
        except Refusal as refusal:
            report.problem(options.file, number, str(refusal), refusal.do, refusal.reason)
            if cells is not None:
                lost[
                    PurePosixPath(cells["image"]).as_posix(), cells.get("finding", "").lower() in ("", "mass", "normal")
                ] += 1
            continue
        films.setdefault(row["image"], []).append((number, row))
        _count_others(row, report)
    if options.patient_scope == "global":
        _refuse_two_sides(options.file, films)
    for image, rows in films.items():
        record = _record(root, options.file, image, rows)
        yield replace(record, unlisted=lost[image, True], other_lesions=lost[image, False])


def _checked(root: Path, cells: dict[str, str] | None) -> dict[str, str]:
    """The row with every column, its words in one spelling. Raises Refusal."""
    if cells is None:
        raise Refusal("more or fewer values than the header has columns", "row that cannot be read", "mend the row")
    row = {key: cells.get(key, "") for key in COLUMNS}
    for key in NEEDED:
        if not row[key]:
            raise Refusal(f"{key} is empty", "row that cannot be read", f"fill in {key}")
    for key, known in (("laterality", SIDES), ("view", VIEWS), ("pathology", MALIGNANT), ("density", DENSITIES),
                       ("grade", GRADES), ("split", SPLITS)):  # fmt: skip
        row[key] = _known(key, row[key].lower(), known)
    row["laterality"], row["view"] = SIDES[row["laterality"]], VIEWS[row["view"]]
    row["margin"], row["finding"] = row["margin"].lower(), row["finding"].lower()
    for key in ("image", "mask", "fine_mask"):
        if row[key]:
            _inside(root, key, row[key])
            row[key] = PurePosixPath(row[key]).as_posix()  # ./a.png and a.png are one film
    if row["finding"] == "normal" and (
        said := [key for key in ("lesion", "margin", "pathology", "mask", "box") if row[key]]
    ):
        raise Refusal(f"a normal film has a {said[0]}", "row that contradicts itself", MEND)
    _box(row["box"]), _assessment(row["assessment"])
    return row


def _known(key: str, value: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    if value not in known:
        expected = ", ".join(repr(name) for name in known if name)
        raise Refusal(f"{key} is {value[:40]!r}, known are {expected}", "label outside the known set", MEND)
    return value


def _inside(root: Path, key: str, text: str) -> None:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts:
        raise Refusal(
            f"{key} {text[:120]!r} leads out of the folder", "path out of the folder", "give a path below --data-root"
        )
    try:
        found = (root / path).is_file()
    except OSError:  # a name that no file can have
        found = False
    if not found:
        raise Refusal(f"no file {text[:120]!r}", f"{key} not on disk", f"add the file, or correct {key}")


def _box(text: str) -> Box | None:
    parts = text.replace(",", " ").split()
    if not parts:
        return None
    try:
        x0, y0, x1, y1 = (round(float(part)) for part in parts)
    except (ValueError, OverflowError) as error:
        raise Refusal(f"box is {text[:40]!r}, x0 y0 x1 y1 were expected", "box that cannot be read", MEND) from error
    if x1 <= x0 or y1 <= y0:
        raise Refusal(f"box {text[:40]!r} has no area: x0 < x1 and y0 < y1", "box that cannot be read", MEND)
    return x0, y0, x1, y1


def _assessment(text: str) -> float | None:
    if text not in ("", *"0123456"):
        raise Refusal(f"assessment is {text[:40]!r}, known are 0 to 6", "label outside the known set", MEND)
    return float(text) if text else None


def _refuse_two_sides(file: str, films: Mapping[str, list[tuple[int, dict[str, str]]]]) -> None:
    """Raises LeakError for a patient whose films are on two sides of the CSV's own split."""
    seen: dict[str, tuple[int, str]] = {}
    for rows in films.values():
        number, row = rows[0]
        first, side = seen.setdefault(row["patient"], (number, row["split"]))
        if side != row["split"]:
            what = f"a patient is on two sides, {side or 'none'} and {row['split'] or 'none'}"
            where = f"{file}, rows {min(first, number)} and {max(first, number)}, column split"
            raise LeakError(what, where, "put all films of a patient on one side")


def _another_lesion(earlier: list[tuple[int, dict[str, str]]], row: Mapping[str, str]) -> None:
    """Raises Refusal for a row that gives a lesion of the film once more, whatever it says of it."""
    place = (row["mask"], _box(row["box"]))
    for number, other in earlier:
        same = any(place) and place == (other["mask"], _box(other["box"]))
        if same or all(row[key] == other[key] for key in COLUMNS):
            raise Refusal(
                f"the same lesion of the same film as row {number}",
                "row that repeats another",
                "delete one of the rows",
            )


def _count_others(row: Mapping[str, str], report: Report) -> None:
    """Words that are kept and are no label, so that a misspelt one is seen."""
    if row["margin"] and row["margin"] not in MARGINS:
        report.leave_out(f"not in track margin: {row['margin'][:40]}")
    if row["finding"] not in ("", "mass", "normal"):
        report.leave_out(f"neither mass nor normal: {row['finding'][:40]}")


def _same_film(first: Mapping[str, str], row: Mapping[str, str]) -> None:
    if "normal" in (first["finding"], row["finding"]):
        what = "a film is normal in one row and stands in another one, too"
        raise Refusal(what, "rows of a film that disagree", "give a normal film one row")
    for key in OF_FILM:
        if row[key] != first[key]:
            what = f"{key} is {row[key]!r}, in an earlier row of this film {first[key]!r}"
            raise Refusal(what, "rows of a film that disagree", "make the rows of a film agree")


def _record(root: Path, file: str, image: str, rows: list[tuple[int, dict[str, str]]]) -> Record:
    number, first = rows[0]
    told = [(n, row) for n, row in rows if _says_something(row)]
    findings = tuple(_finding(root, file, n, row, place) for place, (n, row) in enumerate(told))
    normal = any(row["finding"] == "normal" for _, row in rows)
    masses = any(finding.kind == "mass" for finding in findings)
    return Record(
        dataset=CARD.name,
        record_id=public_id(CARD.name, "film", image),
        patient_id=first["patient"],
        laterality=first["laterality"],
        view=first["view"],
        image=_pixels(root, image, False, file, number),
        findings=findings,
        has_mass=True if masses else False if normal else None,
        official_split=first["split"] or None,
        attributes={"density": first["density"] or None, "grade": first["grade"] or "full"},
    )


def _says_something(row: Mapping[str, str]) -> bool:
    """A row of a mass, or of another finding; a film alone, or a normal one, has none."""
    told = any(row[key] for key in ("lesion", "margin", "pathology", "mask", "fine_mask", "box"))
    return row["finding"] != "normal" and (bool(row["finding"]) or told)


def _finding(root: Path, file: str, number: int, row: Mapping[str, str], place: int) -> Finding:
    """place: among the film's findings, so that ids stay when rows of other films come or go."""
    own = (row["image"], str(place))
    lesion = (row["patient"], row["laterality"], row["lesion"]) if row["lesion"] else ("row", *own)
    return Finding(
        finding_id=public_id(CARD.name, *own),
        lesion_id=public_id(CARD.name, *lesion),
        kind=row["finding"] or "mass",
        margin=row["margin"] if row["margin"] in MARGINS else None,
        malignant=MALIGNANT[row["pathology"]],
        mask=_pixels(root, row["mask"], True, file, number) if row["mask"] else None,
        fine_mask=_pixels(root, row["fine_mask"], True, file, number) if row["fine_mask"] else None,
        box=_box(row["box"]),
        attributes={"margin": row["margin"], "assessment": _assessment(row["assessment"])},
    )


def _pixels(root: Path, path: str, mask: bool, file: str, number: int) -> DicomFile | ImageFile:
    kind = DicomFile if PurePosixPath(path).suffix.lower() in DICOM else ImageFile
    return kind(root, path, mask=mask, cited=file, row=number)
