"""What the job of a cell takes, and how it is started."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import dgd
from dgd.config import processes, torchrun


def threads(cell: Mapping) -> int:
    """Cores: the recipe's threads in each of the cell's processes."""
    return cell["recipe"]["threads"] * processes(cell)


def gpus(cell: Mapping) -> int:
    """GPUs: one a process if the cell will run on CUDA, found out without importing torch."""
    device = cell["recipe"]["device"]
    there = shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()
    return processes(cell) * int(device == "cuda" or (device == "auto" and there))


def mem_mb(cell: Mapping) -> int:
    """Megabytes: `dgd.memory.estimate`, or 4000 a process in a launcher that cannot build networks to ask them."""
    if dgd.NETWORKS:
        from dgd.memory import MIB, estimate

        try:
            return estimate(cell, cuda=gpus(cell) > 0)["host"] * MIB // 10**6 + 1
        except ValueError:  # a model that cannot take these images: its own cell says so, and the others go on
            pass
    return 4000 * processes(cell)


def launcher(cell: Mapping) -> str:
    """The command that a cell's script is appended to: python, or torchrun if the cell has several processes."""
    n = cell["recipe"]["threads"]
    python = f"OMP_NUM_THREADS={n} MKL_NUM_THREADS={n} python"
    number = processes(cell)
    return python if number == 1 else " ".join([python, *torchrun(number)])
