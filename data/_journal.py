"""What is finished of a build that may be cut off, so that the next one goes on where it was.

journal.jsonl in the unfinished folder has a head, which names the work, and a line for each film whose facts are known and
whose rows are written: CRC-32 of the line, then JSON. A torn line, or one whose rows on the disk are not what it says
(the machine went down before they were there), counts for nothing.
"""

import shutil
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from data._films import Film, FilmFacts, Spread, work_all
from data._folder import JOURNAL
from data._room import Room
from data._store import VERSION, PixelSpec, array_bytes, changed_rows, create_arrays, hash_of
from data.record import Finding, Pixels

_FACTS = TypeAdapter(FilmFacts)


@dataclass(frozen=True)
class Means:
    """By what means films are worked on. progress: called with (films done, films in all), first with those done before."""

    processes: int = 1
    progress: Callable[[int, int], None] | None = None
    spread: Spread = work_all
    room: Room = Room()  # noqa: RUF009 - frozen


def facts_of(
    films: Sequence[Film],
    counts: dict[str, int],
    spec: PixelSpec | None,
    part: Path,
    pixels: Path | None,
    *,
    check: bool,
    means: Means,
) -> Generator[FilmFacts, None, None]:
    """The facts of all films, in their order; with `spec` their regions are written into arrays in `pixels`.

    part: the unfinished folder, of which `pixels` is a part. Films that its journal holds are not worked on again; what
    it holds of other work goes. Close the iterator when done with it: that ends the processes it has started. Raises
    MachineError for want of room, and what `means.spread` raises.
    """
    journal = Journal(part, work_name(films, spec, check))
    if not journal.same_work:
        _empty(part)
    if spec is not None and pixels is not None:
        pixels.mkdir(parents=True, exist_ok=True)
        means.room.make(part, array_bytes(spec, counts))
        create_arrays(pixels, spec, counts)
    waiting = journal.known(pixels)
    finished = frozenset(waiting)
    left = (film for film in films if film.record.record_id not in finished)
    done, told = len(finished), means.progress or (lambda done, films: None)
    told(done, len(films))
    with closing(means.spread(left, spec, pixels, check=check, processes=means.processes)) as come:
        for film in films:
            name = film.record.record_id
            while name not in waiting:
                fact = next(come)
                journal.add(fact)
                waiting[fact.record_id] = fact
                done += 1
                told(done, len(films))
            yield waiting.pop(name)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


class Journal:
    """The journal of one build."""

    def __init__(self, folder: Path, work: str) -> None:
        self._path = folder / JOURNAL
        self._head = _line(work.encode())

    @property
    def same_work(self) -> bool:
        """Whether what is there was begun for this work."""
        if not self._path.exists():
            return False
        with self._path.open("rb") as file:
            return next(file, b"") == self._head

    def known(self, pixels: Path | None) -> dict[str, FilmFacts]:
        """By record id the facts of the films that are finished, rows and all. The rest of the journal is dropped."""
        found = {fact.record_id: (fact, line) for fact, line in self._read()}
        if pixels is not None:
            changed = changed_rows(pixels, (one for fact, _ in found.values() for one in fact.sums))
            found = {name: (fact, line) for name, (fact, line) in found.items() if changed.isdisjoint(fact.sums)}
        self._keep([line for _, line in found.values()])
        return {name: fact for name, (fact, _) in found.items()}

    def add(self, fact: FilmFacts) -> None:
        """Note a film, unless it had a problem: then it is looked at again, as what was wrong may have been mended."""
        if fact.broken or fact.problems:
            return
        with self._path.open("ab") as file:
            file.write((b"" if file.tell() else self._head) + _line(_FACTS.dump_json(fact)))

    def _read(self) -> Iterator[tuple[FilmFacts, bytes]]:
        if not self.same_work:
            return
        with self._path.open("rb") as file:
            next(file)
            for line in file:
                text = line[9:-1]
                if line != _line(text):  # torn
                    continue
                try:
                    yield _FACTS.validate_json(text), line
                except ValidationError:
                    continue

    def _keep(self, lines: Sequence[bytes]) -> None:
        """A journal of these lines; none at all where there are none."""
        part = self._path.with_suffix(".part")
        if not lines:
            self._path.unlink(missing_ok=True)
            part.unlink(missing_ok=True)
            return
        part.write_bytes(b"".join([self._head, *lines]))
        part.replace(self._path)


def _line(text: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(text), text)


def work_name(films: Sequence[Film], spec: PixelSpec | None, check: bool) -> str:
    """A hash of what decides facts and rows, and where each row lies. The files' state is in the folder's name."""
    form = _FACTS.json_schema()  # a program that knows other facts does not go on with these
    sizes = films[0].sizes if films else ()  # the same for all films
    key = spec.key if spec is not None else ""
    return hash_of([VERSION, form, key, check, sizes, [_film(film) for film in films]])


def _film(film: Film) -> list[object]:
    record = film.record
    grey = _name(film.grey_from)
    return [
        record.record_id,
        _name(record.image),
        grey,
        _findings(record.findings),
        _findings(film.boxes_from),
        film.slots,
    ]


def _findings(findings: Sequence[Finding]) -> list[object]:
    return [[one.finding_id, one.kind, one.box, _name(one.mask), _name(one.fine_mask)] for one in findings]


def _name(pixels: Pixels | None) -> str:
    return pixels.name if pixels is not None else ""
