"""The job `prepare`: a data set on disk (or generated) becomes indexed, checked, split and cached, once."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

import data
from bench.config import resolve
from bench.console import Talk
from bench.home import Home
from data.augment import cached_margin
from data.cache import Prepared, Room, Spread, Verdict, prepare, verify, work_all
from data.errors import ConfigError, DataError
from data.inputs import Augment, Inputs, Roi
from data.passport import alike_on_two_sides
from data.split import SIDES, Split
from data.tracks import TRACKS

Progress = Callable[[int, int], None]
SHOWN = 50  # differences that are listed; all are counted


@dataclass(frozen=True)
class Roots:
    """Where data sets lie, as `--data-root` says: by name, and the one place that is given without."""

    named: Mapping[str, Path] = field(default_factory=dict)
    other: Path | None = None

    @classmethod
    def of_words(cls, words: Sequence[str]) -> "Roots":
        """From DIR or DATASET=DIR, each. ConfigError for two that mean the same."""
        named: dict[str, Path] = {}
        for word in words:
            name, sign, place = word.partition("=")
            name, place = (name, place) if sign and name in data.names() else ("", word)
            if name in named:
                what = f"two places for {name}" if name else "two places, and no data set named"
                raise ConfigError(what, f"--data-root {word}", "give --data-root DATASET=DIR once for each")
            named[name] = Path(place)
        other = named.pop("", None)
        return cls(named, other)

    def of(self, dataset: str) -> Path | None:
        """Of a data set that a command names."""
        return self.named.get(dataset, self.other)


def data_root(dataset: str, given: Path | None) -> Path | None:
    """Where the data set lies: --data-root, else $MAMMOBENCH_DATA/<dataset>; None for one that is generated."""
    card = data.reader(dataset).CARD
    if not card.needs_root:
        return None
    base = os.environ.get("MAMMOBENCH_DATA")
    root = given or (Path(base) / dataset if base else None)
    if root is None:
        raise ConfigError(
            f"{dataset} lies on your disk; where is not known",
            "--data-root",
            f"pass it, or --data-root {dataset}=DIR beside that of others, or set MAMMOBENCH_DATA; source: {card.source}",
        )
    if not root.is_dir():
        raise ConfigError("no such folder", f"--data-root {root}", f"give the folder that holds {card.title}")
    return root.absolute()


def prepare_data(
    home: Home,
    dataset: str,
    options: Mapping[str, Any],
    root: Path | None,
    *,
    skip_bad: bool = False,
    inputs: Inputs | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
    spread: Spread = work_all,
    room: Room = Room(),  # noqa: B008 - frozen
) -> Prepared:
    """The prepared data set, with the regions that `inputs` read; made now if it was not made before.

    By all cores that this process may use, or by `spread`. Raises DataError, MachineError, ConfigError.
    """
    checked = resolve(data.reader(dataset).Options, options, f"options of {dataset}")
    track = next(iter(data.reader(dataset).CARD.tracks))
    wanted = inputs or Inputs((224, 224), track, (), Roi(), Augment())
    return prepare(
        dataset,
        data_root(dataset, root),
        checked,
        home.cache,
        skip_bad=skip_bad,
        roi=wanted.roi,
        size=wanted.size,
        margin=cached_margin(wanted.augment),
        unit=TRACKS[wanted.target].unit,
        processes=processes or cores(),
        progress=progress,
        spread=spread,
        room=room,
    )


def cores() -> int:
    """How many cores this process may use (fewer than there are under taskset, Slurm or a container's cpuset)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def verify_data(
    home: Home, dataset: str, options: Mapping[str, Any], root: Path | None, *, progress: Progress | None = None
) -> tuple[Prepared, Verdict]:
    """What was prepared with these options, and what of it or of its files is not what it was. Writes nothing."""
    checked = resolve(data.reader(dataset).Options, options, f"options of {dataset}")
    return verify(dataset, data_root(dataset, root), checked, home.cache, processes=cores(), progress=progress)


