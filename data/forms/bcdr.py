"""The phantom as BCDR-D01 and BCDR-F01: a CSV of outlines and films of 8 bits for each set (docs/datasets/bcdr.md).

Patients go to the two sets by turns; F01 takes them as long as it has no more masses than the reader draws from it, so
that the draw takes all. BCDR has no normal films: those of the phantom are not written.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from data._polygon import traced
from data.bcdr import F01_DRAW, MASS, OTHER, VIEWS
from data.errors import ConfigError
from data.forms import Form
from data.forms._files import pixels, save_image
from data.record import Finding, Record

FORM = Form(
    dataset="bcdr",
    title="two sets, each with a CSV of outlines and films as TIFF",
    quirks={
        "png": "the films are PNG, the CSV names TIFF",
        "nan_density": "no density: NaN or nothing",
        "flags": "masses have other flags as well",
        "other_findings": "rows of calcifications, too",
        "missing": "every fifth film is not there",
        "malignant_word": "Malignant in place of Malign",
    },
)
HEADER = (
    "patient_id", "study_id", "series", "lesion_id", "segmentation_id", "image_view", "image_filename", "lw_x_points",
    "lw_y_points", "mammography_type", MASS, *OTHER, "age", "density", "classification",
)  # fmt: skip
NAMED_VIEWS = {"1": "RCC", "2": "LCC", "3": "RO", "4": "LO"}
CODES = {view: code for code, view in VIEWS.items()}
DENSITY = {"a": "1", "b": "2", "c": "3", "d": "4"}


def write(out: Path, films: Sequence[Record], quirks: frozenset[str], told: Callable[[], None]) -> list[Record]:
    """`bcdr_d01` and `bcdr_f01`. Raises ConfigError where one of them would be empty."""
    tables: dict[str, list[dict[str, str]]] = {"d01": [], "f01": []}
    drawn: Counter[bool | None] = Counter()
    found: list[Record] = []
    shown = 0
    for number, (_, group) in enumerate(groupby(films, key=lambda record: record.patient_id), start=1):
        own = [_as_read(record) for record in group]
        masses = Counter(finding.malignant for record in own for finding in record.findings)
        fits = all(drawn[malignant] + masses[malignant] <= most for malignant, most in F01_DRAW.items())
        name = "f01" if fits and len(tables["f01"]) < len(tables["d01"]) else "d01"
        drawn.update(masses if name == "f01" else ())
        for record in own:
            if record.findings:
                image = _image(number, record)
                tables[name] += _rows(number, record, image, len(tables[name]), quirks)
                shown += 1
                if "missing" not in quirks or shown % 5:
                    path = out / f"bcdr_{name}" / image
                    save_image(path.with_suffix(".png") if "png" in quirks else path, pixels(record))
                    found.append(record)
            told()
    for name, rows in tables.items():
        if not rows:
            raise ConfigError(f"no mass for BCDR-{name.upper()}", "exams", "ask for two exams with a mass at least")
        lines = [",".join(HEADER), *(", ".join(row[column] for column in HEADER) for row in rows)]
        (out / f"bcdr_{name}").mkdir(exist_ok=True)
        (out / f"bcdr_{name}" / f"bcdr_{name}_outlines.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return found


def _as_read(record: Record) -> Record:
    """What the form can say of a film: no margin, no fine mask, no side; its masses alone."""
    findings = tuple(
        replace(finding, margin=None, fine_mask=None, box=None)
        for finding in record.findings
        if finding.mask is not None
    )
    return replace(record, findings=findings, has_mass=True if findings else None, official_split=None)


def _image(patient: int, record: Record) -> str:
    named = NAMED_VIEWS[CODES[record.laterality, record.view]]
    return f"patient_{patient}/study_{patient}/img_{patient}_{patient}_1_{named}.tif"


def _rows(patient: int, record: Record, image: str, before: int, quirks: frozenset[str]) -> Iterator[dict[str, str]]:
    """A row for each mass, and with the quirk one for a calcification. before: rows that the set has so far."""
    density = DENSITY[str(record.attributes["density"])]
    row = dict.fromkeys(OTHER, "0") | {
        "patient_id": str(patient),
        "study_id": str(patient),
        "series": "1",
        "image_view": CODES[record.laterality, record.view],
        "image_filename": image,
        "mammography_type": "1",
        "age": "50",
        "density": ("NaN", "")[patient % 2] if "nan_density" in quirks else density,
    }
    rows = [(finding, {MASS: "1"}) for finding in record.findings]
    if "flags" in quirks:
        also = {"mammography_calcification": "1", "mammography_stroma_distortion": "1"}
        rows = [(finding, flags | also) for finding, flags in rows]
    if "other_findings" in quirks:
        rows.append((record.findings[0], {MASS: "0", "mammography_microcalcification": "1"}))
    for number, (finding, flags) in enumerate(rows):
        ids = {"lesion_id": _lesion(finding, flags), "segmentation_id": str(before + number + 1)}
        yield row | flags | ids | _outline(finding) | {"classification": _word(finding, quirks)}


def _lesion(finding: Finding, flags: dict[str, str]) -> str:
    """A number that the views of a lesion share."""
    return str(int(finding.lesion_id.rsplit("-", 1)[-1][:7], 16) * 2 + (flags[MASS] == "1"))


def _outline(finding: Finding) -> dict[str, str]:
    assert finding.mask is not None  # `_as_read` kept no other
    xs, ys = zip(*traced(finding.mask.read()), strict=True)
    return {"lw_x_points": " ".join(map(str, xs)), "lw_y_points": " ".join(map(str, ys))}


def _word(finding: Finding, quirks: frozenset[str]) -> str:
    if not finding.malignant:
        return "Benign"
    return "Malignant" if "malignant_word" in quirks else "Malign"
