"""Collect a benchmark's cells: `python -m pipeline.collect --config <resolved config> --out results/quick/cells.csv`.

The config goes beside them, as benchmark.yaml: `dgd-bench verify` makes the tables again by it.
"""

import argparse
import json
from pathlib import Path

from dgd import config, files, frozen
from dgd.read.cells import collect
from pipeline import script


def main(argv=None):
    """Write a row for every cell and network, also for cells that are expected and have no result."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=Path, required=True, help="a resolved config, a JSON file")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    benchmark = config.check(json.loads(args.config.read_text()), str(args.config), folders=False)
    cells, folder = config.cells(benchmark), args.out.parent
    frame = collect(folder, cells, frozen.standing(cells, folder.parent))
    config.write_asked(benchmark, folder)
    files.write_text(args.out, frame.to_csv(index=False))


if __name__ == "__main__":
    script.run(main)
