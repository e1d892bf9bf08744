"""A folder laid out as VinDr-Mammo's, with its two CSVs, and what its reader gives."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data._vindr_csv import BREASTS, FINDINGS, OF_FILM, OF_FINDING
from data.forms._files import save_dicom
from data.record import Record, Report
from data.vindr_mammo import Options, records

VIEWS = (("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO"))
NOTHING = "['No Finding'],,,,,"
# study: split, density, breast BI-RADS left and right, and the rows of L CC, L MLO, R CC, R MLO from finding_categories on
STUDIES: dict[str, tuple[str, str, str, list[list[str]]]] = {
    "a": ("training", "C", "14", [
        [NOTHING],
        [NOTHING],
        ["['Mass'],BI-RADS 4,36.0000000000,42.3800000000,48.0000000000,53.8200000000",
         "['Mass'],BI-RADS 3,10.0000000000,29.3600000000,18.0000000000,35.2600000000"],
        ['"[\'Mass\', \'Nipple Retraction\']",BI-RADS 4,48.0000000000,31.3000000000,60.8000000000,42.7400000000'],
    ]),
    "b": ("training", "B", "51", [
        ["['Suspicious Calcification'],BI-RADS 5,16.0000000000,15.4000000000,28.0000000000,26.4800000000",
         "['Skin Thickening'],,-1.2000000000,31.8000000000,14.0000000000,71.8000000000"],
        ['"[\'Suspicious Calcification\', \'Mass\']",,0.7000000000,27.9600000000,20.2000000000,48.0400000000'],
        [NOTHING],
        [NOTHING],
    ]),
    "c": ("training", "A", "12", [[NOTHING], [NOTHING], [NOTHING], [NOTHING]]),
    "d": ("test", "D", "31", [
        [NOTHING],
        ["['Mass'],BI-RADS 3,8.0000000000,-0.5000000000,20.0000000000,57.0600000000"],
        ["['Focal Asymmetry'],BI-RADS 3,6.0000000000,6.0000000000,20.2000000000,30.9600000000"],
        [NOTHING],
    ]),
    "e": ("test", "C", "13", [[NOTHING], [NOTHING], [NOTHING], [NOTHING]]),
}  # fmt: skip
HEIGHT, WIDTH = 80, 60


def name(*parts: object) -> str:
    """32 hex digits, as the ids of the collection are."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def film(study: str, position: int) -> str:
    return name("image", study, position)


def tables(studies: Iterable[str] = STUDIES) -> dict[str, list[str]]:
    """The lines of both CSVs."""
    head = ",".join(OF_FILM[:-1])
    lines = {FINDINGS: [f"{head},{','.join(OF_FINDING)},split"], BREASTS: [f"{head},split"]}
    for study in studies:
        split, density, birads, views = STUDIES[study]
        for position, (side, view) in enumerate(VIEWS):
            own = f"{name(study)},{name('series', study)},{film(study, position)},{side},{view},{HEIGHT},{WIDTH}"
            own += f",BI-RADS {birads[side == 'R']},DENSITY {density}"
            lines[BREASTS].append(f"{own},{split}")
            lines[FINDINGS] += [f"{own},{row},{split}" for row in views[position]]
    return lines


def tree(folder: Path, lines: dict[str, list[str]] | None = None, films: bool = False) -> Path:
    """The CSVs, and a file for each film: empty, since a reader decodes nothing, or a DICOM film."""
    folder.mkdir(parents=True, exist_ok=True)
    for table, rows in (lines or tables()).items():
        (folder / table).write_text("\n".join(rows) + "\n", encoding="utf-8")
    for study in STUDIES:
        for position in range(4):
            path = folder / "images" / name(study) / f"{film(study, position)}.dicom"
            path.parent.mkdir(parents=True, exist_ok=True)
            if films:
                rng = np.random.default_rng([ord(study), position])
                save_dicom(path, rng.integers(0, 4096, (HEIGHT, WIDTH), dtype=np.uint16), stored=12)
            else:
                path.write_bytes(b"")
    return folder


def read(root: Path, *, skip_bad: bool = False, **options: Any) -> tuple[list[Record], Report]:
    report = Report(skip_bad=skip_bad)
    return list(records(root, Options(**options), report)), report


def by_film(found: Iterable[Record]) -> dict[str, Record]:
    """Records by the stem of their file."""
    return {Path(record.image.name).stem: record for record in found}
