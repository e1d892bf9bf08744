"""INbreast as downloaded: digital mammograms with outlines in OsiriX files, BI-RADS, no pathology (docs/datasets/inbreast.md).

Moreira et al. 2012, "INbreast: toward a full-field digital mammographic database", Academic Radiology 19, 236-248.
"""

import plistlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from xml.parsers.expat import ExpatError

from pydantic import Field

from data import _polygon
from data._csv import Refusal, read_cells
from data._polygon import Outline
from data._walk import find_table, walk
from data.dicom import DicomFile
from data.errors import DataError
from data.record import DataCard, Finding, Record, Report, public_id
from data.record import Options as BaseOptions

CARD = DataCard(
    name="inbreast",
    title="INbreast, digital mammograms with outlines",
    version=1,
    tracks=("detection", "malignancy"),
    provides=frozenset({"malignant", "mask", "box", "normal"}),
    licence="on registration with its authors; not to be passed on",
    source="INbreast Release 1.0: INbreast.csv and the folders AllDICOMs and AllXML",
    published_counts={"films": 410, "normal films": 67, "mass films": 107, "masses": 116},
)
TABLE = "inbreast.csv"
COLUMNS = ("Laterality", "View", "File Name", "ACR", "Bi-Rads")
VIEWS = {"CC": "CC", "MLO": "MLO", "FB": "other"}
DENSITIES = {"1": "a", "2": "b", "3": "c", "4": "d", "": None}
# A reading of the film, not proof: the field takes 1 to 3 for benign and 4 to 6 for malignant.
MALIGNANT = {"1": False, "2": False, "3": False, "4a": True, "4b": True, "4c": True, "5": True, "6": True}
NEGATIVE = "1"
FILM = re.compile(r"([^_]+)_([^_]+)_MG_([LR])_([A-Z]+)_ANON\.dcm", re.IGNORECASE)  # number, patient, side, view
VIEW_OF_NAME = {"CC": "CC", "ML": "MLO"}
# Name of a region, in small letters -> kind. The spellings are those that several public readers list.
KINDS = {
    "mass": "mass",
    "calcification": "calcification",
    "calcifications": "calcification",
    "cluster": "cluster",
    "spiculated region": "spiculated region",
    "espiculated region": "spiculated region",
    "asymmetry": "asymmetry",
    "assymetry": "asymmetry",
    "distortion": "distortion",
    "unnamed": "unnamed",
    "point 1": "unnamed",
    "point 3": "unnamed",
    "": "unnamed",
}
NUMBER = r"\s*([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*"
POINT = re.compile(rf"\({NUMBER},{NUMBER}\)", re.ASCII)
# What plistlib raises for a file that is damaged, or that declares entities, which it refuses.
PLIST_ERRORS = (ExpatError, ValueError, LookupError, TypeError, AttributeError, OverflowError)
FETCH = "point --data-root at the folder of INbreast Release 1.0 (docs/datasets/inbreast.md)"
MEND, AGAIN = "correct the row", "download it again"
UNREADABLE = "ROI file that cannot be read"


class Options(BaseOptions):
    """What may be asked of INbreast."""

    malignant_from: Literal["none", "birads"] = Field(
        "none", description="birads: a mass is malignant where its film has Bi-Rads 4a to 6: a reading, no pathology"
    )


@dataclass(frozen=True)
class Row:
    """One film of the CSV. `number` counts the rows below the header from 1."""

    number: int
    film: str
    laterality: str
    view: str
    density: str | None
    birads: str


@dataclass(frozen=True)
class Roi:
    """One region of a film: its kind, its place for messages, and x, y of its outline."""

    kind: str
    number: int  # in its file, from 1
    place: str
    points: tuple[tuple[float, float], ...] = ()  # of masses alone


