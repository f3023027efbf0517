"""What a benchmark costs, from measured speed: `python -m benchmarks.cost config/cifar100.yaml`.

Hours = images x epochs x networks / measured images per second, over all cells. Images per second are those of our training
loop in benchmarks/results/*.json (`make benchmark`), so a machine that was not measured has no hours. A model that was not
measured is taken to be as fast for each multiply-add of its forward pass as the measured one that is nearest to it, and the
output says so. What a method's own terms take beside networks and teachers is counted by the measured multiple of its step
(`methods` in the same files), in steps of baseline: the student's are as many as it has times the multiply-adds of the network
that was measured. Not counted: evaluation, exchanges and start-up (benchmarks/README.md has what the last two take), and that
the measured batch is 64: on a GPU, where a small network's step of 128 images takes about as long, hours come out too high.
"""

import argparse
import inspect
import json
import math
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import ROOT
from benchmarks.plain import CLASSES, SIZE
from benchmarks.report import WITHOUT_OWN, number, own_multiple, percent, read, table
from dgd import config, models
from dgd.data.sources import find
from dgd.files import write_bytes
from dgd.objectives import TERMS

IMAGENET = 1_281_167
"""Training images of ILSVRC 2012: what a folder is taken to hold that is not there."""
MEASURED = SIZE, True  # the image size and adapt_stem of benchmarks.measure
NOT_COUNTED = "not measured, not counted"
LINE = re.compile(r"^# Cost:.*\n(?:#   For another machine: .*\n)?", re.MULTILINE)


