"""What a run is, in one validated, hashable, printable object; and how flags, files and suites end in it."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import models
from data.errors import ConfigError
from data.protocols import FOLDS

ModelT = TypeVar("ModelT", bound=BaseModel)
RELEASED, KNOWN = "released:", "run:"  # `weights` of a planned run, before the file's SHA-256 (bench/starts.py)
ALIASES = {"batch": "batch_size", "samples": "samples_per_class"}  # the short names of a suite's budget


def canonical(value: Any) -> str:
    """JSON with sorted keys and no blanks: the text that hashes are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any, length: int = 16) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


NOT_SCIENCE = ("seed", "fold", "world_size", "requirements")  # of a RunSpec: these differ between seeds of one row


def config_hash(spec: Mapping[str, Any]) -> str:
    """A hash of what the seeds and folds of one row share: of a RunSpec as JSON, everything but seed, fold and machine."""
    # each fold has sides of its own: which they are follows from data, protocol and split_seed
    own = (*NOT_SCIENCE, "split_hash") if FOLDS.get(str(spec.get("protocol")), 1) > 1 else NOT_SCIENCE
    return digest({key: value for key, value in spec.items() if key not in own})


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
    versions: dict[str, int] = Field(default_factory=dict)  # method, reader, metrics, engine
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
    requirements: dict[str, str] = Field(default_factory=dict)  # name -> folder of the finished run or kept file
    select: str = "validation/auroc_mean"
    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0
    loader_workers: int = 0
    tracks: tuple[str, ...] = ()  # tracks whose frames are written when the run has ended
    objectives: tuple[str, ...] = ()  # metrics of the validation frame that the last report carries
    ledger: str = ""  # file of the ledger
    ledger_entry: str | None = None  # id of the entry that opens the test side; only `final` has one
    cells: int = 0  # test lesions whose cells are asked for Lesion and Background
    name: str = ""


def unflatten(flat: Mapping[str, Any], where: str = "settings") -> dict[str, Any]:
    """{"roi.scale": 1.6} becomes {"roi": {"scale": 1.6}}; nested mappings pass through.

    ConfigError for a key that is no text, and for one that is given twice (a: 3 beside a.b: 4).
    """
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        if not isinstance(key, str):
            raise ConfigError(f"the key {_short(key)} is no text", where, "put it in quotes, or name a setting")
        unfolded = unflatten(value, where) if isinstance(value, Mapping) else value
        for part in reversed(key.split(".")):
            unfolded = {part: unfolded}
        _join(nested, unfolded, "", where)
    return nested


def _join(place: dict[str, Any], more: Mapping[str, Any], prefix: str, where: str) -> None:
    for key, value in more.items():
        old = place.get(key)
        if key not in place:
            place[key] = value
        elif isinstance(old, dict) and isinstance(value, Mapping):
            _join(old, value, f"{prefix}{key}.", where)
        else:
            what = f"{prefix + key!r} is given twice, as {_short(old)} and as {_short(value)}"
            raise ConfigError(what, where, "keep one of them")


