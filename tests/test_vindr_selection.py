"""The balanced selection of VinDr-Mammo: what it counts, and what it draws."""

from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from data import forms
from data._vindr_csv import BREASTS, FINDINGS, read_films
from data.cache import prepare
from data.record import Report
from data.vindr_mammo import Label, Options, draw_normals, label_of, records
from tests.vindr_tree import NOTHING, VIEWS, by_film, film, name, read, tables, tree


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
