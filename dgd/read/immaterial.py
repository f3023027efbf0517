"""Read which departures from published conditions data have shown to be immaterial: papers/evidence/immaterial.yaml."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dgd import json_files, keys, shipped, yaml_files
from dgd.json_files import Value

FORM = {
    **{"key": Value(str), "ours": Value(Any), "theirs": Value(Any)},
    **{"benchmark": Value(str), "row": Value(str), "over": Value(str), "dataset": Value(str), "metric": Value(str)},
    **{"epochs": Value(int, least=1), "n": Value(int, least=5), "margin": Value(float, above=0)},
    **{"difference": Value(float), "low": Value(float), "high": Value(float)},
}
"""The form of an entry; the file says what each field is."""


@dataclass(frozen=True)
class Evidence:
    """What a departure was shown to change, by two rows of a committed benchmark; see the file for the fields and the rule."""

    key: str
    ours: Any
    theirs: Any
    benchmark: str
    row: str
    over: str
    dataset: str
    metric: str
    epochs: int
    n: int
    margin: float
    difference: float
    low: float
    high: float


def read(path: str | Path) -> tuple[Evidence, ...]:
    """Read departures that were shown to be immaterial.

    Raises:
        ValueError: The file is not of its form, or an interval does not lie within its margin; the message names the place.
    """
    document = yaml_files.read_mapping(path)
    for line in json_files.problems(document, {"immaterial": [FORM]}):
        raise ValueError(f"{path}: {line}")
    for place, entry in enumerate(document["immaterial"]):
        if odd := sorted(entry.keys() - FORM.keys()):
            raise ValueError(f"{path}: immaterial[{place}].{odd[0]}: unknown key{keys.nearest(odd[0], FORM)}")
    found = tuple(Evidence(**entry) for entry in document["immaterial"])
    for place, one in enumerate(found):
        if not -one.margin <= one.low <= one.difference <= one.high <= one.margin:
            raise ValueError(
                f"{path}: immaterial[{place}]: the interval [{one.low:g}, {one.high:g}] of {one.difference:+g} does not lie "
                f"within the margin of {one.margin:g} on either side of 0: this departure is not shown to be immaterial"
            )
    return found


@cache
def known() -> tuple[Evidence, ...]:
    """Return what travels with the package."""
    return read(shipped.EVIDENCE)


def shown(key: str, ours: Any, theirs: Any, cell: Mapping) -> tuple[str, float]:
    """Return what is said of a departure that was shown to be immaterial, and from which published gain on it is.

    Args:
        key: The condition.
        ours: The cell's value.
        theirs: The published one.
        cell: A row of cells.csv.

    Returns:
        ("", infinity) where nothing was shown of it. The gain is infinite too where the cell was trained longer.
    """
    for one in known():
        same = one.key, one.ours, one.theirs, one.dataset, one.metric
        if same == (key, ours, theirs, cell.get("dataset"), cell.get("metric")):
            if cell["epochs"] <= one.epochs:
                return f"immaterial: results/{one.benchmark}", 2 * one.margin
            return f"immaterial up to {one.epochs} epochs: results/{one.benchmark}", math.inf
    return "", math.inf
