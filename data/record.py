"""One image with its patient, view and findings, as a reader describes it. Nothing here decodes a pixel by itself."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from data.errors import DataError, shortened

PatientScope = Literal["global", "within_class", "lesion", "film"]


class Pixels(Protocol):
    """Where pixels come from: a file, or a generator. Cheap to hold, hashable, picklable.

    `name` is fit for a message (relative path or recipe). `read()` decodes: an image gives (H, W) numbers, brighter =
    denser, any range; a mask gives (H, W) bool, True on the lesion. `fingerprint()` is the hash of the content.
    `read` raises DataError, naming the file and (for DICOM) the transfer syntax. Pixels that a table's row names may
    say so with a further property `place`: what `place_of` gives.
    """

    @property
    def name(self) -> str: ...
    def read(self) -> np.ndarray: ...
    def fingerprint(self) -> str: ...


def place_of(pixels: Pixels) -> tuple[str, int | None]:
    """Where a user finds these pixels: the file, and the row of the table that names it, where one does."""
    place: tuple[str, int | None] = getattr(pixels, "place", (pixels.name, None))
    return place


Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in film pixels, half open


@dataclass(frozen=True)
class Finding:
    """One lesion in one image. Masks are True on the lesion; None = unknown, never a guess."""

    finding_id: str  # unique in the data set, fit for publication
    lesion_id: str  # shared by the views of one lesion
    kind: str = "mass"
    margin: str | None = None  # one of data.tracks.MARGINS
    malignant: bool | None = None
    mask: Pixels | None = None
    fine_mask: Pixels | None = None
    box: Box | None = None  # None: the bounding box of the mask
    attributes: Mapping[str, str | float | None] = field(default_factory=dict)  # assessment, shape, subtlety...


@dataclass(frozen=True)
class Record:
    """One image. `patient_id` is the data set's own and never leaves the machine; artifacts carry `public_id` of it."""

    dataset: str
    record_id: str  # unique, fit for publication: make it with `public_id`
    patient_id: str
    laterality: str  # L | R
    view: str  # CC | MLO | other
    image: Pixels
    findings: tuple[Finding, ...] = ()
    has_mass: bool | None = None
    official_split: str | None = None  # train | validation | test
    attributes: Mapping[str, str | float | None] = field(default_factory=dict)  # density (a-d), vendor, grade
    counterfactual_of: str | None = None  # record_id of the origin
    unlisted: int = 0  # masses that the data set's tables name on this film and that are not among findings
    other_lesions: int = 0  # likewise lesions of other kinds


def public_id(dataset: str, *parts: str) -> str:
    """An id that can be printed and published: the data set's name and 12 hex digits of a hash of the parts."""
    return f"{dataset}-{hashlib.sha256('|'.join((dataset, *parts)).encode()).hexdigest()[:12]}"


class Options(BaseModel):
    """Base of a reader's options: what may be asked of the data set. Unknown keys are refused.

    These fields are every reader's: `prepare` and the split see to them. A result that used one says so (a badge).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    masks: Literal["own", "shuffled"] = Field(
        default="own", description="shuffled: a placebo: masks of the training side are exchanged between patients"
    )
    masks_kept: float = Field(
        default=1.0, ge=0, le=1, description="share of the training patients with masks whose masks training sees"
    )
    masks_seed: int = Field(default=0, ge=0, description="of the exchange, and of whose masks are kept")
    fine: Literal["own", "band"] = Field(
        default="own", description="band: around the lesion's contour, a proxy where a finding has no fine annotation"
    )
    band: float = Field(default=0.2, gt=0, le=1, description="reach of the band on each side, in radii of the lesion")
    patient_scope: PatientScope = Field(
        default="global",
        description="what goes to one side as a whole. global: a patient; within_class: a patient's films of one class "
        "(paper 000); lesion: the films of a lesion; film: each film by itself",
    )

    @property
    def of_films(self) -> Self:
        """What decides what is prepared: options that only choose what training sees of it are at their defaults."""
        fields = type(self).model_fields
        return self.model_copy(update={name: fields[name].default for name in ("masks", "masks_kept", "masks_seed")})

    def as_json(self) -> dict[str, Any]:
        """What caches and runs are named by: an option that came later is left out where it is off, so the names stand."""
        return self.model_dump(mode="json", exclude={"masks_kept"} if self.masks_kept == 1 else None)


@dataclass(frozen=True)
class DataCard:
    """What a data set is: shown by `list datasets`, checked before a method is run on it."""

    name: str
    title: str
    version: int  # bumped when the reader's output changes
    tracks: tuple[str, ...]
    provides: frozenset[str]  # of: margin, malignant, mask, fine_mask, box, normal
    licence: str
    source: str  # where to get it, in words
    grade: str = "full"  # full | reduced | proxy | synthetic
    needs_root: bool = True  # False: nothing lies on disk
    published_counts: Mapping[str, int] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)  # of a table that users write themselves: what each means


@dataclass
class Report:
    """What a reader or `prepare` met on its way: problems (a broken file, a bad row) and what was left out by rule.

    With `skip_bad` a problem is noted and the row left out; without it the first one ends the run (DataError).
    """

    skip_bad: bool = False
    problems: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def problem(self, file: str, row: int | None, message: str, do: str, reason: str | None = None) -> None:
        """`reason` groups problems for counting ("film not on disk"); default: the message itself."""
        message = shortened(message)
        if not self.skip_bad:
            where = f"{file}, row {row}" if row is not None else file
            raise DataError(message, where, f"{do}, or pass --skip-bad to leave it out")
        self.problems.append({"file": file, "row": row, "message": message})
        self.left_out[reason or message] += 1

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Left out by the data set's or the track's own rule; no error."""
        self.left_out[reason] += count


class Reader(Protocol):
    """What a file in `data/` offers to be a data set: CARD, Options and records."""

    CARD: DataCard
    Options: type[Options]

    def records(self, root: Path | None, options: Any, report: Report) -> Iterator[Record]: ...
