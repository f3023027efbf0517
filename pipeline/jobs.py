"""What the job of a cell, or of several, takes, and how it is started."""

from dgd.bundles import estimate, on_cuda, problem
from dgd.cell import Cell
from dgd.config import torchrun
from dgd.identity import Stale


def threads(cell: Cell) -> int:
    """Return the cores of a job: the recipe's threads in each of the cell's processes."""
    return cell.recipe.threads * cell.processes


def gpus(cell: Cell) -> int:
    """Return the GPUs of a job: one for each process if the cell will run on CUDA."""
    return cell.processes * on_cuda(cell)


def mem_mb(*cells: Cell) -> int:
    """Return the megabytes of a job: of a cell, or of several in one process, which counts once.

    By `dgd.train.memory.estimate`, or 4000 for each process where networks cannot be built.
    """
    estimates = list(map(estimate, cells))
    each = [_mb(found["host"]) + 1 if found else 4000 * cell.processes for cell, found in zip(cells, estimates)]
    if len(cells) == 1 or not all(estimates):
        return sum(each)
    from dgd.train.memory import shared

    return sum(each) - (len(each) - 1) * _mb(shared(cuda=gpus(cells[0]) > 0))


def said(cell: Cell, stale: Stale | None) -> str:
    """Return what a job's message says of a cell: why it is stale, and why its networks cannot be built."""
    no = problem(cell)
    return "; ".join(filter(None, (str(stale or ""), no and f"not applicable: {no}")))


def _mb(mib: int) -> int:
    return mib * 2**20 // 10**6


def launcher(cell: Cell) -> str:
    """Return the command that a cell's script is appended to: python, or torchrun if the cell has several processes."""
    n = cell.recipe.threads
    python = f"OMP_NUM_THREADS={n} MKL_NUM_THREADS={n} python"
    return python if cell.processes == 1 else " ".join(["DGD_NETWORKS=no", python, *torchrun(cell.processes)])
