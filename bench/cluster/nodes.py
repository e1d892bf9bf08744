"""Starting or joining a Ray cluster, what it has, and how many trials fit on it at once."""

import itertools
import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import ray
from ray._private import services
from ray._private import worker as ray_worker
from ray._private.grpc_utils import init_grpc_channel
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group

from bench.cluster import ENVIRONMENT
from bench.cluster.check import answers, check_address, host_port
from bench.cluster.owner import dead, me
from data import plugins
from data.errors import MachineError

OUTER_CPU = 0.05  # what a trial takes beside its workers, when it has several
OBJECT_STORE_BYTES = 128 * 2**20  # nothing large travels through Ray
PREFIX, OWNER = "mammo-", "owner.json"  # a Ray of our own: its folder, and who started it
HEAD_S = 5.0  # how long a cluster may take to answer at all
END_S = 5.0  # what Ray takes to end its processes; those that are left are killed


@dataclass(frozen=True)
class Node:
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Cluster:
    """What a Ray cluster consists of, now."""

    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> float:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(node.gpus for node in self.nodes)


@dataclass(frozen=True)
class Share:
    """What one trial asks for: a number of workers, and what each has."""

    workers: int = 1
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0

    @property
    def inner_cpus(self) -> float:
        """CPUs of one worker as Ray is asked for them: with several workers, the trial's own share is taken off them.

        So N workers of c CPUs take N x c in all, and two trials on 2N x c CPUs cannot wait for each other for ever.
        """
        if self.workers == 1:
            return self.cpus_per_worker
        return math.floor((self.cpus_per_worker - OUTER_CPU / self.workers) * 1e4) / 1e4  # Ray counts in 1e-4

    @property
    def text(self) -> str:
        gpus = f" and {self.gpus_per_worker:g} GPU" if self.gpus_per_worker else ""
        return f"{self.workers} x {self.cpus_per_worker:g} CPU{gpus}"


@dataclass(frozen=True)
class Door:
    """A process of Ray that this driver cannot do without, and where it takes connections."""

    process: str
    host: str
    port: int

    def open(self) -> bool:
        return answers(self.host, self.port)


doors: tuple[Door, ...] = ()  # of the attached Ray


@contextmanager
def attach(
    address: str = "local", num_cpus: int | None = None, num_gpus: int | None = None,
    object_store_bytes: int = OBJECT_STORE_BYTES,
) -> Iterator[Cluster]:  # fmt: skip
    """A Ray to work on; what was started here is shut down at the end.

    address: "local" starts one of its own, whatever runs on this machine; "auto" or HOST:PORT joins a cluster.
    Raises ConfigError for what is no such address, MachineError if there is no cluster to join.
    """
    global doors
    check_address(address)
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray_worker.print_to_stdstream = _to_log  # Ray prints its raylets' messages on stdout, which holds our result
    try:
        if address == "local":
            _start(num_cpus, num_gpus, object_store_bytes)
        else:
            _join(address)
        doors = _doors()
        yield resources()
    finally:
        doors = ()
        if _own is not None:
            _own.look()
        ray.shutdown()
        abandon()


def _to_log(data: dict[str, Any], ignore_prefix: bool) -> None:
    """What Ray says of workers that died; their trials' failures say it too."""
    for line in data["lines"]:
        logging.getLogger("bench.cluster").info("ray: %s", line)


class _Own:
    """A Ray that this process has started: its folder, and its processes as far as they have been seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: set[psutil.Process] = set()

    def look(self) -> None:
        """Agents and workers are children of the raylet, and nobody's when it has died: so they are noted before."""
        node = ray_worker._global_node  # None if it did not start
        for info in itertools.chain.from_iterable(node.all_processes.values() if node else []):
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(info.process.pid)
                self.processes.update([process, *process.children(recursive=True)])

    def remove(self) -> None:
        """What Ray has not ended by itself, as after the death of its head, and then the folder."""
        until = time.monotonic() + END_S
        while (left := [process for process in self.processes if _runs(process)]) and time.monotonic() < until:
            time.sleep(0.1)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


_own: _Own | None = None


