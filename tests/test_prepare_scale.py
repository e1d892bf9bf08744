"""`prepare` at scale: it goes on where it was cut off, stays in bounds, and what it made can be checked byte by byte."""

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from bench.prepare import Pace, cores
from data import _pool
from data._films import films_of, work_all
from data._folder import DONE, JOURNAL
from data._journal import Journal
from data._room import VARIABLE, bytes_of
from data._store import PixelSpec
from data.cache import Prepared, Room, prepare, verify
from data.errors import ConfigError, DataError, MachineError
from data.inputs import Inputs, Roi, Stream
from data.record import Report
from tests import toy_films
from tests.cli import ROOT, here

ROI = Roi(strategy="box_scale", scale=1.5)
SPEC = PixelSpec(ROI, (16, 16))
NO_LIMIT = Room()
INPUTS = Inputs((16, 16), "margin", (Stream("train", 8),), ROI)


def toy(folder: Path, *, room: Room = NO_LIMIT, processes: int = 1, size: int = 16, skip_bad: bool = False,
        **options: object) -> Prepared:  # fmt: skip
    return prepare("toy_films", None, options, folder, roi=ROI, size=(size, size), room=room, processes=processes,
                   skip_bad=skip_bad)  # fmt: skip


def decoded(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().splitlines()]


def same(one: Prepared, other: Prepared) -> bool:
    """Whether two prepared sets hold the same bytes; the option that names a log is not the data's."""
    pd.testing.assert_frame_equal(one.table, other.table)
    arrays = [path.relative_to(one.folder) for path in sorted(one.folder.rglob("*.npy"))]
    return len(arrays) == 3 and all((one.folder / a).read_bytes() == (other.folder / a).read_bytes() for a in arrays)


def cut_off(folder: Path, killer: Path, log: Path) -> Path:
    """A build whose process was killed -9 while it decoded film 20; what it left."""
    killer.write_text("")
    in_another_process(lambda: toy(folder, killed_by=str(killer), log=str(log)))
    killer.unlink()
    [part] = folder.glob("*.part")
    return part


def in_another_process(killed: Callable[[], object]) -> None:
    pid = os.fork()
    if pid == 0:
        killed()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


# ---- going on ---------------------------------------------------------------------------------------------------------
def test_killed_in_the_middle_it_decodes_the_rest_alone(tmp_path: Path) -> None:
    log, killer = tmp_path / "log", tmp_path / "killer"
    cut_off(tmp_path / "c", killer, log)
    assert decoded(log) == list(range(20))
    seen: list[tuple[int, int]] = []
    healed = prepare("toy_films", None, {"killed_by": str(killer), "log": str(log)}, tmp_path / "c", roi=ROI,
                     size=(16, 16), progress=lambda *now: seen.append(now))  # fmt: skip
    assert decoded(log) == list(range(48))
    assert seen == [(done, 48) for done in range(20, 49)]  # the bar begins where it was
    assert same(healed, toy(tmp_path / "quiet"))
    assert not list(healed.folder.rglob(JOURNAL)) and not list((tmp_path / "c").glob("*.part"))


def test_pixels_of_another_rule_go_on_as_well(tmp_path: Path) -> None:
    log, killer = tmp_path / "log", tmp_path / "killer"
    prepared = prepare("toy_films", None, {"killed_by": str(killer), "log": str(log)}, tmp_path / "c")
    killer.write_text("")
    in_another_process(lambda: prepared.ensure_pixels(SPEC))
    killer.unlink()
    prepared.ensure_pixels(SPEC)
    assert decoded(log) == [*range(48), *range(48)]


GATED = """
import pathlib, sys, time
from data.cache import prepare
from data.inputs import Inputs, Roi, Stream
from tests import toy_films

class Gated(toy_films.Block):
    def read(self):
        while self.part == "image" and self.number >= 24:
            time.sleep(0.01)
        return super().read()

if __name__ == "__main__":
    toy_films.Block = Gated
    prepare("toy_films", None, {"log": sys.argv[2]}, pathlib.Path(sys.argv[1]), roi=Roi(strategy="box_scale", scale=1.5),
            size=(16, 16), processes=2)
"""


@pytest.mark.long
def test_when_the_parent_is_killed_its_processes_end_and_the_next_goes_on(tmp_path: Path) -> None:
    log, script = tmp_path / "log", tmp_path / "script.py"
    script.write_text(GATED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, script, tmp_path / "c", log], env=environment)
    wait_until(lambda: sum(path.read_bytes().count(b"\n") for path in (tmp_path / "c").glob(f"*/{JOURNAL}")) == 25)
    workers = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert len(workers) >= 2 and not alive
    healed = toy(tmp_path / "c", log=str(log), processes=2)
    assert sorted(decoded(log)) == list(range(48))
    assert same(healed, toy(tmp_path / "quiet"))


