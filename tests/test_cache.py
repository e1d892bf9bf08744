"""What `prepare` leaves behind: whole or not at all, once, and without anything that names a patient."""

import json
import multiprocessing
import os
import resource
import shutil
import socket
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import data
from data._key import folder_of
from data._store import PixelSpec, Rows, create_rows, write_rows
from data.cache import Opening, Prepared, open_prepared, prepare
from data.errors import ConfigError, DataError, LeakError, MachineError, UserError
from data.inputs import Inputs, Roi, Stream
from data.passport import masks_shared
from data.split import Split
from tests import toy_films

ROI = Roi(strategy="box_scale", scale=1.5)
INPUTS = Inputs((16, 16), "margin", (Stream("train", 8),), ROI)
FORK = multiprocessing.get_context("fork")


def toy(folder: Path, *, skip_bad: bool = False, **options: object) -> Prepared:
    return prepare("toy_films", None, options, folder, skip_bad=skip_bad, roi=ROI, size=(16, 16))


def test_readers_are_found_by_name():
    assert {"phantom", "toy_films"} <= set(data.names())
    assert data.reader("toy_films") is toy_films and data.datasets()["toy_films"] is toy_films.CARD
    with pytest.raises(ConfigError, match=r"choose one of: .*phantom"):
        data.reader("ddsm")
    with pytest.raises(ConfigError, match="two readers claim"):
        data.register("toy_films", "elsewhere")


def test_the_registry_imports_neither_torch_nor_pandas():
    code = "import sys, data; data.names(); assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(data.__path__[0]).parent)


def test_table_and_passport(tmp_path):
    prepared = toy(tmp_path, normals=True, sides="official")
    table, passport = prepared.table, prepared.passport
    assert len(table) == 48 and (table["finding_id"] == "").sum() == 12
    row = table[table["finding_id"] != ""].iloc[0]
    assert (row["height"], row["width"]) == (60, 40)
    assert row["area_px"] == (row["x1"] - row["x0"]) * (row["y1"] - row["y0"])
    assert row["attr_assessment"] in (3.0, 4.0) and row["attr_density"] in "abcd"
    assert passport["records"] == 48 and passport["findings"] == 36 and passport["patients"] == 24
    assert passport["grade"] == "synthetic" and passport["problems"] == [] and passport["left_out"] == []
    assert passport["tracks"]["detection"]["test"] == {"normal": 4, "mass": 12}
    assert sum(passport["tracks"]["margin"][side]["spiculated"] for side in ("train", "validation", "test")) == 12
    assert passport["tracks"] == prepared.counts()
    assert sum(sum(labels.values()) for labels in prepared.counts(prepared.split())["malignancy"].values()) == 36


def test_nothing_published_names_a_patient_or_a_path(tmp_path):
    prepared = toy(tmp_path / "who", defect="empty", skip_bad=True)
    prepared.split()
    for path in prepared.folder.rglob("*"):
        if path.is_file() and path.name != "problems.json":
            content = path.read_bytes()
            assert b"SECRET" not in content and str(tmp_path).encode() not in content, path.name
    assert prepared.table["patient"].nunique() == 24


def test_the_pixels_are_the_films(tmp_path):
    prepared = toy(tmp_path)
    samples = prepared.training(prepared.split(), INPUTS).train
    record = next(
        r for r in toy_films.records(None, toy_films.Options(), None) if r.record_id == samples.table["record_id"][3]
    )
    film, mask = record.image.read(), record.findings[0].mask.read()
    from data.roi import cut

    region = cut(film, [mask], record.findings[0].box, ROI, (16, 16))
    assert np.abs(samples.image[3] / 65535 - region.image).max() < 1e-4
    assert np.abs(samples.mask[3] / 255 - region.masks[0]).max() < 3e-3
    assert samples.table.loc[3, ["wx0", "wy0", "wx1", "wy1"]].tolist() == list(region.window)


