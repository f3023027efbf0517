"""Train a cell: `python -m pipeline.train --cell '<resolved cell as JSON>' --data <prepared folder> --results results`."""

import argparse
import json
import os
import sys
from pathlib import Path

from pipeline import slots


def main(argv=None):
    """Train one cell, or go on with it where it was killed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cell", type=json.loads, required=True, help="a resolved cell, as `dgd.config.cells` makes it")
    parser.add_argument("--data", type=Path, required=True, help="folder of the prepared data set")
    parser.add_argument("--results", type=Path, required=True, help="results root, which teachers' paths are relative to")
    args = parser.parse_args(argv)
    out = args.results / args.cell["path"]
    # The lock lives as long as this name. CUDA reads which devices it may see once, perhaps when torch is imported.
    _slot = slots.take() if args.cell["recipe"]["device"] != "cpu" else None
    from dgd import train

    try:
        train.train_cell(args.cell, results=args.results, data=args.data, out=out)
    except train.NoResult as error:
        # Recorded in metrics.json: the other cells go on, and the table shows the hole.
        print(error, file=sys.stderr)
    if os.environ.get("RANK", "0") == "0":
        print(f"{args.cell['path']}: {_summary(json.loads((out / 'metrics.json').read_text()))}", flush=True)


def _summary(metrics: dict) -> str:
    if metrics["status"] != "finished":
        return f"{metrics['status'].upper()}: {metrics.get('error', '')}"
    return f"{metrics['networks'][0]['last']['top1']:.2f} % in {metrics['timings']['seconds']:.0f} s"


if __name__ == "__main__":
    main()
