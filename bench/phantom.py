"""The job `phantom`: the embedded data set written to disk in the form of a real one."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data import forms
from data.errors import ConfigError


def write_phantom(
    out: Path,
    form: str,
    count: int,
    settings: Mapping[str, Any],
    quirks: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write `count` exams; `settings`: options of the phantom over those that suit the form. quirks: names, or "all".

    Gives what the folder holds as a right reader finds it. Raises ConfigError, MachineError.
    """
    writer = forms.load(form)
    wanted = list(writer.FORM.quirks) if "all" in quirks else quirks
    try:
        options = forms.suited(form, count, settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "options"
        raise ConfigError(f"{first['msg']} ({key})", "options of phantom", "see `list datasets -v`") from error
    return forms.write_form(out, form, options, wanted, progress) | {"folder": str(out)}
