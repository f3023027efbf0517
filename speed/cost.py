"""Say what a benchmark costs, from measured speed: `python -m speed.cost config/cifar100.yaml`.

Hours = images x epochs x networks / measured images per second, over all cells. Images per second are those of our training
loop in speed/results/*.json (`make speed`), on a GPU with cells side by side where that was measured; so a machine that was not
measured has no hours. `speed.rates` has the rules for models and terms that were not measured. Not counted: cells that generate
training images, evaluation, exchanges and start-up (speed/README.md has what the last two take).
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dgd import config, precision
from dgd.cell import IMAGE, Cell
from dgd.data.sources import find
from dgd.files import write_text
from dgd.metrics import MAKERS
from speed.format import number, percent, table
from speed.measured import read, read_trial
from speed.rates import NOT_COUNTED, Rates, own_options

IMAGENET = 1_281_167
"""Training images of ILSVRC 2012: what a folder that is not there is taken to hold."""
LINE = re.compile(r"^# Cost:.*\n(?:#   For another machine: .*\n)?", re.MULTILINE)


def images(cell: Cell) -> int:
    """Return the number of images that each network of a cell sees in an epoch."""
    source, folder = find(cell.dataset)
    if cell.generated:
        return cell.generated.images + cell.generated.real * images(replace(cell, generated=None))
    if cell.input != IMAGE:
        return source.shape_of(cell.input)[3]
    if cell.data.train_images:
        return cell.data.train_images
    if folder:
        there = sum(1 for _ in folder.glob("train/*/*"))
        return (there or IMAGENET) - cell.data.validation_images
    return source.shape[3] - cell.data.validation_images


def cost(cells: Sequence[Cell], rates: Rates) -> list[dict]:
    """Return the hours of a benchmark's cells, a row for each kind; cells of one may differ in seed, data set or exchange."""
    kinds: dict[tuple, list] = {}
    for cell in [cell for cell in cells if cell.task not in MAKERS]:
        teachers = len(cell.teachers)
        source, _ = find(cell.dataset)
        size = cell.data.image_size or source.shape_of(cell.input)[2]
        # The CIFAR networks keep the image's size anyway: with or without adapt_stem they are the same.
        adapt_stem = cell.adapt_stem or cell.student.startswith("cifar_")
        terms = json.dumps(own_options(cell.objective))
        key = cell.student, cell.teacher, cell.networks, teachers, size, adapt_stem, terms
        kinds.setdefault(key, []).append(cell.networks * images(cell) * cell.recipe.epochs)
    rows = []
    for (student, teacher, networks, teachers, size, adapt_stem, terms), seen in kinds.items():
        seconds, basis = rates.per_image(student, teacher, networks, teachers, size, adapt_stem)
        own, own_basis = rates.own_terms(student, json.loads(terms), size, adapt_stem)
        rows.append(
            {
                "model": student + (f" <- {teachers} x {teacher}" if teachers else ""),
                "networks": networks,
                "cells": len(seen),
                "images": sum(seen),
                "hours": sum(seen) * (seconds + own) / 3600,
                "from": basis,
                "of them for terms": sum(seen) * own / 3600,
                "terms from": own_basis,
            }
        )
    return rows


def total(rows: Sequence[Mapping], rates: Rates) -> str:
    """Return a benchmark's hours on one machine as text, and how much of them rests on models that were not measured."""
    hours = sum(row["hours"] for row in rows)
    scaled = sum(row["hours"] for row in rows if row["from"].startswith("scaled")) / hours
    own = sum(row["of them for terms"] for row in rows) / hours
    models = sorted({row["model"] for row in rates.methods})
    notes = [
        rates.how,
        f"{percent(scaled)} of it for models that were not measured" if scaled else "",
        f"{percent(own)} of it for the methods' own terms, as measured with {', '.join(models)}" if own else "",
        "without the methods' own terms, not measured" if any(row["terms from"] == NOT_COUNTED for row in rows) else "",
    ]
    text = f"{number(hours)} {rates.unit} on {rates.machine['name']}"
    return text + (f" ({', '.join(filter(None, notes))})" if any(notes) else "")


def line(path: str | Path, machines: Sequence[Rates]) -> str:
    """Return the two lines of a config's header: its cells and what they cost on each measured machine."""
    cells = config.cells(config.load(path, folders=False))
    costs = "; ".join(total(cost(cells, rates), rates) for rates in machines)
    if not any(rates.machine["gpu"] for rates in machines):
        trial = read_trial()["hours"].get(Path(path).stem)
        costs += "; GPU-hours: not measured yet" + (f" ({trial})" if trial else "")
    yours = f"`make speed`, then `python -m speed.cost config/{Path(path).name}`"
    return f"# Cost: {len(cells)} cells; {costs}.\n#   For another machine: {yours}\n"


def write(path: Path, machines: Sequence[Rates]) -> bool:
    """Put `line` into a config's header if that has a line of costs; return whether it has."""
    text = path.read_text()
    if not LINE.search(text):
        return False
    write_text(path, LINE.sub(lambda _: line(path, machines), text, count=1))
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Print what benchmarks cost on the measured machines, or write it into their headers."""
    parser = argparse.ArgumentParser(prog="python -m speed.cost", description=main.__doc__)
    parser.add_argument("configs", nargs="+", type=Path, help="benchmarks, such as config/cifar100.yaml")
    parser.add_argument("--rates", type=Path, help="speed/results/<machine>.json (default: every measured machine)")
    parser.add_argument("--write", action="store_true", help="write the costs into the configs' headers")
    args = parser.parse_args(argv)
    machines = [Rates(json.loads(args.rates.read_text()))] if args.rates else measured_machines()
    for path in args.configs:
        if args.write:
            if not write(path, machines):
                print(f"{path}: no line `# Cost:` in its header; left as it is", file=sys.stderr)
            continue
        cells = config.cells(config.load(path, folders=False))
        for rates in machines:
            rows = cost(cells, rates)
            shown = [row | {key: number(row[key]) for key in ("images", "hours", "of them for terms")} for row in rows]
            print(table(shown))
            print(f"\n{path}: {len(cells)} cells, {total(rows, rates)}.")
            others = {cell.recipe.precision for cell in cells if cell.recipe.precision != precision.auto(cell.student)}
            print(
                f"Training steps only, measured at batch {rates.batch} with `precision: auto`"
                + (f", where this benchmark has {', '.join(sorted(others))}" if others else "")
                + ". `x` is the ratio of multiply-adds of a forward pass to those of the measured model."
            )
    return 0


def measured_machines() -> list[Rates]:
    """Return the rates of every machine in speed/results."""
    machines = [Rates(found) for found in read()[0] if "steps" in found or "gpu" in found]
    return [rates for rates in machines if rates.enough]


if __name__ == "__main__":
    sys.exit(main())
