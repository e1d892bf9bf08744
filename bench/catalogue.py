"""The job `list`: what there is, from the registries, as one document."""

import re
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

import data
import models
import search_spaces
from bench import suite
from bench.metrics import METRICS
from bench.space import flat
from data import forms
from data.errors import ConfigError
from data.tracks import TRACKS

KINDS = ("methods", "datasets", "forms", "spaces", "suites", "tracks", "metrics")


def catalogue(what: str = "all") -> dict[str, Any]:
    """Entries per kind. A method whose file fails to import stands there as unavailable, with the reason."""
    if what not in (*KINDS, "all"):
        raise ConfigError(f"no list of {what!r}", "list", f"choose one of: {', '.join(KINDS)}")
    makers = {
        "methods": _methods,
        "datasets": _datasets,
        "forms": _forms,
        "spaces": _spaces,
        "suites": _suites,
        "tracks": _tracks,
        "metrics": _metrics,
    }
    return {kind: make() for kind, make in makers.items() if what in (kind, "all")}


def _methods() -> list[dict[str, Any]]:
    found = []
    for name in models.names():
        try:
            kind = models.load(name)
        except ConfigError as error:
            found.append(
                {"name": name, "tracks": [], "summary": "", "status": f"unavailable: {error.what}", "config": {}}
            )
            continue
        card = kind.card
        found.append(
            {
                "name": name,
                "tracks": list(card.tracks),
                "summary": card.title,
                "status": "available",
                "paper": card.paper,
                "reference": card.reference,
                "explains": card.explains,
                "needs": sorted(card.needs),
                "deviations": list(card.deviations),
                "config": fields(kind.Config),
            }
        )
    return found


def fields(config: type[Any]) -> dict[str, dict[str, Any]]:
    """Per field: default, description, kind (science or budget) and type."""
    found = {}
    defaults = config().model_dump(mode="json")
    for name, field in config.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        kind = getattr(field.annotation, "__name__", None) or str(field.annotation)
        if "Literal" in str(field.annotation) or "|" in str(field.annotation):
            kind = str(field.annotation).replace("typing.", "")
        found[name] = {
            "default": defaults[name], "description": field.description or "", "kind": extra.get("kind", "science"), "type": kind,
        }  # fmt: skip
    return found


def _datasets() -> list[dict[str, Any]]:
    found = []
    for name in data.datasets():
        reader = data.reader(name)
        card = reader.CARD
        found.append(
            {
                "name": name, "summary": card.title, "tracks": list(card.tracks), "provides": sorted(card.provides),
                "licence": card.licence, "source": card.source, "grade": card.grade, "needs_root": card.needs_root,
                "status": "available", "config": fields(reader.Options), "columns": dict(card.columns),
                "published_counts": dict(card.published_counts),
            }
        )  # fmt: skip
    return found


def _forms() -> list[dict[str, Any]]:
    found = []
    for name in forms.names():
        form = forms.load(name).FORM
        found.append({"name": name, "dataset": form.dataset, "summary": form.title, "quirks": dict(form.quirks)})
    return found


def _spaces() -> list[dict[str, Any]]:
    found = []
    for name in search_spaces.names():
        published = search_spaces.published(name)
        every = search_spaces.published(name, readings=search_spaces.has_readings(name))
        further = {key: value for key, value in every.items() if key not in published}
        found.append(
            {
                "name": name, "about": search_spaces.about(name), "published": published, "readings": further,
                "ranges": search_spaces.ranges(name),
            }
        )  # fmt: skip
    return found


def _suites() -> list[dict[str, Any]]:
    return [
        {"name": name, "summary": ", ".join(sorted({str(cell) for cell in suite.cells(suite.read_suite(name))}))}
        for name in suite.names()
    ]


def _tracks() -> list[dict[str, Any]]:
    return [{"name": t.name, "unit": t.unit, "classes": list(t.classes), "primary": t.primary} for t in TRACKS.values()]


def _metrics() -> list[dict[str, Any]]:
    return [
        {
            "name": m.name,
            "summary": m.summary,
            "unit": m.unit,
            "direction": m.direction,
            "tracks": sorted(m.tracks),
            "page": m.doc,
        }
        for m in METRICS.values()
    ]


def _values(kind: str) -> str:
    """The words that a field may take; of others the type."""
    return (
        ", ".join(re.findall(r"'([^']*)'", kind))
        if kind.startswith("Literal[")
        else kind.replace(" | None", " or null")
    )


def show(console: Console, document: Mapping[str, Any], verbose: bool) -> None:
    """The document as tables; verbose adds every field of methods and data sets, and the ranges of search spaces."""
    for kind, entries in document.items():
        table = Table("name", "tracks" if kind in ("methods", "datasets", "metrics") else "", "", title=kind)
        for entry in entries:
            third = entry.get("summary") or ", ".join(f"{k}={v}" for k, v in flat(entry.get("published", {})).items())
            if str(entry.get("status", "available")) != "available":
                third = entry["status"]
            if kind == "tracks":
                third = f"{entry['unit']}: {', '.join(entry['classes'])}; primary metric {entry['primary']}"
            table.add_row(entry["name"], ", ".join(entry.get("tracks", [])), third)
        console.print(table)
        for entry in entries if verbose else []:
            if entry.get("config"):
                details = Table("field", "default", "values", "kind", "what it is", title=f"{entry['name']}: settings")
                for name, field in entry["config"].items():
                    row = (str(field["default"]), _values(field["type"]), field["kind"], field["description"])
                    details.add_row(name, *row)
                console.print(details)
            if entry.get("ranges"):
                values = flat(entry["published"]) | flat(entry["readings"])
                details = Table("parameter", "published", "searched", "", title=f"{entry['name']}: search space")
                for name, words in entry["ranges"].items():
                    details.add_row(name, str(values[name]), words, "--readings" if name in entry["readings"] else "")
                console.print(details, entry["about"], "", sep="\n", markup=False)
            for what, title in (("columns", "columns of its CSV"), ("quirks", "quirks")):
                if entry.get(what):
                    details = Table(what.removesuffix("s"), "what it means", title=f"{entry['name']}: {title}")
                    for name, meaning in entry[what].items():
                        details.add_row(name, meaning)
                    console.print(details)
