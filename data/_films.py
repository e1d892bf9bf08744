"""The work on one film: decode it and its masks once, check them, measure them, write the regions asked for."""

import hashlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from data import _pool
from data._breast import Pose, pose_of
from data._folder import disk_errors
from data._look import Look, look_at
from data._negatives import KIND, PER_FILM, lesion_free
from data._store import ARRAYS, PixelSpec, RowSum, write_rows
from data.dicom import PixelFacts
from data.errors import DataError
from data.inputs import Roi
from data.record import Box, Finding, Pixels, Record, place_of
from data.roi import cut, grey_limits, jitter_of


@dataclass(frozen=True)
class Slot:
    """Where the pixels of one sample go: row numbers in the three arrays, -1 = none."""

    finding_id: str  # "" for a whole film
    row: int
    mask_row: int = -1
    fine_row: int = -1


@dataclass(frozen=True)
class Film:
    """One record as a job for one process. A counterfactual takes grey limits and boxes from its origin."""

    record: Record
    slots: tuple[Slot, ...] = ()
    grey_from: Pixels | None = None
    boxes_from: tuple[Finding, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()  # of lesion-free regions: widths and heights to draw from


@dataclass(frozen=True)
class FindingFacts:
    """What decoding tells about a finding."""

    finding_id: str
    box: Box
    area_px: int  # of the mask; of the box where there is none
    mask_hash: str
    fine_hash: str
    box_clipped: bool


@dataclass(frozen=True)
class Problem:
    """Something broken: an argument list of Report.problem."""

    file: str
    message: str
    do: str
    row: int | None = None

    @classmethod
    def of(cls, pixels: Pixels | None, message: str, do: str) -> "Problem":
        """A problem of these pixels, at the place that they name."""
        file, row = place_of(pixels) if pixels is not None else ("", None)
        return cls(file, message, do, row)


@dataclass
class FilmFacts:
    """What decoding tells about a film. `findings` lacks those that had a problem; with `broken` the film has one."""

    record_id: str
    height: int = 0
    width: int = 0
    image_hash: str = ""
    pixel_hash: str = ""  # of the decoded film: one film under two headers has one
    look: Look | None = None
    source: PixelFacts | None = None  # of a file: what its header says
    grey: tuple[float, float] = (0.0, 0.0)
    broken: bool = False
    findings: list[FindingFacts] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unplaced: int = 0  # findings with neither mask nor box: known to exist, not where
    pose: Pose = Pose()  # noqa: RUF009 - frozen
    windows: dict[str, Box] = field(default_factory=dict)  # finding_id -> the window that was cut
    sums: list[RowSum] = field(default_factory=list)  # of the rows that were written


@dataclass
class _Decoded:
    finding: Finding
    mask: np.ndarray | None
    fine: np.ndarray | None
    facts: FindingFacts


class _BadPixelsError(Exception):
    """Carries the Problem of one finding or film to where it is noted."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def work(film: Film, spec: PixelSpec | None, folder: Path | None, check: bool) -> FilmFacts:
    """Decode one film; with `spec`, write its slots into the arrays in `folder`. `check`: fingerprints too."""
    facts = FilmFacts(film.record.record_id)
    try:
        facts.image_hash = _fingerprint(film.record.image) if check else ""
        facts.source = _header(film.record.image) if check else None
        image = _film_pixels(film.record.image)
        grey_source = image if film.grey_from is None else _film_pixels(film.grey_from)
    except _BadPixelsError as bad:
        facts.broken = True
        facts.problems.append(bad.problem)
        return facts
    facts.height, facts.width = image.shape
    if check:
        facts.pixel_hash, facts.look = _pixel_hash(image), look_at(image)
    facts.grey = grey_limits(grey_source, spec.roi if spec is not None else Roi())
    decoded = _findings(film, image.shape, facts, check)
    if spec is None or folder is None:
        facts.findings = [item.facts for item in decoded]
        return facts
    facts.pose = pose_of(grey_source, film.record.laterality, spec.roi)
    slots = {slot.finding_id: slot for slot in film.slots}
    with disk_errors(folder):
        for region in _REGIONS[spec.unit](film, spec, image, decoded, facts):
            _write(slots[region.finding_id], region, spec, folder, image, facts)
    return facts


def _film_pixels(pixels: Pixels) -> np.ndarray:
    image = _read(pixels)
    if image.ndim != 2 or min(image.shape) < 8:
        raise _BadPixelsError(Problem.of(pixels, f"not a film: its pixels have the shape {image.shape}", "replace it"))
    low, high = image.min(), image.max()
    if not np.isfinite(low) or not np.isfinite(high):
        raise _BadPixelsError(Problem.of(pixels, "the film has grey values that are not numbers", "replace the file"))
    if low == high:
        raise _BadPixelsError(Problem.of(pixels, f"the film has one grey value ({low}) only", "replace the file"))
    return image


def _pixel_hash(image: np.ndarray) -> str:
    """Of the grey values and the shape, whatever the type they are held in."""
    values = np.ascontiguousarray(image, dtype=np.float32)
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()


def _read(pixels: Pixels) -> np.ndarray:
    with _named(pixels):
        return np.asarray(pixels.read())


def _header(pixels: Pixels) -> PixelFacts | None:
    """What a file's header says; generated pixels have none."""
    facts = getattr(pixels, "facts", None)
    if facts is None:
        return None
    with _named(pixels):
        found: PixelFacts = facts()
        return found


def _fingerprint(pixels: Pixels) -> str:
    with _named(pixels):
        return pixels.fingerprint()


@contextmanager
def _named(pixels: Pixels) -> Iterator[None]:
    """Turns what a damaged or lost file raises into a problem that names it."""
    try:
        yield
    except DataError as error:
        do = error.do.split(", or pass --skip-bad")[0]
        problem = Problem.of(pixels, error.what, do)
        if error.where not in ("", pixels.name, getattr(pixels, "where", "")):  # of another file than these pixels'
            problem = Problem(error.where, error.what, do)
        raise _BadPixelsError(problem) from error
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise _BadPixelsError(Problem.of(pixels, f"cannot be decoded ({reason})", "replace the file")) from error


def _findings(film: Film, shape: tuple[int, ...], facts: FilmFacts, check: bool) -> Iterator[_Decoded]:
    """The findings without a problem, decoded; problems are noted in `facts`."""
    origin_boxes = {finding.finding_id: finding for finding in film.boxes_from}
    for finding in film.record.findings:
        origin = origin_boxes.get(finding.finding_id)
        if finding.box is None and origin is not None and (origin.box is not None or origin.mask is not None):
            try:
                finding = replace(finding, box=origin.box or _extent(_mask(origin.mask, shape)))
            except _BadPixelsError as bad:
                facts.problems.append(bad.problem)
                continue
        if finding.box is None and finding.mask is None:
            facts.unplaced += 1
            continue
        try:
            yield _decode(finding, film.record, shape, check)
        except _BadPixelsError as bad:
            facts.problems.append(bad.problem)


def _decode(finding: Finding, record: Record, shape: tuple[int, ...], check: bool) -> _Decoded:
    mask, fine = _mask(finding.mask, shape), _mask(finding.fine_mask, shape)
    extent = _extent(mask) if mask is not None else None
    box, clipped = _inside(finding.box or extent, shape)
    if box is None:
        raise _BadPixelsError(
            Problem.of(
                record.image,
                f"the box {finding.box} lies outside of the film ({shape[1]} x {shape[0]})",
                "mend it",
            )
        )
    if mask is not None and extent is not None and not _overlap(box, extent):
        raise _BadPixelsError(Problem.of(finding.mask, f"the mask lies outside of its box {box}", "mend box or mask"))
    area = int(mask.sum()) if mask is not None else (box[2] - box[0]) * (box[3] - box[1])
    mask_hash, fine_hash = (_fingerprint(p) if check and p else "" for p in (finding.mask, finding.fine_mask))
    return _Decoded(finding, mask, fine, FindingFacts(finding.finding_id, box, area, mask_hash, fine_hash, clipped))


def _mask(pixels: Pixels | None, shape: tuple[int, ...]) -> np.ndarray | None:
    if pixels is None:
        return None
    mask = _read(pixels).astype(bool)
    if mask.shape != shape:
        sizes = f"{' x '.join(map(str, mask.shape[::-1]))} pixels, its film {shape[1]} x {shape[0]}"
        raise _BadPixelsError(
            Problem.of(pixels, f"mask of another size than its film: it has {sizes}", "replace the mask")
        )
    if not mask.any():
        raise _BadPixelsError(Problem.of(pixels, "the mask is empty", "replace the mask"))
    if mask.all():
        raise _BadPixelsError(Problem.of(pixels, "the mask covers the whole film", "replace the mask"))
    return mask


def _extent(mask: np.ndarray | None) -> Box | None:
    """The bounding box of a mask that is not empty."""
    if mask is None:
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _inside(box: Box | None, shape: tuple[int, ...]) -> tuple[Box | None, bool]:
    """The box clipped to the film, and whether that changed it. None: less than half of it lies on the film."""
    if box is None:
        return None, False
    x0, y0, x1, y1 = (int(value) for value in box)
    inner = (max(x0, 0), max(y0, 0), min(x1, shape[1]), min(y1, shape[0]))
    area = max(0, inner[2] - inner[0]) * max(0, inner[3] - inner[1])
    whole = (x1 - x0) * (y1 - y0)
    if x1 <= x0 or y1 <= y0 or 2 * area < whole:
        return None, False
    return inner, inner != (x0, y0, x1, y1)


def _overlap(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


@dataclass
class _Region:
    """What one slot shows: masks and box in film pixels; box None: the whole film."""

    finding_id: str
    mask: np.ndarray | None = None
    fine: np.ndarray | None = None
    box: Box | None = None


def _of_findings(
    film: Film, spec: PixelSpec, image: np.ndarray, decoded: Iterator[_Decoded], facts: FilmFacts
) -> Iterator[_Region]:
    """One after the other: a film of many findings holds the masks of one at a time."""
    for item in decoded:
        facts.findings.append(item.facts)
        yield _Region(item.facts.finding_id, item.mask, item.fine, item.facts.box)


def _of_film(
    film: Film, spec: PixelSpec, image: np.ndarray, decoded: Iterator[_Decoded], facts: FilmFacts
) -> Iterator[_Region]:
    """The whole film with the masks of all its masses as one."""
    whole = _Region("")
    for item in decoded:
        facts.findings.append(item.facts)
        if item.finding.kind == "mass":
            whole.mask, whole.fine = _union(whole.mask, item.mask), _union(whole.fine, item.fine)
    yield whole


def _free_of_lesions(
    film: Film, spec: PixelSpec, image: np.ndarray, decoded: Iterator[_Decoded], facts: FilmFacts
) -> Iterator[_Region]:
    """Lesion-free regions; a slot for which none was found stays unused."""
    facts.findings = [item.facts for item in decoded]
    lesions = [found.box for found in facts.findings]
    boxes = lesion_free(image, film.record.record_id, lesions, film.sizes, spec.roi, spec.margin)
    for slot, box in zip(film.slots, boxes, strict=False):
        yield _Region(slot.finding_id, box=box)


_REGIONS = {"finding": _of_findings, "image": _of_film, KIND: _free_of_lesions}  # by unit


def _union(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    return other if one is None else one if other is None else one | other


def _write(slot: Slot, region: _Region, spec: PixelSpec, folder: Path, image: np.ndarray, facts: FilmFacts) -> None:
    """Cut a region and write it to its slot."""
    masks = {"mask": region.mask, "fine": region.fine}
    present = [name for name, value in masks.items() if value is not None]
    found = cut(
        image, [m for m in masks.values() if m is not None], region.box, spec.roi, spec.size, spec.margin, facts.grey,
        facts.pose, jitter_of(spec.roi, slot.finding_id),
    )  # fmt: skip
    facts.windows[slot.finding_id] = found.window
    facts.sums += write_rows(folder / "image.npy", [(slot.row, np.rint(found.image * 65535))])
    for name, pixels in zip(present, found.masks, strict=True):
        row = slot.mask_row if name == "mask" else slot.fine_row
        facts.sums += write_rows(folder / f"{name}.npy", [(row, np.rint(pixels * 255))])


def films_of(
    records: Sequence[Record], spec: PixelSpec | None, sizes: Sequence[tuple[int, int]] = ()
) -> tuple[list[Film], dict[str, int]]:
    """The jobs, with a slot for each sample, and how many rows each array needs. Raises DataError for a lost origin.

    sizes: of the unit negative: widths and heights to draw lesion-free regions from.
    """
    by_id, shared_sizes = {record.record_id: record for record in records}, tuple(sizes)
    counts = dict.fromkeys(ARRAYS, 0)
    films = []
    for record in records:
        origin = by_id.get(record.counterfactual_of or "")
        if record.counterfactual_of and origin is None:
            raise DataError(
                f"the origin {record.counterfactual_of} of a counterfactual is not in the data set",
                record.record_id,
                "add it",
            )
        slots = tuple(_slots(record, spec, counts)) if spec else ()
        grey, findings = (origin.image, origin.findings) if origin else (None, ())
        films.append(Film(record, slots, grey, findings, shared_sizes))
    return films, counts


def _slots(record: Record, spec: PixelSpec, counts: dict[str, int]) -> Iterator[Slot]:
    def next_row(array: str, wanted: bool) -> int:
        counts[array] += wanted
        return counts[array] - 1 if wanted else -1

    if spec.unit == KIND:
        for number in range(PER_FILM):
            yield Slot(f"{KIND} {number}", next_row("image", True))
        return
    if spec.unit == "image":
        masses = [finding for finding in record.findings if finding.kind == "mass"]
        has_mask, has_fine = any(f.mask is not None for f in masses), any(f.fine_mask is not None for f in masses)
        yield Slot("", next_row("image", True), next_row("mask", has_mask), next_row("fine", has_fine))
        return
    for f in record.findings:
        rows = next_row("image", True), next_row("mask", f.mask is not None), next_row("fine", f.fine_mask is not None)
        yield Slot(f.finding_id, *rows)


class Spread(Protocol):
    """How films are worked on by many: `work_all`, or over the nodes of a cluster (bench/cluster/prepare.py)."""

    def __call__(
        self, films: Iterable[Film], spec: PixelSpec | None, folder: Path | None, *, check: bool, processes: int
    ) -> Generator[FilmFacts, None, None]: ...


def work_all(
    films: Iterable[Film], spec: PixelSpec | None, folder: Path | None, *, check: bool, processes: int
) -> Generator[FilmFacts, None, None]:
    """The facts of all films, as they are finished; by several processes of this machine if asked for.

    Films are taken only as processes become free. Raises MachineError if a process died or the disk is full.
    """
    return _pool.each(partial(work, spec=spec, folder=folder, check=check), films, processes)
