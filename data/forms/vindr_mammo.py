"""The phantom as VinDr-Mammo: two CSVs and a DICOM film of 12 bits for each image (docs/datasets/vindr_mammo.md)."""

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from data._vindr_csv import BREASTS, FINDINGS, MASS, NO_FINDING, OF_FILM, OF_FINDING
from data.forms import Form
from data.forms._files import pixels, rng, save_dicom, uid
from data.record import Finding, Record
from data.vindr_mammo import Label, Options, draw_normals

FORM = Form(
    dataset="vindr_mammo",
    title="VinDr-Mammo's two CSVs and DICOM films of 12 bits",
    options={"views": 4, "normal_share": 0.4, "masses": 2},
    quirks={
        "monochrome1": "a third of the films is stored inverted, as MONOCHROME1",
        "window": "the headers hold a window",
        "beyond": "a third of the boxes is drawn out beyond the edge of the film that is nearest",
        "several_categories": "a third of the rows names Mass and something else",
        "other_findings": "a fifth of the films has a calcification; those without a mass are neither mass nor normal",
        "birads": "a fifth of the films without finding is of a breast with BI-RADS 3; a third of the boxes has none",
        "extra_view": "a study has two L CC films, and no L MLO",
        "stray_id": "a series id holds a character that is no hex digit",
        "missing": "the first film with a mass is not on disk",
    },
)
BITS = 12


@dataclass
class _Image:
    """One film and what its rows say."""

    record: Record
    study: str
    series: str
    image: str
    view: str
    birads: int
    shape: tuple[int, ...] = ()  # height, width
    marked: list[tuple[Finding, dict[str, str]]] = field(default_factory=list)  # a finding and its columns

    @property
    def masses(self) -> int:
        return sum(finding.kind == "mass" for finding, _ in self.marked)

    @property
    def split(self) -> str:
        return "test" if self.record.official_split == "test" else "train"


def write(out: Path, films: Sequence[Record], quirks: frozenset[str], told: Callable[[], None]) -> list[Record]:
    """Both CSVs and images/<study>/<image>.dicom; validation exams count as training, as VinDr-Mammo has no such side."""
    images = [_image(record, quirks) for record in films]
    _breast_birads(images, quirks)
    if "extra_view" in quirks:
        _turn_one_view(images)
    if "stray_id" in quirks and images:
        stray = images[0].series
        for image in images:
            image.series = image.series.replace(stray, f"{stray[:5]}\u00b7{stray[6:]}")
    missing = next((image.image for image in images if image.masses and "missing" in quirks), "")
    for image in images:
        grey = pixels(image.record, BITS)
        image.shape = grey.shape
        if image.image != missing:
            _save(out, image, grey, quirks)
        told()
    _write_tables(out, images)
    labels = [Label(image.image, image.split, image.masses, not image.marked) for image in images]
    default = Options()
    drawn = draw_normals(labels, default.normals, default.draw_seed)
    chosen = [image for image in images if image.masses or image.image in drawn]
    return [_record(image) for image in chosen if image.image != missing]


def _name(*parts: str) -> str:
    """32 hex digits, as VinDr-Mammo's ids have."""
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]


def _hit(purpose: str, name: str, share: float) -> bool:
    return bool(rng(purpose, name).uniform() < share)


def _image(record: Record, quirks: frozenset[str]) -> _Image:
    study, series = _name("study", record.patient_id), _name("series", record.patient_id)
    image = _Image(record, study, series, _name("image", record.record_id), record.view, 1)
    for finding in record.findings:
        if finding.box is None:
            continue
        name = finding.finding_id
        box = [float(value) for value in finding.box]
        if "beyond" in quirks and _hit("beyond", name, 1 / 3):
            box = _beyond(box, record)
        also = "several_categories" in quirks and _hit("category", name, 1 / 3)
        worst = 4 + _hit("birads", name, 0.5) if finding.malignant else 3
        birads = "" if "birads" in quirks and _hit("no birads", name, 1 / 3) else f"BI-RADS {worst}"
        categories = [MASS, "Nipple Retraction"] if also else [MASS]
        image.marked.append((_told(finding, box), _columns(categories, birads, box)))
    if "other_findings" in quirks and _hit("calcification", record.record_id, 0.2):
        box = _calcification(record)
        other = Finding(f"{record.record_id}-calcification", record.record_id, kind="suspicious calcification")
        image.marked.append((_told(other, box), _columns(["Suspicious Calcification"], "BI-RADS 4", box)))
    return image


