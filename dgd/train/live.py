"""Say how far a training is: on the terminal, in the lock on its cell's folder, and to who wants the rows of its history.

All of it is told after an epoch, from numbers that are on the host by then; no result depends on it.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from tqdm import tqdm

from dgd.cell import Cell
from dgd.files import Lock
from dgd.metrics import METRICS

Watch = Callable[[Cell, Sequence[Mapping]], None]
"""What is called after each epoch with the cell and all rows of its history so far."""
BAR = "{desc}: epoch {n_fmt}/{total_fmt} |{bar:16}|{postfix} [{elapsed}<{remaining}]"


class Live:
    """How far one cell is, for the process that speaks for it.

    On a terminal it is a line that is drawn anew, one below the other for cells side by side; else a line an epoch.

    Args:
        cell: The cell.
        place: Its place among the cells side by side.
        lock: The lock on its folder.
        watch: Called after each epoch, where somebody wants to know.
    """

    def __init__(self, cell: Cell, place: int, lock: Lock, watch: Watch | None):
        self.cell, self.place, self.lock, self.watch = cell, place, lock, watch
        self.bar: tqdm | None = None
        self.first = 0
        self.begun = 0.0

    def __enter__(self) -> "Live":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()

    def begin(self, first: int) -> None:
        """Begin to count at an epoch, which is not the first one of a cell that goes on."""
        self.first, self.begun = first, time.monotonic()
        if sys.stderr.isatty():
            about = {"desc": self.cell.path, "bar_format": BAR, "dynamic_ncols": True}
            self.bar = tqdm(initial=first, total=self.cell.recipe.epochs, position=self.place, **about)

    def tell(self, history: Sequence[Mapping], seconds: float, images_per_second: float) -> None:
        """Say what an epoch has brought.

        Args:
            history: The rows so far.
            seconds: The time that the cell has taken.
            images_per_second: Speed of its training steps, over all its networks.
        """
        self.lock.say(epoch=len(history), epochs=self.cell.recipe.epochs, seconds=round(seconds, 3))
        if self.watch:
            self.watch(self.cell, history)
        said = self._said(history[-1], images_per_second)
        if self.bar is not None:
            self.bar.set_postfix_str(said, refresh=False)
            self.bar.update(1)
            return
        done, total = len(history), self.cell.recipe.epochs
        left = (time.monotonic() - self.begun) / (done - self.first) * (total - done)
        line = f"{self.cell.path}: epoch {done}/{total}, {said}, {tqdm.format_interval(left)} left"
        print(line, file=sys.stderr, flush=True)

    def _said(self, row: Mapping, images_per_second: float) -> str:
        """Return loss, metric and speed of the first network's row."""
        metric = METRICS[self.cell.task]
        score = row.get(f"test_{metric.name}_0")
        tested = "" if score is None else f"test {score:{metric.form}} {metric.unit}".rstrip() + ", "
        return f"loss {row['loss_0']:.3f}, {tested}{images_per_second:,.0f} images/s"
