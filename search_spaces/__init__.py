"""Search spaces: one file per method, `space(trial) -> overrides of that method's Config`, nested keys dotted.

The name of a parameter is the config field's; a parameter that is no field (a switch between two forms of one) has its
published value in the file's PUBLISHED, and SETTLES names the field that decides it when a suite holds that field. The
published configuration is the Config's defaults, and lies in every space. A second function of the file,
`readings(trial)`, may add what is searched on request alone (`sweep --readings`): points on which sources disagree.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel

import models
from bench.config import unflatten
from data import plugins
from data.errors import ConfigError, brief

Space = Callable[[Any], dict[str, Any]]  # of a trial with optuna's suggest_* functions


def names() -> tuple[str, ...]:
    """Methods that have a space, registered ones included."""
    plugins.load()
    return tuple(sorted({*_own_names(), *_extra}))


@cache
def _own_names() -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def load(name: str, readings: bool = False) -> Space:
    """The space of a method, with its readings where asked. ConfigError where there is none, or its file fails to import."""
    module = _module(name)
    space: Space | None = getattr(module, "space", None)
    if space is None:
        raise ConfigError("a search space defines space(trial)", _where(name), "see docs/adding_a_method.md")
    if not readings:
        return space
    further: Space | None = getattr(module, "readings", None)
    if further is None:
        raise ConfigError(f"the search space of {name} has no readings", "--readings", "leave it out")
    return lambda trial: space(trial) | further(trial)


def has_readings(name: str) -> bool:
    """Whether `readings` adds anything to the space of this method."""
    return hasattr(_module(name), "readings")


def about(name: str) -> str:
    """What its file says of itself: what is searched, and what needs no training of its own."""
    return inspect.getdoc(_module(name)) or ""


def published(name: str, overrides: Mapping[str, Any] | None = None, readings: bool = False) -> dict[str, Any]:
    """Parameters of trial 0: the published point, with what a suite lays over it (dotted keys), asked of the space
    itself, so that only those are named which it would suggest there. ConfigError where one lies outside its range."""
    recorder = Published(name, overrides or {})
    load(name, readings)(recorder)
    return recorder.params


def ranges(name: str) -> dict[str, str]:
    """Parameter -> what a trial may get, in words, at the published point, readings included."""
    recorder = Published(name, {})
    load(name, has_readings(name))(recorder)
    return recorder.ranges


def suggest(name: str, trial: Any, held: Mapping[str, Any] | None = None, readings: bool = False) -> dict[str, Any]:
    """What the space suggests for a trial; parameters in `held` (dotted keys) are taken as they are and not searched."""
    fixed = _settled(name, held)
    suggested = load(name, readings)(Held(trial, fixed) if fixed else trial)
    return {key: value for key, value in suggested.items() if key not in fixed}


def check(name: str) -> None:
    """ConfigError unless the published point lies inside the space, readings included, and it names fields of the Config."""
    recorder = Published(name, {})
    for key in load(name, has_readings(name))(recorder):
        _value(recorder.config, key, name)


class _Suggester:
    """The part of optuna's Trial that spaces use, over one function that answers for a parameter."""

    def answer(self, name: str, kind: str, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.answer(name, "suggest_categorical", choices)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        value: float = self.answer(name, "suggest_float", low, high, step=step, log=log)
        return value

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        value: int = self.answer(name, "suggest_int", low, high, step=step, log=log)
        return value


class Held(_Suggester):
    """A trial of which some parameters are settled."""

    def __init__(self, trial: Any, held: Mapping[str, Any]) -> None:
        self.trial, self.held = trial, held

    def answer(self, name: str, kind: str, *args: Any, **kwargs: Any) -> Any:
        return self.held[name] if name in self.held else getattr(self.trial, kind)(name, *args, **kwargs)


class Published(_Suggester):
    """A trial that gives the published values, and refuses those outside their range; `params` holds what was asked."""

    def __init__(self, method: str, overrides: Mapping[str, Any]) -> None:
        self.method, self.overrides = method, _settled(method, overrides)
        # of a variant that a suite holds, the defaults are that variant's
        self.config: BaseModel = models.load(method).Config.model_validate(unflatten(overrides))
        self.switches: Mapping[str, Any] = getattr(_module(method), "PUBLISHED", {})
        self.params: dict[str, Any] = {}
        self.ranges: dict[str, str] = {}  # what a trial may get, in words

    def answer(self, name: str, kind: str, *args: Any, **kwargs: Any) -> Any:
        if name in self.overrides:  # laid over the published point: not searched, so no range applies
            return self.overrides[name]
        value = self.switches[name] if name in self.switches else _value(self.config, name, self.method)
        if not _inside(value, kind, args, kwargs):
            raise ConfigError(
                f"the published {name} = {value!r} lies outside the range {args}",
                f"search_spaces/{self.method}.py",
                "widen it",
            )
        self.params[name] = value
        self.ranges[name] = _in_words(args, kwargs)
        return value


def _in_words(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    if len(args) == 1:
        return ", ".join(map(str, args[0]))
    step = kwargs.get("step")
    return f"{args[0]} to {args[1]}" + (
        ", log" if kwargs.get("log") else f", step {step}" if step not in (None, 1) else ""
    )


def _settled(name: str, held: Mapping[str, Any] | None) -> dict[str, Any]:
    """Held values, and the switches that they settle: SETTLES of a space names for a field its switch, which then says
    whether the field has a value other than 0 or none, or (switch, the word that it stands at where there is a value)."""
    fixed = dict(held or {})
    for field, settles in getattr(_module(name), "SETTLES", {}).items():
        switch, word = settles if isinstance(settles, tuple) else (settles, True)
        if field in fixed:
            fixed.setdefault(switch, word if fixed[field] else False)
    return fixed


def _inside(value: Any, kind: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    if kind == "suggest_categorical":
        return value in list(args[0])
    low, high, step = args[0], args[1], kwargs.get("step")
    if not low <= value <= high:
        return False
    return not step or abs((value - low) / step - round((value - low) / step)) < 1e-9


def _value(config: BaseModel, key: str, method: str) -> Any:
    """Value of a field, by dotted key."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, BaseModel) or part not in type(value).model_fields:
            raise ConfigError(
                f"{key!r} is no field of {method}", f"search_spaces/{method}.py", "name a field, or add it to PUBLISHED"
            )
        value = getattr(value, part)
    return value


def _module(name: str) -> Any:
    if name not in names():
        raise ConfigError(
            f"no search space for {name!r}", "search_spaces", f"spaces: {', '.join(names())}; or train it as published"
        )
    try:
        return importlib.import_module(_extra.get(name, f"search_spaces.{name}"))
    except (Exception, SystemExit) as error:  # whatever a space's file raises is told in one line
        raise ConfigError(f"the search space does not import: {brief(error)}", _where(name), "mend the file") from error


def _where(name: str) -> str:
    return _extra.get(name, f"search_spaces/{name}.py")


_extra: dict[str, str] = {}


def register(name: str, module: str) -> None:
    """Offer the space of a method that lives elsewhere (a user's package, a test)."""
    if name in _own_names() or _extra.get(name, module) != module:
        raise ConfigError(f"two files claim the search space of {name!r}", module, "rename one of them")
    _extra[name] = module
