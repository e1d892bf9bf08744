"""VinDr-Mammo as downloaded: digital mammograms with boxes, for mass against normal (docs/datasets/vindr_mammo.md).

Nguyen et al. 2023, "VinDr-Mammo: A large-scale benchmark dataset for computer-aided diagnosis in full-field digital
mammography", Scientific Data 10, 277. There is no pathology: BI-RADS is a reading.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from data._csv import Refusal
from data._vindr_csv import BREASTS, FINDINGS, MASS, SPLIT, Film, Marked, read_films
from data._walk import find_table, walk
from data.dicom import DicomFile
from data.errors import DataError
from data.record import DataCard, Finding, Record, Report, public_id
from data.record import Options as BaseOptions

CARD = DataCard(
    name="vindr_mammo",
    title="VinDr-Mammo, films with a mass against normal ones",
    version=1,
    tracks=("detection",),
    provides=frozenset({"box", "normal"}),
    licence="on signing PhysioNet's data use agreement; not to be passed on",
    source="PhysioNet, vindr-mammo 1.0.0, doi 10.13026/br2v-7517: both CSVs and the folder images",
    published_counts={  # of the default selection and of every film alike
        "mass films": 1113,
        "masses": 1226,
        "train/masses": 989,
        "test/masses": 237,
    },
)
SUFFIXES = (".dicom", ".dcm")
HEALTHY = (1.0, 2.0)  # BI-RADS: negative, benign
FETCH = "point --data-root at the folder that holds the two CSVs and the films (docs/datasets/vindr_mammo.md)"
REST = "download the rest of the collection"


class Options(BaseOptions):
    """What may be asked of VinDr-Mammo."""

    selection: Literal["balanced", "all"] = Field(
        default="balanced",
        description="balanced: the films with a mass and as many normal ones in either split; all: every film",
    )
    normals: Literal["per_image", "per_row"] = Field(
        default="per_image",
        description="balanced: one normal film for each film with a mass, or for each row that names Mass",
    )
    samples: Literal["per_image", "per_row"] = Field(
        default="per_image",
        description="per_row: a film with several masses is a sample for each of them, with that box alone, as in paper 004",
    )
    normal_birads: Literal["any", "1-2"] = Field(
        default="any",
        description="which films without a finding are normal: all, or those whose breast has BI-RADS 1 or 2",
    )
    draw_seed: int = Field(default=0, ge=0, description="which normal films are drawn")


class Label(NamedTuple):
    """What the balanced selection looks at in a film."""

    image: str
    split: str  # train | test
    masses: int  # rows that name Mass
    normal: bool


def label_of(film: Film, options: Options) -> Label:
    """What the selection sees of a film under these options."""
    healthy = options.normal_birads == "any" or film.birads in HEALTHY
    return Label(film.image, film.split, film.masses, not film.findings and healthy)


def draw_normals(labels: Iterable[Label], normals: str, seed: int) -> frozenset[str]:
    """The normal films of a balanced selection: in each split as many as films with a mass, or as rows that name one.

    All of them where there are fewer. Depends on the labels alone: not on their order, nor on the files on disk; the
    splits are drawn apart, and the draw of `per_row` holds that of `per_image`.
    """
    known = sorted(labels)
    drawn: set[str] = set()
    for stream, split in enumerate(SPLIT.values()):
        own = [label for label in known if label.split == split]
        wanted = sum(label.masses if normals == "per_row" else min(label.masses, 1) for label in own)
        pool = [label.image for label in own if label.normal]
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(stream,))))
        drawn.update(pool[i] for i in rng.permutation(len(pool))[:wanted])
    return frozenset(drawn)


@dataclass(frozen=True)
class SizedFile(DicomFile):
    """A film that has to be as large as its row says: its boxes are in these pixels, and a resized copy has others."""

    height: int = 0
    width: int = 0

    def read(self) -> np.ndarray:
        """As DicomFile; raises DataError for a film of another size, too."""
        pixels = super().read()
        if pixels.shape != (self.height, self.width):
            sizes = f"{pixels.shape[0]} x {pixels.shape[1]} pixels, its row says {self.height} x {self.width}"
            raise DataError(f"film of another size than its row says: it has {sizes}", self.where, "restore the film")
        return pixels


def records(root: Path | None, options: Options, report: Report) -> Iterator[Record]:
    """One Record for each film that is asked for, in the order of finding_annotations.csv, with a Finding for each box.

    Reads the CSVs and the folder's list, no film. A row that cannot be used and a film that is not there are problems of
    `report`; what the selection does not take is left out, counted. Raises DataError, and LeakError for a study in
    training and test.
    """
    if root is None or not root.is_dir():
        raise DataError("no folder with VinDr-Mammo", "--data-root", FETCH)
    paths = list(walk(root))
    findings, breasts = (root / find_table(root, paths, name, FETCH) for name in (FINDINGS, BREASTS))
    films = read_films(findings, breasts, report)
    chosen = list(_chosen(films, options, report))
    files: dict[str, list[str]] = {}
    for path in map(PurePosixPath, paths):
        if path.suffix.lower() in SUFFIXES:
            files.setdefault(path.stem, []).append(path.as_posix())
    if chosen and not any(film.image in files for film in chosen):
        raise DataError(f"none of the {len(chosen)} films that are asked for is on disk", "--data-root", FETCH)
    return _records(root, chosen, files, options, report)


def _chosen(films: list[Film], options: Options, report: Report) -> Iterator[Film]:
    """The films of the selection; the others are counted."""
    if options.selection == "all":
        yield from films
        return
    labels = [label_of(film, options) for film in films]
    drawn = draw_normals(labels, options.normals, options.draw_seed)
    for film, label in zip(films, labels, strict=True):
        if label.masses or film.image in drawn:
            yield film
        elif label.normal:
            report.leave_out("normal film that was not drawn")
        elif film.findings:
            report.leave_out("film with findings, none of them a mass")
        else:
            report.leave_out("film without finding whose breast has not BI-RADS 1 or 2")


def _records(
    root: Path, films: list[Film], files: dict[str, list[str]], options: Options, report: Report
) -> Iterator[Record]:
    for film in films:
        try:
            path = _path(film, files.get(film.image, []))
        except Refusal as refusal:
            report.problem(FINDINGS, film.number, refusal.message, refusal.do, refusal.reason)
            continue
        label = label_of(film, options)
        record = Record(
            dataset=CARD.name,
            record_id=public_id(CARD.name, "film", film.image),
            patient_id=film.study,
            laterality=film.laterality,
            view=film.view,
            image=SizedFile(root, path, cited=FINDINGS, row=film.number, height=film.height, width=film.width),
            findings=tuple(_finding(film.image, marked) for marked in film.findings),
            # a film with another finding shows no mass, and is not normal either
            has_mass=True if label.masses else False if label.normal else None,
            official_split=film.split,
            attributes={"density": film.density, "breast_birads": film.birads},
        )
        yield from _per_mass(record) if options.samples == "per_row" and label.masses > 1 else (record,)


def _per_mass(record: Record) -> Iterator[Record]:
    """The film once for each of its masses, with that mass alone: as the rows of paper 004's code."""
    masses = [finding for finding in record.findings if finding.kind == "mass"]
    for place, mass in enumerate(masses):
        own = public_id(CARD.name, "row", record.record_id, mass.finding_id)
        yield replace(record, record_id=record.record_id if place == 0 else own, findings=(mass,))


def _path(film: Film, paths: list[str]) -> str:
    """The film's file; of several the one in the study's folder. Raises Refusal."""
    own = [path for path in paths if PurePosixPath(path).parent.name == film.study] or paths
    if not own:
        raise Refusal(f"film {film.image!r} of study {film.study!r} is not there", "film not on disk", REST)
    if len(own) > 1:
        raise Refusal(f"several files of one film: {', '.join(own[:2])}", "several files of one film", "leave one")
    return own[0]


def _finding(image: str, marked: Marked) -> Finding:
    """Boxes stay as they are: `prepare` clips to the film, and counts it. No finding is known to show in both views."""
    own = public_id(CARD.name, "finding", image, *marked.categories, *map(str, marked.box))
    return Finding(
        finding_id=own,
        lesion_id=own,
        kind="mass" if MASS in marked.categories else marked.categories[0].lower(),
        box=marked.box,
        attributes={"assessment": marked.assessment, "categories": ", ".join(marked.categories)},
    )
