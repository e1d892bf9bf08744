"""From the frames of a row's seeds to its metrics, for each view of the track and each test-time variant."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.config import digest
from bench.metrics import (
    METRICS,
    VERSION,
    Estimate,
    Frame,
    by_seed,
    difference,
    over_seeds,
    smallest_difference,
)
from data.errors import DataError, MachineError
from data.tracks import TRACKS

ALL, THREE_MARGINS, ALL_MASSES = "all", "three margins", "all masses"


def views(frame: Frame) -> list[tuple[str, Frame]]:
    """The named views of a frame, the primary one first.

    On malignancy, where some lesions lie outside the three margins, those inside are the primary view (docs/tracks.md).
    """
    if frame.track == "malignancy" and "margin" in frame.predictions.columns:
        known = frame.predictions["margin"].fillna(-1).to_numpy() >= 0
        if known.any() and not known.all():
            return [(THREE_MARGINS, frame.subset(known, THREE_MARGINS)), (ALL_MASSES, frame)]
    return [(ALL, frame)]


class Measured:
    """Metrics and comparisons of rows, each computed once per set of runs and kept as JSON in `folder`.

    A metric that came later is computed for rows from before it, too.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._frames: dict[str, Frame] = {}
        self._parts: dict[tuple[Any, ...], list[Frame]] = {}

    def rows(self, runs: Mapping[str, Callable[[], Frame]]) -> list[dict[str, Any]]:
        """runs: id -> its frame. One item per view and variant: subset, variant, metrics, rows, input and so on."""
        return self.kept(_of_rows(runs), lambda: self._measure(runs))

    def ahead(self, sets: Sequence[Mapping[str, Path]], update: Callable[[int, int], None] | None = None) -> None:
        """What `rows` is going to be asked, computed on all cores and kept. sets: of each row, id -> the folder of its frame.

        Nothing without a `folder` to keep it in. MachineError where a process that measures is killed.
        """
        waiting = [frames for frames in sets if self.folder is not None and not self._path(_of_rows(frames)).exists()]
        if len(waiting) < 2:
            return
        from joblib import Parallel, cpu_count, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        # workers without work end soon: those of a driver that was killed, too
        each = Parallel(min(len(waiting), cpu_count()), return_as="generator_unordered", idle_worker_timeout=10)
        try:
            for done, _ in enumerate(each(delayed(_alone)(self.folder, frames) for frames in waiting)):
                if update is not None:
                    update(done + 1, len(waiting))
        except TerminatedWorkerError as error:
            what = "a process that measures the rows of the leaderboard was killed"
            do = "allow fewer at once, LOKY_MAX_CPU_COUNT=1, and run `leaderboard`: rows measured before are kept"
            raise MachineError(what, "often for lack of memory", do) from error

    def difference(
        self,
        a: Mapping[str, Callable[[], Frame]],
        b: Mapping[str, Callable[[], Frame]],
        metric: str,
        subset: str,
        variants: tuple[str, str],
    ) -> dict[str, Any]:
        """{"difference": estimate as JSON, "p", "smallest", "paired_seeds"} of a - b; p is None where there is no test.

        Two variants of the same runs have their seeds in common: those are paired, as patients are.
        """
        paired = sorted(a) == sorted(b)

        def make() -> dict[str, Any]:
            frames = [self._parts_of(runs, subset, variant) for runs, variant in ((a, variants[0]), (b, variants[1]))]
            try:
                found, p = difference(frames[0], frames[1], metric, paired_seeds=paired)
                smallest = smallest_difference(frames[0], frames[1], metric, paired_seeds=paired)
            except DataError as error:
                found, p, smallest = Estimate(None, None, None, 0, "none", error.what), float("nan"), None
            return {"difference": found.to_json(), "p": p if np.isfinite(p) else None, "smallest": smallest}

        asked = {"a": sorted(a), "b": sorted(b), "metric": metric, "subset": subset, "variants": variants}
        return {**self.kept(asked, make), "paired_seeds": paired}

    def validation(
        self, runs: Mapping[str, Callable[[], Frame]], metric: str, subset: str, variants: Sequence[str]
    ) -> dict[str, Estimate]:
        """variant -> the metric over seeds, of those variants where it is defined; the frames are not held.

        runs: id -> its validation frame. Raises DataError where one cannot be read or has no such view.
        """

        def make() -> dict[str, Any]:
            frames = by_seed([load() for load in runs.values()])
            each = {v: over_seeds([part_of(frame, subset, v) for frame in frames], [metric]) for v in variants}
            return {v: found[metric].to_json() for v, found in each.items() if metric in found}

        asked = {"validation": sorted(runs), "metric": metric, "subset": subset, "variants": list(variants)}
        found = {v: Estimate(**kept) for v, kept in self.kept(asked, make).items()}
        return {v: one for v, one in found.items() if one.value is not None}

    def _measure(self, runs: Mapping[str, Callable[[], Frame]]) -> list[dict[str, Any]]:
        frames = self._frames_of(runs)
        return [
            describe(self._parts_of(runs, subset, variant), subset, variant)
            | {"plots": "" if variant == frames[0].variants[0] else variant}
            for variant in frames[0].variants
            for subset, _ in views(frames[0])
        ]

    def _parts_of(self, runs: Mapping[str, Callable[[], Frame]], subset: str, variant: str) -> list[Frame]:
        """One view and variant of each seed's frame; the same objects each time, so that what metrics cache in them is there
        when rows are compared."""
        key = (tuple(runs), subset, variant)
        if key not in self._parts:
            self._parts[key] = [part_of(frame, subset, variant) for frame in self._frames_of(runs)]
        return self._parts[key]

    def _frames_of(self, runs: Mapping[str, Callable[[], Frame]]) -> list[Frame]:
        """One frame a seed: its folds are put together first, since a view of one fold may hold what another's lacks."""
        return by_seed([self._frame(run, load) for run, load in runs.items()])

    def _frame(self, run: str, load: Callable[[], Frame]) -> Frame:
        if run not in self._frames:
            self._frames[run] = load()
        return self._frames[run]

    def kept(self, asked: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """What `make` gives as JSON, made once for what is asked."""
        if self.folder is None:
            return make()
        path = self._path(asked)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(made, allow_nan=False), encoding="utf-8")
        temporary.replace(path)
        return made

    def _path(self, asked: Mapping[str, Any]) -> Path:
        assert self.folder is not None
        return self.folder / f"{digest({**asked, 'version': VERSION})}.json"


