"""What each command does: reads its arguments, calls the jobs, and hands their documents to the console."""

import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from bench import shows
from bench.cluster.check import check_address, check_storage
from bench.config import check_budget, group, merge, parse_set, read_yaml, resolve, unflatten
from bench.console import Meter, Talk
from bench.home import Home
from data.errors import ConfigError
from data.protocols import ONE_SIDE, PROTOCOLS


class App:
    """One command's run. Heavy libraries are imported by the methods that need them."""

    def __init__(
        self,
        *,
        out: Path | None = None,
        as_json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        tracking_uri: str | None = None,
        storage: str | None = None,
        ray_address: str | None = None,
        workers: int = 1,
        gpus_per_worker: float = 0,
        max_concurrent: int | None = None,
        dry_run: bool = False,
    ) -> None:
        self.talk = Talk(as_json, quiet, verbose)
        self.verbose, self.dry_run = verbose, dry_run
        self._out, self._tracking_uri, self._storage = out, tracking_uri, storage
        self._ray_address = ray_address or os.environ.get("RAY_ADDRESS") or "local"
        self.workers, self.gpus_per_worker, self.max_concurrent = workers, gpus_per_worker, max_concurrent
        if storage:
            check_storage(storage)  # now: not once the data are prepared and Ray is up
        check_address(self._ray_address)
        self.exit_code = 0
        self._stack = ExitStack()
        self._cluster = False

    def __enter__(self) -> "App":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    # ---- surroundings -------------------------------------------------------------------------------------------
    @property
    def home(self) -> Home:
        return Home.at(self._out or Path("runs"))

    def tracker(self) -> Any:
        from bench.tracking import Tracker

        tracker = Tracker(self._tracking_uri, out=self.home.out)
        self._stack.callback(tracker.flush)
        self._stack.push(_interrupted(tracker))
        return tracker

    def cluster(self) -> None:
        """Attach to Ray, once per command."""
        if not self._cluster:
            from bench.cluster.nodes import attach

            self._stack.enter_context(attach(self._ray_address))
            self._cluster = True

    @property
    def storage(self) -> str:
        return self._storage or self.home.default_storage()

    def machine(self) -> Any:
        from bench.plan import Machine

        return Machine(workers=self.workers, gpus_per_worker=self.gpus_per_worker)

    def settings(self, config: Path | None, pairs: list[str]) -> dict[str, Any]:
        return merge(unflatten(read_yaml(config)) if config else {}, unflatten(parse_set(pairs)))

    def cell(
        self, method: str, dataset: str, track: str, protocol: str, settings: Mapping[str, Any],
        protocols: tuple[str, ...] = ONE_SIDE,
    ) -> Any:  # fmt: skip
        """A cell of the command line. In a settings file, `data:` holds the reader's options and `budget:` a suite's."""
        import data
        import models
        from bench.suite import Cell
        from data.tracks import TRACKS

        models.load(method), data.reader(dataset)
        if track not in TRACKS:
            raise ConfigError(f"no track {track!r}", "--track", f"choose one of: {', '.join(TRACKS)}")
        if protocol not in protocols:
            of = "; `final` trains all folds" if protocol in PROTOCOLS else ""
            do = f"choose {' or '.join(protocols)}{of}"
            raise ConfigError(f"no protocol {protocol!r} for this command", "--protocol", do)
        rest, where = dict(settings), "--config or --set"
        options, budget = group(rest, "data", where), group(rest, "budget", where)
        roi = group(options, "roi", where)
        check_budget(budget, where)
        return Cell(
            method=method,
            dataset=dataset,
            track=track,
            protocol=protocol,
            options=options,
            roi=roi,
            budget=budget,
            settings=rest,
        )

    def ready(self, cell: Any, data_root: Sequence[str]) -> Any:
        from bench.plan import make_ready
        from bench.prepare import Roots

        with self.talk.progress(f"data of {cell}") as update:
            return make_ready(self.home, cell, Roots.of_words(data_root), machine=self.machine(), progress=update)

    # ---- commands -----------------------------------------------------------------------------------------------
    def catalogue(self, what: str) -> None:
        from bench.catalogue import catalogue, show

        document = catalogue(what)
        self.talk.result(document, lambda console: show(console, document, self.verbose))

    def phantom(
        self, out: Path, form: str, count: int, size: int | None, seed: int | None, quirks: list[str],
        config: Path | None, pairs: list[str],
    ) -> None:  # fmt: skip
        from bench.phantom import write_phantom

        given = {name: value for name, value in (("size", size), ("seed", seed)) if value is not None}
        settings = merge(self.settings(config, pairs), given)
        with self.talk.progress(f"phantom as {form}") as update:
            document = write_phantom(out, form, count, settings, quirks, update)
        self.talk.result(document, lambda console: shows.phantom(console, document))

    def prepare(
        self, dataset: str, data_root: Sequence[str], skip_bad: bool, config: Path | None, pairs: list[str], protocol: str,
        *, verify: bool, cache_limit: float | None,
    ) -> None:  # fmt: skip
        from bench.prepare import (
            Room,
            Roots,
            document,
            film_progress,
            prepare_data,
            refuse_differences,
            verify_data,
            work_all,
        )
        from data.inputs import Roi

        root = Roots.of_words(data_root).of(dataset)
        file = read_yaml(config) if config else {}
        given = group(file, "data", str(config)) if "data" in file else file  # a settings file of other commands serves
        options = merge(given, unflatten(parse_set(pairs)))
        if "roi" in options:
            resolve(Roi, group(options, "roi", "--config or --set"), "roi of --config or --set")
            self.talk.say("roi: understood, and not used here; train, sweep and final cut the regions by it")
        if verify and cache_limit is not None:
            raise ConfigError("--verify writes nothing and removes nothing", "--cache-limit", "give one of the two")
        if verify:
            with film_progress(self.talk, f"verifying {dataset}") as update:
                prepared, verdict = verify_data(self.home, dataset, options, root, progress=update)
            refuse_differences(verdict, self.talk.say)
            verified = {"files": verdict.files, "pixel_rows": verdict.rows, "current": verdict.current}
        else:
            spread = work_all
            if self._ray_address != "local":
                from bench.cluster.prepare import over_nodes

                self.cluster()
                spread = over_nodes
            with film_progress(self.talk, f"preparing {dataset}") as update:
                prepared = prepare_data(
                    self.home, dataset, options, root, skip_bad=skip_bad, progress=update, spread=spread,
                    room=Room(cache_limit, self.talk.say),
                )  # fmt: skip
            verified = None
        found = document(prepared, protocol) | {"verified": verified}
        self.talk.result(found, lambda console: shows.prepared(console, found))

    def train(
        self, method: str, dataset: str, track: str, seed: int, protocol: str,
        data_root: Sequence[str], config: Path | None, pairs: list[str],
    ) -> None:  # fmt: skip
        from bench.sweep import unfinished
        from bench.train import run_train

        cell = self.cell(method, dataset, track, protocol, self.settings(config, pairs))
        if self.dry_run:
            self._plan([cell], trials=0, seeds=1, alone=True)
            return
        ready = self.ready(cell, data_root)
        tracker = self.tracker()
        self.cluster()
        before = unfinished(ready.all_requirements(ready.base, seed))
        with self.talk.progress(str(cell)) as update:
            document = run_train(ready, seed, tracker, Meter(update, 1 + len(before)).seen)
        self.exit_code = 0 if document["status"] == "complete" else 1
        self.talk.result(document, lambda console: shows.metrics(console, document))
        if document["status"] == "complete":
            place = ["--out", str(self._out)] + (["--tracking-uri", self._tracking_uri] if self._tracking_uri else [])
            shown = shlex.join(["python", "run_bench.py", "explain", document["run_id"][:8], *place])
            self.talk.say(f"next: {shown}")

    def sweep(
        self, method: str, dataset: str, track: str, protocol: str, data_root: Sequence[str], config: Path | None, pairs: list[str],
        *, trials: int, time_budget: float | None, objectives: str, readings: bool, scheduler: str, extend: bool,
    ) -> None:  # fmt: skip
        import search_spaces
        from bench.objectives import check, named
        from bench.plan import TUNING_SEED
        from bench.sweep import SweepPlan, run_sweep, unfinished
        from bench.sweep_result import next_of_sweep

        if scheduler not in ("asha", "none"):
            raise ConfigError(f"no scheduler {scheduler!r}", "--scheduler", "choose asha or none")
        cell = self.cell(method, dataset, track, protocol, self.settings(config, pairs))
        names = named(objectives)
        check(cell, names, scheduler)
        search_spaces.load(method, readings)
        plan = SweepPlan(
            trials=trials, objectives=names, readings=readings, scheduler=scheduler,  # type: ignore[arg-type]
            time_budget_s=time_budget * 3600 if time_budget else None, extend=extend, max_concurrent=self.max_concurrent,
        )  # fmt: skip
        if self.dry_run:
            self._plan([cell], trials=trials, seeds=0, alone=True)
            return
        ready = self.ready(cell, data_root)
        tracker = self.tracker()
        self.cluster()
        before = unfinished(ready.all_requirements(ready.base, TUNING_SEED))
        with self.talk.progress(f"sweep {cell}") as update:
            meter = Meter(update, trials + len(before))
            document = run_sweep(ready, plan, self.storage, tracker, meter.seen, self.talk.say)
        self.exit_code = 0 if document["best"] else 1
        self.talk.result(document, lambda console: shows.sweep(console, document))
        again = self._command("final", method, dataset, track, protocol, data_root, config, pairs)
        for line in next_of_sweep(document):
            self.talk.say(f"next: {again} --from {line}")

    def final(
        self, method: str, dataset: str, track: str, protocol: str, data_root: Sequence[str], config: Path | None, pairs: list[str],
        *, source: str | None, seeds: int, reopen: str | None, force: bool, cells: int, proposals: str,
    ) -> None:  # fmt: skip
        from bench.board import read_board, write_board
        from bench.choose import chosen
        from bench.final import FinalPlan, final_jobs, requirements_of, run_finals
        from bench.proposals import check_proposals
        from bench.sweep import unfinished
        from data.tracks import TRACKS

        cell = self.cell(method, dataset, track, protocol, self.settings(config, pairs), PROTOCOLS)
        if proposals and TRACKS[track].unit == "image":
            what = f"the track {track} reads whole films, and a proposed region is shown to what reads regions"
            raise ConfigError(what, "--proposals", "leave it out, or take another track")
        if self.dry_run:
            self._plan([cell], trials=0, seeds=seeds, alone=True)
            return
        ready = self.ready(cell, data_root)
        tracker = self.tracker()
        choice = chosen(ready, source, tracker)
        self.talk.say(f"settings: {choice.source}")
        plan = FinalPlan(
            choice.config,
            seeds=seeds,
            reopen=reopen,
            force=force,
            sweep=choice.sweep,
            source=choice.source,
            cells=cells,
            proposals=proposals,
        )
        finals = [(fold, plan) for fold in ready.each_fold()]
        check_proposals((job for one in finals for job in final_jobs(*one).values()), proposals, tracker)
        self.cluster()
        before = unfinished(job for fold in finals for job in requirements_of(*fold, range(1, seeds + 1)))
        with self.talk.progress(f"final {cell}") as update:
            of_folds = run_finals(finals, tracker, Meter(update, seeds * len(finals) + len(before)).seen)
        ids = [run_id for of_fold in of_folds for run_id in of_fold]
        board = read_board(self.home, tracker, self.talk)
        page = write_board(self.home, board)
        rows = [row for row in board.rows if set(row.seeds) & set(ids)]
        self.exit_code = 0 if rows and all(row.status == "done" for row in rows) else 1
        document = {"rows": [row.to_json() for row in rows], "ledger": list(self.home.ledger.entries())}
        self.talk.result(document, lambda console: shows.board(console, board.around(ids)))
        self.talk.say(f"page: {page}")

    def bench(self, suite: str, data_root: Sequence[str]) -> None:
        from bench.benchmark import Benchmark
        from bench.prepare import Roots
        from bench.suite import cells, read_suite

        wanted = read_suite(suite)
        if self.dry_run:
            self._plan(cells(wanted), trials=wanted.search.trials, seeds=wanted.final.seeds)
            return
        document, board = Benchmark(self, wanted, Roots.of_words(data_root)).run()
        self.exit_code = (
            1 if any(cell["status"] in ("failed", "unavailable", "missing") for cell in document["cells"]) else 0
        )
        mine = {run for cell in document["cells"] for run in cell["final"]}
        self.talk.result(document, lambda console: shows.board(console, board.around(mine)))
        self.talk.say(f"leaderboard: {document['leaderboard']}")
        self.talk.say(
            f"runs:        .venv/bin/python run_bench.py ui --out {self._out}   (MLflow, then open the address it prints)"
        )

    def leaderboard(self, form: str) -> None:
        from bench.board import read_board, write_board
        from bench.leaderboard import table

        tracker = self.tracker()
        for run in tracker.mark_dead():
            self.talk.say(f"cut off: {run.kind} {run.run_id[:8]}, {run.name}; its command goes on with it")
        board = read_board(self.home, tracker, self.talk)
        page = write_board(self.home, board)
        document = board.to_json(page=str(page))
        if form == "table" or self.talk.as_json:
            self.talk.result(document, lambda console: shows.board(console, board))
        else:
            text = {"csv": table.to_csv, "md": table.to_markdown, "latex": table.to_latex}[form](board)
            self.talk.out.out(text, end="" if text.endswith("\n") else "\n", highlight=False)
        self.talk.say(f"page: {page}")

    def explain(self, run: str, records: list[str]) -> None:
        from bench.pictures import explain_run

        files, rows = explain_run(self.home, self.tracker(), run, records)
        document = {"files": [str(file) for file in files], "rows": rows}
        self.talk.result(document, lambda console: console.print("\n".join(map(str, files)), markup=False))

    def ui(self, port: int) -> None:
        """`mlflow ui` on the same runs."""
        from bench import ui

        out = self._out or Path("runs")
        if not out.is_dir():
            raise ConfigError("no such folder", f"--out {out}", "name the --out of a command that ran")
        uri = self._tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or self.home.default_tracking()
        if uri.startswith("http"):
            self.talk.out.print(f"the runs are on a server already: open {uri}", markup=False)
            return
        if self.dry_run:
            self.talk.out.print(" ".join(ui.command(self.home, uri, port)), markup=False)
            return
        ui.check(uri, port)
        self.exit_code = ui.serve(self.home, uri, port, self.tracker().experiments(), self.talk.say)

    # ---- helpers ------------------------------------------------------------------------------------------------
    def _command(
        self, name: str, method: str, dataset: str, track: str, protocol: str, data_root: Sequence[str], config: Path | None,
        pairs: list[str],
    ) -> str:  # fmt: skip
        """Another command on the same cell, as it can be pasted."""
        words = ["python", "run_bench.py", name, method, dataset, "--track", track]
        options: list[tuple[str, object, object]] = [
            ("--protocol", protocol, PROTOCOLS[0]), *(("--data-root", root, None) for root in data_root), ("--config", config, None),
            *(("--set", pair, None) for pair in pairs),
            ("--out", self._out, Path("runs")), ("--tracking-uri", self._tracking_uri, None),
            ("--ray-address", self._ray_address, "local"), ("--workers", self.workers, 1),
            ("--gpus-per-worker", self.gpus_per_worker, 0),
        ]  # fmt: skip
        for flag, value, default in options:
            if value not in (None, default):
                words += [flag, str(value)]
        return shlex.join(words)

    def _plan(self, cells: Any, *, trials: int, seeds: int, alone: bool = False) -> None:
        from bench.dry_run import would_run

        document = would_run(cells, trials, seeds, alone=alone)
        self.talk.result(document, lambda console: shows.plan(console, document))


def _interrupted(tracker: Any) -> Any:
    """Runs that this command began and did not end are marked, so that nobody waits for them."""

    def leave(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            tracker.interrupt_open("stopped by hand" if kind is KeyboardInterrupt else f"the command ended: {error}")

    return leave
