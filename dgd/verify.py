"""Train a finished cell again, its teachers included, and say whether the same bytes come out."""

import contextlib
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from dgd import identity, running, seals
from dgd.cell import Cell
from dgd.signals import cleaning

BYTES = ("history.csv", "predictions.npz", "filters.npz")
UNMEASURED = ("timings", "method")
"""Parts of metrics.json that are no results: times, and the sentences on how today's code stands to a method's sources."""


def verify(folder: str | Path) -> str:
    """Return the first difference between a finished cell and the same cell trained now; "" where there is none.

    Files that were changed after they were written are a difference, and then nothing is trained. It trains in a temporary
    folder and leaves the cell as it is; the data set is prepared if it is not there.

    Args:
        folder: The cell's folder, below a root of results that has its teachers' config.yaml too.

    Raises:
        ValueError: The folder holds no cell or is a copy, a teacher's config.yaml is missing, or the cell needs several
            processes a network.
    """
    folder = Path(folder).resolve()
    cell = identity.cell_of(folder)
    if cell is None or not (folder / "metrics.json").is_file():
        raise ValueError(f"{folder}: no finished cell in it; give the folder of a trained cell")
    root = identity.root_of(folder, cell)
    try:
        seals.check_seal(folder, [name for name in identity.OUTPUTS if (folder / name).is_file()])
    except ValueError as error:
        return str(error)
    with tempfile.TemporaryDirectory() as made, cleaning(lambda: shutil.rmtree(made)):
        for one in running.with_sources(cell, root):
            train(alone(one), made)
        return difference(folder, Path(made) / cell.path)


def alone(cell: Cell) -> Cell:
    """Return the cell in one process: with one process for each network it gives the same bytes."""
    if cell.recipe.ranks_per_network > 1:
        raise ValueError(
            f"{cell.path}: recipe.ranks_per_network is {cell.recipe.ranks_per_network}; it can be verified up to 1"
        )
    return replace(cell, recipe=replace(cell.recipe, ranks_per_network=0))


def train(cell: Cell, results: str | Path) -> None:
    """Train one cell; a cell that has no result, a diverged one, is recorded like any other."""
    from dgd import train as training

    with contextlib.suppress(training.NoResult):
        training.train_cell(cell, results=results, data=running.prepared(cell, results))


def difference(was: Path, now: Path) -> str:
    """Return in one line the first difference between two folders of a cell; "" where none is.

    History, predictions and filters are compared byte by byte, metrics by their values but for those of `UNMEASURED`.
    """
    for name in BYTES:
        if (was / name).read_bytes() != (now / name).read_bytes():
            return f"{name} differs{_where(was / name, now / name)}"
    before, after = (
        {k: v for k, v in json.loads((f / "metrics.json").read_text()).items() if k not in UNMEASURED} for f in (was, now)
    )
    lines = _paths(before, after)
    return f"metrics.json differs: {lines[0]}" if lines else ""


def _where(was: Path, now: Path) -> str:
    if was.suffix == ".csv":
        pairs = zip(was.read_text().splitlines(), now.read_text().splitlines(), strict=False)
        return next((f", first in line {i}: {a} | {b}" for i, (a, b) in enumerate(pairs, 1) if a != b), ", in its length")
    with np.load(was) as before, np.load(now) as after:
        if before.files != after.files:
            return ", in the names of its arrays"
        found = next((key for key in before.files if not np.array_equal(before[key], after[key], equal_nan=True)), None)
    return f", first in {found}" if found else ", in its bytes and not in its arrays"


def _paths(before, after, place: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):  # what later code records besides is no difference
        return [line for key, value in before.items() for line in _paths(value, after.get(key), f"{place}.{key}".strip("."))]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [line for i, pair in enumerate(zip(before, after, strict=True)) for line in _paths(*pair, f"{place}[{i}]")]
    return [] if before == after else [f"{place} was {before} and is {after}"]
