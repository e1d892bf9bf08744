"""Who may write in a run's folder: workers can outlive a killed driver, and its successor must not meet them there."""

import json
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.cluster.failures import LeaseLost
from bench.cluster.owner import dead, me

NAME = "lease.json"
BEAT_S = 1.0
PATIENCE_S = 15.0


class Lease:
    """A file with the holder's process and a heartbeat. Entering waits until a former holder is dead or silent.

    A holder whose process is gone (same machine) is passed over at once; one on another machine after `patience_s`
    without a heartbeat, by the waiter's own clock. Two that take over in the same instant: the later one holds it, and
    the other learns by `check`, before its next report. Checkpoints are renamed into place: neither leaves half a file.
    """

    def __init__(self, folder: Path, patience_s: float = PATIENCE_S, beat_s: float = BEAT_S) -> None:
        self.path = folder / NAME
        self.patience_s, self.beat_s = patience_s, beat_s
        self.token = uuid.uuid4().hex
        self.beats = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Lease":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._wait()
        self._write()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._holder().get("token") == self.token:
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """LeaseLost if another process has taken the folder over."""
        if self._holder().get("token") != self.token:
            raise LeaseLost("another process has taken this run over")

    def _wait(self) -> None:
        seen, since = self._holder(), time.monotonic()
        while seen and not dead(seen):
            time.sleep(min(self.beat_s, self.patience_s) / 4)
            now = self._holder()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > self.patience_s:
                return

    def _beat(self) -> None:
        while not self._ended.wait(self.beat_s):
            if self._holder().get("token") != self.token:
                return
            self._write()

    def _write(self) -> None:
        self.beats += 1
        holder = {"token": self.token, "beat": self.beats, **me()}
        temporary = self.path.with_name(f"{NAME}.{self.token}.tmp")
        temporary.write_text(json.dumps(holder))
        temporary.replace(self.path)

    def _holder(self) -> dict[str, Any]:
        """What the file says; empty if there is none, or half a one."""
        try:
            loaded = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}
