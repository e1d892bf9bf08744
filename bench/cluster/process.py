"""What a worker's process does before and around a training, whoever started it."""

import gc
import importlib
import math
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import ray
import torch

from bench.cluster.trials import Payload


def load(path: str) -> Callable[..., Iterator[Any]]:
    """The function that `module:function` names."""
    module, _, name = path.partition(":")
    found = getattr(importlib.import_module(module), name)
    if not callable(found):
        raise TypeError(f"{path} is not a function")
    return found


def payload_of(report: Any) -> Payload:
    """The plain values of a report: its own payload, or itself where a generator yields mappings."""
    return dict(report.payload() if hasattr(report, "payload") else report)


def fresh_process() -> None:
    """Undo what a former trial of this process left behind, and use as many threads as it was given CPUs.

    Rounded up: with several workers each gives a few hundredths of a CPU to its trial (nodes.Share).
    """
    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1.0)
    threads = max(1, math.ceil(cpus - 1e-6))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    if torch.are_deterministic_algorithms_enabled():  # setting it imports the compiler, 5 s and more
        torch.use_deterministic_algorithms(False)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries that draw from the global state start from the same one
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
