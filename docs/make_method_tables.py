"""Writes the settings tables of docs/methods/*.md from the Configs, between the markers that stand there.

.venv/bin/python -m docs.make_method_tables
"""

import re
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

import models

FOLDER = Path(__file__).parent / "methods"
MARKED = re.compile(r"(<!-- settings -->\n).*?(<!-- end of settings -->)", re.DOTALL)


def rows(config: type[BaseModel], prefix: str = "", kind: str = "") -> list[tuple[str, str, str, str]]:
    """Name (dotted), default, kind and description of every field; fields of parts one by one."""
    found = []
    for name, field in config.model_fields.items():
        extra: Any = field.json_schema_extra or {}
        mine = extra.get("kind", kind or "science")
        value = field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            found += [
                (part, _text(_inner(value, part.removeprefix(f"{prefix}{name}."))), part_kind, what)
                for part, _, part_kind, what in rows(type(value), f"{prefix}{name}.", mine)
            ]
        else:
            found.append(
                (
                    f"{prefix}{name}",
                    _text(value),
                    mine,
                    field.description or " / ".join(map(str, get_args(field.annotation))),
                )
            )
    return found


def table(method: str) -> str:
    """The settings of a method as a Markdown table."""
    lines = ["| field | default | kind | what it is |", "|---|---|---|---|"]
    for name, default, kind, what in rows(models.load(method).Config):
        lines.append(f"| `{name}` | {default} | {kind} | {what.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def written(path: Path) -> str:
    """The page with its table made anew."""
    return MARKED.sub(lambda found: found[1] + table(path.stem) + found[2], path.read_text(encoding="utf-8"))


def _inner(value: BaseModel, dotted: str) -> Any:
    found: Any = value
    for part in dotted.split("."):
        found = getattr(found, part)
    return found


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    for page in sorted(FOLDER.glob("*.md")):
        page.write_text(written(page), encoding="utf-8")
        print(page.name)