def records(root: Path | None, options: Options, report: Report) -> Iterator[Record]:
    """One Record for each film, in the order of the CSV, with a Finding for each region that is named Mass.

    Reads the CSV and the ROI files, no film. A row that cannot be used, a film that is not there and a ROI file that
    cannot be read are problems of `report`; regions of other kinds are left out, counted. Raises DataError.
    """
    if root is None or not root.is_dir():
        raise DataError("no folder with INbreast", "--data-root", FETCH)
    paths = list(walk(root))
    table = find_table(root, paths, TABLE, FETCH)
    films = _by_number(path for path in paths if path.lower().endswith(".dcm"))
    # PectoralMuscle holds .xml files of the same films, too
    rois = _by_number(path for path in paths if PurePosixPath(path.lower()).match("allxml/*.xml"))
    if not rois:
        raise DataError("no ROI file, so no mass is known", "AllXML", FETCH)
    seen: dict[str, int] = {}
    for number, cells in read_cells(root / table, table, {name: (name,) for name in COLUMNS}, delimiter=";"):
        try:
            row = _read_row(number, cells)
            if seen.setdefault(row.film, number) != number:
                message = f"the same film as in row {seen[row.film]}"
                raise Refusal(message, "row that contradicts another", "delete one of the rows")
            film, patient = _film(root, row, films.get(row.film, []), table)
            regions = _regions(root, rois.get(row.film, []))
        except Refusal as refusal:
            report.problem(table, number, refusal.message, refusal.do, refusal.reason)
            continue
        yield _record(row, film, patient, regions, options, report)


def _by_number(paths: Iterable[str]) -> dict[str, list[str]]:
    """Files by the number that their names begin with."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(PurePosixPath(path).stem.split("_")[0], []).append(path)
    return found


def _read_row(number: int, cells: Mapping[str, str] | None) -> Row:
    """A row with its values checked. Raises Refusal."""
    if cells is None:
        raise Refusal("more or fewer values than the header has columns", "row that cannot be read", "mend the row")
    if not cells["File Name"].isalnum():
        message = f"File Name is {cells['File Name'][:40]!r}, a number was expected"
        raise Refusal(message, "row that cannot be read", MEND)
    return Row(
        number=number,
        film=cells["File Name"],
        laterality=_known("Laterality", cells["Laterality"], {"L": "L", "R": "R"}),
        view=VIEWS[_known("View", cells["View"], VIEWS)],
        density=DENSITIES[_known("ACR", cells["ACR"], DENSITIES)],
        birads=_known("Bi-Rads", cells["Bi-Rads"].lower(), MALIGNANT),
    )


def _known(column: str, value: str, known: Mapping[str, object]) -> str:
    if value not in known:
        expected = ", ".join(repr(name) for name in known if name)
        raise Refusal(f"{column} is {value[:40]!r}, known are {expected}", "label outside the known set", MEND)
    return value


def _film(root: Path, row: Row, paths: list[str], table: str) -> tuple[DicomFile, str]:
    """The film and its patient, whom the file's name alone tells. Raises Refusal."""
    form = f"{row.film}_<patient>_MG_<L or R>_<CC or ML>_ANON.dcm"
    if not paths:
        raise Refusal(f"film {form} is not there", "film not on disk", "add the film")
    if len(paths) > 1:
        raise Refusal(f"several files of one film: {', '.join(paths[:2])}", "several files of one film", "leave one")
    named = FILM.fullmatch(PurePosixPath(paths[0]).name)
    if named is None:
        message = f"{paths[0]} does not tell its patient: {form} was expected"
        raise Refusal(message, "film without a patient", "restore the file's name")
    side, view = named[3].upper(), VIEW_OF_NAME.get(named[4].upper(), row.view)
    if side != row.laterality or (view != row.view and row.view != "other"):
        message = f"the row says {row.laterality} {row.view}, the film's name {side} {view}"
        raise Refusal(message, "row that contradicts its film", MEND)
    return DicomFile(root, paths[0], cited=table, row=row.number), named[2]


