"""Read a folder of results beside what was asked for there, so that what is missing shows."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dgd import config, frozen, identity
from dgd.benchmark import Benchmark
from dgd.cell import Cell
from dgd.read.cells import collect


@dataclass(frozen=True)
class Asked:
    """A benchmark's results.

    Attributes:
        folder: Their folder.
        benchmark: What was asked for; None where the folder does not say so, and what is there is all.
        cells: The cells that were asked for, teachers included.
        more: Paths of cells that are there and were not asked for, because the benchmark was changed since.
    """

    folder: Path
    benchmark: Benchmark | None
    cells: list[Cell]
    more: list[str]

    @property
    def remarks(self) -> list[str]:
        """Sentences on what is there and is in no table."""
        if not self.more:
            return []
        return [
            f"{len(self.more)} cells are there that {config.ASKED} does not ask for, e.g. {self.more[0]}: they are left out."
        ]

    def frame(self, standing: bool = True) -> pd.DataFrame:
        """Return the cells as `dgd.read.cells.collect` does, with a row for each that is missing.

        Args:
            standing: Say of each whether it is the one that is asked for, which hashes code and weights.

        Raises:
            ValueError: As `collect`.
        """
        said = frozen.standing(self.cells, self.folder.resolve().parent) if standing else None
        return collect(self.folder, self.cells if self.benchmark else None, said)


def results(folder: str | Path, benchmark: Benchmark | None = None) -> Asked:
    """Return a benchmark's results and what was asked for.

    Args:
        folder: Such as results/quick.
        benchmark: What was asked for, instead of what the folder says.

    Raises:
        ValueError: There is no such folder, or no results of a benchmark in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: {'a file' if folder.exists() else 'no such folder'}; give a benchmark's results, {EXAMPLE}"
        )
    there = identity.folder_cells(folder)
    if not there and not (folder / config.ASKED).is_file():
        raise ValueError(f"{folder}: no results of a benchmark in it; give those of one, {EXAMPLE}")
    benchmark = benchmark or config.asked(folder)
    cells = config.cells(benchmark) if benchmark else there
    wanted = {_below(cell) for cell in cells}
    return Asked(folder, benchmark, cells, [cell.path for cell in there if _below(cell) not in wanted])


EXAMPLE = "e.g. results/quick"


def _below(cell: Cell) -> str:
    """Return the path of a cell below its benchmark's folder, which may have another name."""
    return cell.path.partition("/")[2]
