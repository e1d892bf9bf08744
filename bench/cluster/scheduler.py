"""Early stopping: successive halving that remembers former starts, and the budget of time."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Literal

from ray.tune import Stopper
from ray.tune.schedulers import ASHAScheduler

from bench.cluster.trials import Trials

HORIZON = 10**6  # epochs; rungs lie below it, and no trial is stopped for having reached it


class Halving(ASHAScheduler):
    """ASHA over epochs that count: a report is judged only if it has an objective, and is not the last of its trial.

    grace: epochs before a trial can be stopped. history: number -> epoch -> value of former starts; with it the rungs
    are what they would be had the driver never died.
    """

    def __init__(
        self, mode: Literal["max", "min"], grace: int, reduction: float, history: Mapping[int, Mapping[int, float]]
    ) -> None:
        super().__init__(
            time_attr="rung",
            metric="objective",
            mode=mode,
            max_t=HORIZON,
            grace_period=grace,
            reduction_factor=reduction,
            stop_last_trials=False,
        )
        self._history = {number: dict(values) for number, values in history.items()}
        for number, values in self._history.items():
            self._recall(f"former {number}", values)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        number = trial.config["number"]
        if number in self._history:  # adopted: from now on its former values go by its new id
            for _, recorded in self._brackets[0]._rungs:
                recorded.pop(f"former {number}", None)
            self._recall(trial.trial_id, self._history.pop(number))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing to add: the base class would enter a value of the trial's last report."""
        self._trial_info.pop(trial.trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._trial_info.pop(trial.trial_id, None)

    def _recall(self, trial_id: str, values: Mapping[int, float]) -> None:
        for epoch, value in sorted(values.items()):
            self._brackets[0].on_result(SimpleNamespace(trial_id=trial_id), epoch, self._metric_op * value)


class Ends(Stopper):
    """Stops each trial at its next report once the time is spent, and all of them when the driver has to stop."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._trials.late

    def stop_all(self) -> bool:
        return self._trials.stopping
