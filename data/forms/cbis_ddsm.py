"""The phantom as a download of CBIS-DDSM: DICOM in four folders, labels in CSVs (docs/datasets/cbis_ddsm.md).

Normal exams are left out, as in the collection; with the quirk `calc` they show calcifications alone. Exams of the
validation side go to the training CSV.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data._cbis_csv import CALC, COLUMNS, DENSITY_OF, MARGIN_OF, MASS, SIDES
from data.cbis_ddsm import SHORT, SPLITS, table_name
from data.errors import DataError
from data.forms import Form
from data.forms._files import mask, pixels, rng, save_dicom, uid
from data.record import Finding, Record

FORM = Form(
    dataset="cbis_ddsm",
    title="CBIS-DDSM: DICOM films, masks and crops, labels in CSVs",
    options={"normal_share": 0.0, "views": 2, "masses": 2},
    quirks={
        "lf": "rows of the CSVs end in LF, not in CR LF",
        "form2017": "the mass CSVs are of the form of early 2017",
        "nbia": "files are named 1-1.dcm, 1-2.dcm",
        "descriptive": "folders are named in words, not by UIDs",
        "mask_first": "the mask is the first file of its series, whatever the CSV says",
        "own_series": "every second mask has a study and a series of its own",
        "undescribed": "no Series Description",
        "mask_size": "every fourth mask is larger than its film: to be refused",
        "missing": "every fifth film is not on disk",
        "several_margins": "every third mass has two margins, joined by -",
        "na": "every fifth mass has the margin N/A",
        "calc": "the CSVs of calcifications, too, with films and patients that stand in those of the masses",
    },
)
FILM, CROP, MASK = "image file path", "cropped image file path", "ROI mask file path"
HEADER = {
    MASS: (
        "patient_id", "breast_density", "left or right breast", "image view", "abnormality id", "abnormality type",
        "mass shape", "mass margins", "assessment", "pathology", "subtlety", FILM, CROP, MASK,
    ),
    CALC: (
        "patient_id", "breast density", "left or right breast", "image view", "abnormality id", "abnormality type",
        "calc type", "calc distribution", "assessment", "pathology", "subtlety", FILM, CROP, MASK,
    ),
}  # fmt: skip
BROKEN = {MASS: MASK, CALC: CROP}  # the path with a line end within its quotes
NUMBER = {MASS: {CROP: 0, MASK: 1}, CALC: {CROP: 1, MASK: 0}}  # of the two files, as the CSVs have it
OLD_NAMES = {names[0]: names[1] for names in COLUMNS[MASS].values() if len(names) > 1 and names[0] != "breast_density"}
MARGIN_WORDS = {margin: word for word, margin in MARGIN_OF.items()}
DENSITY_NUMBERS = {density: number for number, density in DENSITY_OF.items() if density}
SIDE_WORDS = {side: word for word, side in SIDES.items()}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # as the real files state it, although their modality is MG
SURPLUS = 8  # px by which a mask of another size is larger


@dataclass(frozen=True)
class Layout:
    """How a download names folders and files. names: as the CSV does, 1-1.dcm, or 00000001.dcm."""

    names: Literal["csv", "nbia", "nbia8"] = "csv"
    words: bool = False  # folders in words

    def path(self, cell: str, description: str, number: int | None = None) -> Path:
        """Where the file of a CSV's path lies below the data root. number: of the file, from 0, if not the CSV's."""
        folder, study, series, name = cell.strip().split("/")
        first = int(name.split(".")[0]) if number is None else number
        file = {"csv": f"{first:06d}.dcm", "nbia": f"1-{first + 1}.dcm", "nbia8": f"{first + 1:08d}.dcm"}[self.names]
        if not self.words:
            return Path("CBIS-DDSM", folder, study, series, file)
        what = description if "full" in description else "lesion"
        return Path("CBIS-DDSM", folder, f"10-04-2016-DDSM-{study[-5:]}", f"1.000000-{what}-{series[-5:]}", file)


def save_file(path: Path, grey: np.ndarray, cell: str, description: str | None, **attributes: Any) -> None:
    """A DICOM file with the attributes of the real ones: Patient ID is the folder's name."""
    folder, study, series, _ = cell.strip().split("/")
    attributes = {"SOPClassUID": SECONDARY_CAPTURE, "PatientID": folder, "SeriesDescription": description} | attributes
    save_dicom(path, grey, StudyInstanceUID=study, SeriesInstanceUID=series, **attributes)


