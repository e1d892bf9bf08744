"""From a cell to the runs that it needs: configs resolved, requirements found, jobs with their folders."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import data
import models
from bench import engine, metrics
from bench.config import ALIASES, Job, RunSpec, digest, merge, method_overrides, resolve, unflatten
from bench.home import Home
from bench.prepare import Progress, prepare_data
from bench.suite import Cell
from data.cache import Prepared
from data.errors import ConfigError, DataError
from data.inputs import Inputs
from data.protocols import FOLDS
from data.split import Split
from models.method import Method, MethodConfig, Task, not_applicable

TUNING_SEED = 1000  # final seeds are 1, 2, 3...: disjoint, so that no final training was seen by the search


@dataclass(frozen=True)
class Machine:
    """What one run gets of the machine."""

    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0
    loader_workers: int = 0


def reason_against(cell: Cell) -> str | None:
    """Why the cell cannot be run on any machine; None if it can."""
    card = models.load(cell.method).card
    data_card = data.reader(cell.dataset).CARD
    if cell.track not in data_card.tracks:
        return f"{cell.dataset} cannot serve the track {cell.track}"
    return not_applicable(card, cell.track, data_card.provides)


def configured(cell: Cell) -> MethodConfig:
    """The published point of the cell's method with the suite's budget and settings over it; ConfigError for a wrong one.

    The data set's options are checked with it, so that a typo is told before any data are touched.
    """
    of_arm = f", {cell.arm}" if cell.arm else ""
    resolve(data.reader(cell.dataset).Options, cell.options, f"options of {cell.dataset}{of_arm}")
    fields = models.load(cell.method).Config
    laid = method_overrides(fields.model_fields, budget=cell.budget, settings=cell.settings, roi=cell.roi)
    config: MethodConfig = resolve(fields, laid, f"config of {cell.name}")
    return config


def inputs_of(cell: Cell) -> Inputs:
    """What the cell's method wants to be fed with. ConfigError for whatever refuses the cell before data are touched."""
    why = reason_against(cell)
    if why is not None:
        raise ConfigError(
            why, str(cell), "choose another track, method or data set; `list methods -v` tells what each serves"
        )
    kind, card = models.load(cell.method), data.reader(cell.dataset).CARD
    method = kind(configured(cell), Task.of(kind.card.tracks[cell.track], card.name, card.provides))
    return method.inputs()


