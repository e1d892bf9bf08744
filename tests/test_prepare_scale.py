"""`prepare` at scale: it goes on where it was cut off, stays in bounds, and spreads over nodes."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from bench.prepare import Pace, cores
from data import _pool
from data._films import films_of, work_all
from data._folder import JOURNAL
from data._journal import Journal
from data._store import PixelSpec
from data.cache import prepare
from data.errors import DataError, MachineError
from data.record import Report
from tests import toy_films
from tests.cli import ROOT
from tests.toy_prepare import ROI, SPEC, cut_off, decoded, in_another_process, same, toy, wait_until


# ---- going on ---------------------------------------------------------------------------------------------------------
@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def interrupt(done: int, films: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("toy_films", None, {"log": str(log)}, tmp_path / "c", roi=ROI, size=(16, 16), progress=interrupt)
    toy(tmp_path / "c", log=str(log))
    assert decoded(log) == list(range(48))


@pytest.mark.long
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


@pytest.mark.long
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
