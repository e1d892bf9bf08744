"""Pieces of work measured in turns in one process, so that other work on the machine meets all of them."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Work = Callable[[], object]
HEADER = f"{'':46}{'work':>9}{'beside':>9}{'ratio':>9}{'lowest-highest':>15}{'of best':>9}   bound"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every measure in turns is asked with."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: by --clock wall alone")
    parser.add_argument("--rounds", type=int, default=5)
    return parser


@dataclass
class Clock:
    """Seconds that a piece of work takes: of this process on its cores, or elapsed ones."""

    kind: str
    device: str

    @classmethod
    def asked(cls, parser: argparse.ArgumentParser, asked: argparse.Namespace) -> "Clock":
        """The clock that was asked for; torch keeps to the threads from now on. Ends the command for one that measures nothing."""
        if asked.device == "cuda" and asked.clock == "cpu":
            parser.error("the processor's seconds say nothing of a GPU: --clock wall")
        torch.set_num_threads(asked.threads)
        return cls(asked.clock, asked.device)

    def __call__(self, work: Work) -> float:
        now = time.process_time if self.kind == "cpu" else time.perf_counter
        self._wait()
        started = now()
        work()
        self._wait()
        return now() - started

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def in_turns(works: Mapping[str, Work], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Seconds of each piece of work, round by round; a first round does not count."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            seconds = clock(work)
            if turn:
                taken[name].append(seconds)
    return taken


def show(what: str, taken: list[float], beside: list[float], bound: float) -> None:
    ratios = [a / b for a, b in zip(taken, beside, strict=True)]
    spread = f"{min(ratios):.3f}-{max(ratios):.3f}"
    print(
        f"{what:46}{statistics.median(taken):9.3f}{statistics.median(beside):9.3f}"
        f"{statistics.median(ratios):9.4f}{spread:>15}{min(taken) / min(beside):9.4f}   <= {bound:.2f}"
    )
