"""Frames: what they hold, what they refuse, and that half a file is never read as a whole one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import metrics
from bench.metrics import Frame, MapBuilder, pack_masks
from data.errors import DataError, MachineError
from tests.toy_frames import mapped_frame, samples, toy_frame

ROOT = Path(__file__).parent.parent


def test_a_frame_carries_what_references_and_subsets_need() -> None:
    frame = toy_frame()
    assert {"area_px", "attr_density", "margin", "score_spiculated", "prob_indistinct"} <= set(
        frame.predictions.columns
    )
    assert frame.classes == ("circumscribed", "indistinct", "spiculated")
    assert (frame.labels == samples()["margin"]).all()
    assert frame.meta == {
        "track": "margin",
        "classes": list(frame.classes),
        "side": "test",
        "seed": 0,
        "fold": 0,
        "method": "toy",
    }


def test_saved_and_loaded_frames_score_alike(tmp_path: Path) -> None:
    frame = mapped_frame()
    frame.evidence = pd.DataFrame(
        {"record_id": ["r0"], "finding_id": ["f0"], "source": ["prototype 0"], "contribution": [0.5]}
    )
    again = Frame.load(frame.save(tmp_path / "frame"))
    assert metrics.compute(again) == metrics.compute(frame)
    assert again.meta == frame.meta
    assert again.identity == frame.identity
    pd.testing.assert_frame_equal(again.evidence, frame.evidence)
    names = {path.name for path in (tmp_path / "frame").iterdir()}
    assert names == {"frame.json", "predictions.parquet", "maps.parquet", "maps.npz", "masks.npz", "evidence.parquet"}


@pytest.mark.parametrize("name", ["predictions.parquet", "maps.parquet", "maps.npz", "masks.npz", "frame.json"])
@pytest.mark.parametrize("how", ["truncated", "gone", "garbled"])
def test_half_a_frame_is_one_line_of_error(tmp_path: Path, name: str, how: str) -> None:
    folder = mapped_frame(rows=6).save(tmp_path / "frame")
    whole = (folder / name).read_bytes()
    if how == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(
            whole[: len(whole) // 2] + (os.urandom(len(whole) - len(whole) // 2) if how == "garbled" else b"")
        )
    with pytest.raises(DataError) as caught:
        Frame.load(folder)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert str(tmp_path) not in message


def test_a_frame_that_was_being_rewritten_counts_as_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = mapped_frame(rows=6)
    folder = frame.save(tmp_path / "frame")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(MachineError, match="No space left"):
        frame.save(folder)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    with pytest.raises(DataError, match="no finished frame"):
        Frame.load(folder)


def test_a_frame_of_another_format_is_refused(tmp_path: Path) -> None:
    folder = toy_frame().save(tmp_path / "frame")
    marker = json.loads((folder / "frame.json").read_text())
    (folder / "frame.json").write_text(json.dumps(marker | {"format": 99}))
    with pytest.raises(DataError, match="format 99"):
        Frame.load(folder)


def test_arrays_of_objects_are_never_written(tmp_path: Path) -> None:
    frame = mapped_frame(rows=6)
    assert frame.masks is not None
    frame.masks["record_id"] = frame.masks["record_id"].astype(object)
    with pytest.raises(DataError, match="objects"):
        frame.save(tmp_path / "frame")


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("score_spiculated", np.nan, "not finite"),
        ("score_spiculated", np.inf, "not finite"),
        ("prob_spiculated", 0.9999, "add up"),
        ("label", 3, "outside the 3 classes"),
        ("record_id", "r0", "twice"),
        ("patient", "", "no patient"),
    ],
)
def test_frames_that_metrics_could_not_stand_on_are_refused(column: str, value: object, says: str) -> None:
    frame = toy_frame()
    frame.predictions.loc[1, [column, "finding_id"]] = [value, "f0"]
    with pytest.raises(DataError, match=says):
        frame.validate()


def test_missing_columns_and_wrong_shapes_are_named() -> None:
    frame = toy_frame()
    frame.predictions = frame.predictions.drop(columns="prob_indistinct")
    with pytest.raises(DataError, match="prob_indistinct"):
        frame.validate()
    with pytest.raises(DataError, match="scores are"):
        Frame.build(samples(), "margin", np.zeros((120, 2)), np.zeros((120, 3)), side="test", seed=0)
    with pytest.raises(DataError, match="3 rows"):
        Frame.build(samples(1), "margin", np.zeros((1, 3)), np.full((1, 3), 1 / 3), side="test", seed=0,
                    masks=pack_masks(samples(1)) | {"lesion": np.zeros((3, 4, 4), np.uint8)})  # fmt: skip


def test_small_maps_and_small_variation_survive_float16() -> None:
    builder, rng = MapBuilder(), np.random.default_rng(0)
    maps = np.stack([1e-9 * rng.random((6, 6)), 3.0 + 1e-3 * rng.random((6, 6)), np.full((6, 6), 2.5)])
    builder.add("cam", maps, ["a", "b", "c"], ["", "", ""], [0, 1, 0], ["true"] * 3)
    table = builder.table()
    assert table is not None
    read = table.read(table.entries)
    span = maps.max(axis=(1, 2)) - maps.min(axis=(1, 2))
    assert (np.abs(read - maps) <= 5e-4 * span[:, None, None] + 1e-15).all()
    assert (read[2] == 2.5).all()
    assert table.stacks["stack0"].dtype == np.float16
    with pytest.raises(DataError, match="not finite"):
        builder.add("cam", np.full((1, 6, 6), np.nan), ["d"], [""], [0], ["true"])
    assert MapBuilder().table() is None


def test_entries_that_point_at_nothing_are_refused() -> None:
    for column, value, says in (("position", 10**6, "behind"), ("key", "stack9", "no stack"), ("of", "maybe", "maybe")):
        frame = mapped_frame(rows=6)
        assert frame.maps is not None
        frame.maps.entries.loc[0, column] = value
        with pytest.raises(DataError, match=says):
            frame.validate()


def test_subsets_variants_and_unlabelled_rows() -> None:
    table = samples()
    table.loc[:9, "margin"] = -1
    frame = toy_frame(table=table)
    assert len(frame.labelled().predictions) == 110
    assert metrics.quick(frame)["accuracy"].n == 110
    small = frame.subset(frame.predictions["area_px"] < 300, "small lesions")
    assert small.meta["subset"] == "small lesions"
    assert "subset" not in frame.meta
    assert 0 < metrics.quick(small)["auroc_mean"].n < 110
    other = toy_frame(seed=0, skill=3.0, table=table, variant="other")
    both = Frame(pd.concat([frame.predictions, other.predictions], ignore_index=True), frame.meta)
    both.validate()
    assert both.variants == ("default", "other")
    assert metrics.quick(both) == metrics.quick(frame)  # the first variant is read unless another is asked for
    assert metrics.quick(both.of_variant("other")) == metrics.quick(other)
    with pytest.raises(DataError, match="no variant 'third'"):
        both.of_variant("third")


def test_masks_keep_their_fractions() -> None:
    packed = pack_masks(samples(2), np.full((2, 3, 3), 0.5), has_lesion=np.array([True, False]))
    assert packed["lesion"].dtype == np.uint8
    assert (packed["lesion"] == 128).all()
    assert packed["has_lesion"].tolist() == [True, False]


def test_scoring_runs_without_torch_ray_and_mlflow(tmp_path: Path) -> None:
    mapped_frame(rows=12).save(tmp_path / "frame")
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision', 'ray', 'mlflow', 'optuna', 'matplotlib'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from bench import metrics\nfrom bench.metrics import reference\n"
        "print(len(metrics.compute(metrics.Frame.load(sys.argv[1]))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "frame")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
    sources = [path.read_text() for path in (ROOT / "bench" / "metrics").glob("*.py")]
    assert not [text for text in sources if "import torch" in text or "from torch" in text]
