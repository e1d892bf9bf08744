"""Checkpoints on disk: written whole or not at all, read without executing anything.

A checkpoint is one file, so that it can be replaced in one rename; a reader that meets half a file never sees it.
"""

import os
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.errors import DataError

NAME = "checkpoint.pt"


@dataclass
class Progress:
    """Where a run stands: the next (stage, epoch), what the optimisers know, and the best state so far."""

    stage: int = 0
    epoch: int = 0
    number: int = 0
    epochs: dict[str, int] = field(default_factory=dict)  # optimiser key -> epochs spent
    steps: dict[str, int] = field(default_factory=dict)
    optimisers: dict[str, Any] = field(default_factory=dict)
    best_value: float | None = None
    best_state: dict[str, Tensor] | None = None


def replace(path: Path, value: object) -> None:
    """torch.save under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    torch.save(value, temporary)
    temporary.replace(path)


def write(folder: Path, method: nn.Module, progress: Progress) -> None:
    """The method's state and the progress as folder/checkpoint.pt."""
    shallow = {name: getattr(progress, name) for name in asdict(Progress())}
    replace(folder / NAME, {"state": method.state_dict(), "progress": shallow})


def load(path: Path, device: torch.device | str = "cpu") -> Any:
    """What `replace` wrote; DataError when the file is damaged."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise DataError(
            "checkpoint cannot be read",
            f"{path.parent.name}/{path.name}",
            "delete that folder of checkpoints/: the same command trains the run again",
        ) from error


def read(folder: Path, method: nn.Module, device: torch.device) -> Progress:
    """Put the state into `method` and give the progress."""
    loaded = load(folder / NAME, device)
    method.load_state_dict(loaded["state"])
    return Progress(**loaded["progress"])
