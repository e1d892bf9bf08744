"""DICOM files for tests: pydicom's own samples, and small ones written here."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from data.dicom import DicomFile, ImageFile
from data.errors import DataError
from tests.cbis_tree import write_dicom

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


def jpeg_lossless(tmp_path: Path) -> Path:
    """GREY in the syntax of most digital mammograms; gdcm writes it, since no small grey sample comes with pydicom."""
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
    return tmp_path / "lossless.dcm"
