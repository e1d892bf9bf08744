"""How fast a data set is prepared, and in how much memory (docs/performance.md). Writes to a folder that is removed.

OMP_NUM_THREADS=1 .venv/bin/python -m perf.prepare manifest --data-root FOLDER [--processes 2] [--skip-bad]
"""

import argparse
import re
import tempfile
import time
from pathlib import Path

import psutil

SAMPLE_S = 0.2


def peak_mb(pid: int | str = "self") -> float:
    """Largest resident memory so far of a process. Not getrusage: a child's begins with what its parent had."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def resident_mb(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


def main() -> None:
    # here, as in run_bench.py: the processes that decode import this file again, and do not need torch
    from bench.config import parse_set, unflatten
    from bench.home import Home
    from bench.prepare import cores, prepare_data, verify_data
    from data._room import bytes_of

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--processes", type=int, default=cores())
    parser.add_argument("--skip-bad", action="store_true")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    asked = parser.parse_args()
    options = unflatten(parse_set(asked.set))
    before, own = peak_mb(), psutil.Process()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        home = Home.at(folder)
        times: list[float] = []
        child = together = sampled = 0.0

        def seen(done: int, films: int) -> None:
            nonlocal child, together, sampled
            times.append(time.perf_counter())
            if times[-1] - sampled >= SAMPLE_S:
                sampled, children = times[-1], own.children()
                child = max([child, *(peak_mb(one.pid) for one in children)])
                together = max(together, sum(map(resident_mb, (own, *children))))

        def run() -> int:
            prepared = prepare_data(
                home, asked.dataset, options, asked.data_root, skip_bad=asked.skip_bad, processes=asked.processes,
                progress=seen,
            )  # fmt: skip
            return int(prepared.table["record_id"].nunique())

        start = time.perf_counter()
        films = run()
        whole_s = time.perf_counter() - start
        pass_s = times[-1] - times[0]
        start = time.perf_counter()
        run()
        again_s = time.perf_counter() - start
        parent = peak_mb()
        start = time.perf_counter()
        _, found = verify_data(home, asked.dataset, options, asked.data_root)
        verify_s = time.perf_counter() - start
        cache = bytes_of(home.cache) / 1e6
    print(f"{asked.dataset}: {films} films, {asked.processes} processes")
    print(f"all of it                {whole_s:8.1f} s")
    rate = films / pass_s
    print(f"of which films           {pass_s:8.1f} s   {rate:.2f} films/s, {rate / asked.processes:.2f} a process")
    print(f"found again              {again_s:8.2f} s")
    looked = f"{found.files} files, {found.rows} rows, {len(found.differences)} differ"
    print(f"verified                 {verify_s:8.1f} s   {looked}")
    print(f"peak memory, parent      {parent:8.0f} MB  ({before:.0f} before it began)")
    print(f"peak memory, a process   {child:8.0f} MB  (the largest of {asked.processes})")
    print(f"peak memory, together    {together:8.0f} MB  (what they share counted for each)")
    print(f"prepared data            {cache:8.1f} MB")


if __name__ == "__main__":
    main()
