"""Measure networks in each precision and memory layout, forward and backward on one batch: what `precision: auto` rests on."""

from functools import partial

import torch

from speed.measure.setup import Setup
from speed.measure.timing import in_turn, ratios, summary, timed
from speed.ours import forward_backward

ARMS = {
    "fp32": ("fp32", False),
    "fp32, channels last": ("fp32", True),
    "bf16": ("bf16", False),
    "bf16, channels last": ("bf16", True),
}
"""Column -> precision and `channels_last`. The first is what the plain loop computes in."""


def measure(setup: Setup) -> list[dict]:
    """Return a row for each network: milliseconds of an image in the plain arithmetic, and how much faster others are.

    On one thread of a CPU the clock is CPU time, which other processes disturb less.
    """
    clock = int(setup.threads == 1 and not torch.cuda.is_available())
    rows = []
    for model, size, batch, adapt_stem in setup.size.arithmetic:
        runs = {name: forward_backward(model, size, batch, adapt_stem, *how) for name, how in ARMS.items()}
        for run in runs.values():
            run()  # warm-up
        taken = in_turn({name: partial(timed, run) for name, run in runs.items()}, setup.size.arithmetic_repeats)
        seconds = {name: [times[clock] for times in pairs] for name, pairs in taken.items()}
        plain, *others = ARMS
        rows.append(
            {
                "model": model,
                "image_size": size,
                "adapt_stem": adapt_stem,
                "batch_size": batch,
                "repeats": setup.size.arithmetic_repeats,
                "clock": ("seconds", "cpu_seconds")[clock],
                "plain_ms_per_image": summary([1000 * value / batch for value in seconds[plain]]),
                "speedup": {name: summary(ratios(seconds[plain], seconds[name])) for name in others},
            }
        )
        faster = {name: round(values["median"], 2) for name, values in rows[-1]["speedup"].items()}
        print(f"{model} at {size}: {faster} times the plain arithmetic", flush=True)
    return rows
