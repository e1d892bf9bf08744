"""BCDR-D01 and BCDR-F01 as downloaded: masses with outlines and a pathology, no margins (docs/datasets/bcdr.md).

Guevara Lopez et al. 2012, "BCDR: a breast cancer digital repository", 15th International Conference on Experimental
Mechanics. D01 holds digital mammograms, F01 digitised films.
"""

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from pydantic import Field

from data import _polygon
from data._csv import Refusal, read_cells
from data._polygon import Outline
from data._walk import walk
from data.dicom import ImageFile
from data.errors import DataError
from data.record import DataCard, Finding, Record, Report, public_id
from data.record import Options as BaseOptions

CARD = DataCard(
    name="bcdr",
    title="BCDR-D01 and BCDR-F01, masses with outlines",
    version=1,
    tracks=("malignancy",),
    provides=frozenset({"malignant", "mask", "box"}),
    licence="on registration with the Breast Cancer Digital Repository; not to be passed on",
    source="Breast Cancer Digital Repository: BCDR-D01 and BCDR-F01, unpacked below one folder",
    published_counts={"masses": 274, "benign": 144, "malignant": 130},  # of the default selection
)
SETS = ("d01", "f01")
F01_DRAW: Mapping[bool, int] = {False: 59, True: 74}  # benign and malignant masses of F01 in the default selection
MASS = "mammography_nodule"
OTHER = {
    "mammography_calcification": "calcification",
    "mammography_microcalcification": "microcalcification",
    "mammography_axillary_adenopathy": "axillary adenopathy",
    "mammography_architectural_distortion": "architectural distortion",
    "mammography_stroma_distortion": "stroma distortion",
}
COLUMNS = (
    "patient_id", "study_id", "lesion_id", "segmentation_id", "image_view", "image_filename", "lw_x_points", "lw_y_points",
    MASS, *OTHER, "density", "classification",
)  # fmt: skip
VIEWS = {"1": ("R", "CC"), "2": ("L", "CC"), "3": ("R", "MLO"), "4": ("L", "MLO")}
NAMED_VIEW = re.compile(r"_(RCC|LCC|RO|LO)$", re.IGNORECASE)  # O: oblique, which is MLO
VIEW_OF_NAME = {"rcc": "1", "lcc": "2", "ro": "3", "lo": "4"}
MALIGNANT = {"benign": False, "malign": True, "malignant": True}
DENSITIES = {"1": "a", "2": "b", "3": "c", "4": "d", "": None, "nan": None}
SUFFIXES = (".tif", ".tiff", ".png")
SET_NAME = re.compile(r"(?<![a-z0-9])[df][0-9]{2}(?![a-z0-9])")
FETCH = "point --data-root at the folder that holds BCDR-D01 and BCDR-F01 (docs/datasets/bcdr.md)"
MEND = "correct the row"
Lost = Counter[tuple[str, bool]]  # rows that gave no finding, by film of the set and whether they are of a mass


class Options(BaseOptions):
    """What may be asked of BCDR."""

    sets: Literal["d01+f01", "d01", "f01"] = Field("d01+f01", description="which of the two sets")
    selection: Literal["paper003", "all"] = Field(
        "paper003",
        description="paper003: all masses of D01, and of F01 59 benign and 74 malignant ones that are drawn; all: every outline",
    )
    draw_seed: int = Field(0, ge=0, description="which masses of F01 are drawn; the paper gives no list")


@dataclass(frozen=True)
class Row:
    """One outline. Ids as text; `image` as the CSV names it, relative to the CSV's folder."""

    name: str  # of the set
    file: str  # the CSV, relative to the data root
    number: int  # counts the rows below the header from 1
    patient: str
    study: str
    lesion: str
    segmentation: str
    laterality: str
    view: str
    image: str
    kind: str
    malignant: bool
    density: str | None
    points: tuple[tuple[int, int], ...]

    @property
    def key(self) -> tuple[str, ...]:
        """What tells this outline from the others of its set, wherever it stands in the CSV."""
        return self.patient, self.study, self.lesion, self.segmentation, self.image

    @property
    def of_film(self) -> dict[str, str | None]:
        """What the rows of a film have in common."""
        view = f"{self.laterality} {self.view}"
        return {"patient_id": self.patient, "study_id": self.study, "image_view": view, "density": self.density}


def records(root: Path | None, options: Options, report: Report) -> Iterator[Record]:
    """One Record for each film with an outline that is asked for, set by set in the order of the CSVs.

    Reads the CSVs and the folder's list, no film. A row that cannot be used and a film that is not there are problems of
    `report`; what the selection does not take is left out, counted. Raises DataError where a set is not there.
    """
    if root is None or not root.is_dir():
        raise DataError("no folder with BCDR", "--data-root", FETCH)
    paths = dict.fromkeys(walk(root))
    for name, file in _find_tables(paths, options, report).items():
        lost: Lost = Counter()
        rows = _read_table(root, name, file, report, lost)
        films: dict[str, list[Row]] = {}
        selected = _selected(name, rows, options, report)
        for row in selected:
            films.setdefault(row.image, []).append(row)
        taken = {row.key for row in selected}
        lost.update((_film_name(row.image), row.kind == "mass") for row in rows if row.key not in taken)
        for own in films.values():
            try:
                image = _film(root, paths, own[0])
            except Refusal as refusal:
                for row in own:
                    report.problem(row.file, row.number, refusal.message, refusal.do, refusal.reason)
                continue
            yield _record(image, own, lost)


