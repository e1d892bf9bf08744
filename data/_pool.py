"""Work spread over processes of this machine: few items under way at once, results as they come."""

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import connection, get_context, parent_process
from typing import TypeVar

from data.errors import MachineError

AHEAD = 2  # items under way for each process: one that it works on, one that waits for it
Item = TypeVar("Item")
Result = TypeVar("Result")


def each(function: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Generator[Result, None, None]:
    """`function` of every item, in the order in which they are finished; by this process alone if asked for one.

    Items are taken from `items` only as processes become free, AHEAD for each, and no result is kept here. What
    `function` raises ends it all. Raises MachineError if a process died.
    """
    rest = iter(items)
    first = list(islice(rest, 2))
    if processes <= 1 or len(first) < 2:
        yield from map(function, chain(first, rest))
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_begin)
    under_way: set[Future[Result]] = set()
    try:
        for item in chain(first, rest):
            under_way.add(pool.submit(function, item))
            if len(under_way) >= AHEAD * processes:
                ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ended)
        while under_way:
            ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ended)
    except BrokenProcessPool as error:
        raise MachineError(
            "a process that decodes films died, perhaps for want of memory",
            "prepare",
            "run it again: it goes on with the films that are left; `taskset -c 0-3` before it keeps it to four processes",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """In a new process: Ctrl-C is the parent's affair, and its death is ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), name="parent", daemon=True).start()


def _end_with(sentinel: int) -> None:
    """A pool's process would wait for ever for the next item of a parent that was killed."""
    connection.wait([sentinel])
    os._exit(1)
