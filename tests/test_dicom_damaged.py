"""Files that are cut short, damaged, foreign or lying end in one line."""

import io
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pydicom.encaps
import pytest
from PIL import Image

from data.dicom import DicomFile, ImageFile, read_header
from data.errors import DataError
from data.forms._files import save_dicom
from tests.dicom_files import GREY, jpeg_lossless, sample, the_line, written

# pytest sets the filter of data.dicom aside.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader")


def test_a_truncated_file(tmp_path: Path) -> None:
    raw = (tmp_path / written(tmp_path, GREY).path).read_bytes()
    for left, says in (
        (0, "not a DICOM file"),
        (150, "DICOM file"),
        (400, "cut short"),
        (len(raw) - 50, "cannot be decoded"),
    ):
        (tmp_path / "t.dcm").write_bytes(raw[:left])
        assert says in the_line(DicomFile(tmp_path, "t.dcm"))


COMPRESSED = {
    "MR_small_RLE.dcm": "RLE Lossless",
    "MR_small_jpeg_ls_lossless.dcm": "JPEG-LS Lossless Image Compression",
    "JPEGLSNearLossless_16.dcm": "JPEG-LS Lossy",
    "MR_small_jp2klossless.dcm": "JPEG 2000 Image Compression (Lossless Only)",
    "JPEG2000.dcm": "JPEG 2000 Image Compression",
    "lossless.dcm": "JPEG Lossless, Non-Hierarchical, First-Order Prediction",
}


def packed(folder: Path, name: str) -> bytes:
    return (jpeg_lossless(folder) if name == "lossless.dcm" else sample(name)).read_bytes()


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_a_truncated_compressed_file_names_its_syntax(tmp_path: Path, name: str, share: float) -> None:
    raw = packed(tmp_path, name)
    start = raw.index(b"\xe0\x7f\x10\x00")  # Pixel Data
    (tmp_path / name).write_bytes(raw[: start + 40 + int((len(raw) - start - 40) * share)])
    assert f"transfer syntax {COMPRESSED[name]}" in the_line(DicomFile(tmp_path, name))


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_pixels_that_are_noise_name_their_syntax(tmp_path: Path, name: str) -> None:
    dataset = pydicom.dcmread(io.BytesIO(packed(tmp_path, name)))
    noise = np.random.default_rng(0).integers(0, 256, 600, dtype=np.uint8).tobytes()
    dataset.PixelData = pydicom.encaps.encapsulate([noise])
    dataset.save_as(tmp_path / name)
    line = the_line(DicomFile(tmp_path, name))
    assert line.startswith(f"pixels cannot be decoded (transfer syntax {COMPRESSED[name]}")


@pytest.mark.parametrize(
    ("name", "place", "value"), [("MR_small_jp2klossless.dcm", 70, 67), ("MR_small_jpeg_ls_lossless.dcm", 34, 234)]
)
def test_one_damaged_byte_ends_no_process(tmp_path: Path, name: str, place: int, value: int) -> None:
    """gdcm, which pydicom would ask first, ends the process on these two; data.dicom asks another decoder."""
    damaged = bytearray(sample(name).read_bytes())
    damaged[damaged.index(b"\xe0\x7f\x10\x00") + place] = value
    (tmp_path / name).write_bytes(damaged)
    assert "transfer syntax JPEG" in the_line(DicomFile(tmp_path, name))


def test_a_syntax_without_a_decoder_is_named() -> None:
    path = sample("JPEG-lossy.dcm")
    line = the_line(DicomFile(path.parent, path.name))
    assert line.startswith("pixels cannot be decoded (transfer syntax JPEG Extended (Process 2 and 4))")


@pytest.mark.parametrize(
    ("uid", "name"),
    [
        ("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile / Main Level"),
        ("1.2.840.10008.1.2.4.203", "High-Throughput JPEG 2000 Image Compression"),
        ("1.2.840.10008.1.2.4.107", "HEVC/H.265 Main Profile / Level 5.1"),
    ],
)
def test_a_syntax_that_no_film_has_is_named(tmp_path: Path, uid: str, name: str) -> None:
    dataset = pydicom.dcmread(sample("MR_small_RLE.dcm"))
    dataset.file_meta.TransferSyntaxUID = uid
    dataset.save_as(tmp_path / "1.dcm")
    assert the_line(DicomFile(tmp_path, "1.dcm")).startswith(f"pixels cannot be decoded (transfer syntax {name}")


@pytest.mark.parametrize("name", ["examples_palette.dcm", "SC_rgb_jpeg_dcmtk.dcm"])
def test_colours_are_no_grey_values(name: str) -> None:
    path = sample(name)
    assert the_line(DicomFile(path.parent, path.name)).startswith("not a grey image, but ")


def test_an_unknown_syntax_is_named(tmp_path: Path) -> None:
    pixels = written(tmp_path, GREY)
    dataset = pydicom.dcmread(tmp_path / pixels.path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.999"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(tmp_path / pixels.path, implicit_vr=False, little_endian=True)
    assert "transfer syntax 1.2.840.999" in the_line(pixels)


@pytest.mark.parametrize("name", ["badVR.dcm", "rtplan.dcm", "no_meta.dcm", "MR_truncated.dcm", "SC_rgb_jpeg_gdcm.dcm"])
def test_damaged_and_foreign_samples_end_in_one_line(name: str) -> None:
    path = sample(name)
    the_line(DicomFile(path.parent, path.name))


def test_a_jpeg_named_dcm(tmp_path: Path) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "1.dcm", format="jpeg")
    assert the_line(DicomFile(tmp_path, "1.dcm")).startswith("not a DICOM file (1.dcm)")
    with pytest.raises(DataError, match="not a DICOM file"):
        read_header(tmp_path, "1.dcm")


@pytest.mark.parametrize("pixels", [DicomFile, ImageFile])
def test_a_missing_file(tmp_path: Path, pixels: type[DicomFile | ImageFile]) -> None:
    assert the_line(pixels(tmp_path, "none.dcm")).startswith("file is missing (none.dcm)")
    with pytest.raises(DataError, match="file is missing"):
        pixels(tmp_path, "none.dcm").fingerprint()
    assert "cannot be" in the_line(pixels(tmp_path.parent, tmp_path.name))  # a folder


# ---- headers that lie -----------------------------------------------------------------------------------------------
def lying(folder: Path, tag: bytes, length: int) -> Path:
    """A film of a patient whose element `tag` claims another length than it has."""
    path = folder / "film.dcm"
    save_dicom(path, np.arange(400, dtype=np.uint16).reshape(20, 20), SeriesInstanceUID="1.2.3", PatientName="DOE^JANE")
    content = path.read_bytes()
    at = content.index(tag) + len(tag)
    path.write_bytes(content[:at] + length.to_bytes(2, "little") + content[at + 2 :])
    return path


@pytest.mark.parametrize("length", [3, 5, 400])
@pytest.mark.parametrize("tag", [b"\x28\x00\x10\x00US", b"\x28\x00\x04\x00CS", b"\x02\x00\x10\x00UI"])
def test_an_element_of_a_wrong_length_is_one_line_without_names(tmp_path: Path, tag: bytes, length: int) -> None:
    path = lying(tmp_path, tag, length)
    for read in (
        lambda: read_header(tmp_path, path.name),
        DicomFile(tmp_path, path.name).read,
        DicomFile(tmp_path, path.name).facts,
    ):
        try:
            found = str(read())
        except DataError as error:
            found = str(error)
            assert path.name in found and "\n" not in found and len(found) < 400
        assert "DOE" not in found
