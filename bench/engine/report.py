"""What the engine says after each epoch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.metrics.estimate import Estimate


class Diverged(RuntimeError):
    """A loss became NaN or infinite. The message gives stage, epoch, step and the terms."""


@dataclass
class EpochReport:
    """One epoch, or one `after` of a stage. Terms are means over the epoch's steps, weights not applied."""

    stage: str
    epoch: int  # within the stage, from 1; 0 = the stage's `after`
    number: int  # reports so far in the whole run, from 1
    total: int  # reports that the run will have
    selectable: bool
    terms: dict[str, float]
    metrics: dict[str, Estimate]
    images_per_second: float
    seconds: float
    system: dict[str, float] = field(default_factory=dict)
    final: bool = False
    chosen: dict[str, Any] = field(default_factory=dict)  # test-time settings that validation chose: variant, settings
    save: Callable[[Path], None] = lambda folder: None

    def payload(self) -> dict[str, Any]:
        """Plain values, as they travel through Ray. A metric keeps its interval; one without a value is left out."""
        numbers: dict[str, Any] = {f"loss/{name}": value for name, value in self.terms.items() if math.isfinite(value)}
        for name, estimate in self.metrics.items():
            if estimate.value is not None and math.isfinite(estimate.value):
                numbers[name] = estimate.value
        return {
            **numbers,
            "estimates": {name: estimate.to_json() for name, estimate in self.metrics.items()},
            "stage": self.stage,
            "epoch": self.epoch,
            "number": self.number,
            "total": self.total,
            "selectable": self.selectable,
            "images_per_second": self.images_per_second,
            "seconds": self.seconds,
            "system": self.system,
            "final": self.final,
            "chosen": self.chosen,
        }


def system_figures(device: str) -> dict[str, float]:
    """The worker's own use of the machine: resident memory, load, and GPU memory where there is one."""
    process = psutil.Process()
    figures = {
        "system/rss_gib": process.memory_info().rss / 2**30,
        "system/cpu_percent": psutil.cpu_percent(interval=None),
        "system/cpu_seconds": sum(process.cpu_times()[:2]),
    }
    if device.startswith("cuda"):
        figures["system/gpu_mem_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return figures


def as_estimates(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Estimate]:
    """The estimates of a payload, as objects again."""
    return {name: Estimate(**value) for name, value in values.items()}