def _of_rows(runs: Iterable[str]) -> dict[str, Any]:
    return {"rows": sorted(runs), "metrics": sorted(METRICS), "each": "primary"}


def _alone(folder: Path, frames: Mapping[str, Path]) -> None:
    """One row's frames measured in a process of their own. A frame that cannot be read is met again, and told, by `rows`."""
    with suppress(DataError):
        Measured(folder).rows({run: partial(Frame.load, path) for run, path in frames.items()})


def describe(frames: Sequence[Frame], subset: str, variant: str) -> dict[str, Any]:
    """Metrics over seeds of one view and variant, and what the row's badges are read from."""
    first = frames[0]
    table = first.labelled().predictions
    grades = sorted(set(table["attr_grade"].dropna().astype(str))) if "attr_grade" in table.columns else []
    estimates = over_seeds(frames)
    return {
        "subset": subset,
        "variant": variant,
        "metrics": {name: estimate.to_json() for name, estimate in estimates.items()},
        "rows": first.identity,
        "patients": int(table["patient"].nunique()),
        "input": str(first.meta.get("input", "")),
        "supervision": str(first.meta.get("supervision", "")),
        "grades": grades,
        "flagged": float(table["flagged"].mean()) if len(table) else 0.0,
        "titles": dict(first.meta.get("map_titles", {})),
        "coincide": [list(pair) for pair in first.meta.get("coincide", [])],
        "each": _each(frames) if len(frames) > 1 else {},
    }


def _each(frames: Sequence[Frame]) -> dict[str, Any]:
    """seed -> the primary metric of that training alone, over patients: a mean says little where one of five is lost."""
    primary = TRACKS[frames[0].track].primary
    alone = {str(frame.seeds[0]): over_seeds([frame], [primary]) for frame in frames}
    return {seed: found[primary].to_json() for seed, found in alone.items() if primary in found}


def part_of(frame: Frame, subset: str, variant: str) -> Frame:
    chosen = frame if variant == frame.variants[0] and len(frame.variants) == 1 else frame.of_variant(variant)
    for name, part in views(chosen):
        if name == subset:
            return part
    raise DataError(f"no view {subset!r} of these test rows", frame.track, "compare runs of the same data and split")
