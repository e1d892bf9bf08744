"""An example reader: a folder with findings.csv, films as PNG and masks as PNG (docs/adding_a_dataset.md).

One line of findings.csv per finding: patient, side (L or R), view (CC or MLO), image, mask, malignant (0 or 1).
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from data.dicom import ImageFile
from data.errors import DataError
from data.record import DataCard, Finding, Options, Record, Report, public_id

CARD = DataCard(
    name="png_folder",
    title="A folder of PNG films with masks",
    version=1,
    tracks=("malignancy",),
    provides=frozenset({"malignant", "mask", "box"}),
    licence="yours",
    source="a folder with findings.csv",
)
COLUMNS = {"patient", "side", "view", "image", "mask", "malignant"}
LABELS = {"0": False, "1": True}


def records(root: Path, options: Options, report: Report) -> Iterator[Record]:
    """One record per film, in the order of the CSV. Raises DataError for a CSV without a column that is needed."""
    with (root / "findings.csv").open(newline="", encoding="utf-8") as stream:
        table = csv.DictReader(stream)
        missing = COLUMNS - set(table.fieldnames or ())
        if missing:
            raise DataError(
                f"no column {sorted(missing)[0]!r}", "findings.csv", f"give the columns {', '.join(sorted(COLUMNS))}"
            )
        films: dict[str, list[tuple[int, dict[str, str]]]] = {}
        for number, row in enumerate(table, start=1):
            films.setdefault(row["image"], []).append((number, row))
    for image, rows in films.items():
        findings = tuple(_finding(root, number, row) for number, row in rows if _usable(root, number, row, report))
        if findings:
            first = rows[0][1]
            yield Record(
                dataset=CARD.name,
                record_id=public_id(CARD.name, image),
                patient_id=first["patient"],
                laterality=first["side"],
                view=first["view"],
                image=ImageFile(root, image),
                findings=findings,
                has_mass=True,
            )


def _usable(root: Path, number: int, row: dict[str, str], report: Report) -> bool:
    """Whether a row can be used; what cannot is told to the report, which stops here unless --skip-bad was given."""
    for name in ("image", "mask"):
        if not (root / row[name]).is_file():
            report.problem("findings.csv", number, f"no file {row[name]}", f"add the {name}", f"{name} not on disk")
            return False
    if row["malignant"] not in LABELS:
        report.problem(
            "findings.csv", number, f"malignant = {row['malignant']!r}", "write 0 or 1", "label outside the known set"
        )
        return False
    return True


def _finding(root: Path, number: int, row: dict[str, str]) -> Finding:
    return Finding(
        finding_id=public_id(CARD.name, row["image"], str(number)),
        lesion_id=public_id(CARD.name, row["patient"], row["side"]),
        malignant=LABELS[row["malignant"]],
        mask=ImageFile(root, row["mask"], mask=True),
    )
