"""The tables of where prototypes look: on frames made by hand, whose every number is known."""

import re
from pathlib import Path

import numpy as np
import pytest

from bench.metrics import Frame
from bench.metrics.combine import estimate
from bench.metrics.explain import activation_precision
from bench.metrics.frame import pack_masks
from bench.metrics.maps import MapBuilder
from data.tracks import TRACKS
from docs.prototype_maps import _inside_and_outside, by_groups, by_map, main, table_of
from tests.cli import here
from tests.toy_evidence import evidence_table
from tests.toy_frames import mapped_frame, samples

SIZE = 20
FINE, COARSE = "level 2", "level 5"

SUITE = """
name: prototypes
data: {exams: {train: 40, validation: 20, test: 20}, level: easy, size: 128, roi: {strategy: box_scale, scale: 1.5}}
budget: {width: 0.0625, size: 32, batch: 12, weights: none, trunk_blocks: 4}
settings:
  fpn_iaia_bl: {start: weights, warm_epochs: 0, joint_epochs: 1, push_every: 1, h1_epochs: 1, augment: {recipe: none}}
  vgg16: {head: pool_linear, norm: batch, epochs: 1, augment: {recipe: none}}
search: {trials: 0}
final: {seeds: 2}
primary: {margin: {reference: vgg16, contrast: fpn_iaia_bl}}
cells:
  - {methods: [vgg16, fpn_iaia_bl], dataset: phantom, track: margin}
"""


def frame(seed: int) -> Frame:
    """12 images, the lesion in the upper left quarter; a prototype of each class and level: those of level 2 fire on a 1 x 20
    strip inside the lesion, those of level 5 on two strips, one inside and one outside."""
    table = samples(12, 6)
    labels = table[TRACKS["margin"].column].to_numpy()
    names = [f"{level} of {kind}" for kind in range(3) for level in (FINE, COARSE)]
    kinds, levels = [0, 0, 1, 1, 2, 2], [2, 5] * 3
    fires = {FINE: np.zeros((SIZE, SIZE)), COARSE: np.zeros((SIZE, SIZE))}
    fires[FINE][2:4, :10] = 1
    fires[COARSE][2, :10] = fires[COARSE][17, 10:] = 1
    built = MapBuilder()
    ids = list(table["record_id"]), list(table["finding_id"])
    for name, kind in zip(names, kinds, strict=True):
        here = np.flatnonzero(labels == kind)
        chosen = [ids[0][i] for i in here], [ids[1][i] for i in here]
        maps = np.repeat(fires[name.split(" of ")[0]][None], len(here), axis=0)
        built.add("evidence", maps, *chosen, [kind] * len(here), ["both"] * len(here), name)
    lesion = np.zeros((12, SIZE, SIZE))
    lesion[:, :10, :10] = 1
    contribution = np.zeros((12, 6, 3))
    evidence = evidence_table(table, contribution, kinds, levels=levels, names=names)
    scores = np.zeros((12, 3))
    return Frame.build(
        table, "margin", scores, np.full((12, 3), 1 / 3), side="test", seed=seed, maps=built.table(),
        masks=pack_masks(table, lesion=lesion, fine=lesion), evidence=evidence,
    )  # fmt: skip


def test_prototypes_are_told_apart_by_level() -> None:
    found = table_of(frame(1)).groupby("level")[["lesion", "area"]].mean()
    assert found.loc[2, "lesion"] == 1 and found.loc[5, "lesion"] == 0.5
    assert found.loc[2, "area"] == pytest.approx(20 / 400), "one region of 20 pixels"
    assert found.loc[5, "area"] == pytest.approx(10 / 400), "two regions of 10: the larger counts"


def test_a_line_of_each_level_with_interval_and_n() -> None:
    lines = list(by_groups([table_of(frame(seed)) for seed in (1, 2)], ["level", "named"]))
    assert len(lines) == 2 + 6
    assert lines[2].startswith("| 2 | circumscribed | 2 | 1 | 1.000") and "n=" in lines[2]


def test_a_line_of_each_of_the_methods_own_maps() -> None:
    lines = list(by_map([mapped_frame(seed) for seed in (1, 2)]))
    [line] = lines[2:]
    expected = estimate([activation_precision(mapped_frame(seed), "lesion", name="own") for seed in (1, 2)])
    assert line.startswith(f"| own | {expected} |")


def test_activation_inside_and_outside_of_a_mask() -> None:
    mask = np.zeros((1, 4, 4))
    mask[0, :2] = 1
    maps = np.where(mask == 1, 3.0, -1.0)
    inside, outside = _inside_and_outside([maps, np.ones((1, 2, 2))], mask)
    assert inside.tolist() == [[3.0, 1.0]] and outside.tolist() == [[-1.0, 1.0]]


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        ([str(tmp_path / "none"), "--arms", "a", "--by", "level"], "no such folder"),
        ([str(tmp_path), "--arms", "a", "--by", "colour"], "--by"),
        ([str(tmp_path), "--arms", "a", "--pairs"], "'a'"),
    ):
        assert main(words) == 2
        assert says in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.long
def test_every_table_comes_from_the_runs_of_a_suite(
    attached: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text(SUITE)
    out = str(tmp_path / "runs")
    assert here("bench", tmp_path / "s.yaml", "--out", out, "--quiet").code == 0
    capsys.readouterr()
    number = r"-?\d+\.\d+ \(-?\d+\.\d+--?\d+\.\d+; n=\d+\)"
    for option, lines in (
        (["--moved"], 1),
        (["--pairs"], 6),  # three classes, inside and outside
        (["--by", "level"], 2),
        (["--maps"], 1),
    ):
        assert main([out, "--arms", "fpn_iaia_bl", *option]) == 0
        said = capsys.readouterr().out
        assert "`fpn_iaia_bl`, 2 seeds" in said
        found = [line for line in said.splitlines() if re.search(number, line)]
        assert len(found) >= lines, said
    for option in ("--moved", "--pairs"):
        assert main([out, "--arms", "vgg16", option]) == 2
        assert "vgg16 has no prototypes" in capsys.readouterr().err
