"""Whether the Ray that a driver works on still lives: when it has died, Ray's own calls wait for ever and say nothing."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from bench.cluster import nodes
from bench.cluster.nodes import Door
from bench.cluster.trials import nothing
from data.errors import MachineError

EVERY_S = 2.0
PATIENCE_OWN_S = 3.0  # nobody starts a process of our own Ray again: this only keeps one lost packet from ending it
PATIENCE_S = 15.0  # a cluster's head may be started again; but after 60 s without one, Ray ends this process itself
TRY_S = 3.0
TRIES = 4


class ClusterLost(MachineError):
    """Ray itself has died under the driver: nothing can be ended in order any more."""


class Watch:
    """While it is entered, a thread looks whether Ray's head and this driver's node still take connections.

    If one has not for a while, `stop` gets the ClusterLost that says so, and the main thread SIGINTs, whose handler is
    to raise KeyboardInterrupt then; here it becomes the ClusterLost. Some calls of Ray cannot be interrupted: if the
    main thread is in one, the process ends all the same, with the error's line, as a kill would end it. Entered in
    another thread than the main one, the block has to heed `stop` itself.
    """

    def __init__(self, stop: Callable[[ClusterLost], None]) -> None:
        self._stop = stop
        self._doors, self._own = nodes.doors, nodes.started_here()
        self._main = threading.current_thread() is threading.main_thread()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self.lost: ClusterLost | None = None

    def __enter__(self) -> "Watch":
        door = self.closed()
        if door is not None and self._own:  # it died between two runs
            raise self._error(door)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self.lost is not None and isinstance(error, KeyboardInterrupt):
            raise self.lost from None

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        """Nothing: Tune pickles its callbacks into a snapshot that is never read."""
        return nothing, ()

    def closed(self) -> Door | None:
        """The first that takes no connection now, if any."""
        return next((door for door in self._doors if not door.open()), None)

    def _look(self) -> None:
        since: float | None = None
        while not self._ended.wait(EVERY_S):
            door = self.closed()
            if door is None:
                since = None
                continue
            since = time.monotonic() if since is None else since
            if time.monotonic() - since >= (PATIENCE_OWN_S if self._own else PATIENCE_S):
                self._lose(door)
                return

    def _lose(self, door: Door) -> None:
        self.lost = self._error(door)
        self._stop(self.lost)
        if not self._main:
            return
        for _ in range(TRIES):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            if self._ended.wait(TRY_S):
                return
        sys.stderr.write(f"error: {self.lost}\n")
        sys.stderr.flush()
        nodes.abandon()
        os._exit(2)

    def _error(self, door: Door) -> ClusterLost:
        again = "run it again: it goes on from what is finished"
        if self._own:
            return ClusterLost(f"Ray's {door.process} died", "the Ray that this command had started", again)
        what = f"Ray's {door.process} answers no more"
        return ClusterLost(what, f"{door.host}:{door.port}", f"see to the cluster, then {again}")
