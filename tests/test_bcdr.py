"""BCDR as downloaded: the form of its CSVs, the paper's selection; on made-up films."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data import forms
from data.bcdr import CARD, F01_DRAW, Options, records
from data.cache import prepare
from data.errors import ConfigError, DataError
from data.record import Record, Report, public_id
from tests.bcdr_tree import HEADER, labels, line, read, save


# ---- rows -----------------------------------------------------------------------------------------------------------
def test_rows_become_films_and_findings(tmp_path: Path) -> None:
    rows = (
        line(901, 1, view=4),
        line(901, 2, view=2, density=" "),
        line(902, 3, view=1, lesion=2, density="4", label="Malign", flags="1, 0, 0, 1, 0"),
        line(902, 4, view=1, lesion=3, density="4", label="Malignant"),
        line(903, 5, view=3, lesion=4, density="NaN"),
    )
    found, _ = read(save(tmp_path, *rows))
    lo, lcc, rcc, ro = found
    assert [(r.laterality, r.view) for r in found] == [("L", "MLO"), ("L", "CC"), ("R", "CC"), ("R", "MLO")]
    assert [r.attributes["density"] for r in found] == ["a", None, "d", None]
    assert [r.has_mass for r in found] == [True] * 4 and lo.patient_id == lcc.patient_id != rcc.patient_id
    assert lo.findings[0].lesion_id == lcc.findings[0].lesion_id != ro.findings[0].lesion_id
    assert [f.malignant for f in rcc.findings] == [True, True] and [f.kind for f in rcc.findings] == ["mass"] * 2
    assert len({f.finding_id for r in found for f in r.findings}) == 5 and lo.findings[0].margin is None
    assert lo.findings[0].mask is not None and lo.findings[0].mask.read().sum() == 21 * 31  # its border included
    assert "901" not in "".join((lo.record_id, lo.findings[0].finding_id, lo.findings[0].lesion_id))


def test_it_is_prepared(tmp_path: Path) -> None:
    root = save(tmp_path / "own", line(901, 1), line(902, 2, view=1, label="Malign"))
    prepared = prepare("bcdr", root, {"sets": "d01"}, tmp_path / "cache")
    assert prepared.counts()["malignancy"] == {"none": {"benign": 1, "malignant": 1}}
    row = prepared.table.iloc[0]
    assert (row["x0"], row["y0"], row["x1"], row["y1"], row["area_px"]) == (10, 20, 31, 51, 21 * 31)
    assert CARD.tracks == ("malignancy",) and "normal" not in CARD.provides


def test_other_findings_are_told_by_their_flags_and_are_no_masses(tmp_path: Path) -> None:
    rows = (
        line(901, 1),
        line(901, 2, nodule=0, flags="1, 0, 0, 0, 0"),
        line(902, 3, view=1, nodule=0, flags="0, 1, 0, 1, 0"),
        line(903, 4, view=1, nodule=0, flags="0, 0, 1, 0, 1"),
        line(904, 5, view=1, nodule=0),
    )
    root = save(tmp_path, *rows)
    found, report = read(root)
    assert [[f.kind for f in r.findings] for r in found] == [["mass"]]
    assert report.left_out == {
        "not a mass: calcification": 1,
        "not a mass: microcalcification and architectural distortion": 1,
        "not a mass: axillary adenopathy and stroma distortion": 1,
        "not a mass: other": 1,
    }
    found, report = read(root, selection="all")
    assert [len(r.findings) for r in found] == [2, 1, 1, 1] and not report.left_out
    assert [r.has_mass for r in found] == [True, None, None, None]


WRONG = {
    "ragged": ("901, 1201, 1", "more or fewer values than the header"),
    "patient": (line("", 2), "patient_id is empty"),  # type: ignore[arg-type]
    "lesion": (line(902, 2, lesion=""), "lesion_id is empty"),
    "view": (line(902, 2, view=5), "image_view is '5', known are '1', '2', '3', '4'"),
    "view of the name": (
        line(902, 2, view=1, image="a/img_1_LO.tif"),
        "image_view 1 is not the view in the film's name, LO",
    ),
    "class": (line(902, 2, label="Cancer"), "classification is 'cancer', known are 'benign', 'malign'"),
    "flag": (line(902, 2, nodule=2), "mammography_nodule is '2'"),
    "other flag": (line(902, 2, flags="0, x, 0, 0, 0"), "mammography_microcalcification is 'x'"),
    "density": (line(902, 2, density="5"), "density is '5'"),
    "words": (line(902, 2, x="10 ten 30 10"), "not whole numbers"),
    "fractions": (line(902, 2, x="10 10.5 30 10"), "not whole numbers"),
    "commas for blanks": (line(902, 2, x="10;10;30;10"), "not whole numbers"),
    "lengths": (line(902, 2, x="10 30 30"), "lw_x_points has 3 values, lw_y_points 4"),
    "two points": (line(902, 2, x="10 30", y="5 6"), "outline of 2 points, 3 are the least"),
    "no points": (line(902, 2, x="", y=""), "outline of 0 points"),
    "far": (line(902, 2, x=f"10 30 {10**30} 10"), "coordinate beyond 100000 pixels"),
    "twice": (line(901, 1), "the same segmentation as in row 1"),
    "way out": (line(902, 2, image="../../img_1_LO.tif"), "leads out of the set's folder"),
    "way out of Windows": (line(902, 2, image="a\\..\\..\\img_1_LO.tif"), "leads out of the set's folder"),
    "absolute": (line(902, 2, image="/img_1_LO.tif"), "leads out of the set's folder"),
    "drive": (line(902, 2, image="C:\\img_1_LO.tif"), "leads out of the set's folder"),
    "no image": (line(902, 2, image="readme.txt"), "a .tif or .png was expected"),
    "long name": (line(902, 2, image="1" * 300 + ".tif"), "is not there"),
    "film": (line(902, 2, image="x/img_2_LO.tif"), "film x/img_2_LO.tif is not there"),
    "patients of a film": (
        line(902, 2, image="patient_901/study_901/img_901_901_1_LO.tif"),
        "patient_id is '902', in row 1",
    ),
    "densities of a film": (line(901, 2, density="3"), "density is 'c', in row 1 of the same film 'a'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_row_is_named(wrong: str, tmp_path: Path) -> None:
    row, said = WRONG[wrong]
    root = save(tmp_path, line(901, 1))
    save(tmp_path, line(901, 1), row, films=False)
    with pytest.raises(DataError) as error:
        read(root)
    text = str(error.value)
    assert said in text and "BCDR-D01_dataset/bcdr_d01_outlines.csv, row 2" in text and "\n" not in text
    found, report = read(root, skip_bad=True)
    assert len(found) == 1 and sum(report.left_out.values()) == 1 and report.problems[0]["row"] == 2


@pytest.mark.parametrize("column", ["patient_id", "image_view", "lw_x_points", "mammography_nodule", "classification"])
def test_a_missing_column_is_named(column: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no column '{column}'.*bcdr_d01_outlines"):
        read(save(tmp_path, line(), header=HEADER.replace(column, "gone", 1)))


cell = st.text(st.characters(exclude_characters='\r\n\0"', codec="utf-8"), max_size=40) | st.sampled_from(
    [
        "",
        "1",
        "0",
        "-1",
        "NaN",
        "Benign",
        "10 30 30",
        "1" * 5000,
        "x/" * 300 + "a.tif",
        "patient_901/study_901/img_901_901_1_LO.tif",
    ]
)


@given(cells=st.lists(cell, min_size=19, max_size=19), at=st.sets(st.integers(0, 18), max_size=4))
def test_whatever_a_row_says_it_is_used_or_named(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str], at: set[int]
) -> None:
    """A good row with some of its cells exchanged, below another one that is good."""
    root = tmp_path_factory.mktemp("rows")
    save(root, line(901, 1))
    row = line(901, 2).split(", ")
    save(root, line(901, 1), ", ".join(cells[i] if i in at else row[i] for i in range(19)), films=False)
    found, report = read(root, skip_bad=True)
    assert len(found[0].findings) + sum(report.left_out.values()) == 2


def test_every_row_of_a_film_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    root = save(tmp_path, line(901, 1), line(901, 2), line(902, 3, view=1))
    (root / "BCDR-D01_dataset" / "patient_901" / "study_901" / "img_901_901_1_LO.tif").unlink()
    found, report = read(root, skip_bad=True)
    assert len(found) == 1 and report.left_out == {"film not on disk": 2}


@pytest.mark.parametrize(("named", "there"), [(".tif", ".png"), (".png", ".tif"), (".tif", ".tiff"), (".TIF", ".TIF")])
def test_a_film_is_found_in_the_other_format(named: str, there: str, tmp_path: Path) -> None:
    root = save(tmp_path, line(image=f"img_1_LO{named}"), films=False)
    grey = np.arange(80 * 64, dtype=np.uint8).reshape(80, 64)
    Image.fromarray(grey).save(root / "BCDR-D01_dataset" / f"img_1_LO{there}")
    [record] = read(root)[0]
    assert record.findings[0].mask is not None and record.findings[0].mask.read().shape == record.image.read().shape


def test_ids_do_not_depend_on_the_folder_or_the_format(tmp_path: Path) -> None:
    [one], [two] = (read(save(tmp_path / name, line(), folder=f"{name}/BCDR-D01"))[0] for name in ("a", "b"))
    assert (one.record_id, one.findings[0].finding_id) == (two.record_id, two.findings[0].finding_id)


# ---- sets -----------------------------------------------------------------------------------------------------------
def test_the_sets_count_their_patients_apart(tmp_path: Path) -> None:
    save(save(tmp_path, line()), line(), name="f01")
    d01, f01 = read(tmp_path, sets="d01+f01")[0]
    assert d01.patient_id != f01.patient_id and d01.record_id != f01.record_id
    assert d01.findings[0].lesion_id != f01.findings[0].lesion_id
    assert [r.attributes["set"] for r in (d01, f01)] == ["d01", "f01"]
    assert [r.patient_id for r in read(tmp_path, sets="f01")[0]] == [f01.patient_id]


def test_the_set_may_stand_in_the_folder_name_alone(tmp_path: Path) -> None:
    save(tmp_path, line(), folder="bcdr d01")
    (tmp_path / "bcdr d01" / "bcdr_d01_outlines.csv").rename(tmp_path / "bcdr d01" / "my_outlines.csv")
    assert len(read(tmp_path)[0]) == 1


def test_other_sets_are_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, line())
    for place in ("BCDR-D02_dataset/bcdr_d02_outlines.csv", "BCDR/some_outlines.csv", "x/d01_f01_outlines.csv"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(HEADER)
        with pytest.raises(DataError, match=rf"neither BCDR-D01 nor BCDR-F01 \({place}"):
            read(tmp_path)
        found, report = read(tmp_path, skip_bad=True)
        assert len(found) == 1 and report.left_out == {"outlines of another set": 1}
        (tmp_path / place).unlink()


def test_a_set_that_is_not_there_or_twice_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no outlines of BCDR-D01 .*--data-root"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"no outlines of BCDR-F01.*--set sets=d01"):
        read(save(tmp_path, line()), sets="d01+f01")
    with pytest.raises(DataError, match="2 files hold the outlines of BCDR-D01"):
        read(save(tmp_path, line(), folder="copy"))
    with pytest.raises(DataError, match="no folder with BCDR"):
        read(tmp_path / "nowhere")


# ---- the paper's selection ------------------------------------------------------------------------------------------
def whole(root: Path, *, shuffle: int | None = None, f01: tuple[int, int] = (113, 118)) -> Path:
    """Both sets with the published numbers of masses; F01 with another finding in every film. Films are empty files."""
    for name, (benign, malignant) in {"d01": (85, 56), "f01": f01}.items():
        rows = [
            line(i // 2, i, lesion=i, view=1 + i % 2, label="Benign" if i < benign else "Malign")
            for i in range(benign + malignant)
        ]
        rows += [line(i // 2, 1000 + i, view=1 + i % 2, nodule=0, flags="0, 1, 0, 0, 0") for i in range(20)]
        if shuffle is not None:
            random.Random(shuffle).shuffle(rows)
        save(root, *rows, name=name, films=False)
        for row in rows:
            path = root / f"BCDR-{name.upper()}_dataset" / row.split(",")[6].strip()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


def ids(found: list[Record]) -> set[str]:
    return {finding.finding_id for record in found for finding in record.findings}


def test_the_selection_of_paper_003(tmp_path: Path) -> None:
    root = whole(tmp_path)
    found, report = read(root, sets="d01+f01")
    assert labels(found) == {False: 144, True: 130} and len(ids(found)) == 274
    published = CARD.published_counts
    assert (published["masses"], published["benign"], published["malignant"]) == (274, 144, 130)
    assert report.left_out == {"mass of F01 that was not drawn": 231 - 133, "not a mass: microcalcification": 40}
    assert labels(read(root, sets="d01")[0]) == {False: 85, True: 56}
    assert labels(read(root, sets="f01")[0]) == F01_DRAW == {False: 59, True: 74}
    everything = [f for r in read(root, sets="d01+f01", selection="all")[0] for f in r.findings]
    assert sum(f.kind == "mass" for f in everything) == 85 + 56 + 231 and len(everything) == 85 + 56 + 231 + 40


def test_the_draw_depends_on_its_seed_alone(tmp_path: Path) -> None:
    root = whole(tmp_path / "a")
    first = ids(read(root, sets="f01")[0])
    assert first == ids(read(root, sets="f01")[0]) == ids(read(whole(tmp_path / "b", shuffle=3), sets="f01")[0])
    assert public_id("draw", *sorted(first)) == "draw-8c6b68c68d6b"  # results name the seed: it must keep its meaning
    other = ids(read(root, sets="f01", draw_seed=1)[0])
    assert len(other) == 133 and 0 < len(first & other) < 133


def test_the_draw_does_not_look_at_the_disk(tmp_path: Path) -> None:
    root = whole(tmp_path)
    before = read(root, sets="f01")[0]
    lost = before[5]
    (root / lost.image.name).unlink()
    after, report = read(root, sets="f01", skip_bad=True)
    assert ids(after) == ids(before) - ids([lost]) and report.left_out["film not on disk"] == len(lost.findings)


def test_a_mass_that_was_not_drawn_leaves_its_film(tmp_path: Path) -> None:
    """One film with all of F01's masses: it stays, with those that were drawn."""
    rows = [line(901, i, lesion=i, label="Benign" if i < 113 else "Malign") for i in range(231)]
    [record], report = read(save(tmp_path, *rows, name="f01"), sets="f01")
    assert labels([record]) == F01_DRAW and report.left_out == {"mass of F01 that was not drawn": 98}