@lru_cache(None)
def multiply_adds(model: str, image_size: int, adapt_stem: bool) -> int:
    """Multiply-adds of convolutions and linear layers in one forward pass of an image of three channels and 100 classes."""
    with torch.device("meta"):
        net = models.create(model, num_classes=CLASSES, image_size=image_size, adapt_stem=adapt_stem).eval()
        image = torch.zeros(1, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    return counter.get_total_flops() // 2


class Rates:
    """Seconds for each image that a network learns from, on one measured machine.

    Args:
        found: What `benchmarks.measure` wrote.
    """

    def __init__(self, found: Mapping):
        self.machine = found["machine"]
        self.unit = "GPU-hours" if self.machine["gpu"] else "core-hours"
        threads = 1 if self.machine["gpu"] else self.machine["threads"]
        self.alone: dict[str, dict[int, float]] = {}
        self.taught: dict[tuple[str, str, int], float] = {}
        for row in found["steps"]:
            seconds = threads / row["images_per_second"]["ours"]["median"]
            if row["teacher"]:
                self.taught[row["model"], row["teacher"], row["networks"]] = seconds
            else:
                self.alone.setdefault(row["model"], {})[row["networks"]] = seconds
        more: dict[str, list[float]] = {}
        for (model, teacher, networks), seconds in self.taught.items():
            if networks in self.alone.get(model, ()):
                more.setdefault(teacher, []).append(seconds - self.alone[model][networks])
        # A teacher's forward pass is what a step takes longer with it; a median, as each is the difference of two larger times.
        self.teachers = {teacher: statistics.median(seconds) for teacher, seconds in more.items()}
        self.methods = found.get("methods", [])

    def per_image(
        self, student: str, teacher: str | None, networks: int, teachers: int, size: int, adapt_stem: bool
    ) -> tuple[float, str]:
        """Seconds for one image of one network, and what they rest on."""
        shape = size, adapt_stem
        if teachers and shape == MEASURED and (student, teacher, min(networks, 2)) in self.taught:
            seconds = self.taught[student, teacher, min(networks, 2)]
            return seconds + (teachers - 1) * self.teachers[teacher], "measured"
        model, factor = _nearest(student, shape, self.alone)
        rows = self.alone[model]
        seconds = factor * rows[max(n for n in rows if n <= max(networks, min(rows)))]
        parts = [f"{model} x {number(factor)}" if factor != 1 or model != student else ""]
        if teachers:
            model, factor = _nearest(teacher, shape, self.teachers)
            seconds += teachers * factor * self.teachers[model]
            parts.append(f"teacher {model} x {number(factor)}" if factor != 1 or model != teacher else "")
        scaled = ", ".join(filter(None, parts))
        return seconds, f"scaled: {scaled}" if scaled else "measured" + ", the teacher apart" * bool(teachers)

    def own_terms(self, student: str, wanted: Mapping[str, Mapping], size: int, adapt_stem: bool) -> tuple[float, str]:
        """Seconds that terms, as `own_options` gives them, take for one image of one network, and what that rests on.

        Of several measured methods with these terms, the one counts whose options are nearest.
        """
        if not wanted:
            return 0.0, ""
        rows = [row for row in self.methods if own_options(row["objective"]).keys() == wanted.keys()]
        if not rows:
            return 0.0, NOT_COUNTED
        row = min(rows, key=lambda row: _apart(own_options(row["objective"]), wanted))
        measured = own_multiple(row, self.methods, "bf16") * self.alone[row["model"]][1]
        factor = multiply_adds(student, size, adapt_stem) / multiply_adds(row["model"], *MEASURED)
        return factor * measured, f"{row['method']} of {row['model']}" + (f" x {number(factor)}" if factor != 1 else "")


def own_options(objective: Mapping) -> dict[str, dict]:
    """The terms that take time beside networks and teachers, each with all its options: what is left out has its default."""
    found = {}
    for term in sorted(objective.keys() - WITHOUT_OWN):
        options = inspect.signature(TERMS[term]).parameters.values()
        options = {option.name: option.default for option in options if option.default is not option.empty}
        found[term] = {option: objective[term].get(option, default) for option, default in options.items()}
    return found


def _apart(one: Mapping[str, Mapping], other: Mapping[str, Mapping]) -> tuple[int, float]:
    """In how many options the same terms differ, and by what factor, in logarithms, where these are numbers above zero."""
    pairs = [(value, other[term][option]) for term in one for option, value in one[term].items()]
    differ = [pair for pair in pairs if pair[0] != pair[1]]
    numbers = [pair for pair in differ if all(isinstance(value, int | float) and value > 0 for value in pair)]
    return len(differ), sum(abs(math.log(a / b)) for a, b in numbers)


def _nearest(model: str, shape: tuple[int, bool], known: Mapping[str, object]) -> tuple[str, float]:
    """The measured model that is nearest in multiply-adds, itself where it is one, and how many times its multiply-adds."""
    own = multiply_adds(model, *shape)
    factors = {name: own / multiply_adds(name, *MEASURED) for name in known}
    name = model if model in factors else min(factors, key=lambda name: abs(math.log(factors[name])))
    return name, factors[name]


def images(cell: Mapping) -> int:
    """Images that each network of a cell sees in an epoch."""
    source, folder = find(cell["dataset"])
    if cell["data"]["train_images"]:
        return cell["data"]["train_images"]
    if folder:
        there = sum(1 for _ in folder.glob("train/*/*"))
        return (there or IMAGENET) - cell["data"]["validation_images"]
    return source.shape[3] - cell["data"]["validation_images"]


def cost(cells: Sequence[Mapping], rates: Rates) -> list[dict]:
    """Hours of a benchmark's cells, a row for each kind: one kind may differ in seed, data set, exchange or terms' weights."""
    kinds: dict[tuple, list] = {}
    for cell in cells:
        teachers = len(cell["teachers"])
        source, _ = find(cell["dataset"])
        size = cell["data"]["image_size"] or source.shape[2]
        # The CIFAR networks keep the image's size anyway: with or without adapt_stem they are the same.
        adapt_stem = cell["adapt_stem"] or cell["student"].startswith("cifar_")
        terms = json.dumps(own_options(cell["objective"]))
        key = cell["student"], cell["teacher"], cell["networks"], teachers, size, adapt_stem, terms
        kinds.setdefault(key, []).append(cell["networks"] * images(cell) * cell["recipe"]["epochs"])
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
    """All hours of a benchmark on one machine, and how much of them rests on less than a measurement of that very model."""
    hours = sum(row["hours"] for row in rows)
    scaled = sum(row["hours"] for row in rows if row["from"].startswith("scaled")) / hours
    own = sum(row["of them for terms"] for row in rows) / hours
    models = sorted({row["model"] for row in rates.methods})
    notes = [
        f"{percent(scaled)} of it for models that were not measured" if scaled else "",
        f"{percent(own)} of it for the methods' own terms, as measured with {', '.join(models)}" if own else "",
        "without the methods' own terms, not measured" if any(row["terms from"] == NOT_COUNTED for row in rows) else "",
    ]
    text = f"{number(hours)} {rates.unit} on {rates.machine['name']}"
    return text + (f" ({', '.join(filter(None, notes))})" if any(notes) else "")


def line(path: str | Path, machines: Sequence[Rates]) -> str:
    """The two lines of a config's header: its cells and what they cost on each measured machine."""
    cells = config.cells(config.read(path))
    costs = "; ".join(total(cost(cells, rates), rates) for rates in machines)
    if not any(rates.machine["gpu"] for rates in machines):
        costs += "; GPU-hours: not measured yet"
    yours = f"`make benchmark`, then `python -m benchmarks.cost config/{Path(path).name}`"
    return f"# Cost: {len(cells)} cells; {costs}.\n#   For another machine: {yours}\n"


def write(path: Path, machines: Sequence[Rates]) -> bool:
    """Put `line` into a config's header where it has a line of costs; whether it has one."""
    text = path.read_text()
    if not LINE.search(text):
        return False
    write_bytes(path, LINE.sub(lambda _: line(path, machines), text, count=1).encode())
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Print what benchmarks cost on the measured machines, or write it into their headers."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("configs", nargs="+", type=Path, help="benchmarks, such as config/cifar100.yaml")
    parser.add_argument("--rates", type=Path, help="benchmarks/results/<machine>.json (default: every measured machine)")
    parser.add_argument("--write", action="store_true", help="write the costs into the configs' headers")
    args = parser.parse_args(argv)
    machines = [Rates(json.loads(args.rates.read_text()))] if args.rates else measured()
    for path in args.configs:
        if args.write:
            if not write(path, machines):
                print(f"{path}: no line `# Cost:` in its header; left as it is", file=sys.stderr)
            continue
        cells = config.cells(config.read(path))
        for rates in machines:
            rows = cost(cells, rates)
            shown = [row | {key: number(row[key]) for key in ("images", "hours", "of them for terms")} for row in rows]
            print(table(shown))
            print(f"\n{path}: {len(cells)} cells, {total(rows, rates)}.")
            precisions = {cell["recipe"]["precision"] for cell in cells} - {"bf16"}
            print(
                "Training steps only, measured at batch 64 in bf16"
                + (f", where this benchmark has {', '.join(sorted(precisions))}" if precisions else "")
                + ". `x` is the ratio of multiply-adds of a forward pass to those of the measured model."
            )
    return 0


def measured() -> list[Rates]:
    """Every machine in benchmarks/results."""
    return [Rates(found) for found in read(ROOT / "benchmarks")[0] if "steps" in found]


if __name__ == "__main__":
    sys.exit(main())
