"""What the leaderboard is made of, as plain data: runs that go in, rows, comparisons and the board that come out."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.metrics import METRICS, Estimate, Frame
from data.tracks import TRACKS

if TYPE_CHECKING:
    from bench.leaderboard.matrix import Matrix

Status = Literal["done", "failed", "not-applicable", "missing", "unavailable"]
ORACLE = "oracle ROI"
RANKED_SEEDS = 5  # fewer leave the spread between seeds too uncertain for a rank


@dataclass(frozen=True)
class Badge:
    """Something that a reader of the row has to know. code: stable, MB001...; meaning: one sentence for this row."""

    code: str
    label: str
    meaning: str

    def to_json(self) -> dict[str, str]:
        return {"code": self.code, "label": self.label, "meaning": self.meaning}


@dataclass
class SeedRun:
    """One final training (one seed, one fold) as the board reads it.

    spec: the RunSpec as JSON. load: reads its frame of this track; None where it left none. folder: where the frame lies, if on
    this machine. requirements: identity ->
    machine seconds of each run that it started from. search: id, trials and seconds of the sweep that chose its config.
    facts: seeds_asked, opened_before, forced, shared_requirements, altered, dirty, commit, reduced (fields), trained_before, weights,
    arms (names of a suite's arms that it was asked for under).
    """

    run_id: str
    track: str
    spec: Mapping[str, Any]
    state: str  # complete | failed | interrupted | running
    load: Callable[[], Frame] | None = None
    failure: str = ""
    reason: str = ""
    seconds: float | None = None
    requirements: Mapping[str, float | None] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    references: Mapping[str, Any] = field(default_factory=dict)  # subset -> name -> metric -> estimate as JSON
    pictures: tuple[str, ...] = ()  # paths of explanation panels, relative to the page
    folder: Path | None = None
    stamp: str = ""  # of its frame's files: what was computed from others is computed again

    @property
    def frame_id(self) -> str:
        """Names the frame that `load` reads, and its state."""
        return "/".join(part for part in (self.run_id, self.track, self.stamp) if part)

    @property
    def method(self) -> str:
        return str(self.spec["method"])

    @property
    def dataset(self) -> str:
        return str(self.spec["dataset"])

    @property
    def place(self) -> tuple[int, int]:
        """Its seed and fold within the row."""
        return int(self.spec.get("seed", 0)), int(self.spec.get("fold", 0))

    @property
    def usable(self) -> bool:
        return self.state == "complete" and self.load is not None


@dataclass
class Row:
    """One line of the board: one method (or reference) on one view of one track. Metrics are means over the seeds."""

    method: str
    dataset: str
    track: str
    subset: str = "all"
    variant: str = "default"
    arms: tuple[str, ...] = ()  # what suites call it; empty: its method's name alone
    seeds: list[str] = field(default_factory=list)  # run ids
    seeds_asked: int = 0
    metrics: dict[str, Estimate] = field(default_factory=dict)
    each: dict[int, Estimate] = field(default_factory=dict)  # seed -> the primary metric of that training alone
    input: str = ""
    supervision: str = ""
    cost: dict[str, float | None] = field(default_factory=dict)
    status: Status = "done"
    reason: str = ""
    badges: list[Badge] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)  # data, split, rows (the labelled test rows), config
    kind: Literal["method", "reference"] = "method"
    protocol: str = "holdout"
    title: str = ""  # of a reference, in words
    ranks: tuple[int, int] | None = None
    rank_note: str = ""  # why it has no rank
    pictures: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # of the reader
    distinct: str = ""  # tells rows of one name apart where there are several
    unit: str = "lesion image"
    patients: int = 0  # that n stems from
    passport: str = ""  # what the data are and what is odd about them, in a line
    opened_before: int = 0  # openings of the same test side before this row's own
    titles: Mapping[str, str] = field(default_factory=dict)  # what its method calls its maps
    coincide: tuple[tuple[str, str, str], ...] = ()  # variant, variant, why: equal by algebra, as its method says

    @property
    def names(self) -> tuple[str, ...]:
        """What a suite calls it: its arms, else its method."""
        return self.arms or (self.method,)

    @property
    def label(self) -> str:
        name = self.title or " = ".join(self.names)
        words = [name, f"[{self.variant}]" if self.variant != "default" else "", self.distinct]
        return " ".join(word for word in words if word)

    @property
    def training(self) -> str:
        """The label without the test-time variant: rows that share it in a table are one training."""
        return " ".join(word for word in (" = ".join(self.names), self.distinct) if word)

    def is_called(self, name: str) -> bool:
        """Whether a suite means this row by `name`: an arm or a method, alone or with a variant."""
        plain, variant = parted(name)
        return plain in self.names and variant in ("", self.variant)

    @property
    def full_label(self) -> str:
        """The label, and the method where the label does not name it."""
        return self.label if self.method in self.names or self.title else f"{self.label} (of {self.method})"

    @property
    def table(self) -> tuple[str, ...]:
        """Rows of one table share data, split, track, view and test rows, so like stands beside like."""
        return (self.track, self.dataset, self.subset, self.hashes.get("split", ""), self.hashes.get("rows", ""))

    @property
    def key(self) -> str:
        """Names the row on the page and in file names."""
        parts = (self.track, self.dataset, self.subset, self.method, self.variant, self.hashes.get("config", ""))
        return "-".join("".join(c if c.isalnum() else "_" for c in part) for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "arms": list(self.arms),
            "dataset": self.dataset,
            "track": self.track,
            "subset": self.subset,
            "variant": self.variant,
            "kind": self.kind,
            "seeds": list(self.seeds),
            "seeds_asked": self.seeds_asked,
            "unit": self.unit,
            "patients": self.patients,
            "metrics": {name: estimate.to_json() for name, estimate in self.metrics.items()},
            "each": {seed: estimate.to_json() for seed, estimate in self.each.items()},
            "input": self.input,
            "supervision": self.supervision,
            "cost": dict(self.cost),
            "status": self.status,
            "reason": self.reason,
            "ranks": list(self.ranks) if self.ranks else None,
            "rank_note": self.rank_note,
            "badges": [badge.to_json() for badge in self.badges],
            "hashes": dict(self.hashes),
            "passport": self.passport,
            "protocol": self.protocol,
            "config": self.config,
            "options": self.options,
        }


def parted(name: str) -> tuple[str, str]:
    """ "train_cam [gradcam]" as its name and its variant; "" for a name without one."""
    found = re.fullmatch(r"(\S+) \[([^\[\]]+)\]", name)
    return (found[1], found[2]) if found else (name, "")


@dataclass(frozen=True)
class Registration:
    """What was named before a test side opened: per track the reference, the primary contrast and the level.

    Both are names of methods or arms, alone (the first variant is meant) or with a variant, "name [variant]".
    """

    track: str
    reference: str
    contrast: str
    alpha: float = 0.05
    dataset: str = ""  # "": every data set of the board
    split: str = ""  # hash; "": every split
    opened_before: int = 0  # openings of the test side before it was written: above 0 nothing is registered any more
    metric: str = ""  # "": the track's primary metric
    hash: str = ""
    date: str = ""

    @property
    def primary(self) -> str:
        return self.metric or TRACKS[self.track].primary

    def to_json(self) -> dict[str, Any]:
        return {
            "track": self.track,
            "dataset": self.dataset,
            "metric": self.primary,
            "reference": self.reference,
            "contrast": self.contrast,
            "alpha": self.alpha,
            "hash": self.hash,
            "date": self.date,
        }


@dataclass(frozen=True)
class Comparison:
    """a - b of the primary metric on one table. p_holm: over the family, each method against the reference.

    control: what makes `a` a control; its p stands for itself, outside the family, and gives no rank. asks: what else than
    a method against the reference it is, outside the family, too. paired_seeds: both are readings of the same trainings.
    """

    a: str
    b: str
    track: str
    dataset: str
    subset: str
    metric: str
    difference: Estimate
    p: float | None
    p_holm: float | None
    rejected: bool
    planned: bool  # the registered primary contrast
    smallest: float | None  # smallest difference that these patients and seeds would have shown with 80 % power
    table: tuple[str, ...] = ()
    a_row: str = ""
    b_row: str = ""
    control: str = ""
    asks: str = ""
    paired_seeds: bool = False

    @property
    def test(self) -> str:
        outside = ", ".join(why for why in (self.asks, self.control) if why)
        how = f"outside the family: {outside}" if outside else "Holm over the family"
        return f"paired patients, {'paired' if self.paired_seeds else 'independent'} seeds; {how}"

    def to_json(self) -> dict[str, Any]:
        return {
            "a": self.a,
            "b": self.b,
            "track": self.track,
            "dataset": self.dataset,
            "subset": self.subset,
            "metric": self.metric,
            "difference": self.difference.to_json(),
            "p": self.p,
            "p_holm": self.p_holm,
            "rejected": self.rejected,
            "planned": self.planned,
            "smallest_difference": self.smallest,
            "test": self.test,
            "control": self.control,
            "asks": self.asks,
            "paired_seeds": self.paired_seeds,
        }


@dataclass
class Board:
    """Everything that a page or a table shows. date and title are given by the caller; nothing is read from a clock."""

    rows: list[Row]
    comparisons: list[Comparison] = field(default_factory=list)
    registrations: Sequence[Registration] = ()
    notes: Sequence[str] = ()  # what a reader has to know of the whole board
    ledger: Sequence[Mapping[str, Any]] = ()
    matrices: Sequence[Matrix] = ()  # training x test variant, of the tables that have them
    title: str = "mammobench leaderboard"
    date: str = ""
    ui_command: str = "python run_bench.py ui"

    def tables(self) -> list[tuple[tuple[str, ...], list[Row]]]:
        """Rows by table, by data set and track; within it methods by value, then what has none, then references."""
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in self.rows:
            groups.setdefault(self._home(row), []).append(row)
        tracks = list(TRACKS)
        ordered = sorted(groups.items(), key=lambda item: (item[0][1], tracks.index(item[0][0])))
        return [(key, sorted(rows, key=_order)) for key, rows in ordered]

    def heading(self, rows: Sequence[Row]) -> str:
        """Names a table: track, data set and view, and which data where two tables would be called alike."""
        first = next((row for row in rows if row.hashes.get("rows")), rows[0])
        alike = {row.table for row in self.rows if row.hashes.get("rows") and row.table[:3] == first.table[:3]}
        view = "" if first.subset == "all" else f", {first.subset}"
        which = f", data {first.hashes['data'][:8]}" if len(alike) > 1 else ""
        return f"{first.track} on {first.dataset}{view}{which}"

    def around(self, runs: Container[str]) -> Board:
        """The tables that hold one of these runs; rows without any run stay, too."""
        tables = {row.table for row in self.rows if any(run in runs for run in row.seeds)}
        rows = [row for row in self.rows if row.table in tables or not row.hashes]
        places = {table[:2] for table in tables}
        notes = [note for note in self.notes if any(f"on {track}, {dataset}," in note for track, dataset in places)]
        matrices = [matrix for matrix in self.matrices if matrix.table in tables]
        return replace(self, rows=rows, notes=notes, matrices=matrices)

    def _home(self, row: Row) -> tuple[str, ...]:
        """A row without test rows of its own (failed, not applicable) stands in the first table of its track."""
        if row.hashes.get("rows"):
            return row.table
        for other in self.rows:
            if other.hashes.get("rows") and (other.track, other.dataset) == (row.track, row.dataset):
                return other.table
        return (row.track, row.dataset, row.subset, "", "")

    def to_json(self, page: str = "") -> dict[str, Any]:
        return {
            "rows": [row.to_json() for row in self.rows],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "registrations": [registration.to_json() for registration in self.registrations],
            "notes": list(self.notes),
            "matrices": [matrix.to_json() for matrix in self.matrices],
            "page": page,
        }


def primary(row: Row) -> Estimate | None:
    """The row's estimate of its track's primary metric."""
    return row.metrics.get(TRACKS[row.track].primary)


def _order(row: Row) -> tuple[bool, bool, float, str]:
    estimate = primary(row)
    value = estimate.value if estimate is not None and estimate.value is not None else None
    sign = -1 if METRICS[TRACKS[row.track].primary].direction == "max" else 1
    return (row.kind == "reference", value is None, sign * (value or 0.0), row.label)
