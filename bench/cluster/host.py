"""What runs in a trial's process: the loop itself for one worker, a TorchTrainer's for several."""

import json
import math
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from ray import tune

from bench.cluster.failures import Failure, classify, fatal, pack, write_log
from bench.cluster.lease import Lease
from bench.cluster.process import fresh_process, load, payload_of
from bench.cluster.trials import Payload, value_of


def trial(config: dict[str, Any]) -> None:
    """The Tune function. Errors of the training are reported, not raised: they are final, while a process that dies is
    started again, and the process can go on to the next trial.
    """
    job = json.loads(config["job"])
    folder = Path(job["folder"])
    fresh_process()
    try:
        ended = False
        # Tune stops a trial by a SystemExit in `report`, whose traceback would keep the generator open: so it is closed here
        with closing(_payloads(config, job, folder)) as payloads:
            for payload in payloads:
                ended = bool(payload.get("final"))
                tune.report(result_of(payload, config))
        if not ended:
            tune.report({"failure": "bug", "reason": "the training ended without a final report"})
    except Exception as error:  # noqa: BLE001 - every error of a training becomes its reported failure
        user_error = fatal(error)
        if user_error is not None:
            tune.report({"fatal": json.dumps(pack(user_error))})
        else:
            write_log(folder, error)
            tune.report(_failed(classify(error)))


def _payloads(config: dict[str, Any], job: dict[str, Any], folder: Path) -> Generator[Payload, None, None]:
    limit_s: float | None = config["trial_timeout_s"]
    started = time.monotonic()
    reports = _alone(config, job, folder) if config["workers"] == 1 else _together(config, job)
    with closing(reports):
        for payload in reports:
            if limit_s is not None and time.monotonic() - started > limit_s and not payload.get("final"):
                raise TimeoutError(f"not finished after {limit_s:.0f} s")
            yield payload


def _alone(config: dict[str, Any], job: dict[str, Any], folder: Path) -> Generator[Payload, None, None]:
    with Lease(folder) as lease:
        for report in load(config["trainable"])(job):
            lease.check()
            yield payload_of(report)


def _together(config: dict[str, Any], job: dict[str, Any]) -> Generator[Payload, None, None]:
    from bench.cluster import train  # 2 s of imports that a trial of one worker need not pay

    return train.reports(
        job,
        config["trainable"],
        workers=config["workers"],
        cpus_per_worker=config["inner_cpus"],
        gpus_per_worker=config["gpus_per_worker"],
        max_failures=config["max_failures"],
    )


def result_of(payload: Payload, config: dict[str, Any]) -> dict[str, Any]:
    """What goes through Tune: the payload as text, so that no key of it means anything to Tune.

    With it what a scheduler may judge: the objective of an epoch that may be chosen and is not the trial's last.
    """
    result: dict[str, Any] = {"payload": json.dumps(payload)}
    metric = config["metric"]
    value = value_of(payload, metric) if metric else None
    last = payload.get("final") or payload["number"] >= payload.get("total", math.inf)
    if value is not None and math.isfinite(value) and payload.get("selectable", True) and not last:
        result.update(objective=value, rung=payload["number"])
    return result


def _failed(failure: Failure) -> dict[str, Any]:
    return {"failure": failure.kind, "reason": failure.reason}
