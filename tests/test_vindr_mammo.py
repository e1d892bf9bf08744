"""VinDr-Mammo as downloaded: rows in the form of its two CSVs, the balanced selection, films by name, wrong rows by name."""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import forms, phantom
from data._vindr_csv import BREASTS, FINDINGS, OF_FILM, OF_FINDING, read_films
from data.cache import prepare
from data.errors import DataError, LeakError
from data.forms._files import save_dicom
from data.record import Record, Report
from data.vindr_mammo import CARD, Label, Options, draw_normals, label_of, records

VIEWS = (("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO"))
NOTHING = "['No Finding'],,,,,"
# study: split, density, breast BI-RADS left and right, and the rows of L CC, L MLO, R CC, R MLO from finding_categories on
STUDIES: dict[str, tuple[str, str, str, list[list[str]]]] = {
    "a": ("training", "C", "14", [
        [NOTHING],
        [NOTHING],
        ["['Mass'],BI-RADS 4,36.0000000000,42.3800000000,48.0000000000,53.8200000000",
         "['Mass'],BI-RADS 3,10.0000000000,29.3600000000,18.0000000000,35.2600000000"],
        ['"[\'Mass\', \'Nipple Retraction\']",BI-RADS 4,48.0000000000,31.3000000000,60.8000000000,42.7400000000'],
    ]),
    "b": ("training", "B", "51", [
        ["['Suspicious Calcification'],BI-RADS 5,16.0000000000,15.4000000000,28.0000000000,26.4800000000",
         "['Skin Thickening'],,-1.2000000000,31.8000000000,14.0000000000,71.8000000000"],
        ['"[\'Suspicious Calcification\', \'Mass\']",,0.7000000000,27.9600000000,20.2000000000,48.0400000000'],
        [NOTHING],
        [NOTHING],
    ]),
    "c": ("training", "A", "12", [[NOTHING], [NOTHING], [NOTHING], [NOTHING]]),
    "d": ("test", "D", "31", [
        [NOTHING],
        ["['Mass'],BI-RADS 3,8.0000000000,-0.5000000000,20.0000000000,57.0600000000"],
        ["['Focal Asymmetry'],BI-RADS 3,6.0000000000,6.0000000000,20.2000000000,30.9600000000"],
        [NOTHING],
    ]),
    "e": ("test", "C", "13", [[NOTHING], [NOTHING], [NOTHING], [NOTHING]]),
}  # fmt: skip
HEIGHT, WIDTH = 80, 60