def merge(base: Mapping[str, Any], *overlays: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings merged, later ones win."""
    result = dict(base)
    for overlay in overlays:
        for key, value in overlay.items():
            old = result.get(key)
            result[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def group(settings: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """Takes a group of settings (`data:`, `budget:`, `roi:`) out of those around it. ConfigError where it is no mapping."""
    found = settings.pop(key, {})
    if not isinstance(found, Mapping):
        do = f"give keys and values, {key}: {{KEY: VALUE}}, or leave {key!r} out"
        raise ConfigError(f"{key} = {_short(found)} is refused", where, do)
    return dict(found)


def resolve(model: type[ModelT], overrides: Mapping[str, Any], where: str) -> ModelT:
    """The validated object; ConfigError names the first wrong key, the nearest valid one, and what was expected."""
    try:
        return model.model_validate(unflatten(overrides))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if "[" not in str(part))  # list[str]: which form of a union
        if first["type"] == "extra_forbidden":
            raise _unknown(key, _keys(model), where) from error
        if first["type"] == "missing":
            raise ConfigError(f"the key {key!r} is missing", where, "add it") from error
        raise ConfigError(f"{key} = {_short(first.get('input'))} is refused", where, first["msg"]) from error


def _unknown(key: str, valid: Iterable[str], where: str, note: str = "") -> ConfigError:
    near = nearest(key.split(".")[-1], valid, "valid keys")
    return ConfigError(f"unknown key {key!r}", where, f"{near}{note}")


LISTED = 20  # names that a message lists


def nearest(name: str, valid: Iterable[str], noun: str = "choose one of") -> str:
    """What to do about a name that does not exist: the nearest one that does, or all of them, of many the likest."""
    choices = sorted(valid)
    near = difflib.get_close_matches(name, choices, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    shown = sorted(difflib.get_close_matches(name, choices, n=LISTED, cutoff=0)) if len(choices) > LISTED else choices
    more = f" and {len(choices) - len(shown)} more" if len(choices) > len(shown) else ""
    return f"{noun}: {', '.join(shown)}{more}"


def _short(value: Any) -> str:
    """A value as a message quotes it."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _keys(model: type[BaseModel]) -> set[str]:
    keys = set(model.model_fields)
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys |= _keys(field.annotation)
    return keys


def parse_set(pairs: Iterable[str]) -> dict[str, Any]:
    """`--set a.b=1e-3` pairs; values are YAML, so 3, 1e-3, true, null and [1, 2] mean what they look like.

    Of a key that is given twice the last one counts. ConfigError for what is no pair, no YAML, or contradicts another.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key:
            raise ConfigError(f"{pair!r} is not KEY=VALUE", "--set", "write e.g. --set lr=1e-3")
        result[key.strip()] = _value(key.strip(), text)
    unflatten(result, "--set")  # refuses pairs that contradict each other
    return result


def _value(key: str, text: str) -> Any:
    """A YAML value, with 1e-3 read as a number (YAML 1.1 wants 1.0e-3)."""
    try:
        return _numbers(yaml.load(text, _Loader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = getattr(error, "problem", None) or "not readable as YAML"
        raise ConfigError(f"{_short(text)}: {what}", f"--set {key}", "write a number, a word or [1, 2]") from error


class _Loader(yaml.SafeLoader):
    """YAML whose keys are text and stand there once. Judged as composed: merging `<<` repeats keys by right."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            what = None
            if key.tag == "tag:yaml.org,2002:int":  # {2: 5} of a pyramid's levels: the text as it stands there
                key.tag = "tag:yaml.org,2002:str"
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                what = f"the key {key.value or 'null' if isinstance(key, yaml.ScalarNode) else '[...]'} is no text"
            elif key.value in lines:
                what = f"the key {_short(key.value)} stands there twice, first in line {lines[key.value]}"
            if what is not None:
                raise yaml.constructor.ConstructorError(None, None, what, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, dotted keys unfolded. ConfigError names the file and line of what cannot be read."""
    try:
        loaded = _numbers(yaml.load(path.read_text(encoding="utf-8"), _Loader))
    except FileNotFoundError as error:
        raise ConfigError("no such file", str(path), "give the path of a YAML file") from error
    except OSError as error:
        raise ConfigError(f"cannot read it: {error.strerror}", str(path), "give the path of a YAML file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "not readable as YAML"
        raise ConfigError(what, f"{path}{line}", "mend the file") from error
    if not isinstance(loaded, dict):
        raise ConfigError("a mapping of keys to values was expected", str(path), "see docs/suites.md")
    return unflatten(loaded, str(path))


def _numbers(value: Any) -> Any:
    """Strings such as "1e-4", which YAML 1.1 leaves as text, become numbers."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and value[:1] in (*"+-.0123456789",) and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def check_budget(budget: Mapping[str, Any], where: str) -> None:
    """ConfigError for a key that is a budget field of no method: a shared budget may hold what one method lacks, but
    not what all of them lack."""
    if not isinstance(budget.get("bf16", False), bool):
        raise ConfigError(f"bf16 = {_short(budget['bf16'])} is refused", where, "write true or false")
    for short, full in ALIASES.items():
        if short in budget and full in budget:
            raise ConfigError(f"{short!r} and {full!r} are one key", where, "keep one of them")
    asked = [key for key in budget if key != "bf16"]
    known, other, broken = {"bf16", *ALIASES}, set[str](), []
    for name in models.names() if asked else ():
        try:
            fields = models.load(name).Config.model_fields
        except ConfigError:
            broken.append(name)
            continue
        for field, info in fields.items():
            extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
            (known if extra.get("kind") == "budget" else other).add(field)
    for key in asked:
        if key in other - known:
            raise ConfigError(f"{key!r} is no budget", where, "set it among a method's settings")
        if key not in known:
            # the fields of a method that does not import are not known, and the key may be one of them
            note = f" (not asked, since unavailable: {', '.join(broken)})" if broken else ""
            raise _unknown(f"budget.{key}", known, where, note)


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