def test_too_few_to_be_drawn_are_all_taken_and_it_is_said(tmp_path: Path) -> None:
    found, report = read(whole(tmp_path, f01=(40, 80)), sets="f01")
    assert labels(found) == {False: 40, True: 74}
    said = "not there to be drawn: benign mass of F01, 59 are asked for"
    assert report.left_out[said] == 19 and report.left_out["mass of F01 that was not drawn"] == 6


# ---- the phantom in this form ---------------------------------------------------------------------------------------
def test_the_form_is_that_of_the_collection(tmp_path: Path) -> None:
    forms.write_form(tmp_path / "form", "bcdr", forms.suited("bcdr", 4, {"size": 64}))
    for name in ("d01", "f01"):
        text = (tmp_path / "form" / f"bcdr_{name}" / f"bcdr_{name}_outlines.csv").read_text()
        header, *rows = text.splitlines()
        assert header == HEADER and rows and all(len(row.split(", ")) == 19 for row in rows)


def test_the_form_leaves_the_draw_no_choice(tmp_path: Path) -> None:
    """A phantom with more masses than are drawn from F01 puts the rest into D01, so that what it knows is right."""
    options = forms.suited("bcdr", 260, {"size": 64, "views": 2})
    document = forms.write_form(tmp_path / "form", "bcdr", options)
    report = Report()
    found = list(records(tmp_path / "form", Options(), report))
    assert sum(len(r.findings) for r in found) == document["known"]["findings"] == 520
    assert "mass of F01 that was not drawn" not in report.left_out
    assert len([r for r in found if r.attributes["set"] == "f01"]) > 100


