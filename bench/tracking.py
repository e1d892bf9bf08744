"""The record of all runs, in MLflow: an experiment per track, one writer (the driver).

Tags of a run: kind, identity, track, trial (its number in a sweep), state (docs/cli.md), failure, reason, driver.
"""

from __future__ import annotations

import json as json_text
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.metrics.estimate import Estimate
from bench.provenance import driver_is_alive, environment, scrub, scrub_all
from bench.tracking_buffer import Outbox
from bench.tracking_server import Server
from bench.tracking_values import (
    STATUS_OF,
    Kind,
    RunInfo,
    State,
    checked_uri,
    flat,
    is_outage,
    plain_values,
    run_info,
)
from data.errors import ConfigError, DataError


class Tracker:
    """Writes runs and reads them back. An outage of the server never stops training: writes wait on disk meanwhile."""

    def __init__(
        self,
        uri: str | None = None,
        artifact_root: Path | None = None,
        *,
        out: Path = Path("runs"),
        retry_s: float = 30.0,
    ) -> None:
        """uri: an MLflow address; default $MLFLOW_TRACKING_URI, else the file `mlflow.db` in `out`.

        artifact_root: where artifacts go when the address is a database (default `out`/artifacts); a server has its own
        place. retry_s: how long to leave a server alone that did not answer. Nothing is opened before it is needed.
        """
        self.out = Path(out).absolute()
        address = checked_uri(uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.out / 'mlflow.db'}")
        self._server = Server(address, Path(artifact_root or self.out / "artifacts").absolute())
        self._open_runs: dict[str, None] = {}
        self._outbox = Outbox(self.out / "logs" / "tracking-buffer.jsonl", self._server.apply, is_outage, retry_s)

    # ---- contact ------------------------------------------------------------------------------------------------
    def connect(self) -> None:
        """Import MLflow and reach the server once; a new database is made here (3-12 s). MachineError if it fails."""
        self._server.client()

    def warm_up(self) -> Future[None]:
        """`connect` in a thread, beside other work; the future raises what `connect` raises."""
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tracker")
        future = pool.submit(self.connect)
        pool.shutdown(wait=False)
        return future

    # ---- writing ------------------------------------------------------------------------------------------------

    def experiments(self) -> dict[str, str]:
        """Track -> id of each experiment that there is."""
        return self._server.experiments()

    def start(
        self,
        track: str,
        *,
        name: str,
        kind: Kind,
        identity: str,
        params: Mapping[str, Any],
        tags: Mapping[str, Any] | None = None,
        parent: str | None = None,
        number: int | None = None,
    ) -> str:
        """Open a run, or go on with the one of this identity, kind, parent and number that was cut off; its id.

        A sweep, or the record of a board, is gone on with however it ended. Parameters already recorded stay as they are; tags are renewed.

        number: of a trial in its sweep. params: nested mappings become dotted names. Raises MachineError where another
        living process writes the same run, or where the server was never reached; a later outage gives a pending id.
        """
        self._server.client()
        given = {key: scrub(str(value)) for key, value in (tags or {}).items()}
        given |= {"kind": kind, "identity": identity, "track": track}
        if number is not None:
            given["trial"] = str(number)
        write = {"do": "start", "track": track, "name": scrub(name), "tags": given, "params": flat(params)}
        run_id = self._outbox.send({**write, "parent": parent, "at": _now()})
        self._open_runs[run_id] = None
        return run_id

    def log(self, run_id: str, values: Mapping[str, float | Estimate | None], step: int = 0) -> None:
        """One batch of metrics. An Estimate gives name, name_low, name_high, name_n; None, NaN and inf are left out.

        The names of what had no value are kept in the tag `no_value`.
        """
        plain, absent = plain_values(values)
        if plain or absent:
            write = {"do": "log", "run": run_id, "values": plain, "absent": absent, "step": int(step), "at": _now()}
            self._outbox.send(write)

    def tag(self, run_id: str, tags: Mapping[str, Any]) -> None:
        self._outbox.send({"do": "tag", "run": run_id, "tags": {k: scrub(str(v)) for k, v in tags.items()}})

    def text(self, run_id: str, text: str, file: str) -> None:
        """A text artifact, e.g. file="tables/confusion.csv"; absolute paths in it are cut short."""
        self._outbox.send({"do": "text", "run": run_id, "text": scrub(text), "file": file})

    def json(self, run_id: str, value: Any, file: str) -> None:
        """A JSON artifact, e.g. file="config.json"; absolute paths in it are cut short."""
        self.text(run_id, json_text.dumps(scrub_all(value), indent=2, sort_keys=True, default=str), file)

    def artifact(self, run_id: str, path: Path, folder: str = "") -> None:
        """A file, or the content of a folder, into `folder` of the run's artifacts."""
        if not Path(path).exists():
            raise DataError("there is no such artifact to record", Path(path).name, "make it before it is recorded")
        self._outbox.send({"do": "artifact", "run": run_id, "path": str(Path(path).absolute()), "folder": folder})

    def provenance(self, run_id: str, *, config: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
        """What the run rests on: config.json, environment.json; data and split hashes, commit and versions as tags."""
        here = environment()
        self.json(run_id, config, "config.json")
        self.json(run_id, here, "environment.json")
        tags = {"commit": here["commit"] or "unknown", "dirty": here["dirty"], "python": here["python"]}
        self.tag(run_id, {**tags, "torch": here["packages"]["torch"], **hashes})

    def finish(self, run_id: str, state: State | str, failure: str | None = None, reason: str | None = None) -> None:
        """Close a run: complete, pruned, failed, or interrupted (a later `start` goes on with it).

        failure, for "failed": oom, diverged, timeout, lost, data, bug. reason: in words, one line.
        """
        if state not in STATUS_OF:
            raise ConfigError(f"unknown state {state!r} of a run", run_id, f"use one of {', '.join(STATUS_OF)}")
        self._open_runs.pop(run_id, None)
        extra = {key: scrub(text)[:4000] for key, text in (("failure", failure), ("reason", reason)) if text}
        self._outbox.send({"do": "finish", "run": run_id, "tags": {"state": state, **extra}, "at": _now()})

    def interrupt_open(self, reason: str) -> None:
        """Mark what this process began and did not finish: it ends before its runs do. The last begun comes first."""
        for run_id in reversed(list(self._open_runs)):
            self.finish(run_id, "interrupted", reason=reason)

    def close_orphans(self, parent: str, states: Mapping[int, str]) -> list[str]:
        """End the trials that MLflow still holds open though the study has closed them; the ids of those runs.

        states: trial number -> complete, pruned or failed; other states are left alone.
        """
        closed = []
        for run in self.runs(kind="trial", parent=parent, status="RUNNING"):
            state = states.get(run.number) if run.number is not None else None
            if state in ("complete", "pruned"):
                self.finish(run.run_id, state)
            elif state == "failed":
                self.finish(run.run_id, state, "lost", "its driver ended before it")
            else:
                continue
            closed.append(run.run_id)
        return closed

    def mark_dead(self) -> list[RunInfo]:
        """Mark as interrupted what is still open though its driver on this machine is gone; those runs."""
        dead = [r for r in self.runs(status="RUNNING") if driver_is_alive(r.tags.get("driver", "")) is False]
        for run in dead:
            self.finish(run.run_id, "interrupted", reason="its driver ended without a word")
        return dead

    def flush(self) -> int:
        """Send what waits on disk from an outage; how many writes still wait."""
        self._server.client()
        return self._outbox.flush()

    # ---- reading ------------------------------------------------------------------------------------------------
    def find(self, identity: str, kind: Kind, track: str | None = None) -> RunInfo | None:
        """The latest complete run of that identity and kind; None if there is none."""
        return next(iter(self.runs(kind=kind, track=track, status="FINISHED", identity=identity, limit=1)), None)

    def runs(
        self,
        kind: Kind | None = None,
        track: str | None = None,
        parent: str | None = None,
        status: str | None = None,
        identity: str | None = None,
        limit: int | None = None,
    ) -> list[RunInfo]:
        """Runs that fit, newest first; the server does the filtering."""
        return self._server.runs(kind, track, self._outbox.real(parent) if parent else None, status, identity, limit)

    def resolve(self, prefix: str) -> RunInfo:
        """The run whose id starts so. ConfigError where none or several do; those are then listed."""
        found = self._server.search(f"attributes.run_id LIKE '{prefix}%'", None, 11) if prefix.isalnum() else []
        if not found:
            newest = [f"{run.run_id[:8]} ({run.kind} {run.name})" for run in self._server.search("", None, 4)]
            do = f"the newest here: {'; '.join(newest)}; `ui` shows all" if newest else "nothing has run in this --out"
            raise ConfigError("no run has an id that starts so", prefix, do)
        if len(found) > 1:
            some = ", ".join(f"{run.run_id[:12]} ({run.kind} {run.name})" for run in found[:10])
            more = " and more" if len(found) > 10 else ""
            raise ConfigError(f"several runs start so: {some}{more}", prefix, "give more of the id")
        return found[0]

    def run(self, run_id: str) -> RunInfo:
        """The run of that full id."""
        with self._server.reading(run_id):
            return run_info(self._server.client().get_run(self._outbox.real(run_id)), self._server.artifact_root)

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """(step, value) of every time a metric was logged, by step."""
        with self._server.reading(run_id):
            points = self._server.client().get_metric_history(self._outbox.real(run_id), metric)
        return [(p.step, p.value) for p in sorted(points, key=lambda p: (p.step, p.timestamp))]

    def download(self, run_id: str, artifact: str) -> Path:
        """An artifact (file or folder) as a path: where it lies if that is this machine, else a copy in `out`/cache."""
        info = self.run(run_id)
        if info.artifacts is not None:
            path = info.artifacts / artifact
        else:
            path = self.out / "cache" / "mlflow" / info.run_id / artifact
            if not path.exists():
                self._server.copy(info.run_id, artifact, path)
        if not path.exists():
            raise DataError("the run has no such artifact", f"{info.run_id[:12]}: {artifact}", "make the run again")
        return path


def _now() -> int:
    return int(time.time() * 1000)
