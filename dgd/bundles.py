"""Bundles of cells: those that share a process and a device. Nothing here needs torch, because launchers plan by it."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import dgd
from dgd.cell import PER_PROCESS, Cell

MOST = 8
"""Cells on a GPU where nobody says how many. In a trial on an H100, networks side by side trained twice as fast with 4 as with
1, and hardly faster with 10 than with 4 (ResNet-32); smaller ones (ResNet-20) still gained up to 8."""
UNKNOWN = 16 * 1024
"""MiB of a GPU that cannot be asked, such as that of a cluster's node."""
UNKNOWN_CELL = 4096
"""MiB of a cell that cannot be estimated."""
CONTEXT = 1024
"""MiB of a GPU that CUDA itself takes."""


def on_cuda(cell: Cell) -> bool:
    """Return whether a cell will run on CUDA, found out without importing torch."""
    there = shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()
    return cell.recipe.device == "cuda" or (cell.recipe.device == "auto" and there)


def device_memory() -> int:
    """Return the MiB of this machine's smallest GPU, or smallest part of one that MIG cut up; `UNKNOWN` where there is none."""
    parts = [1024 * int(gib) for gib in re.findall(r"MIG \S*?(\d+)gb", _nvidia_smi("-L"))]
    sizes = _nvidia_smi("--query-gpu=memory.total", "--format=csv,noheader,nounits").split()
    return min(parts or map(int, filter(str.isdigit, sizes)), default=UNKNOWN)


def _nvidia_smi(*options: str) -> str:
    try:
        return subprocess.run(["nvidia-smi", *options], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def estimate(cell: Cell) -> dict[str, int] | None:
    """Return `dgd.train.memory.estimate` of a cell; None where networks cannot be built, or this one takes no such images."""
    if not dgd.NETWORKS:
        return None
    from dgd.train import memory

    try:
        return memory.estimate(cell, cuda=on_cuda(cell))
    except ValueError:  # its own cell says so, and the others go on
        return None


def problem(cell: Cell) -> str:
    """Return why a cell's networks cannot be built, so that it will be *not applicable*; "" if they can, or nobody knows."""
    if not dgd.NETWORKS:
        return ""
    from dgd.train import memory

    try:
        memory.estimate(cell)
    except ValueError as error:
        return str(error)
    return ""


def device_need(cell: Cell) -> int:
    """Return the MiB that a cell takes on a CUDA device, by its estimate."""
    return (estimate(cell) or {"device": UNKNOWN_CELL})["device"]


def bundles(
    cells: Iterable[Cell],
    together: int | None,
    *,
    memory: Callable[[Cell], int] = device_need,
    device: Callable[[], int] = device_memory,
) -> list[list[Cell]]:
    """Return cells in bundles, each of which can be trained in one process, after those that its cells learn from.

    Each cell goes to the first bundle that has room for it: bundles of one keep the order of the cells.

    Args:
        cells: The cells that are to be trained, each after those that it learns from.
        together: Cells of a bundle at most. None is, on CUDA, as many as the device's memory takes and `MOST` at most, and 1 on
            a CPU.
        memory: A function that returns the MiB that a cell takes on a CUDA device.
        device: A function that returns the MiB of that device. Neither is called where `together` is given, or on a CPU.
    """
    size = cache(device)
    found: list[list[Cell]] = []
    place: dict[str, int] = {}  # path -> number of its bundle
    room: dict[int, int] = {}  # number of a bundle that takes more cells -> MiB that are left
    for cell in cells:
        most = 1 if cell.processes > 1 else together or (MOST if on_cuda(cell) else 1)
        asked = most > 1 and not together
        takes = memory(cell) if asked else 0
        first = max((place[path] + 1 for path in cell.sources if path in place), default=0)
        fit = (k for k, free in room.items() if k >= first and takes <= free and _share(found[k][0], cell))
        k = next(fit, len(found)) if most > 1 else len(found)
        if k == len(found):
            found.append([])
            room[k] = size() - CONTEXT if asked else 0
        found[k].append(cell)
        place[cell.path] = k
        room[k] -= takes
        if len(found[k]) >= most:
            del room[k]
    return found


def _share(one: Cell, other: Cell) -> bool:
    """Return whether cells of one process each can share it."""
    return all(getattr(one.recipe, key) == getattr(other.recipe, key) for key in PER_PROCESS)
