"""Where everything that a command writes lies (`--out`), and what is asked of that place before anything starts."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from bench.ledger import Ledger
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

    @contextmanager
    def claim(self, job: str, name: str) -> Iterator[None]:
        """Keep other processes from doing the same job in this folder meanwhile; MachineError if one does it already."""
        folder = self.out / "locks"
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / f"{job}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise MachineError(
                "another process is at this already", name, "wait until it has ended, or stop it"
            ) from error
        try:
            yield
        finally:
            lock.release()

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
    def ledger(self) -> Ledger:
        return Ledger(self.out / "ledger.jsonl")

    def default_storage(self) -> str:
        return f"sqlite:///{self.out / 'studies.db'}"

    def default_tracking(self) -> str:
        return f"sqlite:///{self.out / 'mlflow.db'}"