def wait_until(true: Callable[[], bool], deadline_s: float = 120) -> None:
    end = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_process_that_dies_is_one_line_and_the_next_run_goes_on(tmp_path: Path) -> None:
    log, killer = tmp_path / "log", tmp_path / "killer"
    killer.write_text("")
    with pytest.raises(MachineError, match="a process that decodes films died"):
        toy(tmp_path / "c", processes=2, log=str(log), killed_by=str(killer))
    before = len(decoded(log))
    assert before >= 16
    killer.unlink()
    healed = toy(tmp_path / "c", processes=2, log=str(log), killed_by=str(killer))
    assert len(decoded(log)) <= 48 + 2 * _pool.AHEAD
    assert same(healed, toy(tmp_path / "quiet"))


def test_a_row_that_never_reached_the_disk_is_decoded_again(tmp_path: Path) -> None:
    log, killer = tmp_path / "log", tmp_path / "killer"
    part = cut_off(tmp_path / "c", killer, log)
    for array, row in (("image", 3), ("mask", 7)):  # as after a power cut: the journal is there, the row is not
        [path] = part.rglob(f"{array}.npy")
        rows = np.load(path, mmap_mode="r+")
        rows[row] = 0
        rows.flush()
    healed = toy(tmp_path / "c", killed_by=str(killer), log=str(log))
    assert sorted(decoded(log)) == sorted([*range(48), 3, 7])
    assert same(healed, toy(tmp_path / "quiet"))


