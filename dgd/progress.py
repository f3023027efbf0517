"""Say how far a benchmark is: which cells are done, running, stale, failed or missing, and how long the rest may take.

A running cell holds the lock on its folder, and says there how far it is (`dgd.files.Lock`); the rest is in the cells' files.
Nothing here needs torch.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from dgd import files, frozen, identity
from dgd.cell import Cell
from dgd.identity import Fresh, Stale
from dgd.measured import read_metrics

STATES = ("done", "running", "stale", "failed", "missing")
RESUME = "resume.pt"
"""A cell's resume point, see `dgd.train.record`."""


class State(NamedTuple):
    """How far a cell is.

    Attributes:
        cell: Its path.
        state: One of `STATES`.
        why: What is to be said of it: since when it runs and how far it is, why it is stale, why it failed.
        epoch: How many epochs of a running cell are done.
        epochs: How many it will have.
        seconds_left: What it still takes, as far as that can be told.
        process: Host and number of the process that trains it.
    """

    cell: str
    state: str
    why: str = ""
    epoch: int | None = None
    epochs: int | None = None
    seconds_left: float | None = None
    process: str = ""

    def __str__(self) -> str:
        return f"{self.cell}: {self.state}{f': {self.why}' if self.why else ''}"


@dataclass(frozen=True)
class Progress:
    """How far the cells of a benchmark are.

    Attributes:
        cells: One state each.
        counts: State -> number of cells.
        seconds_left: What running and missing cells still take, by those that are done of the same data set, model and method,
            shared among the processes that run; None where nothing is left, or nothing can be told.
        unknown: Running and missing cells of which that cannot be told.
    """

    cells: list[State]
    counts: dict[str, int]
    seconds_left: float | None
    unknown: int

    @property
    def done(self) -> bool:
        """Whether all cells are."""
        return self.counts["done"] == len(self.cells)

    @property
    def summary(self) -> str:
        """The counts and the time that is left, in a line."""
        said = ", ".join(f"{number} {state}" for state, number in self.counts.items() if number)
        line = f"{len(self.cells)} cells: {said}"
        if self.seconds_left is not None:
            more = f" for all but {self.unknown} of them" if self.unknown else ""
            line += f"; about {duration(self.seconds_left)} left{more}, by the cells that are done"
        return line


def progress(cells: Iterable[Cell], results: str | Path) -> Progress:
    """Return how far cells are.

    Args:
        cells: Cells of one benchmark, teachers included.
        results: Root of the results.
    """
    cells, results = list(cells), Path(results)
    is_frozen = bool(cells) and frozen.is_frozen(results / cells[0].benchmark)
    fresh = {cell.path: Fresh() for cell in cells} if is_frozen else identity.states(cells, results)
    paces: dict[tuple, list[float]] = {}
    found = [_state(cell, results / cell.path, fresh[cell.path], paces) for cell in cells]
    found = [_expected(cell, state, paces) for cell, state in zip(cells, found, strict=True)]
    left = [state.seconds_left for state in found if state.state in ("running", "missing")]
    known = [seconds for seconds in left if seconds is not None]
    processes = len({state.process for state in found if state.process}) or 1
    counts = Counter(state.state for state in found)
    return Progress(
        found,
        {state: counts[state] for state in STATES},
        sum(known) / processes if known else None,
        len(left) - len(known),
    )


def duration(seconds: float) -> str:
    """Return a duration in words: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _state(cell: Cell, folder: Path, fresh: Fresh | Stale, paces: dict[tuple, list[float]]) -> State:
    """Return the state of a cell, and note the seconds of an epoch of it if it is done."""
    if (holder := files.holder(folder)) is not None:
        return _running(cell, holder)
    if not (folder / "metrics.json").is_file():
        point = folder / RESUME
        if not point.is_file():
            return State(cell.path, "missing")
        when = datetime.fromtimestamp(point.stat().st_mtime, UTC).isoformat(timespec="seconds")
        return State(cell.path, "missing", f"it was stopped, and goes on from its resume point of {when}")
    if not fresh.fresh:
        return State(cell.path, "stale", "; ".join(fresh.reasons))
    metrics = read_metrics(folder / "metrics.json")
    if metrics["status"] != "finished":
        return State(cell.path, "failed", f"{metrics['status']}: {metrics.get('error', '')}")
    if seconds := metrics.get("timings", {}).get("seconds"):
        paces.setdefault(_kind(cell), []).append(seconds / cell.recipe.epochs)
    return State(cell.path, "done")


def _running(cell: Cell, holder: dict) -> State:
    epoch, epochs, seconds = holder.get("epoch"), cell.recipe.epochs, holder.get("seconds")
    far = f"epoch {epoch} of {epochs}" if epoch else "before the end of its first epoch"
    process = f"{holder.get('host')}:{holder.get('pid')}"
    why = f"{far}, since {holder.get('since')}, by process {holder.get('pid')} on {holder.get('host')}" if holder else far
    left = seconds / epoch * (epochs - epoch) if epoch and seconds else None
    return State(cell.path, "running", why, epoch, epochs, left, process)


def _expected(cell: Cell, state: State, paces: dict[tuple, Sequence[float]]) -> State:
    """Return the state of a cell with the seconds that it takes, by cells of its kind, where it has no pace of its own."""
    pace = paces.get(_kind(cell))
    if state.seconds_left is not None or state.state not in ("running", "missing") or not pace:
        return state
    return state._replace(seconds_left=sum(pace) / len(pace) * (cell.recipe.epochs - (state.epoch or 0)))


def _kind(cell: Cell) -> tuple:
    return cell.slug, cell.model, cell.method
