"""How fast the phantom is made on one core, 256 px, two views, one rendering each (docs/phantom.md).

OMP_NUM_THREADS=1 .venv/bin/python -m perf.phantom [--exams 200] [--size 256]
"""

import argparse
import time

from data.phantom import Exams, Options, records
from data.record import Report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exams", type=int, default=200)
    parser.add_argument("--size", type=int, default=256)
    asked = parser.parse_args()
    options = Options(exams=Exams(train=asked.exams, validation=0, test=0), size=asked.size)
    wall, core = time.perf_counter(), time.process_time()
    listed = list(records(None, options, Report()))
    listing = time.process_time() - core
    for record in listed:
        record.image.read()
        for finding in record.findings:
            for mask in (finding.mask, finding.fine_mask):
                if mask is not None:
                    mask.read()
    wall, core = time.perf_counter() - wall, time.process_time() - core
    print(
        f"{asked.exams} exams, {len(listed)} films of {asked.size} px: {core:.1f} s of one core ({wall:.1f} s of wall)"
    )
    print(f"of which listing the records: {listing:.1f} s; {asked.exams / core:.1f} exams per second")


if __name__ == "__main__":
    main()
