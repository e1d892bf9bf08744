"""Files of CBIS-DDSM that are missing, broken or of another size: each is named with its row, or left out and counted."""

import os
import re
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
import pytest
from PIL import Image

from data.cache import prepare
from data.cbis_ddsm import Options, records
from data.errors import DataError
from data.record import Report
from tests import cbis_tree
from tests.cbis_tree import Tree, build, read, read_skipping, the_line
from tests.cli import here

TRAIN, TEST = cbis_tree.csv_name("train"), cbis_tree.csv_name("test")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree to break."""
    return build(tmp_path / "tree")


def test_no_folder(tmp_path: Path) -> None:
    for root in (None, tmp_path / "none"):
        with pytest.raises(DataError, match="no folder with CBIS-DDSM"):
            records(root, Options(), Report())


def test_no_film_at_all_is_an_error_even_when_skipping(tree: Tree) -> None:
    shutil.rmtree(tree.root / "CBIS-DDSM")
    with pytest.raises(DataError, match="none of the 7 films is on disk"):
        read_skipping(tree.root)


def test_films_that_are_not_on_disk_are_counted_by_row(tree: Tree) -> None:
    tree.file("00419_LEFT_CC", "film").unlink()
    assert the_line(tree.root).startswith(f"film not on disk ({TRAIN}, row 4)")
    found, report = read_skipping(tree.root)
    assert len(found) == 4 and report.left_out["film not on disk"] == 2
    assert [p["row"] for p in report.problems] == [4, 5]


def test_a_mask_that_is_not_on_disk_leaves_the_films_other_mass(tree: Tree) -> None:
    tree.file("00419_LEFT_CC", "mask", "2").unlink()
    tree.file("00419_LEFT_CC", "crop", "2").unlink()
    assert the_line(tree.root).startswith(f"mask not on disk ({TRAIN}, row 5)")
    found, _ = read_skipping(tree.root)
    assert [len(record.findings) for record in found] == [1, 1, 1, 1, 2]


def test_a_crop_is_never_taken_for_the_mask(tree: Tree) -> None:
    tree.file("00001_LEFT_CC", "mask").unlink()
    assert f"has more than two values ({TRAIN}, row 1)" in the_line(tree.root)


@pytest.mark.parametrize("size", [(264, 168), (128, 80), (160, 256)])
def test_a_mask_of_another_size_is_refused_by_name(tree: Tree, size: tuple[int, int]) -> None:
    path = tree.file("00001_LEFT_CC", "mask")
    mask = np.zeros(size, np.uint8)
    mask[50:60, 50:60] = 255
    cbis_tree.rewrite(path, mask)
    line = the_line(tree.root)
    assert line.startswith("mask of another size than its film") and f"({TRAIN}, row 1)" in line
    assert (
        path.relative_to(tree.root).as_posix() in line and f"{size[0]} x {size[1]} pixels, its film 256 x 160" in line
    )
    found, report = read_skipping(tree.root)
    assert len(found) == 4 and report.left_out["mask of another size than its film"] == 1


def test_an_empty_mask_names_file_and_row_when_it_is_read(tree: Tree) -> None:
    path = tree.file("00001_LEFT_CC", "mask")
    cbis_tree.rewrite(path, np.zeros((256, 160), np.uint8))
    mask = read(tree.root)[0].findings[0].mask
    assert mask is not None
    with pytest.raises(DataError, match=rf"the mask is empty \(.*{path.name}, cited in {TRAIN}, row 1\)"):
        mask.read()


def test_two_masks_and_no_crop(tree: Tree) -> None:
    mask = np.zeros((256, 160), np.uint8)
    mask[:9, :9] = 255
    cbis_tree.rewrite(tree.file("00001_LEFT_CC", "crop"), mask)
    assert the_line(tree.root).startswith("mask and crop cannot be told apart")


def test_two_films_in_a_series(tree: Tree) -> None:
    path = tree.file("00001_LEFT_CC", "film")
    shutil.copyfile(path, path.with_name("other.dcm"))
    cbis_tree.rewrite(path, np.full((300, 200), 7, np.uint16))
    assert the_line(tree.root).startswith("the film's series holds 2 images")


@pytest.mark.parametrize("kind", ["film", "mask"])
@pytest.mark.parametrize("left", [0, 60, 300, 5000])
def test_a_truncated_file_names_file_and_row(tree: Tree, kind: cbis_tree.Kind, left: int) -> None:
    path = tree.file("00059_LEFT_CC", kind)
    path.write_bytes(path.read_bytes()[:left])
    line = the_line(tree.root)
    assert path.relative_to(tree.root).as_posix() in line and f"({TRAIN}, row 3)" in line
    found, report = read_skipping(tree.root)
    assert len(found) == 4 and report.left_out[f"{kind} cannot be used"] == 1


@pytest.mark.parametrize("kind", ["film", "mask"])
@pytest.mark.parametrize("layout", ["uid", "descriptive"])
def test_a_jpeg_named_dcm(tmp_path: Path, kind: cbis_tree.Kind, layout: Literal["uid", "descriptive"]) -> None:
    tree = build(tmp_path, layout=layout, names="nbia")
    path = tree.file("00059_LEFT_CC", kind)
    Image.new("L", (40, 40)).save(path, format="jpeg")
    line = the_line(tree.root)
    assert f"{path.relative_to(tree.root).as_posix()}: not a DICOM file ({TRAIN}, row 3)" in line


def test_a_jpeg_named_dcm_that_no_row_names(tree: Tree) -> None:
    (tree.root / "lost").mkdir()
    Image.new("L", (40, 40)).save(tree.root / "lost" / "1-1.dcm", format="jpeg")
    assert the_line(tree.root).startswith("not a DICOM file (lost/1-1.dcm)")
    found, report = read_skipping(tree.root)
    assert len(found) == 5 and report.left_out["file that is not DICOM"] == 1


def test_a_broken_film_of_a_row_that_cannot_be_used_names_that_row(tree: Tree) -> None:
    path = tree.file("00059_LEFT_CC", "film")
    Image.new("L", (40, 40)).save(path, format="jpeg")
    tree.edit("train", 3, "pathology", "benign")
    _, report = read_skipping(tree.root)
    row, film = report.problems
    assert (row["file"], row["row"]) == (TRAIN, 3)
    assert (film["file"], film["row"]) == (f"{path.relative_to(tree.root).as_posix()}, cited in {TRAIN}", 3)


@pytest.mark.parametrize("kind", ["film", "mask"])
def test_a_link_to_nothing(tree: Tree, kind: cbis_tree.Kind) -> None:
    path = tree.file("00059_LEFT_CC", kind)
    path.unlink()
    path.symlink_to(tree.root / ".git" / "annex" / "gone")
    (tree.root / "notes").symlink_to(tree.root / "gone")
    line = the_line(tree.root)
    assert path.relative_to(tree.root).as_posix() in line and f"file is missing ({TRAIN}, row 3)" in line
    found, report = read_skipping(tree.root)
    assert len(found) == 4 and report.left_out[f"{kind} cannot be used"] == 1
    error = here("prepare", "cbis_ddsm", "--data-root", tree.root, "--out", tree.root.parent / "out", "--quiet").error
    assert f"file is missing ({TRAIN}, row 3)" in error


def test_a_csv_that_is_a_link_to_nothing(tree: Tree) -> None:
    tree.table("test").unlink()
    tree.table("test").symlink_to(tree.root / "gone")
    assert the_line(tree.root).startswith(f"cannot read the CSV: No such file or directory ({TEST})")
    error = here("prepare", "cbis_ddsm", "--data-root", tree.root, "--out", tree.root.parent / "out", "--quiet").error
    assert f"({TEST})" in error


def test_pipes_are_no_files(tree: Tree) -> None:
    """To open one is to wait for ever."""
    for name in ("pipe.dcm", "pipe", TRAIN):
        (tree.root / "pipes").mkdir(exist_ok=True)
        os.mkfifo(tree.root / "pipes" / name)
    (tree.root / "linked.dcm").symlink_to(tree.root / "pipes" / "pipe")
    assert len(read(tree.root)) == 5


@pytest.mark.parametrize("kind", ["film", "mask"])
def test_pixels_that_cannot_be_used_name_their_row(tree: Tree, kind: cbis_tree.Kind) -> None:
    """What is found when pixels are decoded, in the message and in the list of problems."""
    path = tree.file("00059_LEFT_CC", kind)
    cbis_tree.rewrite(path, np.full((256, 160), 0, np.uint8 if kind == "mask" else np.uint16))
    place = f"{path.relative_to(tree.root).as_posix()}, cited in {TRAIN}"
    says = {"film": "one grey value", "mask": "the mask is empty"}[kind]
    with pytest.raises(DataError, match=rf"{says}.* \({re.escape(place)}, row 3\)"):
        prepare("cbis_ddsm", tree.root, {}, tree.root.parent / "cache")
    [problem] = prepare("cbis_ddsm", tree.root, {}, tree.root.parent / "cache", skip_bad=True).passport["problems"]
    assert (problem["file"], problem["row"]) == (place, 3)


def test_a_dicom_without_an_image(tree: Tree) -> None:
    path = tree.file("00059_LEFT_CC", "film")
    dataset = pydicom.dcmread(path)
    del dataset.PixelData, dataset.Rows, dataset.Columns
    dataset.save_as(path)
    assert f"holds no image ({TRAIN}, row 3)" in the_line(tree.root)
