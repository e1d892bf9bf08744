"""The append-only record of what was registered beforehand and of every opening of a test side."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.errors import DataError

OPENINGS = ("final", "proposals")  # kinds of entries that looked at a test side


@dataclass(frozen=True)
class Ledger:
    """Append-only record of what was registered beforehand and of every opening of a test side."""

    path: Path

    def entries(self) -> Iterator[dict[str, Any]]:
        """Raises DataError at a line that is not an entry: looks that cannot be counted must not read as none."""
        if not self.path.is_file():
            return
        for number, line in enumerate(self.path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                entry["kind"]
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    "not an entry of the ledger", f"{self.path}, line {number}", "restore the line from a copy"
                ) from error
            yield entry

    def append(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Add one line, flushed to the disk before anything that depends on it happens."""
        text = self.path.read_bytes() if self.path.is_file() else b""
        with self.path.open("a", encoding="utf-8") as stream:
            if text and not text.endswith(b"\n"):  # a full disk cut the last line: it stays a line of its own
                stream.write("\n")
            stream.write(json.dumps(entry, sort_keys=True) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        return entry

    def find(self, **wanted: Any) -> list[dict[str, Any]]:
        return [e for e in self.entries() if all(e.get(key) == value for key, value in wanted.items())]

    def looks(self, split_hash: str) -> list[dict[str, Any]]:
        """Entries that looked at this test side, over all methods and settings.

        A split is its films, findings and patients: what was done to the training side's masks makes no other test side.
        """
        return [e for e in self.entries() if e["kind"] in OPENINGS and e["split_hash"] == split_hash]


def now() -> str:
    """The time of an entry, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
