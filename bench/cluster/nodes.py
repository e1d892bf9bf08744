"""Starting or joining a Ray cluster, what it has, and how many trials fit on it at once."""

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import worker as ray_worker
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group

from bench.cluster import ENVIRONMENT
from data import plugins
from data.errors import ConfigError, MachineError

OUTER_CPU = 0.05  # what a trial takes beside its workers, when it has several
OBJECT_STORE_BYTES = 128 * 2**20  # nothing large travels through Ray
PREFIX = "mammo-"


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


@contextmanager
def attach(
    address: str = "local", num_cpus: int | None = None, num_gpus: int | None = None,
    object_store_bytes: int = OBJECT_STORE_BYTES,
) -> Iterator[Cluster]:  # fmt: skip
    """A Ray to work on; what was started here is shut down at the end.

    address: "local" starts one of its own, whatever runs on this machine; "auto" or HOST:PORT joins a cluster.
    Raises ConfigError for ray://, MachineError if there is no cluster to join.
    """
    if address.startswith("ray://"):
        host = address.removeprefix("ray://").split(":")[0]
        raise ConfigError(
            "the Ray Client cannot run Tune and Train", f"--ray-address {address}",
            f"use: ray job submit --address http://{host}:8265 -- python run_bench.py ... --ray-address auto",
        )  # fmt: skip
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray_worker.print_to_stdstream = _to_log  # Ray prints its raylets' messages on stdout, which holds our result
    folder: Path | None = None
    try:
        if address == "local":
            folder = _start(num_cpus, num_gpus, object_store_bytes)
        else:
            _join(address)
        yield resources()
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _to_log(data: dict[str, Any], ignore_prefix: bool) -> None:
    """What Ray says of workers that died; their trials' failures say it too."""
    for line in data["lines"]:
        logging.getLogger("bench.cluster").info("ray: %s", line)


def _start(num_cpus: int | None, num_gpus: int | None, object_store_bytes: int) -> Path:
    """A Ray of this process alone. Its folder has a short name: socket paths end at 107 bytes."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else it leaves a token in the home folder
    parent = Path(tempfile.gettempdir())
    parent = parent if len(str(parent)) <= 24 else Path("/tmp")
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=object_store_bytes,
            _temp_dir=str(folder),
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _join(address: str) -> None:
    """Join a running cluster; its workers get our settings, as they were not started with them."""
    variables = {name: os.environ[name] for name in (*ENVIRONMENT, plugins.VARIABLE) if name in os.environ}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": variables})
    except ConnectionError as error:
        raise MachineError(
            "no Ray cluster answers", f"--ray-address {address}", "start one by ray start --head, or use local"
        ) from error


def _sweep(parent: Path) -> None:
    """Remove what drivers left behind that were killed more than ten minutes ago."""
    for folder in parent.glob(f"{PREFIX}*-*"):
        owner = folder.name.removeprefix(PREFIX).split("-")[0]
        try:
            old = time.time() - folder.stat().st_mtime > 600
        except OSError:
            continue
        if owner.isdigit() and not psutil.pid_exists(int(owner)) and old:
            shutil.rmtree(folder, ignore_errors=True)


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