def test_finished_work_is_found_again(tmp_path):
    log = tmp_path / "log"
    first = toy(tmp_path / "c", log=str(log))
    films = len(log.read_text().splitlines())
    assert films == 48  # each film decoded once, table and pixels in one pass
    again = toy(tmp_path / "c", log=str(log))
    assert again.folder == first.folder and open_prepared("toy_films", None, {"log": str(log)}, tmp_path / "c") == again
    assert len(log.read_text().splitlines()) == films
    again.ensure_pixels(PixelSpec(ROI, (24, 24), 1.2))
    assert len(log.read_text().splitlines()) == 2 * films
    assert len([p for p in (first.folder / "pixels").iterdir() if p.is_dir()]) == 2
    toy(tmp_path / "c", log=str(log), patients=20)
    assert len(log.read_text().splitlines()) == 2 * films + 40


def test_the_data_hash_is_of_the_content(tmp_path):
    first = toy(tmp_path / "a").data_hash
    assert toy(tmp_path / "b").data_hash == first
    prepared = prepare("toy_films", None, {"log": os.devnull}, tmp_path / "c")  # without pixels: the same data
    assert prepared.data_hash == first
    assert toy(tmp_path / "d", patients=23).data_hash != first
    assert toy(tmp_path / "e", defect="clipped").data_hash != first


def test_several_processes_write_the_same(tmp_path):
    one = toy(tmp_path / "one", patients=8)
    seen: list[tuple[int, int]] = []
    two = prepare(
        "toy_films", None, {"patients": 8}, tmp_path / "two", roi=ROI, size=(16, 16), processes=2, progress=lambda *p: seen.append(p)
    )  # fmt: skip
    assert two.data_hash == one.data_hash and seen == [(i, 16) for i in range(17)]
    for path in one.folder.rglob("*.npy"):
        assert path.read_bytes() == (two.folder / path.relative_to(one.folder)).read_bytes()


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        ("empty", "the mask is empty"),
        ("size", "mask of another size than its film: it has 40 x 62 pixels, its film 40 x 60"),
        ("undecodable", "not a DICOM"),
        ("outside", "lies outside of the film"),
        ("flat", "one grey value"),
    ],
)
def test_bad_files_are_refused_or_left_out(tmp_path, defect, message):
    with pytest.raises(DataError, match=message) as error:
        toy(tmp_path, defect=defect)
    assert "film 3" in str(error.value) and "pass --skip-bad" in str(error.value) and "\n" not in str(error.value)
    assert all(p.suffix == ".part" for p in tmp_path.iterdir() if p.is_dir())  # nothing that counts as done
    prepared = toy(tmp_path, defect=defect, skip_bad=True)
    assert len(prepared.table) == 47
    assert [(p["file"][:6], p["row"]) for p in prepared.passport["problems"]] == [("film 3", None)]
    assert sum(entry["count"] for entry in prepared.passport["left_out"]) == 1
    assert len(prepared.training(prepared.split("kfold5"), INPUTS).train) > 20
    assert toy(tmp_path, defect=defect).folder == prepared.folder  # what was accepted once is not asked again


def test_boxes_that_reach_a_little_over_the_film_are_clipped_and_counted(tmp_path):
    prepared = toy(tmp_path, defect="clipped")
    assert prepared.passport["boxes_clipped"] == 1 and (prepared.table["x0"] >= 0).all()


def test_a_mass_of_unknown_place_is_no_finding_and_its_film_no_detection_sample(tmp_path):
    prepared = toy(tmp_path, defect="unplaced")
    assert prepared.passport["left_out"] == [{"reason": "finding with neither mask nor box", "count": 1}]
    assert len(prepared.table) == 47


def _prepare_in(folder: Path, options: dict[str, object], limit: int | None = None) -> None:
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        toy(folder, **options)
    except UserError as error:
        (folder.parent / "error").write_text(str(error)) if limit is None else os.write(2, str(error).encode())
        os._exit(2)
    os._exit(0)


