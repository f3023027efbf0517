"""Write the histories of cells as TensorBoard logs, beside their results and without an effect on them."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from dgd.cell import Cell


class Logs:
    """TensorBoard logs of cells: a run for each cell and network, with a point an epoch, which count from 0.

    It is a `dgd.train.live.Watch`. A cell that goes on has its whole history written anew, in place of what was there.

    Args:
        folder: Root of the logs; a cell's are in its path below.

    Raises:
        ValueError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path):
        if find_spec("tensorboard") is None:
            raise ValueError("--tensorboard needs the package tensorboard; install it by `pip install 'dgd-bench[logs]'`")
        self.folder = Path(folder)
        self._written: dict[str, int] = {}
        self._writers: dict[tuple[str, int], object] = {}

    def __call__(self, cell: Cell, history: Sequence[Mapping]) -> None:
        """Write the rows of a cell's history that are not written yet."""
        for row in history[self._written.get(cell.path, 0) :]:
            for name, value in row.items():
                tag, _, network = name.rpartition("_")
                if tag and value is not None:
                    self._writer(cell, int(network)).add_scalar(_label(tag), value, row["epoch"])
        self._written[cell.path] = len(history)
        last = len(history) == cell.recipe.epochs
        for key in [key for key in self._writers if key[0] == cell.path]:
            self._writers.pop(key).close() if last else self._writers[key].flush()

    def _writer(self, cell: Cell, network: int):
        key = cell.path, network
        if key not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            self._writers[key] = SummaryWriter(str(self.folder / cell.path / f"network{network}"), purge_step=0)
        return self._writers[key]


def _label(tag: str) -> str:
    """Return the name of a curve: those of one kind are one group in TensorBoard."""
    if tag == "lr":
        return "learning rate"
    split = next((split for split in ("test", "validation") if tag.startswith(f"{split}_")), "training")
    return f"{tag.removeprefix(f'{split}_')}/{split}"
