"""Measure our loader alone, augmentation included."""

from functools import partial

from speed.images import BATCH
from speed.measure.setup import Setup
from speed.measure.timing import in_turn, summary, timed
from speed.ours import Ours, make_cell


def measure(setup: Setup) -> dict:
    """Return the seconds that a batch takes, over whole epochs."""
    size = setup.size
    student = size.headline[0]
    ours = Ours(make_cell(student, student, "baseline", setup.threads), min(50, size.images // BATCH))
    ours.load()  # warm-up
    taken = in_turn({"data": partial(timed, ours.load)}, size.headline_repeats)["data"]
    return {"batch_size": BATCH, "seconds_per_batch": summary([pair[0] / ours.steps for pair in taken])}