def name(*parts: object) -> str:
    """32 hex digits, as the ids of the collection are."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def film(study: str, position: int) -> str:
    return name("image", study, position)


def tables(studies: Iterable[str] = STUDIES) -> dict[str, list[str]]:
    """The lines of both CSVs."""
    head = ",".join(OF_FILM[:-1])
    lines = {FINDINGS: [f"{head},{','.join(OF_FINDING)},split"], BREASTS: [f"{head},split"]}
    for study in studies:
        split, density, birads, views = STUDIES[study]
        for position, (side, view) in enumerate(VIEWS):
            own = f"{name(study)},{name('series', study)},{film(study, position)},{side},{view},{HEIGHT},{WIDTH}"
            own += f",BI-RADS {birads[side == 'R']},DENSITY {density}"
            lines[BREASTS].append(f"{own},{split}")
            lines[FINDINGS] += [f"{own},{row},{split}" for row in views[position]]
    return lines


def tree(folder: Path, lines: dict[str, list[str]] | None = None, films: bool = False) -> Path:
    """The CSVs, and a file for each film: empty, since a reader decodes nothing, or a DICOM film."""
    folder.mkdir(parents=True, exist_ok=True)
    for table, rows in (lines or tables()).items():
        (folder / table).write_text("\n".join(rows) + "\n", encoding="utf-8")
    for study in STUDIES:
        for position in range(4):
            path = folder / "images" / name(study) / f"{film(study, position)}.dicom"
            path.parent.mkdir(parents=True, exist_ok=True)
            if films:
                rng = np.random.default_rng([ord(study), position])
                save_dicom(path, rng.integers(0, 4096, (HEIGHT, WIDTH), dtype=np.uint16), stored=12)
            else:
                path.write_bytes(b"")
    return folder


def read(root: Path, *, skip_bad: bool = False, **options: Any) -> tuple[list[Record], Report]:
    report = Report(skip_bad=skip_bad)
    return list(records(root, Options(**options), report)), report


def by_film(found: Iterable[Record]) -> dict[str, Record]:
    """Records by the stem of their file."""
    return {Path(record.image.name).stem: record for record in found}


# ---- rows -----------------------------------------------------------------------------------------------------------
def test_rows_become_films_and_findings(tmp_path: Path) -> None:
    found, report = read(tree(tmp_path), selection="all")
    films = by_film(found)
    assert len(films) == 20 and not report.left_out
    two, also, normal = films[film("a", 2)], films[film("a", 3)], films[film("a", 0)]
    assert (two.laterality, two.view, two.official_split, two.patient_id) == ("R", "CC", "train", name("a"))
    assert dict(two.attributes) == {"density": "c", "breast_birads": 4.0}
    assert [finding.box for finding in two.findings] == [(36, 42, 48, 54), (10, 29, 18, 36)]
    assert [finding.attributes["assessment"] for finding in two.findings] == [4.0, 3.0]
    assert len({finding.finding_id for finding in two.findings} | {f.lesion_id for f in two.findings}) == 2
    assert [f.kind for f in also.findings] == ["mass"]
    assert also.findings[0].attributes["categories"] == "Mass, Nipple Retraction"
    assert normal.findings == () and normal.has_mass is False and normal.attributes["breast_birads"] == 1.0
    assert all((f.malignant, f.margin, f.mask) == (None, None, None) for record in found for f in record.findings)


def test_findings_besides_masses_are_of_their_own_kind(tmp_path: Path) -> None:
    films = by_film(read(tree(tmp_path), selection="all")[0])
    other, mass = films[film("b", 0)], films[film("b", 1)]
    assert [f.kind for f in other.findings] == ["suspicious calcification", "skin thickening"]
    assert other.has_mass is None and films[film("d", 2)].has_mass is None
    assert [f.attributes["assessment"] for f in other.findings] == [5.0, None]
    assert mass.has_mass is True and [f.kind for f in mass.findings] == ["mass"]
    assert mass.findings[0].attributes["assessment"] is None
    assert sum(record.has_mass is False for record in films.values()) == 14


def test_it_is_prepared_and_boxes_are_clipped(tmp_path: Path) -> None:
    root = tree(tmp_path / "vindr", films=True)
    prepared = prepare("vindr_mammo", root, {"selection": "all"}, tmp_path / "cache")
    assert prepared.counts()["detection"] == {"train": {"normal": 8, "mass": 3}, "test": {"normal": 6, "mass": 1}}
    assert prepared.passport["boxes_clipped"] == 3 and prepared.passport["patients"] == 5
    assert prepared.passport["kinds"]["mass"] == 5
    table = prepared.table
    assert set(map(tuple, table[table["kind"] == "mass"][["x0", "y0", "x1", "y1"]].to_numpy().tolist())) == {
        (36, 42, 48, 54), (10, 29, 18, 36), (48, 31, WIDTH, 43), (0, 27, 21, 49), (8, 0, 20, 58),
    }  # fmt: skip
    assert table.loc[table["kind"] == "skin thickening", "x0"].tolist() == [0]


def test_published_counts_are_those_of_a_prepared_set(tmp_path: Path) -> None:
    for selection in ("balanced", "all"):
        prepared = prepare("vindr_mammo", tree(tmp_path / "v", films=True), {"selection": selection}, tmp_path / "c")
        here = {name: pair["here"] for name, pair in prepared.passport["published"].items()}
        assert here == {"mass films": 4, "masses": 5, "train/masses": 4, "test/masses": 1}
    assert CARD.published_counts["train/masses"] + CARD.published_counts["test/masses"] == 1226


def test_a_resized_copy_is_refused_since_its_boxes_would_lie_elsewhere(tmp_path: Path) -> None:
    root = tree(tmp_path / "vindr", films=True)
    path = root / "images" / name("a") / f"{film('a', 2)}.dicom"
    save_dicom(path, np.arange(1200, dtype=np.uint16).reshape(40, 30), stored=12)
    with pytest.raises(DataError, match=rf"40 x 30 pixels, its row says 80 x 60.*{FINDINGS}, row 3"):
        prepare("vindr_mammo", root, None, tmp_path / "cache")
    prepared = prepare("vindr_mammo", root, None, tmp_path / "cache", skip_bad=True)
    assert {"reason": "film of another size than its row says", "count": 1} in prepared.passport["left_out"]


def test_ids_are_text_and_order_does_not_matter(tmp_path: Path) -> None:
    lines = tables()
    plain, _ = read(tree(tmp_path / "a", lines))
    turned = {table: [rows[0], *reversed(rows[1:])] for table, rows in lines.items()}
    stray = {
        table: [row.replace(name("series", "c"), "080c6e\u00b7 7") for row in rows] for table, rows in turned.items()
    }
    assert stray != turned
    other, _ = read(tree(tmp_path / "b", stray))

    def facts(found: list[Record]) -> set[tuple[Any, ...]]:
        return {(r.record_id, r.has_mass, frozenset((f.finding_id, f.box) for f in r.findings)) for r in found}

    assert facts(plain) == facts(other)


# ---- the selection --------------------------------------------------------------------------------------------------
def test_the_balanced_selection_counts_what_it_leaves_out(tmp_path: Path) -> None:
    root = tree(tmp_path)
    found, report = read(root)
    assert Counter((r.official_split, r.has_mass) for r in found) == {
        ("train", True): 3, ("train", False): 3, ("test", True): 1, ("test", False): 1,
    }  # fmt: skip
    assert report.left_out == {"normal film that was not drawn": 10, "film with findings, none of them a mass": 2}


def test_as_many_normal_films_as_rows_that_name_a_mass(tmp_path: Path) -> None:
    found, _ = read(tree(tmp_path), normals="per_row")
    normal = Counter(record.official_split for record in found if record.has_mass is False)
    rows = Counter(r.official_split for r in found for f in r.findings if f.kind == "mass")
    assert normal == rows == {"train": 4, "test": 1}
    assert len(found) == 9  # a film with two masses stays one sample
    fewer, _ = read(tmp_path)
    assert {r.record_id for r in fewer} < {r.record_id for r in found}


def test_normal_may_ask_for_a_breast_without_suspicion(tmp_path: Path) -> None:
    root = tree(tmp_path)
    doubtful = {film("d", 0), film("e", 2), film("e", 3)}
    any_, _ = read(root, selection="all")
    healthy, report = read(root, selection="all", normal_birads="1-2")
    assert {stem for stem, r in by_film(any_).items() if r.has_mass is False} - {
        stem for stem, r in by_film(healthy).items() if r.has_mass is False
    } == doubtful
    assert len(any_) == len(healthy) and all(by_film(healthy)[stem].has_mass is None for stem in doubtful)
    for seed in range(5):
        found, report = read(root, normal_birads="1-2", draw_seed=seed)
        assert not doubtful & set(by_film(found))
        assert report.left_out["film without finding whose breast has not BI-RADS 1 or 2"] == 3


def test_the_draw_is_seeded_and_does_not_depend_on_the_files(tmp_path: Path) -> None:
    root = tree(tmp_path)
    drawn = {seed: frozenset(by_film(read(root, draw_seed=seed)[0])) for seed in range(8)}
    assert len(set(drawn.values())) > 1 and drawn[0] == frozenset(by_film(read(root)[0]))
    gone = sorted(stem for stem, r in by_film(read(root)[0]).items() if r.has_mass is False)[0]
    next(root.rglob(f"{gone}.dicom")).unlink()
    found, report = read(root, skip_bad=True)
    assert frozenset(by_film(found)) == drawn[0] - {gone} and report.left_out["film not on disk"] == 1


LABELS = st.lists(
    st.builds(
        lambda image, split, masses, normal: Label(f"{image:032x}", split, masses, normal and not masses),
        st.integers(0, 1 << 128), st.sampled_from(["train", "test"]), st.integers(0, 3), st.booleans(),
    ),
    unique_by=lambda label: label.image,
)  # fmt: skip


@given(LABELS, st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_draw_is_of_normal_films_as_many_as_asked_whatever_their_order(
    labels: list[Label], seed: int, order: Any
) -> None:
    per_image, per_row = (draw_normals(labels, normals, seed) for normals in ("per_image", "per_row"))
    for split in ("train", "test"):
        own = [label for label in labels if label.split == split]
        pool = {label.image for label in own if label.normal}
        assert len(per_image & pool) == min(len(pool), sum(label.masses > 0 for label in own))
        assert len(per_row & pool) == min(len(pool), sum(label.masses for label in own))
    assert per_image <= per_row <= {label.image for label in labels if label.normal}
    order.shuffle(labels)
    assert draw_normals(labels, "per_row", seed) == per_row


def test_the_test_draw_does_not_depend_on_the_training_films() -> None:
    labels = [Label(name(i), "test", int(i < 5), i >= 5) for i in range(40)]
    more = [Label(name("t", i), "train", int(i < 3), i >= 3) for i in range(30)]
    assert draw_normals(labels, "per_image", 0) == draw_normals(labels + more, "per_image", 0) & {
        label.image for label in labels
    }


def whole(folder: Path) -> None:
    """CSVs with the measured numbers of the collection; how masses lie on films is made up (900 and 213 films)."""
    findings, breasts = [], []
    number = 0
    # films of a split: with a mass, with another finding alone, in all; rows of a second mass, of another finding
    for split, masses, others, films, second, beside in (
        ("training", 900, 500, 16000, 89, 302), ("test", 213, 155, 4000, 24, 71),
    ):  # fmt: skip
        for i in range(films):
            study, image = name("study", split, i // 4), name("film", number)
            number += 1
            side, view = VIEWS[i % 4]
            own = f"{study},{study},{image},{side},{view},3518,2800,BI-RADS 1,DENSITY C"
            breasts.append(f"{own},{split}")
            rows = [NOTHING]
            if i < masses:
                rows = ["['Mass'],BI-RADS 4,10.0,10.0,90.0,90.0"]
                rows += ["['Mass'],BI-RADS 3,200.0,210.0,290.0,290.0"] * (i < second)
                rows += ["['Asymmetry'],BI-RADS 3,10.0,10.0,90.0,90.0"] * (i < beside)
            elif i < masses + others:
                rows = ["['Suspicious Calcification'],BI-RADS 4,10.0,10.0,90.0,90.0"]
            findings += [f"{own},{row},{split}" for row in rows]
    tables_ = {FINDINGS: findings, BREASTS: breasts}
    for table, rows in tables_.items():
        (folder / table).write_text("\n".join([tables()[table][0], *rows]) + "\n", encoding="utf-8")


def test_whole_tables_give_the_counts_of_the_paper(tmp_path: Path) -> None:
    whole(tmp_path)
    report = Report()
    films = read_films(tmp_path / FINDINGS, tmp_path / BREASTS, report)
    assert len(films) == 20000 and not report.left_out
    labels = [label_of(film, Options()) for film in films]
    masses = [label for label in labels if label.masses]
    assert (len(masses), sum(label.normal for label in labels)) == (1113, 18232)
    drawn = draw_normals(labels, "per_row", 0)
    paper = {
        split: sum(label.masses + (label.image in drawn) for label in labels if label.split == split)
        for split in ("train", "test")
    }
    assert paper == {"train": 1978, "test": 474}
    assert len(draw_normals(labels, "per_image", 0)) == len(masses)


def test_a_film_for_each_row_as_in_the_paper(tmp_path: Path) -> None:
    root = tmp_path / "form"
    forms.write_form(root, "vindr_mammo", forms.suited("vindr_mammo", 16, {"size": 64}))
    rows = {"samples": "per_row", "normals": "per_row", "normal_birads": "any"}
    one, each = (list(records(root, Options.model_validate(o), Report())) for o in ({"normals": "per_row"}, rows))
    masses = [finding for record in one for finding in record.findings if finding.kind == "mass"]
    films = [record for record in each if record.has_mass]
    assert len(films) == len(masses) > sum(bool(record.has_mass) for record in one)
    assert all(len(record.findings) == 1 for record in films)
    assert {record.findings[0].finding_id for record in films} == {mass.finding_id for mass in masses}
    assert len({record.record_id for record in each}) == len(each)
    prepared = prepare("vindr_mammo", root, rows, tmp_path / "cache")
    sides = prepared.split().sides_of(prepared.table)
    assert prepared.table.assign(side=sides).groupby("image_hash")["side"].nunique().max() == 1
    assert prepared.table["boxes_complete"].all()


# ---- files ----------------------------------------------------------------------------------------------------------
def test_films_are_found_by_name_wherever_they_lie(tmp_path: Path) -> None:
    root = tree(tmp_path / "v")
    (root / "images").rename(root / "vindr-mammo-1.0.0")
    path = next(root.rglob(f"{film('a', 2)}.dicom"))
    path.rename(root / f"{film('a', 2)}.dcm")
    (root / FINDINGS).rename(root / "vindr-mammo-1.0.0" / FINDINGS)
    found, _ = read(root)
    assert len(found) == 8 and film("a", 2) in by_film(found)


def test_of_two_files_the_one_in_its_study_counts(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "copy").mkdir()
    (root / "copy" / f"{film('a', 2)}.dicom").write_bytes(b"")
    assert by_film(read(root)[0])[film("a", 2)].image.name == f"images/{name('a')}/{film('a', 2)}.dicom"
    (root / "images" / name("a") / f"{film('a', 2)}.dcm").write_bytes(b"")
    with pytest.raises(DataError, match=r"several files of one film.*row 3"):
        read(root)


def test_a_film_that_is_not_there_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path)
    next(root.rglob(f"{film('a', 2)}.dicom")).unlink()
    with pytest.raises(DataError, match=rf"film '{film('a', 2)}' of study.*{FINDINGS}, row 3"):
        read(root)
    for path in root.rglob("*.dicom"):
        path.unlink()
    with pytest.raises(DataError, match="none of the 8 films that are asked for is on disk"):
        read(root, skip_bad=True)


@pytest.mark.parametrize("table", [FINDINGS, BREASTS])
def test_tables_that_are_not_there_or_not_whole(table: str, tmp_path: Path) -> None:
    root = tree(tmp_path)
    text = (root / table).read_text()
    (root / "old").mkdir()
    (root / "old" / table).write_text(text)
    assert len(read(root)[0]) == 8
    (root / "old" / table).write_text(text + "\n,")
    with pytest.raises(DataError, match="2 files of this name differ"):
        read(root)
    (root / "old" / table).unlink()
    for column in ("image_id", "split"):
        (root / table).write_text(text.replace(column, "other", 1))
        with pytest.raises(DataError, match=rf"no column '{column}' \({table}\)"):
            read(root)
    (root / table).unlink()
    with pytest.raises(DataError, match=f"CSV is missing.*{table}"):
        read(root)


def test_no_folder() -> None:
    with pytest.raises(DataError, match="no folder with VinDr-Mammo"):
        records(None, Options(), Report())


# ---- wrong rows -----------------------------------------------------------------------------------------------------
D1 = "['Mass'],BI-RADS 3,8.0000000000,-0.5000000000,20.0000000000,57.0600000000"  # row 16, of the film d 1
# what is replaced, by what, what is said. All of it in row 16 of finding_annotations.csv
WRONG = {
    "no list": ("['Mass'],BI-RADS 3,8", "Mass,BI-RADS 3,8", "finding_categories is 'Mass', no list of words"),
    "broken list": ("['Mass'],BI-RADS 3,8", "['Mass,BI-RADS 3,8", "no list of words"),
    "empty list": ("['Mass'],BI-RADS 3,8", "[],BI-RADS 3,8", "no list of words"),
    "code": ("['Mass'],BI-RADS 3,8", "[__import__('os')],BI-RADS 3,8", "no list of words"),
    "deep": ("['Mass'],BI-RADS 3,8", f"[{'not ' * 9000}a],BI-RADS 3,8", "no list of words"),
    "numbers": ("['Mass'],BI-RADS 3,8", "[1],BI-RADS 3,8", "no list of words"),
    "unknown category": ("['Mass'],BI-RADS 3,8", "['Lump'],BI-RADS 3,8", "finding_categories is 'Lump', known are 'Mass'"),
    "category twice": ("['Mass'],BI-RADS 3,8", "\"['Mass', 'Mass']\",BI-RADS 3,8", "contradicts itself"),
    "nothing and a mass": ("['Mass'],BI-RADS 3,8", "\"['No Finding', 'Mass']\",BI-RADS 3,8", "contradicts itself"),
    "nothing with a box": ("['Mass'],BI-RADS 3,8", "['No Finding'],,8", "a row of No Finding has xmin"),
    "nothing with a grade": (D1, "['No Finding'],BI-RADS 2,,,,", "a row of No Finding has finding_birads"),
    "no box": (D1, "['Mass'],BI-RADS 3,,,,", "xmin of a finding is empty"),
    "half a box": (D1, "['Mass'],BI-RADS 3,8.0,1.0,20.0,", "ymax of a finding is empty"),
    "inverted box": (D1, "['Mass'],BI-RADS 3,20.0,1.0,8.0,57.0", "the box 20 1 8 57 has no area: xmin < xmax"),
    "flat box": (D1, "['Mass'],BI-RADS 3,8.0,57.0,20.0,57.0", "has no area"),
    "nan": (D1, "['Mass'],BI-RADS 3,8.0,nan,20.0,57.0", "ymin is 'nan', a number was expected"),
    "infinite": (D1, "['Mass'],BI-RADS 3,8.0,1.0,inf,57.0", "xmax is 'inf', a number"),
    "words": (D1, "['Mass'],BI-RADS 3,8.0,1.0,wide,57.0", "xmax is 'wide', a number"),
    "box beside the film": (D1, "['Mass'],BI-RADS 3,-9.0,1.0,0.0,57.0", r"lies outside of the film \(60 x 80\)"),
    "box below the film": (D1, "['Mass'],BI-RADS 3,8.0,80.0,20.0,87.0", r"lies outside of the film \(60 x 80\)"),
    "grade of a finding": ("['Mass'],BI-RADS 3,8", "['Mass'],BI-RADS 9,8", "finding_birads is 'BI-RADS 9', known are"),
}  # fmt: skip
# likewise, in row 18 of breast-level_annotations.csv too where the value stands in both
OF_BOTH = {
    "split": (",test", ",validation", "split is 'validation', known are 'training', 'test'"),
    "laterality": (",L,MLO,", ",LEFT,MLO,", "laterality is 'LEFT', known are 'L', 'R'"),
    "view": (",L,MLO,", ",L,ML,", "view_position is 'ML', known are 'CC', 'MLO'"),
    "size": (",80,60,", ",80,60.5,", "width is '60.5', pixels were expected"),
    "no size": (",80,60,", ",0,60,", "height is '0', pixels were expected"),
    "density": ("DENSITY D", "DENSITY E", "breast_density is 'DENSITY E'"),
    "birads": ("BI-RADS 3,DENSITY", ",DENSITY", "breast_birads is ''"),
    "climbing": (film("d", 1), "../../etc/passwd", "image_id '../../etc/passwd' is a path"),
    "separator": (film("d", 1), "a\\b", "image_id .* is a path"),
    "climbing study": (name("d"), "..", "study_id '..' is a path"),
    "no id": (film("d", 1), "", "image_id is empty"),
}


def changed(lines: list[str], row: int, old: str, new: str) -> list[str]:
    """The lines with one row changed; rows count from 1 below the header."""
    assert old in lines[row]
    return [line.replace(old, new, 1) if number == row else line for number, line in enumerate(lines)]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_finding_is_named_and_its_film_left_out(wrong: str, tmp_path: Path) -> None:
    old, new, said = WRONG[wrong]
    lines = tables()
    root = tree(tmp_path, lines | {FINDINGS: changed(lines[FINDINGS], 16, old, new)})
    with pytest.raises(DataError, match=rf"{said}.*\({FINDINGS}, row 16\); .*--skip-bad") as error:
        read(root)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    found, report = read(root, selection="all", skip_bad=True)
    assert len(found) == 19 and film("d", 1) not in by_film(found)
    assert [problem["row"] for problem in report.problems][:1] == [16]


@pytest.mark.parametrize("wrong", OF_BOTH)
def test_a_wrong_film_is_named_in_either_table(wrong: str, tmp_path: Path) -> None:
    old, new, said = OF_BOTH[wrong]
    lines = tables()
    both = {FINDINGS: changed(lines[FINDINGS], 16, old, new), BREASTS: changed(lines[BREASTS], 14, old, new)}
    for table, row in ((FINDINGS, 16), (BREASTS, 14)):
        root = tree(tmp_path, lines | {table: both[table]})
        with pytest.raises(DataError, match=rf"{said}.*\({table}, row {row}\)"):
            read(root)
    found, report = read(tree(tmp_path, both), selection="all", skip_bad=True)
    assert len(found) == 19 and len(report.problems) == 2


def test_a_wrong_row_of_a_breast_is_one_problem_not_two(tmp_path: Path) -> None:
    lines = tables()
    root = tree(tmp_path, lines | {BREASTS: changed(lines[BREASTS], 14, "DENSITY D", "DENSITY E")})
    found, report = read(root, selection="all", skip_bad=True)
    assert len(found) == 19 and [problem["row"] for problem in report.problems] == [14]
    assert report.left_out["row of a film with another row that cannot be used"] == 1


@pytest.mark.parametrize("column", [name for name in OF_FILM if name != "image_id"])
def test_the_tables_agree(column: str, tmp_path: Path) -> None:
    other = {
        "study_id": name("z"), "series_id": name("y"), "laterality": "R", "view_position": "CC", "height": "81",
        "width": "61", "breast_birads": "BI-RADS 2", "breast_density": "DENSITY A", "split": "training",
    }[column]  # fmt: skip
    lines = tables()
    cells = lines[BREASTS][14].split(",")
    cells[OF_FILM.index(column)] = other
    root = tree(tmp_path, lines | {BREASTS: [*lines[BREASTS][:14], ",".join(cells), *lines[BREASTS][15:]]})
    with pytest.raises(DataError, match=rf"{column} is .*, in {BREASTS}, row 14, '{other}' \({FINDINGS}, row 16\)"):
        read(root)
    found, report = read(root, selection="all", skip_bad=True)
    assert len(found) == 19 and report.left_out == {"rows that disagree": 1}


def test_films_stand_in_both_tables(tmp_path: Path) -> None:
    lines = tables()
    root = tree(tmp_path, lines | {BREASTS: lines[BREASTS][:-1]})
    with pytest.raises(DataError, match=rf"image '{film('e', 3)}' has no row in {BREASTS} \({FINDINGS}, row 22\)"):
        read(root)
    tree(tmp_path, lines | {FINDINGS: lines[FINDINGS][:-1]})
    with pytest.raises(DataError, match=rf"image '{film('e', 3)}' has no row in {FINDINGS} \({BREASTS}, row 20\)"):
        read(root)
    found, report = read(root, selection="all", skip_bad=True)
    assert len(found) == 19 and report.left_out == {"image in one of the CSVs only": 1}


def test_rows_that_are_there_twice(tmp_path: Path) -> None:
    lines = tables()
    for row, said in ((16, "the same finding as in row 16"), (1, "No Finding and another row")):
        root = tree(tmp_path, lines | {FINDINGS: [*lines[FINDINGS], lines[FINDINGS][row]]})
        with pytest.raises(DataError, match=rf"{said}.*{FINDINGS}, row 23"):
            read(root)
    denied = lines[FINDINGS][16].replace(D1, NOTHING)
    root = tree(tmp_path, lines | {FINDINGS: [*lines[FINDINGS], denied]})
    with pytest.raises(DataError, match=rf"No Finding and another row \(16\).*{FINDINGS}, row 23"):
        read(root)
    root = tree(tmp_path, lines | {BREASTS: [*lines[BREASTS], lines[BREASTS][3]]})
    with pytest.raises(DataError, match=rf"stands in row 3, too.*{BREASTS}, row 21"):
        read(root)


def test_a_film_with_one_wrong_row_is_not_given_with_the_others(tmp_path: Path) -> None:
    """One that lost a finding would look normal, or have its finds counted as false."""
    lines = tables()
    rows = changed(lines[FINDINGS], 4, "['Mass']", "['Lump']")  # the second of the film a 2
    found, report = read(tree(tmp_path, lines | {FINDINGS: rows}), skip_bad=True, selection="all")
    assert film("a", 2) not in by_film(found) and len(found) == 19
    assert report.left_out == {
        "label outside the known set": 1,
        "row of a film with another row that cannot be used": 1,
    }


@pytest.mark.parametrize(("table", "row"), [(FINDINGS, 4), (FINDINGS, 16), (BREASTS, 14)])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_ragged_row_refuses_its_table(table: str, row: int, skip_bad: bool, tmp_path: Path) -> None:
    """Which film it is of cannot be told: film a 2 of row 4 would be given with one of its two findings."""
    lines = tables()
    for ragged in (lines[table][row] + ",", lines[table][row].partition(",")[2]):
        root = tree(tmp_path, lines | {table: [*lines[table][:row], ragged, *lines[table][row + 1 :]]})
        with pytest.raises(DataError, match=rf"its film cannot be told \({table}, row {row}\)"):
            read(root, selection="all", skip_bad=skip_bad)


def test_a_study_on_both_sides_is_refused(tmp_path: Path) -> None:
    lines = tables()
    moved = {
        table: [row.replace(",training", ",test") if film("c", 3) in row else row for row in rows]
        for table, rows in lines.items()
    }
    for skip_bad in (False, True):
        with pytest.raises(LeakError, match=rf"is in training and in test \(row 11\).*{FINDINGS}, row 14"):
            read(tree(tmp_path, moved), skip_bad=skip_bad)


# ---- the form -------------------------------------------------------------------------------------------------------
def write(folder: Path, *quirks: str, **options: Any) -> tuple[Path, list[dict[str, str]]]:
    """A tree of the form, and the rows of its findings."""
    forms.write_form(folder, "vindr_mammo", forms.suited("vindr_mammo", 12, {"size": 64} | options), quirks)
    with (folder / FINDINGS).open(encoding="utf-8", newline="") as stream:
        return folder, list(csv.DictReader(stream))


def test_the_form_has_the_films_and_boxes_of_the_phantom(tmp_path: Path) -> None:
    root, rows = write(tmp_path / "form")
    options = forms.suited("vindr_mammo", 12, {"size": 64})
    films = [record for exam in phantom.exams(options) for record in exam.records()]
    found, report = read(root, selection="all")
    assert not report.left_out and len(found) == len(films) == 48

    def facts(record: Record) -> tuple[Any, ...]:
        boxes = tuple(finding.box for finding in record.findings)
        return record.laterality, record.view, record.has_mass, record.attributes["density"], boxes

    assert [facts(record) for record in found] == [facts(record) for record in films]
    assert all(
        np.array_equal(a.image.read(), b.image.read() * 4095.0 // 255) for a, b in zip(found, films, strict=True)
    )
    assert {len(row[key]) for row in rows for key in ("study_id", "series_id", "image_id")} == {32}


def test_each_quirk_of_the_form_does_what_it_says(tmp_path: Path) -> None:
    root, plain = write(tmp_path / "plain")
    headers = {path.stem: pydicom.dcmread(path) for path in root.rglob("*.dicom")}
    assert {(h.PhotometricInterpretation, h.BitsStored, "WindowWidth" in h) for h in headers.values()} == {
        ("MONOCHROME2", 12, False)
    }

    inverted, _ = write(tmp_path / "monochrome1", "monochrome1")
    kinds = Counter(pydicom.dcmread(path).PhotometricInterpretation for path in inverted.rglob("*.dicom"))
    assert 6 <= kinds["MONOCHROME1"] <= 26
    same = by_film(read(root, selection="all")[0])
    for stem, record in by_film(read(inverted, selection="all")[0]).items():
        assert np.array_equal(*(pixels - pixels.min() for pixels in (record.image.read(), same[stem].image.read())))
    window, _ = write(tmp_path / "window", "window")
    assert all("WindowWidth" in pydicom.dcmread(path) for path in window.rglob("*.dicom"))

    def rows(quirk: str) -> list[dict[str, str]]:
        return write(tmp_path / quirk, quirk)[1]

    beyond = [row for row in rows("beyond") if row["xmin"]]
    out = [
        float(r["xmin"]) < 0 or float(r["ymin"]) < 0 or float(r["xmax"]) > 40 or float(r["ymax"]) > 64 for r in beyond
    ]
    assert 0 < sum(out) < len(out)
    assert any(", '" in row["finding_categories"] for row in rows("several_categories"))
    assert any(row["finding_categories"] == "['Suspicious Calcification']" for row in rows("other_findings"))
    birads = rows("birads")
    assert any(row["breast_birads"] == "BI-RADS 3" for row in birads if not row["xmin"])
    assert {row["finding_birads"] for row in birads if row["xmin"]} > {"", "BI-RADS 3"}
    assert not any(row["finding_birads"] == "" for row in plain if row["xmin"])
    turned = Counter((row["study_id"], row["laterality"], row["view_position"]) for row in rows("extra_view"))
    assert len(turned) == len({(row["study_id"], row["laterality"], row["view_position"]) for row in plain}) - 1
    assert sum(not set(row["series_id"]) <= set("0123456789abcdef") for row in rows("stray_id")) >= 4
    lacking, _ = write(tmp_path / "missing", "missing")
    assert len(list(lacking.rglob("*.dicom"))) == len(headers) - 1
    with pytest.raises(DataError, match="is not there"):
        read(lacking)


def test_validation_exams_of_the_phantom_count_as_training(tmp_path: Path) -> None:
    root, rows = write(tmp_path / "form", exams={"train": 2, "validation": 2, "test": 1})
    assert Counter(row["split"] for row in {row["image_id"]: row for row in rows}.values()) == {
        "training": 16,
        "test": 4,
    }
    assert {record.official_split for record in read(root)[0]} <= {"train", "test"}


def test_validation_is_carved_from_the_training_studies(tmp_path: Path) -> None:
    root, rows = write(tmp_path / "form")
    prepared = prepare("vindr_mammo", root, None, tmp_path / "cache")
    split = prepared.split()
    assert split.source == "official, validation carved from train"
    sides = split.table.groupby("side")["patient"].agg(set)
    assert not sides["train"] & sides["test"] and sides["validation"] and not sides["validation"] & sides["train"]
    test = {row["study_id"] for row in rows if row["split"] == "test"}
    assert {r.patient_id for r in read(root)[0] if r.official_split == "test"} <= test
