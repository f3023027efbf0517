"""Train a cell: `python -m pipeline.train --cell '<resolved cell as JSON>' --data <prepared folder> --results results`."""

import argparse
import json
import os
import sys
from pathlib import Path

from dgd import identity
from dgd.cell import Cell
from dgd.metrics import METRICS
from pipeline import slots


def main(argv=None):
    """Take a cell over from another benchmark that has it, or train it, or go on with it where it was killed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cell", type=json.loads, required=True, help="a resolved cell, as `dgd.cell.Cell.plain` gives it")
    parser.add_argument("--data", type=Path, required=True, help="folder of the prepared data set")
    parser.add_argument("--results", type=Path, required=True, help="results root, which teachers' paths are relative to")
    args = parser.parse_args(argv)
    cell = Cell.from_plain(args.cell)
    out = args.results / cell.path
    leads = os.environ.get("RANK", "0") == "0"
    source = identity.find(
        args.results, identity.at(cell, args.results), identity.data_hash(args.data / "manifest.json"), but=out
    )
    if source:
        if leads:
            identity.adopt(source, out, cell)
            print(f"{cell.path}: taken over from {source}, the same cell", flush=True)
        return
    # The lock lives as long as this name. CUDA reads which devices it may see once, perhaps when torch is imported.
    _slot = slots.take() if cell.recipe.device != "cpu" else None
    from dgd import train

    try:
        train.train_cell(cell, results=args.results, data=args.data, out=out)
    except train.NoResult as error:
        # Recorded in metrics.json: the other cells go on, and the table shows the hole.
        print(error, file=sys.stderr)
    if leads:
        print(f"{cell.path}: {_summary(cell, json.loads((out / 'metrics.json').read_text()))}", flush=True)


def _summary(cell: Cell, metrics: dict) -> str:
    if metrics["status"] != "finished":
        return f"{metrics['status'].upper()}: {metrics.get('error', '')}"
    metric = METRICS[cell.task]
    return f"{metrics['networks'][0]['last'][metric.name]:{metric.form}} {metric.unit} in {metrics['timings']['seconds']:.0f} s"


if __name__ == "__main__":
    main()
