"""A user's own films: what each column does, and that a wrong row is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
from data.cache import prepare
from data.errors import ConfigError, DataError, LeakError
from data.manifest import COLUMNS, NEEDED, Options, records
from data.record import Record, Report
from docs import make_manifest_table
from tests.cli import here

HEADER = (
    "image,patient,laterality,view,finding,lesion,margin,pathology,mask,fine_mask,box,density,assessment,grade,split"
)
ROWS = (
    "a.png,P1,L,CC,mass,1,spiculated,malignant,a_mask.png,a_fine.png,,b,5,,train",
    "b.png,P1,Left,mlo,,1,SPICULATED,Malignant,,,10 20 40 60,b,5,,train",
    "c.png,P2,R,CC,normal,,,,,,,,,,train",
    "d.png,P3,R,MLO,,,lobulated,benign,a_mask.png,,,,,reduced,test",
    'd.png,P3,R,MLO,calcification,,,,,,"1,2,9,9",,,reduced,test',
    "e.png,P4,R,other,,,,,,,,,,,test",
)


def tree(folder: Path, *rows: str, header: str = HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate("abcde"):
        rng = np.random.default_rng(seed)
        Image.fromarray(rng.integers(1, 255, (80, 64), dtype=np.uint8)).save(folder / f"{name}.png")
    for name, width in (("a_mask", 20), ("a_fine", 6)):
        mask = np.zeros((80, 64), dtype=np.uint8)
        mask[30:50, 10 : 10 + width] = 255
        Image.fromarray(mask).save(folder / f"{name}.png")
    (folder / "manifest.csv").write_text("\n".join([header, *(rows or ROWS)]) + "\n")
    return folder


def read(root: Path, *, skip_bad: bool = False) -> tuple[list[Record], Report]:
    report = Report(skip_bad=skip_bad)
    return list(records(root, Options(), report)), report


def test_each_column_arrives(tmp_path: Path) -> None:
    a, b, c, d, e = read(tree(tmp_path))[0]
    assert [record.has_mass for record in (a, b, c, d, e)] == [True, True, False, True, None]
    assert (a.laterality, a.view, b.view, e.view) == ("L", "CC", "MLO", "other")
    [one], [two] = a.findings, b.findings
    assert one.lesion_id == two.lesion_id and one.finding_id != two.finding_id
    assert (one.margin, one.malignant, one.attributes["assessment"]) == ("spiculated", True, 5.0)
    assert one.mask is not None and one.fine_mask is not None and two.box == (10, 20, 40, 60)
    assert [f.kind for f in d.findings] == ["mass", "calcification"] and d.findings[0].margin is None
    assert d.findings[0].attributes["margin"] == "lobulated" and d.findings[1].box == (1, 2, 9, 9)
    assert d.findings[0].lesion_id != d.findings[1].lesion_id
    assert (a.attributes["density"], c.attributes["density"], d.attributes["grade"]) == ("b", None, "reduced")
    assert [record.official_split for record in (a, d)] == ["train", "test"] and c.findings == ()


def test_it_is_prepared(tmp_path: Path) -> None:
    prepared = prepare("manifest", tree(tmp_path / "own"), None, tmp_path / "cache")
    table = prepared.table.set_index("finding_id")
    assert prepared.counts()["margin"] == {"train": {"circumscribed": 0, "indistinct": 0, "spiculated": 2}}
    assert table["has_fine"].sum() == 1 and sorted(table["area_px"])[-2:] == [400, 1200]
    assert prepared.passport["grade"] == "full, reduced"
    assert "P1" not in (prepared.folder / "passport.json").read_text()


def test_only_four_columns_are_needed(tmp_path: Path) -> None:
    root = tree(tmp_path, "a.png,P1,L,CC", "b.png,P2,R,MLO", header=",".join(NEEDED))
    assert [record.has_mass for record in read(root)[0]] == [None, None]


WRONG = {
    "side": ("a.png,P1,X,CC,,,,,,,,,,,", "laterality is 'x', known are 'l'"),
    "view": ("a.png,P1,L,XX,,,,,,,,,,,", "view is 'xx'"),
    "no patient": ("a.png,,L,CC,,,,,,,,,,,", "patient is empty"),
    "pathology": ("a.png,P1,L,CC,,,,cancer,,,,,,,", "pathology is 'cancer', known are 'benign', 'malignant'"),
    "film": ("x.png,P1,L,CC,,,,,,,,,,,", "no file 'x.png'"),
    "mask": ("a.png,P1,L,CC,,,,,m.png,,,,,,", "no file 'm.png'"),
    "way out": ("../a.png,P1,L,CC,,,,,,,,,,,", "leads out of the folder"),
    "absolute": ("/a.png,P1,L,CC,,,,,,,,,,,", "leads out of the folder"),
    "box": ("a.png,P1,L,CC,,,,,,,1 2 3,,,,", "box is '1 2 3', x0 y0 x1 y1"),
    "box of nan": ("a.png,P1,L,CC,,,,,,,1 2 nan 4,,,,", "x0 y0 x1 y1 were expected"),
    "box without area": ("a.png,P1,L,CC,,,,,,,9 2 3 4,,,,", "has no area"),
    "assessment": ("a.png,P1,L,CC,,,,,,,,,9,,", "assessment is '9'"),
    "normal with a margin": ("a.png,P1,L,CC,normal,,spiculated,,,,,,,,", "a normal film has a margin"),
    "ragged": ("a.png,P1,L,CC", "more or fewer values"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_row_is_named(wrong: str, tmp_path: Path) -> None:
    row, said = WRONG[wrong]
    root = tree(tmp_path / "own", "b.png,P2,R,CC,,,,,,,,,,,", row)
    with pytest.raises(DataError) as error:
        read(root)
    assert said in str(error.value) and "manifest.csv, row 2" in str(error.value) and "\n" not in str(error.value)
    found, report = read(root, skip_bad=True)
    assert len(found) == 1 and sum(report.left_out.values()) == 1


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("a.png,P2,L,CC,,,,,,,,,,,", "patient is 'P2', in an earlier row of this film 'P1'"),
        ("a.png,P1,L,CC,normal,,,,,,,,,,", "normal in one row"),
    ],
)
def test_rows_of_a_film_agree(second: str, said: str, tmp_path: Path) -> None:
    root = tree(tmp_path, "a.png,P1,L,CC,mass,,,benign,,,1 1 9 9,,,,", second)
    with pytest.raises(DataError, match=said):
        read(root)


def test_a_patient_on_two_sides_is_refused(tmp_path: Path) -> None:
    own = [
        ",".join([f"{n}.png,P{n},L,CC,,,,benign,,,1 1 30 30,,,", s])
        for n, s in (("a", "train"), ("b", "train"), ("c", "test"))
    ]
    root = tree(tmp_path / "own", *own, "d.png,Pa,L,MLO,,,,benign,,,1 1 30 30,,,,test")
    with pytest.raises(LeakError, match="on two sides, train and test"):
        prepare("manifest", root, None, tmp_path / "cache").split()


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("image,patient,laterality", "no column 'view'"),
        ("image,patient,laterality,view,patology", "column 'patology' is not known .*did you mean 'pathology'"),
    ],
)
def test_a_wrong_header_is_named(header: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read(tree(tmp_path, "a.png,P1,L,CC", header=header))


def test_the_csv_may_have_another_name_but_lies_in_the_folder(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "manifest.csv").rename(root / "films.csv")
    assert len(list(records(root, Options(file="films.csv"), Report()))) == 5
    with pytest.raises(ConfigError, match="outside the folder"):
        list(records(root, Options(file="../films.csv"), Report()))
    with pytest.raises(DataError, match="cannot read the CSV"):
        read(root)


def test_the_page_tells_what_each_column_means() -> None:
    assert make_manifest_table.table() in make_manifest_table.PAGE.read_text(encoding="utf-8")
    assert set(HEADER.split(",")) == set(COLUMNS) and data.reader("manifest")


def test_a_column_that_is_not_read_is_told(tmp_path: Path) -> None:
    root = tree(tmp_path, *(f"{row},55" for row in ROWS), header=f"{HEADER},age")
    assert read(root)[1].left_out["column that is not read: 'age'"] == 1


def test_ids_stay_when_rows_of_other_films_come(tmp_path: Path) -> None:
    before = {f.finding_id for record in read(tree(tmp_path / "a"))[0] for f in record.findings}
    more = read(tree(tmp_path / "b", ROWS[5], ROWS[2], *ROWS[:2], *ROWS[3:5]))[0]
    assert {f.finding_id for record in more for f in record.findings} == before


def test_a_name_that_no_file_can_have_is_one_short_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file") as error:
        read(tree(tmp_path, f"{'a' * 50_000}.png,P1,L,CC,,,,,,,,,,,"))
    assert len(str(error.value)) < 700


@pytest.mark.parametrize(
    "wrong", ["a.png,P1,X,CC,mass,,,,,,1 1 9 9", "a.png,P2,L,CC,,,,,,,1 1 9 9", "a.png,P1,L,CC,,,,,,,9 9"]
)
def test_a_film_that_lost_a_mass_is_not_fully_annotated(wrong: str, tmp_path: Path) -> None:
    rows = ("a.png,P1,L,CC,mass,,,,,,20 20 40 40", "b.png,P2,L,CC,mass,,,,,,20 20 40 40", wrong)
    root = tree(tmp_path / "own", *(row + ",,,," for row in rows))
    assert [r.unlisted for r in read(root, skip_bad=True)[0]] == [1, 0]
    table = prepare("manifest", root, None, tmp_path / "cache", skip_bad=True).table
    assert table["boxes_complete"].tolist() == [False, True] == table["lesions_known"].tolist()


def test_a_lost_lesion_of_another_kind_leaves_the_masses_complete(tmp_path: Path) -> None:
    rows = ("a.png,P1,L,CC,mass,,,,,,20 20 40 40", "a.png,P1,L,CC,calcification,,,,,,9 9")
    root = tree(tmp_path / "own", *(row + ",,,," for row in rows))
    row = prepare("manifest", root, None, tmp_path / "cache", skip_bad=True).table.iloc[0]
    assert row["boxes_complete"] and not row["lesions_known"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((ROWS[0], ROWS[0]), "the same lesion of the same film as row 1"),
        ((ROWS[0], ROWS[0].replace("malignant", "benign")), "the same lesion of the same film as row 1"),
        ((ROWS[0], ROWS[0].replace("a.png", "./a.png", 1)), "the same lesion of the same film as row 1"),
        (
            (
                ROWS[1],
                ROWS[1].replace("10 20 40 60", "10,20,40,60").replace("60,b", '60",b').replace("10,20", '"10,20'),
            ),
            "as row 1",
        ),
    ],
)
def test_a_lesion_that_is_given_twice_is_refused(tmp_path: Path, rows: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tree(tmp_path, *rows))


def test_words_that_are_no_label_are_counted(tmp_path: Path) -> None:
    _, report = read(tree(tmp_path))
    assert report.left_out == {"not in track margin: lobulated": 1, "neither mass nor normal: calcification": 1}


def test_a_mask_of_the_whole_film_is_no_lesion(tmp_path: Path) -> None:
    root = tree(tmp_path, ROWS[0])
    Image.new("L", (64, 80), 255).save(root / "a_mask.png")
    with pytest.raises(DataError, match="covers the whole film"):
        prepare("manifest", root, None, tmp_path / "cache")
    inverted = np.full((80, 64), 255, np.uint8)
    inverted[30:50, 10:30] = 0
    Image.fromarray(inverted).save(root / "a_mask.png")
    said = prepare("manifest", root, None, tmp_path / "cache").passport["warnings"]
    assert said[0].startswith("1 mask over more than half of the film")


def test_training_on_bad_rows_says_which_command_leaves_them_out(tmp_path: Path) -> None:
    root = tree(tmp_path / "films", ROWS[1].replace("Malignant", "perhaps"), ROWS[2])
    said = here(
        "train", "vgg16", "manifest", "--track", "malignancy", "--data-root", root, "--out", tmp_path / "runs",
        "--set", "budget.weights=none",
    ).error  # fmt: skip
    assert "pathology is 'perhaps'" in said and "run `prepare manifest --skip-bad` with the same data options" in said