def abandon() -> None:
    """Leave nothing of a Ray that this process has started."""
    global _own
    if _own is not None:
        own, _own = _own, None
        own.look()
        own.remove()


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _start(num_cpus: int | None, num_gpus: int | None, object_store_bytes: int) -> None:
    """A Ray of this process alone. Its folder has a short name: socket paths end at 107 bytes."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else it leaves a token in the home folder
    parent = Path(tempfile.gettempdir())
    parent = parent if len(str(parent)) <= 24 else Path("/tmp")
    _sweep(parent)
    global _own
    _own = _Own(Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent)))
    (_own.folder / OWNER).write_text(json.dumps(me()))
    ray.init(
        address="local",
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=object_store_bytes,
        _temp_dir=str(_own.folder),
    )
    _own.look()


def _join(address: str) -> None:
    """Join a running cluster; its workers get our settings, as they were not started with them."""
    variables = {name: os.environ[name] for name in (*ENVIRONMENT, plugins.VARIABLE) if name in os.environ}
    flag, start = f"--ray-address {address}", "start one by ray start --head, or use local"
    try:
        found = services.canonicalize_bootstrap_address_or_die(address)  # auto becomes HOST:PORT
    except ConnectionError as error:
        raise MachineError("no Ray cluster answers", flag, start) from error
    try:
        if not _is_head(found):  # Ray itself would try for minutes, and say so in many lines
            raise MachineError("no Ray cluster answers", flag, start)
        ray.init(address=found, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": variables})
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise MachineError(f"the Ray cluster cannot be joined: {first[:300]}", flag, start) from error


def _is_head(address: str) -> bool:
    """Whether the head of a Ray cluster answers there, and not its dashboard, nor anything else."""
    with init_grpc_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=HEAD_S)
        except grpc.RpcError as error:
            return error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    return True


def _doors() -> tuple[Door, ...]:
    """The head, and the node that this driver is on."""
    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    return (
        Door("head (gcs_server)", *host_port(ray.get_runtime_context().gcs_address)),
        Door("node process (raylet)", node["NodeManagerAddress"], node["NodeManagerPort"]),
    )


def started_here() -> bool:
    """Whether the attached Ray is this process's own."""
    return _own is not None


def _sweep(parent: Path) -> None:
    """Remove what drivers of this machine left behind that were killed.

    One that was killed before it could leave its note is judged by the number in the folder's name, after a minute.
    """
    for folder in parent.glob(f"{PREFIX}*-*"):
        pid, note = folder.name.removeprefix(PREFIX).split("-")[0], folder / OWNER
        try:
            text = note.read_text()
            gone = dead(json.loads(text))
        except (FileNotFoundError, ValueError):
            text = ""
            gone = pid.isdigit() and not psutil.pid_exists(int(pid)) and _age_s(folder) > 60
        except OSError:
            continue  # another user's
        if gone:
            shutil.rmtree(folder, ignore_errors=True)
            if text and folder.exists():
                with suppress(OSError):  # its Ray is still ending, and wrote into it meanwhile: for the next start
                    note.write_text(text)


def _age_s(folder: Path) -> float:
    """Since something was put into it or taken out; 0 if it is gone."""
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


def resources() -> Cluster:
    """What the attached cluster has."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Cluster(tuple(Node(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive))


def free_places(group: str) -> None:
    """Give back the places of a group of workers whose controller was ended before it could.

    Ray Train leaves that to a helper that asks the dashboard, and without one the places are taken for ever: the next
    trial of several workers would wait for them, and say nothing.
    """
    remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))


def max_concurrent(cluster: Cluster, share: Share) -> int:
    """How many trials run at once: what the cluster can place together, so that none waits for another's workers.

    Raises MachineError when it could never place even one: Ray would wait for ever, and say nothing.
    """
    per_node = [
        min(_fits(node.cpus, share.inner_cpus), _fits(node.gpus, share.gpus_per_worker)) for node in cluster.nodes
    ]
    trials = sum(per_node) // share.workers
    if share.workers > 1:
        trials = min(trials, _fits(cluster.cpus, OUTER_CPU + share.workers * share.inner_cpus))
    if trials < 1:
        raise MachineError(
            f"one trial needs {share.text}, the cluster has {cluster.cpus:g} CPU and {cluster.gpus:g} GPU "
            f"on {len(cluster.nodes)} node{'s' if len(cluster.nodes) != 1 else ''}",
            "--workers, --gpus-per-worker", "ask for less, or add a node",
        )  # fmt: skip
    return trials


def _fits(total: float, one: float) -> int:
    return math.floor(total / one + 1e-6) if one > 0 else 10**6
