"""The phantom written to disk in the form of a real data set: the way to try a reader without the data.

A file of this folder that defines FORM and write is a form; `run_bench.py phantom OUT --format NAME` writes it.
"""

import importlib
import json
import pkgutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from data.errors import ConfigError, DataError, MachineError
from data.phantom import Options, exams
from data.record import Record
from data.tracks import MARGINS, TRACKS

KNOWN = "phantom.json"  # in the folder that is written, last: what a right reader gives, and what made it
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Form:
    """What a form is. `options`: options of the phantom that suit it, under those that are asked for."""

    dataset: str  # whose reader takes it
    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    quirks: Mapping[str, str] = field(default_factory=dict)  # name -> what is done to the files; none is on by default


class Writer(Protocol):
    """What a file of this folder offers.

    write: lays the films out below `out`, an empty folder, and gives them as a right reader has to: those that it must
    leave out left out, what the form cannot say (a margin, a fine mask) None. films: the phantom's records, a patient's
    together. told: to be called with each film that is done. Draws come from generators seeded by the film's id.
    """

    FORM: Form

    def write(
        self, out: Path, films: Sequence[Record], quirks: frozenset[str], told: Callable[[], None]
    ) -> list[Record]: ...


def names() -> tuple[str, ...]:
    """Names of all forms."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def load(name: str) -> Writer:
    """The writer of a form. Raises ConfigError for an unknown name."""
    if name not in names():
        raise ConfigError(f"no form {name!r}", "--format", f"choose one of: {', '.join(names())}")
    return cast("Writer", importlib.import_module(f"data.forms.{name}"))


def suited(name: str, count: int, given: Mapping[str, Any]) -> Options:
    """The phantom's options for `count` exams in a form, a quarter of them for test; `given` goes over them."""
    share = {"exams": {"train": count - count // 4, "validation": 0, "test": count // 4}}
    return Options.model_validate(share | dict(load(name).FORM.options) | dict(given))


def write_form(
    out: Path, name: str, options: Options, quirks: Iterable[str] = (), progress: Progress | None = None
) -> dict[str, Any]:
    """Write the phantom into `out`; gives what a right reader finds there (`known`), which is stored as phantom.json, too.

    Raises ConfigError for an unknown form or quirk, MachineError where the folder is not empty or cannot be written.
    """
    writer, wanted = load(name), frozenset(quirks)
    if unknown := sorted(wanted - set(writer.FORM.quirks)):
        choice = ", ".join(sorted(writer.FORM.quirks)) or "none"
        raise ConfigError(f"the form {name} has no quirk {unknown[0]!r}", "--quirk", f"choose of: {choice}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise MachineError("the folder is not empty", str(out), "choose a new one, or empty it")
        films = [record for exam in exams(options) for record in exam.records()]
        if not films:
            raise DataError("no exam to write", "exams", "ask for at least one")
        done = 0

        def told() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, len(films))

        found = writer.write(out, films, wanted, told)
        document = {
            "form": name,
            "dataset": writer.FORM.dataset,
            "quirks": sorted(wanted),
            "phantom": options.model_dump(mode="json"),
            "known": known(found),
        }
        (out / KNOWN).write_text(json.dumps(document, indent=1), encoding="utf-8")
    except OSError as error:
        raise MachineError(f"cannot write the phantom: {error.strerror}", str(out), "choose another folder") from error
    return document


def known(records: Sequence[Record]) -> dict[str, Any]:
    """Counts of records, findings, patients, and per track, side ("none" without one) and label: as `prepare` has them."""
    tracks: dict[str, dict[str, Counter[str]]] = {name: {} for name in TRACKS}

    def count(track: str, side: str | None, label: str) -> None:
        tracks[track].setdefault(side or "none", Counter(dict.fromkeys(TRACKS[track].classes, 0)))[label] += 1

    for record in records:
        if record.has_mass is not None:
            count("detection", record.official_split, TRACKS["detection"].classes[int(record.has_mass)])
        for finding in record.findings:
            if finding.kind != "mass" or (finding.mask is None and finding.box is None):
                continue
            if finding.margin in MARGINS:
                count("margin", record.official_split, str(finding.margin))
            if finding.malignant is not None:
                count("malignancy", record.official_split, TRACKS["malignancy"].classes[int(finding.malignant)])
    placed = [f for record in records for f in record.findings if f.mask is not None or f.box is not None]
    return {
        "records": len(records),
        "findings": len(placed),
        "patients": len({record.patient_id for record in records}),
        "tracks": tracks,
    }
