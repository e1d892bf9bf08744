"""One training on N workers through Ray Train: the same generator in each, started again when one dies."""

import json
import os
import queue
import shutil
import threading
import uuid
from collections.abc import Callable, Generator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ray.exceptions
import ray.train
import ray.util
from ray.train.collective import barrier
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.callback import UserCallback
from ray.util.queue import Queue

from bench.cluster.failures import Failed, Failure, classify, fatal, pack, unpack
from bench.cluster.lease import Lease
from bench.cluster.process import fresh_process, load, payload_of
from bench.cluster.trials import GROUP, Payload
from bench.engine.worker import Worker

POLL_S = 0.5
ABORT_S = 20.0
CERTAIN = ("oom", "diverged", "data")  # kinds of failure that no dying peer can cause


def fit_distributed(
    job: dict[str, Any], trainable: str, *, workers: int, on_report: Callable[[Payload], None],
    cpus_per_worker: float = 1.0, gpus_per_worker: float = 0.0, max_failures: int = 2,
) -> None:  # fmt: skip
    """Run a job on N workers; rank 0's reports are handed to `on_report` in this process. See `reports`."""
    for payload in reports(
        job,
        trainable,
        workers=workers,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        max_failures=max_failures,
    ):
        on_report({key: value for key, value in payload.items() if key != GROUP})


def reports(
    job: dict[str, Any], trainable: str, *, workers: int, cpus_per_worker: float, gpus_per_worker: float,
    max_failures: int,
) -> Generator[Payload, None, None]:  # fmt: skip
    """Rank 0's reports of a job that runs on N workers; closing the generator stops them at their next report.

    trainable: "module:function", called as function(job, worker) on each; it resumes from job["folder"] by itself.
    When a worker dies the whole group starts again, at most `max_failures` times, from what the folder holds.
    Raises Failed or a UserError with what a worker met, and Ray's TrainingFailedError when workers died too often.
    """
    folder = Path(job["folder"])
    note = folder / f"workers-{uuid.uuid4().hex}.json"  # written once: why the group is not to start again
    channel = Queue(actor_options={"num_cpus": 0})
    config = {"job": job, "trainable": trainable, "note": str(note), "channel": channel}
    errors: list[Exception] = []
    arguments = (config, workers, cpus_per_worker, gpus_per_worker, max_failures, errors)
    thread = threading.Thread(target=_fit, args=arguments, daemon=True)
    thread.start()
    ending: list[Any] = []  # the controller, once it is known
    try:
        while True:
            alive = thread.is_alive()
            try:
                message = channel.get(timeout=POLL_S)
            except queue.Empty:
                if not alive:
                    break
                continue
            if isinstance(message, str):
                yield json.loads(message)
            else:
                ending.append(message)
        if note.exists():
            _raise(json.loads(note.read_text()))
        if errors:
            raise errors[0]
    finally:
        if thread.is_alive():
            _write(note, {})
            _abort(channel, ending)
            thread.join(timeout=ABORT_S)
        if not thread.is_alive():
            note.unlink(missing_ok=True)
        channel.shutdown(force=True)
        shutil.rmtree(folder / "ray-train", ignore_errors=True)


def _abort(channel: Queue, known: list[Any]) -> None:
    """Have the controller end its workers and give their places back; it announces itself after the first report."""
    try:
        while not known:
            message = channel.get(timeout=ABORT_S)
            if not isinstance(message, str):
                known.append(message)
        known[0].abort.remote()
    except (queue.Empty, ray.exceptions.RayError):
        return  # it has ended; or it never got as far as a report, and the workers meet the note


class _Announce(UserCallback):
    """Runs in the controller's process: sends its handle to the process that reads the reports."""

    def __init__(self, channel: Queue) -> None:
        self.channel = channel
        self.sent = False

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if not self.sent:
            self.sent = True
            self.channel.put(ray.get_runtime_context().current_actor)


def _fit(
    config: dict[str, Any], workers: int, cpus: float, gpus: float, max_failures: int, errors: list[Exception]
) -> None:
    """Ray Train's part, in a thread of its own: it blocks until the group has ended."""
    resources = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    trainer = TorchTrainer(
        _worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=resources),
        run_config=ray.train.RunConfig(
            name=uuid.uuid4().hex[:8],
            storage_path=str(Path(config["job"]["folder"]) / "ray-train"),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            callbacks=[_Announce(config["channel"])],
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # noqa: BLE001 - handed to the thread that reads the reports
        errors.append(error)


def _worker(config: dict[str, Any]) -> None:
    """One of N workers. An error that is certainly the training's own is noted and ends the group.

    Any other restarts it: when a peer dies, what the rest meet can look like anything.
    """
    job, note = config["job"], Path(config["note"])
    if note.exists():
        return
    context = ray.train.get_context()
    rank = context.get_world_rank()
    fresh_process()
    group = ray.util.get_current_placement_group()
    worker = Worker(rank=rank, world_size=context.get_world_size(), device=str(get_device()))
    try:
        with Lease(Path(job["folder"])) if rank == 0 else nullcontext() as lease:
            barrier()  # nobody reads a checkpoint before the folder is ours
            for report in load(config["trainable"])(job, worker):
                payload = payload_of(report)
                if rank == 0 and lease is not None:
                    lease.check()
                    config["channel"].put(json.dumps({**payload, GROUP: group.id.hex() if group else ""}))
                ray.train.report({"number": payload["number"]})
                if note.exists():
                    return
    except Exception as error:
        user_error, failure = fatal(error), classify(error)
        if user_error is not None:
            _write(note, {"fatal": pack(user_error)})
        elif failure.kind in CERTAIN:
            _write(note, {"kind": failure.kind, "reason": failure.reason})
        raise


def _write(path: Path, content: dict[str, Any]) -> None:
    """The first one stands: what other ranks meet afterwards is a consequence."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content))
    if path.exists():
        temporary.unlink()
    else:
        temporary.replace(path)


def _raise(content: dict[str, Any]) -> None:
    if "fatal" in content:
        raise unpack(content["fatal"])
    if content:
        raise Failed(Failure(content["kind"], content["reason"]))
