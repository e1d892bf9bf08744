"""The tables of an ablation's page, printed of a finished suite: means of arms over seeds, and paired differences."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.leaderboard.rows import SeedRun
from bench.metrics import difference, over_seeds
from data.errors import ConfigError
from docs.ablation import ablation, main
from tests.board_samples import arm_of, final, five, frame_of


@pytest.fixture(scope="module")
def runs() -> list[SeedRun]:
    failed = [replace(run, run_id="f" + run.run_id) for run in arm_of("broken", 1.0)[:2]]
    return [
        *five("iaia_bl", 1.5),
        *arm_of("no_fine", 2.6),
        *arm_of("placebo", 1.2, facts={"grades": ["placebo"]}),
        *failed,
    ]


def cell_of(text: str, start: str, column: int, nth: int = 0) -> str:
    lines = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return lines[nth].split("|")[1 + column].strip()


def test_an_ablation_prints_means_and_paired_differences(runs: list[SeedRun]) -> None:
    text = ablation(runs, ["auroc_mean", "kappa"], "iaia_bl", per_seed=True)
    frames = {skill: [frame_of("margin", seed, skill) for seed in range(1, 6)] for skill in (1.5, 2.6)}
    mean = over_seeds(frames[2.6])["kappa"]
    assert cell_of(text, "no_fine", 3) == str(mean) and mean.low is not None and "n=150" in str(mean)
    estimate, p = difference(frames[2.6], frames[1.5], "kappa")
    assert cell_of(text, "no_fine", 2, nth=3) == (
        f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f}), p {'< 0.001' if p < 0.001 else f'{p:.3f}'}, n=150"
    )
    assert "no_fine (of iaia_bl)" in text and "placebo (of iaia_bl); control: placebo masks" in text
    assert "missing: 2 of 5 seeds" in cell_of(text, "broken", 2)
    values = [over_seeds([frame])["auroc_mean"].value for frame in frames[2.6]]
    assert [cell_of(text, "no_fine, auroc_mean", seed) for seed in range(1, 6)] == [f"{value:.3f}" for value in values]
    assert "75 patients" in text and "not corrected" in text


def test_rows_of_other_test_rows_are_named_and_not_compared(runs: list[SeedRun]) -> None:
    other = arm_of("elsewhere", 1.0, split_hash="t" * 16)
    text = ablation([*runs, *other], ["auroc_mean"], "iaia_bl")
    assert "not compared: elsewhere (of iaia_bl)." in text and "| elsewhere" not in text


def test_few_seeds_are_told(runs: list[SeedRun]) -> None:
    few = [final(name, seed, 1.0, facts={"seeds_asked": 2}) for name in ("vgg16", "iaia_bl") for seed in (1, 2)]
    assert "hardly known" in ablation(few, ["auroc_mean"], "vgg16")
    assert "hardly known" not in ablation(runs, ["auroc_mean"], "iaia_bl")


@pytest.mark.parametrize(
    ("metrics", "reference", "says"),
    [
        (["auroc"], "iaia_bl", "no metric 'auroc'.*auroc_mean"),
        (["auroc_mean"], "no_fin", r"no finished row is called 'no_fin' \(--reference\); did you mean 'no_fine'"),
        (["auroc_mean"], "broken", "no finished row is called 'broken'"),
    ],
)
def test_what_an_ablation_cannot_print(runs: list[SeedRun], metrics: list[str], reference: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ablation(runs, metrics, reference)


def test_a_folder_without_runs_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere"), "--metrics", "auroc_mean", "--reference", "vgg16"]) == 2
    assert capsys.readouterr().err.startswith("error: no such folder") and not (tmp_path / "nowhere").exists()
