"""Read what was measured, and work out the figures that are derived from it."""

import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from speed import ROOT

RESULTS = ROOT / "speed" / "results"
EPOCH = 50_000
"""Images of the epoch that an exchange is a share of."""
WITHOUT_OWN = {"ce", "kd", "smoothing"}
"""Terms that take next to nothing beside networks and teachers."""
PUBLIC_CODE_MS = {
    "baseline": 236,
    "kd": 511,
    "at": 483,
    "sp": 432,
    "rkd": 456,
    "dkd": 436,
    "review": 731,
    "hkd-512": 478,
    "hkd-4096": 962,
    "dml": 478,
    "ffsd": 782,
    "self-explanation": 470,
    "self-explanation-10": 1085,
}
"""Milliseconds of a step, the least of ten, in one run of public code, or of a reconstruction where there is none
(self-explanation): float32, one thread of two cores, batch 64, ResNet-20 taught by ResNet-56. Measured by other scripts on the
same class of machine."""


def read(folder: Path = RESULTS) -> tuple[list[dict], list[dict]]:
    """Return what `speed.measure` found on each machine, and what `speed.scale` found."""
    files = {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    growth = [found for name, found in files.items() if name.startswith("scale-")]
    return [found for name, found in files.items() if not name.startswith("scale-")], growth


def read_trial() -> dict:
    """Return what a trial measured on a GPU outside the project."""
    return yaml.safe_load((ROOT / "speed" / "trial.yaml").read_text())


def trained(found: Mapping) -> list[dict]:
    """Return how fast our loop trains each measured model and method on a machine.

    On a GPU that is with cells side by side where these were measured, else with steps replayed.

    Returns:
        The measured rows, with one number as `images_per_second`, and in `arm` what it is of.
    """
    rows, arms = [], ("together", "captured") if "gpu" in found else ("ours",)
    for row in found["gpu"]["rows"] if "gpu" in found else found["steps"]:
        arm = next((arm for arm in arms if arm in row["images_per_second"]), None)
        rows += [{**row, "images_per_second": row["images_per_second"][arm]["median"], "arm": arm}] if arm else []
    return rows


def headline(found: Mapping) -> dict | None:
    """Return the row of steps that was measured in float32 too, None where there is none."""
    return next((row for row in found.get("steps", ()) if "ours_fp32" in row["seconds"]), None)


def step_seconds(row: Mapping) -> float:
    """Return the seconds of one step of our loop, of a row of steps."""
    return row["networks"] * row["batch_size"] / row["images_per_second"]["ours"]["median"]


def own_multiple(row: Mapping, rows: Iterable[Mapping], precision: str) -> float:
    """Return what a method's own terms take for each network, in steps of baseline, at least 0.

    That is what is left of its step without what a network takes, and its teacher: one step for a network alone, and for one
    that is taught the median of the rows that have no terms of their own (kd, dgd, kd-crd).

    Args:
        row: The method's row of `methods`.
        rows: All rows of `methods` on that machine.
        precision: `fp32` or `bf16`.
    """
    if row["objective"].keys() <= WITHOUT_OWN:
        return 0.0

    def per_network(row: Mapping) -> float:
        return row["multiple"][precision]["median"] / row["networks"]

    taught = [per_network(other) for other in rows if other["teacher"] and other["objective"].keys() <= WITHOUT_OWN]
    return max(0.0, per_network(row) - (statistics.median(taught) if row["teacher"] else 1.0))


def shares_of_epoch(found: Mapping) -> list[float | None]:
    """Return, for each row of the exchange, its share of our epoch of 50,000 images; None where no step was measured.

    The epoch's time comes from the model's grafting row of as many networks, or of the most that there are below.
    """
    shares = []
    for row in found["exchange"]:
        steps = [
            other
            for other in found.get("steps", ())
            if other["model"] == row["model"]
            and other["method"].startswith("grafting")
            and other["networks"] <= row["networks"]
        ]
        if not steps:
            shares.append(None)
            continue
        speed = max(steps, key=lambda other: other["networks"])["images_per_second"]["ours"]["median"]
        shares.append(row["seconds"]["ours"]["median"] / (row["networks"] * EPOCH / speed))
    return shares
