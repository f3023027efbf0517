"""Time functions in seconds and CPU-seconds.

What is compared is timed in turn, repeat by repeat: a machine that slows down for a while slows down all of it.
`torch.utils.benchmark` times one function after the other, and no CPU-seconds.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Times = tuple[float, float]
"""Seconds and CPU-seconds."""


def timed(function: Callable[[], object]) -> Times:
    """Call a function, wait until the device is done, and return what that took."""
    _synchronize()
    cpu, start = time.process_time(), time.perf_counter()
    function()
    _synchronize()
    return time.perf_counter() - start, time.process_time() - cpu


def in_turn(arms: Mapping[str, Callable[[], Times]], repeats: int) -> dict[str, list[Times]]:
    """Time each arm once, then each again, and so on; return each arm's times in that order."""
    taken = {name: [] for name in arms}
    for _ in range(repeats):
        for name, arm in arms.items():
            taken[name].append(arm())
    return taken


def ratios(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """Return how many times the fast times the slow ones are, repeat by repeat."""
    return [a / b for a, b in zip(slow, fast, strict=True)]


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and largest of some values, to five digits."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {key: float(f"{value:.5g}") for key, value in found.items()}


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
