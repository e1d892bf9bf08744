"""The only room that imports ray: nodes.py (resources), train.py (N workers), tune.py and search.py (many trials)."""

import os

# Read by ray when it is imported, so they are set here, before any file of this room imports it. A user's own stand.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no network at run time
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else a driver under `uv run` ships its folder to each worker
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the default of 2 s costs 5 s at the end of each short run
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints tables on stdout, which is ours, even when it is not to be verbose
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow is the record
    "TUNE_DISABLE_AUTO_INIT": "1",  # Tune never starts a Ray of its own
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # epochs that may not be chosen report no objective
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # tune.py has its own
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",  # a stopped trial need not end its epoch: its checkpoint is on disk
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # how long a reused process waits for its former trial
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
