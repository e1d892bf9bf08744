"""CBIS-DDSM as downloaded: films, masks and labels of masses, on request of calcifications (docs/datasets/cbis_ddsm.md).

Lee et al. 2017, "A curated mammography data set for use in computer-aided detection and diagnosis
research", Scientific Data 4, 170177.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from data._cbis_csv import CALC, COLUMNS, MASS, SIDES, VIEWS, Row, cited_names, margin_group, read_row
from data._cbis_files import Files, find_film, find_mask, scan
from data._csv import Refusal, read_cells
from data._walk import find_table, walk
from data.dicom import DicomFile, Header
from data.errors import DataError, LeakError
from data.record import DataCard, Finding, Record, Report, public_id
from data.record import Options as BaseOptions

CARD = DataCard(
    name="cbis_ddsm",
    title="CBIS-DDSM, mass films",
    version=2,
    tracks=("margin", "malignancy"),
    provides=frozenset({"margin", "malignant", "mask", "box"}),
    licence="CC BY 3.0",
    source="The Cancer Imaging Archive, collection CBIS-DDSM, doi 10.7937/K9/TCIA.2016.7O02S9CY (163 GB whole)",
    published_counts={
        "train/masses": 1318,
        "test/masses": 378,
        "train/mass films": 1231,
        "test/mass films": 361,
        "train/mass patients": 691,
        "test/mass patients": 201,
        "train/margin": 864,
        "test/margin": 261,
        "train/malignant": 637,
        "test/malignant": 147,
    },
)
SPLITS = ("train", "test")
KINDS = {"mass": (MASS,), "mass+calc": (MASS, CALC), "calc": (CALC,)}  # masses first: theirs is the film
SHORT = {MASS: "mass", CALC: "calc"}  # in the names of CSVs and, with a capital, of folders
FULL_HEIGHT = 2000  # px; the films as distributed are well above it, copies for deep learning well below
FETCH = "point --data-root at the folder that holds the CSVs and the DICOM files (docs/datasets/cbis_ddsm.md)"
Tables = dict[tuple[str, str], list[Row]]  # (kind, split) -> rows
Lost = defaultdict[object, set[tuple[str, str, int]]]  # what names a film -> kind, CSV and row of a lesion left out


class Options(BaseOptions):
    """What may be asked of CBIS-DDSM."""

    films: int | None = Field(None, ge=1, description="at most this many films of each official set, to try things out")
    kinds: Literal["mass", "mass+calc", "calc"] = Field("mass", description="which CSVs and their lesions are read")
    crossing: Literal["drop_calc", "drop", "to_test"] = Field(
        "drop_calc",
        description="with mass+calc, a patient of a training and a test CSV: without her calcifications; left out; or all "
        "on the test side",
    )

    @field_validator("crossing")
    @classmethod
    def _crossing_needs_two_kinds(cls, crossing: str, info: ValidationInfo) -> str:
        if crossing != "drop_calc" and info.data.get("kinds") != "mass+calc":
            raise ValueError("it is of use with kinds mass+calc alone")
        return crossing


def table_name(kind: str, split: str) -> str:
    """File name of one of the four CSVs."""
    return f"{SHORT[kind]}_case_description_{split}_set.csv"


def records(root: Path | None, options: Options, report: Report) -> Iterator[Record]:
    """One Record for each film on disk, with a Finding for each of its lesions of the kinds asked for.

    Reads the CSVs and the headers of all files first (seconds), and no pixels but where headers cannot tell a mask from
    a crop. A row whose film or mask is not there or not fit is a problem of `report`; a margin that is not exactly one
    of the track's three is None and counted as left out. Raises DataError, and LeakError for a patient in both sets of
    a kind.
    """
    if root is None or not root.is_dir():
        raise DataError("no folder with CBIS-DDSM", "--data-root", FETCH)
    paths = list(walk(root))
    wanted = [(kind, split) for kind in KINDS[options.kinds] for split in SPLITS]
    found = {(kind, split): find_table(root, paths, table_name(kind, split), FETCH) for kind, split in wanted}
    refused: dict[str, tuple[str, int]] = {}
    lost: Lost = defaultdict(set)
    tables = {key: _read_table(key[0], root / path, report, refused, lost) for key, path in found.items()}
    for kind in KINDS[options.kinds]:
        _refuse_overlap(tables[kind, "train"], tables[kind, "test"])
    rows = [row for table in tables.values() for row in table]
    files = scan(root, [path for path in paths if not path.lower().endswith(".csv")])
    if not any(row.film.series in files.series for row in rows):
        raise DataError(f"none of the {len(rows)} films is on disk", "--data-root", FETCH)
    unread = tuple(f"{SHORT[kind].capitalize()}-" for kind in SHORT if kind not in KINDS[options.kinds])
    _report_strays(files, rows, refused, unread, report)
    sides = _sides(tables, options, report, lost)
    return (record for split in SPLITS for record in _films(files, split, sides[split], options, report, lost))


def _read_table(kind: str, path: Path, report: Report, refused: dict[str, tuple[str, int]], lost: Lost) -> list[Row]:
    """The rows that can be used; the others are problems, and what they name is added to `refused` and `lost`."""
    rows: list[Row] = []
    films: dict[tuple[str, str, str], Row] = {}
    lesions: dict[tuple[str, str, str, str], Row] = {}
    masks: dict[str, Row] = {}
    for number, cells in read_cells(path, path.name, COLUMNS[kind]):
        try:
            row = read_row(kind, path.name, number, cells)
            key = (row.patient, row.side, row.view)
            first = films.setdefault(key, row)
            if first.film != row.film:
                message = f"another film for the same breast and view than row {first.number}"
                raise Refusal(message, "row that contradicts another", "correct the row")
            same = lesions.setdefault((*key, row.abnormality), row)
            if same is not row:
                message = f"the same {kind} in the same view as row {same.number}"
                raise Refusal(message, "row that contradicts another", "delete one of the rows")
            for place in row.lesion:
                if (other := masks.setdefault(place.series, row)) is not row:
                    message = f"the mask or crop of row {other.number} again"
                    raise Refusal(message, "row that contradicts another", "correct the row")
        except Refusal as refusal:
            report.problem(path.name, number, refusal.message, refusal.do, refusal.reason)
            for name in cited_names(cells):
                refused.setdefault(name, (path.name, number))
            for film in (*cited_names(cells), _film_key(cells)):
                lost[film].add((kind, path.name, number))
        else:
            rows.append(row)
    return rows


def _film_key(cells: dict[str, str] | None) -> tuple[str, str | None, str | None]:
    """Patient, side and view of a row that cannot be used as a whole; with None for what it does not say."""
    cells = cells or {}
    return cells.get("patient", "").upper(), SIDES.get(cells.get("side", "")), VIEWS.get(cells.get("view", ""))


def _refuse_overlap(train: list[Row], test: list[Row]) -> None:
    first = {row.patient: row for row in reversed(train)}
    for row in test:
        if row.patient in first:
            what = f"a patient of the test set is in the training set too ({first[row.patient].where})"
            raise LeakError(what, row.where, "keep the patient's rows in one of the two CSVs")


def _sides(tables: Tables, options: Options, report: Report, lost: Lost) -> dict[str, list[Row]]:
    """The rows of each side, masses first, with every patient on one side."""
    patients = {
        split: {row.patient for (_, its), rows in tables.items() if its == split for row in rows} for split in SPLITS
    }
    crossing = patients["train"] & patients["test"]
    sides: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for (kind, split), rows in tables.items():
        for row in rows:
            if row.patient not in crossing or (options.crossing == "drop_calc" and kind == MASS):
                sides[split].append(row)
            elif options.crossing == "to_test":
                sides["test"].append(row)
            else:
                report.leave_out("patient in a training and a test CSV")
                lost[row.patient, row.side, row.view].add((kind, row.file, row.number))
    return sides


def _report_strays(
    files: Files, rows: list[Row], refused: dict[str, tuple[str, int]], unread: tuple[str, ...], report: Report
) -> None:
    """Broken files that no usable row asks for: their folder names no series and no lesion of it. `refused`: folder or
    series -> CSV and row, of the rows that cannot be used. `unread`: how folders begin whose CSV was not asked for."""
    places = {place for row in rows for place in (row.film, *row.lesion)}
    claimed = {name for place in places for name in (place.series, place.folder)}
    for path, what in files.broken.items():
        folders = path.split("/")[:-1]
        if not claimed.intersection(folders) and not any(folder.startswith(unread) for folder in folders):
            table, number = next((refused[name] for name in reversed(folders) if name in refused), ("", None))
            file = f"{path}, cited in {table}" if table else path
            report.problem(file, number, what, "download the file again", "file that is not DICOM")


def _films(files: Files, split: str, rows: list[Row], options: Options, report: Report, lost: Lost) -> Iterator[Record]:
    by_film: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        by_film.setdefault((row.patient, row.side, row.view), []).append(row)
    given = 0
    for film_rows in by_film.values():
        if options.films is not None and given >= options.films:
            report.leave_out("beyond the number of films asked for", len(film_rows))
            continue
        record = _record(files, split, film_rows, report, lost)
        if record is not None:
            given += 1
            yield record


def _record(files: Files, split: str, rows: list[Row], report: Report, lost: Lost) -> Record | None:
    """A film with those of its lesions that can be used; None where none can.

    A film that shows a mass and a calcification is in the collection twice, in a folder for each. Its copy of the first
    row that has one on disk is the film, that of the masses if there is one.
    """
    film: Header | None = None
    cited = rows[0]
    findings = []
    names = [(cited.patient, cited.side, cited.view), *(row.film.series for row in rows)]
    left_out = {lesion for name in names for lesion in lost.get(name, ())}
    for row in rows:
        try:
            if film is None:
                film, cited = find_film(files, row.film), row
            findings.append(_finding(files, row, film, report))
        except Refusal as refusal:
            report.problem(row.file, row.number, refusal.message, refusal.do, refusal.reason)
            left_out.add((row.kind, row.file, row.number))
    if film is None or not findings:
        return None
    return Record(
        dataset=CARD.name,
        record_id=public_id(CARD.name, "film", cited.patient, cited.side, cited.view),
        patient_id=cited.patient,
        laterality=cited.side,
        view=cited.view,
        image=DicomFile(files.root, film.path, cited=cited.file, row=cited.number),
        findings=tuple(findings),
        # a film without a row in the mass CSVs is not said to be free of masses
        has_mass=any(finding.kind == MASS for finding in findings) or None,
        official_split=split,
        attributes={"density": cited.density, "grade": "full" if film.rows >= FULL_HEIGHT else "reduced"},
        unlisted=sum(kind == MASS for kind, _, _ in left_out),
        other_lesions=sum(kind != MASS for kind, _, _ in left_out),
    )


def _finding(files: Files, row: Row, film: Header, report: Report) -> Finding:
    mask = find_mask(files, row.lesion, film)
    if row.kind == MASS and row.margin is None:
        report.leave_out(f"not in track margin: {margin_group(row.words['margin_text'])}")
    # ids of masses are as before there were calcifications
    what = ("finding", "lesion") if row.kind == MASS else (f"{row.kind} finding", f"{row.kind} lesion")
    return Finding(
        finding_id=public_id(CARD.name, what[0], row.patient, row.side, row.view, row.abnormality),
        lesion_id=public_id(CARD.name, what[1], row.patient, row.side, row.abnormality),
        kind=row.kind,
        margin=row.margin,
        malignant=row.malignant,
        mask=DicomFile(files.root, mask.path, mask=True, cited=row.file, row=row.number),
        attributes={
            "assessment": row.assessment,
            "subtlety": row.subtlety,
            "pathology": row.pathology,
            **row.words,
        },
    )
