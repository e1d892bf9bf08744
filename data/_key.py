"""Where the work on a data set lies: the folder's name is a hash of all that decides what is in it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from data import _table
from data._store import VERSION, hash_of
from data.errors import DataError
from data.record import Options, Reader


def folder_of(reader: Reader, root: Path | None, options: Options, cache_dir: Path) -> Path:
    """Where the work for this data set, options, reader version and state of the files lies."""
    card = reader.CARD
    if card.needs_root and (root is None or not root.is_dir()):
        raise DataError(
            f"the data set {card.name} is not there",
            str(root or "no data root given"),
            f"pass --data-root; {card.source}",
        )
    files = list(_files(root, cache_dir)) if card.needs_root and root is not None else []
    asked = options.of_films.as_json()
    key = hash_of([VERSION, _table.VERSION, card.name, card.version, asked, sorted(files)])
    return cache_dir / f"{card.name}-{key[:16]}"


def _files(root: Path, cache_dir: Path) -> Iterator[tuple[str, int, int]]:
    """Relative path, size and time of all files, but for what this program writes, should that lie below the root.

    A link to nothing counts, with size -1: the reader says so where it needs the file. Pipes and sockets do not count.
    """
    own = {cache_dir.resolve()}
    if cache_dir.resolve().parent != root.resolve():
        own.add(cache_dir.resolve().parent)  # --out
    base = root.resolve()
    for folder, subfolders, files in os.walk(base):
        subfolders[:] = [name for name in subfolders if Path(folder, name) not in own]
        for name in files:
            path = Path(folder, name)
            try:
                status = path.stat()
            except OSError:
                yield path.relative_to(base).as_posix(), -1, 0
                continue
            if stat.S_ISREG(status.st_mode):
                yield path.relative_to(base).as_posix(), status.st_size, status.st_mtime_ns
