"""CBIS-DDSM as downloaded: the mass films, their masks and labels (docs/datasets/cbis_ddsm.md).

Lee et al. 2017, "A curated mammography data set for use in computer-aided detection and diagnosis
research", Scientific Data 4, 170177.
"""

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from data._cbis_csv import COLUMNS, Row, cited_names, margin_group, read_row
from data._cbis_files import Files, find_film, find_mask, scan, walk
from data._csv import Refusal, read_cells
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
        "train/findings": 1318,
        "test/findings": 378,
        "train/films": 1231,
        "test/films": 361,
        "train/patients": 691,
        "test/patients": 201,
        "train/margin": 864,
        "test/margin": 261,
        "train/malignant": 637,
        "test/malignant": 147,
    },
)
TABLES = {
    "train": "mass_case_description_train_set.csv",
    "test": "mass_case_description_test_set.csv",
}
FULL_HEIGHT = 2000  # px; the films as distributed are well above it, copies for deep learning well below
FETCH = "point --data-root at the folder that holds the CSVs and the DICOM files (docs/datasets/cbis_ddsm.md)"


class Options(BaseOptions):
    """What may be asked of CBIS-DDSM."""

    films: int | None = Field(None, ge=1, description="at most this many films of each official set, to try things out")


def records(root: Path | None, options: Options, report: Report) -> Iterator[Record]:
    """One Record for each mass film on disk, with a Finding for each of its masses.

    Reads the CSVs and the headers of all files first (seconds), and no pixels but where headers cannot tell a mask from
    a crop. A row whose film or mask is not there or not fit is a problem of `report`; a margin that is not exactly one
    of the track's three is None and counted as left out. Raises DataError, and LeakError for a patient in both sets.
    """
    if root is None or not root.is_dir():
        raise DataError("no folder with CBIS-DDSM", "--data-root", FETCH)
    paths = list(walk(root))
    tables = {split: _find_table(root, paths, name) for split, name in TABLES.items()}
    refused: dict[str, tuple[str, int]] = {}
    rows = {split: _read_table(root / path, report, refused) for split, path in tables.items()}
    _refuse_overlap(rows["train"], rows["test"])
    files = scan(root, [path for path in paths if not path.lower().endswith(".csv")])
    if not any(row.film.series in files.series for split in rows for row in rows[split]):
        raise DataError(f"none of the {sum(map(len, rows.values()))} films is on disk", "--data-root", FETCH)
    _report_strays(files, [row for split in rows for row in rows[split]], refused, report)
    return (record for split in rows for record in _films(files, split, rows[split], options, report))


def _find_table(root: Path, paths: list[str], name: str) -> str:
    """The path of a CSV, wherever it lies below the root; copies of it must agree."""
    found = sorted((p for p in paths if p.rsplit("/", 1)[-1].lower() == name), key=lambda p: (p.count("/"), p))
    if not found:
        raise DataError("CSV is missing", name, FETCH)
    if len(found) > 1 and len({(root / path).read_bytes().replace(b"\r", b"") for path in found}) > 1:
        raise DataError(f"{len(found)} files of this name differ: {', '.join(found[:3])}", name, "keep one of them")
    return found[0]


def _read_table(path: Path, report: Report, refused: dict[str, tuple[str, int]]) -> list[Row]:
    """The rows that can be used; the others are problems, and what they name is added to `refused`."""
    rows: list[Row] = []
    films: dict[tuple[str, str, str], Row] = {}
    lesions: dict[tuple[str, str, str, str], Row] = {}
    for number, cells in read_cells(path, path.name, COLUMNS):
        try:
            row = read_row(path.name, number, cells)
            key = (row.patient, row.side, row.view)
            first = films.setdefault(key, row)
            if first.film != row.film:
                message = f"another film for the same breast and view than row {first.number}"
                raise Refusal(message, "row that contradicts another", "correct the row")
            same = lesions.setdefault((*key, row.abnormality), row)
            if same is not row:
                message = f"the same mass in the same view as row {same.number}"
                raise Refusal(message, "row that contradicts another", "delete one of the rows")
        except Refusal as refusal:
            report.problem(path.name, number, refusal.message, refusal.do, refusal.reason)
            for name in cited_names(cells):
                refused.setdefault(name, (path.name, number))
        else:
            rows.append(row)
    return rows


def _refuse_overlap(train: list[Row], test: list[Row]) -> None:
    first = {row.patient: row for row in reversed(train)}
    for row in test:
        if row.patient in first:
            what = f"a patient of the test set is in the training set too ({first[row.patient].where})"
            raise LeakError(what, row.where, "keep the patient's rows in one of the two CSVs")


def _report_strays(files: Files, rows: list[Row], refused: dict[str, tuple[str, int]], report: Report) -> None:
    """Broken files that no usable row asks for: their folder names no series and no lesion of it. `refused`: folder or
    series -> CSV and row, of the rows that cannot be used."""
    places = {place for row in rows for place in (row.film, *row.lesion)}
    claimed = {name for place in places for name in (place.series, place.folder)}
    for path, what in files.broken.items():
        folders = path.split("/")[:-1]
        if not claimed.intersection(folders) and not any(folder.startswith("Calc-") for folder in folders):
            table, number = next((refused[name] for name in reversed(folders) if name in refused), ("", None))
            file = f"{path}, cited in {table}" if table else path
            report.problem(file, number, what, "download the file again", "file that is not DICOM")


def _films(files: Files, split: str, rows: list[Row], options: Options, report: Report) -> Iterator[Record]:
    by_film: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        by_film.setdefault((row.patient, row.side, row.view), []).append(row)
    given = 0
    for film_rows in by_film.values():
        if options.films is not None and given >= options.films:
            report.leave_out("beyond the number of films asked for", len(film_rows))
            continue
        record = _record(files, split, film_rows, report)
        if record is not None:
            given += 1
            yield record


def _record(files: Files, split: str, rows: list[Row], report: Report) -> Record | None:
    """A film with those of its masses that can be used; None where none can."""
    film: Header | None = None
    findings = []
    for row in rows:
        try:
            film = film or find_film(files, row.film)
            findings.append(_finding(files, row, film, report))
        except Refusal as refusal:
            report.problem(row.file, row.number, refusal.message, refusal.do, refusal.reason)
    if film is None or not findings:
        return None
    first = rows[0]
    return Record(
        dataset=CARD.name,
        record_id=public_id(CARD.name, "film", first.patient, first.side, first.view),
        patient_id=first.patient,
        laterality=first.side,
        view=first.view,
        image=DicomFile(files.root, film.path, cited=first.file, row=first.number),
        findings=tuple(findings),
        has_mass=True,
        official_split=split,
        attributes={"density": first.density, "grade": "full" if film.rows >= FULL_HEIGHT else "reduced"},
    )


def _finding(files: Files, row: Row, film: Header, report: Report) -> Finding:
    mask = find_mask(files, row.lesion, film)
    if row.margin is None:
        report.leave_out(f"not in track margin: {margin_group(row.margin_text)}")
    return Finding(
        finding_id=public_id(CARD.name, "finding", row.patient, row.side, row.view, row.abnormality),
        lesion_id=public_id(CARD.name, "lesion", row.patient, row.side, row.abnormality),
        margin=row.margin,
        malignant=row.malignant,
        mask=DicomFile(files.root, mask.path, mask=True, cited=row.file, row=row.number),
        attributes={
            "assessment": row.assessment,
            "shape": row.shape,
            "subtlety": row.subtlety,
            "margin_text": row.margin_text,
            "pathology": row.pathology,
        },
    )
