"""How commands talk: progress and prose to stderr, the result to stdout (docs/cli.md)."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EARLY = 0.05  # share of the work before which no time left is told


@dataclass
class Talk:
    """One command's voice."""

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False

    def __post_init__(self) -> None:
        self.err = Console(stderr=True, quiet=self.quiet, highlight=False, soft_wrap=True)
        self.out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)

    def say(self, text: str) -> None:
        """A line for people."""
        self.err.print(text, markup=False)

    def result(self, document: Mapping[str, Any], show: Callable[[Console], None]) -> None:
        """The command's result: one JSON document, or what `show` prints."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, default=str) + "\n")
        else:
            show(self.out)

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A bar with the time left; in a log file, a line at each tenth."""
        if self.err.is_terminal and not self.quiet:
            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("left"), TimeRemainingColumn(),
            )  # fmt: skip
            with Progress(*columns, console=self.err, transient=True) as bar:
                task = bar.add_task(what, total=None)
                yield lambda done, total: bar.update(task, completed=done, total=total)
        else:
            yield self._log_line(what)

    def _log_line(self, what: str) -> Callable[[int, int], None]:
        """In a log file: a line at each tenth, with the time left as the pace so far has it."""
        said = {-1}
        started = time.monotonic()

        def update(done: int, total: int) -> None:
            tenth = 10 * done // total if total else 0
            if tenth not in said:
                said.add(tenth)
                left = ""
                if done > EARLY * total:  # earlier the pace is that of the start
                    left = f", about {(time.monotonic() - started) * (total - done) / done:.0f} s left"
                self.say(f"{what}: {100 * done // max(total, 1)} %{left}")

        return update


class Meter:
    """Progress over a known number of runs, each measured in its own epochs."""

    def __init__(self, update: Any, runs: int) -> None:
        self.update, self.runs = update, runs
        self.shares: dict[tuple[int, int], float] = {}
        self.generation = 0

    def seen(self, number: int, payload: Mapping[str, Any]) -> None:
        self.shares[(self.generation, number)] = payload["number"] / max(1, payload["total"])
        self.update(min(1000, round(1000 * sum(self.shares.values()) / max(1, self.runs))), 1000)

    def next(self) -> None:
        """Numbers start anew: another sweep or list of jobs."""
        for key in [key for key in self.shares if key[0] == self.generation]:
            self.shares[key] = 1.0
        self.generation += 1
