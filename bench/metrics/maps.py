"""The maps of a frame: float16 stacks at the methods' own resolution, and a table that says which map is whose."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from data.errors import DataError

ENTRY_COLUMNS = ("record_id", "finding_id", "map", "class", "of", "source", "key", "position", "offset", "scale")
OF = ("true", "predicted", "both", "found")
UNTRAINED = "untrained "  # before the name of a map: of the same network with random weights, on the same rows


def judged(names: Sequence[str], sources: str | None, named: str | None) -> str:
    """Which map metrics read: the variant's own (`named`), else that of the sources, where they have one, else the first."""
    return named or sources or names[0]


@dataclass(frozen=True, eq=False)
class MapTable:
    """entries: one row per map (ENTRY_COLUMNS). stacks: key -> (n, h, w) float16.

    A map is offset + scale * stacks[key][position]: each is stored min-max scaled, since float16 would lose a small
    gradient map or a small variation upon a large constant. `of`: the map's class is the row's true class, its
    predicted class, or both; found: neither, and the class whose lesions are searched for. `source`: "" for the method's own map, else the prototype, crop or cell.
    """

    entries: pd.DataFrame
    stacks: dict[str, np.ndarray]

    def read(self, entries: pd.DataFrame) -> np.ndarray:
        """The maps of these rows of `entries`, which must share one key: (n, h, w) float64."""
        (key,) = entries["key"].unique()
        stack = self.stacks[key][entries["position"].to_numpy(dtype=int)].astype(np.float64)
        offset = entries["offset"].to_numpy(dtype=float)[:, None, None]
        scale = entries["scale"].to_numpy(dtype=float)[:, None, None]
        return offset + scale * stack

    @classmethod
    def joined(cls, tables: Sequence["MapTable"]) -> "MapTable":
        """Several tables as one, their keys made distinct."""
        entries = [table.entries.assign(key=f"{i}-" + table.entries["key"]) for i, table in enumerate(tables)]
        stacks = {f"{i}-{key}": stack for i, table in enumerate(tables) for key, stack in table.stacks.items()}
        return cls(pd.concat(entries, ignore_index=True), stacks)

    def validate(self) -> None:
        """Raise DataError where an entry points at nothing."""
        missing = [name for name in ENTRY_COLUMNS if name not in self.entries.columns]
        if missing:
            raise DataError(f"no column {missing[0]}", "maps.parquet", "write the frame again")
        for key, part in self.entries.groupby("key"):
            stack = self.stacks.get(str(key))
            if stack is None or stack.ndim != 3:
                raise DataError(f"no stack {key} of maps", "maps.npz", "write the frame again")
            position = part["position"].to_numpy()
            if position.min() < 0 or position.max() >= len(stack):
                raise DataError(f"an entry points behind the stack {key}", "maps.parquet", "write the frame again")
        unknown = set(self.entries["of"]) - set(OF)
        if unknown:
            raise DataError(f"`of` is {sorted(unknown)[0]!r}", "maps.parquet", f"it is one of {', '.join(OF)}")


class MapBuilder:
    """Collects maps batch by batch; `table()` makes the MapTable."""

    def __init__(self) -> None:
        self._rows: list[pd.DataFrame] = []
        self._stacks: dict[str, list[np.ndarray]] = defaultdict(list)
        self._keys: dict[tuple[str, int, int], str] = {}
        self._length: dict[str, int] = defaultdict(int)

    def add(
        self,
        name: str,
        maps: np.ndarray,
        record_ids: Sequence[str],
        finding_ids: Sequence[str],
        classes: Sequence[int],
        of: Sequence[str],
        source: str | Sequence[str] = "",
    ) -> None:
        """maps (B, h, w), one for each of the B samples; classes and of (B); source: one for all, or B of them.

        Raises DataError for values that are not finite.
        """
        maps = np.asarray(maps, dtype=np.float64)
        count, height, width = maps.shape
        if not count:
            return
        if not np.isfinite(maps).all():
            raise DataError(f"the map {name!r} has values that are not finite", "maps", "lower the learning rate")
        offset = maps.min(axis=(1, 2))
        scale = maps.max(axis=(1, 2)) - offset
        unit = (maps - offset[:, None, None]) / np.where(scale > 0, scale, 1.0)[:, None, None]
        key = self._keys.setdefault((name, height, width), f"stack{len(self._keys)}")
        self._stacks[key].append(unit.astype(np.float16))
        position = np.arange(count) + self._length[key]
        self._length[key] += count
        values = (list(record_ids), list(finding_ids), name, np.asarray(classes, dtype=np.int64), list(of), source, key)
        row = dict(zip(ENTRY_COLUMNS[:7], values, strict=True))
        row["source"] = [source] * count if isinstance(source, str) else list(source)
        self._rows.append(pd.DataFrame(row | {"position": position, "offset": offset, "scale": scale}))

    def table(self) -> MapTable | None:
        """Everything added so far; None if nothing was."""
        if not self._rows:
            return None
        entries = pd.concat(self._rows, ignore_index=True)
        return MapTable(entries, {key: np.concatenate(parts) for key, parts in self._stacks.items()})
