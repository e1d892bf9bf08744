"""A folder laid out as BCDR's, and what its reader gives."""

from pathlib import Path

import numpy as np
from PIL import Image

from data.bcdr import Options, records
from data.record import Record, Report

HEADER = (
    "patient_id,study_id,series,lesion_id,segmentation_id,image_view,image_filename,lw_x_points,lw_y_points,mammography_type,"
    "mammography_nodule,mammography_calcification,mammography_microcalcification,mammography_axillary_adenopathy,"
    "mammography_architectural_distortion,mammography_stroma_distortion,age,density,classification"
)
NAMED = {1: "RCC", 2: "LCC", 3: "RO", 4: "LO"}


def line(
    patient: int = 901,
    segmentation: int = 1,
    *,
    lesion: object = 1,
    view: object = 4,
    image: str = "",
    x: str = "10 30 30 10",
    y: str = "20 20 50 50",
    nodule: object = 1,
    flags: str = "0, 0, 0, 0, 0",
    density: str = "1",
    label: str = "Benign",
) -> str:
    """A row as the collection has it: a blank after each comma."""
    name = image or f"patient_{patient}/study_{patient}/img_{patient}_{patient}_1_{NAMED.get(view, 'LO')}.tif"  # type: ignore[call-overload]
    return (
        f"{patient}, {patient}, 1, {lesion}, {segmentation}, {view}, {name}, {x}, {y}, 1, {nodule}, {flags}, 62, "
        f"{density}, {label}"
    )


def save(root: Path, *rows: str, name: str = "d01", folder: str = "", header: str = HEADER, films: bool = True) -> Path:
    place = root / (folder or f"BCDR-{name.upper()}_dataset")
    place.mkdir(parents=True, exist_ok=True)
    (place / f"bcdr_{name}_outlines.csv").write_text("\n".join([header, *rows]) + "\n")
    for number, row in enumerate(rows if films else ()):
        path = place / row.split(",")[6].strip()
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = np.random.default_rng(number).integers(0, 255, (80, 64), dtype=np.uint8)
        Image.fromarray(grey).save(path)
    return root


def read(root: Path, *, skip_bad: bool = False, **options: object) -> tuple[list[Record], Report]:
    report = Report(skip_bad=skip_bad)
    return list(records(root, Options.model_validate({"sets": "d01"} | options), report)), report


def labels(found: list[Record]) -> dict[bool | None, int]:
    findings = [finding for record in found for finding in record.findings]
    return {malignant: sum(f.malignant is malignant for f in findings) for malignant in (False, True)}
