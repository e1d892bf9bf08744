"""The files of a CBIS-DDSM download, found by the series in their headers; crop and mask told apart by content."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from data._cbis_csv import Place
from data._csv import Refusal
from data.dicom import DicomFile, Header, read_header
from data.errors import DataError

AGAIN = "download the file again"
MASK_BITS = 8
NEAR = 0.05  # a mask is a film's size, or misses it by less than this share
CROP_SHARE = 0.5  # a crop covers less of its film's area than this
THREADS = 8  # for disks on a network; on a local disk one would do


@dataclass(frozen=True)
class Files:
    """Headers by series; `broken`: the .dcm files that are none, with what is wrong."""

    root: Path
    series: dict[str, list[Header]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    @cached_property
    def _broken_in(self) -> dict[str, str]:
        """Folder name -> the first broken file below it."""
        found: dict[str, str] = {}
        for path in self.broken:
            for folder in path.split("/")[:-1]:
                found.setdefault(folder, path)
        return found

    def broken_of(self, *places: Place) -> str | None:
        """A broken file that lies in a folder named after one of these series (or, older downloads, lesions)."""
        names = [place.series for place in places] + [place.folder for place in places]
        return next((self._broken_in[name] for name in names if name in self._broken_in), None)


def scan(root: Path, paths: list[str]) -> Files:
    """Read the headers of all DICOM files among the paths, whatever their names (10,000 of them: 4 s on two cores)."""
    files = Files(root)

    def header(path: str) -> Header | DataError:
        try:
            return read_header(root, path)
        except DataError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        for path, found in zip(paths, pool.map(header, paths), strict=True):
            if isinstance(found, Header):
                files.series.setdefault(found.series, []).append(found)
            elif path.lower().endswith((".dcm", ".dicom")):
                files.broken[path] = found.what
    return files


def find_film(files: Files, place: Place) -> Header:
    """The film of a series. Raises Refusal where there is none, or none that can be used."""
    found = _distinct(files.series.get(place.series, []))
    images = [header for header in found if header.rows and header.columns]
    if not images:
        _refuse_broken(files, found, (place,), "film cannot be used")
        raise Refusal("film not on disk", "film not on disk", "download the rest of the collection")
    if len(images) > 1:
        names = ", ".join(header.path for header in images[:2])
        raise Refusal(f"the film's series holds {len(images)} images: {names}", "several films", "leave one of them")
    return _whole(images[0], "film cannot be used")


def find_mask(files: Files, places: tuple[Place, ...], film: Header) -> Header:
    """The mask among the files of a lesion's series, by size and content; it has its film's size. Raises Refusal."""
    found = _distinct([header for place in places for header in files.series.get(place.series, [])])
    images = [header for header in found if header.rows and header.columns and header.path != film.path]
    if not images:
        _refuse_broken(files, found, places, "mask cannot be used")
        raise Refusal("mask not on disk", "mask not on disk", "download the rest of the collection")
    mask = _mask_by_header(images, film) or _mask_by_pixels(files, images, places)
    if (mask.rows, mask.columns) != (film.rows, film.columns):
        sizes = f"{mask.rows} x {mask.columns} pixels, its film {film.rows} x {film.columns}"
        message = f"mask of another size than its film: {mask.path} has {sizes}"
        raise Refusal(message, "mask of another size than its film", "leave the row out")
    return _whole(mask, "mask cannot be used")


def _mask_by_header(images: list[Header], film: Header) -> Header | None:
    """The one file of 8 bits and about the film's size, where every other is clearly smaller; None leaves it open."""
    masks = [header for header in images if header.bits == MASK_BITS and _near(header, film)]
    crops = [header for header in images if header.rows * header.columns < CROP_SHARE * film.rows * film.columns]
    return masks[0] if len(masks) == 1 and len(masks) + len(crops) == len(images) else None


def _mask_by_pixels(files: Files, images: list[Header], places: tuple[Place, ...]) -> Header:
    """The one file whose pixels have at most two values."""
    masks, failed = [], None
    for header in images:
        try:
            if _two_values(DicomFile(files.root, header.path).read()):
                masks.append(header)
        except DataError as error:
            failed = error
    if len(masks) == 1:
        return masks[0]
    if failed is not None and not masks:
        raise Refusal(f"mask cannot be used: {failed.where}: {failed.what}", "mask cannot be used", AGAIN)
    if not masks:
        _refuse_broken(files, [], places, "mask cannot be used")
        message = f"no mask among the lesion's files: {images[0].path} has more than two values"
        raise Refusal(message, "mask not on disk", AGAIN)
    names = ", ".join(header.path for header in masks[:2])
    message = f"mask and crop cannot be told apart: {names} have two values each"
    raise Refusal(message, "mask and crop cannot be told apart", "leave the row out")


def _distinct(headers: list[Header]) -> list[Header]:
    """Each instance once: of copies the largest, then the first by path."""
    best: dict[str, Header] = {}
    for header in sorted(headers, key=lambda h: (-h.rows * h.columns, h.path)):
        best.setdefault(header.instance, header)
    return sorted(best.values(), key=lambda h: h.path)


def _refuse_broken(files: Files, found: list[Header], places: tuple[Place, ...], reason: str) -> None:
    """Say so where the file that is looked for is there, but is no image or no DICOM."""
    if found:
        raise Refusal(f"{found[0].path} holds no image", reason, AGAIN)
    path = files.broken_of(*places)
    if path is not None:
        raise Refusal(f"{path}: {files.broken[path]}", reason, AGAIN)


def _whole(header: Header, reason: str) -> Header:
    if header.cut_short:
        message = f"{header.path} is cut short: {header.size} bytes for {header.pixel_bytes} bytes of pixels"
        raise Refusal(message, reason, AGAIN)
    return header


def _near(header: Header, film: Header) -> bool:
    pairs = ((header.rows, film.rows), (header.columns, film.columns))
    return all(abs(own - its) <= NEAR * its for own, its in pairs)


def _two_values(pixels: np.ndarray) -> bool:
    return bool(np.all((pixels == pixels.min()) | (pixels == pixels.max())))
