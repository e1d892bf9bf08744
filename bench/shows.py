"""What each command prints for people: a document, or the board, on a console."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def phantom(console: Console, document: Mapping[str, Any]) -> None:
    known = document["known"]
    console.print(
        f"{document['folder']}: {known['records']} films, {known['findings']} findings, {known['patients']} patients, "
        f"as {document['form']}; generated, not for clinical use",
        markup=False,
    )
    console.print(
        f"next: python run_bench.py prepare {document['dataset']} --data-root {document['folder']}", markup=False
    )


def prepared(console: Console, document: Mapping[str, Any]) -> None:
    table = Table(
        "track",
        "side",
        "labels",
        title=f"{document['dataset']}: {document['findings']} findings, {document['patients']} patients",
    )
    for track, sides in document["tracks"].items():
        for side, labels in sides.items():
            table.add_row(track, side, ", ".join(f"{name} {n}" for name, n in labels.items()))
    console.print(table)
    for item in document["left_out"]:
        console.print(f"left out: {item['count']} x {item['reason']}", markup=False)
    if document["published"]:
        pairs = [
            f"{name.replace('/', ' ')} {p['published']} ({p['here']})" for name, p in document["published"].items()
        ]
        console.print(f"published (here): {', '.join(pairs)}", markup=False)
    for sentence in document["warnings"]:
        console.print(f"look: {sentence}", markup=False)
    if document["problems"]:
        console.print(f"which, by file and row: {document['problems_file']}", markup=False)
    if verified := document["verified"]:
        console.print(f"verified: {verified['files']} files, {verified['pixel_rows']} rows of pixels, all as prepared")
        if not verified["current"]:
            console.print("their sizes, times or places are others: without --verify, prepare decodes them again")
    console.print(f"passport: {document['passport']}", markup=False)
    console.print("next: train, sweep or final on it, with the same --config, --set and --data-root", markup=False)


def metrics(console: Console, document: Mapping[str, Any]) -> None:
    said = f"run {document['run_id'][:8]}: {document['status']}"
    if document["status"] != "complete":
        console.print(f"{said}: {document['failure']}: {document['reason']}", markup=False)
        if document["log"]:
            console.print(f"traceback: {document['log']}", markup=False)
        return
    said += ", finished before" * document["finished_before"]
    if document.get("read_by"):  # of a method with several test-time variants
        said += f", read by {document['read_by']}, the best of its maps on these films"
    table = Table("metric", "value", "95 % interval", "n", title=said)
    for name, e in document["metrics"].items():
        low, high = e["low"], e["high"]
        if e["value"] is None:
            continue
        table.add_row(
            name,
            f"{e['value']:.3f}",
            f"{low:.3f}-{high:.3f}" if low is not None and high is not None else "-",
            str(e["n"]),
        )
    console.print(table)
    of_classes = document["metrics"].get("validation/auroc_mean", {})
    if of_classes.get("value") == 0.5 and of_classes["low"] is None:
        console.print(
            "look: AUROC is 0.5 without an interval, every answer is alike: the network has died", markup=False
        )


def sweep(console: Console, document: Mapping[str, Any]) -> None:
    names = [objective["metric"].removeprefix("validation/") for objective in document["objectives"]]
    title = f"sweep {document['sweep_id'][:8]}: {document['status']}"
    table = Table("trial", "state", *names, "run", "settings", title=title)
    best, front = document["best"], document["front"]
    for trial in document["trials"]:
        number = trial["number"]
        first = f"front, most {names[0]}" if front else "best"  # of two objectives none is best
        chosen = best is not None and number == best["number"]
        found = {"published": number == 0, "front": number in front and not chosen, first: chosen}
        marks = ", ".join(mark for mark, holds in found.items() if holds)
        settings = ", ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial["params"].items())
        run = (trial["run_id"] or "")[:8]
        table.add_row(
            f"{number} ({marks})" if marks else str(number), trial["state"], *_values(trial, names), run, settings
        )
    console.print(table)
    for trial in document["trials"]:
        if trial["state"] == "failed":
            console.print(f"trial {trial['number']} failed: {trial['failure']}: {trial['reason']}", markup=False)
    console.print(
        "values: validation, chosen among trials, so optimistic; intervals 95 %, of one trial; no test row was read",
        markup=False,
    )
    if front:
        numbers = ", ".join(map(str, front))
        console.print(
            f"front: {numbers}; no other trial is better in one objective and as good or better in the other",
            markup=False,
        )
    for picture in document["pictures"]:
        console.print(picture, markup=False)


def _values(trial: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The value of each objective, with its interval where the trial was complete."""
    found = []
    for name, value in zip(names, trial["values"] or [], strict=False):
        e = (trial["estimates"] or {}).get(f"validation/{name}", {})
        bounds = f" ({e['low']:.3f}-{e['high']:.3f})" if e.get("low") is not None and e.get("high") is not None else ""
        found.append(f"{value:.3f}{bounds}")
    return found + [trial["failure"] or ""] * (len(names) - len(found))


def plan(console: Console, document: Mapping[str, Any]) -> None:
    refused = sum(cell["reason"] is not None for cell in document["cells"])
    but = f", but for {refused} of {len(document['cells'])}" if refused else ""
    title = f"would run{but}; nothing was started"
    table = Table("method", "data set", "track", "trials", "final seeds", "note", title=title)
    for cell in document["cells"]:
        name = f"{cell['arm']} (of {cell['method']})" if cell["arm"] else cell["method"]
        counts = str(cell["trials"]), str(cell["seeds"])
        table.add_row(name, cell["dataset"], cell["track"], *counts, cell["reason"] or "")
    console.print(table)


def board(console: Console, board: Any) -> None:
    from bench.leaderboard.table import print_tables

    print_tables(board, console)
