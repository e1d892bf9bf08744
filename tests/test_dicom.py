"""Grey values of DICOM and other image files."""

import pickle
from pathlib import Path

import numpy as np
import pydicom
import pydicom.encaps
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut

from data.dicom import DicomFile, ImageFile
from data.inputs import Roi
from data.roi import cut
from tests.cbis_tree import write_dicom
from tests.dicom_files import GREY, SERIES, jpeg_lossless, sample, the_line, written

# pytest sets the filter of data.dicom aside.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader")


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
        ("JPEGLSNearLossless_08.dcm", (45, 10), 0, 255),
        ("image_dfl.dcm", (512, 512), 0, 255),
        ("J2K_pixelrep_mismatch.dcm", (512, 512), -2000, 1896),
        ("693_J2KI.dcm", (512, 512), -3995, 1812),
        ("JPEG2000.dcm", (1024, 256), -30, 245),
        ("examples_overlay.dcm", (300, 484), 0, 1123),
        ("CT_small.dcm", (128, 128), -896, 1167),
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
    path = jpeg_lossless(tmp_path)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    assert (DicomFile(tmp_path, path.name).read() == GREY).all()


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm"])
def test_a_compressed_film_is_the_plain_one(name: str) -> None:
    plain, packed = sample("MR_small.dcm"), sample(name)
    assert (DicomFile(packed.parent, name).read() == DicomFile(plain.parent, plain.name).read()).all()


@given(st.integers(0, 4095), st.integers(0, 15))
def test_bits_above_those_stored_are_none_of_the_grey_value(
    tmp_path_factory: pytest.TempPathFactory, value: int, garbage: int
) -> None:
    stored = np.array([[value | garbage << 12, 0], [0xF000, 4095]], np.uint16)
    twelve = {"BitsStored": 12, "HighBit": 11}
    folder = tmp_path_factory.getbasetemp()
    assert written(folder, stored, **twelve).read().tolist() == [[value, 0], [0, 4095]]
    signed = written(folder, stored, **twelve, PixelRepresentation=1).read()
    assert signed.tolist() == [[value - 4096 * (value > 2047), 0], [0, -1]]


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


def with_table(file: DicomFile, bits: int, entries: list[int], first: int = 0) -> DicomFile:
    """The file with a VOI lookup table."""
    dataset, item = pydicom.dcmread(file.root / file.path), Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries)
    dataset.VOILUTSequence = [item]
    dataset.save_as(file.root / file.path)
    return file


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_lookup_table_comes_before_a_window(tmp_path: Path, bits: int) -> None:
    """Also one of 8 bits with more than 256 entries, and of positions that a rescale has made."""
    stored = np.arange(600, dtype=np.uint16).reshape(20, 30)
    curve = [round((2**bits - 1) * (i / 499) ** 2) for i in range(500)]
    plain = with_table(written(tmp_path, stored, WindowCenter=20, WindowWidth=10), bits, curve, first=50).read()
    assert (plain == np.array(curve)[np.clip(stored.astype(int) - 50, 0, 499)]).all()
    rescaled = with_table(written(tmp_path, stored, RescaleSlope=0.5, RescaleIntercept=10), bits, curve).read()
    assert (rescaled == np.array(curve)[np.clip(np.rint(stored * 0.5 + 10).astype(int), 0, 499)]).all()


