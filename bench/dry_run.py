"""What `--dry-run` says: the cells that would run, and why some would not. No data are touched."""

from collections.abc import Iterable
from typing import Any

from bench.plan import configured, reason_against
from bench.suite import Cell
from data.errors import ConfigError


def would_run(cells: Iterable[Cell], trials: int, seeds: int) -> dict[str, Any]:
    """The JSON document: {"cells": [...]}, each with its `reason`, None where it can run."""
    return {
        "cells": [
            {
                "method": cell.method,
                "arm": cell.arm or None,
                "dataset": cell.dataset,
                "track": cell.track,
                "trials": trials,
                "seeds": seeds,
                "reason": _reason(cell),
            }
            for cell in cells
        ]
    }


def _reason(cell: Cell) -> str | None:
    try:
        why = reason_against(cell)
        if why is None:
            configured(cell)
    except ConfigError as error:
        return str(error)
    return why
