"""Image files as `Pixels`: DICOM in the syntaxes that mammograms come in, PNG, TIFF or PGM; and DICOM headers alone."""

import hashlib
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pydicom.config
from PIL import Image, UnidentifiedImageError
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

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
        syntax = _syntax_name(dataset)
        if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            what = f"DICOM file without pixels: cut short, or not an image (transfer syntax {syntax})"
            raise DataError(what, self.where, AGAIN)
        try:
            pixels = _grey(dataset, as_mask=self.mask)
        except READ_ERRORS as error:
            what = f"pixels cannot be decoded (transfer syntax {syntax}): {_cause(error)}"
            raise DataError(what, self.where, f"{AGAIN}, or convert it to another transfer syntax") from error
        return self._finish(pixels)


@dataclass(frozen=True)
class ImageFile(_FilePixels):
    """A PNG, TIFF, PGM or other file that pillow reads, 8 or 16 bits: (H, W) float32, brighter = denser as stored."""

    def read(self) -> np.ndarray:
        """Decode. Raises DataError naming the file."""
        try:
            with Image.open(self.root / self.path) as image:
                if getattr(image, "n_frames", 1) > 1:
                    raise DataError("image file with several pages", self.where, "leave it out or convert it")
                grey = image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")
                pixels = np.asarray(image if grey else image.convert("L"))
        except FileNotFoundError as error:
            raise self._unreadable(error) from error
        except UnidentifiedImageError as error:
            raise DataError("image file cannot be decoded: its form is not known", self.where, AGAIN) from error
        except (*READ_ERRORS, SyntaxError, Image.DecompressionBombError) as error:  # pillow: SyntaxError = broken file
            raise DataError(f"image file cannot be decoded: {_cause(error)}", self.where, AGAIN) from error
        return self._finish(pixels)


def _grey(dataset: Dataset, *, as_mask: bool) -> np.ndarray:
    pixels = dataset.pixel_array
    if not as_mask:
        slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
        if "ModalityLUTSequence" in dataset or (slope, intercept) != (1, 0):
            pixels = apply_modality_lut(pixels, dataset)
        if "VOILUTSequence" in dataset or _has_window(dataset):
            pixels = apply_voi_lut(pixels, dataset)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1" and pixels.size:
        # Work in float: the sum of the two ends does not fit an integer type.
        pixels = (float(pixels.max()) + float(pixels.min())) - pixels.astype(np.float32)
    return pixels


def _has_window(dataset: Dataset) -> bool:
    width = dataset.get("WindowWidth")
    first = width[0] if isinstance(width, pydicom.multival.MultiValue) and width else width
    return first is not None and "WindowCenter" in dataset and float(first) >= 1


def _syntax(dataset: Dataset) -> str:
    meta = getattr(dataset, "file_meta", None)
    return str(meta.get("TransferSyntaxUID") or "") if meta is not None else ""


def _syntax_name(dataset: Dataset) -> str:
    uid = _syntax(dataset)
    return UID(uid).name if uid else "not stated"


def _cause(error: BaseException) -> str:
    """An error as one short line; without the path that an OSError ends in."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    line = " ".join(text.split())
    return line if len(line) <= 160 else f"{line[:157]}..."
