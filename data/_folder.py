"""Folders of the cache: built once, whole or not at all, and not removed while someone uses them.

A folder is built as <name>.part under a lock. When everything in it has reached the disk it gets its marker DONE and is
renamed: whoever is killed in the middle leaves nothing that a later reader takes for finished work. What was cut off
stays, where it holds a journal of what is finished (data/_journal.py), and the next build of the same name goes on.

DONE says more than that: it holds the sha256 of the folder's small files, its time is that of the last use, and who
uses the folder holds a shared lock on it.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from data.errors import DataError, MachineError

DONE, JOURNAL, ARRAY = "DONE", "journal.jsonl", ".npy"
_ROOM, _ALLOW = "make room or choose another --out", "allow it or choose another --out"
_FILE = ("a file stands where a folder is needed", "move that file away or choose another --out")
_DISK_ERRORS = {  # what happened, and what to do about it
    errno.ENOSPC: ("the disk is full", _ROOM),
    errno.EDQUOT: ("the disk quota is used up", _ROOM),
    errno.EFBIG: ("the file would be larger than allowed", _ALLOW),
    errno.EACCES: ("no permission to write", _ALLOW),
    errno.EPERM: ("no permission to write", _ALLOW),
    errno.EROFS: ("the file system is read-only", "choose another --out"),
    errno.ENOTDIR: _FILE,
    errno.EEXIST: _FILE,
    errno.EIO: ("the disk cannot be written", "check the disk or choose another --out"),
}


# ---- errors -----------------------------------------------------------------------------------------------------------
@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns what a full or unwritable disk raises into one line that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        what, do = _DISK_ERRORS[error.errno]
        raise MachineError(f"cannot write: {what}", str(folder), do) from error


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turns what a lost or damaged file of finished work raises into one line that names it."""
    try:
        yield
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError) as error:
        raise damaged(path) from error


def damaged(path: Path) -> DataError:
    """That a file of finished work cannot be used, and which folder to delete for it."""
    parts = name_of(path).split("/")
    return DataError(
        "a file of the prepared data is damaged or missing",
        "/".join(parts),
        f"delete the folder {'/'.join(parts[:-1])} of the cache (OUT/cache) and run again",
    )


def name_of(path: Path) -> str:
    """A file's path in the cache: <data set>-<key>/FILE or <data set>-<key>/pixels/<key>/FILE."""
    return "/".join(path.parts[-4:] if path.parent.parent.name == "pixels" else path.parts[-2:])


def require_space(folder: Path, n_bytes: int) -> None:
    """Raises MachineError if the disk cannot hold so much more."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise MachineError(
            f"preparing needs {n_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            str(folder),
            "make room or choose another --out",
        )


# ---- use --------------------------------------------------------------------------------------------------------------
def is_done(folder: Path) -> bool:
    return (folder / DONE).is_file()


class Use:
    """That someone uses a finished folder, until this object is gone or its process has ended, however it ended."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        weakref.finalize(self, os.close, lock)

    def __reduce__(self) -> tuple[Callable[[Path], "Use | None"], tuple[Path]]:
        """In another process: a use of its own."""
        return use, (self.folder,)


def use(folder: Path) -> Use | None:
    """Note that a folder is used now, and keep it from being removed; None if it is not finished."""
    with read_errors(folder / DONE):
        try:
            lock = os.open(folder / DONE, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
    with suppress(OSError):  # where the file system has no locks, nobody else gets the one that removing needs
        fcntl.flock(lock, fcntl.LOCK_SH)  # waits for one who removes it just now
    if not _same_file(lock, folder / DONE):
        os.close(lock)
        return None
    with suppress(OSError):  # a cache that may only be read: nobody makes room in it either
        os.utime(folder / DONE)
    return Use(folder, lock)


def _same_file(opened: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder that nobody builds or uses; raises BlockingIOError or filelock.Timeout where someone does."""
    with FileLock(lock_of(folder), timeout=0):
        if not is_done(folder):
            yield
            return
        with (folder / DONE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield


def lock_of(folder: Path) -> Path:
    """The lock of a folder and of its unfinished form."""
    return folder.with_name(f"{folder.name.removesuffix('.part')}.lock")


# ---- building ---------------------------------------------------------------------------------------------------------
def build_once(folder: Path, build: Callable[[Path], None]) -> Use:
    """A use of the finished `folder`, built by `build(unfinished folder)` unless it exists. Several may ask at once.

    `build` may find what an earlier one left that was cut off. What it leaves when it raises is kept if its journal
    holds anything.
    """
    while (used := use(folder)) is None:
        with disk_errors(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock_of(folder)):
                if not is_done(folder):  # else another process was faster
                    _build(folder, folder.with_name(f"{folder.name}.part"), build)
    return used


def _build(folder: Path, part: Path, build: Callable[[Path], None]) -> None:
    if folder.exists():  # without its marker: the lock says that nobody is at work here
        shutil.rmtree(folder)
    if not is_done(part):  # else its builder was killed just before it renamed it
        part.mkdir(exist_ok=True)
        try:
            build(part)
        except BaseException:
            if not (part / JOURNAL).exists():
                shutil.rmtree(part, ignore_errors=True)
            raise
        finish(part)
    part.rename(folder)
    _to_disk(folder.parent)


def finish(folder: Path) -> None:
    """Mark a folder as done, once all of it has reached the disk."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in (JOURNAL, DONE))
    for path in files:
        _to_disk(path)
    _to_disk(folder)
    (folder / JOURNAL).unlink(missing_ok=True)
    digests = {path.name: digest(path) for path in files if path.suffix != ARRAY}
    (folder / DONE).write_text(json.dumps(digests), encoding="utf-8")
    _to_disk(folder / DONE)
    _to_disk(folder)


def digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of a finished folder's small files when it was made, by name. Arrays have sums of their rows."""
    with read_errors(folder / DONE):
        found: dict[str, Any] = json.loads((folder / DONE).read_text(encoding="utf-8"))
        return dict(found)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
