"""From records to a prepared folder: the one pass over the films, the table, the passport and the index of the pixels."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pandas as pd

from data import _table
from data._films import Film, FilmFacts, films_of
from data._folder import finish
from data._journal import Means, facts_of
from data._stand_ins import with_stand_ins
from data._store import PixelSpec, RowSum
from data.errors import DataError
from data.forms import KNOWN
from data.passport import passport as make_passport
from data.record import Options, Reader, Record, Report


def build(
    reader: Reader,
    root: Path | None,
    options: Options,
    part: Path,
    report: Report,
    spec: PixelSpec | None,
    means: Means,
) -> None:
    """The one pass over all films: facts for the table, and pixels if a region rule is given."""
    records = records_of(reader, root, options, report)
    if not records:
        left_out = ", ".join(f"{count} {reason}" for reason, count in report.left_out.most_common(3))
        raise DataError(
            "no film to prepare", f"{reader.CARD.name}; left out: {left_out or 'nothing'}", "check --data-root"
        )
    films, counts = films_of(records, spec)
    pixels = part / "pixels" / spec.key if spec is not None else None
    facts: list[FilmFacts] = []
    with closing(facts_of(films, counts, spec, part, pixels, check=True, means=means)) as come:
        for fact in come:
            for problem in fact.problems:
                report.problem(problem.file, problem.row, problem.message, problem.do, reason=_reason(problem.message))
            facts.append(fact)
    table = _table.build(records, facts, report)
    if table.empty:
        raise DataError(
            "every film has a problem", f"{reader.CARD.name}, {len(records)} films", "see the problems above"
        )
    table.to_parquet(part / "table.parquet", index=False)
    passport = make_passport(reader.CARD, options, records, table, facts, report)
    for name, document in (("passport", passport), ("problems", report.problems)):
        (part / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
    if pixels is not None:
        write_index(pixels, films, facts)
        finish(pixels)


def records_of(reader: Reader, root: Path | None, options: Options, report: Report) -> list[Record]:
    """What the reader gives, stand-ins included. Raises DataError for a file that cannot be read and for an id given twice."""
    try:
        records = list(reader.records(root, options, report))
    except OSError as error:
        where = Path(error.filename).name if error.filename else reader.CARD.name
        raise DataError(
            f"a file of the data set cannot be read: {error.strerror}", where, "check the download"
        ) from error
    records = [with_stand_ins(record, options) for record in records]
    if root is not None and (root / KNOWN).is_file():  # `run_bench.py phantom` wrote it, whatever form it has
        records = [replace(one, attributes={**one.attributes, "grade": "synthetic"}) for one in records]
    seen: set[str] = set()
    for record in records:
        if record.record_id in seen:
            raise DataError(
                "two records have one id", record.record_id, "a film is listed twice, or the reader is at fault"
            )
        seen.add(record.record_id)
    return records


def write_index(pixels: Path, films: Sequence[Film], facts: Sequence[FilmFacts]) -> None:
    """Which row holds which sample, and what was written into each."""
    _table.pixel_index(films, facts).to_parquet(pixels / "rows.parquet", index=False)
    sums = [one for fact in facts for one in fact.sums]
    pd.DataFrame(sums, columns=list(RowSum._fields)).to_parquet(pixels / "sums.parquet", index=False)


def _reason(message: str) -> str:
    """What groups problems: the message without its numbers."""
    return message.split(":")[0].split(" (")[0]
