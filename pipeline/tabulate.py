"""Write the tables: `python -m pipeline.tabulate --cells <cells.csv> --papers papers/dgd.yaml --out <folder>`."""

import argparse
from pathlib import Path

import pandas as pd

from dgd import tables


def main(argv=None):
    """Set our cells beside the papers' numbers, in Markdown, CSV and LaTeX."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--papers", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    cells = pd.read_csv(args.cells)
    args.out.mkdir(parents=True, exist_ok=True)
    tables.write(tables.results_table(cells, args.papers), args.out / "results")
    tables.write(tables.filters_table(cells, args.papers), args.out / "filters")


if __name__ == "__main__":
    main()