def refuse_differences(found: Verdict, say: Callable[[str], None]) -> None:
    """Raises DataError if anything differs; `say` hears of each difference where there are several."""
    differences = found.differences
    if not differences:
        return
    if len(differences) > 1:
        for one in differences[:SHOWN]:
            say(f"differs: {one.file}: {one.what}")
        if len(differences) > SHOWN:
            say(f"differs: {len(differences) - SHOWN} more")
    more = f", and {len(differences) - 1} more" if len(differences) > 1 else ""
    first, remedies = differences[0], dict.fromkeys(one.do for one in differences)
    raise DataError(f"{first.what}{more}", first.file, "; ".join(list(remedies)[:3]))


class Pace:
    """Films per second of this run, and the time left at that pace. Films that were done before count for neither."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start, self._before, self._done = 0.0, 0, -1

    def text(self, done: int, total: int) -> str:
        """What to say once `done` of `total` films are done; "" before there is a pace."""
        if self._done < 0 or done < self._done:  # the beginning, or that of another pass
            self._start, self._before = self._clock(), done
        self._done = done
        seconds = self._clock() - self._start
        if done == self._before or seconds <= 0:
            return ""
        rate = (done - self._before) / seconds
        return f"{rate:.1f} films/s, {timedelta(seconds=round((total - done) / rate))} left"


@contextmanager
def film_progress(talk: Talk, what: str) -> Iterator[Progress]:
    """A bar with films per second and the time left; in a log file, a line at each tenth."""
    pace = Pace()
    if talk.err.is_terminal and not talk.quiet:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("{task.fields[pace]}"))  # fmt: skip
        with Bar(*columns, console=talk.err, transient=True) as bar:
            task = bar.add_task(what, total=None, pace="")
            yield lambda done, total: bar.update(task, completed=done, total=total, pace=pace.text(done, total))
        return
    said: set[tuple[int, int]] = set()

    def line(done: int, total: int) -> None:
        text, tenth = pace.text(done, total), 10 * done // max(total, 1)
        if (tenth, total) not in said:
            said.add((tenth, total))
            talk.say(f"{what}: {done} of {total} films{f', {text}' if text else ''}")

    yield line


def _on_two_sides(prepared: Prepared, split: Split) -> list[str]:
    pairs = alike_on_two_sides(prepared.table, split.sides_of(prepared.table))
    return [f"{pairs} pairs of films that look alike are on two sides of this split"] if pairs else []


def document(prepared: Prepared, protocol: str = "holdout", seed: int = 0) -> dict[str, Any]:
    """What `prepare --json` prints: counts per track, side and label, what was left out and why, and the hashes."""
    split = prepared.split(protocol, seed, 0)
    table = prepared.table[prepared.table["counterfactual_of"] == ""]
    findings = table[table["finding_id"] != ""]
    by_side = split.sides_of(findings).value_counts()
    return {
        "dataset": prepared.card.name,
        "records": int(table["record_id"].nunique()),
        "findings": len(findings),
        "patients": int(table["patient"].nunique()),
        "tracks": {name: n for name, n in prepared.counts(split).items() if name in prepared.card.tracks},
        "findings_by_side": {side: int(by_side.get(side, 0)) for side in SIDES},
        "left_out": prepared.passport["left_out"],
        "masks_shared": prepared.passport["masks_shared"],
        "published": prepared.passport["published"],
        "warnings": [*prepared.passport["warnings"], *prepared.alike_elsewhere(), *_on_two_sides(prepared, split)],
        "problems_file": str(prepared.folder / "problems.json"),
        "problems": prepared.passport["problems"],
        "passport": str(prepared.folder / "passport.json"),
        "manifest": str(prepared.folder / "splits" / f"{split.hash}.parquet"),
        "data_hash": prepared.data_hash,
        "split_hash": split.hash,
    }
