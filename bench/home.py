"""Where everything that a command writes lies (`--out`), and what is asked of that place before anything starts."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import MachineError


@dataclass(frozen=True)
class Home:
    """The folder of `--out`, absolute, and the places in it."""

    out: Path

    @classmethod
    def at(cls, out: Path | str, need_gib: float = 0.5) -> "Home":
        """Make the folder; MachineError when it cannot be written or the disk is nearly full."""
        path = Path(out).expanduser().absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / f".write-{os.getpid()}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise MachineError(
                f"cannot write: {error.strerror}", f"--out {out}", "choose a folder that can be written"
            ) from error
        free = shutil.disk_usage(path).free / 2**30
        if free < need_gib:
            raise MachineError(
                f"{free:.2f} GiB free, {need_gib} needed", f"--out {out}", "free some disk, or choose another"
            )
        return cls(path)

    @property
    def cache(self) -> Path:
        return self.out / "cache"

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    @property
    def ray(self) -> Path:
        return self.out / "ray"

    @property
    def logs(self) -> Path:
        return self.out / "logs"

    @property
    def leaderboard(self) -> Path:
        return self.out / "leaderboard"

    @property
    def artifacts(self) -> Path:
        return self.out / "artifacts"

    @property
    def ledger(self) -> "Ledger":
        return Ledger(self.out / "ledger.jsonl")

    def default_storage(self) -> str:
        return f"sqlite:///{self.out / 'studies.db'}"

    def default_tracking(self) -> str:
        return f"sqlite:///{self.out / 'mlflow.db'}"


@dataclass(frozen=True)
class Ledger:
    """Append-only record of what was registered beforehand and of every opening of a test side."""

    path: Path

    def entries(self) -> Iterator[dict[str, Any]]:
        if self.path.is_file():
            for line in self.path.read_text().splitlines():
                if line.strip():
                    yield json.loads(line)

    def append(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Add one line, flushed to the disk before anything that depends on it happens."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry, sort_keys=True) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        return entry

    def find(self, **wanted: Any) -> list[dict[str, Any]]:
        return [e for e in self.entries() if all(e.get(key) == value for key, value in wanted.items())]
