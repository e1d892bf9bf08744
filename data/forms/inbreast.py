"""The phantom as INbreast: INbreast.csv, DICOM films and OsiriX files with their regions (docs/datasets/inbreast.md)."""

import csv
import hashlib
import plistlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data._polygon import traced
from data.forms import Form
from data.forms._files import pixels, save_dicom, uid
from data.record import Finding, Record

FORM = Form(
    dataset="inbreast",
    title="one CSV, films as DICOM of 14 bits, regions as property lists",
    options={"normal_share": 0.25},
    quirks={
        "blank_acr": "no density",
        "other_regions": "regions that are no mass, in several spellings, on films without a mass, too",
        "no_regions": "every fourth film with a mass has no file of regions",
        "full_breast": "the first film has the view FB",
        "missing": "every fifth film is not there",
    },
)
HEADER = ("Patient ID", "Patient age", "Laterality", "View", "Acquisition date", "File Name", "ACR", "Bi-Rads")
ACR = {"a": "1", "b": "2", "c": "3", "d": "4"}
OTHERS = ("Calcification", "Calcifications", "Cluster", "Assymetry", "Distortion", "Point 1", "Unnamed")
BITS = 14


def write(out: Path, films: Sequence[Record], quirks: frozenset[str], told: Callable[[], None]) -> list[Record]:
    """INbreast.csv, AllDICOMs and AllXML. A film without a mass is normal where it has no region at all."""
    (out / "AllXML").mkdir()
    found, rows = [], []
    shown = bare = 0  # films with a mass, and without one
    for number, record in enumerate(films, start=1):
        film = str(20_000_000 + number)
        masses = tuple(finding for finding in record.findings if finding.mask is not None)
        shown, bare = shown + bool(masses), bare + (not masses)
        birads = _birads(masses)
        regions = [_region("Mass", traced(finding.mask.read())) for finding in masses if finding.mask is not None]
        if "no_regions" in quirks and masses and shown % 4 == 0:
            regions, masses = [], ()
        elif "other_regions" in quirks and (masses or bare % 2):
            regions += _others(number)
            birads = max(birads, "2")
        if regions:
            plist = {"Images": [{"ImageIndex": 0, "NumberOfROIs": len(regions), "ROIs": regions}]}
            (out / "AllXML" / f"{film}.xml").write_bytes(plistlib.dumps(plist))
        view = "FB" if "full_breast" in quirks and number == 1 else record.view
        acr = " " if "blank_acr" in quirks else ACR[str(record.attributes["density"])]
        rows.append(("removed", "removed", record.laterality, view, "201001", film, acr, birads))
        if "missing" not in quirks or number % 5:
            _save_film(out / "AllDICOMs", film, record)
            has_mass = True if masses else None if regions or birads != "1" else False
            found.append(_as_read(record, masses, has_mass))
        told()
    with (out / "INbreast.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=";", lineterminator="\r\n").writerows([HEADER, *rows])
    return found


def _birads(masses: Sequence[Finding]) -> str:
    """1 without a mass; else what a reader might say of a benign or a malignant one."""
    if not masses:
        return "1"
    return "4c" if any(finding.malignant for finding in masses) else "3"


def _others(number: int) -> list[dict[str, Any]]:
    """Regions that are no mass: points, and a triangle."""
    first, second = OTHERS[number % len(OTHERS)], ("Spiculated Region", "Espiculated Region")[number % 2]
    return [_region(first, [(10, 20)]), _region(second, [(10, 10), (20, 10), (15, 20)])]


def _region(name: str, points: Sequence[tuple[int, int]]) -> dict[str, Any]:
    texts = [f"({x:.6f}, {y:.6f})" for x, y in points]
    return {"Name": name, "NumberOfPoints": len(texts), "Point_px": texts}


def _save_film(folder: Path, film: str, record: Record) -> None:
    patient = hashlib.sha256(record.patient_id.encode()).hexdigest()[:16]
    view = "ML" if record.view == "MLO" else record.view
    save_dicom(
        folder / f"{film}_{patient}_MG_{record.laterality}_{view}_ANON.dcm",
        pixels(record, BITS),
        stored=BITS,
        SeriesInstanceUID=uid("inbreast", film),
        PatientID="removed",
    )


def _as_read(record: Record, masses: Sequence[Finding], has_mass: bool | None) -> Record:
    """What the form can say of a film: no margin, no pathology, no fine mask, no side."""
    findings = tuple(replace(finding, margin=None, malignant=None, fine_mask=None, box=None) for finding in masses)
    return replace(record, findings=findings, has_mass=has_mass, official_split=None)
