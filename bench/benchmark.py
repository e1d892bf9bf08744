"""The job `bench`: every cell of a suite through sweep and final to the leaderboard, going on from what is finished."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.board import read_board, record_matrices, write_board
from bench.choose import chosen
from bench.cluster.failures import Failure
from bench.config import Job, config_hash, nearest
from bench.console import Meter
from bench.engine.run import lacks_cells
from bench.final import (
    FinalPlan,
    final_jobs,
    is_whole,
    name_runs,
    pictured,
    register,
    requirements_of,
    run_finals,
)
from bench.leaderboard.rows import Board
from bench.pictures import has_pictures
from bench.plan import TUNING_SEED, Ready, configured, make_ready, reason_against, variants_of
from bench.prepare import Roots
from bench.suite import Cell, Suite, cells, parted
from bench.sweep import SweepPlan, run_sweep, study_name, unfinished
from bench.tracking import Tracker
from data.errors import ConfigError, DataError

if TYPE_CHECKING:
    from bench.app import App


def check_registered(suite: Suite, runnable: Iterable[Cell]) -> None:
    """ConfigError where `primary` names a test-time variant that its method does not have: what is registered stands for good."""
    for cell in runnable:
        primary = suite.primary.get(cell.track)
        for key in ("reference", "contrast") if primary else ():
            name, variant = parted(getattr(primary, key))
            if variant and name == cell.name and variant not in (known := variants_of(cell)):
                what = f"no test-time variant {variant!r} of {name}"
                raise ConfigError(what, f"suite {suite.name}, primary.{cell.track}.{key}", nearest(variant, known))


class Benchmark:
    """One call of `bench SUITE`."""

    def __init__(self, app: "App", suite: Suite, roots: Roots) -> None:
        self.app, self.suite, self.roots = app, suite, roots
        self.talk = app.talk
        self.said: dict[str, dict[str, Any]] = {}
        self.settings: dict[str, str] = {}  # cell -> the hash that its row on the board has

    def run(self) -> tuple[dict[str, Any], Board]:
        """The JSON document of `bench`, and the board."""
        tracker = self.app.tracker()
        warm = tracker.warm_up()  # its seconds pass while the data are prepared
        runnable = [cell for cell in cells(self.suite) if self._runnable(cell)]
        for cell in runnable:  # a wrong setting ends the suite before the first cell's data are made
            configured(cell)
        check_registered(self.suite, runnable)
        ready = [fold for cell in runnable for fold in self._ready(cell).each_fold()]
        warm.result()
        plans = self._plans(ready, tracker)
        open_cells = [item for item in plans if not self._finished(item, tracker)]
        going = {one.cell.key for one, _ in open_cells}
        self.talk.say(f"{len(runnable)} cells, {len(runnable) - len(going)} finished already")
        if open_cells:
            self.app.cluster()
            before = unfinished(job for item in open_cells for job in self._needed(*item))
            runs = len(open_cells) * (self.suite.search.trials + self.suite.final.seeds) + len(before)
            with self.talk.progress(f"suite {self.suite.name}") as update:
                self._run([one for one, _ in open_cells], tracker, Meter(update, runs))
        name_runs([(one, plan) for one, plan in plans if plan is not None], tracker)
        board = read_board(self.app.home, tracker, self.talk, list(self.said.values()))
        page = write_board(self.app.home, board)
        record_matrices(self.app.home, tracker, board, self.suite.name, set(self.settings.values()))
        return self._document(board, page, ready, tracker), board

    # ---- steps --------------------------------------------------------------------------------------------------
    def _runnable(self, cell: Cell) -> bool:
        """Whether the cell can be run on any machine; where not, the board will say why."""
        said = {"method": cell.method, "arm": cell.arm or None, "dataset": cell.dataset, "track": cell.track}
        try:
            why = reason_against(cell)
        except ConfigError as error:
            self.said[cell.key] = {**said, "status": "unavailable", "reason": str(error)}
            return False
        if why is not None:
            self.said[cell.key] = {**said, "status": "not-applicable", "reason": why}
            return False
        self.said[cell.key] = {**said, "status": "missing", "reason": "not run yet"}
        return True

    def _ready(self, cell: Cell) -> Ready:
        """The cell with its data prepared."""
        with self.talk.progress(f"data of {cell}") as update:
            return make_ready(self.app.home, cell, self.roots, machine=self.app.machine(), progress=update)

    def _plans(self, ready: list[Ready], tracker: Tracker) -> list[tuple[Ready, FinalPlan | None]]:
        """Per cell its final, where the sweep that it waits for has found settings."""
        plans: list[tuple[Ready, FinalPlan | None]] = []
        for one in ready:
            try:
                plans.append((one, self._final_plan(one, tracker)))
            except (ConfigError, DataError):  # `_run` meets it again, and tells it as this cell's failure
                plans.append((one, None))
        return plans

    def _final_plan(self, ready: Ready, tracker: Tracker) -> FinalPlan | None:
        wanted = self.suite.final
        if self.suite.search.trials and tracker.find(study_name(ready), "sweep") is None:
            return None
        choice = chosen(ready, None if self.suite.search.trials else "published", tracker)
        plan = FinalPlan(
            choice.config, seeds=wanted.seeds, share_requirements=wanted.share_requirements, sweep=choice.sweep,
            source=choice.source, cells=wanted.cells,
        )  # fmt: skip
        self.settings[ready.cell.key] = config_hash(final_jobs(ready, plan)[1].spec.model_dump(mode="json"))
        return plan

    def _needed(self, ready: Ready, plan: FinalPlan | None) -> list[Job]:
        """The runs that a cell's trials and finals start from, by the settings that are known before its sweep."""
        known = plan or FinalPlan(ready.base, share_requirements=self.suite.final.share_requirements)
        try:
            trials = ready.all_requirements(ready.base, TUNING_SEED) if self.suite.search.trials else []
            return trials + requirements_of(ready, known, range(1, self.suite.final.seeds + 1))
        except ConfigError:  # `_run` meets it again, and tells it as this cell's failure
            return []

    def _finished(self, item: tuple[Ready, FinalPlan | None], tracker: Tracker) -> bool:
        ready, plan = item
        if plan is None:
            return False
        jobs = final_jobs(ready, plan)
        runs = {seed: tracker.find(job.spec.identity, "final") for seed, job in jobs.items()}
        shown = pictured(ready, {seed: run for seed, run in runs.items() if run is not None})
        return all(
            run is not None
            and has_pictures(run, panels=seed in shown)
            and is_whole(run, Path(jobs[seed].folder))
            and not lacks_cells(jobs[seed])
            for seed, run in runs.items()
        )

    def _run(self, ready: list[Ready], tracker: Tracker, meter: Any) -> None:
        """Sweeps one after the other, then all finals together. A cell that fails does not keep the others waiting."""
        search = self.suite.search
        plan = SweepPlan(
            trials=search.trials, scheduler=search.scheduler, sampler=search.sampler, time_budget_s=search.seconds,
            max_concurrent=self.app.max_concurrent,
        )  # fmt: skip
        finals: list[tuple[Ready, FinalPlan]] = []
        for one in ready:
            primary = self.suite.primary.get(one.cell.track)
            register(one, primary)
            try:
                if search.trials:
                    run_sweep(one, plan, self.app.storage, tracker, meter.seen)
                    meter.next()
                chosen_plan = self._final_plan(one, tracker)
            except (ConfigError, DataError) as error:
                self._failed(one, Failure("data", str(error)))
                continue
            if chosen_plan is None:
                self._failed(one, Failure("bug", "its sweep did not finish"))
            else:
                finals.append((one, chosen_plan))
        if finals:
            run_finals(finals, tracker, meter.seen)

    def _failed(self, ready: Ready, failure: Failure) -> None:
        self.said[ready.cell.key] |= {"status": "failed", "reason": failure.reason}
        self.talk.say(f"failed: {ready.cell}: {failure.reason}")

    def _document(self, board: Board, page: Path, ready: list[Ready], tracker: Tracker) -> dict[str, Any]:
        found = []
        sweeps = (
            {one.cell.key: tracker.find(study_name(one), "sweep") for one in ready} if self.suite.search.trials else {}
        )
        for key, said in self.said.items():
            # by settings and data: a name may have had others before, and one method may stand in several cells
            place = (said["track"], self.settings.get(key, "no settings yet"))
            rows = [row for row in board.rows if (row.track, row.hashes.get("config")) == place]
            mine = next((row for row in rows if row.status == "done"), rows[0] if rows else None)
            sweep = sweeps.get(key)
            found.append(
                {
                    **said,
                    "status": mine.status if mine else said["status"],
                    "reason": mine.reason if mine else said["reason"],
                    "sweep_id": sweep.run_id if sweep else None,
                    "final": list(mine.seeds) if mine else [],
                }
            )
        return {"suite": self.suite.name, "cells": found, "leaderboard": str(page)}
