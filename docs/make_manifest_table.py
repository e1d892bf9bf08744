"""The table of columns in docs/datasets/manifest.md, from the reader: python -m docs.make_manifest_table"""

from pathlib import Path

from data.manifest import COLUMNS, NEEDED

PAGE = Path(__file__).parent / "datasets" / "manifest.md"
START, END = "<!-- columns -->\n", "<!-- end of columns -->"


def table() -> str:
    """One line per column."""
    rows = [f"| `{name}` | {'yes' if name in NEEDED else ''} | {meaning} |" for name, meaning in COLUMNS.items()]
    return "\n".join(["| column | needed | what it means |", "|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    PAGE.write_text(before + START + table() + END + rest.split(END)[1], encoding="utf-8")
