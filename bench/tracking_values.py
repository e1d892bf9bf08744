"""What goes into the record of runs and what comes out of it, as plain values; nothing here talks to a server."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from bench.metrics.estimate import Estimate
from bench.provenance import scrub
from data.errors import ConfigError, MachineError, UserError

Kind = Literal["sweep", "trial", "train", "final", "requirement", "board"]  # board: what a suite shows of a table
LASTING = ("sweep", "board")  # kinds that have one run for ever: it is opened again, and grows or is renewed
State = Literal["complete", "pruned", "failed", "interrupted"]  # interrupted: cut off, to be gone on with
STATUS_OF: dict[str, str] = {"complete": "FINISHED", "pruned": "KILLED", "interrupted": "KILLED", "failed": "FAILED"}
SCHEMES = ("sqlite", "http", "https", "postgresql", "postgresql+psycopg", "postgresql+psycopg2", "mysql+pymysql")
QUIET = {  # telemetry off; a server that does not answer is left alone soon, since the writes wait on disk
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
PARENT = "mlflow.parentRunId"
_REFUSED = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST"}


class Unreachable(MachineError):
    """The tracking server, its database or its disk is away."""


@dataclass(frozen=True)
class RunInfo:
    """One run as MLflow holds it. metrics: latest values. artifacts: the folder, where it is on this machine's disk."""

    run_id: str
    name: str
    kind: str
    track: str
    status: str  # RUNNING | FINISHED | KILLED | FAILED
    state: str  # running | complete | pruned | failed | interrupted
    identity: str
    number: int | None = None  # of a trial, in its sweep
    parent: str | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    start: datetime | None = None
    end: datetime | None = None
    artifacts: Path | None = None

    @property
    def seconds(self) -> float | None:
        """Wall time from start to end; None while it runs."""
        return (self.end - self.start).total_seconds() if self.start and self.end else None

    def estimate(self, name: str) -> Estimate | None:
        """A metric that was logged as an Estimate, put together again; None if it was never logged."""
        if name not in self.metrics:
            return None
        low, high = self.metrics.get(f"{name}_low"), self.metrics.get(f"{name}_high")
        return Estimate(self.metrics[name], low, high, int(self.metrics.get(f"{name}_n", 0)), "as logged")


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted names with texts: {"roi": {"scale": 1}} gives {"roi.scale": "1"}; paths cut short."""
    result: dict[str, str] = {}
    for key, value in nested.items():
        name = safe_name(f"{prefix}{key}")
        if isinstance(value, Mapping):
            result.update(flat(value, f"{name}."))
        else:
            result[name] = scrub(str(value))
    return result


def plain_values(values: Mapping[str, float | Estimate | None]) -> tuple[dict[str, float], list[str]]:
    """Numbers that MLflow keeps as they are, and the names of those that have no finite value."""
    plain: dict[str, float] = {}
    absent: list[str] = []
    for key, value in values.items():
        name = safe_name(key)
        parts: dict[str, float | None]
        if isinstance(value, Estimate):
            parts = {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
            if value.value is not None:
                parts[f"{name}_n"] = float(value.n)
        else:
            parts = {name: value}
        finite = {k: float(v) for k, v in parts.items() if v is not None and math.isfinite(v)}
        plain.update(finite)
        if name not in finite:
            absent.append(name)
    return plain, absent


def safe_name(name: str) -> str:
    """The name with what MLflow refuses in names replaced by "_"."""
    return re.sub(r"[^\w\-. /:]", "_", name)


def checked_uri(uri: str) -> str:
    """The address with a relative SQLite file made absolute. ConfigError for what cannot hold runs."""
    scheme = uri.split(":", 1)[0] if "://" in uri else ""
    if scheme not in SCHEMES:
        what = "a folder of files cannot hold runs any more" if scheme in ("", "file") else f"unknown scheme {scheme!r}"
        do = "give sqlite:///FILE.db, http://HOST:PORT or postgresql+psycopg://..."
        raise ConfigError(what, f"--tracking-uri {masked(uri)}", do)
    if scheme == "sqlite":
        return "sqlite:///" + str(Path(uri.removeprefix("sqlite:///")).absolute())
    return uri


def masked(uri: str) -> str:
    """The address fit for a message: no password, no folders of this machine."""
    parts = urlsplit(uri)
    if parts.scheme == "sqlite":
        return f"sqlite file {Path(parts.path).name}"
    if parts.password:
        netloc = parts.netloc.replace(f":{parts.password}@", ":***@", 1)
        return urlunsplit(parts._replace(netloc=netloc))
    return uri


def quoted(value: str) -> str:
    """A value inside the quotes of a search; ConfigError for one that would end them."""
    if "'" in value or "\\" in value:
        raise ConfigError("a quote cannot be searched for", value, "leave it out")
    return value


def quiet_environment() -> None:
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)


def local_folder(uri: str, moved: Path) -> Path | None:
    """The artifact folder on a disk of this machine, or `moved` where the folder of all runs was; None on a server."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        return None
    stated = Path(unquote(parts.path) if parts.scheme else uri)
    return moved if not stated.exists() and moved.exists() else stated


def reason_of(error: Exception) -> str:
    """One line fit for a message: no password, no path; for a chain of causes as libraries print it, the last one."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return scrub(lines[0].rsplit("Caused by ", 1)[-1])[:200]


def when(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


def run_info(run: Any, artifact_root: Path) -> RunInfo:
    """MLflow's own run object as a RunInfo."""
    tags = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")}
    track, number = tags.get("track", ""), tags.get("trial", "")
    return RunInfo(
        run_id=run.info.run_id,
        name=run.info.run_name,
        kind=tags.get("kind", ""),
        track=track,
        status=run.info.status,
        state=tags.get("state", "running"),
        identity=tags.get("identity", ""),
        number=int(number) if number.isdigit() else None,
        parent=run.data.tags.get(PARENT),
        params=dict(run.data.params),
        tags=tags,
        metrics=dict(run.data.metrics),
        start=when(run.info.start_time),
        end=None if run.info.status == "RUNNING" else when(run.info.end_time),
        artifacts=local_folder(run.info.artifact_uri, artifact_root / track / run.info.run_id / "artifacts"),
    )


def is_refusal(error: Exception) -> bool:
    """Whether MLflow answered and will never take this call."""
    return getattr(error, "error_code", None) in _REFUSED


def is_outage(error: Exception) -> bool:
    """Whether an exception means that the server, its database or its disk is away, and not that the call was wrong."""
    if isinstance(error, UserError):
        return isinstance(error, Unreachable)
    families = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(families & {"mlflow", "sqlalchemy", "requests", "urllib3"})
