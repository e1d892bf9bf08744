"""Where networks look, by level and class of their prototypes and by kind of map, of a suite's finished runs; as Markdown tables.

python -m docs.prototype_maps OUT --arms fpn_iaia_bl,fpn_iaia_bl_0 --by level,class
python -m docs.prototype_maps OUT --arms fpn_iaia_bl,fpn_iaia_bl_0 --pairs
python -m docs.prototype_maps OUT --arms fpn_iaia_bl,iaia_bl --moved
python -m docs.prototype_maps OUT --arms vgg16,vgg16_mask --maps

--by: of the test frames, maps of prototypes of the sample's class. --pairs: every class's prototypes on samples of every
class, drawn again by the trained networks, on the validation side, which any look may be taken at. --moved: how far the
last projection moved the prototypes. --maps: of the test frames, each of the method's own maps, of the true class.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from bench.config import Job, nearest
from bench.engine.run import open_data, trained
from bench.home import Home
from bench.leaderboard.rows import SeedRun
from bench.leaderboard.table import pipe
from bench.metrics import Frame
from bench.metrics.agreement import ratio
from bench.metrics.combine import estimate
from bench.metrics.explain import SCALES, activation_precision, most_active, pair_table, upsample
from bench.metrics.frame import ROW_KEY
from bench.metrics.maps import UNTRAINED
from bench.metrics.parts import Part, part_of_totals
from bench.pictures import job_file
from bench.tracking import Tracker
from data.errors import ConfigError
from data.loading import batches
from docs._runs import parser_of, print_of_runs
from models._prototype_base import PrototypeMethod

NEGATIVE = "none of them"  # the class of prototypes that belong to no class of the track
NAMED = {"named": "class"}  # column -> what it is called
COLUMNS = {
    "lesion": "activation precision, lesion",
    "fine": "the same, fine annotation",
    "energy_lesion": "energy in the lesion",
    "area": "largest active region, share of the image",
    "half": "pixels above half of the map's range",
}


# ---- by level and class ------------------------------------------------------------------------------------------
def table_of(frame: Frame) -> pd.DataFrame:
    """One row per (image, prototype of its class): what `pair_table` says, level, class, and the two areas."""
    pairs = pair_table(frame, "evidence")
    pairs = pairs[pairs["of"].isin(["true", "both"])].reset_index(drop=True)
    assert frame.evidence is not None and frame.maps is not None and frame.masks is not None
    levels = frame.evidence.drop_duplicates("source").set_index("source")["source_level"]
    size = frame.masks["lesion"].shape[1:]
    area, half = np.zeros(len(pairs)), np.zeros(len(pairs))
    for index in pairs.groupby("key").indices.values():
        for start in range(0, len(index), 500):
            part = index[start : start + 500]
            maps = upsample(frame.maps.read(pairs.iloc[part]), size)
            area[part] = [_largest(active) for active in most_active(maps)]
            low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
            half[part] = (maps > (low + high) / 2).mean(axis=(1, 2))
    names = [frame.classes[kind] for kind in pairs["class"]]
    return pairs.assign(level=pairs["source"].map(levels).to_numpy(), named=names, area=area, half=half)


def _largest(active_HW: np.ndarray) -> float:
    """Share of the image in the largest connected region of active pixels."""
    marked, _ = ndimage.label(active_HW)
    return float(np.bincount(marked.ravel())[1:].max() / active_HW.size)


def by_groups(tables: Sequence[pd.DataFrame], keys: Sequence[str]) -> Iterator[str]:
    """Means over all (image, prototype) pairs of a group, of the seeds whose networks kept such prototypes. tables: one a seed."""
    yield pipe([*(NAMED.get(key, key) for key in keys), "seeds", "prototypes", *COLUMNS.values()])
    yield pipe(["---"] * (2 + len(keys) + len(COLUMNS)))
    for group, _ in pd.concat(tables).groupby(list(keys)):
        chosen = [table[(table[list(keys)] == list(group)).all(axis=1)] for table in tables]
        parts = [part for part in chosen if len(part)]
        prototypes = np.mean([part["source"].nunique() for part in parts])
        said = [str(_mean(parts, column)) for column in COLUMNS]
        yield pipe([*map(str, group), str(len(parts)), f"{prototypes:g}", *said])


def _mean(parts: Sequence[pd.DataFrame], column: str, lowest: float = 0.0, highest: float = 1.0) -> object:
    """Mean of a column, whose values lie between these, with the interval over patients and seeds."""
    made = []
    for part in parts:
        rows = np.stack([part[column].to_numpy(dtype=float), np.ones(len(part))], axis=1)
        who = (part[name].to_numpy() for name in ("patient", "fold", "label"))
        made.append(
            part_of_totals(
                rows, *who, ratio, n=len(part.drop_duplicates(list(ROW_KEY))), lowest=lowest, highest=highest
            )
        )
    return estimate(made)


# ---- kinds of maps -----------------------------------------------------------------------------------------------
def by_map(frames: Sequence[Frame]) -> Iterator[str]:
    """Activation precision of each of a method's own maps, of which a leaderboard's row shows one."""
    assert frames[0].maps is not None
    entries = frames[0].maps.entries
    own = entries[(entries["source"] == "") & ~entries["map"].str.startswith(UNTRAINED)]
    yield pipe(["map", "activation precision, lesion", "the same, fine annotation"])
    yield pipe(["---"] * 3)
    for name in dict.fromkeys(own["map"]):
        said = [str(estimate([activation_precision(frame, scale, name=name) for frame in frames])) for scale in SCALES]
        yield pipe([name, *said])


# ---- class against class -----------------------------------------------------------------------------------------
def pairs_of(home: Home, tracker: Tracker, run: SeedRun) -> pd.DataFrame:
    """One row per (validation sample, class of prototypes): mean activation inside its lesion's mask and outside."""
    job = _job(home, tracker, run)
    prepared = open_data(job)
    method = trained(job, prepared)
    split = prepared.split(job.spec.protocol, job.spec.split_seed, job.spec.fold)
    samples = prepared.training(split, method.inputs()).validation_for(job.spec.track)
    classes = method.task.classes
    rows: list[pd.DataFrame] = []
    for batch in batches(
        samples, method.inputs(), (), seed=0, stage="evaluation", epoch=0, augment=False, shuffle=False, batch_size=50
    ):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=job.spec.bf16):
            evidence = method.evidence(batch)
        if evidence is None:
            raise ConfigError(f"{job.spec.method} has no prototypes", "--pairs", "name arms of a prototype network")
        mask = batch.mask[:, 0].double().numpy()
        inside, outside = _inside_and_outside([one.float().numpy() for one in evidence.maps], mask)
        kinds = np.array(evidence.classes)
        table = samples.table.iloc[batch.index.numpy()]
        for kind in np.unique(kinds):
            name = classes[kind] if kind >= 0 else NEGATIVE
            facts = {name: table[name].to_numpy() for name in (*ROW_KEY, "patient", "label")}
            found = {"inside": inside[:, kinds == kind].mean(axis=1), "outside": outside[:, kinds == kind].mean(axis=1)}
            rows.append(pd.DataFrame(facts | found | {"prototype": name, "fold": 0}))
    found = pd.concat(rows, ignore_index=True)
    return found.assign(sample=[classes[label] for label in found["label"]])


