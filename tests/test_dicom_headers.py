"""What the header of a film says, and whom it does not name."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.dicom import DicomFile, ImageFile, PixelFacts, read_header
from data.errors import DataError
from tests.dicom_files import GREY, SERIES, written

# pytest sets the filter of data.dicom aside.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader")


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


# ---- facts


def test_facts_of_a_header(tmp_path: Path) -> None:
    film = written(
        tmp_path, GREY, BitsStored=12, HighBit=11, ImagerPixelSpacing=[0.07, 0.05], PixelSpacing=[0.1, 0.1],
        ImageLaterality="L", ViewPosition="MLO", PhotometricInterpretation="MONOCHROME1",
    )  # fmt: skip
    facts = PixelFacts(12, "MONOCHROME1", "Explicit VR Little Endian", (0.07, 0.05), "L", "MLO")
    assert film.facts() == facts and pickle.loads(pickle.dumps(facts)) == facts
    path = tmp_path / film.path
    path.write_bytes(path.read_bytes()[:-900])  # its pixels are not read
    assert film.facts() == facts


@pytest.mark.parametrize(
    ("given", "spacing"),
    [
        ({"PixelSpacing": [0.1, 0.2]}, (0.1, 0.2)),
        ({"NominalScannedPixelSpacing": [0.05, 0.05]}, (0.05, 0.05)),
        ({"ImagerPixelSpacing": [0, 0], "PixelSpacing": [0.1, 0.1]}, (0.1, 0.1)),
        ({}, None),
    ],
)
def test_spacing_is_the_detector_s_where_it_is_known(
    tmp_path: Path, given: dict[str, list[float]], spacing: tuple[float, float] | None
) -> None:
    assert written(tmp_path, GREY, **given).facts().spacing_mm == spacing


def test_facts_name_nobody(tmp_path: Path) -> None:
    """Text of a header that is none of the words expected is not passed on."""
    who = dict.fromkeys(("PatientID", "PatientName", "ViewPosition", "ImageLaterality"), "DOE JANE")
    facts = written(tmp_path, GREY, **who, PatientOrientation="MLO").facts()
    assert "DOE" not in repr(facts) and (facts.laterality, facts.view) == ("", "")


@pytest.mark.parametrize(("mode", "bits"), [("1", 1), ("L", 8), ("I;16", 16), ("RGB", 8)])
def test_facts_of_an_image_file(tmp_path: Path, mode: str, bits: int) -> None:
    image = Image.fromarray(GREY) if mode == "I;16" else Image.new(mode, (30, 20))
    image.save(tmp_path / "i.png")
    assert ImageFile(tmp_path, "i.png").facts() == PixelFacts(bits, mode, "PNG")


@pytest.mark.parametrize("kind", [DicomFile, ImageFile])
def test_facts_of_no_file(tmp_path: Path, kind: type[DicomFile | ImageFile]) -> None:
    with pytest.raises(DataError, match="file is missing"):
        kind(tmp_path, "none.dcm").facts()
    (tmp_path / "text.dcm").write_text("text")
    with pytest.raises(DataError, match=r"text\.dcm"):
        kind(tmp_path, "text.dcm").facts()