@dataclass
class Ready:
    """A cell whose data lie prepared: makes specs and jobs for any config and seed of its method."""

    home: Home
    cell: Cell
    prepared: Prepared
    machine: Machine = Machine()
    fold: int = 0
    split: Split = field(init=False)
    kind: type[Method] = field(init=False)
    task: Task = field(init=False)
    base: MethodConfig = field(init=False)

    def __post_init__(self) -> None:
        self.kind = models.load(self.cell.method)
        self.split = self.prepared.split(self.cell.protocol, 0, self.fold)
        trained_on = self.kind.card.tracks[self.cell.track]
        self.task = Task.of(trained_on, self.prepared.card.name, self.prepared.card.provides)
        self.base = self.config({})

    def each_fold(self) -> list["Ready"]:
        """This cell on every test side of its protocol, in order; itself where there is one."""
        return [self if fold == self.fold else replace(self, fold=fold) for fold in range(FOLDS[self.cell.protocol])]

    # ---- configs ------------------------------------------------------------------------------------------------
    def config(self, overrides: Mapping[str, Any]) -> MethodConfig:
        """The published point, the suite's budget and settings over it, then `overrides` (of a trial or --set)."""
        laid = method_overrides(
            self.kind.Config.model_fields, budget=self.cell.budget, settings=self.cell.settings, roi=self.cell.roi
        )
        return resolve(self.kind.Config, merge(laid, _nested(overrides)), f"config of {self.cell.name}")

    def fixed_fields(self) -> set[str]:
        """Dotted names of the fields that the suite has set: these are not searched."""
        budget = method_overrides(self.kind.Config.model_fields, budget=self.cell.budget)
        return set(budget) | _dotted(self.cell.settings) | {f"roi.{key}" for key in self.cell.roi}

    def tracks(self) -> tuple[str, ...]:
        """Tracks that one training of this method serves on these data, the cell's own first."""
        card, trained_on = self.kind.card, self.task.track.name
        others = [
            track
            for track, source in card.tracks.items()
            if source == trained_on
            and track in self.prepared.card.tracks
            and not_applicable(card, track, self.prepared.card.provides) is None
        ]
        return (trained_on, *(t for t in others if t != trained_on))

    # ---- specs and jobs -----------------------------------------------------------------------------------------
    def spec(self, config: MethodConfig, seed: int, requirement_seed: int | None = None) -> RunSpec:
        """The run's identity; requirement_seed: seed of the runs it starts from, if not its own."""
        needed = self.requirement_jobs(config, seed if requirement_seed is None else requirement_seed)
        return self._spec(
            self.kind, config, self.task.track.name, seed, {name: job.spec.identity for name, job in needed.items()}
        )

    def job(
        self,
        spec: RunSpec,
        folder: Path,
        *,
        requirement_seed: int | None = None,
        name: str = "",
        ledger_entry: str | None = None,
    ) -> Job:
        config = resolve(self.kind.Config, spec.config, f"config of {self.cell.name}")
        needed = self.requirement_jobs(config, spec.seed if requirement_seed is None else requirement_seed)
        return self._job(
            spec, folder, {key: job.folder for key, job in needed.items()}, name or str(self.cell)
        ).model_copy(
            update={"tracks": self.tracks(), "ledger": str(self.home.ledger.path), "ledger_entry": ledger_entry}
        )

    def requirement_jobs(self, config: MethodConfig, seed: int) -> dict[str, Job]:
        """name -> the job of each run that `config` starts from; itself complete with what it starts from in turn."""
        return {need.name: job for need, job in self._requirements(self.kind, config, self.task, seed)}

    def all_requirements(self, config: MethodConfig, seed: int) -> list[Job]:
        """Every run that has to be finished before `config` can start, the deepest first."""
        ordered: dict[str, Job] = {}

        def visit(kind: type[Method], one: MethodConfig, task: Task) -> None:
            for need, job in self._requirements(kind, one, task, seed):
                below = models.load(need.method)
                visit(
                    below,
                    resolve(below.Config, job.spec.config, need.method),
                    Task.of(need.track, task.dataset, task.provides),
                )
                ordered.setdefault(job.spec.identity, job)

        visit(self.kind, config, self.task)
        return list(ordered.values())

    def _requirements(self, kind: type[Method], config: MethodConfig, task: Task, seed: int) -> list[tuple[Any, Job]]:
        found = []
        for need in kind.requires(config, task):
            below = models.load(need.method)
            needed = resolve(below.Config, need.config, f"requirement {need.name} of {kind.card.name}")
            below_task = Task.of(need.track, task.dataset, task.provides)
            deeper = {n.name: job for n, job in self._requirements(below, needed, below_task, seed)}
            spec = self._spec(below, needed, need.track, seed, {key: job.spec.identity for key, job in deeper.items()})
            folder = self.home.checkpoints / spec.identity
            found.append(
                (
                    need,
                    self._job(
                        spec, folder, {key: job.folder for key, job in deeper.items()}, f"{need.name} ({need.method})"
                    ),
                )
            )
        return found

    def _spec(self, kind: type[Method], config: MethodConfig, track: str, seed: int, needs: dict[str, str]) -> RunSpec:
        return RunSpec(
            method=kind.card.name,
            config=config.model_dump(mode="json"),
            dataset=self.prepared.card.name,
            options=self.prepared.options.as_json(),
            data_hash=self.prepared.data_hash,
            split_hash=self.split.hash,
            track=track,
            protocol=self.cell.protocol,
            fold=self.fold,
            seed=seed,
            bf16=self.cell.bf16,
            world_size=self.machine.workers,
            versions={
                "method": kind.version,
                "reader": self.prepared.card.version,
                "metrics": metrics.VERSION,
                "engine": engine.VERSION,
            },
            requirements=needs,
        )

    def _job(self, spec: RunSpec, folder: Path, needs: dict[str, str], name: str) -> Job:
        machine = self.machine
        return Job(
            spec=spec,
            folder=str(folder),
            prepared=str(self.prepared.folder),
            data_root=str(self.prepared.root) if self.prepared.root else None,
            requirements=needs,
            workers=machine.workers,
            cpus_per_worker=machine.cpus_per_worker,
            gpus_per_worker=machine.gpus_per_worker,
            loader_workers=machine.loader_workers,
            name=name,
        )

    @property
    def identity(self) -> str:
        """What two cells must share for their sweeps to be one: everything but trial count and machine."""
        spec = self._spec(self.kind, self.base, self.task.track.name, TUNING_SEED, {})
        return digest({"cell": self.cell.model_dump(), "spec": spec.model_dump()})


def make_ready(
    home: Home,
    cell: Cell,
    root: Path | None = None,
    *,
    machine: Machine | None = None,
    fold: int = 0,
    progress: Progress | None = None,
) -> Ready:
    """Prepare the cell's data, including the regions that its method reads, and give what makes its runs."""
    inputs = inputs_of(cell)
    try:
        prepared = prepare_data(home, cell.dataset, cell.options, root, inputs=inputs, progress=progress)
    except DataError as error:  # these commands have no --skip-bad; what prepare left out stays left out for them
        first = f"run `prepare {cell.dataset} --skip-bad` with the same data options first"
        raise DataError(error.what, error.where, error.do.replace("pass --skip-bad to leave it out", first)) from error
    return Ready(home, cell, prepared, machine or Machine(), fold)


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return unflatten({ALIASES.get(key, key): value for key, value in overrides.items()})


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> set[str]:
    names: set[str] = set()
    for key, value in settings.items():
        names |= _dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}"}
    return names