def save_rows(path: Path, rows: Sequence[Sequence[str]], line_end: str = "\r\n") -> None:
    """Rows as TCIA writes them: CR LF between them, a value in quotes where it holds a line end."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=line_end).writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.getvalue().encode())


def old_form(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """A mass CSV in the form of early 2017: other columns, backslashes in the paths, no line end in a value."""
    header = [OLD_NAMES.get(name, name) for name in rows[0]]
    return [header, *([*row[:-3], *(path.strip().replace("/", "\\") for path in row[-3:])] for row in rows[1:])]


def write(out: Path, films: Sequence[Record], quirks: frozenset[str], told: Callable[[], None]) -> list[Record]:
    """The CSVs in `csv`, the files below `CBIS-DDSM`. What is known is of the masses, as the reader has it by default."""
    download = _Download(out, quirks)
    found = []
    for record in films:
        known = download.add(record)
        found += [known] if known is not None else []
        told()
    download.save_tables()
    return found


@dataclass
class _Download:
    """What is laid out: rows of the CSVs, and what has a number so far."""

    out: Path
    quirks: frozenset[str]
    rows: dict[tuple[str, str], list[list[str]]] = field(default_factory=dict)  # (kind, split) -> rows
    patients: dict[str, int] = field(default_factory=dict)  # of the phantom -> number
    lesions: dict[str, list[str]] = field(default_factory=dict)  # breast -> lesions in the order of their numbers
    films: int = 0
    masses: int = 0

    def add(self, record: Record) -> Record | None:
        """Lay one film out, and give it as it is to be read; None for one that is not."""
        number = self.patients.setdefault(record.patient_id, len(self.patients))
        split = "test" if record.official_split == "test" else "train"
        record = replace(record, patient_id=f"P_{number + 1:05d}", official_split=split)
        grey = pixels(record, 16)
        if "calc" in self.quirks and (not record.findings or number % 3 < 2):
            grey, cluster = _calcified(record, grey)
            crosses = record.findings and number % 3 == 1
            film = _Film(CALC, SPLITS[1 - SPLITS.index(split)] if crosses else split, record, grey)
            self._save(film, film.cell, "full mammogram images", grey)
            self._add_lesion(film, None, cluster)
        if not record.findings:
            return None
        film = _Film(MASS, split, record, grey)
        self.films += 1
        missing = "missing" in self.quirks and self.films % 5 == 0
        if not missing:
            self._save(film, film.cell, "full mammogram images", grey)
        masses = [self._add_lesion(film, f, mask(f.mask)) for f in record.findings if f.mask is not None]
        kept = tuple(finding for finding in masses if finding is not None)
        return replace(record, findings=kept) if kept and not missing else None

    def _add_lesion(self, film: "_Film", finding: Finding | None, lesion: np.ndarray) -> Finding | None:
        """Crop, mask and row of a mass, or, where `finding` is None, of a calcification; gives the mass as it is to be read.

        lesion: its mask (H, W), 0 and 255.
        """
        self.masses += finding is not None
        known = self.lesions.setdefault(film.breast, [])
        name = finding.lesion_id if finding is not None else CALC
        if name not in known:
            known.append(name)
        abnormality = known.index(name) + 1
        large, alone = self._each("mask_size", 4, finding), self._each("own_series", 2, finding)
        paths = self._save_lesion(film, f"{film.folder}_{abnormality}", lesion, large, alone)
        words, margin = self._words(finding)
        row = [*film.labels, str(abnormality), film.kind, *words, *_assessed(finding, film.record), "3", *paths]
        self.rows.setdefault((film.kind, film.split), []).append(row)
        return None if finding is None or large else replace(finding, margin=margin, fine_mask=None, box=None)

    def _save_lesion(self, film: "_Film", folder: str, lesion: np.ndarray, large: bool, alone: bool) -> list[str]:
        """Crop and mask of one lesion; gives the three paths of its row. `alone`: the mask in a series of its own."""
        y, x = np.flatnonzero(lesion.any(axis=1)), np.flatnonzero(lesion.any(axis=0))
        cells = {name: cell_of(folder, number) for name, number in NUMBER[film.kind].items()}
        cells |= {MASK: cell_of(folder, 0, "mask")} if alone else {}
        first, second = (0, 1) if "mask_first" in self.quirks and not alone else (None, None)
        self._save(film, cells[CROP], "cropped images", film.grey[y[0] : y[-1] + 1, x[0] : x[-1] + 1], second)
        self._save(film, cells[MASK], "ROI mask images", np.pad(lesion, (0, SURPLUS)) if large else lesion, first)
        return [path + "\n" * (name == BROKEN[film.kind]) for name, path in ({FILM: film.cell} | cells).items()]

    def _save(self, film: "_Film", cell: str, description: str, grey: np.ndarray, number: int | None = None) -> None:
        layout = Layout("nbia" if "nbia" in self.quirks else "csv", "descriptive" in self.quirks)
        said = None if "undescribed" in self.quirks else description
        # as in the collection: the view stands in Patient Orientation
        place = {"PatientOrientation": film.record.view, "Laterality": film.record.laterality}
        save_file(self.out / layout.path(cell, description, number), grey, cell, said, **place)

    def _each(self, quirk: str, nth: int, finding: Finding | None) -> bool:
        """Whether a quirk that meets every n-th mass meets this one."""
        return finding is not None and quirk in self.quirks and self.masses % nth == 0

    def _words(self, finding: Finding | None) -> tuple[tuple[str, str], str | None]:
        """The two columns that only masses or only calcifications have, and the margin that is to be read."""
        if finding is None:
            return ("PLEOMORPHIC", "CLUSTERED"), None
        shape, word = str(finding.attributes["shape"]).upper(), MARGIN_WORDS[str(finding.margin)]
        if self._each("several_margins", 3, finding):
            return (shape, f"{word}-OBSCURED"), None
        if self._each("na", 5, finding):
            return (shape, "N/A"), None
        return (shape, word), finding.margin

    def save_tables(self) -> None:
        """The CSVs. Raises DataError where one of the masses would have no row."""
        for kind in (MASS, CALC) if "calc" in self.quirks else (MASS,):
            for split in SPLITS:
                rows = [list(HEADER[kind]), *self.rows.get((kind, split), [])]
                if len(rows) == 1 and kind == MASS:
                    raise DataError(f"no exam with a mass for the {split} CSV", "exams", "ask for at least four exams")
                old = "form2017" in self.quirks and kind == MASS
                path = self.out / "csv" / table_name(kind, split)
                save_rows(path, old_form(rows) if old else rows, "\n" if "lf" in self.quirks else "\r\n")


@dataclass(frozen=True)
class _Film:
    """One copy of a film, in a folder of its kind and set. grey: (H, W) uint16."""

    kind: str
    split: str
    record: Record
    grey: np.ndarray

    @property
    def breast(self) -> str:
        return f"{self.record.patient_id}_{SIDE_WORDS[self.record.laterality]}"

    @property
    def folder(self) -> str:
        collection = {"train": "Training", "test": "Test"}[self.split]
        return f"{SHORT[self.kind].capitalize()}-{collection}_{self.breast}_{self.record.view}"

    @property
    def cell(self) -> str:
        return cell_of(self.folder, 0)

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns from the patient to the view."""
        density = DENSITY_NUMBERS[str(self.record.attributes["density"])]
        return self.record.patient_id, density, SIDE_WORDS[self.record.laterality], self.record.view


