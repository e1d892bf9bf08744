"""What `--dry-run` says: the cells that would run, and why some would not. No data are touched."""

from collections.abc import Iterable
from typing import Any

from bench.plan import inputs_of, reason_against
from bench.suite import Cell


def would_run(cells: Iterable[Cell], trials: int, seeds: int, *, alone: bool) -> dict[str, Any]:
    """The JSON document: {"cells": [...]}, each with its `reason`, None where it can run.

    A suite goes on without a cell that no machine can run, and its reason stands there; alone: nothing is left then.
    Raises ConfigError for what ends the command too, such as a wrong setting.
    """
    return {
        "cells": [
            {
                "method": cell.method,
                "arm": cell.arm or None,
                "dataset": cell.dataset,
                "track": cell.track,
                "trials": trials,
                "seeds": seeds,
                "reason": _reason(cell, alone),
            }
            for cell in cells
        ]
    }


def _reason(cell: Cell, alone: bool) -> str | None:
    if not alone and (why := reason_against(cell)) is not None:
        return why
    inputs_of(cell)
    return None
