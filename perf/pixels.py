"""What a pixel costs on one core, from the file to the batch (docs/pixels.md).

OMP_NUM_THREADS=1 .venv/bin/python -m perf.pixels [--height 4096] [--width 3328] [--film FILE.dcm]
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from data._breast import pose_of
from data.augment import cached_margin, draw, in_unit, vary
from data.dicom import DicomFile
from data.inputs import Augment, Roi
from data.roi import cut, grey_limits


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """The best of several runs, seconds of this process on one core."""
    best = float("inf")
    for _ in range(times):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


def peak() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB at most so far"


def generated(height: int, width: int) -> np.ndarray:
    """A film of 12 bits: half an ellipse of tissue with noise, air that is nearly black."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    depth = 1 - (columns / (0.75 * width)) ** 2 - ((rows - height / 2) / (0.45 * height)) ** 2
    noise = np.random.default_rng(0).normal(0, 30, (height, width))
    return np.clip(
        np.where(depth > 0, 900 + 2200 * np.sqrt(np.maximum(depth, 0)) + noise, 20 + noise / 10), 0, 4095
    ).astype(np.uint16)


def written(folder: Path, film: np.ndarray) -> dict[str, Path]:
    """The film in each syntax that can be written here."""
    paths = {name: folder / f"{name}.dcm" for name in ("uncompressed", "RLE", "JPEG-LS", "JPEG 2000", "JPEG lossless")}
    for name, syntax in (
        ("uncompressed", ""),
        ("RLE", RLELossless),
        ("JPEG-LS", JPEGLSLossless),
        ("JPEG 2000", JPEG2000Lossless),
    ):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "2.25.1"
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
        data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = *film.shape, 16, 12, 11
        data.add_new("PixelData", "OW", film.tobytes())
        if syntax:
            data.compress(syntax, generate_instance_uid=False)
        data.save_as(paths[name], enforce_file_format=True)
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(paths["uncompressed"]))
    reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    change.Change()
    writer.SetFileName(str(paths["JPEG lossless"]))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.Write()
    return paths


def files(paths: dict[str, Path]) -> None:
    for name, path in paths.items():
        syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID.name
        took = seconds(DicomFile(path.parent, path.name).read)
        print(f"read {name:14} {took:6.2f} s, {path.stat().st_size / 1e6:5.1f} MB ({syntax})")


def whole(film: np.ndarray) -> None:
    """A film through the rules of GMIC's input."""
    roi = Roi(strategy="whole", flip="breast_left", crop="breast")
    limits, pose = grey_limits(film, roi), pose_of(film, "R", roi)
    mask = film > np.median(film)
    print(f"film {film.shape[0]} x {film.shape[1]}: before the cut {peak()}")
    print(f"grey limits    {seconds(lambda: grey_limits(film, roi)):6.2f} s")
    print(f"breast found   {seconds(lambda: pose_of(film, 'R', roi)):6.2f} s")
    for name, stands in (("whole film", None), ("breast", pose)):
        more = {} if stands is None else {"pose": stands}
        took = seconds(lambda more=more: cut(film, [mask], None, roi, (2944, 1920), grey=limits, **more))  # type: ignore[misc]
        print(f"cut to 2944 x 1920, {name:10} {took:6.2f} s, {peak()}")


def variations(size: int) -> None:
    rng = np.random.default_rng(0)
    for spec in (
        Augment(), Augment(recipe="turns"), Augment(recipe="window_turns"), Augment(recipe="flip_hv"), Augment(recipe="paper002"),
        Augment(recipe="paper003"), Augment(recipe="paper003", rotate="uniform"), Augment(recipe="paper004"),
    ):  # fmt: skip
        side = round(size * cached_margin(spec))
        image, masks = (
            rng.integers(1, 65535, (1, side, side), np.uint16),
            rng.integers(0, 255, (2, side, side), np.uint8),
        )

        def once(spec: Augment = spec, image: np.ndarray = image, masks: np.ndarray = masks) -> None:
            for _ in range(50):
                vary(in_unit(image), in_unit(masks), draw(spec, image, (size, size), rng), (size, size))

        print(f"vary {spec.recipe:12} {spec.rotate:7} {seconds(once) / 50 * 1e3:6.2f} ms a sample of {size} px")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--height", type=int, default=4096)
    parser.add_argument("--width", type=int, default=3328)
    parser.add_argument("--film", type=Path, help="a DICOM film of yours instead")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"imports alone: {peak()}")
    with tempfile.TemporaryDirectory() as folder:
        paths = {"film": asked.film} if asked.film else written(Path(folder), generated(asked.height, asked.width))
        files(paths)
        first = next(iter(paths.values()))
        whole(DicomFile(first.parent, first.name).read())
    variations(224)


if __name__ == "__main__":
    main()
