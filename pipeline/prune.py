"""Evaluate a cell with filters removed: `python -m pipeline.prune --folder <cell> --data <prepared> --shares 0.1 0.2`."""

import argparse
from pathlib import Path

from dgd import yaml_files
from pipeline import script, slots


def main(argv=None):
    """Write pruning.csv of one trained cell."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the cell's folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of the prepared data set")
    parser.add_argument("--shares", type=float, nargs="+", required=True, help="shares of filters to remove, 0 to 1")
    args = parser.parse_args(argv)
    cell = yaml_files.read_mapping(args.folder / "config.yaml")
    # The lock lives as long as this name. CUDA reads which devices it may see once, perhaps when torch is imported.
    _slot = slots.take() if cell["recipe"]["device"] != "cpu" else None
    from dgd.train import pruning

    curve = pruning.prune_cell(args.folder, args.data, args.shares)
    print(f"{args.folder}: {len(curve)} numbers of filters", flush=True)


if __name__ == "__main__":
    script.run(main)
