"""The record of all runs, in MLflow: an experiment per track, one writer (the driver). Only this file imports mlflow.

Tags of a run: kind, identity, track, trial (its number in a sweep), state (docs/cli.md), failure, reason, driver.
"""

from __future__ import annotations

import contextlib
import json as json_text
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.metrics.estimate import Estimate
from bench.provenance import driver_is_alive, environment, scrub, scrub_all, this_driver
from bench.tracking_buffer import Outbox, Refused, Write
from bench.tracking_values import (
    PARENT,
    STATUS_OF,
    Kind,
    RunInfo,
    State,
    Unreachable,
    checked_uri,
    flat,
    is_outage,
    is_refusal,
    masked,
    plain_values,
    quiet_environment,
    quoted,
    reason_of,
    run_info,
)
from data.errors import ConfigError, DataError, MachineError, UserError

PREFIX = "mammobench/"  # of an experiment's name; the rest is the track


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
        self.uri = checked_uri(uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.out / 'mlflow.db'}")
        self.artifact_root = Path(artifact_root or self.out / "artifacts").absolute()
        self._lock = threading.RLock()
        self._mlflow: Any = None
        self._experiments: dict[str, str] = {}
        self._open_runs: dict[str, None] = {}
        self._outbox = Outbox(self.out / "logs" / "tracking-buffer.jsonl", self._apply, is_outage, retry_s)

    # ---- contact ------------------------------------------------------------------------------------------------
    def connect(self) -> None:
        """Import MLflow and reach the server once; a new database is made here (3-12 s). MachineError if it fails."""
        self._client()

    def warm_up(self) -> Future[None]:
        """`connect` in a thread, beside other work; the future raises what `connect` raises."""
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tracker")
        future = pool.submit(self.connect)
        pool.shutdown(wait=False)
        return future

    def _client(self) -> Any:
        with self._lock:
            if self._mlflow is None:
                quiet_environment()
                try:
                    if self.uri.startswith("sqlite:///"):
                        Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
                    from mlflow.tracking import MlflowClient

                    for noisy in ("mlflow", "alembic"):
                        logging.getLogger(noisy).setLevel(logging.ERROR)
                    client = MlflowClient(tracking_uri=self.uri)
                    client.search_experiments(max_results=1)
                except Exception as error:  # a database driver may raise what it likes
                    raise self._unreachable(error) from error
                self._mlflow = client
            return self._mlflow

    def _unreachable(self, error: Exception) -> Unreachable:
        mend = "start the server, or correct --tracking-uri"
        if self.uri.startswith("sqlite"):
            mend = "make its folder writable, or move a damaged file away"
        return Unreachable(f"the record of runs cannot be opened: {reason_of(error)}", masked(self.uri), mend)

    # ---- writing ------------------------------------------------------------------------------------------------
    def experiment(self, track: str) -> str:
        """The id of the track's experiment; made where it is not there yet."""
        client = self._client()
        if track not in self._experiments:
            found = client.get_experiment_by_name(PREFIX + track)
            if found is not None and found.lifecycle_stage != "active":
                mend = f"`mlflow experiments restore --experiment-id {found.experiment_id}` brings it back"
                raise ConfigError("the track's experiment was deleted in MLflow", PREFIX + track, mend)
            if found is None:
                location = None if self.uri.startswith("http") else (self.artifact_root / track).as_uri()
                # the kind makes the UI open on runs and their curves, not on its page for chat traces
                self._experiments[track] = client.create_experiment(
                    PREFIX + track,
                    artifact_location=location,
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            else:
                self._experiments[track] = found.experiment_id
        return self._experiments[track]

    def experiments(self) -> dict[str, str]:
        """Track -> id of each experiment that there is."""
        found = self._client().search_experiments(filter_string=f"name LIKE '{PREFIX}%'")
        return {experiment.name.removeprefix(PREFIX): experiment.experiment_id for experiment in found}

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

        A sweep is gone on with however it ended. Parameters already recorded stay as they are; tags are renewed.

        number: of a trial in its sweep. params: nested mappings become dotted names. Raises MachineError where another
        living process writes the same run, or where the server was never reached; a later outage gives a pending id.
        """
        self._client()
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
        self._client()
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
        tags = {"kind": kind, f"`{PARENT}`": self._outbox.real(parent) if parent else None, "identity": identity}
        parts = [f"tags.{key} = '{quoted(value)}'" for key, value in tags.items() if value]
        if status:
            parts.append(f"attributes.status = '{quoted(status)}'")
        return self._search(" and ".join(parts), track, limit)

    def resolve(self, prefix: str) -> RunInfo:
        """The run whose id starts so. ConfigError where none or several do; those are then listed."""
        found = self._search(f"attributes.run_id LIKE '{prefix}%'", None, 11) if prefix.isalnum() else []
        if not found:
            raise ConfigError("no run has an id that starts so", prefix, "the leaderboard shows the ids")
        if len(found) > 1:
            some = ", ".join(f"{run.run_id[:12]} ({run.kind} {run.name})" for run in found[:10])
            more = " and more" if len(found) > 10 else ""
            raise ConfigError(f"several runs start so: {some}{more}", prefix, "give more of the id")
        return found[0]

    def run(self, run_id: str) -> RunInfo:
        """The run of that full id."""
        with self._reading(run_id):
            return run_info(self._client().get_run(self._outbox.real(run_id)), self.artifact_root)

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """(step, value) of every time a metric was logged, by step."""
        with self._reading(run_id):
            points = self._client().get_metric_history(self._outbox.real(run_id), metric)
        return [(p.step, p.value) for p in sorted(points, key=lambda p: (p.step, p.timestamp))]

    def download(self, run_id: str, artifact: str) -> Path:
        """An artifact (file or folder) as a path: where it lies if that is this machine, else a copy in `out`/cache."""
        info = self.run(run_id)
        if info.artifacts is not None:
            path = info.artifacts / artifact
        else:
            path = self.out / "cache" / "mlflow" / info.run_id / artifact
            if not path.exists():
                with self._reading(run_id), contextlib.suppress(OSError):
                    home = self.out / "cache" / "mlflow" / info.run_id
                    home.mkdir(parents=True, exist_ok=True)
                    self._client().download_artifacts(info.run_id, artifact, str(home))
        if not path.exists():
            raise DataError("the run has no such artifact", f"{info.run_id[:12]}: {artifact}", "make the run again")
        return path

    def _search(self, filter_string: str, track: str | None, limit: int | None) -> list[RunInfo]:
        found: list[RunInfo] = []
        with self._reading(""):
            client = self._client()
            names = f"name = '{PREFIX}{quoted(track)}'" if track else f"name LIKE '{PREFIX}%'"
            experiments = [e.experiment_id for e in client.search_experiments(filter_string=names)]
            token: str | None = None
            while experiments and (limit is None or len(found) < limit):
                size = min(1000, limit - len(found)) if limit else 1000
                newest = ["attributes.start_time DESC"]
                page = client.search_runs(
                    experiments, filter_string, max_results=size, order_by=newest, page_token=token
                )
                found.extend(run_info(run, self.artifact_root) for run in page)
                token = page.token
                if not token:
                    break
        return found

    @contextlib.contextmanager
    def _reading(self, where: str) -> Iterator[None]:
        """Turns what a reader meets into a UserError: a run that is not there, or a server that does not answer."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if is_refusal(error):
                raise ConfigError("MLflow holds no such run", where, "the leaderboard shows the ids") from error
            if is_outage(error):
                raise self._unreachable(error) from error
            raise

    # ---- one write at a time, called by the outbox ----------------------------------------------------------------
    def _apply(self, write: Write) -> str | None:
        try:
            return self._apply_unguarded(write)
        except Exception as error:
            if is_refusal(error):
                raise Refused(str(error)) from error
            raise

    def _apply_unguarded(self, write: Write) -> str | None:
        from mlflow.entities import Metric, RunTag

        client, run = self._client(), write.get("run", "")
        match write["do"]:
            case "start":
                return self._open(write)
            case "log":
                metrics = [Metric(k, v, write["at"], write["step"]) for k, v in write["values"].items()]
                absent = [RunTag("no_value", ", ".join(write["absent"])[:4000])] if write["absent"] else []
                for first in range(0, max(1, len(metrics)), 900):  # MLflow takes 1000 at a time
                    client.log_batch(run, metrics[first : first + 900], [], absent)
            case "tag":
                client.log_batch(run, [], [], [RunTag(k, v) for k, v in write["tags"].items()])
            case "text":
                client.log_text(run, write["text"], write["file"])
            case "artifact" if Path(write["path"]).is_dir():
                client.log_artifacts(run, write["path"], write["folder"] or None)
            case "artifact":
                client.log_artifact(run, write["path"], write["folder"] or None)
            case "finish":
                client.log_batch(run, [], [], [RunTag(k, v) for k, v in write["tags"].items()])
                client.set_terminated(run, STATUS_OF[write["tags"]["state"]], write["at"])
        return None

    def _open(self, write: Write) -> str:
        """Go on with the run that was cut off, or make one; log the parameters that it does not hold yet."""
        from mlflow.entities import Param, RunTag

        client, experiment = self._client(), self.experiment(write["track"])
        tags = {**write["tags"], "state": "running", "driver": this_driver()}
        found = self._cut_off(write)
        if found is None:
            parent = {PARENT: write["parent"]} if write["parent"] else {}
            run_id: str = client.create_run(experiment, write["at"], {**tags, **parent}, write["name"]).info.run_id
            held: dict[str, str] = {}
        else:
            run_id, held = found.run_id, found.params
            client.update_run(run_id, status="RUNNING")
            for stale in {"failure", "reason"} & found.tags.keys():
                client.delete_tag(run_id, stale)
            client.log_batch(run_id, [], [], [RunTag(k, v) for k, v in tags.items()])
        missing = [Param(k, v) for k, v in write["params"].items() if k not in held]
        for first in range(0, len(missing), 100):
            client.log_batch(run_id, [], missing[first : first + 100], [])
        return run_id

    def _cut_off(self, write: Write) -> RunInfo | None:
        tags = write["tags"]
        for run in self.runs(tags["kind"], tags["track"], write["parent"], identity=tags["identity"]):
            same = run.tags.get("trial") == tags.get("trial") and (run.parent or None) == (write["parent"] or None)
            cut = run.status == "RUNNING" or (run.status == "KILLED" and run.state in ("running", "interrupted"))
            # A sweep has one run for ever: it grows with --extend, and its trials hang on it.
            open_ = cut or tags["kind"] == "sweep"
            if not (same and open_):
                continue
            driver = run.tags.get("driver", "")
            if run.status == "RUNNING" and driver != this_driver() and driver_is_alive(driver):
                what = f"another process is writing this {run.kind} run ({run.name})"
                raise MachineError(what, run.run_id[:12], "wait until it has ended, or stop it")
            return run
        return None


def _now() -> int:
    return int(time.time() * 1000)