SHAPES = {
    "LINEAR": lambda x: np.clip((x - 19999.5) / 9999 + 0.5, 0, 1),
    "LINEAR_EXACT": lambda x: np.clip((x - 20000) / 10000 + 0.5, 0, 1),
    "SIGMOID": lambda x: 1 / (1 + np.exp(-4 * (x - 20000) / 10000)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_a_window(tmp_path: Path, shape: str) -> None:
    """DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3; of several windows the first."""
    window = {"WindowCenter": [20000, 5000], "WindowWidth": [10000, 300], "VOILUTFunction": shape}
    read = written(tmp_path, GREY, **window).read()
    assert np.allclose(read, SHAPES[shape](GREY.astype(float)), atol=1e-5)


def test_an_exact_window_may_be_narrower_than_one(tmp_path: Path) -> None:
    fine = {"RescaleSlope": 0.001, "RescaleIntercept": 0, "WindowCenter": 30, "WindowWidth": 0.5}
    read = written(tmp_path, GREY, **fine, VOILUTFunction="LINEAR_EXACT").read()
    assert len(np.unique(read[(GREY < 29750) | (GREY > 30250)])) == 2
    assert (written(tmp_path, GREY, **fine).read() == (GREY * 0.001).astype(np.float32)).all()  # LINEAR knows none


@pytest.mark.parametrize("kind", ["stored", "rescaled", "LINEAR", "LINEAR_EXACT", "SIGMOID", "table"])
@pytest.mark.parametrize("signed", [False, True])
def test_a_monochrome1_film_is_cut_as_its_monochrome2_twin(tmp_path: Path, kind: str, signed: bool) -> None:
    """Up to an affine map, which the film's own percentiles take away."""
    rng = np.random.default_rng(0)
    stored = rng.integers(100, 4000, (40, 30))
    ends = (-2048, 2047) if signed else (0, 4095)
    stored = stored + ends[0]
    turned = ends[0] + ends[1] - stored
    dtype = np.int16 if signed else np.uint16
    form: dict[str, object] = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": int(signed)}
    one, two = dict(form), dict(form)
    if kind == "rescaled":
        for more in (one, two):
            more |= {"RescaleSlope": 2, "RescaleIntercept": 30}
    elif kind in SHAPES:
        middle = ends[0] + 1500
        half = 1 if kind == "LINEAR" else 0  # LINEAR's middle lies half a value below its centre
        two |= {"WindowCenter": middle, "WindowWidth": 1200, "VOILUTFunction": kind}
        one |= {"WindowCenter": ends[0] + ends[1] - middle + half, "WindowWidth": 1200, "VOILUTFunction": kind}
    plain = written(tmp_path, stored.astype(dtype), **two)
    if kind == "table":
        curve = [round(4095 * (i / 4095) ** 2) for i in range(4096)]
        first = ends[0]
        plain = with_table(plain, 12, curve, first)
    a = plain.read()
    other = written(tmp_path, turned.astype(dtype), **one, PhotometricInterpretation="MONOCHROME1")
    if kind == "table":
        other = with_table(other, 12, [4095 - value for value in reversed(curve)], first)
    b = other.read()
    assert np.ptp(a) > 0 and np.allclose((a - a.min()) / np.ptp(a), (b - b.min()) / np.ptp(b), atol=1e-5)
    region = [cut(film, [], (5, 5, 25, 35), Roi(strategy="bbox"), (16, 16)).image for film in (a, b)]
    assert np.allclose(region[0], region[1], atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_window_after_a_falling_rescale_leaves_tissue_brighter_than_air(tmp_path: Path, shape: str) -> None:
    stored = np.where(np.arange(600).reshape(20, 30) < 300, 3995, 2097).astype(np.uint16)
    falling = {"BitsStored": 12, "HighBit": 11, "RescaleSlope": -1, "RescaleIntercept": 4095}
    plain = written(tmp_path, stored, **falling).read()
    assert (plain.min(), plain.max()) == (100, 1998)
    seen = written(tmp_path, stored, **falling, WindowCenter=1800, WindowWidth=2400, VOILUTFunction=shape).read()
    assert 0 <= seen[0, 0] < 0.1 and 0.55 < seen[-1, -1] <= 1


def test_the_narrowest_window_is_a_threshold(tmp_path: Path) -> None:
    read = written(tmp_path, GREY, WindowCenter=10900, WindowWidth=1).read()
    assert (read == (GREY >= 10900)).all()


def test_a_window_of_an_unknown_function_is_refused(tmp_path: Path) -> None:
    pixels = written(tmp_path, GREY, WindowCenter=20000, WindowWidth=10000, VOILUTFunction="CUBIC")
    assert "unknown VOI LUT Function CUBIC" in the_line(pixels)


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
