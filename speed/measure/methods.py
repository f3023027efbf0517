"""Measure a step of every method: seconds of its whole group, and how many times those of baseline's step they are."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from dgd.cell import Cell
from speed.images import BATCH
from speed.measure.setup import VARIANTS, Setup
from speed.measure.timing import Times, in_turn, ratios, summary, timed
from speed.ours import Ours, make_cell

PRECISIONS = ("fp32", "bf16")
CLOCKS = ("seconds", "cpu_seconds")


def measure(setup: Setup) -> list[dict]:
    """Return a row for each method.

    On one thread of a CPU the multiple is one of CPU-seconds, which other processes disturb less. The row of ffsd also has that
    of the plain code's step, over one of a plain network.
    """
    size = setup.size
    student = size.headline[0]
    steps = size.row_steps * (25 if torch.cuda.is_available() else 1)
    clock = int(setup.threads == 1 and not torch.cuda.is_available())

    def group(method: str, precision: str) -> Ours:
        item = {method: VARIANTS[method]} if method in VARIANTS else method
        ours = Ours(make_cell(student, size.models[student], item, setup.threads, precision=precision), steps, size.images)
        ours.train()  # warm-up
        return ours

    alone = {precision: group("baseline", precision) for precision in PRECISIONS}
    rows = []
    for method in size.rows:
        groups = {precision: group(method, precision) for precision in PRECISIONS}
        arms = {
            (precision, arm): partial(timed, held[precision].train)
            for precision in PRECISIONS
            for arm, held in (("baseline", alone), ("method", groups))
        }
        cell = groups["fp32"].cell
        if method == "ffsd":
            setup.plain.start_ffsd(cell)
            arms["plain", "baseline"] = partial(setup.plain.call, "baseline", steps=steps)
            arms["plain", "method"] = partial(setup.plain.call, "train", steps=steps)
        rows.append(method_row(method, cell, steps, in_turn(arms, size.row_repeats), clock))
        times = {precision: round(values["median"], 2) for precision, values in rows[-1]["multiple"].items()}
        print(f"{student} {method}: {times} times a step of baseline", flush=True)
    return rows


def method_row(method: str, cell: Cell, steps: int, taken: Mapping[tuple[str, str], Sequence[Times]], clock: int) -> dict:
    """Return a method's row.

    Args:
        method: The row's name.
        cell: The method's cell.
        steps: Steps of a repeat.
        taken: (precision, or "plain"; "method" or "baseline") -> the times of each repeat.
        clock: Whether multiples are of seconds (0) or CPU-seconds (1).
    """

    def per_step(arm: str, clock: int) -> dict:
        return {precision: summary([pair[clock] / steps for pair in taken[precision, arm]]) for precision in PRECISIONS}

    def multiple(code: str) -> dict:
        own, alone = ([pair[clock] for pair in taken[code, arm]] for arm in ("method", "baseline"))
        return summary(ratios(own, alone))

    return {
        "method": method,
        "model": cell.student,
        "teacher": cell.teacher,
        "networks": cell.networks,
        "objective": cell.plain()["objective"],
        "batch_size": BATCH,
        "steps": steps,
        "repeats": len(taken[PRECISIONS[0], "method"]),
        "seconds": per_step("method", 0),
        "baseline_seconds": per_step("baseline", 0),
        "cpu_seconds": per_step("method", 1),
        "baseline_cpu_seconds": per_step("baseline", 1),
        "clock": CLOCKS[clock],
        "multiple": {precision: multiple(precision) for precision in PRECISIONS},
        "plain_multiple": multiple("plain") if ("plain", "method") in taken else None,
    }
