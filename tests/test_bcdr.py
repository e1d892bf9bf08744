"""BCDR as downloaded: the form of its CSVs, the paper's selection, outlines as masks; on made-up films."""

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from data import forms
from data._polygon import Outline, filled, traced
from data.bcdr import CARD, F01_DRAW, Options, records
from data.cache import prepare
from data.dicom import ImageFile
from data.errors import ConfigError, DataError
from data.phantom import Options as Phantom
from data.phantom import exams
from data.record import Record, Report, public_id

HEADER = (
    "patient_id,study_id,series,lesion_id,segmentation_id,image_view,image_filename,lw_x_points,lw_y_points,mammography_type,"
    "mammography_nodule,mammography_calcification,mammography_microcalcification,mammography_axillary_adenopathy,"
    "mammography_architectural_distortion,mammography_stroma_distortion,age,density,classification"
)
NAMED = {1: "RCC", 2: "LCC", 3: "RO", 4: "LO"}


def line(
    patient: int = 901,
    segmentation: int = 1,
    *,
    lesion: object = 1,
    view: object = 4,
    image: str = "",
    x: str = "10 30 30 10",
    y: str = "20 20 50 50",
    nodule: object = 1,
    flags: str = "0, 0, 0, 0, 0",
    density: str = "1",
    label: str = "Benign",
) -> str:
    """A row as the collection has it: a blank after each comma."""
    name = image or f"patient_{patient}/study_{patient}/img_{patient}_{patient}_1_{NAMED.get(view, 'LO')}.tif"  # type: ignore[call-overload]
    return (
        f"{patient}, {patient}, 1, {lesion}, {segmentation}, {view}, {name}, {x}, {y}, 1, {nodule}, {flags}, 62, "
        f"{density}, {label}"
    )


def save(root: Path, *rows: str, name: str = "d01", folder: str = "", header: str = HEADER, films: bool = True) -> Path:
    place = root / (folder or f"BCDR-{name.upper()}_dataset")
    place.mkdir(parents=True, exist_ok=True)
    (place / f"bcdr_{name}_outlines.csv").write_text("\n".join([header, *rows]) + "\n")
    for number, row in enumerate(rows if films else ()):
        path = place / row.split(",")[6].strip()
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = np.random.default_rng(number).integers(0, 255, (80, 64), dtype=np.uint8)
        Image.fromarray(grey).save(path)
    return root


def read(root: Path, *, skip_bad: bool = False, **options: object) -> tuple[list[Record], Report]:
    report = Report(skip_bad=skip_bad)
    return list(records(root, Options.model_validate({"sets": "d01"} | options), report)), report


def labels(found: list[Record]) -> dict[bool | None, int]:
    findings = [finding for record in found for finding in record.findings]
    return {malignant: sum(f.malignant is malignant for f in findings) for malignant in (False, True)}


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


# ---- outlines -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> ImageFile:
    root = tmp_path_factory.mktemp("film")
    Image.fromarray(np.zeros((14, 12), dtype=np.uint8)).save(root / "film.tif")
    return ImageFile(root, "film.tif")


def outline(film: ImageFile, *points: tuple[float, float]) -> Outline:
    return Outline(points, film, "outlines.csv", 7)


Corner = tuple[int, int]


def by_hand(points: list[Corner], x: int, y: int) -> bool | None:
    """Whether a pixel's centre is inside (crossings of a ray are odd); None on the polygon itself."""
    inside = False
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        side = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
        if side == 0 and min(x0, x1) <= x <= max(x0, x1) and min(y0, y1) <= y <= max(y0, y1):
            return None
        if (y0 > y) != (y1 > y) and (side > 0) == (y1 > y0):
            inside = not inside
    return inside


@given(st.lists(st.tuples(st.integers(-4, 16), st.integers(-4, 18)), min_size=3, max_size=8))
def test_filling_is_the_even_odd_rule(points: list[Corner]) -> None:
    mask = filled(points, (14, 12))
    if mask is None:
        xs, ys = zip(*points, strict=True)
        assert min(xs) < 0 or min(ys) < 0 or max(xs) > 11 or max(ys) > 13
        return
    expected = {(x, y): by_hand(points, x, y) for x in range(12) for y in range(14)}
    assert not [place for place, inside in expected.items() if inside not in (None, bool(mask[place[1], place[0]]))]
    assert all(mask[y, x] for x, y in points if 0 <= x < 12 and 0 <= y < 14)


