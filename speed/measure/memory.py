"""Measure the memory that a group takes at its peak, each group in a process of its own.

`python -m speed.measure.memory <cell as JSON>` is that process.
"""

import json
import subprocess
import sys

from dgd.cell import Cell
from speed import ROOT
from speed.measure.setup import Setup
from speed.ours import Ours, make_cell, with_networks


def measure(setup: Setup) -> list[dict]:
    """Return a row for each group: MiB that were measured, and MiB that were expected before it started."""
    rows = []
    for student, base, networks in setup.size.memory:
        cell = make_cell(student, setup.size.models[student], with_networks(base, networks), setup.threads)
        command = [sys.executable, "-m", "speed.measure.memory", json.dumps(cell.plain())]
        done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True)
        rows.append({"model": student, "method": base, "networks": networks, **json.loads(done.stdout)})
    return rows


def main(cell: str) -> None:
    """Train, evaluate and exchange twice; print the peak of this process as JSON."""
    ours = Ours(Cell.from_plain(json.loads(cell)), 4)
    for _ in range(2):
        ours.train()
        ours.evaluate()
        if ours.cell.exchange:
            ours.exchange()
    print(json.dumps(ours.peak_memory()))


if __name__ == "__main__":
    main(sys.argv[1])
