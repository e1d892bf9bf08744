"""The phantom as the unpacked mini-MIAS: square PGM films in pairs, Info.txt with a circle for each mass.

Of an exam the MLO films are written; the breast without a mass is a normal film. The form has no margin but that of the
class of a mass, no mask but its circle, and no official sides.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from data.errors import ConfigError
from data.forms import Form
from data.forms._files import mask, pixels, rng, save_image
from data.mini_mias import MARGIN, NORMAL, OTHER, SIDE, Circle
from data.record import Finding, Record

FORM = Form(
    dataset="mini_mias",
    title="mini-MIAS: PGM films of 1024 x 1024, circles in Info.txt",
    options={"views": 4, "size": SIDE, "normal_share": 0.25},
    quirks={
        "crlf": "rows of Info.txt end in CR LF",
        "no_place": "every third mass has no coordinates",
        "note": "every third normal film has calcifications all over: *NOTE 3* in place of a circle",
        "other": "every second normal film has a calcification, a distortion or an asymmetry",
        "missing": "every fifth film is not on disk",
    },
)
KINDS = {margin: kind for kind, margin in MARGIN.items()}
TISSUE = {"a": "F", "b": "G", "c": "G", "d": "D"}  # of the density; the collection has three classes
MOST_PAIRS = 499
LINE = "=" * 65
HEAD = f"""              MAMMOGRAPHIC IMAGE ANALYSIS SOCIETY
                  MiniMammographic Database

Generated films in the form of this database: no patient's, and not for clinical use.
{LINE}

1st column: MIAS database reference number.
2nd column: Character of background tissue: F - Fatty, G - Fatty-glandular, D - Dense-glandular
3rd column: Class of abnormality present: CALC, CIRC, SPIC, MISC, ARCH, ASYM, NORM
4th column: Severity of abnormality: B - Benign, M - Malignant
5th,6th columns: x,y image-coordinates of centre of abnormality.
7th column: Approximate radius (in pixels) of a circle enclosing the abnormality.

{LINE}

"""


def write(out: Path, films: Sequence[Record], quirks: frozenset[str], told: Callable[[], None]) -> list[Record]:
    """Films and Info.txt in `all-mias`. A film whose only finding has no place is none that can be prepared.

    Raises ConfigError where there are more pairs than numbers of three digits.
    """
    if len({record.patient_id for record in films}) > MOST_PAIRS:
        raise ConfigError("a film's number has three digits", "exams", f"ask for at most {MOST_PAIRS} exams")
    table = _Table(out / "all-mias", quirks)
    for record in films:
        if record.view == "MLO":
            table.add(record)
        told()
    return table.save()


@dataclass
class _Table:
    """Lines of Info.txt, and what is to be read, by the number of the film."""

    folder: Path
    quirks: frozenset[str]
    lines: dict[int, list[str]] = field(default_factory=dict)
    known: dict[int, Record] = field(default_factory=dict)
    pairs: dict[str, int] = field(default_factory=dict)  # patient -> number of the pair
    masses: int = 0
    normals: int = 0

    def add(self, record: Record) -> None:
        pair = self.pairs.setdefault(record.patient_id, len(self.pairs) + 1)
        number = 2 * pair - (record.laterality == "R")
        film = f"mdb{number:03d}"
        grey = squared(pixels(record))
        found = [self._mass(f) for f in record.findings] if record.findings else self._normal(film, grey)
        start = f"{film} {TISSUE[str(record.attributes['density'])]}"
        self.lines[number] = [f"{start} {text}" for text, _ in found]
        findings = tuple(finding for _, finding in found if finding is not None)
        record = replace(
            record,
            patient_id=f"pair {pair}",
            official_split=None,
            findings=findings,
            has_mass=True if record.findings else None if findings else False,
        )
        if not ("missing" in self.quirks and number % 5 == 0):
            save_image(self.folder / f"{film}.pgm", grey)
            if not findings or any(finding.mask is not None for finding in findings):
                self.known[number] = record

    def _mass(self, finding: Finding) -> tuple[str, Finding]:
        """The line of a mass from its class on, and the mass as it is to be read."""
        self.masses += 1
        text = f"{KINDS[str(finding.margin)]} {'M' if finding.malignant else 'B'}"
        finding = replace(finding, fine_mask=None, box=None)
        if finding.mask is None or ("no_place" in self.quirks and self.masses % 3 == 0):
            return text, replace(finding, mask=None)
        circle = around(squared(mask(finding.mask)))
        return f"{text} {circle.x} {circle.y} {circle.radius}", replace(finding, mask=circle)

    def _normal(self, film: str, grey: np.ndarray) -> list[tuple[str, Finding | None]]:
        """The line of a film without a mass, and the finding that a quirk gives it. grey: (1024, 1024)."""
        self.normals += 1
        finding = Finding(film, film, kind="calcification")
        if "note" in self.quirks and self.normals % 3 == 0:
            return [("CALC M *NOTE 3* ", replace(finding, malignant=True))]
        if "other" in self.quirks and self.normals % 2 == 0:
            kind = list(OTHER)[self.normals // 2 % len(OTHER)]
            row, column = rng("other", film).choice(np.argwhere(grey > grey.mean()))
            circle = Circle(int(column), SIDE - int(row), 24, ("Info.txt", 0))
            words = f"{kind} B {circle.x} {circle.y} {circle.radius}"
            return [(words, replace(finding, kind=OTHER[kind], malignant=False, mask=circle))]
        return [(f"{NORMAL} ", None)]  # the blank at the end is the collection's

    def save(self) -> list[Record]:
        """Write Info.txt; gives the films in its order."""
        rows = "\n".join(line for number in sorted(self.lines) for line in self.lines[number])
        text = f"{HEAD}{rows}\n\n{LINE}\n"
        self.folder.mkdir(parents=True, exist_ok=True)
        end = "\r\n" if "crlf" in self.quirks else "\n"
        (self.folder / "Info.txt").write_bytes(text.replace("\n", end).encode("ascii"))
        return [self.known[number] for number in sorted(self.known)]


def squared(film: np.ndarray) -> np.ndarray:
    """(H, W) uint8 of any size, no wider than high, as (1024, 1024): scaled, and black on both sides."""
    height, width = film.shape
    scaled = np.asarray(Image.fromarray(film).resize((round(width * SIDE / height), SIDE), Image.Resampling.NEAREST))
    left = (SIDE - scaled.shape[1]) // 2
    return np.pad(scaled, ((0, 0), (left, SIDE - scaled.shape[1] - left)))


def around(lesion: np.ndarray) -> Circle:
    """The smallest circle about the middle of a lesion's box that holds it. lesion: (1024, 1024), not 0 on it."""
    rows, columns = np.nonzero(lesion)
    x, row = (int(columns.min()) + int(columns.max())) // 2, (int(rows.min()) + int(rows.max())) // 2
    radius = math.ceil(math.sqrt(int(((columns - x) ** 2 + (rows - row) ** 2).max())))
    return Circle(x, SIDE - row, radius, ("Info.txt", 0))