def draw(rows: Sequence[Row], seed: int) -> frozenset[tuple[str, ...]]:
    """Keys of the masses of F01 that the default selection takes; all of a class that has no more of them than asked for.

    Depends on the rows alone: not on their order, nor on the files on disk. The classes are drawn apart.
    """
    drawn: set[tuple[str, ...]] = set()
    for stream, (malignant, wanted) in enumerate(F01_DRAW.items()):
        pool = sorted(row.key for row in rows if row.malignant == malignant)
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(stream,))))
        drawn.update(pool[i] for i in rng.permutation(len(pool))[:wanted])
    return frozenset(drawn)


def _find_tables(paths: Iterable[str], options: Options, report: Report) -> dict[str, str]:
    """The CSV of each set that is asked for, wherever it lies below the root."""
    found: dict[str, list[str]] = {}
    for path in paths:
        if path.lower().endswith("_outlines.csv"):
            name = _set_of(path)
            if name is None:
                what = "outlines of neither BCDR-D01 nor BCDR-F01"
                report.problem(path, None, what, "move the set out of --data-root", "outlines of another set")
            else:
                found.setdefault(name, []).append(path)
    wanted = options.sets.split("+")
    for name in wanted:
        if name not in found:
            others = [other for other in found if other != name]
            do = f"add the set, or ask for the other one: --set sets={others[0]}" if others else FETCH
            raise DataError(f"no outlines of BCDR-{name.upper()}", f"bcdr_{name}_outlines.csv", do)
        if len(found[name]) > 1:
            what = f"{len(found[name])} files hold the outlines of BCDR-{name.upper()}"
            raise DataError(what, ", ".join(found[name][:3]), "leave one of them")
    return {name: found[name][0] for name in wanted}


def _set_of(path: str) -> str | None:
    """d01 or f01, as the CSV's name says, or else its folder's; None for anything else."""
    place = PurePosixPath(path.lower())
    for text in (place.name, place.parent.name):
        if told := set(SET_NAME.findall(text)):
            return told.pop() if len(told) == 1 and told <= set(SETS) else None
    return None


def _read_table(root: Path, name: str, file: str, report: Report, lost: Lost) -> list[Row]:
    """The rows that can be used; the others are problems, and are added to `lost`."""
    rows: list[Row] = []
    outlines: dict[tuple[str, ...], Row] = {}
    films: dict[str, Row] = {}
    for number, cells in read_cells(root / file, file, {column: (column,) for column in COLUMNS}):
        try:
            row = _read_row(name, file, number, cells)
            if row.key in outlines:
                message = f"the same segmentation as in row {outlines[row.key].number}"
                raise Refusal(message, "row that contradicts another", "delete one of the rows")
            _same_film(films.get(row.image, row), row)
        except Refusal as refusal:
            report.problem(file, number, refusal.message, refusal.do, refusal.reason)
            if cells is not None:
                other = cells[MASS] == "0" and any(cells[column] == "1" for column in OTHER)
                lost[_film_name(cells["image_filename"]), not other] += 1
            continue
        outlines[row.key] = row
        films.setdefault(row.image, row)
        rows.append(row)
    return rows


def _read_row(name: str, file: str, number: int, cells: Mapping[str, str] | None) -> Row:
    """A row with its values checked. Raises Refusal."""
    if cells is None:
        raise Refusal("more or fewer values than the header has columns", "row that cannot be read", "mend the row")
    for column in ("patient_id", "study_id", "lesion_id", "segmentation_id"):
        if not cells[column]:
            raise Refusal(f"{column} is empty", "row that cannot be read", f"fill in {column}")
    laterality, view = VIEWS[_known("image_view", cells["image_view"], VIEWS)]
    return Row(
        name=name,
        file=file,
        number=number,
        patient=cells["patient_id"],
        study=cells["study_id"],
        lesion=cells["lesion_id"],
        segmentation=cells["segmentation_id"],
        laterality=laterality,
        view=view,
        image=_image(cells["image_filename"], cells["image_view"]),
        kind=_kind(cells),
        malignant=MALIGNANT[_known("classification", cells["classification"].lower(), MALIGNANT)],
        density=DENSITIES[_known("density", cells["density"].lower(), DENSITIES)],
        points=_points(cells["lw_x_points"], cells["lw_y_points"]),
    )


