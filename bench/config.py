"""What a run is, in one validated, hashable, printable object; and how flags, files and suites end in it."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)
ALIASES = {"batch": "batch_size", "samples": "samples_per_class"}  # the short names of a suite's budget


def canonical(value: Any) -> str:
    """JSON with sorted keys and no blanks: the text that hashes are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any, length: int = 16) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


NOT_SCIENCE = ("seed", "fold", "world_size", "requirements")  # of a RunSpec: these differ between seeds of one row


def config_hash(spec: Mapping[str, Any]) -> str:
    """A hash of what the seeds of one row share: of a RunSpec as JSON, everything but seed, fold and machine."""
    return digest({key: value for key, value in spec.items() if key not in NOT_SCIENCE})


class Strict(BaseModel):
    """Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunSpec(Strict):
    """Everything that decides a run's numbers; its hash is the run's identity, and the same identity never runs twice."""

    method: str
    config: dict[str, Any]  # the complete, validated Config of the method, as JSON
    dataset: str
    options: dict[str, Any]  # of the reader
    data_hash: str
    split_hash: str
    track: str  # the track whose labels train
    protocol: str = "holdout"
    fold: int = 0
    split_seed: int = 0
    seed: int = 0
    bf16: bool = False
    world_size: int = 1  # batch norm and the order of sums depend on it
    versions: dict[str, int] = Field(default_factory=dict)  # method, reader, metrics
    requirements: dict[str, str] = Field(default_factory=dict)  # name -> identity of the run it starts from

    @property
    def identity(self) -> str:
        return digest(self.model_dump())


class Job(Strict):
    """A RunSpec and where it runs. Paths are absolute: workers do not share the driver's working directory."""

    spec: RunSpec
    folder: str  # checkpoints, frames and the finished state of this run
    prepared: str  # folder of the prepared data
    data_root: str | None = None  # where the data set lies, should other regions have to be cut from it
    requirements: dict[str, str] = Field(default_factory=dict)  # name -> folder of the finished run
    select: str = "validation/auroc_mean"
    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0
    loader_workers: int = 0
    tracks: tuple[str, ...] = ()  # tracks whose frames are written when the run has ended
    ledger: str = ""  # file of the ledger
    ledger_entry: str | None = None  # id of the entry that opens the test side; only `final` has one
    name: str = ""


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"roi.scale": 1.6} becomes {"roi": {"scale": 1.6}}; nested mappings pass through."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        if isinstance(value, Mapping):
            place[last] = {**place.get(last, {}), **unflatten(value)}
        else:
            place[last] = value
    return nested


def merge(base: Mapping[str, Any], *overlays: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings merged, later ones win."""
    result = dict(base)
    for overlay in overlays:
        for key, value in overlay.items():
            old = result.get(key)
            result[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def resolve(model: type[ModelT], overrides: Mapping[str, Any], where: str) -> ModelT:
    """The validated object; ConfigError names the first wrong key, the nearest valid one, and what was expected."""
    try:
        return model.model_validate(unflatten(overrides))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key.split(".")[-1], _keys(model), n=1)
            do = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(sorted(_keys(model)))}"
            raise ConfigError(f"unknown key {key!r}", where, do) from error
        raise ConfigError(f"{key} = {first.get('input')!r} is refused", where, first["msg"]) from error


def _keys(model: type[BaseModel]) -> set[str]:
    keys = set(model.model_fields)
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys |= _keys(field.annotation)
    return keys


def parse_set(pairs: Iterable[str]) -> dict[str, Any]:
    """`--set a.b=1e-3` pairs; values are YAML, so 3, 1e-3, true, null and [1, 2] mean what they look like."""
    result: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key:
            raise ConfigError(f"{pair!r} is not KEY=VALUE", "--set", "write e.g. --set lr=1e-3")
        result[key.strip()] = parse_value(text)
    return result


def parse_value(text: str) -> Any:
    """A YAML scalar, with 1e-3 read as a number (YAML 1.1 wants 1.0e-3)."""
    try:
        return float(text) if "e" in text.lower() and not text.startswith("[") else yaml.safe_load(text)
    except ValueError:
        return yaml.safe_load(text)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping. ConfigError names the file and line of what cannot be read."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError("no such file", str(path), "give the path of a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError("not readable as YAML", f"{path}{line}", "mend the file") from error
    if not isinstance(loaded, dict):
        raise ConfigError("a mapping of keys to values was expected", str(path), "see docs/suites.md")
    return _numbers(loaded)


def _numbers(value: Any) -> Any:
    """Strings such as "1e-4", which YAML 1.1 leaves as text, become numbers."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and value[:1].isdigit() and "e" in value.lower():
        return parse_value(value)
    return value


def method_overrides(
    fields: Iterable[str],
    *,
    budget: Mapping[str, Any] = {},
    settings: Mapping[str, Any] = {},
    roi: Mapping[str, Any] = {},
) -> dict[str, Any]:
    """What a suite lays over a method's published point: budget fields that the method has, then its own settings."""
    known = set(fields)
    budget = {ALIASES.get(key, key): value for key, value in budget.items()}
    result: dict[str, Any] = {key: value for key, value in budget.items() if key in known}
    if roi and "roi" in known:
        result["roi"] = dict(roi)
    return merge(result, unflatten({ALIASES.get(key, key): value for key, value in settings.items()}))
