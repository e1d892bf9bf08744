"""Why a trial failed, in the kinds of the command line; and which errors end the whole job instead."""

import errno
import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ray.exceptions
import torch
import torch.distributed as dist

from bench.engine.report import Diverged
from data import errors
from data.errors import DataError, MachineError, UserError

Kind = Literal["oom", "diverged", "timeout", "lost", "data", "bug"]
LOG = "failure.log"
GONE = ("ActorDiedError", "ActorUnavailableError", "NodeDiedError", "RayActorError", "The actor died")  # in a text


class LeaseLost(RuntimeError):
    """Another process works in this run's folder; this one must not write there any more."""


@dataclass(frozen=True)
class Failure:
    """Its kind and a reason of one line. No absolute path in it: it goes into the record."""

    kind: Kind
    reason: str


class Failed(RuntimeError):
    """A failure that was classified elsewhere, in another process."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def classify(error: BaseException) -> Failure:
    """The kind of an error that ended a trial, raised in it or by Ray about it."""
    if isinstance(error, Failed):
        return error.failure
    cause = getattr(error, "cause", None)  # RayTaskError wraps what a worker raised
    if isinstance(error, ray.exceptions.RayTaskError) and isinstance(cause, BaseException) and cause is not error:
        return classify(cause)
    failures = getattr(error, "worker_failures", None)  # WorkerGroupError of Ray Train: by rank
    if failures:
        errors = [failures[rank] for rank in sorted(failures)]
        if any(isinstance(one, ray.exceptions.RayActorError) for one in errors):
            return Failure("lost", f"{len(errors)} of its workers failed after one had died")
        found = [classify(one) for one in errors]
        return next((one for one in found if one.kind != "lost"), found[0])
    return Failure(_kind(error), _reason(error))


def of_text(text: str) -> Failure:
    """The kind of failure that Ray Tune's error file of a trial tells of."""
    if "OutOfMemoryError" in text:
        return Failure("oom", "its node ran out of memory, and Ray ended its process")
    times = text.count("Failure #")
    if times == 0 or any(sign in text for sign in GONE):
        return Failure("lost", f"its process or node died{f' {times} times' if times > 1 else ''}")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return Failure("bug", lines[-1][:500])


def _kind(error: BaseException) -> Kind:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError, ray.exceptions.OutOfMemoryError)):
        return "oom"
    if isinstance(error, (Diverged, FloatingPointError)):
        return "diverged"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, LeaseLost) or peer_lost(error) or isinstance(error, ray.exceptions.RayError):
        return "lost"
    if isinstance(error, (DataError, FileNotFoundError)):
        return "data"
    if isinstance(error, RuntimeError) and "out of memory" in str(error).lower():
        return "oom"
    return "bug"


def peer_lost(error: BaseException) -> bool:
    """Whether a worker failed only because another worker of its group went away."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in ("gloo", "nccl", "closed by peer"))


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, (UserError, Diverged, TimeoutError, LeaseLost)):
        return lines[0][:500] if lines else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {lines[0][:400] if lines else 'no message'}{where}"


def fatal(error: BaseException) -> UserError | None:
    """The error that the user has to mend before any trial can run: a full disk, a leak, a wrong setting; else None."""
    if isinstance(error, UserError) and not isinstance(error, DataError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return MachineError(os.strerror(error.errno or 0), "the output folder", "make room, then run it again")
    return None


def pack(error: UserError) -> list[str]:
    """A UserError as plain values, to travel through Ray."""
    return [type(error).__name__, *(str(part) for part in error.args)]


def unpack(packed: list[str]) -> UserError:
    kind = getattr(errors, packed[0], UserError)
    return kind(*packed[1:])


def write_log(folder: Path, error: BaseException) -> None:
    """The traceback, beside the run's checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOG).write_text("".join(traceback.format_exception(error)))
