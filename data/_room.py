"""How large the cache may become, and what is removed from it to stay below that (docs/performance.md)."""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from data._folder import DONE, alone, disk_errors, is_done
from data.errors import ConfigError, MachineError

VARIABLE = "MAMMOBENCH_CACHE_LIMIT"  # GB, 1 GB = 10^9 bytes
_GONE = ".removed"
_SET = re.compile(r"\w+-[0-9a-f]{16}(?P<unfinished>(\.part|\.removed)+)?")
_PIXELS = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{12})?(?P<unfinished>(\.part|\.removed)+)?")


@dataclass(frozen=True)
class Room:
    """The cache's limit in GB; None: $MAMMOBENCH_CACHE_LIMIT, else none. `say` hears what was removed, a line each."""

    limit_gb: float | None = None
    say: Callable[[str], None] = logging.getLogger(__name__).info

    @property
    def limit(self) -> float | None:
        """Bytes. Raises ConfigError where the variable is no number above 0."""
        if self.limit_gb is not None:
            return self.limit_gb * 1e9
        text = os.environ.get(VARIABLE, "")
        if not text:
            return None
        with suppress(ValueError):
            if 0 < float(text) < float("inf"):
                return float(text) * 1e9
        raise ConfigError(f"{text!r} is no number of GB above 0", VARIABLE, "set it to one, or unset it")

    def make(self, own: Path, wanted: int) -> None:
        """Remove what was not used for longest until the cache can hold `wanted` bytes in `own`, a set or pixels of it.

        Raises MachineError if `wanted` alone is over the limit. See `keep`.
        """
        if self.limit is not None and wanted > self.limit:
            raise MachineError(
                f"the data wanted take {wanted / 1e9:.2f} GB, the cache may hold {self.limit / 1e9:.2f}",
                f"--cache-limit or {VARIABLE}",
                "allow more, or ask for smaller regions or fewer films",
            )
        self.keep(own, wanted - bytes_of(own))

    def keep(self, own: Path, more: int = 0) -> None:
        """Remove what was not used for longest until the cache is within its limit, with `more` bytes to come.

        First what was cut off and nobody goes on with, then pixels, which are cut again where they are needed, then whole
        data sets. Nothing that is built or used now is removed, and neither is `own` nor what it lies in.
        """
        if self.limit is None:
            return
        cache = own.parents[2] if own.parent.name == "pixels" else own.parent
        over = bytes_of(cache) + more - self.limit
        with disk_errors(cache):
            for folder in _candidates(cache, own) if over > 0 else ():
                there = bytes_of(folder)
                if over > 0 and _remove(folder):
                    over -= there
                    self.say(f"removed from the cache: {folder.relative_to(cache).as_posix()}, {there / 1e9:.2f} GB")
        if over > 0:
            self.say(f"the cache is {over / 1e9:.2f} GB over its limit: the rest of it is in use, or cannot be locked")


def bytes_of(folder: Path) -> int:
    """Bytes that the files below take; of sparse files only what is there."""
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # others work here, too
                status = Path(place, name).stat()
                found += min(status.st_size, status.st_blocks * 512)
    return found


def _candidates(cache: Path, own: Path) -> Iterator[Path]:
    """What may be removed, in that order: folders that were built here, and nothing else that lies in the cache."""
    sets = [folder for folder in cache.iterdir() if _is_ours(folder, _SET)]
    inner = [one / "pixels" for one in sets if is_done(one)]  # an unfinished set is one thing, pixels and all
    pixels = [folder for one in inner if one.is_dir() for folder in one.iterdir() if _is_ours(folder, _PIXELS)]
    kept = {own, *own.parents}
    unfinished = [folder for folder in (*sets, *pixels) if not is_done(folder)]
    for folder in (*sorted(unfinished, key=_last_use), *by_last_use(pixels), *by_last_use(sets)):
        if folder not in kept and folder.exists():
            yield folder


def _is_ours(folder: Path, form: re.Pattern[str]) -> bool:
    """Whether a build made it: by its name, and by its marker where it bears the name of a finished one."""
    found = form.fullmatch(folder.name)
    return found is not None and folder.is_dir() and (bool(found["unfinished"]) or is_done(folder))


def by_last_use(folders: Iterable[Path]) -> list[Path]:
    """The finished ones of these folders, the one that was used last at the end."""
    return sorted(filter(is_done, folders), key=_last_use)


def _last_use(folder: Path) -> float:
    with suppress(FileNotFoundError):
        return (folder / DONE if is_done(folder) else folder).stat().st_mtime
    return 0.0


def _remove(folder: Path) -> bool:
    """Remove a folder of the cache, unless somebody builds or uses it or a part of it."""
    inner = folder / "pixels"
    with ExitStack() as stack:
        try:
            for one in (folder, *(inner.iterdir() if inner.is_dir() else ())):
                if one.is_dir():
                    stack.enter_context(alone(one))
        except OSError:  # in use (Timeout is one as well), or on a file system without locks
            return False
        gone = folder.with_name(folder.name + _GONE)
        folder.rename(gone)  # at once, for all who look
        (gone / DONE).unlink(missing_ok=True)  # a removal that is cut off is an unfinished folder
        shutil.rmtree(gone)
    return True
