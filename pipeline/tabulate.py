"""Write the tables: `python -m pipeline.tabulate --cells <cells.csv> --papers papers/dgd.yaml --out <folder>`."""

import argparse
import json
from pathlib import Path

from dgd.read.cells import REPORTS, read_collected
from dgd.read.table import write
from dgd.read.tables import tables
from pipeline import script


def main(argv=None):
    """Set our cells beside the papers' numbers, in Markdown, CSV and LaTeX."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--papers", type=Path, nargs="*", default=[])
    parser.add_argument("--report", choices=REPORTS, default="first", help="which network of a group is the headline")
    parser.add_argument("--controls", type=json.loads, default={}, help="method -> readings, as in the config, in JSON")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    folder = args.cells.parent  # the cells' own files lie beside cells.csv
    for name, table in tables(read_collected(args.cells), folder, args.papers, args.report, args.controls).items():
        write(table, args.out / name)


if __name__ == "__main__":
    script.run(main)