def test_the_form_wants_a_mass_for_each_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no mass for BCDR-F01"):
        forms.write_form(tmp_path / "form", "bcdr", forms.suited("bcdr", 1, {"size": 64}))


def test_a_film_says_which_lesions_it_lost(tmp_path: Path) -> None:
    """Undrawn and refused masses: a hit on one would count as false. Other lesions bar a film from lesion-free regions."""
    rows = [line(901, i, lesion=i) for i in range(60)]
    [record], _ = read(save(tmp_path / "f", *rows, name="f01"), sets="f01")
    assert (len(record.findings), record.unlisted, record.other_lesions) == (59, 1, 0)
    root = save(
        tmp_path / "d", line(901, 1), line(901, 2, label="odd"), line(902, 3), line(902, 4, nodule=0, flags="1, 0, 0, 0, 0"),
        line(903, 5), line(903, 6, nodule=0, flags="1, 0, 0, 0, 0", label="odd"), line(904, 7),
    )  # fmt: skip
    found, _ = read(root, skip_bad=True)
    assert [(r.unlisted, r.other_lesions) for r in found] == [(1, 0), (0, 1), (0, 1), (0, 0)]
    table = prepare("bcdr", root, {"sets": "d01"}, tmp_path / "cache", skip_bad=True).table.set_index("record_id")
    assert table.loc[[r.record_id for r in found], "boxes_complete"].tolist() == [False, True, True, True]
    assert table.loc[[r.record_id for r in found], "lesions_known"].tolist() == [False, False, False, True]
