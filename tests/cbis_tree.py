"""A tiny CBIS-DDSM download for tests: five real films, reduced (tests/data/cbis_ddsm), laid out as TCIA's tools do.

Folder names, UIDs, labels and grey values are real; the pixel grid, the elliptic masks and the crops are not.
"""

import csv
import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

SOURCE = Path(__file__).parent / "data" / "cbis_ddsm"
SPLITS = ("train", "test")
FILM, CROP, MASK = "image file path", "cropped image file path", "ROI mask file path"
OLD_NAMES = {
    "left or right breast": "side",
    "image view": "view",
    "abnormality id": "abn_num",
    "abnormality type": "abnormality_type",
    "mass shape": "mass_shape",
    "mass margins": "mass_margins",
    FILM: "od_img_path",
    CROP: "od_crop_path",
    MASK: "mask_path",
}
Kind = Literal["film", "crop", "mask"]


def csv_name(split: str) -> str:
    """File name of one of the two CSVs."""
    return f"mass_case_description_{split}_set.csv"


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
        write_rows(self.table(split), rows)


def read_rows(path: Path) -> list[list[str]]:
    """All rows of a CSV, header first, line ends within values kept."""
    return list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))


def write_rows(path: Path, rows: list[list[str]], line_end: str = "\r\n") -> None:
    """Write rows as TCIA does: CR LF between rows, values in quotes where they hold a line end."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=line_end).writerows(rows)
    path.write_bytes(text.getvalue().encode())


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
    tree = Tree(root, csv_folder)
    (root / csv_folder).mkdir(parents=True, exist_ok=True)
    boxes = json.loads((SOURCE / "boxes.json").read_text())
    for split in SPLITS:
        rows = read_rows(SOURCE / csv_name(split))
        _write_table(tree.table(split), rows, csv_form)
        for cells in (dict(zip(rows[0], row, strict=True)) for row in rows[1:]):
            film = f"{cells['patient_id'][2:]}_{cells['left or right breast']}_{cells['image view']}"
            grey = film_pixels(film, size)
            lesion = cells["abnormality id"]
            done = [key for key in tree.paths if key[0] == film and key[2] == "mask"]
            x0, y0, x1, y1 = box_pixels(boxes[film][len(done)], size)
            ellipse = Image.new("L", size[::-1])
            ImageDraw.Draw(ellipse).ellipse((x0, y0, x1 - 1, y1 - 1), fill=255)
            crop = grey[y0:y1, x0:x1]
            first, second = (1, 0) if mask_first and _series(cells, CROP) == _series(cells, MASK) else (None, None)
            plan: list[tuple[Kind, str, np.ndarray, str, int | None]] = [
                ("film", FILM, grey, "full mammogram images", None),
                ("crop", CROP, crop if crop_bits == 16 else (crop // 257).astype(np.uint8), "cropped images", first),
                ("mask", MASK, np.asarray(ellipse), "ROI mask images", second),
            ]
            for kind, column, pixels, description, position in plan:
                path = _place(root, cells[column], description, names, layout, position)
                tree.paths[film, "" if kind == "film" else lesion, kind] = path
                write_dicom(
                    path,
                    pixels,
                    series=_series(cells, column),
                    implicit=implicit,
                    SeriesDescription=description if descriptions else None,
                    PatientID=cells[column].split("/")[0],
                )
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


def write_dicom(path: Path, pixels: np.ndarray, *, series: str, implicit: bool = False, **attributes: Any) -> None:
    """A grey DICOM image (uint8 or uint16) much like the real ones. Further attributes by keyword; None = absent."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    # Not of the path: copies of a download keep their instance.
    digest = hashlib.sha256(series.encode() + repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    data.SOPInstanceUID = f"2.25.{int(digest[:24], 16)}"
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.Modality = "MG"
    data.SeriesInstanceUID = series
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    bits = pixels.dtype.itemsize * 8
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, 0
    for name, value in attributes.items():
        if value is not None:
            setattr(data, name, value)
    raw = pixels.tobytes()
    data.add_new("PixelData", "OW" if bits == 16 or implicit else "OB", raw + b"\0" * (len(raw) % 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=True)


def rewrite(path: Path, pixels: np.ndarray) -> None:
    """Other pixels for a file that is there; its series stays."""
    series = str(pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID)
    write_dicom(path, pixels, series=series)


def _series(cells: dict[str, str], column: str) -> str:
    return cells[column].strip().split("/")[2]


def _place(root: Path, cell: str, description: str, names: str, layout: str, position: int | None) -> Path:
    folder, study, series, name = cell.strip().split("/")
    number = (int(name.split(".")[0]) if position is None else position) + 1
    file = {"csv": f"{number - 1:06d}.dcm", "nbia": f"1-{number}.dcm", "nbia8": f"{number:08d}.dcm"}[names]
    if layout == "uid":
        return root / "CBIS-DDSM" / folder / study / series / file
    own = "lesion" if "full" not in description else "full mammogram images"
    return root / "CBIS-DDSM" / folder / "10-04-2016-DDSM-NA" / f"1.000000-{own}-{series[-5:]}" / file


def _write_table(path: Path, rows: list[list[str]], form: str) -> None:
    if form == "2017":
        old = [[OLD_NAMES.get(name, name) for name in rows[0]]]
        write_rows(
            path, old + [row[:-3] + [path.strip().replace("/", "\\") for path in row[-3:]] for row in rows[1:]], "\n"
        )
    else:
        write_rows(path, rows, "\r\n" if form == "crlf" else "\n")
