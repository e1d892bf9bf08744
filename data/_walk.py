"""The files below a data root, and the one table among them that a reader looks for."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.errors import DataError


def walk(root: Path) -> Iterator[str]:
    """Every file below a root, relative and with /, in a fixed order; linked folders are followed, each folder once.

    A link to nothing is a file that cannot be read. Pipes and sockets are no files: to open one is to wait for ever.
    """
    seen: set[tuple[int, int]] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        state = Path(folder).stat()
        if (state.st_dev, state.st_ino) in seen:
            below.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        below.sort()
        relative = Path(folder).relative_to(root)
        for name in sorted(names):
            if _is_file(Path(folder, name)):
                yield (relative / name).as_posix()


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:  # of a link to nothing: the row that needs the file will say so
        return True


def find_table(root: Path, paths: Sequence[str], name: str, fetch: str) -> str:
    """The path of a table, wherever it lies below the root; copies of it must agree but for their line ends.

    name: in lower case. fetch: what to do where it is missing. Raises DataError.
    """
    found = sorted((p for p in paths if p.rsplit("/", 1)[-1].lower() == name), key=lambda p: (p.count("/"), p))
    if not found:
        raise DataError("CSV is missing", name, fetch)
    if len(found) > 1 and len({(root / path).read_bytes().replace(b"\r", b"") for path in found}) > 1:
        raise DataError(f"{len(found)} files of this name differ: {', '.join(found[:3])}", name, "keep one of them")
    return found[0]
