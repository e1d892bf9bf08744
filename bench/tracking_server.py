"""The MLflow server or database: reached, read, and written to one write at a time. Only this file imports mlflow."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.provenance import driver_is_alive, this_driver
from bench.tracking_buffer import Refused, Write
from bench.tracking_values import (
    LASTING,
    PARENT,
    STATUS_OF,
    Kind,
    RunInfo,
    Unreachable,
    is_outage,
    is_refusal,
    masked,
    quiet_environment,
    quoted,
    reason_of,
    run_info,
)
from data.errors import ConfigError, MachineError, UserError

PREFIX = "mammobench/"  # of an experiment's name; the rest is the track


class Server:
    """Where runs are recorded. Nothing is opened before it is needed."""

    def __init__(self, uri: str, artifact_root: Path) -> None:
        """uri: a checked MLflow address. artifact_root: where artifacts go when that is a database."""
        self.uri, self.artifact_root = uri, artifact_root
        self.mlflow: Any = None
        self._lock = threading.RLock()
        self._experiments: dict[str, str] = {}

    # ---- contact ------------------------------------------------------------------------------------------------
    def client(self) -> Any:
        """MLflow's own client; the first call imports it and reaches the server once. Raises Unreachable."""
        with self._lock:
            if self.mlflow is None:
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
                    raise self.unreachable(error) from error
                self.mlflow = client
            return self.mlflow

    def unreachable(self, error: Exception) -> Unreachable:
        mend = "start the server, or correct --tracking-uri"
        if self.uri.startswith("sqlite"):
            mend = "make its folder writable, or move a damaged file away"
        return Unreachable(f"the record of runs cannot be opened: {reason_of(error)}", masked(self.uri), mend)

    def experiment(self, track: str) -> str:
        """The id of the track's experiment; made where it is not there yet."""
        client = self.client()
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
        found = self.client().search_experiments(filter_string=f"name LIKE '{PREFIX}%'")
        return {experiment.name.removeprefix(PREFIX): experiment.experiment_id for experiment in found}

    # ---- reading ------------------------------------------------------------------------------------------------
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
        tags = {"kind": kind, f"`{PARENT}`": parent, "identity": identity}
        parts = [f"tags.{key} = '{quoted(value)}'" for key, value in tags.items() if value]
        if status:
            parts.append(f"attributes.status = '{quoted(status)}'")
        return self.search(" and ".join(parts), track, limit)

    def search(self, filter_string: str, track: str | None, limit: int | None) -> list[RunInfo]:
        """Runs of a track, or of all, that pass MLflow's filter, newest first."""
        found: list[RunInfo] = []
        with self.reading(""):
            client = self.client()
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

    def copy(self, run: str, artifact: str, path: Path) -> None:
        """An artifact of the server, file or folder, to `path`: whole or not at all. Nothing where the run has none.

        Raises MachineError when the server holds it and it does not arrive: MLflow tells a full disk from a broken line
        by no more than its log.
        """
        from mlflow.exceptions import MlflowException

        with self.reading(run):
            client = self.client()
            folder = artifact.rpartition("/")[0] or None
            if artifact not in {entry.path for entry in client.list_artifacts(run, folder)}:
                return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
                Path(client.download_artifacts(run, artifact, scratch)).rename(path)
        except (OSError, MlflowException) as error:
            where = f"{run[:12]}: {artifact}"
            do = "see that the disk of --out has room and takes files, and that the server answers"
            raise MachineError(f"an artifact could not be copied here: {reason_of(error)}", where, do) from error

    @contextlib.contextmanager
    def reading(self, where: str) -> Iterator[None]:
        """Turns what a reader meets into a UserError: a run that is not there, or a server that does not answer."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if is_refusal(error):
                raise ConfigError("MLflow holds no such run", where, "`ui` shows all runs") from error
            if is_outage(error):
                raise self.unreachable(error) from error
            raise

    # ---- one write at a time, called by the outbox ----------------------------------------------------------------
    def apply(self, write: Write) -> str | None:
        """Do it; the run's id for a start. Raises Refused for what the server will never take."""
        try:
            return self._do(write)
        except Exception as error:
            if is_refusal(error):
                raise Refused(str(error)) from error
            raise

    def _do(self, write: Write) -> str | None:
        from mlflow.entities import Metric, RunTag

        client, run = self.client(), write.get("run", "")
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

        client, experiment = self.client(), self.experiment(write["track"])
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
            open_ = cut or tags["kind"] in LASTING
            if not (same and open_):
                continue
            driver = run.tags.get("driver", "")
            if run.status == "RUNNING" and driver != this_driver() and driver_is_alive(driver):
                what = f"another process is writing this {run.kind} run ({run.name})"
                raise MachineError(what, run.run_id[:12], "wait until it has ended, or stop it")
            return run
        return None
