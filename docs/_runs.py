"""What the commands of this folder share: they read the finished runs of an `--out`, and print Markdown below their own words."""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench.home import Home
from bench.leaderboard.collect import collect
from bench.leaderboard.rows import SeedRun
from bench.tracking import Tracker
from data.errors import ConfigError, UserError

Lines = Callable[[argparse.Namespace, Home, Tracker, list[SeedRun]], Iterable[str]]


def parser_of(name: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m docs.{name}", description=description)
    parser.add_argument("out", type=Path, help="the --out of `bench` or `final`")
    return parser


def print_of_runs(parser: argparse.ArgumentParser, words: Sequence[str], lines: Lines) -> int:
    """The command as it was called, then `lines` of the finished runs; the exit code, 2 for a user's mistake."""
    asked = parser.parse_args(words)
    try:
        if not asked.out.is_dir():
            raise ConfigError("no such folder", str(asked.out), "name the --out of a suite that ran")
        home = Home(asked.out.absolute())
        tracker = Tracker(out=home.out)
        text = "\n".join(lines(asked, home, tracker, collect(tracker)))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    print(f"```sh\n{parser.prog} {shlex.join(words)}\n```\n\n{text}")
    return 0