def _known(column: str, value: str, known: Mapping[str, object]) -> str:
    if value not in known:
        expected = ", ".join(repr(name) for name in known if name)
        raise Refusal(f"{column} is {value[:40]!r}, known are {expected}", "label outside the known set", MEND)
    return value


def _image(text: str, code: str) -> str:
    """The film's path, which stays in the set's folder and names the view that the row's code means."""
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in text:
        raise Refusal("image_filename leads out of the set's folder", "path that cannot be used", MEND)
    if path.suffix.lower() not in SUFFIXES:
        message = f"image_filename is {text[-60:]!r}, a .tif or .png was expected"
        raise Refusal(message, "path that cannot be used", MEND)
    named = NAMED_VIEW.search(path.stem)
    if named is not None and VIEW_OF_NAME[named[1].lower()] != code:
        message = f"image_view {code} is not the view in the film's name, {named[1]}"
        raise Refusal(message, "row that contradicts itself", MEND)
    return path.as_posix()


def _film_name(text: str) -> str:
    """What names a film, also in a row that is refused: its path without the suffix."""
    return PurePosixPath(text.replace("\\", "/")).as_posix().rsplit(".", 1)[0]


def _kind(cells: Mapping[str, str]) -> str:
    """Mass where the row says so, whatever else it says; else what its flags name."""
    for column in (MASS, *OTHER):
        _known(column, cells[column], {"0": False, "1": True})
    if cells[MASS] == "1":
        return "mass"
    return " and ".join(kind for column, kind in OTHER.items() if cells[column] == "1") or "other"


def _points(xs: str, ys: str) -> tuple[tuple[int, int], ...]:
    try:
        x, y = ([int(value) for value in text.split()] for text in (xs, ys))
    except ValueError as error:
        message = "lw_x_points and lw_y_points are not whole numbers with blanks between"
        raise Refusal(message, "outline that cannot be read", MEND) from error
    if len(x) != len(y):
        message = f"lw_x_points has {len(x)} values, lw_y_points {len(y)}"
        raise Refusal(message, "outline that cannot be read", MEND)
    points = tuple(zip(x, y, strict=True))
    _polygon.check(points)
    return points


def _same_film(first: Row, row: Row) -> None:
    for column, value in row.of_film.items():
        if (other := first.of_film[column]) != value:
            message = f"{column} is {value!r}, in row {first.number} of the same film {other!r}"
            raise Refusal(message, "row that contradicts another", "make the rows of a film agree")


def _selected(name: str, rows: list[Row], options: Options, report: Report) -> list[Row]:
    """The rows that the selection takes; the others are counted."""
    if options.selection == "all":
        return rows
    masses = [row for row in rows if row.kind == "mass"]
    for row in rows:
        if row.kind != "mass":
            report.leave_out(f"not a mass: {row.kind}")
    if name != "f01":
        return masses
    for malignant, wanted in F01_DRAW.items():
        missing = wanted - sum(row.malignant == malignant for row in masses)
        if missing > 0:
            word = "malignant" if malignant else "benign"
            report.leave_out(f"not there to be drawn: {word} mass of F01, {wanted} are asked for", missing)
    drawn = draw(masses, options.draw_seed)
    if undrawn := len(masses) - len(drawn):
        report.leave_out("mass of F01 that was not drawn", undrawn)
    return [row for row in masses if row.key in drawn]


def _film(root: Path, paths: Container[str], row: Row) -> ImageFile:
    """The film that a row names, or the same film in the other format. Raises Refusal."""
    named = PurePosixPath(row.file).parent / row.image
    for path in (named.as_posix(), *(named.with_suffix(suffix).as_posix() for suffix in SUFFIXES)):
        if path in paths:
            return ImageFile(root, path, cited=row.file, row=row.number)
    raise Refusal(f"film {row.image} is not there", "film not on disk", "add the film")


def _record(image: ImageFile, rows: list[Row], lost: Lost) -> Record:
    first = rows[0]
    film = _film_name(first.image)
    return Record(
        dataset=CARD.name,
        record_id=public_id(CARD.name, "film", first.name, first.image),
        patient_id=f"{first.name} {first.patient}",  # the two sets count their patients apart
        laterality=first.laterality,
        view=first.view,
        image=image,
        findings=tuple(_finding(image, row) for row in rows),
        # a film with another finding alone shows no mass that was marked, and is no healthy breast either
        has_mass=True if any(row.kind == "mass" for row in rows) else None,
        attributes={"density": first.density, "set": first.name},
        unlisted=lost[film, True],
        other_lesions=lost[film, False],
    )


def _finding(image: ImageFile, row: Row) -> Finding:
    return Finding(
        finding_id=public_id(CARD.name, "finding", row.name, *row.key),
        lesion_id=public_id(CARD.name, "lesion", row.name, row.patient, row.lesion),
        kind=row.kind,
        malignant=row.malignant,
        mask=Outline(row.points, image, row.file, row.number),
    )
