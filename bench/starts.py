"""Files that the setting `weights` names: kept by content among the checkpoints, with what is known of whom they have seen.

A planned run's config says `released:SHA256` or `run:SHA256` in place of a path, so that the run's identity follows the content and
no path of this machine is in it. run: `lineage.json` lay beside the file, as a run leaves it, and no ancestor in it is unknown. released:
everything else; whom its makers trained on is not known. The SHA-256 is of the file, and of the lineage where one lies beside it.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.config import KNOWN, RELEASED, canonical
from bench.engine import checkpoint
from bench.engine.run import FINAL, LINEAGE
from bench.home import Home
from data.errors import ConfigError, DataError
from models.method import Method, MethodConfig

WEIGHTS = "weights"  # the field, and the name that `Method.start_from` is given
_NAMED = re.compile(f"(?:{RELEASED}|{KNOWN})[0-9a-f]{{64}}")


def check(method: Method) -> None:
    """ConfigError where the method cannot start from the file that its config names. What is kept was checked before."""
    start = method.config.start_file
    if start is None or _NAMED.fullmatch(start):
        return
    path = _file(start)
    try:
        state = checkpoint.load(path)
    except DataError as error:
        raise ConfigError("it is no file of tensors alone", f"weights: {path.name}", "save a state_dict") from error
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ConfigError("it holds no names with tensors", f"weights: {path.name}", "save a state_dict")
    if below := [name for name, value in state.items() if isinstance(value, Mapping)]:
        what = f"it holds a state under {below[0]!r}, not the state itself"
        raise ConfigError(what, f"weights: {path.name}", f"save what lies under {below[0]!r} alone")
    method.start_from(WEIGHTS, state)


def keep(home: Home, start: str) -> str:
    """Keep a file and its lineage; the name of its content. A name of what is kept already is given back."""
    if _NAMED.fullmatch(start):
        return start
    path = _file(start)
    content, lineage = path.read_bytes(), _lineage(path)
    sha = hashlib.sha256(content)
    if lineage is not None:
        sha.update(canonical(lineage).encode())
    known = lineage is not None and not lineage.get("unknown")
    name = (KNOWN if known else RELEASED) + sha.hexdigest()
    folder = _folder(home, name)
    if not (folder / LINEAGE).is_file():
        kept = lineage if known else {**(lineage or {}), "unknown": [sha.hexdigest()]}
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / FINAL, content)
        _replace(folder / LINEAGE, json.dumps(kept).encode())  # last: what has it is whole
    return name


def folder_of(home: Home, config: MethodConfig) -> dict[str, str]:
    """name -> folder of what a planned config starts from, as in Job.requirements. ConfigError where it is not kept here."""
    if config.start_file is None:
        return {}
    folder = _folder(home, config.start_file)
    if not (folder / LINEAGE).is_file():
        what = "no file of that content is kept in this folder of runs"
        raise ConfigError(what, f"weights: {config.start_file[:20]}", "give the file itself: --set weights=FILE")
    return {WEIGHTS: str(folder)}


def _folder(home: Home, name: str) -> Path:
    return home.checkpoints / name.replace(":", "-")


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _file(start: str) -> Path:
    path = Path(start).expanduser()
    if not path.is_file():
        raise ConfigError("no such file", f"weights: {path.name}", "give the path of a state, or none")
    return path


def _lineage(path: Path) -> dict[str, Any] | None:
    """What a run left beside its state; None where nothing lies there. ConfigError where that is damaged."""
    beside = path.with_name(LINEAGE)
    if not beside.is_file():
        return None
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"patients", "images"} <= found.keys():
        raise ConfigError("its lineage.json is damaged", f"weights: {path.name}", "take both as the run left them")
    return found