def _regions(root: Path, paths: list[str]) -> list[Roi]:
    """The regions of a film; none without a file. Raises Refusal, naming the ROI file."""
    if not paths:
        return []
    if len(paths) > 1:
        message = f"several ROI files of one film: {', '.join(paths[:2])}"
        raise Refusal(message, "several ROI files of one film", "leave one")
    [path] = paths
    try:
        document = plistlib.loads((root / path).read_bytes(), fmt=plistlib.FMT_XML)
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}", UNREADABLE, "check the file") from error
    except PLIST_ERRORS as error:
        raise Refusal(f"{path} is no property list ({type(error).__name__})", UNREADABLE, AGAIN) from error
    images = _list_of(document, "Images", dict, path)
    if len(images) != 1:
        raise Refusal(f"{path} holds regions of {len(images)} images, of 1 was expected", UNREADABLE, AGAIN)
    regions = _list_of(images[0], "ROIs", dict, path, count="NumberOfROIs")
    return [_region(region, number, f"{path}, ROI {number}") for number, region in enumerate(regions, start=1)]


def _region(region: Mapping[str, Any], number: int, place: str) -> Roi:
    name = region.get("Name", "")
    kind = KINDS.get(name.strip().lower()) if isinstance(name, str) else None
    if kind is None:
        expected = ", ".join(sorted(set(KINDS.values())))
        message = f"{place} is named {str(name)[:40]!r}, known are {expected}"
        raise Refusal(message, "label outside the known set", "correct the name")
    if kind != "mass":
        return Roi(kind, number, place)
    points = []
    for text in _list_of(region, "Point_px", str, place, count="NumberOfPoints"):
        point = POINT.fullmatch(text.strip())
        if point is None:
            raise Refusal(f"{place} has a point {text[:40]!r}, '(x, y)' was expected", UNREADABLE, AGAIN)
        points.append((float(point[1]), float(point[2])))
    try:
        _polygon.check(points)
    except Refusal as refusal:
        raise Refusal(f"{place}: {refusal.message}", refusal.reason, refusal.do) from refusal
    return Roi(kind, number, place, tuple(points))


def _list_of(parent: Any, key: str, kind: type, place: str, count: str = "") -> list[Any]:
    """`parent[key]`, a list of `kind`, as long as `parent[count]` says where that is given. Raises Refusal."""
    found = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
        raise Refusal(f"{place} has no list {key!r} of the form expected", UNREADABLE, AGAIN)
    if parent.get(count, len(found)) != len(found):
        raise Refusal(f"{place} has {len(found)} {key}, {count} says {parent[count]}", UNREADABLE, AGAIN)
    return found


def _record(row: Row, film: DicomFile, patient: str, regions: list[Roi], options: Options, report: Report) -> Record:
    masses = [region for region in regions if region.kind == "mass"]
    for kind, count in Counter(region.kind for region in regions if region.kind != "mass").items():
        report.leave_out(f"region of another kind: {kind}", count)
    if masses and options.malignant_from == "none":
        report.leave_out("not in track malignancy: no pathology is given", len(masses))
    normal = not regions and row.birads == NEGATIVE
    if not masses and not normal:
        # it shows no mass that was marked, and is no healthy breast either
        why = "other regions alone" if regions else "no region, though Bi-Rads is not 1"
        report.leave_out(f"not in track detection: {why}")
    return Record(
        dataset=CARD.name,
        record_id=public_id(CARD.name, "film", row.film),
        patient_id=patient,
        laterality=row.laterality,
        view=row.view,
        image=film,
        findings=tuple(_finding(row, film, region, options) for region in masses),
        has_mass=True if masses else False if normal else None,
        attributes={"density": row.density, "birads": row.birads},
        other_lesions=len(regions) - len(masses),
    )


def _finding(row: Row, film: DicomFile, region: Roi, options: Options) -> Finding:
    """No lesion is known to show in both views: each outline is a lesion of its own."""
    own = public_id(CARD.name, "finding", row.film, str(region.number))
    return Finding(
        finding_id=own,
        lesion_id=own,
        malignant=MALIGNANT[row.birads] if options.malignant_from == "birads" else None,
        mask=Outline(region.points, film, region.place),
    )
