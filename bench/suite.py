"""What `bench NAME` compares: a suite's YAML as a validated object, and the cells that it holds."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

import data
import models
from bench.config import Strict, canonical, check_budget, group, merge, nearest, read_yaml, resolve, unflatten
from bench.leaderboard.rows import parted
from data.errors import ConfigError
from data.protocols import FOLDS
from data.tracks import TRACKS

FOLDER = Path(__file__).parent / "suites"


class Search(Strict):
    """How a method's settings are looked for; the same for every method of the suite."""

    trials: int = Field(default=3, ge=0)  # 0: no search, the published point (with the suite's settings) goes to final
    seconds: float | None = Field(
        default=None, gt=0, allow_inf_nan=False
    )  # machine-seconds a sweep may spend, prerequisites included
    scheduler: Literal["asha", "none"] = "asha"
    sampler: Literal["tpe", "random"] = "tpe"


class Final(Strict):
    seeds: int = Field(default=5, ge=1, le=999)  # 1, 2, 3... ; trials use 1000
    share_requirements: bool = False  # one pretext for all seeds; the row says so
    cells: int = Field(default=0, ge=0)  # test lesions, drawn by seed, asked for Lesion and Background; 0: none


class Primary(Strict):
    """The comparison that is registered before any test side opens. Of a method with test-time variants "name" means its
    first one, "name [variant]" that one."""

    reference: str
    contrast: str
    alpha: float = Field(default=0.05, gt=0, lt=1)


class Arm(Strict):
    """A method under settings and data options of its own, laid over the suite's; a row beside the method's."""

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)  # over the suite's and the cell's; `roi` goes to the method


class CellGroup(Strict):
    """Methods, or arms of them, to run on one data set and track."""

    methods: Annotated[list[str], Field(min_length=1)] | Literal["all"]
    dataset: str
    track: str
    protocol: Literal["holdout", "kfold5"] = "holdout"
    data: dict[str, Any] = Field(default_factory=dict)  # over the suite's

    @property
    def names(self) -> list[str]:
        """Its methods and arms; `all` means every method, and no arm."""
        return list(models.names()) if self.methods == "all" else list(self.methods)


class Nightly(Strict):
    reference_nights: int = 10
    false_alarms_per_quarter: float = 1


class Suite(Strict):
    name: str
    data: dict[str, Any] = Field(default_factory=dict)  # reader options; `roi` goes to the methods
    budget: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    arms: dict[str, Arm] = Field(default_factory=dict)
    search: Search = Search()
    final: Final = Final()
    primary: dict[str, Primary] = Field(default_factory=dict)
    cells: list[CellGroup] = Field(min_length=1)
    nightly: Nightly = Nightly()