numbers = st.one_of(st.integers(-30, 30), st.floats(-30, 30), st.floats(-1e9, 1e9), st.integers(-(10**9), 10**9))


@given(points=st.lists(st.tuples(numbers, numbers), min_size=3, max_size=12))
@example(points=[(3, 3)] * 3)
@example(points=[(0.2, 0.2), (0.4, 0.2), (0.3, 0.4)])
def test_an_outline_is_a_mask_of_its_film_or_a_problem(film: ImageFile, points: list[tuple[float, float]]) -> None:
    try:
        mask = outline(film, *points).read()
    except DataError as error:
        assert error.where == "outlines.csv, row 7"
    else:
        assert mask.shape == (14, 12) and mask.dtype == bool and mask.any()


def test_an_outline_is_cut_at_the_films_edge(film: ImageFile) -> None:
    mask = outline(film, (-2, 4), (5, 4), (5, 8), (-2, 8)).read()
    assert mask.sum() == 6 * 5 and mask[4:9, :6].all()


@pytest.mark.parametrize(
    "points", [[(20, 20), (30, 20), (30, 30)], [(-9, 3), (-2, 3), (-2, 9)], [(2, 2), (60, 2), (60, 9)]]
)
def test_an_outline_of_a_larger_film_is_a_problem(points: list[Corner], tmp_path: Path) -> None:
    """As where films were made smaller, and the outlines were not."""
    x, y = (" ".join(str(10 * point[axis]) for point in points) for axis in (0, 1))
    root = save(tmp_path / "own", line(901, 1), line(902, 2, x=x, y=y))
    with pytest.raises(DataError, match=r"outside of its film of 64 x 80 pixels.*outlines\.csv, row 2"):
        prepare("bcdr", root, {"sets": "d01"}, tmp_path / "cache")
    assert prepare("bcdr", root, {"sets": "d01"}, tmp_path / "cache", skip_bad=True).passport["findings"] == 1


@pytest.mark.parametrize("content", [b"", b"II*\0", b"no film"])
def test_a_film_whose_size_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "film.tif").write_bytes(content)
    with pytest.raises(DataError, match=r"size cannot be read.*film\.tif"):
        outline(ImageFile(tmp_path, "film.tif"), (1, 1), (5, 1), (5, 5)).read()
    with pytest.raises(DataError, match=r"size cannot be read.*gone\.tif"):
        outline(ImageFile(tmp_path, "gone.tif"), (1, 1), (5, 1), (5, 5)).read()


def test_a_mask_of_a_large_film_takes_little_memory(tmp_path: Path) -> None:
    Image.new("L", (3328, 4084)).save(tmp_path / "film.tif", compression="tiff_deflate")
    large = outline(ImageFile(tmp_path, "film.tif"), (0, 0), (3327, 0), (3327, 4083), (0, 4083))
    tracemalloc.start()
    try:
        assert large.read().all()
        assert tracemalloc.get_traced_memory()[1] < 5 * 3328 * 4084
    finally:
        tracemalloc.stop()


def test_outlines_tell_their_content(film: ImageFile) -> None:
    one, same, other = (outline(film, (1, 1), (5, 1), (5, last)) for last in (5, 5, 6))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("size", [128, 256])
def test_a_mask_comes_back_from_its_outline(size: int) -> None:
    for exam in exams(Phantom(size=size, exams={"train": 8, "validation": 0, "test": 0})):  # type: ignore[arg-type]
        for record in exam.records():
            for finding in record.findings:
                assert finding.mask is not None
                mask = finding.mask.read()
                again = filled(traced(mask), mask.shape)
                assert again is not None and (mask & again).sum() > 0.9 * (mask | again).sum()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (1, 5), (4, 4)])
def test_a_small_mask_has_an_outline_too(shape: tuple[int, int]) -> None:
    mask = np.zeros((9, 8), dtype=bool)
    mask[2 : 2 + shape[0], 3 : 3 + shape[1]] = True
    again = filled(traced(mask), (9, 8))
    assert len(traced(mask)) >= 3 and again is not None and np.array_equal(again, mask)


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
