"""What a reader of a row has to know before comparing it: checks with stable codes, each with its sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.config import KNOWN, RELEASED
from bench.leaderboard.rows import RANKED_SEEDS, Badge, Row, SeedRun
from bench.metrics import Estimate
from data.tracks import TRACKS

# code -> what it means in general: the page's legend and docs list these
CODES: dict[str, str] = {
    "MB001": "Not every seed that was asked for has finished. No mean over the survivors is shown.",
    "MB002": f"Fewer than {RANKED_SEEDS} seeds: the spread between trainings is too uncertain for a rank.",
    "MB003": "Budget fields (size, width, epochs...) are not the published ones: no verdict about the paper.",
    "MB004": "The trunk did not start from the published weights: ImageNet's, or those that the method's paper names.",
    "MB005": "The seeds share one pre-trained trunk, so they are more alike than independent trainings.",
    "MB006": "The data are not the set as distributed: synthetic, reduced, or with stand-ins for masks or fewer of them.",
    "MB007": "The test side had been opened before this row was made; each look can flatter what is reported last.",
    "MB008": "Published weights were used; whether their makers saw patients of the test side is unknown.",
    "MB009": "The source had changes that no commit holds, or the seeds come from several commits.",
    "MB010": "The settings were not searched: the published ones (with the suite's budget) went straight to the test.",
    "MB011": "Part of the test rows lies outside the method's label space and is scored all the same.",
    "MB012": "The primary metric has no interval.",
    "MB013": "A look at the test side was repeated on request (--reopen), or the row was made again (--force).",
    "MB014": "The effective batch changed during training (out of memory, or another number of workers).",
    "MB015": "More search, or another size or width, than another row of the table had: the comparison is not at equal budget.",
    "MB016": "Rows of the same split that rest on other test rows stand in another table, and are not compared with this one.",
    "MB017": "The primary metric lies below guessing: these trainings have failed, whatever a comparison with them says.",
    "MB018": "The test value lies far below what the search for these settings saw on validation: the search did not carry over.",
    "MB019": "Training masks were exchanged between patients (`masks: shuffled`): a placebo, no result of the method.",
    "MB020": "A patient may be on two sides (`patient_scope`): for measuring what that adds, not for a rank.",
    "MB021": "The network was trained on films of other data sets before: it has seen more than rows without this mark.",
}
CONTROLS = ("MB019", "MB020")  # rows that measure something about the benchmark: never ranked, never peers
GUESSING = {"auroc_mean": 0.5}  # primary metric -> what guessing gets
FALL = 0.1  # more than a validation set's optimism explains
_GRADES = {
    "synthetic": (
        "MB006",
        "synthetic data",
        "the mammograms are generated; the ceiling row tells what could be reached",
    ),
    "reduced": ("MB006", "reduced data", "the films are resampled or re-wrapped, not the set as distributed"),
    "proxy": ("MB006", "proxy masks", "masks are elliptic or derived, not drawn by a reader"),
    "band": ("MB006", "proxy fine annotation", "a band around the contour stood in for the fine annotation"),
    "fewer_masks": ("MB006", "fewer masks", "training saw masks of a part of its patients or of none (masks_kept)"),
    "placebo": ("MB019", "placebo masks", "training masks were exchanged between patients: a control"),
    "within_class": ("MB020", "patients on two sides", "a patient may train in one class and test in another"),
    "lesion": (
        "MB020",
        "patients on two sides",
        "sides were drawn by lesion: other lesions of a test patient may have trained",
    ),
    "film": (
        "MB020",
        "lesions on two sides",
        "sides were drawn by film: the other view of a test lesion may have trained",
    ),
}


def badges_of(runs: Sequence[SeedRun], asked: int, facts: Mapping[str, Any], primary: Estimate | None) -> list[Badge]:
    """The badges of a row. runs: its seeds. facts: what `measure.describe` gave, {} for a row without metrics."""
    found = [*_seeds(runs, asked), *_budget(runs), *_data(runs, facts), *_looks(runs), *_source(runs)]
    if runs and not any(run.search for run in runs):
        found.append(Badge("MB010", "not searched", CODES["MB010"]))
    flagged = float(facts.get("flagged", 0.0))
    if flagged > 0:
        meaning = f"{flagged:.0%} of the test rows lie outside the classes that the method knows"
        found.append(Badge("MB011", f"{flagged:.0%} outside labels", meaning))
    value = primary.value if primary is not None else None
    guessing = GUESSING.get(TRACKS[runs[0].track].primary) if runs else None
    if value is not None and guessing is not None and value < guessing:
        found.append(Badge("MB017", "below chance", CODES["MB017"]))
    searched = [run for run in runs if run.track == run.spec.get("track") and run.search.get("best") is not None]
    seen = max((float(run.search["best"]) for run in searched), default=None)
    if value is not None and seen is not None and seen - value > FALL:
        meaning = f"the search for these settings saw {seen:.3f} on validation, the test gives {value:.3f}"
        found.append(Badge("MB018", "fell from search", meaning))
    if primary is not None and (primary.low is None or primary.high is None):
        found.append(Badge("MB012", "no interval", primary.note or CODES["MB012"]))
    return found


def control_of(row: Row) -> str | None:
    """What makes the row a control, which measures something about the benchmark; None for a method's own row."""
    return next((badge.label for badge in row.badges if badge.code in CONTROLS), None)


