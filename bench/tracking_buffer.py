"""Writes that the tracking server cannot take at the moment: kept on disk in their order until it can."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.tracking_values import reason_of
from data.errors import DataError, MachineError, UserError

Write = dict[str, Any]  # one write as JSON: "do" names it, "run" the run, the rest are its arguments
PENDING = "pending-"  # prefix of the ids of runs that the server does not know yet
log = logging.getLogger(__name__)


class Refused(Exception):
    """The server answered and will never take this write."""


class Outbox:
    """Applies writes in their order; while the server is away they wait in a JSON-lines file that outlives the process.

    apply: does one write, gives the run's id for a "start" (else None); raises Refused or UserError for what will never
    work. outage: whether an exception means that the server is away. A line cut short by a full disk counts as absent.
    """

    def __init__(
        self, path: Path, apply: Callable[[Write], str | None], outage: Callable[[Exception], bool], retry_s: float
    ) -> None:
        self.path = path
        self.files = path.with_suffix("")
        self.rejected = path.with_name(path.stem + "-rejected.jsonl")
        self._apply, self._outage, self._retry_s = apply, outage, retry_s
        self._lock = threading.RLock()
        self._down_until: float | None = None  # monotonic; None: the server answered last time
        self._real: dict[str, str] = {}  # pending id -> the id that the server gave

    def real(self, run_id: str) -> str:
        """The server's id of a run that was pending when it began; any other id as it is."""
        return self._real.get(run_id, run_id)

    def waiting(self) -> int:
        """How many writes wait on disk."""
        return len(self._read())

    def send(self, write: Write) -> str:
        """Do it now, or keep it for later; the run's id, a pending one where the server has not seen the run yet."""
        with self._lock:
            if write["do"] == "start":
                write = {**write, "run": PENDING + uuid.uuid4().hex}
            if self._has_waiting() or self._is_down():
                self._keep(write)
                if not self._is_down():
                    self.flush()
                return self.real(write["run"])
            try:
                return self._do(write)
            except Refused as error:
                self._reject(write, str(error))
            except Exception as error:
                if not self._outage(error):
                    raise
                self._went_down(error)
                self._keep(write)
            return self.real(write["run"])

    def flush(self) -> int:
        """Try to send what waits, oldest first; how many still wait afterwards."""
        with self._lock:
            waiting = self._read()
            done = 0
            try:
                for write in waiting:
                    try:
                        self._do(write)
                    except (Refused, UserError) as error:
                        if self._outage(error):
                            raise
                        self._reject(write, str(error))
                    done += 1
            except Exception as error:
                if not self._outage(error):
                    raise
                self._went_down(error)
            finally:
                if waiting:
                    self._replace(waiting[done:])
            if waiting and done == len(waiting):
                self._down_until = None
                log.warning("the tracking server answers again: %d kept records were sent", done)
            return len(waiting) - done

    def _do(self, write: Write) -> str:
        known = {key: self.real(write[key]) for key in ("run", "parent") if write.get(key)}
        if write["do"] == "artifact" and "kept" in write:
            known["path"] = str(self.files / write["kept"])
        if write["do"] == "artifact" and not Path({**write, **known}["path"]).exists():
            raise DataError("an artifact was gone before it could be sent", Path(write["path"]).name, "make it again")
        made = self._apply({**write, **known})
        if write["do"] == "start" and made:
            self._real[write["run"]] = made
            return made
        return known["run"]

    def _is_down(self) -> bool:
        return self._down_until is not None and time.monotonic() < self._down_until

    def _went_down(self, error: Exception) -> None:
        if self._down_until is None:
            log.warning(
                "the tracking server does not answer; records wait in %s (%s)", self.path.name, reason_of(error)
            )
        self._down_until = time.monotonic() + self._retry_s

    # ---- the file -----------------------------------------------------------------------------------------------
    def _has_waiting(self) -> bool:
        return self.path.is_file() and self.path.stat().st_size > 0

    def _read(self) -> list[Write]:
        writes: list[Write] = []
        if self._has_waiting():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    writes.append(json.loads(line))
                except ValueError:
                    continue
        return writes

    def _replace(self, writes: list[Write]) -> None:
        """Hold exactly these, with ids that the server knows; none removes the file and the kept copies."""
        if not writes:
            self.path.unlink(missing_ok=True)
            shutil.rmtree(self.files, ignore_errors=True)
            return
        lines = [{**w, **{k: self.real(w[k]) for k in ("run", "parent") if w.get(k)}} for w in writes]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        partial.replace(self.path)

    def _keep(self, write: Write) -> None:
        if write["do"] == "artifact" and "kept" not in write:
            source = Path(write["path"])
            write = {**write, "kept": self._copy(source), "path": source.name}
        self._append(self.path, write)

    def _reject(self, write: Write, why: str) -> None:
        """Put aside what will never be taken, so that it does not hold up the rest."""
        reason = reason_of(Refused(why))
        log.warning("the tracking server refused a record (%s): kept in %s", reason, self.rejected.name)
        self._append(self.rejected, {**write, "refused": why})

    def _copy(self, source: Path) -> str:
        """A copy (a hard link where the disk allows), safe from the original's removal; its name below `files`."""
        name = f"{uuid.uuid4().hex[:8]}/{source.name}"
        target = self.files / name
        try:
            target.parent.mkdir(parents=True)
            if source.is_dir():
                shutil.copytree(source, target, copy_function=_link_or_copy)
            else:
                _link_or_copy(str(source), str(target))
        except OSError as error:
            raise self._full(error) from error
        return name

    def _append(self, path: Path, write: Write) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(write) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._full(error) from error

    def _full(self, error: OSError) -> MachineError:
        what = f"neither the tracking server nor the disk takes records: {error.strerror}"
        do = "free some space or make --out writable, then give the same command again"
        return MachineError(what, f"{self.path.parent.name}/{self.path.name}", do)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