@pytest.mark.parametrize("damage", ["torn", "zeros", "flipped", "another head", "no arrays"])
def test_a_damaged_journal_is_trusted_as_far_as_it_is_whole(tmp_path: Path, damage: str) -> None:
    log, killer = tmp_path / "log", tmp_path / "killer"
    part = cut_off(tmp_path / "c", killer, log)
    lines = (part / JOURNAL).read_bytes().splitlines(keepends=True)
    assert len(lines) == 21  # a head and 20 films
    if damage == "torn":
        lines[-1], again = lines[-1][: len(lines[-1]) // 2], [19]
    elif damage == "zeros":
        lines[-1], again = bytes(len(lines[-1])), [19]
    elif damage == "flipped":
        lines[5], again = lines[5].replace(b'"height":60', b'"height":61'), [4]
    elif damage == "another head":
        lines[0], again = lines[0].replace(b" ", b" 0", 1), list(range(20))
    else:
        [path] = part.rglob("image.npy")
        path.unlink()
        again = list(range(20))
    (part / JOURNAL).write_bytes(b"".join(lines))
    healed = toy(tmp_path / "c", killed_by=str(killer), log=str(log))
    assert sorted(decoded(log)) == sorted([*range(48), *again])
    assert same(healed, toy(tmp_path / "quiet"))


def test_torn_twice_the_journal_is_still_read(tmp_path: Path) -> None:
    """What is appended after a torn line must not be lost with it."""
    log, killer = tmp_path / "log", tmp_path / "killer"
    part = cut_off(tmp_path / "c", killer, log)
    text = (part / JOURNAL).read_bytes()
    (part / JOURNAL).write_bytes(text[:-9])
    head = text.splitlines()[0][9:].decode()
    journal = Journal(part, head)
    known = journal.known(part / "pixels" / SPEC.key)
    assert len(known) == 19
    journal.add(next(iter(known.values())))
    assert (part / JOURNAL).read_bytes().count(b"\n") == 21 and len(Journal(part, head).known(None)) == 19


def test_work_for_other_regions_does_not_go_on_with_these(tmp_path: Path) -> None:
    log, killer = tmp_path / "log", tmp_path / "killer"
    cut_off(tmp_path / "c", killer, log)
    other = toy(tmp_path / "c", killed_by=str(killer), log=str(log), size=12)
    assert sorted(decoded(log)) == sorted([*range(20), *range(48)])
    assert same(other, toy(tmp_path / "quiet", size=12))
    assert [path.name for path in (other.folder / "pixels").iterdir()] == [PixelSpec(ROI, (12, 12)).key]


def test_after_a_bad_film_skip_bad_goes_on_and_looks_at_that_film_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(DataError, match="one grey value"):
        toy(tmp_path / "c", defect="flat", log=str(log))
    assert decoded(log) == [0, 1, 2, 3]
    prepared = toy(tmp_path / "c", defect="flat", log=str(log), skip_bad=True)
    assert decoded(log) == [0, 1, 2, 3, *range(3, 48)] and len(prepared.table) == 47


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def interrupt(done: int, films: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("toy_films", None, {"log": str(log)}, tmp_path / "c", roi=ROI, size=(16, 16), progress=interrupt)
    toy(tmp_path / "c", log=str(log))
    assert decoded(log) == list(range(48))


def test_after_a_full_disk_it_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def fill(done: int, films: int) -> None:
        if done == 10:  # as if the disk were full from here on: nothing can be written behind the first kilobytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    pid = os.fork()
    if pid == 0:
        try:
            prepare("toy_films", None, {"log": str(log)}, tmp_path / "c", roi=ROI, size=(16, 16), progress=fill)
        except MachineError as error:
            os._exit(3 if "cannot write" in str(error) else 4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    healed = toy(tmp_path / "c", log=str(log))
    assert decoded(log)[:11] == list(range(11)) and len(decoded(log)) == 48 + 1  # film 10 was decoded, and not written
    assert same(healed, toy(tmp_path / "quiet"))


def test_killed_just_before_its_last_step_nothing_is_done_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = toy(tmp_path / "c", log=str(log))
    first.folder.rename(first.folder.with_name(f"{first.folder.name}.part"))
    toy(tmp_path / "c", log=str(log))
    assert len(decoded(log)) == 48


# ---- within bounds ----------------------------------------------------------------------------------------------------
def test_few_films_are_under_way_however_many_there_are(tmp_path: Path) -> None:
    films, _ = films_of(list(toy_films.records(None, toy_films.Options(patients=60), Report())), None)
    taken, most, given = 0, 0, 0

    def listed() -> Iterator[object]:
        nonlocal taken, most
        for film in films:
            taken += 1
            most = max(most, taken - given)
            yield film

    for processes, bound in ((2, 2 * _pool.AHEAD + 1), (1, 2)):
        taken = most = given = 0
        for _ in work_all(listed(), None, None, check=True, processes=processes):  # type: ignore[arg-type]
            given += 1
        assert given == len(films) == 120 and most <= bound


def test_facts_come_in_the_order_of_the_films_whoever_is_first(tmp_path: Path) -> None:
    def backwards(films, spec, folder, *, check, processes):  # type: ignore[no-untyped-def]
        yield from work_all(list(films)[::-1], spec, folder, check=check, processes=1)

    turned = prepare("toy_films", None, {}, tmp_path / "turned", roi=ROI, size=(16, 16), spread=backwards)
    straight = toy(tmp_path / "straight")
    assert same(turned, straight) and turned.data_hash == straight.data_hash


def test_the_pace_counts_films_of_this_run_alone() -> None:
    now = [100.0]
    pace = Pace(lambda: now[0])
    assert pace.text(900, 1000) == ""
    now[0] += 10
    assert pace.text(920, 1000) == "2.0 films/s, 0:00:40 left"
    assert pace.text(0, 50) == ""  # another pass begins
    now[0] += 5
    assert pace.text(50, 50) == "10.0 films/s, 0:00:00 left"
    assert 1 <= cores() <= (os.cpu_count() or 1)


# ---- the limit --------------------------------------------------------------------------------------------------------
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


PATHOLOGY = ("benign", "malignant")


# ---- verified ---------------------------------------------------------------------------------------------------------
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


# ---- over nodes -------------------------------------------------------------------------------------------------------
@pytest.mark.ray
def test_a_ray_cluster_prepares_the_same(tmp_path: Path, local_ray: object) -> None:
    from bench.cluster.prepare import over_nodes

    log, killer = tmp_path / "log", tmp_path / "killer"
    cut_off(tmp_path / "c", killer, log)
    prepared = prepare("toy_films", None, {"killed_by": str(killer), "log": str(log)}, tmp_path / "c", roi=ROI,
                       size=(16, 16), spread=over_nodes)  # fmt: skip
    assert sorted(decoded(log)) == list(range(48))  # those of the run that was cut off are not decoded again
    assert same(prepared, toy(tmp_path / "quiet"))
    with pytest.raises(DataError, match="one grey value"):
        prepare("toy_films", None, {"defect": "flat"}, tmp_path / "c", roi=ROI, size=(16, 16), spread=over_nodes)


@pytest.mark.ray
def test_a_node_that_sees_other_files_is_named(tmp_path: Path, local_ray: object) -> None:
    from bench.cluster.prepare import complaint, over_nodes

    record = next(toy_films.records(None, toy_films.Options(), Report()))
    [film], _ = films_of([replace(record, image=OfThisProcess(0, None))], None)
    with pytest.raises(
        MachineError, match=r"does not see the films of the data set \(node .*storage that all nodes share"
    ):
        list(over_nodes([film], None, tmp_path, check=True, processes=1))
    assert not list(tmp_path.iterdir())
    assert "the cache's folder" in complaint(tmp_path / "note", "word", film.record.image, "")


class OfThisProcess(toy_films.Block):
    def fingerprint(self) -> str:
        return str(os.getpid())


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