def _seeds(runs: Sequence[SeedRun], asked: int) -> Iterable[Badge]:
    whole = len({run.place[0] for run in runs if run.usable})
    if whole < asked:
        yield Badge("MB001", f"{whole} of {asked} seeds", CODES["MB001"])
    elif asked < RANKED_SEEDS:
        meaning = f"{_count(asked, 'seed')}: a ranked row needs {RANKED_SEEDS}"
        yield Badge("MB002", _count(asked, "seed"), meaning)
    if len({identity for run in runs for identity in run.requirements}) < len({run.place for run in runs}) and any(
        run.requirements for run in runs
    ):
        yield Badge("MB005", "shared trunk", CODES["MB005"])


def _budget(runs: Sequence[SeedRun]) -> Iterable[Badge]:
    fields = list(dict.fromkeys(name for run in runs for name in run.facts.get("reduced", ())))
    if fields:
        yield Badge("MB003", "reduced", f"budget below or beside the published one: {', '.join(fields)}")
    weights = {str(run.facts["weights"]) for run in runs if run.facts.get("weights")}
    if "pretext" in weights:
        yield Badge("MB004", "trunk: pretext", "the trunk was trained on the training side's labels, not on ImageNet")
    if "none" in weights:
        yield Badge("MB004", "trunk: random", "the trunk started from random weights, not from published ones")
    if any(start.startswith(KNOWN) for start in weights):
        yield Badge("MB004", "trunk: another run", "it started from the state of another run, whose films are known")
    if any(start == "imagenet" or start.startswith(RELEASED) for start in weights):
        yield Badge("MB008", "ancestry unknown", CODES["MB008"])
    before = sorted({source for run in runs for source in run.facts.get("trained_before", ())})
    if before:
        yield Badge("MB021", "other films before", f"it was trained on {', '.join(before)} before this training side")
    if any(run.facts.get("altered") for run in runs):
        yield Badge("MB014", "altered", CODES["MB014"])


def _data(runs: Sequence[SeedRun], facts: Mapping[str, Any]) -> Iterable[Badge]:
    grades = {*facts.get("grades", ()), *(str(g) for run in runs for g in run.facts.get("grades", ()))}
    for grade, (code, label, meaning) in _GRADES.items():
        if grade in grades:
            yield Badge(code, label, meaning)


def _looks(runs: Sequence[SeedRun]) -> Iterable[Badge]:
    before = max((int(run.facts.get("opened_before", 0)) for run in runs), default=0)
    if before:
        yield Badge(
            "MB007",
            f"opened {before}x before",
            f"its test side had been opened {before} times before this row, by any method: those of a suite count",
        )
    reasons = [str(run.facts["reopened"]) for run in runs if run.facts.get("reopened")]
    if reasons:
        yield Badge("MB013", "reopened", f"the test side was opened again: {reasons[0]}")
    elif any(run.facts.get("forced") for run in runs):
        yield Badge("MB013", "forced", "the runs were made again though finished ones were there (--force)")


def _source(runs: Sequence[SeedRun]) -> Iterable[Badge]:
    commits = {run.facts["commit"] for run in runs if run.facts.get("commit")}
    if any(run.facts.get("dirty") for run in runs):
        yield Badge("MB009", "uncommitted source", "the source held changes that no commit has when the runs were made")
    elif len(commits) > 1:
        yield Badge("MB009", f"{len(commits)} commits", f"the seeds were trained from {len(commits)} different commits")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
