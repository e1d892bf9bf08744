"""Many trials through Ray Tune, for sweeps and fixed lists of jobs; the driver hears of each report and each end."""

import logging
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from bench.cluster import host
from bench.cluster.failures import Failure, of_text
from bench.cluster.nodes import OUTER_CPU, Share, free_places, max_concurrent, resources
from bench.cluster.scheduler import Ends, Halving
from bench.cluster.search import DurableSearch
from bench.cluster.trials import Ending, ListSearch, OnEnd, OnReport
from bench.cluster.watch import ClusterLost, Watch
from data.errors import ConfigError, MachineError

ENDLESS = 10**9  # Tune's own count of samples: the searcher says when to stop
REDUCTION = 3.0
logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # of a stopped run it says that trials did not complete


class _Forward(tune.Callback):
    """Hands reports and lost trials to the driver's side, in the driver's process."""

    def __init__(self, search: DurableSearch | ListSearch, watch: Watch) -> None:
        self.search, self.watch = search, watch

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.search.report(trial.trial_id, result)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self.watch.closed() is None:
            _free(self.search, trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self.watch.closed() is None:  # else Ray itself died: the trial has not failed, and is taken up next time
            _free(self.search, trial.trial_id)
            self.search.fail(trial.trial_id, _lost(trial))


def run_trials(
    search: DurableSearch | ListSearch,
    trainable: str,
    *,
    storage_dir: Path,
    share: Share = Share(),  # noqa: B008 - frozen
    concurrent: int | None = None,
    scheduler: Literal["asha", "none"] = "none",
    grace: int = 1,
    max_failures: int = 2,
    time_budget_s: float | None = None,
    trial_timeout_s: float | None = None,
    on_report: OnReport = lambda number, payload: None,
    on_end: OnEnd = lambda number, state, payload, failure: None,
) -> list[Ending]:
    """Run what `search` proposes until it is finished, and give how each trial ended, in order of ending.

    trainable: "module:function" of a generator of epoch reports; it gets the job as a mapping, resumes from
    job["folder"] by itself, and gives a finished folder's last report at once. share: what one trial takes. concurrent:
    at most so many at once (never more than the cluster can place). scheduler: "asha" stops trials that fall behind,
    from epoch `grace` on. max_failures: how often a trial whose process died is started again. time_budget_s: then no
    trial starts, and those that run are pruned at their next report. trial_timeout_s: a trial that takes longer fails.
    on_report(number, payload), on_end(number, state, payload, failure): called here, in the driver; on_end before the
    study is told, and what it returns becomes the study's user attributes of the trial.

    Needs an attached Ray (nodes.attach). Raises MachineError when the cluster cannot place one trial; a UserError that
    a trial met and only the user can mend; what a callable raised; KeyboardInterrupt after Ctrl-C or SIGTERM, and
    MachineError when Ray itself has died, the state kept: the same call goes on from there.
    """
    if scheduler == "asha" and (isinstance(search, ListSearch) or len(search.objectives) > 1):
        raise ConfigError("early stopping needs a search of one objective", "--scheduler asha", "use none")
    constants = _constants(search, trainable, share, max_failures, trial_timeout_s)
    search.bind(on_report, on_end, concurrent or ENDLESS, constants, time_budget_s)
    rounds_without_end = 0
    with _stop_on_signal(search) as signalled, Watch(search.stop) as watch:
        search.max_concurrent = min(search.max_concurrent, max_concurrent(resources(), share))
        while not search.finished and not search.late and not search.stopping:
            before = len(search.endings)
            _tune(search, share, _scheduler(search, scheduler, grace), max_failures, storage_dir, watch)
            rounds_without_end = 0 if len(search.endings) > before else rounds_without_end + 1
            search.forget_live()  # a reused process that could not be reset: Tune drops its trial without a word
            if rounds_without_end >= 3:
                raise MachineError("trials neither end nor fail", "Ray Tune", "run it again: it takes them up")
    if search.error is not None:
        raise search.error
    if signalled():
        raise KeyboardInterrupt
    return search.endings


def _constants(
    search: DurableSearch | ListSearch, trainable: str, share: Share, max_failures: int, trial_timeout_s: float | None
) -> dict[str, Any]:
    single = isinstance(search, DurableSearch) and len(search.objectives) == 1
    return {
        "trainable": trainable,
        "metric": search.objectives[0].metric if single and isinstance(search, DurableSearch) else None,
        "workers": share.workers,
        "inner_cpus": share.inner_cpus,
        "gpus_per_worker": share.gpus_per_worker,
        "max_failures": max_failures,
        "trial_timeout_s": trial_timeout_s,
    }


def _scheduler(search: DurableSearch | ListSearch, name: str, grace: int) -> TrialScheduler:
    if name == "asha" and isinstance(search, DurableSearch):
        return Halving(search.objectives[0].mode, grace, REDUCTION, search.history())
    return FIFOScheduler()


def _tune(
    search: DurableSearch | ListSearch, share: Share, scheduler: TrialScheduler, max_failures: int, folder: Path,
    watch: Watch,
) -> None:  # fmt: skip
    """One Tune experiment, under a new name; its folder is of no use afterwards."""
    name = f"tune-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    tuner = tune.Tuner(
        tune.with_resources(host.trial, _request(share)),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=scheduler,
            num_samples=ENDLESS,
            reuse_actors=True,  # saves 5 to 20 s a trial; and a stopped trial of several workers is waited for
            trial_name_creator=lambda trial: f"trial-{trial.config['number']}",
            trial_dirname_creator=lambda trial: f"{trial.config['number']}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(folder.absolute()),
            verbose=0,
            stop=Ends(search),
            callbacks=[_Forward(search, watch)],
            failure_config=tune.FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        tuner.fit()
        for trial_id in list(search.groups) if watch.lost is None else []:  # of the last trials nobody waited for
            _free(search, trial_id)
    finally:
        shutil.rmtree(folder / name, ignore_errors=True)


def _free(search: DurableSearch | ListSearch, trial_id: str) -> None:
    group = search.groups.pop(trial_id, None)
    if group:
        free_places(group)


def _request(share: Share) -> dict[str, float] | tune.PlacementGroupFactory:
    """One worker: the trial is the worker. Several: the trial takes next to nothing, Ray Train asks for them itself."""
    if share.workers > 1:
        return {"cpu": OUTER_CPU}
    return {"cpu": share.cpus_per_worker, "gpu": share.gpus_per_worker}


def _lost(trial: Any) -> Failure:
    """Why Tune gave a trial up. Errors of the training never come here (host.trial), so its process or node died."""
    path = trial.error_file
    text = Path(path).read_text() if path and Path(path).is_file() else ""
    return of_text(text)


@contextmanager
def _stop_on_signal(search: DurableSearch | ListSearch) -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the run in order; a second Ctrl-C at once. Gives whether one came."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]

    def stop(number: int, frame: Any) -> None:
        if came or isinstance(search.error, ClusterLost):  # the watch wants out of a call that waits for ever
            raise KeyboardInterrupt
        came.append(number)
        search.stopping = True

    try:
        for number, _ in before:
            signal.signal(number, stop)
        yield lambda: bool(came)
    finally:
        for number, handler in before:
            signal.signal(number, handler)
