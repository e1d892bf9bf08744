"""What each command prints for people: a document, or the board, on a console."""

from collections.abc import Mapping
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
    table = Table("metric", "value", "95 % interval", "n", title=said)
    for name, e in document["metrics"].items():
        low, high = e["low"], e["high"]
        table.add_row(
            name,
            f"{e['value']:.3f}",
            f"{low:.3f}-{high:.3f}" if low is not None and high is not None else "-",
            str(e["n"]),
        )
    console.print(table)


def sweep(console: Console, document: Mapping[str, Any]) -> None:
    table = Table(
        "trial", "state", "value", "settings", title=f"sweep {document['sweep_id'][:8]}: {document['status']}"
    )
    best = document["best"]["number"] if document["best"] else None
    for trial in document["trials"]:
        value = ", ".join(f"{v:.3f}" for v in trial["values"]) if trial["values"] else trial["failure"] or ""
        mark = " (best)" if trial["number"] == best else ""
        settings = ", ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial["params"].items())
        table.add_row(f"{trial['number']}{mark}", trial["state"], value, settings)
    console.print(table)
    console.print("values: validation, chosen among trials, so optimistic; no test row was read", markup=False)


def board(console: Console, board: Any) -> None:
    from bench.leaderboard.table import print_tables

    print_tables(board, console)
