"""Films worked on by all nodes of a Ray cluster: what `data.cache.prepare` takes as `spread`."""

import uuid
from collections.abc import Generator, Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bench.cluster.nodes import resources
from bench.cluster.watch import Watch
from data._films import Film, FilmFacts, work
from data._folder import disk_errors
from data._pool import AHEAD
from data._store import PixelSpec
from data.errors import DataError, MachineError, UserError
from data.record import Pixels

NOTE = "nodes.note"  # in the folder that all nodes are to see, for a moment
RETRIES = 3  # of a film whose process or node died
CHECK_S = 120.0  # for a node to start a process and answer
END_S = 30.0  # for films under way to end when the others are given up


def over_nodes(
    films: Iterable[Film], spec: PixelSpec | None, folder: Path | None, *, check: bool, processes: int
) -> Generator[FilmFacts, None, None]:
    """The facts of all films, as they are finished; a film at a time on each CPU of the attached cluster.

    folder, and the files of the data set, must be the same for every node. processes: not used. Needs an attached Ray
    (nodes.attach). Raises MachineError for a node that sees other files than this one, for a film whose process died
    again and again, and when Ray itself has died.
    """
    rest = iter(films)
    first = list(islice(rest, 1))
    if not first:
        return
    with Watch(lambda lost: None):
        _check_nodes(first[0].record.image, folder)
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(work)
        most = AHEAD * max(1, int(resources().cpus))
        under_way: list[Any] = []
        try:
            for film in chain(first, rest):
                under_way.append(task.remote(film, spec, folder, check))
                if len(under_way) >= most:
                    ended, under_way = ray.wait(under_way)
                    yield from map(_result, ended)
            while under_way:
                ended, under_way = ray.wait(under_way)
                yield from map(_result, ended)
        finally:
            for one in under_way:
                ray.cancel(one)
            if under_way:  # none may write any more once the folder's lock is given back
                ray.wait(under_way, num_returns=len(under_way), timeout=END_S)


def _result(done: Any) -> FilmFacts:
    try:
        facts: FilmFacts = ray.get(done)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    except RayError as error:
        raise MachineError(
            f"a film's process died {RETRIES + 1} times, perhaps for want of memory ({type(error).__name__})",
            "prepare, on the Ray cluster",
            "run it again: it goes on with the films that are left",
        ) from error
    return facts


def _check_nodes(image: Pixels, folder: Path | None) -> None:
    """Raises MachineError, naming the node, if one cannot do its part."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    if not nodes:
        raise MachineError("the cluster has no node with a CPU", "--ray-address", "add a node")
    note, word = (folder / NOTE if folder is not None else None), uuid.uuid4().hex
    try:
        if note is not None and folder is not None:
            with disk_errors(folder):
                note.write_text(word, encoding="utf-8")
        asked = {
            ray.remote(num_cpus=0, max_retries=0)(complaint)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(note, word, image, _fingerprint(image)): f"node {node['NodeManagerHostname']}"
            for node in nodes
        }
        answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=CHECK_S)
        for one in answered:
            _heed(one, asked[one])
        if silent:
            raise MachineError(f"no answer within {CHECK_S:.0f} s", asked[silent[0]], "see to it, or take it out")
    finally:
        if note is not None:
            note.unlink(missing_ok=True)


def _heed(answer: Any, node: str) -> None:
    try:
        what = ray.get(answer)
    except RayError as error:
        first = next(iter(str(error).strip().splitlines()[::-1]), type(error).__name__)
        what, do = f"it cannot work on films: {first[:200]}", "give it the same checkout and libraries, or take it out"
        raise MachineError(what, node, do) from error
    if what:
        raise MachineError(what, node, "put --out and --data-root on storage that all nodes share under one path")


def complaint(note: Path | None, word: str, image: Pixels, fingerprint: str) -> str:
    """On a node: what it does not see as the driver does; "" where it sees the folder and a film of the data set."""
    try:
        if note is not None and note.read_text(encoding="utf-8") != word:
            return "it does not see the cache's folder"
    except OSError:
        return "it does not see the cache's folder"
    return "" if _fingerprint(image) == fingerprint else "it does not see the films of the data set"


def _fingerprint(image: Pixels) -> str:
    """Of a film that cannot be read: that it cannot, which is then the same for all."""
    try:
        return image.fingerprint()
    except (DataError, OSError):
        return "unreadable"
