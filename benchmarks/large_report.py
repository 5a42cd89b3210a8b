"""What a leaderboard-sized report costs: CPU seconds and bytes of report.html.

    python benchmarks/large_report.py [--methods 200] [--lengths 6] [--tasks 40] [--samples 10]

The records are made up and complete. Reading them from disk is not part of it. Run it with OMP_NUM_THREADS=1: the
work is one thread's. Fails where the page takes 30 CPU seconds or 2 MB.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reports import html, tables
from reports.pages import page
from tests.reports.large import large

MOST_CPU_S, MOST_BYTES = 30, 2_000_000


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("methods", 200), ("lengths", 6), ("tasks", 40), ("samples", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    run = large(args.methods, args.lengths, args.tasks, args.samples)
    html.render(large(2, 2, 2, 2))  # loads matplotlib and compiles the templates
    marks = [time.process_time()]
    analysis = tables.analyse(run)
    marks.append(time.process_time())
    view = html.report_view(analysis)
    marks.append(time.process_time())
    size = len(page("report.html.j2", **view).encode())
    marks.append(time.process_time())
    steps = [after - before for before, after in itertools.pairwise(marks)]
    shown = ", ".join(f"{name} {s:.1f} s" for name, s in zip(("tables", "figures", "page"), steps, strict=True))
    print(f"{len(run.manifest['cells'])} cells: {marks[-1] - marks[0]:.1f} CPU s ({shown}), {size / 1e6:.2f} MB")
    return 0 if marks[-1] - marks[0] < MOST_CPU_S and size < MOST_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
