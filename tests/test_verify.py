"""Prepared data against what they were: every changed byte is found."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data._store import PixelSpec
from data.cache import prepare, verify
from data.errors import DataError
from tests.cli import here
from tests.toy_prepare import ROI, SPEC, toy

PATHOLOGY = ("benign", "malignant")


def films_on_disk(root: Path, films: int = 8) -> Path:
    """Films with masks, named in a manifest."""
    rng, lines = np.random.default_rng(3), ["image,patient,laterality,view,finding,margin,pathology,mask"]
    root.mkdir()
    for number in range(films):
        film = rng.integers(0, 2000, (40, 30)).astype(np.uint16)
        mask = np.zeros((40, 30), np.uint8)
        mask[10:20, 5 : 12 + number % 8] = 255
        Image.fromarray(film + 3000 * (mask > 0).astype(np.uint16)).save(root / f"P{number}.png")
        Image.fromarray(mask).save(root / f"P{number}_mask.png")
        lines.append(f"P{number}.png,p{number},L,CC,mass,spiculated,{PATHOLOGY[number % 2]},P{number}_mask.png")
    (root / "manifest.csv").write_text("\n".join(lines))
    return root


def flip(path: Path, at: int = -30) -> None:
    """One bit of a file, its time as before."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_verify_is_silent_about_what_is_as_it_was(tmp_path: Path) -> None:
    root = films_on_disk(tmp_path / "films")
    prepare("manifest", root, {}, tmp_path / "c", roi=ROI, size=(16, 16)).ensure_pixels(PixelSpec(ROI, (12, 12)))
    seen: list[tuple[int, int]] = []
    _, found = verify("manifest", root, {}, tmp_path / "c", processes=2, progress=lambda *now: seen.append(now))
    assert (found.files, found.rows, found.differences, found.current) == (16, 32, (), True)
    assert seen == [(done, 8) for done in range(9)]
    toy(tmp_path / "c", normals=True, edits=True)
    assert not verify("toy_films", None, {"normals": True, "edits": True}, tmp_path / "c")[1].differences
    with pytest.raises(DataError, match="run `prepare toy_films` first"):
        verify("toy_films", None, {"patients": 9}, tmp_path / "c")


@pytest.mark.parametrize("name", ["P3.png", "P5_mask.png"])
def test_verify_finds_a_changed_byte_in_a_file_of_the_data_set(tmp_path: Path, name: str) -> None:
    root = films_on_disk(tmp_path / "films")
    prepared = prepare("manifest", root, {}, tmp_path / "c", roi=ROI, size=(16, 16))
    flip(root / name)
    [one] = verify("manifest", root, {}, tmp_path / "c")[1].differences
    assert one.file == name and "not what was prepared" in one.what
    assert f"put the file back as it was, or delete the folder {prepared.folder.name} of the cache" in one.do
    (root / name).touch()  # seen as another state of the files: what was prepared before is what is compared
    _, found = verify("manifest", root, {}, tmp_path / "c")
    assert [one.file for one in found.differences] == [name] and not found.current
    assert "without --verify" in found.differences[0].do
    (root / name).unlink()
    assert [one.file for one in verify("manifest", root, {}, tmp_path / "c")[1].differences] != []


@pytest.mark.parametrize("array", ["image", "mask"])
def test_verify_finds_a_changed_byte_in_every_row_of_pixels(tmp_path: Path, array: str) -> None:
    root = films_on_disk(tmp_path / "films")
    prepared = prepare("manifest", root, {}, tmp_path / "c", roi=ROI, size=(16, 16))
    path = prepared.folder / "pixels" / SPEC.key / f"{array}.npy"
    row_bytes = 16 * 16 * np.load(path).itemsize
    for row in range(8):
        flip(path, at=row * row_bytes - 8 * row_bytes)
        [one] = verify("manifest", root, {}, tmp_path / "c")[1].differences
        assert one.file == f"P{row}.png" and f"{SPEC.key}/{array}.npy, row {row})" in one.what
        assert f"delete the folder {prepared.folder.name}/pixels/{SPEC.key} of the cache" in one.do
        flip(path, at=row * row_bytes - 8 * row_bytes)
    assert not verify("manifest", root, {}, tmp_path / "c")[1].differences


@pytest.mark.parametrize(
    "name", ["passport.json", "problems.json", "pixels/*/rows.parquet", "pixels/*/sums.parquet", "pixels/*/image.npy"]
)
def test_verify_finds_a_changed_byte_in_every_other_file(tmp_path: Path, name: str) -> None:
    prepared = toy(tmp_path, patients=6, defect="flat", skip_bad=True)
    [path] = prepared.folder.glob(name)
    flip(path, at=12 if name.endswith("npy") else -3)
    try:
        found = [
            one.file for one in verify("toy_films", None, {"patients": 6, "defect": "flat"}, tmp_path)[1].differences
        ]
    except DataError as error:  # so broken that it cannot be read
        found = [error.where]
    assert found == [str(path.relative_to(tmp_path))]


@pytest.mark.long
def test_verify_on_the_command_line(tmp_path: Path) -> None:
    root, out = films_on_disk(tmp_path / "films", 24), tmp_path / "out"
    command = ("prepare", "manifest", "--data-root", root, "--out", out)
    assert "run `prepare manifest` first" in here(*command, "--verify", "--quiet").error
    assert here(*command, "--json").document["verified"] is None
    assert here(*command, "--verify", "--json").document["verified"] == {"files": 48, "pixel_rows": 48, "current": True}
    flip(root / "P3.png")
    error = here(*command, "--verify", "--quiet").error
    assert error.startswith("error: its content is not what was prepared (P3.png); put the file back as it was, or")
    flip(root / "P6_mask.png")
    said = here(*command, "--verify")
    assert said.code == 2 and "differs: P3.png: " in said.stderr and "differs: P6_mask.png: " in said.stderr
    assert said.stderr.splitlines()[-1].startswith("error: its content is not what was prepared, and 1 more (P3.png)")
    shutil.rmtree(out / "cache")
    assert "the cache may hold 0.00" in here(*command, "--cache-limit", "0.000001", "--quiet").error
