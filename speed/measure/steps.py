"""Measure a training step: images per second of the plain loop, of ours, and of the limit."""

from functools import partial

from speed.images import BATCH
from speed.measure.setup import METHODS, Setup
from speed.measure.timing import in_turn, ratios, summary, timed
from speed.ours import Ours, make_cell, with_networks


def measure(setup: Setup) -> list[dict]:
    """Return a row for each model and method."""
    rows = []
    for student, teacher in setup.size.models.items():
        for method in setup.size.methods:
            rows.append(_row(setup, student, teacher, method))
            speed = {arm: round(values["median"], 1) for arm, values in rows[-1]["images_per_second"].items()}
            print(f"{student} {method}: {speed} images/s", flush=True)
    return rows


def _row(setup: Setup, student: str, teacher: str, method: str) -> dict:
    size, plain = setup.size, setup.plain
    base, networks = METHODS[method]
    item = with_networks(base, networks)
    cell = make_cell(student, teacher, item, setup.threads)
    headline = (student, method) == size.headline
    plain.start(cell, size.images)
    steps = int(size.seconds / plain.warm_up(size.warm_up))
    steps = min(max(steps, size.headline_steps if headline else 2), 200)
    ours = Ours(cell, steps)
    arms = {"plain": partial(plain.call, "train", steps=steps), "ours": partial(timed, ours.train)}
    if headline:
        single = Ours(make_cell(student, teacher, item, setup.threads, precision="fp32"), steps)
        arms["ours_fp32"] = partial(timed, single.train)
    arms["limit"] = partial(timed, ours.run_limit)
    for name, arm in arms.items():
        if name != "plain":
            arm()  # warm-up
    taken = in_turn(arms, size.headline_repeats if headline else size.repeats)
    seconds = {arm: [pair[0] for pair in pairs] for arm, pairs in taken.items()}
    images = networks * BATCH * steps
    return {
        "model": student,
        "teacher": cell.teacher,
        "method": method,
        "networks": networks,
        "batch_size": BATCH,
        "steps": steps,
        "recipe": cell.plain()["recipe"],
        "seconds": {arm: [round(value, 5) for value in values] for arm, values in seconds.items()},
        "images_per_second": {arm: summary([images / value for value in values]) for arm, values in seconds.items()},
        "cpu_seconds_per_image": {arm: summary([pair[1] / images for pair in pairs]) for arm, pairs in taken.items()},
        "speedup": {arm: summary(ratios(seconds["plain"], seconds[arm])) for arm in seconds if arm.startswith("ours")},
        "share_of_limit": summary(ratios(seconds["limit"], seconds["ours"])),
    }
