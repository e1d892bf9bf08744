"""Whether the Ray that a driver works on still lives: when it has died, Ray's own calls wait for ever and say nothing."""

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import ray
from ray._private import worker as ray_worker

from bench.cluster.check import answers, host_port
from data.errors import MachineError

EVERY_S = 2.0
PATIENCE_OWN_S = 3.0  # nobody starts a process of our own Ray again: this only keeps one lost packet from ending it
PATIENCE_S = 15.0  # a cluster's head may be started again; but after 60 s without one, Ray ends this process itself
ORDERLY_S = 4.0


@dataclass(frozen=True)
class Door:
    """A process of Ray that this driver cannot do without, and where it takes connections."""

    process: str
    host: str
    port: int

    def open(self) -> bool:
        return answers(self.host, self.port)


class Watch:
    """While it is entered, a thread looks whether Ray's head and this driver's node still take connections.

    If one has not for a while, `stop` gets the MachineError that says so. When that does not end the block, because a
    call of Ray does not return, the main thread is interrupted as by Ctrl-C until it does; then the error is raised
    here. Entered in another thread than the main one, the block has to heed `stop` itself.
    """

    def __init__(self, stop: Callable[[MachineError], None]) -> None:
        self._stop = stop
        node = ray_worker._global_node
        self._own = bool(node.is_head())  # started by nodes.attach
        self._cluster = node.gcs_address
        self._doors = [Door("head (gcs_server)", *host_port(self._cluster)), _node_of_this_driver()]
        self._main = threading.current_thread() is threading.main_thread()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self.lost: MachineError | None = None

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self.lost is not None and isinstance(error, KeyboardInterrupt):
            raise self.lost from None

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
        again = "run it again: it goes on from what is finished"
        if self._own:
            self.lost = MachineError(f"Ray's {door.process} died", "the Ray that this command had started", again)
        else:
            what = f"Ray's {door.process} at {door.host}:{door.port} answers no more"
            self.lost = MachineError(what, f"the cluster at {self._cluster}", f"start it, then {again}")
        self._stop(self.lost)
        while self._main and not self._ended.wait(ORDERLY_S):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _node_of_this_driver() -> Door:
    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    return Door("node process (raylet)", node["NodeManagerAddress"], node["NodeManagerPort"])
