"""What a sweep searches by: one metric of the validation side, or two, each checked before anything starts.

A metric that every epoch's validation gives is read there; any other is read from the validation frame that a finished
trial leaves, and comes with its last report. The rule is the same for every method.
"""

import models
from bench.cluster.trials import Objective
from bench.config import nearest
from bench.metrics import METRICS, quick_names
from bench.plan import Ready
from bench.suite import Cell
from data import reader
from data.errors import ConfigError

SIDE = "validation/"
OPTION = "--objectives"
# what a metric needs of the data: what a data card provides, and the column of the table that says which rows have it
MASKS = {
    "masks": ("mask", "has_mask", "lesion masks"),
    "fine": ("fine_mask", "has_fine", "fine masks"),
    "boxes": ("box", "has_mass", "boxes of lesions"),
}


def named(text: str) -> tuple[str, ...]:
    """The metrics that `--objectives` lists, with or without the side before them."""
    return tuple(name.strip().removeprefix(SIDE) for name in text.split(","))


def check(cell: Cell, names: tuple[str, ...], scheduler: str) -> None:
    """ConfigError for what cannot be an objective of this cell, as far as method, data set and scheduler tell it."""
    track, provides = trained_track(cell), reader(cell.dataset).CARD.provides
    if len(names) > 2 or len(set(names)) < len(names):
        what = f"{names[0]} stands there twice" if len(set(names)) < len(names) else f"{len(names)} objectives"
        raise ConfigError(what, OPTION, "name one metric, or two")
    for name in names:
        _check_name(name, track, cell)
        for need, (provided, _, words) in MASKS.items():
            if need in METRICS[name].needs and provided not in provides:
                raise ConfigError(
                    f"{name} needs {words}, which {cell.dataset} does not provide", OPTION, "name another"
                )
    if len(names) == 1 and scheduler != "none" and late(names, track):
        raise ConfigError(
            f"{names[0]} is known when a trial has ended, too late to stop it early", OPTION, "add --scheduler none"
        )


def _check_name(name: str, track: str, cell: Cell) -> None:
    metric = METRICS.get(name)
    if metric is None or track not in metric.tracks:
        valid = [other.name for other in METRICS.values() if track in other.tracks and other.direction != "none"]
        of = "" if track == cell.track else f" of {cell.method}, whose training is on {track}"
        raise ConfigError(f"no objective {name!r}{of}", OPTION, nearest(name, valid))
    if metric.needs & {"pairs", "cells"}:
        raise ConfigError(f"{name} is measured when a final has opened the test side", OPTION, "name another")
    if metric.direction == "none":
        raise ConfigError(f"of {name} more is neither better nor worse", OPTION, "name another")


def check_rows(ready: Ready, names: tuple[str, ...]) -> None:
    """ConfigError where no validation row of the prepared data has what a metric needs."""
    table = ready.prepared.table
    side = ready.split.sides_of(table)
    rows = table[(side == "validation") & (table[ready.task.track.column] >= 0)]
    for name in names:
        for need, (_, column, words) in MASKS.items():
            if need in METRICS[name].needs and not rows[column].any():
                raise ConfigError(f"{name} needs {words}, and no validation row has one", OPTION, "name another")


def searched(names: tuple[str, ...]) -> tuple[Objective, ...]:
    """As the search knows them."""
    return tuple(Objective(SIDE + name, "min" if METRICS[name].direction == "min" else "max") for name in names)


def late(names: tuple[str, ...], track: str) -> tuple[str, ...]:
    """Those that no epoch's validation gives, and the validation frame does."""
    return tuple(name for name in names if name not in quick_names(track))


def told_metrics(ready: Ready) -> tuple[str, ...]:
    """What the validation frame can say of where this cell's method looks: the track's primary metric, and maps of the true class
    against the masks."""
    table, track = ready.prepared.table, ready.task.track.name
    has = {need: bool(table[column].any()) for need, (_, column, _) in MASKS.items()}
    primary = METRICS[ready.task.track.primary]
    maps = [m for m in METRICS.values() if "maps" in m.needs and m.direction == "max" and track in m.tracks]
    wanted = [*([primary] if primary.needs else []), *(m for m in maps if m is not primary)]
    return tuple(
        m.name for m in wanted if not m.name.endswith("_predicted") and all(has.get(need, True) for need in m.needs)
    )


def trained_track(cell: Cell) -> str:
    """The track whose labels train the cell's method, and whose metrics its trials report."""
    track: str = models.load(cell.method).card.tracks.get(cell.track, cell.track)
    return track