class Cell(Strict):
    """One method on one data set and track, with everything the suite (or the command line) lays over it."""

    method: str
    # A name decides no number: it is in no dump, and so in no hash. Two arms that come out alike are one run.
    arm: str = Field(default="", exclude=True)
    dataset: str
    track: str
    protocol: str = "holdout"
    options: dict[str, Any] = Field(default_factory=dict)  # of the reader
    roi: dict[str, Any] = Field(default_factory=dict)
    budget: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """What its row is called: its arm, else its method."""
        return self.arm or self.method

    @property
    def arm_tag(self) -> dict[str, str]:
        """What its runs carry beside their method: the arm, where there is one."""
        return {"arm": self.arm} if self.arm else {}

    @property
    def bf16(self) -> bool:
        return bool(self.budget.get("bf16", False))

    @property
    def key(self) -> str:
        """The cell as text, to look it up by."""
        return canonical([self.arm, self.model_dump()])

    def __str__(self) -> str:
        return f"{self.name} on {self.dataset}, {self.track}"


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_suite(name: str) -> Suite:
    """A suite of the project by name, or a user's own file by path."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            raise ConfigError(f"no suite {name!r}", "SUITE", f"choose one of {', '.join(names())}, or give a YAML file")
    suite = resolve(Suite, read_yaml(path), path.name)
    _check(suite, path.name)
    return suite


def _check(suite: Suite, file: str) -> None:
    """ConfigError, naming file and key, for what cannot be meant: names that do not exist, a budget of no method, a
    registered comparison of what the cells do not hold."""
    for method in suite.settings:
        _known("method", method, models.names(), f"{file}, settings")
    check_budget(suite.budget, f"{file}, budget")
    _cell_data(suite.data, f"{file}, data")
    for name, arm in suite.arms.items():
        _check_arm(name, arm, f"{file}, arms.{name}")
    noun, valid = ("method or arm" if suite.arms else "method"), [*models.names(), *suite.arms]
    for number, one in enumerate(suite.cells):
        where = f"{file}, cells.{number}"
        for name in one.names:
            _known(noun, name, valid, f"{where}.methods")
        _known("data set", one.dataset, data.names(), f"{where}.dataset")
        _known("track", one.track, TRACKS, f"{where}.track")
        _cell_data(one.data, f"{where}.data")
    for track, primary in suite.primary.items():
        _known("track", track, TRACKS, f"{file}, primary")
        where = f"{file}, primary.{track}"
        present = {name for one in suite.cells if one.track == track for name in one.names}
        for key, name in (("reference", primary.reference), ("contrast", primary.contrast)):
            plain, _ = parted(name)
            _known(noun, plain, valid, f"{where}.{key}")
            if plain not in present:
                do = f"name one of: {', '.join(sorted(present))}" if present else "add cells, or leave this track out"
                raise ConfigError(f"{plain} is in no cell of the track {track}", f"{where}.{key}", do)
        (reference, its), (contrast, other) = parted(primary.reference), parted(primary.contrast)
        if primary.reference == primary.contrast:
            raise ConfigError(f"{primary.contrast} is compared with itself", where, "name two of them")
        if reference == contrast and not (its and other):
            do = f"name the variant of both: {contrast} [...]"
            raise ConfigError(f"{primary.contrast} may be {primary.reference} itself", where, do)


def _check_arm(name: str, arm: Arm, where: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ConfigError(f"{name!r} cannot name an arm", where, "use letters, digits and _ . - alone")
    if name in models.names():
        raise ConfigError(f"{name!r} is a method's name", where, "call the arm otherwise, e.g. by what it changes")
    _known("method", arm.method, models.names(), f"{where}.method")
    _cell_data(arm.data, f"{where}.data")


def _known(noun: str, name: str, valid: Iterable[str], where: str) -> None:
    if name not in (names := list(valid)):
        raise ConfigError(f"no {noun} {name!r}", where, nearest(name, names))


def _cell_data(given: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The reader's options, and `roi`, which goes to the methods."""
    options = dict(given)
    roi = group(options, "roi", where)
    return options, roi


def cells(suite: Suite) -> list[Cell]:
    """Every cell of a suite, in its order."""
    found: list[Cell] = []
    for one in suite.cells:
        if FOLDS[one.protocol] > 1 and suite.search.trials:
            what = f"a search on one fold of {one.protocol} would see the test sides of the others"
            raise ConfigError(what, f"{suite.name}, search.trials", "set it to 0, or the protocol to holdout")
        for name in one.names:
            arm = suite.arms.get(name)
            method = arm.method if arm else name
            given, settings = {**suite.data, **one.data}, suite.settings.get(method, {})
            if arm:
                given, settings = merge(given, unflatten(arm.data)), merge(settings, unflatten(arm.settings))
            options, roi = _cell_data(given, f"{suite.name}, data")
            found.append(
                Cell(
                    method=method,
                    arm=name if arm else "",
                    dataset=one.dataset,
                    track=one.track,
                    protocol=one.protocol,
                    options=options,
                    roi=roi,
                    budget=suite.budget,
                    settings=settings,
                )
            )
    return found
