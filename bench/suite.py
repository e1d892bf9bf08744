"""What `bench NAME` compares: a suite's YAML as a validated object, and the cells that it holds."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

import models
from bench.config import Strict, canonical, read_yaml, resolve
from data.errors import ConfigError
from data.tracks import TRACKS

FOLDER = Path(__file__).parent / "suites"


class Search(Strict):
    """How a method's settings are looked for; the same for every method of the suite."""

    trials: int = Field(default=3, ge=0)  # 0: no search, the published point (with the suite's settings) goes to final
    seconds: float | None = None  # machine-seconds a sweep may spend, prerequisites included
    scheduler: Literal["asha", "none"] = "asha"
    arm: Literal["tpe", "random"] = "tpe"


class Final(Strict):
    seeds: int = Field(default=5, ge=1)
    share_requirements: bool = False  # one pretext for all seeds; the row says so


class Primary(Strict):
    """The comparison that is registered before any test side opens."""

    reference: str
    contrast: str
    alpha: float = 0.05


class CellGroup(Strict):
    """Methods to run on one data set and track."""

    methods: list[str] | Literal["all"]
    dataset: str
    track: str
    protocol: Literal["holdout"] = "holdout"  # kfold5 comes with the methods that report folds
    data: dict[str, Any] = Field(default_factory=dict)  # over the suite's


class Nightly(Strict):
    reference_nights: int = 10
    false_alarms_per_quarter: float = 1


class Suite(Strict):
    name: str
    data: dict[str, Any] = Field(default_factory=dict)  # reader options; `roi` goes to the methods
    budget: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    search: Search = Search()
    final: Final = Final()
    primary: dict[str, Primary] = Field(default_factory=dict)
    cells: list[CellGroup]
    nightly: Nightly = Nightly()


class Cell(Strict):
    """One method on one data set and track, with everything the suite (or the command line) lays over it."""

    method: str
    dataset: str
    track: str
    protocol: str = "holdout"
    options: dict[str, Any] = Field(default_factory=dict)  # of the reader
    roi: dict[str, Any] = Field(default_factory=dict)
    budget: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def bf16(self) -> bool:
        return bool(self.budget.get("bf16", False))

    @property
    def key(self) -> str:
        """The cell as text, to look it up by."""
        return canonical(self.model_dump())

    def __str__(self) -> str:
        return f"{self.method} on {self.dataset}, {self.track}"


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_suite(name: str) -> Suite:
    """A suite of the project by name, or a user's own file by path."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            raise ConfigError(f"no suite {name!r}", "SUITE", f"choose one of {', '.join(names())}, or give a YAML file")
    suite = resolve(Suite, read_yaml(path), str(path.name))
    for method in suite.settings:
        if method not in models.names():
            raise ConfigError(
                f"settings for an unknown method {method!r}", path.name, f"methods: {', '.join(models.names())}"
            )
    return suite


def cells(suite: Suite) -> list[Cell]:
    """Every cell of a suite, in its order."""
    found: list[Cell] = []
    for group in suite.cells:
        if group.track not in TRACKS:
            raise ConfigError(f"no track {group.track!r}", suite.name, f"choose one of: {', '.join(TRACKS)}")
        data = {**suite.data, **group.data}
        roi = data.pop("roi", {})
        for method in models.names() if group.methods == "all" else group.methods:
            found.append(
                Cell(
                    method=method,
                    dataset=group.dataset,
                    track=group.track,
                    protocol=group.protocol,
                    options=data,
                    roi=roi,
                    budget=suite.budget,
                    settings=suite.settings.get(method, {}),
                )
            )
    return found
