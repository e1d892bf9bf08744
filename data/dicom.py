"""Image files as `Pixels`: DICOM in the syntaxes that mammograms come in, PNG, TIFF or PGM; and DICOM headers alone."""

import hashlib
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.config
from PIL import Image, UnidentifiedImageError
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
)
from scipy.special import expit

from data.errors import DataError

# Odd but harmless header values are common in collections, and what is not harmless ends in a DataError of one line;
# pydicom's warnings would add lines that name this machine's folders.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.")

UNCOMPRESSED = frozenset(map(str, (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)))
HEADER_TAGS = (
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "Rows",
    "Columns",
    "BitsAllocated",
    "SamplesPerPixel",
    "NumberOfFrames",
)
# What pydicom and its decoders raise for files that are damaged or in a syntax they do not know.
READ_ERRORS = (
    BytesLengthException,
    InvalidDicomError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
AGAIN = "download it again"
UID_FORM = re.compile(r"[0-9.]{1,64}")
QUOTED = re.compile(r"""b?'[^']*('|$)|b?"[^"]*("|$)""")
# pydicom asks gdcm first, which ends the process on some damaged files of these syntaxes; the others raise.
DECODER = dict.fromkeys(JPEG2000TransferSyntaxes, "pylibjpeg") | dict.fromkeys(JPEGLSTransferSyntaxes, "pyjpegls")
FACT_TAGS = (
    "ImagerPixelSpacing",
    "PixelSpacing",
    "NominalScannedPixelSpacing",
    "BitsStored",
    "PhotometricInterpretation",
    "ImageLaterality",
    "Laterality",
    "ViewPosition",
)
MODE_BITS = {"1": 1, "I": 32, "F": 32}  # of pillow; I;16 and its kin have 16, all others 8


@dataclass(frozen=True, slots=True)
class Header:
    """What a DICOM file says of itself before its pixels. Rows and columns are 0 where the file is no image."""

    path: str  # relative to the data root, with /
    series: str
    instance: str
    rows: int
    columns: int
    bits: int  # allocated for a pixel
    syntax: str  # UID of the transfer syntax
    size: int  # bytes of the file
    pixel_bytes: int  # what the pixels need when they are not compressed

    @property
    def cut_short(self) -> bool:
        """Whether the file is smaller than its own uncompressed pixels; unknown, so False, for compressed files."""
        return self.syntax in UNCOMPRESSED and self.size < self.pixel_bytes


def read_header(root: Path, path: str) -> Header:
    """The header of `root/path`, without touching its pixels (under a millisecond).

    Raises DataError where the file is missing, is not DICOM, or ends before its Series Instance UID.
    """
    try:
        with (root / path).open("rb") as file:
            file.seek(128)
            if file.read(4) != b"DICM":
                raise DataError("not a DICOM file", path, AGAIN)
            size = file.seek(0, 2)
            file.seek(0)
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(HEADER_TAGS))
        series = str(header.get("SeriesInstanceUID") or "")
        rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
        bits = int(header.get("BitsAllocated") or 0)
        samples = int(header.get("SamplesPerPixel") or 1) * int(header.get("NumberOfFrames") or 1)
        instance, syntax = str(header.get("SOPInstanceUID") or path), _syntax(header)
    except FileNotFoundError as error:  # a link to nothing: the folder's list had its name
        raise DataError("file is missing", path, AGAIN) from error
    except READ_ERRORS as error:
        raise DataError(f"cannot read the DICOM header: {_cause(error)}", path, AGAIN) from error
    if not series:
        raise DataError("the DICOM header has no Series Instance UID, or ends before it", path, AGAIN)
    return Header(path, series, instance, rows, columns, bits, syntax, size, rows * columns * samples * bits // 8)


@dataclass(frozen=True)
class PixelFacts:
    """What a file says of its pixels without decoding them. Nothing in it names a patient; "" and None are unknown.

    Laterality and view are the header's. Nothing is turned by them: in CBIS-DDSM Patient Orientation holds the view.
    """

    bits_stored: int
    photometric: str  # MONOCHROME1 | MONOCHROME2...; of other image files pillow's mode
    syntax: str  # name of the transfer syntax; of other image files the format
    spacing_mm: tuple[float, float] | None = None  # between rows, between columns; at the detector where both are given
    laterality: str = ""  # L | R | B
    view: str = ""  # CC | MLO | ...


@dataclass(frozen=True)
class _FilePixels:
    """A file below a root. `mask`: read as bool. `cited`, `row`: the table and the row that name it, for messages."""

    root: Path
    path: str
    mask: bool = False
    cited: str = ""
    row: int | None = None

    @property
    def name(self) -> str:
        """The path relative to the data root."""
        return self.path

    @property
    def place(self) -> tuple[str, int | None]:
        """The file with the table that cites it, and the row."""
        return (f"{self.path}, cited in {self.cited}" if self.cited else self.path), self.row

    @property
    def where(self) -> str:
        """The place that an error names: the file, and the row that cites it."""
        file, row = self.place
        return file if row is None else f"{file}, row {row}"

    def fingerprint(self) -> str:
        """sha256 of the file's bytes."""
        try:
            with (self.root / self.path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> DataError:
        if isinstance(error, FileNotFoundError):
            return DataError("file is missing", self.where, AGAIN)
        return DataError(f"file cannot be read: {_cause(error)}", self.where, "check the disk and its permissions")

    def _finish(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W) float32, or bool for a mask: above the middle between its smallest and largest value."""
        if pixels.ndim != 2 or not pixels.size:
            shape = " x ".join(map(str, pixels.shape))
            raise DataError(f"not a single grey image, but {shape} values", self.where, "leave it out or convert it")
        if not self.mask:
            with np.errstate(over="ignore"):  # infinite values are refused where films are checked
                return np.ascontiguousarray(pixels, dtype=np.float32)
        low, high = float(pixels.min()), float(pixels.max())
        lesion = pixels > (low + high) / 2 if high > low else pixels != 0
        if not lesion.any():
            raise DataError("the mask is empty", self.where, AGAIN)
        return lesion


@dataclass(frozen=True)
class DicomFile(_FilePixels):
    """A DICOM image: (H, W) float32, brighter = denser, after the header's rescale and, where it has one, its window.

    Photometric interpretation MONOCHROME1 is inverted. CBIS-DDSM has neither rescale nor window: values as stored.
    """

    def read(self) -> np.ndarray:
        """Decode. Raises DataError naming the file, and the transfer syntax where the decoding failed."""
        try:
            dataset = pydicom.dcmread(self.root / self.path)
        except InvalidDicomError as error:
            raise DataError("not a DICOM file", self.where, AGAIN) from error
        except OSError as error:
            raise self._unreadable(error) from error
        except READ_ERRORS as error:
            raise DataError(f"damaged DICOM file: {_cause(error)}", self.where, AGAIN) from error
        try:
            syntax, photometric = _syntax_name(dataset), _photometric(dataset) or "MONOCHROME2"
        except READ_ERRORS as error:
            raise DataError(f"damaged DICOM header: {_cause(error)}", self.where, AGAIN) from error
        if not photometric.startswith("MONOCHROME"):  # a palette's numbers would pass for grey values
            raise DataError(f"not a grey image, but {photometric}", self.where, "leave it out or convert it")
        if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            what = f"DICOM file without pixels: cut short, or not an image (transfer syntax {syntax})"
            raise DataError(what, self.where, AGAIN)
        try:
            pixels = _grey(dataset, as_mask=self.mask)
        except READ_ERRORS as error:
            what = f"pixels cannot be decoded (transfer syntax {syntax}): {_cause(error)}"
            raise DataError(what, self.where, f"{AGAIN}, or convert it to another transfer syntax") from error
        return self._finish(pixels)

    def facts(self) -> PixelFacts:
        """From the header alone. Raises DataError where it cannot be read."""
        try:
            header = pydicom.dcmread(self.root / self.path, stop_before_pixels=True, specific_tags=list(FACT_TAGS))
            laterality = str(header.get("ImageLaterality") or header.get("Laterality") or "")
            view = str(header.get("ViewPosition") or "")
            return PixelFacts(
                bits_stored=int(header.get("BitsStored") or 0),
                photometric=_photometric(header),
                syntax=_syntax_name(header),
                spacing_mm=_spacing(header),
                # free text, in which a name may stand, is not passed on
                laterality=laterality if laterality in ("L", "R", "B") else "",
                view=view if view.isalpha() and len(view) <= 5 else "",
            )
        except InvalidDicomError as error:
            raise DataError("not a DICOM file", self.where, AGAIN) from error
        except OSError as error:
            raise self._unreadable(error) from error
        except READ_ERRORS as error:
            raise DataError(f"cannot read the DICOM header: {_cause(error)}", self.where, AGAIN) from error


@dataclass(frozen=True)
class ImageFile(_FilePixels):
    """A PNG, TIFF, PGM or other file that pillow reads, 8 or 16 bits: (H, W) float32, brighter = denser as stored."""

    def read(self) -> np.ndarray:
        """Decode. Raises DataError naming the file."""
        with self._opened() as image:
            if getattr(image, "n_frames", 1) > 1:
                raise DataError("image file with several pages", self.where, "leave it out or convert it")
            grey = image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")
            pixels = np.asarray(image if grey else image.convert("L"))
        return self._finish(pixels)

    def facts(self) -> PixelFacts:
        """From the file's head alone. Raises DataError where it cannot be read."""
        with self._opened() as image:
            bits = 16 if image.mode.startswith("I;16") else MODE_BITS.get(image.mode, 8)
            return PixelFacts(bits, image.mode, image.format or "")

    @contextmanager
    def _opened(self) -> Iterator[Image.Image]:
        """The file, opened; what pillow raises within becomes a DataError that names it."""
        try:
            with Image.open(self.root / self.path) as image:
                yield image
        except FileNotFoundError as error:
            raise self._unreadable(error) from error
        except UnidentifiedImageError as error:
            raise DataError("image file cannot be decoded: its form is not known", self.where, AGAIN) from error
        except (*READ_ERRORS, SyntaxError, Image.DecompressionBombError) as error:  # pillow: SyntaxError = broken file
            raise DataError(f"image file cannot be decoded: {_cause(error)}", self.where, AGAIN) from error


def _grey(dataset: Dataset, *, as_mask: bool) -> np.ndarray:
    """Rescale, then the lookup table or window, then MONOCHROME1: the standard's order (PS3.3 C.11, C.7.6.3.1.2).

    Bits above BitsStored are masked, and signs extended, by pydicom.
    """
    dataset.pixel_array_options(decoding_plugin=DECODER.get(_syntax(dataset), ""))
    pixels = dataset.pixel_array
    if not as_mask:
        rescale = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
        if dataset.get("ModalityLUTSequence") or (None not in rescale and rescale != (1, 0)):
            pixels = apply_modality_lut(pixels, dataset)
        if dataset.get("VOILUTSequence"):
            pixels = _looked_up(pixels, dataset)
        elif _has_window(dataset):
            pixels = _windowed(pixels, dataset)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1" and pixels.size:
        # About the film's own range: grey limits are percentiles of the film, so any other centre gives the same cut.
        # Work in float: the sum of the two ends does not fit an integer type.
        pixels = (float(pixels.max()) + float(pixels.min())) - pixels.astype(np.float32)
    return pixels


def _looked_up(pixels: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Through the first VOI lookup table. pydicom's own counts positions in the type of the entries: 8 bits wrap."""
    table = dataset["VOILUTSequence"][0]
    entries, first, bits = (int(value) for value in table.LUTDescriptor)
    data = table.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        packed = bits <= 8 and len(data) < 2 * (entries or 65536)
        data = np.frombuffer(data, "u1" if packed else f"{order}u2")
    positions = np.clip(np.rint(pixels).astype(np.int64) - first, 0, (entries or 65536) - 1)
    return np.asarray(data, dtype=np.float32)[positions]


def _windowed(pixels: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Through the first window, to 0..1 (PS3.3 C.11.2.1.2, C.11.2.1.3). Raises ValueError for a function of no name.

    pydicom's own takes its output range from the rescale slope, and so inverts the film where that is negative.
    """
    centre, width, shape = (
        float(_first(dataset, "WindowCenter")),
        float(_first(dataset, "WindowWidth")),
        _shape(dataset),
    )
    if shape == "SIGMOID":
        return np.asarray(expit(4 * (pixels - centre) / width))
    if shape not in ("LINEAR", "LINEAR_EXACT"):
        raise ValueError(f"unknown VOI LUT Function {shape}")
    if shape == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return np.clip((pixels - centre) / width + 0.5, 0.0, 1.0) if width else (pixels > centre).astype(np.float64)


def _has_window(dataset: Dataset) -> bool:
    """Whether the header has a window that can be applied; one of no width is none."""
    width = _first(dataset, "WindowWidth")
    if width in (None, "") or dataset.get("WindowCenter") in (None, ""):
        return False
    return float(width) >= 1 if _shape(dataset) == "LINEAR" else float(width) > 0


def _first(dataset: Dataset, name: str) -> Any:
    """The value of an element, or its first one where it has several."""
    value = dataset.get(name)
    return value[0] if isinstance(value, pydicom.multival.MultiValue) and value else value


def _shape(dataset: Dataset) -> str:
    return str(dataset.get("VOILUTFunction") or "LINEAR").upper()


def _spacing(header: Dataset) -> tuple[float, float] | None:
    for name in ("ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing"):
        value = header.get(name)
        if value is not None and len(value) == 2 and min(float(value[0]), float(value[1])) > 0:
            return float(value[0]), float(value[1])
    return None


def _syntax(dataset: Dataset) -> str:
    meta = getattr(dataset, "file_meta", None)
    return str(meta.get("TransferSyntaxUID") or "") if meta is not None else ""


def _syntax_name(dataset: Dataset) -> str:
    """In words. A damaged value may hold any part of the header, names too, and is not passed on."""
    uid = _syntax(dataset)
    if not uid:
        return "not stated"
    return UID(uid).name if UID_FORM.fullmatch(uid) else "not a UID"


def _photometric(dataset: Dataset) -> str:
    """MONOCHROME1, RGB...; "" where it is not stated or not a word of that kind."""
    word = str(dataset.get("PhotometricInterpretation") or "").strip()
    return word if re.fullmatch(r"[A-Z][A-Z0-9_ ]{1,15}", word) else ""


def _cause(error: BaseException) -> str:
    """An error as one short line; without the path that an OSError ends in, and without values, which may be a name."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    line = " ".join(QUOTED.sub("...", text).split())
    return line if len(line) <= 160 else f"{line[:157]}..."
