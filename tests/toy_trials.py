"""Trainings that take half a second and behave like the engine's: they checkpoint each epoch, and resume by themselves.

A job: folder, epochs, epoch_s, x (the value's height), slow {epoch: seconds}, fate {epoch: what happens in it}.
Each start and end of an epoch is a line of log.jsonl in the folder.
"""

import errno
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench.engine.report import Diverged
from bench.engine.worker import Worker
from data.errors import DataError, LeakError

METRIC = "validation/auroc_mean"


def value(job: dict[str, Any], epoch: int) -> float:
    """What the toy reaches after an epoch."""
    return float(job["x"]) * (1.0 - 0.5**epoch)


def payload(job: dict[str, Any], epoch: int) -> dict[str, Any]:
    total = job["epochs"]
    found = {
        METRIC: value(job, epoch),
        "loss": 1.0 / epoch,
        "number": epoch,
        "total": total,
        "selectable": epoch > job.get("warm", 0),
        "final": epoch == total,
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
        "running": sum(thread.name == "lease" for thread in threading.enumerate()),
    }
    if job.get("no_metric"):
        del found[METRIC]
    return found


def train(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One worker."""
    folder = Path(job["folder"])
    done = finished_epochs(folder)
    if done == job["epochs"]:
        yield payload(job, done)
    for epoch in range(done + 1, job["epochs"] + 1):
        note(folder, "start", epoch)
        fate = job.get("fate", {}).get(str(epoch))
        if fate == "stop":  # forgets its final report
            return
        meet(fate, folder)
        time.sleep(job.get("slow", {}).get(str(epoch), job["epoch_s"]))
        checkpoint(folder, epoch)
        yield payload(job, epoch)


def train_together(job: dict[str, Any], worker: Worker) -> Iterator[dict[str, Any]]:
    """N workers: the sum of ranks goes round in each epoch, so that a lost one is felt by all."""
    folder = Path(job["folder"])
    for epoch in range(finished_epochs(folder) + 1, job["epochs"] + 1):
        note(folder, "start", epoch, worker.rank)
        ranks = torch.tensor(float(worker.rank))
        dist.all_reduce(ranks)
        if worker.rank == 1:
            meet(job.get("fate", {}).get(str(epoch)), folder)
        time.sleep(job["epoch_s"])
        dist.barrier()
        if worker.rank == 0:
            checkpoint(folder, epoch)
        yield {**payload(job, epoch), "ranks": float(ranks), "world": worker.world_size}


def meet(fate: str | None, folder: Path) -> None:
    """What befalls a training. `die` kills its process, once."""
    if fate == "nan":
        raise Diverged(f"stage joint, epoch 2, step 1: cross_entropy {math.nan}")
    if fate == "bug":
        raise KeyError("no such layer")
    if fate == "data":
        raise DataError("mask is empty", "row 3", "mend the mask")
    if fate == "leak":
        raise LeakError("a patient is on two sides", "split", "split by patient")
    if fate == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "checkpoint"))
    if fate == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if fate == "die" and not (folder / "died").exists():
        (folder / "died").write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "die always":
        os.kill(os.getpid(), signal.SIGKILL)


def checkpoint(folder: Path, epoch: int) -> None:
    temporary = folder / f"epoch.{os.getpid()}.tmp"
    temporary.write_text(str(epoch))
    temporary.replace(folder / "epoch")
    note(folder, "end", epoch)


def finished_epochs(folder: Path) -> int:
    return int((folder / "epoch").read_text()) if (folder / "epoch").exists() else 0


def note(folder: Path, event: str, epoch: int, rank: int = 0) -> None:
    line = json.dumps({"event": event, "epoch": epoch, "rank": rank, "pid": os.getpid(), "time": time.time()})
    with (folder / "log.jsonl").open("a") as log:
        log.write(line + "\n")


def events(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's log; none if there is no folder yet."""
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
