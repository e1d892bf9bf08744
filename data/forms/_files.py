"""Image files as the forms need them."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from data.record import Pixels, Record

UID_ROOT = "2.25"  # UIDs of a UUID's or a hash's number need no registration (DICOM PS3.5, B.2)


def uid(*parts: object) -> str:
    """A UID that depends on the parts alone."""
    return f"{UID_ROOT}.{int(hashlib.sha256(repr(parts).encode()).hexdigest()[:24], 16)}"


def rng(purpose: str, *parts: str) -> np.random.Generator:
    """The generator of one purpose and film."""
    digest = hashlib.sha256("|".join((purpose, *parts)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "big")))


def pixels(record: Record, bits: int = 8) -> np.ndarray:
    """(H, W) of a phantom film, uint8, or uint16 that uses `bits` bits."""
    grey = np.asarray(record.image.read())
    return grey if bits == 8 else (grey.astype(np.uint32) * ((1 << bits) - 1) // 255).astype(np.uint16)


def mask(drawn: Pixels) -> np.ndarray:
    """(H, W) uint8, 255 on the lesion."""
    return drawn.read().astype(np.uint8) * np.uint8(255)


def save_image(path: Path, grey: np.ndarray) -> None:
    """(H, W) uint8 or uint16 in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).save(path)


def save_dicom(path: Path, grey: np.ndarray, *, stored: int = 0, implicit: bool = False, **attributes: Any) -> None:
    """(H, W) uint8 or uint16 as an uncompressed grey DICOM image; `stored`: bits used (0 = all).

    Attributes by keyword; None leaves one out. The instance's UID depends on series and pixels alone.
    """
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"  # digital mammography, for presentation
    data.SOPInstanceUID = uid(attributes.get("SeriesInstanceUID"), grey.shape, grey.tobytes())
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.Modality = "MG"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = grey.shape
    bits = grey.dtype.itemsize * 8
    data.BitsAllocated, data.BitsStored = bits, stored or bits
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    for name, value in attributes.items():
        if value is not None:
            setattr(data, name, value)
    raw = grey.tobytes()
    data.add_new("PixelData", "OW" if bits == 16 or implicit else "OB", raw + b"\0" * (len(raw) % 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=True)
