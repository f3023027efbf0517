"""Work out how long a network takes for an image, from what was measured on a machine.

A model that was not measured is taken to be as fast for each multiply-add of its forward pass as the measured one that is
nearest to it, and the result says so. What a method's own terms take beside networks and teachers comes from the measured
multiple of its step: so many steps of baseline, scaled by the multiply-adds of the student over those of the measured network.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from dgd import models
from dgd.methods import written_out
from speed.format import number
from speed.images import BATCH, CLASSES, SIZE
from speed.measured import WITHOUT_OWN, own_multiple, trained

MEASURED = SIZE, True
"""The image size and `adapt_stem` of every measurement."""
NOT_COUNTED = "not measured, not counted"


@lru_cache(None)
def multiply_adds(model: str, image_size: int, adapt_stem: bool) -> int:
    """Return the multiply-adds of convolutions and linear layers for one image of three channels and 100 classes, forward."""
    with torch.device("meta"):
        net = models.create(model, num_classes=CLASSES, image_size=image_size, adapt_stem=adapt_stem).eval()
        image = torch.zeros(1, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    return counter.get_total_flops() // 2


class Rates:
    """Tell the seconds for each image that a network learns from, on one measured machine.

    Args:
        found: What `speed.measure` wrote.

    Attributes:
        machine: The machine's description.
        unit: Of the hours that follow: core-hours, or GPU-hours where there is a GPU.
        methods: The rows of the measured methods.
        how: What was measured, where that must be said.
        batch: Images of a measured step.
    """

    def __init__(self, found: Mapping):
        self.machine = found["machine"]
        self.unit = "GPU-hours" if self.machine["gpu"] else "core-hours"
        threads = 1 if self.machine["gpu"] else self.machine["threads"]
        self.alone: dict[str, dict[int, float]] = {}
        self.taught: dict[tuple[str, str, int], float] = {}
        rows = trained(found)
        self.batch = rows[0].get("batch_size", BATCH) if rows else BATCH
        self.how = _how(rows)
        for row in rows:
            seconds = threads / row["images_per_second"]
            if row["teacher"]:
                self.taught[row["model"], row["teacher"], row["networks"]] = seconds
            else:
                self.alone.setdefault(row["model"], {})[row["networks"]] = seconds
        more: dict[str, list[float]] = {}
        for (model, teacher, networks), seconds in self.taught.items():
            if networks in self.alone.get(model, ()):
                more.setdefault(teacher, []).append(seconds - self.alone[model][networks])
        # A teacher's forward pass is what a step takes longer with it: a median, as each is a difference of two larger times.
        self.teachers = {teacher: statistics.median(seconds) for teacher, seconds in more.items()}
        self.methods = found.get("methods", [])

    @property
    def enough(self) -> bool:
        """Return whether a network alone and one with a teacher were measured, from which all others can be worked out."""
        return bool(self.alone and self.teachers)

    def per_image(
        self, student: str, teacher: str | None, networks: int, teachers: int, size: int, adapt_stem: bool
    ) -> tuple[float, str]:
        """Return the seconds for one image of one network, and what they rest on.

        Args:
            student: Model of the networks.
            teacher: Model of the teachers.
            networks: Number of networks of the group.
            teachers: Number of teachers.
            size: Side of the images in pixels.
            adapt_stem: Whether an ImageNet stem is fitted to small images.
        """
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
        """Return the seconds that terms, as of `own_options`, take for one image of one network, and what they rest on.

        Of several measured methods with these terms, the one whose options are nearest counts.
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


def _how(rows: Sequence[Mapping]) -> str:
    """Return how the steps of a GPU's rows ran, "" for those of a CPU."""
    arms = {row["arm"] for row in rows}
    if "ours" in arms or not arms:
        return ""
    several = next((row["cells"] for row in rows if row["arm"] == "together"), None)
    return "steps replayed as CUDA graphs" + (f", of baseline and kd in {several} cells side by side" if several else "")


def own_options(objective: Mapping) -> dict[str, dict]:
    """Return the terms that take time beside networks and teachers, each with all its options, defaults filled in."""
    found = {term: options for term, options in sorted(written_out(objective).items()) if term not in WITHOUT_OWN}
    return {term: {name: value for name, value in options.items() if name != "weight"} for term, options in found.items()}


def _apart(one: Mapping[str, Mapping], other: Mapping[str, Mapping]) -> tuple[int, float]:
    """Return in how many options the same terms differ, and by how much: the sum of log ratios of numbers above zero."""
    pairs = [(value, other[term][option]) for term in one for option, value in one[term].items()]
    differ = [pair for pair in pairs if pair[0] != pair[1]]
    numbers = [pair for pair in differ if all(isinstance(value, int | float) and value > 0 for value in pair)]
    return len(differ), sum(abs(math.log(a / b)) for a, b in numbers)


def _nearest(model: str, shape: tuple[int, bool], known: Mapping[str, object]) -> tuple[str, float]:
    """Return the measured model that is nearest in multiply-adds, itself if measured, and how many times its multiply-adds."""
    own = multiply_adds(model, *shape)
    factors = {name: own / multiply_adds(name, *MEASURED) for name in known}
    name = model if model in factors else min(factors, key=lambda name: abs(math.log(factors[name])))
    return name, factors[name]
