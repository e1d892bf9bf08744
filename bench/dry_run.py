"""What `--dry-run` says: the cells that would run, and why some would not. No data are touched."""

from collections.abc import Iterable
from typing import Any

from bench.plan import inputs_of
from bench.suite import Cell
from data.errors import ConfigError


def would_run(cells: Iterable[Cell], trials: int, seeds: int, *, refuse: bool) -> dict[str, Any]:
    """The JSON document: {"cells": [...]}, each with its `reason`, None where it can run. refuse: ConfigError in its place."""
    return {
        "cells": [
            {
                "method": cell.method,
                "arm": cell.arm or None,
                "dataset": cell.dataset,
                "track": cell.track,
                "trials": trials,
                "seeds": seeds,
                "reason": _reason(cell, refuse),
            }
            for cell in cells
        ]
    }


def _reason(cell: Cell, refuse: bool) -> str | None:
    try:
        inputs_of(cell)
    except ConfigError as error:
        if refuse:
            raise
        return str(error)
    return None
