"""Pixels from files: every transfer syntax with a decoder, grey conventions, and files that are broken in each way."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_modality_lut

from data.dicom import DicomFile, ImageFile, read_header
from data.errors import DataError
from tests.cbis_tree import write_dicom

# pytest sets the filter of data.dicom aside.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader")
SERIES = "1.2.3.4"


def sample(name: str) -> Path:
    """A file that comes with pydicom."""
    found = get_testdata_file(name, download=False)
    assert isinstance(found, str)
    return Path(found)


def the_line(pixels: DicomFile | ImageFile) -> str:
    """The error that reading ends with: one line that names the file and not the machine's folders."""
    with pytest.raises(DataError) as caught:
        pixels.read()
    line = str(caught.value)
    assert pixels.path in line and "\n" not in line and str(pixels.root) not in line and len(line) < 400
    return line


def written(folder: Path, pixels: np.ndarray, **attributes: object) -> DicomFile:
    write_dicom(folder / "1.dcm", pixels, series=SERIES, **attributes)
    return DicomFile(folder, "1.dcm")


GREY = np.arange(600, dtype=np.uint16).reshape(20, 30) * 109


# ---- DICOM


@pytest.mark.parametrize(
    ("name", "shape", "low", "high"),
    [
        ("MR_small_implicit.dcm", (64, 64), 127, 2145),
        ("MR_small_bigendian.dcm", (64, 64), 127, 2145),
        ("MR_small_RLE.dcm", (64, 64), 127, 2145),
        ("MR_small_jpeg_ls_lossless.dcm", (64, 64), 127, 2145),
        ("MR_small_jp2klossless.dcm", (64, 64), 127, 2145),
        ("JPEGLSNearLossless_16.dcm", (50, 10), 0, 65535),
        ("image_dfl.dcm", (512, 512), 0, 255),
        ("JPEG2000.dcm", (1024, 256), -30, 245),
    ],
)
def test_transfer_syntaxes(name: str, shape: tuple[int, int], low: float, high: float) -> None:
    """As decoded by hand, before any window: the samples of nuclear medicine and MR have one, so it is taken off."""
    path = sample(name)
    dataset = pydicom.dcmread(path)
    plain = apply_modality_lut(dataset.pixel_array, dataset)
    assert plain.shape == shape and (plain.min(), plain.max()) == (low, high)
    read = DicomFile(path.parent, path.name).read()
    assert read.dtype == np.float32 and read.shape == shape and np.isfinite(read).all()
    if "WindowCenter" not in dataset:
        assert (read == plain).all()