def test_a_killed_run_leaves_nothing_that_counts_as_done(tmp_path):
    killer = tmp_path / "killer"
    killer.write_text("")
    process = FORK.Process(target=_prepare_in, args=(tmp_path / "c", {"killed_by": str(killer)}))
    process.start()
    process.join()
    assert process.exitcode == -9
    left = [p for p in (tmp_path / "c").iterdir() if p.is_dir()]
    assert [p.suffix for p in left] == [".part"]
    with pytest.raises(DataError, match="run `prepare toy_films` first"):
        open_prepared("toy_films", None, {"killed_by": str(killer)}, tmp_path / "c")
    left[0].rename(left[0].with_name(left[0].name.replace(".part", "")))  # as if renamed without its marker
    killer.unlink()
    quiet, healed = toy(tmp_path / "quiet"), toy(tmp_path / "c", killed_by=str(killer))
    assert healed.data_hash == quiet.data_hash
    assert not [p for p in (tmp_path / "c").iterdir() if p.suffix == ".part"]


def test_two_processes_at_once_do_the_work_once(tmp_path):
    log = tmp_path / "log"
    pair = [FORK.Process(target=_prepare_in, args=(tmp_path / "c", {"log": str(log)})) for _ in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
    assert [process.exitcode for process in pair] == [0, 0]
    assert len(log.read_text().splitlines()) == 48


def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capfd):
    process = FORK.Process(target=_prepare_in, args=(tmp_path / "c", {}, 4096))
    process.start()
    process.join()
    assert process.exitcode == 2
    assert "cannot write" in capfd.readouterr().err
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(MachineError, match=r"preparing needs 0.0 GB"):
        toy(tmp_path / "c")


def test_an_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for cache_dir in (tmp_path / "file" / "cache", tmp_path / "file"):
        with pytest.raises(MachineError, match="a file stands where a folder is needed") as error:
            toy(cache_dir)
        assert str(tmp_path / "file") in str(error.value) and "move that file away" in error.value.do


def test_the_key_follows_the_files_on_disk(tmp_path):
    card = types.SimpleNamespace(name="x", version=1, needs_root=True, source="elsewhere")
    reader = types.SimpleNamespace(CARD=card)
    root = tmp_path / "data"
    root.mkdir()
    (root / "a.csv").write_text("1")

    def key(cache_dir: Path = root / "runs" / "cache") -> str:
        return folder_of(reader, root, toy_films.Options(), cache_dir).name  # type: ignore[arg-type]

    first = key()
    (root / "runs" / "cache").mkdir(parents=True)
    (root / "runs" / "log").write_text("our own output is no part of the data")
    assert key() == first
    (root / "a.csv").write_text("12")
    assert key() != first
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    second, root = key(), moved
    assert folder_of(reader, moved, toy_films.Options(), moved / "runs" / "cache").name == second  # type: ignore[arg-type]
    with pytest.raises(DataError, match="pass --data-root; elsewhere"):
        folder_of(reader, tmp_path / "none", toy_films.Options(), tmp_path)  # type: ignore[arg-type]


def test_links_to_nothing_count_and_pipes_do_not(tmp_path):
    card = types.SimpleNamespace(name="x", version=1, needs_root=True, source="elsewhere")
    reader = types.SimpleNamespace(CARD=card)
    root = tmp_path / "data"
    root.mkdir()
    (root / "a.csv").write_text("1")

    def key() -> str:
        return folder_of(reader, root, toy_films.Options(), tmp_path / "cache").name  # type: ignore[arg-type]

    plain = key()
    os.mkfifo(root / "pipe.dcm")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(root / "socket"))
        assert key() == plain
    (root / "b.csv").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root / "loop")
    dangling = key()
    assert dangling != plain
    (tmp_path / "elsewhere").write_text("fetched at last")
    assert key() not in (plain, dangling)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_short, emptied, Path.unlink])
