"""From a cell to the runs that it needs: configs resolved, requirements found, jobs with their folders."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

import data
import models
from bench import engine, metrics, starts
from bench.config import ALIASES, Job, RunSpec, canonical, digest, merge, method_overrides, resolve, unflatten
from bench.engine.run import ancestors
from bench.home import Home
from bench.prepare import Progress, Roots, prepare_data
from bench.suite import Cell
from data.cache import Prepared
from data.errors import ConfigError, DataError, LeakError
from data.inputs import Inputs
from data.passport import alike
from data.protocols import FOLDS, NO_TEST
from data.split import Split
from models.method import Card, Method, MethodConfig, Requirement, Source, Task, not_applicable

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
    return _reason_against(models.load(cell.method).card, cell.track, cell.dataset)


def _reason_against(card: Card, track: str, dataset: str) -> str | None:
    data_card = data.reader(dataset).CARD
    if track not in data_card.tracks:
        return f"{dataset} cannot serve the track {track}"
    return not_applicable(card, track, data_card.provides)


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
    method = _built(cell)
    for source in method.config.sources:
        _check_source(source, method, cell)
    starts.check(method)
    return method.inputs()


def variants_of(cell: Cell) -> list[str]:
    """The test-time variants that a row of the cell may have, by name. ConfigError as `configured`."""
    return [variant.name for variant in _built(cell).variants()]


def _built(cell: Cell) -> Method:
    kind, card = models.load(cell.method), data.reader(cell.dataset).CARD
    method: Method = kind(configured(cell), Task.of(kind.card.tracks[cell.track], card.name, card.provides))
    return method


def _check_source(source: Source, method: Method, cell: Cell) -> None:
    """ConfigError for other data that cannot serve what is trained there, or that judge the cell."""
    where = f"{cell.name} before {cell.dataset}: {source.dataset}"
    resolve(data.reader(source.dataset).Options, source.options, f"options of {source.dataset}")
    if (why := _reason_against(method.card, method.task.track.name, source.dataset)) is not None:
        raise ConfigError(why, where, "name another data set")
    if source.rows == "all" and source.dataset == cell.dataset:
        raise ConfigError("its test side judges what starts from it", f"{where}, rows: all", "set rows to train")


def _needed(kind: type[Method], need: Requirement) -> tuple[type[Method], MethodConfig]:
    """Method and settings of a requirement."""
    below = models.load(need.method)
    return below, resolve(below.Config, need.config, f"requirement {need.name} of {kind.card.name}")


@dataclass(frozen=True)
class Place:
    """Data that a run trains on, and their sides."""

    prepared: Prepared
    split: Split
    protocol: str
    fold: int = 0

    def used(self) -> pd.DataFrame:
        """Rows that a run has trained on, or whose validation chose its epoch."""
        return self.prepared.table[self.split.sides_of(self.prepared.table) != "test"]


@dataclass
class Ready:
    """A cell whose data lie prepared: makes specs and jobs for any config and seed of its method.

    sources: where the runs lie that its own start from, of those that are trained on other data. kept: file that `weights`
    names -> the name of its content, read once.
    """

    home: Home
    cell: Cell
    prepared: Prepared
    machine: Machine = Machine()
    fold: int = 0
    sources: Mapping[str, Place] = field(default_factory=dict)
    split: Split = field(init=False)
    kind: type[Method] = field(init=False)
    task: Task = field(init=False)
    base: MethodConfig = field(init=False)
    kept: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.kind = models.load(self.cell.method)
        self.split = self.prepared.split(self.cell.protocol, 0, self.fold)
        trained_on = self.kind.card.tracks[self.cell.track]
        self.task = Task.of(trained_on, self.prepared.card.name, self.prepared.card.provides)
        self.base = self.config({})
        for place in self.sources.values():
            _refuse_shared(place, self.prepared, self.split)
        ancestors(starts.folder_of(self.home, self.base), self.split)

    @property
    def place(self) -> Place:
        return Place(self.prepared, self.split, self.cell.protocol, self.fold)

    def each_fold(self) -> list["Ready"]:
        """This cell on every test side of its protocol, in order; itself where there is one."""
        return [self if fold == self.fold else replace(self, fold=fold) for fold in range(FOLDS[self.cell.protocol])]

    # ---- configs ------------------------------------------------------------------------------------------------
    def config(self, overrides: Mapping[str, Any]) -> MethodConfig:
        """The published point, the suite's budget and settings over it, then `overrides` (of a trial or --set)."""
        laid = method_overrides(
            self.kind.Config.model_fields, budget=self.cell.budget, settings=self.cell.settings, roi=self.cell.roi
        )
        config = resolve(self.kind.Config, merge(laid, _nested(overrides)), f"config of {self.cell.name}")
        if (start := config.start_file) is None:
            return config
        if start not in self.kept:
            self.kept[start] = starts.keep(self.home, start)
        return config.model_copy(update={starts.WEIGHTS: self.kept[start]})

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
        needs = {name: job.spec.identity for name, job in needed.items()}
        return self._spec(self.kind, config, self.task.track.name, seed, needs, self.place)

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
        needs = {key: job.folder for key, job in needed.items()} | starts.folder_of(self.home, config)
        return self._job(spec, folder, needs, name or str(self.cell), self.place).model_copy(
            update={"tracks": self.tracks(), "ledger": str(self.home.ledger.path), "ledger_entry": ledger_entry}
        )

    def requirement_jobs(self, config: MethodConfig, seed: int) -> dict[str, Job]:
        """name -> the job of each run that `config` starts from; itself complete with what it starts from in turn."""
        return self._requirements(self.kind, config, self.task, seed, self.place, {})

    def all_requirements(self, config: MethodConfig, seed: int) -> list[Job]:
        """Every run that has to be finished before `config` can start, the deepest first."""
        ordered: dict[str, Job] = {}
        self._requirements(self.kind, config, self.task, seed, self.place, ordered)
        return list(ordered.values())

    def _requirements(
        self, kind: type[Method], config: MethodConfig, task: Task, seed: int, place: Place, ordered: dict[str, Job]
    ) -> dict[str, Job]:
        """name -> job of what `config` starts from; all below are put into `ordered` by identity, the deepest first."""
        found = {}
        for need in kind.requires(config, task):
            below, needed = _needed(kind, need)
            at = self._source(need.source) if need.source else place
            below_task = Task.of(need.track, at.prepared.card.name, at.prepared.card.provides)
            if needed.picture == "mask" and "mask" not in below_task.provides:
                raise ConfigError(f"{at.prepared.name} has no masks", f"{need.name}: mask", "name data with masks")
            deeper = self._requirements(below, needed, below_task, seed, at, ordered)
            needs = {key: job.spec.identity for key, job in deeper.items()}
            spec = self._spec(below, needed, need.track, seed, needs, at)
            folders, name = {key: job.folder for key, job in deeper.items()}, f"{need.name} ({need.method})"
            found[need.name] = self._job(spec, self.home.checkpoints / spec.identity, folders, name, at)
            ordered.setdefault(spec.identity, found[need.name])
        return found

    def _source(self, source: Source) -> Place:
        if (key := _key(source)) not in self.sources:
            what = f"{source.dataset} with these options and rows was not prepared for this cell"
            raise ConfigError(what, str(self.cell), "do not search what is trained on before; hold it in the settings")
        return self.sources[key]

    def _spec(
        self, kind: type[Method], config: MethodConfig, track: str, seed: int, needs: dict[str, str], place: Place
    ) -> RunSpec:
        return RunSpec(
            method=kind.card.name,
            config=config.model_dump(mode="json"),
            dataset=place.prepared.card.name,
            options=place.prepared.options.as_json(),
            data_hash=place.prepared.data_hash,
            split_hash=place.split.hash,
            track=track,
            protocol=place.protocol,
            fold=place.fold,
            seed=seed,
            bf16=self.cell.bf16,
            world_size=self.machine.workers,
            versions={
                "method": kind.version,
                "reader": place.prepared.card.version,
                "metrics": metrics.VERSION,
                "engine": engine.VERSION,
            },
            requirements=needs,
        )

    def _job(self, spec: RunSpec, folder: Path, needs: dict[str, str], name: str, place: Place) -> Job:
        machine, prepared = self.machine, place.prepared
        return Job(
            spec=spec,
            folder=str(folder),
            prepared=str(prepared.folder),
            data_root=str(prepared.root) if prepared.root else None,
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
        spec = self._spec(self.kind, self.base, self.task.track.name, TUNING_SEED, {}, self.place)
        cell = self.cell.model_dump()
        if self.base.start_file is not None:  # a path on this machine: what it holds is in the spec
            cell["settings"] = {key: value for key, value in cell["settings"].items() if key != starts.WEIGHTS}
            cell["budget"] = {key: value for key, value in cell["budget"].items() if key != starts.WEIGHTS}
        return digest({"cell": cell, "spec": spec.model_dump()})


def make_ready(
    home: Home,
    cell: Cell,
    roots: Roots = Roots(),  # noqa: B008 - frozen
    *,
    machine: Machine | None = None,
    fold: int = 0,
    progress: Progress | None = None,
) -> Ready:
    """Prepare the cell's data, including the regions that its method reads, and those of the runs that it starts from;
    give what makes its runs. Raises LeakError where such a run would see films that judge the cell."""
    inputs = inputs_of(cell)

    def prepared(dataset: str, options: Mapping[str, Any], root: Path | None) -> Prepared:
        try:
            return prepare_data(home, dataset, options, root, inputs=inputs, progress=progress)
        except DataError as error:  # these commands have no --skip-bad; what prepare left out stays left out for them
            first = f"run `prepare {dataset} --skip-bad` with the same data options first"
            raise DataError(
                error.what, error.where, error.do.replace("pass --skip-bad to leave it out", first)
            ) from error

    own = prepared(cell.dataset, cell.options, roots.of(cell.dataset))
    sources: dict[str, Place] = {}
    for source in configured(cell).sources:
        root = roots.of(source.dataset) if source.dataset == cell.dataset else roots.named.get(source.dataset)
        other = prepared(source.dataset, source.options, root)
        protocol = NO_TEST if source.rows == "all" else "holdout"
        sources[_key(source)] = Place(other, other.split(protocol), protocol)
    ready = Ready(home, cell, own, machine or Machine(), fold, sources)
    _check_classes(ready)
    return ready


def _check_classes(ready: Ready) -> None:
    """DataError where what trains shows one class alone: what comes of them could not be told from a constant."""
    track, table = ready.task.track, ready.prepared.table
    labels = table.loc[ready.split.sides_of(table) == "train", track.column]
    present = sorted(set(labels[labels >= 0]))
    if len(present) == 1:
        unit, only = {"image": "film"}.get(track.unit, track.unit), track.classes[present[0]]
        what = f"every {unit} that trains is {only}; the track {track.name} tells {', '.join(track.classes)} apart"
        do = f"add {unit}s of another class (`list datasets -v`: options of the data set), or take another track"
        raise DataError(what, str(ready.cell), do)


def trial_folder(ready: Ready, study: str, number: int) -> Path:
    """Where a trial of a sweep leaves its state, reports and frames."""
    return ready.home.checkpoints / study / f"trial-{number:04d}"


def look_alike(ready: Ready) -> int:
    """Pairs of films, of those that judge and of other data that were used before, which look alike: the same picture
    changed or saved anew is no equal file, and patients of two data sets cannot be told for the same."""
    table = ready.prepared.table
    judges = table[ready.split.sides_of(table) != "train"]
    return sum(alike(judges, place.used()) for place in ready.sources.values())


def _key(source: Source) -> str:
    return canonical([source.dataset, dict(source.options), source.rows])


def _refuse_shared(place: Place, judged: Prepared, split: Split) -> None:
    """LeakError where other data, which a run below trains on or is chosen by, have a patient or a film of the sides that
    judge."""
    trains = place.used()
    judges = judged.table[split.sides_of(judged.table).isin(("validation", "test"))]
    for column, noun in (("patient", "patients"), ("image_hash", "films"), ("pixel_hash", "films")):
        common = set(trains[column]) & set(judges[column])
        if common:
            raise LeakError(
                f"{len(common)} {noun} that judge this cell would train another run before, or choose its epoch",
                f"{place.prepared.name} as a source of {judged.name}",
                "name other data to train on before, or data whose films are not among these",
            )


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return unflatten({ALIASES.get(key, key): value for key, value in overrides.items()})


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> set[str]:
    names: set[str] = set()
    for key, value in settings.items():
        names |= _dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}"}
    return names
