"""A tiny data set in memory: films with a bright block as their mass. A reader, registered as `toy_films`."""

import hashlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import data
from data.errors import DataError
from data.record import DataCard, Finding, Record, Report, public_id
from data.record import Options as BaseOptions

CARD = DataCard(
    name="toy_films",
    title="Blocks on noise",
    version=1,
    tracks=("margin", "malignancy", "detection"),
    provides=frozenset({"margin", "malignant", "mask", "fine_mask", "box", "normal"}),
    licence="none",
    source="made by a test",
    grade="synthetic",
    needs_root=False,
)
HEIGHT, WIDTH = 60, 40


class Options(BaseOptions):
    patients: int = 24
    sides: str = "none"  # none | official | official, no validation | leak
    normals: bool = False
    edits: bool = False
    defect: str = "none"  # of film 3: empty, size, undecodable, outside, clipped, flat, unplaced
    log: str | None = None  # a file that gets one line per decoded film
    killed_by: str | None = None  # a file: while it exists, the process that decodes film 20 is killed


@dataclass(frozen=True)
class Block:
    """A film with a bright block, or the mask of it."""

    number: int
    box: tuple[int, int, int, int] | None
    part: str = "image"
    defect: str = "none"
    log: str | None = None
    killed_by: str | None = None

    @property
    def name(self) -> str:
        return f"film {self.number}, {self.part}"

    def read(self) -> np.ndarray:
        shape = (HEIGHT + 2, WIDTH) if self.defect == "size" and self.part == "mask" else (HEIGHT, WIDTH)
        inside = np.zeros(shape, dtype=bool)
        if self.box is not None and not (self.defect == "empty" and self.part == "mask"):
            x0, y0, x1, y1 = self.box
            inside[y0:y1, x0:x1] = True
        if self.part == "fine":
            inside[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = False
        if self.part != "image":
            return inside
        if self.number == 20 and self.killed_by and Path(self.killed_by).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{self.number}\n")
        if self.defect == "undecodable":
            raise DataError("not a DICOM", self.name, "replace the file")
        if self.defect == "flat":
            return np.full(shape, 7, np.uint16)
        noise = np.random.default_rng(self.number).integers(0, 100, shape)
        return (noise + 1000 * inside + self.number).astype(np.uint16)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.number}{self.box}{self.part}".encode()).hexdigest()


def records(root: Path | None, options: Options, report: Report) -> Iterator[Record]:
    for patient in range(options.patients):
        for view in range(2):
            number = 2 * patient + view
            yield _record(options, patient, number)
            if options.edits and patient % 2:
                yield _record(options, patient, number, edited=True)


def _record(options: Options, patient: int, number: int, edited: bool = False) -> Record:
    rng = np.random.default_rng(1000 + patient)
    x, y = (int(v) for v in rng.integers(2, 22, 2))
    box = (x, y + number % 2 * 10, x + int(rng.integers(6, 14)), y + 20)
    record_id = public_id(CARD.name, str(number))
    defect = options.defect if number == 3 and not edited else "none"
    normal = (options.normals and patient % 4 == 0) or edited
    film = Block(number, None if normal else box, "image", defect, options.log, options.killed_by)
    margin = ("circumscribed", "indistinct", "spiculated")[patient % 3]
    finding = Finding(
        finding_id=f"{record_id}-0",
        lesion_id=public_id(CARD.name, "lesion", str(patient)),
        margin=None if edited else margin,
        malignant=None if edited else bool(patient % 2),
        mask=None if defect in ("unplaced", "outside") or edited else Block(number, box, "mask", defect),
        fine_mask=Block(number, box, "fine") if number % 2 and not edited else None,
        box={"outside": (500, 500, 520, 520), "clipped": (x - 2 - x, y, x + 9, y + 20), "unplaced": None}.get(
            defect, box
        ),
        attributes={"assessment": 3.0 + patient % 2, "shape": "oval" if patient % 2 else None},
    )
    return Record(
        dataset=CARD.name,
        record_id=f"{record_id}e" if edited else record_id,
        patient_id=f"SECRET_{patient}",
        laterality="L",
        view=("CC", "MLO")[number % 2],
        image=film,
        findings=() if normal and not edited else (finding,),
        has_mass=not normal,
        official_split=_side(options, patient, number),
        attributes={"density": "abcd"[patient % 4]},
        counterfactual_of=record_id if edited else None,
    )


def _side(options: Options, patient: int, number: int) -> str | None:
    if options.sides == "none":
        return None
    if options.sides == "leak" and number == 1:
        return "test"
    names = ("train", "train", "test") if "no validation" in options.sides else ("train", "validation", "test")
    return names[patient * 3 // options.patients]


data.register(CARD.name, __name__)
