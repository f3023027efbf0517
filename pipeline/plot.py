"""Draw the figures: `python -m pipeline.plot --folder results/quick --out results/quick/figures`."""

import argparse
from pathlib import Path

from dgd import figures


def main(argv=None):
    """Draw learning curves and filter norms of a benchmark's cells, as SVG and PNG."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the benchmark's results")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    figures.from_cells(args.folder, args.out)


if __name__ == "__main__":
    main()
