"""A tiny CBIS-DDSM download for tests: five real films, reduced (tests/data/cbis_ddsm), laid out as TCIA's tools do.

Folder names, UIDs, labels and grey values are real; the pixel grid, the elliptic masks and the crops are not.
"""

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw

from data.cbis_ddsm import MASS, SPLITS, Options, records, table_name
from data.errors import DataError, LeakError
from data.forms._files import save_dicom
from data.forms.cbis_ddsm import CROP, FILM, MASK, Layout, old_form, save_file, save_rows
from data.record import Record, Report

SOURCE = Path(__file__).parent / "data" / "cbis_ddsm"
Kind = Literal["film", "crop", "mask"]


def csv_name(split: str) -> str:
    """File name of one of the two CSVs of masses."""
    return table_name(MASS, split)


@dataclass
class Tree:
    """What was laid out. `paths`: (film, abnormality id, kind) -> file; a film has abnormality id "" and kind film."""

    root: Path
    csv_folder: str
    paths: dict[tuple[str, str, Kind], Path] = field(default_factory=dict)

    def table(self, split: str) -> Path:
        """The CSV of one set."""
        return self.root / self.csv_folder / csv_name(split)

    def file(self, film: str, kind: Kind, abnormality: str = "1") -> Path:
        """A file by film (`00001_LEFT_CC`), kind and abnormality id."""
        return self.paths[film, "" if kind == "film" else abnormality, kind]

    def edit(self, split: str, row: int, column: str, value: str) -> None:
        """Another value in one row (from 1) of a CSV."""
        rows = read_rows(self.table(split))
        rows[row][rows[0].index(column)] = value
        save_rows(self.table(split), rows)


def read(root: Path, **options: Any) -> list[Record]:
    """All records, without skipping anything."""
    return list(records(root, Options(**options), Report()))


def read_skipping(root: Path, **options: Any) -> tuple[list[Record], Report]:
    """The records that can be used, and what is said of the others."""
    report = Report(skip_bad=True)
    return list(records(root, Options(**options), report)), report


def the_line(root: Path, **options: Any) -> str:
    """The error that reading ends with; it is one line and names no folder of this machine."""
    with pytest.raises((DataError, LeakError)) as caught:
        read(root, **options)
    line = str(caught.value)
    assert "\n" not in line and str(root) not in line
    return line


def read_rows(path: Path) -> list[list[str]]:
    """All rows of a CSV, header first, line ends within values kept."""
    return list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))


def build(
    root: Path,
    *,
    names: Literal["csv", "nbia", "nbia8"] = "csv",
    layout: Literal["uid", "descriptive"] = "uid",
    csv_folder: str = "csv",
    csv_form: Literal["crlf", "lf", "2017"] = "crlf",
    implicit: bool = False,
    descriptions: bool = True,
    mask_first: bool = False,
    crop_bits: Literal[8, 16] = 16,
    size: tuple[int, int] = (256, 160),
) -> Tree:
    """Lay the tree out. `size`: rows, columns of a film. `mask_first`: the mask is number 1 of a series."""
    tree, places = Tree(root, csv_folder), Layout(names, layout == "descriptive")
    boxes = json.loads((SOURCE / "boxes.json").read_text())
    for split in SPLITS:
        rows = read_rows(SOURCE / csv_name(split))
        save_rows(
            tree.table(split), old_form(rows) if csv_form == "2017" else rows, "\n" if csv_form == "lf" else "\r\n"
        )
        for cells in (dict(zip(rows[0], row, strict=True)) for row in rows[1:]):
            film = f"{cells['patient_id'][2:]}_{cells['left or right breast']}_{cells['image view']}"
            grey = film_pixels(film, size)
            lesion = cells["abnormality id"]
            done = [key for key in tree.paths if key[0] == film and key[2] == "mask"]
            x0, y0, x1, y1 = box_pixels(boxes[film][len(done)], size)
            crop = grey[y0:y1, x0:x1]
            first, second = (1, 0) if mask_first and _series(cells, CROP) == _series(cells, MASK) else (None, None)
            plan: list[tuple[Kind, str, np.ndarray, str, int | None]] = [
                ("film", FILM, grey, "full mammogram images", None),
                ("crop", CROP, crop if crop_bits == 16 else (crop // 257).astype(np.uint8), "cropped images", first),
                ("mask", MASK, ellipse((x0, y0, x1, y1), size), "ROI mask images", second),
            ]
            for kind, column, pixels, description, number in plan:
                path = root / places.path(cells[column], description, number)
                tree.paths[film, "" if kind == "film" else lesion, kind] = path
                save_file(path, pixels, cells[column], description if descriptions else None, implicit=implicit)
    return tree


def film_pixels(film: str, size: tuple[int, int]) -> np.ndarray:
    """A film as uint16 (rows, columns)."""
    with Image.open(SOURCE / f"{film}.jpg") as image:
        return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR), dtype=np.uint16) * np.uint16(257)


def box_pixels(share: list[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 in pixels of a box in shares (x, y, width, height)."""
    x, y, w, h = share
    rows, columns = size
    return int(x * columns), int(y * rows), int(np.ceil((x + w) * columns)), int(np.ceil((y + h) * rows))


def ellipse(box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """The ellipse in a box as uint8 (rows, columns), 0 and 255."""
    drawn = Image.new("L", size[::-1])
    ImageDraw.Draw(drawn).ellipse((box[0], box[1], box[2] - 1, box[3] - 1), fill=255)
    return np.asarray(drawn)


def write_dicom(path: Path, pixels: np.ndarray, *, series: str, implicit: bool = False, **attributes: Any) -> None:
    """A grey DICOM image (uint8 or uint16) in a series. Further attributes by keyword; None = absent."""
    save_dicom(path, pixels, implicit=implicit, SeriesInstanceUID=series, **attributes)


def rewrite(path: Path, pixels: np.ndarray) -> None:
    """Other pixels for a file that is there; its series stays."""
    series = str(pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID)
    write_dicom(path, pixels, series=series)


def _series(cells: dict[str, str], column: str) -> str:
    return cells[column].strip().split("/")[2]
