"""Where a run was made: versions, processor, commit; and the rule that no path of this machine leaves with a record."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import socket
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pandas", "scikit-learn", "pydicom", "ray", "optuna", "mlflow")

# An absolute path of two parts or more, not preceded by what would make it an address or a relative path.
_PATH = re.compile(r"(?<![\w.:/\\~-])(?:~|[A-Za-z]:(?=\\)|(?:file|sqlite):/{0,3}(?=/))?(?:[/\\][\w.@+\-=…]+){2,}[/\\]?")
_PASSWORD = re.compile(r"(://[^/\s:@]*):[^@\s/]+@")


def scrub(text: str) -> str:
    """The text with each absolute path cut down to its last part ("…/train.csv"); relative paths and addresses stay.

    A password in an address becomes three stars. The home, working and temporary folders are known by name, so
    blanks in them do no harm.
    """
    text = _PASSWORD.sub(r"\1:***@", text)
    for folder in (Path.home(), Path.cwd(), Path(tempfile.gettempdir())):
        if len(folder.parts) > 1:
            text = re.sub(rf"(?<![\w.-]){re.escape(str(folder))}(?=[/\\]|\b)", "/…", text)
    return _PATH.sub(lambda match: "…/" + re.split(r"[/\\]", match.group(0).rstrip("/\\"))[-1], text)


def scrub_all(value: Any) -> Any:
    """`scrub` on every string of a JSON-like value."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {str(key): scrub_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub_all(item) for item in value]
    return value


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@functools.lru_cache(maxsize=1)
def _environment() -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "packages": versions,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if changed is None else bool(changed),
    }


def environment() -> dict[str, Any]:
    """What results may depend on besides the config: versions, processor, commit and whether files were changed.

    No host name, user name or path is in it. `commit` and `dirty` are None outside a git checkout.
    """
    return dict(_environment())


def this_driver() -> str:
    """A name of this process that later processes can test with `driver_is_alive`: hashed machine, pid, start time."""
    machine = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return f"{machine}:{os.getpid()}:{int(psutil.Process().create_time())}"


def driver_is_alive(driver: str) -> bool | None:
    """Whether the process of that name still runs; None: it belongs to another machine, or the name says nothing."""
    parts = driver.split(":")
    if len(parts) != 3 or parts[0] != this_driver().split(":")[0]:
        return None
    try:
        pid, started = int(parts[1]), int(parts[2])
        process = psutil.Process(pid)
        # The clock of the start time may be corrected by a second or two while the machine runs.
        return abs(process.create_time() - started) < 3 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except ValueError:
        return None
