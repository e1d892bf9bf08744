"""A note of who holds a folder, and whether that process is still there."""

import os
import socket
from collections.abc import Mapping
from typing import Any

import psutil


def me() -> dict[str, Any]:
    """This process, so that another of this machine can tell whether it lives: its number alone may be used again."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def dead(holder: Mapping[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is no more. Of another machine's nothing is known: False."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(holder["pid"]))
        return bool(
            process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - float(holder["started"])) > 1.0
        )
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return True
