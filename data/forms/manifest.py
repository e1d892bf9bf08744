"""The phantom as one CSV with PNG films and masks, fine annotations included (docs/datasets/manifest.md)."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data.forms import Form
from data.forms._files import mask, pixels, rng, save_dicom, save_image, uid
from data.manifest import COLUMNS
from data.record import Finding, Pixels, Record

FORM = Form(
    dataset="manifest",
    title="one CSV, films and masks as PNG",
    options={"normal_share": 0.25},
    quirks={
        "excel": "the CSV begins with a byte order mark and ends its rows in CR LF",
        "deep": "films have 16 bits",
        "dicom": "films are DICOM, a third of them MONOCHROME1",
        "boxes": "no masks: boxes alone",
        "capitals": "labels in capitals, sides in words",
    },
)


def write(out: Path, films: Sequence[Record], quirks: frozenset[str], told: Callable[[], None]) -> list[Record]:
    """manifest.csv and a folder for each kind of file."""
    excel = "excel" in quirks
    with (out / "manifest.csv").open("w", encoding="utf-8-sig" if excel else "utf-8", newline="") as stream:
        table = csv.DictWriter(stream, list(COLUMNS), lineterminator="\r\n" if excel else "\n")
        table.writeheader()
        for record in films:
            image = _film(out, record, 16 if "deep" in quirks else 8, "dicom" in quirks)
            for row in _rows(out, record, quirks):
                table.writerow(_spelt({**row, "image": image}, "capitals" in quirks))
            told()
    return list(films)


def _film(out: Path, record: Record, bits: int, dicom: bool) -> str:
    grey = pixels(record, bits)
    if not dicom:
        path = f"films/{record.record_id}.png"
        save_image(out / path, grey)
        return path
    path = f"films/{record.record_id}.dcm"
    inverted = rng("manifest polarity", record.record_id).uniform() < 1 / 3
    save_dicom(
        out / path,
        np.iinfo(grey.dtype).max - grey if inverted else grey,
        SeriesInstanceUID=uid("manifest", record.record_id),
        PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2",
    )
    return path


def _rows(out: Path, record: Record, quirks: frozenset[str]) -> Iterator[dict[str, str]]:
    film = {
        "patient": record.patient_id,
        "laterality": record.laterality,
        "view": record.view,
        "density": str(record.attributes["density"]),
        "grade": "synthetic",
        "split": record.official_split or "",
    }
    if not record.findings:
        yield film | {"finding": "normal"}
    for finding in record.findings:
        row = film | {
            "finding": "mass",
            "lesion": finding.lesion_id,
            "margin": finding.margin or "",
            "pathology": "malignant" if finding.malignant else "benign",
        }
        if finding.box is not None:
            row["box"] = " ".join(map(str, finding.box))
        if "boxes" not in quirks:
            row["mask"] = _saved(out, "masks", finding, finding.mask)
            row["fine_mask"] = _saved(out, "fine", finding, finding.fine_mask)
        yield row


def _saved(out: Path, folder: str, finding: Finding, drawn: Pixels | None) -> str:
    if drawn is None:
        return ""
    path = f"{folder}/{finding.finding_id}.png"
    save_image(out / path, mask(drawn))
    return path


def _spelt(row: dict[str, str], capitals: bool) -> dict[str, str]:
    if not capitals:
        return row
    words = {"laterality": {"L": "Left", "R": "Right"}}
    loud = ("finding", "margin", "pathology", "density", "split")
    return {
        key: words[key].get(value, value) if key in words else value.upper() if key in loud else value
        for key, value in row.items()
    }