def test_jpeg_lossless(tmp_path: Path) -> None:
    """The syntax of most digital mammograms; gdcm writes it, since no small grey sample comes with pydicom."""
    gdcm = pytest.importorskip("gdcm")
    source = written(tmp_path, GREY)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(tmp_path / source.path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(tmp_path / "lossless.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert pydicom.dcmread(tmp_path / "lossless.dcm").file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    assert (DicomFile(tmp_path, "lossless.dcm").read() == GREY).all()


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_monochrome1_turns_the_order_of_grey_values(tmp_path_factory: pytest.TempPathFactory, a: int, b: int) -> None:
    stored = np.array([[a, b], [0, 65535]], np.uint16)
    folder = tmp_path_factory.getbasetemp()
    plain = written(folder, stored).read()
    turned = written(folder, stored, PhotometricInterpretation="MONOCHROME1").read()
    assert (plain == stored).all() and (turned == 65535 - stored.astype(np.float32)).all()


def test_monochrome1_of_signed_values_is_exact_in_order(tmp_path: Path) -> None:
    stored = np.array([[-30000, 5], [100, 30000]], np.int16)
    pixels = written(tmp_path, stored, PhotometricInterpretation="MONOCHROME1", PixelRepresentation=1).read()
    assert (np.argsort(pixels.ravel()) == np.argsort(-stored.ravel().astype(int))).all()


def test_rescale(tmp_path: Path) -> None:
    assert (written(tmp_path, GREY, RescaleSlope=2, RescaleIntercept=-7).read() == GREY * 2.0 - 7).all()


def test_a_window_is_applied(tmp_path: Path) -> None:
    read = written(tmp_path, GREY, WindowCenter=20000, WindowWidth=10000).read()
    below, above = GREY <= 15000, GREY >= 25000
    assert np.ptp(read[below]) == 0 == np.ptp(read[above])
    inside = read[~below & ~above]
    assert (np.diff(inside) > 0).all() and read[below].max() < inside.min() and inside.max() < read[above].min()


@pytest.mark.parametrize("width", [0, None])
def test_a_window_of_no_width_is_none(tmp_path: Path, width: int | None) -> None:
    assert (written(tmp_path, GREY, WindowCenter=20000, WindowWidth=width).read() == GREY).all()


@pytest.mark.parametrize("values", [(0, 255), (0, 2), (0, 1), (7, 200)])
@pytest.mark.parametrize("one", [False, True])
def test_a_mask_is_true_on_the_lesion(tmp_path: Path, values: tuple[int, int], one: bool) -> None:
    lesion = np.zeros((20, 30), bool)
    lesion[3:9, 4:8] = True
    stored = np.where(lesion, values[1 - one], values[one]).astype(np.uint8)
    photometric = "MONOCHROME1" if one else "MONOCHROME2"
    write_dicom(tmp_path / "m.dcm", stored, series=SERIES, PhotometricInterpretation=photometric)
    mask = DicomFile(tmp_path, "m.dcm", mask=True).read()
    assert mask.dtype == bool and (mask == lesion).all()


def test_an_empty_mask_says_who_cites_it(tmp_path: Path) -> None:
    write_dicom(tmp_path / "m.dcm", np.zeros((20, 30), np.uint8), series=SERIES)
    line = the_line(DicomFile(tmp_path, "m.dcm", mask=True, cited="some.csv, row 4"))
    assert line.startswith("the mask is empty (m.dcm, cited in some.csv, row 4)")


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


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm"])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_a_truncated_compressed_file_names_its_syntax(tmp_path: Path, name: str, share: float) -> None:
    raw = sample(name).read_bytes()
    (tmp_path / name).write_bytes(raw[: int(len(raw) * share)])
    assert "transfer syntax " in the_line(DicomFile(tmp_path, name))


def test_a_syntax_without_a_decoder_is_named() -> None:
    path = sample("JPEG-lossy.dcm")
    line = the_line(DicomFile(path.parent, path.name))
    assert line.startswith("pixels cannot be decoded (transfer syntax JPEG Extended (Process 2 and 4))")


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


def test_fingerprints_follow_content(tmp_path: Path) -> None:
    one = written(tmp_path, GREY)
    first = one.fingerprint()
    (tmp_path / "copy.dcm").write_bytes((tmp_path / one.path).read_bytes())
    assert DicomFile(tmp_path, "copy.dcm").fingerprint() == first and len(first) == 64
    assert written(tmp_path, GREY + 1).fingerprint() != first


def test_files_are_values(tmp_path: Path) -> None:
    one = DicomFile(tmp_path, "a/b.dcm", mask=True, cited="x")
    assert (
        pickle.loads(pickle.dumps(one)) == one and len({one, DicomFile(tmp_path, "a/b.dcm", mask=True, cited="x")}) == 1
    )
    assert one.name == "a/b.dcm"


# ---- headers


def test_header(tmp_path: Path) -> None:
    header = read_header(tmp_path, written(tmp_path, GREY).path)
    assert (header.series, header.rows, header.columns, header.bits) == (SERIES, 20, 30, 16)
    assert header.pixel_bytes == 1200 and not header.cut_short


def test_a_header_tells_a_file_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / written(tmp_path, GREY).path
    path.write_bytes(path.read_bytes()[:1000])
    assert read_header(tmp_path, path.name).cut_short


@pytest.mark.parametrize("left", [0, 100, 132, 200, 300])
def test_a_header_that_ends_too_soon(tmp_path: Path, left: int) -> None:
    path = tmp_path / written(tmp_path, GREY).path
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DataError, match=r"\(1\.dcm\)"):
        read_header(tmp_path, path.name)


@given(st.binary(max_size=400))
def test_any_bytes_after_the_mark_end_in_one_line_or_a_header(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.dcm"
    path.write_bytes(b"\0" * 128 + b"DICM" + tail)
    with pytest.raises(DataError) as caught:
        DicomFile(path.parent, path.name).read()
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError):
        read_header(path.parent, path.name)


# ---- other image files


@pytest.mark.parametrize("form", ["png", "tiff", "pgm"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_image_files(tmp_path: Path, form: str, dtype: type[np.generic]) -> None:
    stored = (GREY // 257).astype(np.uint8) if dtype is np.uint8 else GREY
    Image.fromarray(stored).save(tmp_path / f"i.{form}")
    read = ImageFile(tmp_path, f"i.{form}").read()
    assert read.dtype == np.float32 and (read == stored).all()


def test_image_file_in_colour_becomes_grey(tmp_path: Path) -> None:
    grey = Image.fromarray((GREY // 257).astype(np.uint8))
    grey.convert("RGB").save(tmp_path / "i.png")
    assert (ImageFile(tmp_path, "i.png").read() == np.asarray(grey)).all()


def test_image_file_as_mask(tmp_path: Path) -> None:
    Image.fromarray(GREY > 30000).save(tmp_path / "m.png")
    assert (ImageFile(tmp_path, "m.png", mask=True).read() == (GREY > 30000)).all()


def test_broken_image_files(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "i.png")
    raw = (tmp_path / "i.png").read_bytes()
    for content in (b"", b"text", raw[: len(raw) // 2], raw[:20]):
        (tmp_path / "i.png").write_bytes(content)
        assert the_line(ImageFile(tmp_path, "i.png")).startswith("image file cannot be decoded")


def test_an_image_file_with_pages(tmp_path: Path) -> None:
    page = Image.fromarray(GREY)
    page.save(tmp_path / "i.tiff", save_all=True, append_images=[page])
    assert "several pages" in the_line(ImageFile(tmp_path, "i.tiff"))
