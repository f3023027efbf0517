"""Write the scores of cells for `dvc metrics`: `python -m pipeline.score results/quick/digits/cifar_resnet8/dgd/seed0`.

metrics.json has the settings too, in which a difference between two commits is lost; a score has the reported network's metric.
"""

import argparse
from pathlib import Path

from dgd import identity
from dgd.files import write_json
from dgd.measured import read_metrics
from dgd.metrics import METRICS
from pipeline import script
from pipeline.cells import scores


def write(folder: Path) -> None:
    """Write scores/<cell>.json: the metric at the last epoch, best on test, and selected on validation; {} without a result.

    Raises:
        ValueError: The folder holds no cell, or its metrics.json is not what was written.
    """
    cell = identity.cell_of(folder)
    if cell is None:
        raise ValueError(f"{folder}: no config.yaml of a cell in it; give the folder of a trained cell")
    name = METRICS[cell.task].name
    found = read_metrics(folder / "metrics.json").get(name) or {}
    own = {key: value for key, value in found.items() if value is not None}
    write_json(scores(cell), {name: own} if own else {})


def main(argv=None):
    """Write scores/<cell>.json of each cell."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="cells' folders")
    for folder in parser.parse_args(argv).folders:
        write(folder)


if __name__ == "__main__":
    script.run(main)
