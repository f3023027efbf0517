"""Draw the figures: `python -m pipeline.plot --folder results/quick --out results/quick/figures`."""

import argparse
from pathlib import Path

from dgd.read import figures
from dgd.read.cells import read_collected
from pipeline import script


def main(argv=None):
    """Draw learning curves, filter-level evidence and pruning curves of a benchmark's cells, as SVG."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the benchmark's results")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=1, help="models whose figures are drawn at once")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    # cells.csv holds what the config asks for; a folder may also hold cells of an older one.
    wanted = read_collected(args.folder / "cells.csv")["folder"].dropna()
    figures.from_cells(args.folder, args.out, set(wanted), args.processes)


if __name__ == "__main__":
    script.run(main)
