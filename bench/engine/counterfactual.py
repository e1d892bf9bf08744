"""Films and their edited copies through a network, and through copies of it with random weights: the table that
bench/metrics/counterfactual.py reads.

Shapes: B films, H W input pixels, K classes.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from bench.engine.evaluate import untrained_copy
from bench.engine.shams import sham
from bench.engine.worker import Worker
from bench.metrics.counterfactual import COLUMNS, REMOVED, TRAINED, changed, lift, own_logit
from bench.metrics.frame import ROW_KEY
from data.batch import Batch
from data.errors import DataError
from data.inputs import Inputs
from data.loading import batches
from data.samples import Samples
from data.tracks import TRACKS
from models.method import Method

NETWORKS = 5  # with random weights: the null band


def counterfactual_table(
    method: Method, name: str, films: Samples, edits: Samples, track: str, worker: Worker, batch_size: int = 64
) -> pd.DataFrame:
    """One row per film, edited copy and network (bench.metrics.counterfactual.COLUMNS).

    name: of the method, seeds the random weights. films, edits: of one side, labelled for `track`; an edit names its film
    in counterfactual_of and says in attr_edit what it is. In float32 whatever the run's precision: bfloat16 rounds a small
    change of a score away. Raises DataError where a copy has no film.
    """
    networks = {TRAINED: method.eval()}
    for seed in range(1, NETWORKS + 1):
        networks[f"random {seed}"] = untrained_copy(method, name, seed, worker)
    column, classes = TRACKS[track].column, TRACKS[track].classes
    parts: list[pd.DataFrame] = []
    with torch.no_grad():
        for edit in sorted(set(edits.table["attr_edit"])):
            what, _, value = edit.partition("=")
            if edit != REMOVED and (what != column or value not in classes):
                continue  # says nothing of this track's classes
            for film, copy, rows in _pairs(films, edits, edit, method.inputs(), batch_size):
                film, copy = film.to(worker.torch_device), copy.to(worker.torch_device)
                shams = _shams(film, copy, rows) if edit == REMOVED else None
                for which, network in networks.items():
                    found = (
                        _exchanged(network, film, copy, track, classes.index(value))
                        if shams is None
                        else _removed(network, film, copy, shams, rows, track)
                    )
                    parts.append(rows[ROW_KEY].assign(network=which, edit=edit, **found))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return table.reindex(columns=list(COLUMNS))


def _pairs(
    films: Samples, edits: Samples, edit: str, inputs: Inputs, batch_size: int
) -> Iterator[tuple[Batch, Batch, pd.DataFrame]]:
    """Batches of films, of their copies with this edit, and the films' rows."""
    where = {key: i for i, key in enumerate(zip(films.table["record_id"], films.table["finding_id"], strict=True))}
    chosen = np.flatnonzero(edits.table["attr_edit"] == edit)
    copies = edits.table.iloc[chosen]
    keys = list(zip(copies["counterfactual_of"], copies["finding_id"], strict=True))
    if lost := [record for record, finding in keys if (record, finding) not in where]:
        raise DataError(f"no film to the edited copy of {lost[0]}", f"edit {edit}", "prepare the data set again")
    pair = films.select([where[key] for key in keys]), edits.select(chosen)
    read = (
        batches(one, inputs, (), seed=0, stage="evaluation", augment=False, shuffle=False, batch_size=batch_size)
        for one in pair
    )
    for film, copy in zip(*read, strict=True):
        yield film, copy, pair[0].table.iloc[film.index.numpy()].reset_index(drop=True)


def _shams(film: Batch, copy: Batch, rows: pd.DataFrame) -> list[np.ndarray | None]:
    """(H, W) each; the place is drawn by film and finding, so that every method of one input meets the same sham."""
    pairs = zip(_images(film), _images(copy), rows["record_id"], rows["finding_id"], strict=True)
    return [sham(own, bare, record, finding) for own, bare, record, finding in pairs]


def _removed(
    network: Method, film: Batch, copy: Batch, shams: list[np.ndarray | None], rows: pd.DataFrame, track: str
) -> dict[str, Any]:
    labels = rows[TRACKS[track].column].to_numpy(np.int64)
    before = own_logit(_logits(network, film, track), labels)
    after = own_logit(_logits(network, copy, track), labels)
    edited = np.stack([own if made is None else made for own, made in zip(_images(film), shams, strict=True)])
    other = replace(film, image=torch.from_numpy(edited).to(film.image)[:, None])
    beside = before - own_logit(_logits(network, other, track), labels)
    lifts = [
        lift(of_film, changed(own, bare))
        for of_film, own, bare in zip(_maps(network, film, track, labels), _images(film), _images(copy), strict=True)
    ]
    return {
        "delta": before - after,
        "sham": np.where([made is not None for made in shams], beside, np.nan),
        "lift": [one for one, _ in lifts],
        "area": [area for _, area in lifts],
    }


def _exchanged(network: Method, film: Batch, copy: Batch, track: str, target: int) -> dict[str, Any]:
    before, after = (network.predict(batch, track).probabilities[:, target].double().cpu() for batch in (film, copy))
    return {"rise": (after - before).numpy()}


def _maps(network: Method, film: Batch, track: str, labels: np.ndarray) -> np.ndarray:
    """(B, h, w) the map that the first variant names, else the first: of the true class; on a further track, for whose
    classes no map is made, of the class predicted on the trained one."""
    own = network.task.track.name
    target = torch.tensor(labels, device=film.image.device)
    if track != own:
        target = network.predict(film, own).probabilities.argmax(dim=1)
    with torch.enable_grad():
        drawn = network.maps(film, target)
    named = network.variants()[0].map
    return drawn[named or next(iter(drawn))].detach().double().cpu().numpy()


def _logits(network: Method, batch: Batch, track: str) -> np.ndarray:
    """(B, K) before any normalisation, which would let one class's logit move another's."""
    found = network.predict(batch, track)
    return (found.scores if found.logits is None else found.logits).double().cpu().numpy()


def _images(batch: Batch) -> np.ndarray:
    return batch.image[:, 0].cpu().numpy()
