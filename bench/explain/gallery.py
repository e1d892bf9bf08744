"""A page of pictures of the model itself (its prototypes) as one HTML file: no server, no script, no other file."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.explain.panels import CAUTION, WARNING, below, lines_of, picture, reading_rules, whole

if TYPE_CHECKING:
    from models.method import Panel


def write_gallery(panels: Sequence[Panel], path: Path, *, title: str, notes: Sequence[str] = ()) -> Path:
    """One entry for each line that the panels stand on: its pictures, and the words beside them.

    notes: paragraphs above the entries. Raises MachineError when the file cannot be written.
    """
    text = render(panels, title, notes)
    return whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def render(panels: Sequence[Panel], title: str, notes: Sequence[str]) -> str:
    """The page's HTML, its pictures within it. Everything that comes from data is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("gallery.html.j2").render(
        title=title,
        warning=WARNING,
        caution=CAUTION,
        notes=[*notes, reading_rules(panels)],
        entries=[_entry(line) for line in lines_of(panels)],
    )


def _entry(line: Sequence[Panel]) -> dict[str, Any]:
    heading, _, text = "\n".join(panel.beside for panel in line if panel.beside).partition("\n")
    return {
        "heading": heading or line[0].title,
        "text": text,
        "pictures": [
            {"title": panel.title, "caption": below(panel), "png": b64encode(picture(panel)).decode()} for panel in line
        ],
    }
