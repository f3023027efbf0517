"""Measure one exchange of a group, from entropies to blended weights in the networks."""

from functools import partial

from speed.images import BATCH
from speed.measure.setup import Setup
from speed.measure.timing import in_turn, ratios, summary, timed
from speed.ours import Ours, make_cell, with_networks


def measure(setup: Setup) -> list[dict]:
    """Return a row for each model and number of networks: seconds of the plain code and of ours."""
    rows = []
    for student in setup.size.exchange:
        for networks in setup.size.groups:
            cell = make_cell(student, student, with_networks("grafting", networks), setup.threads)
            setup.plain.start(cell, BATCH)
            ours = Ours(cell, 1)
            ours.exchange()  # warm-up
            arms = {"plain": partial(setup.plain.call, "exchange"), "ours": partial(timed, ours.exchange)}
            taken = in_turn(arms, setup.size.repeats)
            seconds = {arm: [pair[0] for pair in pairs] for arm, pairs in taken.items()}
            rows.append(
                {
                    "model": student,
                    "networks": networks,
                    "seconds": {arm: summary(values) for arm, values in seconds.items()},
                    "speedup": summary(ratios(seconds["plain"], seconds["ours"])),
                }
            )
            times = rows[-1]["speedup"]["median"]
            print(f"exchange of {networks} {student}: {times:.0f} times as fast as the plain one", flush=True)
    return rows