@pytest.mark.parametrize(
    "file", ["table.parquet", "passport.json", "problems.json", "image.npy", "mask.npy", "rows.parquet"]
)
def test_damaged_work_is_named_and_made_again_once_it_is_deleted(tmp_path, file, damage):
    prepared = toy(tmp_path / "c")
    [path] = prepared.folder.rglob(file)
    damage(path)

    def use() -> int:
        again = toy(tmp_path / "c")
        return len(again.training(again.split(), INPUTS).train) + len(again.passport["problems"])

    with pytest.raises(DataError, match="damaged or missing") as error:
        use()
    where = path.relative_to(tmp_path / "c")
    assert error.value.where == where.as_posix() and f"delete the folder {where.parent} of the cache" in error.value.do
    shutil.rmtree(path.parent)
    assert use() > 20


def test_options_are_checked():
    with pytest.raises(ConfigError, match="patient_count"):
        prepare("toy_films", None, {"patient_count": 3}, Path("nowhere"))


def test_a_lesion_under_two_patients_is_counted() -> None:
    table = pd.DataFrame(
        {
            "patient": ["a", "b", "b", "c", "d", "e"],
            "mask_hash": ["m1", "m1", "m2", "m2", "", ""],
            "counterfactual_of": ["", "", "", "r3", "", ""],
        }
    )
    assert masks_shared(table) == 1


def opening_of(prepared: Prepared, split: Split, *tracks: str) -> Opening:
    return Opening("e1", prepared.data_hash, split.hash, tracks)


def test_the_test_side_is_sealed(tmp_path):
    prepared = toy(tmp_path)
    split = prepared.split()
    opening = opening_of(prepared, split, "malignancy", "detection")
    opened = prepared.sealed(split, INPUTS, "malignancy", opening)
    assert set(opened.table["side"]) == {"test"}
    with pytest.raises(ConfigError, match="one finding at a time"):
        prepared.sealed(split, INPUTS, "detection", opening)
    for other in (
        opening_of(prepared, split, "detection"),
        replace(opening, data_hash="other data"),
        replace(opening, split_hash="other sides"),
    ):
        with pytest.raises(LeakError, match="sealed"):
            prepared.sealed(split, INPUTS, "malignancy", other)


def test_counterfactuals_keep_the_place_and_grey_scale_of_their_origin(tmp_path):
    prepared = toy(tmp_path, edits=True)
    split = prepared.split()
    plain = prepared.sealed(split, INPUTS, "margin", opening_of(prepared, split, "margin"))
    edits = prepared.sealed(split, INPUTS, "margin", opening_of(prepared, split, "margin"), counterfactuals=True)
    assert len(plain) and (plain.table["counterfactual_of"] == "").all()
    assert len(edits) == (plain.table["malignant"] == 1).sum() and (edits.table["label"] == -1).all()
    origins = plain.table.set_index("record_id").loc[edits.table["counterfactual_of"]]
    for column in ("finding_id", "wx0", "wy1", "grey_low", "grey_high"):
        assert origins[column].tolist() == edits.table[column].tolist()
    assert edits.table["origin_margin"].tolist() == origins["margin"].tolist()
    assert (prepared.training(split, INPUTS).train.table["counterfactual_of"] == "").all()
    assert sum(sum(n.values()) for n in prepared.counts()["margin"].values()) == 48


def test_rows_are_read_back_and_only_those_asked_for(tmp_path):
    path, pixels = tmp_path / "a.npy", np.arange(10 * 6, dtype=np.uint16).reshape(10, 2, 3)
    create_rows(path, 10, (2, 3), np.uint16)
    write_rows(path, [(i, pixels[i]) for i in range(10)])
    assert np.array_equal(np.load(path), pixels)
    rows = Rows(path, [7, 2, -1, 3, 7])
    assert [int(rows[i].max()) for i in range(5)] == [47, 17, 0, 23, 47] and len(rows) == 5
    with pytest.raises(IndexError):
        rows[5]
    with pytest.raises(ValueError, match="does not fit"):
        write_rows(path, [(10, pixels[0])])
    assert int(rows.take([1, 0])[1].max()) == 47


def test_documents_are_json(tmp_path):
    prepared = toy(tmp_path)
    json.dumps([prepared.passport, prepared.counts()])
