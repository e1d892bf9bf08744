"""How large the cache may become: what goes first, what stays."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from data._folder import DONE
from data._room import VARIABLE, bytes_of
from data._store import PixelSpec
from data.cache import Prepared, Room
from data.errors import ConfigError, MachineError
from tests.toy_prepare import INPUTS, ROI, SPEC, decoded, toy, wait_until


def used_at(folder: Path, time: int) -> None:
    os.utime(folder / DONE, (time, time))


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    old, new = toy(tmp_path, patients=10), toy(tmp_path, patients=11)
    of_old = {size: old.ensure_pixels(PixelSpec(ROI, (size, size))) for size in (16, 20, 24)}
    of_new = {size: new.ensure_pixels(PixelSpec(ROI, (size, size))) for size in (16, 20)}
    left_over = tmp_path / "toy_films-0123456789abcdef.part"
    left_over.mkdir()
    (left_over / "image.npy").write_bytes(bytes(5000))
    order = [left_over, of_old[24], of_new[20], of_old[20], of_old[16], of_new[16], old.folder, new.folder]
    for time_used, folder in enumerate(order[1:], start=1000):
        os.utime(folder / DONE, (time_used, time_used))
    del old, new  # as if their processes had ended
    third, said = toy(tmp_path, patients=12), []
    own = third.ensure_pixels(SPEC)
    for gone in range(1, len(order) + 1):
        Room((bytes_of(tmp_path) - 1) / 1e9, said.append).keep(own)
        assert [path.exists() for path in order] == [False] * gone + [True] * (len(order) - gone)
        assert len(said) == gone and str(order[gone - 1].relative_to(tmp_path)) in said[-1]
    Room((bytes_of(tmp_path) - 1) / 1e9, said.append).keep(own)
    assert "the rest of it is in use" in said[-1] and len(third.training(third.split(), INPUTS).train) > 5


def test_pixels_that_were_removed_are_cut_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = toy(tmp_path / "c", log=str(log))
    folder, pixels = first.folder, first.ensure_pixels(SPEC)
    before = {path.name: path.read_bytes() for path in pixels.glob("*.npy")}
    del first
    other = toy(tmp_path / "other", patients=20).folder
    toy(tmp_path / "c", patients=20, room=Room((bytes_of(folder) + bytes_of(other) - bytes_of(pixels)) / 1e9))
    assert folder.exists() and not pixels.exists()
    again = toy(tmp_path / "c", log=str(log))
    assert len(decoded(log)) == 96 and {path.name: path.read_bytes() for path in pixels.glob("*.npy")} == before
    assert len(again.training(again.split(), INPUTS).train) > 20


@pytest.mark.long
def test_what_another_process_uses_stays(tmp_path: Path) -> None:
    used_by_other, free = toy(tmp_path, patients=10), toy(tmp_path, patients=11)
    kept, gone = used_by_other.folder, free.folder
    other = multiprocessing.get_context("spawn").Process(target=_read_for_long, args=(used_by_other, tmp_path))
    other.start()
    wait_until((tmp_path / "reads").exists)
    del used_by_other, free
    said: list[str] = []
    third = toy(tmp_path, patients=12)
    Room(1e-6, said.append).keep(third.folder)
    assert kept.exists() and not gone.exists() and "the rest of it is in use" in said[-1]
    other.kill()
    other.join()
    Room(1e-6, said.append).keep(third.folder)
    assert not kept.exists() and third.folder.exists()


def _read_for_long(prepared: Prepared, folder: Path) -> None:
    samples = prepared.training(prepared.split(), INPUTS).train
    del prepared  # who holds the samples alone uses the pixels
    (folder / "reads").touch()
    time.sleep(600)
    del samples


def test_more_than_the_limit_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bystander = toy(tmp_path / "c", patients=6).folder
    log = tmp_path / "log"
    with pytest.raises(MachineError, match=r"the data wanted take 0\.00 GB, the cache may hold 0\.00"):
        toy(tmp_path / "c", log=str(log), room=Room(20e3 / 1e9))
    assert not log.exists() and bystander.exists() and not list((tmp_path / "c").glob("*.part"))
    monkeypatch.setenv(VARIABLE, str(20e3 / 1e9))
    with pytest.raises(MachineError, match=VARIABLE):
        toy(tmp_path / "c", log=str(log))
    monkeypatch.setenv(VARIABLE, "some")
    with pytest.raises(ConfigError, match="'some' is no number of GB above 0"):
        toy(tmp_path / "c", log=str(log))


def test_what_else_lies_in_the_cache_is_never_removed(tmp_path: Path) -> None:
    """A folder of somebody else's, whatever its name, and a data root below the cache."""
    cache = tmp_path / "cache"
    kept = [cache / name for name in ("my_thesis", "manifest-data", "notes-0123456789abcdef", "toy_films-old")]
    for folder in kept:
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(50_000))
    half_done = cache / "toy_films-0123456789abcdef.part"
    half_done.mkdir()
    (half_done / "image.npy").write_bytes(bytes(50_000))
    Room(1e-6).keep(toy(cache).folder)
    assert all((folder / "file").is_file() for folder in kept) and not half_done.exists()