def _inside_and_outside(maps: Sequence[np.ndarray], mask_BHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each map (M of them, (B, h, w)) over the mask and over the rest: both (B, M)."""
    size = mask_BHW.shape[1:]
    drawn_BMHW = np.stack([upsample(one, size) for one in maps], axis=1)
    inside = np.einsum("bmhw,bhw->bm", drawn_BMHW, mask_BHW) / mask_BHW.sum(axis=(1, 2))[:, None]
    beside = 1 - mask_BHW
    return inside, np.einsum("bmhw,bhw->bm", drawn_BMHW, beside) / beside.sum(axis=(1, 2))[:, None]


def class_pairs(tables: Sequence[pd.DataFrame]) -> Iterator[str]:
    """Rows: the sample's class; columns: the prototypes' class, inside and outside the mask."""
    kinds = list(dict.fromkeys(tables[0]["prototype"]))
    kinds = [kind for kind in kinds if kind != NEGATIVE] + [kind for kind in kinds if kind == NEGATIVE]
    for place in ("inside", "outside"):
        yield pipe([f"sample; {place} the lesion", *kinds])
        yield pipe(["---"] * (1 + len(kinds)))
        for sample in dict.fromkeys(tables[0].sort_values("label")["sample"]):
            parts = [[t[(t["sample"] == sample) & (t["prototype"] == kind)] for t in tables] for kind in kinds]
            yield pipe([sample, *(str(_mean(part, place, -np.inf, np.inf)) for part in parts)])
        yield ""


# ---- what projection did -----------------------------------------------------------------------------------------
def moved(home: Home, tracker: Tracker, runs: Sequence[SeedRun]) -> Iterator[str]:
    """The distance of each prototype, before the last projection, to the patch that it then became: their mean."""
    parts, none = [], np.zeros(2)  # no patient enters
    for run in runs:
        job = _job(home, tracker, run)
        method = trained(job, open_data(job))
        if not isinstance(method, PrototypeMethod):
            raise ConfigError(f"{job.spec.method} has no prototypes", "--moved", "name arms of a prototype network")
        distances = method.source_distance.double().numpy()
        distances = distances[np.isfinite(distances)]
        if not len(distances):
            raise ConfigError(f"run {run.run_id[:8]} projected no prototype", "--moved", "name arms that project")
        value, strata = float(distances.mean()), none.astype(np.int64)
        parts.append(Part(value, none.astype(str), none, strata, len(distances), of_model=True, highest=np.inf))
    yield pipe(["measure", "distance to the nearest patch of the class, before it is copied"])
    yield pipe(["---"] * 2)
    yield pipe(["1 - cosine" if method.measure == "cosine" else "Euclidean", str(estimate(parts))])


def _job(home: Home, tracker: Tracker, run: SeedRun) -> Job:
    info = tracker.run(run.run_id)
    path = job_file(home, info.identity)
    if path is None:
        raise ConfigError(f"run {run.run_id[:8]} left no finished state", str(home.out), "run its suite again")
    return Job.model_validate_json(path.read_bytes())


# ---- command -----------------------------------------------------------------------------------------------------
def runs_of(found: Sequence[SeedRun], arm: str) -> list[SeedRun]:
    """The finished runs of an arm or a method, one a seed. ConfigError where there is none."""
    mine = [run for run in found if run.load is not None and arm in (run.facts.get("arms") or [run.method])]
    if not mine:
        names = sorted({name for run in found for name in (run.facts.get("arms") or [run.method])})
        raise ConfigError(f"no finished run is called {arm!r}", "--arms", nearest(arm, names))
    return sorted({run.spec["seed"]: run for run in mine}.values(), key=lambda run: int(run.spec["seed"]))


def main(words: Sequence[str]) -> int:
    parser = parser_of("prototype_maps", __doc__)
    parser.add_argument("--arms", required=True, help="arms or methods, comma-separated")
    parser.add_argument("--track", default="margin")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--by", help="level, class or both, comma-separated")
    what.add_argument("--pairs", action="store_true", help="class of sample against class of prototype")
    what.add_argument("--moved", action="store_true", help="how far projection moved prototypes")
    what.add_argument("--maps", action="store_true", help="activation precision of each kind of map")
    return print_of_runs(parser, words, _lines)


def _lines(asked: Namespace, home: Home, tracker: Tracker, found: Sequence[SeedRun]) -> Iterator[str]:
    keys = [next((k for k, said in NAMED.items() if said == key), key) for key in (asked.by or "level").split(",")]
    if set(keys) - {"level", "named"}:
        raise ConfigError(f"cannot group by {asked.by!r}", "--by", "give level, class or level,class")
    for arm in asked.arms.split(","):
        runs = runs_of([run for run in found if run.track == asked.track], arm)
        yield f"`{arm}`, {len(runs)} seeds\n"
        if asked.maps:
            yield from by_map([run.load() for run in runs if run.load is not None])
        elif asked.moved:
            yield from moved(home, tracker, runs)
        elif asked.pairs:
            yield from class_pairs([pairs_of(home, tracker, run) for run in runs])
        else:
            yield from by_groups([table_of(run.load()) for run in runs if run.load is not None], keys)
        yield ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
