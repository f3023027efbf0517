"""What the job of a cell takes, and how it is started."""

import shutil
from pathlib import Path

import dgd
from dgd.cell import Cell
from dgd.config import torchrun


def threads(cell: Cell) -> int:
    """Return the cores of a job: the recipe's threads in each of the cell's processes."""
    return cell.recipe.threads * cell.processes


def gpus(cell: Cell) -> int:
    """Return the GPUs of a job: one for each process if the cell will run on CUDA, found out without importing torch."""
    device = cell.recipe.device
    there = shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()
    return cell.processes * int(device == "cuda" or (device == "auto" and there))


def mem_mb(cell: Cell) -> int:
    """Return the megabytes of a job: `dgd.train.memory.estimate`, or 4000 for each process where networks cannot be built."""
    if dgd.NETWORKS:
        from dgd.train.memory import MIB, estimate

        try:
            return estimate(cell, cuda=gpus(cell) > 0)["host"] * MIB // 10**6 + 1
        except ValueError:  # a model that cannot take these images: its own cell says so, and the others go on
            pass
    return 4000 * cell.processes


def launcher(cell: Cell) -> str:
    """Return the command that a cell's script is appended to: python, or torchrun if the cell has several processes."""
    n = cell.recipe.threads
    python = f"OMP_NUM_THREADS={n} MKL_NUM_THREADS={n} python"
    return python if cell.processes == 1 else " ".join([python, *torchrun(cell.processes)])