def cell_of(folder: str, number: int, *own: str) -> str:
    """A path as in the CSVs: folder/study/series/name."""
    return f"{folder}/{uid('study', folder, *own)}/{uid('series', folder, *own)}/{number:06d}.dcm"


def _assessed(finding: Finding | None, record: Record) -> tuple[str, str]:
    """BI-RADS assessment and pathology; the views of a lesion agree."""
    if finding is not None and finding.malignant:
        return "5", "MALIGNANT"
    who = finding.lesion_id if finding is not None else record.patient_id
    return ("2", "BENIGN_WITHOUT_CALLBACK") if rng("callback", who).uniform() < 0.2 else ("4", "BENIGN")


def _calcified(record: Record, film: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The film (H, W) with a cluster of bright specks beside its masses, and the cluster's mask (H, W) of 0 and 255."""
    draw, radius = rng("calc", record.record_id), max(3, film.shape[0] // 32)
    taken = np.any([np.asarray(f.mask.read()) for f in record.findings if f.mask is not None] or [film < 0], axis=0)
    breast = (film > film.mean()) & ~taken
    inner = np.zeros_like(breast)
    inner[radius:-radius, radius:-radius] = breast[radius:-radius, radius:-radius]
    row, column = draw.choice(np.argwhere(inner))
    y, x = np.ogrid[: film.shape[0], : film.shape[1]]
    cluster = (y - row) ** 2 + (x - column) ** 2 <= radius**2
    specks = draw.choice(np.argwhere(cluster), size=2 * radius, replace=False)
    bright = film.copy()
    bright[specks[:, 0], specks[:, 1]] = np.iinfo(film.dtype).max
    return bright, cluster.astype(np.uint8) * np.uint8(255)
