"""Collect a benchmark's cells: `python -m pipeline.collect --config '<resolved config>' --out results/quick/cells.csv`."""

import argparse
import json
import os
from pathlib import Path

from dgd import tables
from dgd.config import cells


def main(argv=None):
    """Write a row for every cell and network, also for cells that are expected and have no result."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=json.loads, required=True, help="a resolved config, as JSON")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    expected = [{**cell, "teachers": len(cell["teachers"]), "epochs": cell["recipe"]["epochs"]} for cell in cells(args.config)]
    frame = tables.collect(args.out.parent, expected)
    partial = args.out.with_name(args.out.name + ".part")
    frame.to_csv(partial, index=False)
    os.replace(partial, args.out)


if __name__ == "__main__":
    main()