def _told(finding: Finding, box: list[float]) -> Finding:
    """The finding without what the CSVs cannot say."""
    x0, y0, x1, y1 = (int(value) for value in box)
    return replace(finding, box=(x0, y0, x1, y1), mask=None, fine_mask=None, margin=None, malignant=None)


def _columns(categories: list[str], birads: str, box: list[float]) -> dict[str, str]:
    values = (str(categories), birads, *(f"{value:.10f}" for value in box))
    return dict(zip(OF_FINDING, values, strict=True))


def _beyond(box: list[float], record: Record) -> list[float]:
    """The box with its side that is nearest to the film's edge a little beyond that edge."""
    height, width = record.image.read().shape
    edges = (0, 0, width, height)
    side = int(np.argmin([abs(corner - edge) for corner, edge in zip(box, edges, strict=True)]))
    reach = max(1.0, round(0.005 * height))  # most of the box stays on the film
    return [*box[:side], edges[side] + (reach if side > 1 else -reach), *box[side + 1 :]]


def _calcification(record: Record) -> list[float]:
    height, width = record.image.read().shape
    x, y = rng("place", record.record_id).uniform(0.2, 0.6, 2)
    return [float(round(value)) for value in (x * width, y * height, (x + 0.2) * width, (y + 0.1) * height)]


def _breast_birads(images: list[_Image], quirks: frozenset[str]) -> None:
    """A breast has the worst category of its films; 1 or 2 where nothing is marked."""
    breasts: dict[tuple[str, str], list[_Image]] = {}
    for image in images:
        breasts.setdefault((image.study, image.record.laterality), []).append(image)
    for key, views in breasts.items():
        worst = max((cells["finding_birads"] for image in views for _, cells in image.marked), default="")
        quiet = 3 if "birads" in quirks and _hit("breast", "|".join(key), 0.2) else 1 + _hit("2", "|".join(key), 0.25)
        for image in views:
            image.birads = int(worst[-1]) if worst else quiet


def _turn_one_view(images: list[_Image]) -> None:
    for image in images:
        if (image.record.laterality, image.view) == ("L", "MLO"):
            image.view = "CC"
            return


def _write_tables(out: Path, images: list[_Image]) -> None:
    with (
        (out / FINDINGS).open("w", encoding="utf-8", newline="") as found,
        (out / BREASTS).open("w", encoding="utf-8", newline="") as breasts,
    ):
        findings = csv.DictWriter(found, [*OF_FILM[:-1], *OF_FINDING, "split"], lineterminator="\n")
        films = csv.DictWriter(breasts, OF_FILM, lineterminator="\n")
        findings.writeheader(), films.writeheader()
        nothing = dict.fromkeys(OF_FINDING, "") | {"finding_categories": str([NO_FINDING])}
        for image in images:
            cells = (
                image.study, image.series, image.image, image.record.laterality, image.view, *image.shape,
                f"BI-RADS {image.birads}", f"DENSITY {str(image.record.attributes['density']).upper()}",
                {"train": "training", "test": "test"}[image.split],
            )  # fmt: skip
            film = dict(zip(OF_FILM, cells, strict=True))
            films.writerow(film)
            findings.writerows(film | row for row in [cells for _, cells in image.marked] or [nothing])


def _save(out: Path, image: _Image, grey: np.ndarray, quirks: frozenset[str]) -> None:
    inverted = "monochrome1" in quirks and _hit("inverted", image.image, 1 / 3)
    top = (1 << BITS) - 1
    save_dicom(
        out / "images" / image.study / f"{image.image}.dicom",
        top - grey if inverted else grey,
        stored=BITS,
        PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2",
        PatientID=image.study,
        StudyInstanceUID=uid(image.study),
        SeriesInstanceUID=uid(image.series, image.image),
        ImageLaterality=image.record.laterality,
        ViewPosition=image.view,
        WindowCenter=top / 2 + 0.5 if "window" in quirks else None,
        WindowWidth=top * 0.75 if "window" in quirks else None,
    )


def _record(image: _Image) -> Record:
    """As the reader gives it, but for ids."""
    return replace(
        image.record,
        dataset=FORM.dataset,
        patient_id=image.study,
        view=image.view,
        findings=tuple(finding for finding, _ in image.marked),
        has_mass=image.masses > 0,
        official_split=image.split,
        attributes={"density": image.record.attributes["density"], "breast_birads": float(image.birads)},
    )
