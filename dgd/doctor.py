"""Say what this machine has, and what will therefore run slowly, differently or not at all."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import dgd
from dgd import provenance, source_files

LOCK = Path(__file__).parents[1] / "requirements.lock"
ENOUGH_DISK = 2 << 30
"""Bytes of free disk below which a benchmark may not find room."""
TOOLS = {"snakemake": "workflows", "dvc": "dvc repro", "git": "commits in provenance.json", "nvidia-smi": "several GPUs"}


class Finding(NamedTuple):
    """One thing that was looked at: its name, what was found, and a remark where something follows from it."""

    name: str
    found: str
    remark: str = ""


def findings(data_dir: str | Path = "data", results: str | Path = "results") -> Iterator[Finding]:
    """Look at the installation, the device, memory, disks and data, one thing at a time.

    Args:
        data_dir: Folder of the data sets' files, a benchmark's `data.dir`.
        results: Root of the results.
    """
    yield _version()
    yield _packages()
    yield from _devices()
    yield _memory()
    for name, folder in (("results", Path(results)), ("data", Path(data_dir))):
        yield _disk(name, folder)
    yield from _data(Path(data_dir))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for tool, use in TOOLS.items():
        there = shutil.which(tool, path=path)
        yield Finding(tool, there or "not found", "" if there else f"needed for {use}")


def _version() -> Finding:
    git = provenance.git()
    commit = f", commit {git['commit'][:12]}{' with changes' if git['dirty'] else ''}" if git else ""
    remark = "results name a commit that does not have this code; commit first" if git and git["dirty"] else ""
    return Finding("dgd-bench", f"{dgd.__version__}{commit}, Python {platform.python_version()}", remark)


def _packages() -> Finding:
    found = provenance.versions()
    said = ", ".join(f"{name} {version or 'not installed'}" for name, version in found.items())
    if not LOCK.is_file():
        return Finding("packages", said, "no requirements.lock to compare with: the package stands alone")
    locked = dict(re.findall(r"^([a-z0-9_.-]+)==(\S+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE))
    other = [f"{name} is {locked[name]}" for name, version in found.items() if name in locked and locked[name] != version]
    return Finding("packages", said, f"in requirements.lock {', '.join(other)}: results may differ (level C)" if other else "")


def _devices() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for k in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(k)
            bf16 = "" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16 arithmetic: set recipe.precision"
            yield Finding(f"GPU {k}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}", bf16)
    else:
        yield Finding("GPU", "none", "cells run on the CPU; tests marked cuda are skipped")
    flags = _cpu_flags()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    bf16 = flags & {"avx512_bf16", "amx_bf16"}
    remark = "" if bf16 or not flags else "no bf16 instructions: on the CPU `recipe: {precision: fp32}` is faster"
    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding("CPU", f"{provenance.cpu()}, {cores} cores, {capability}{', bf16' if bf16 else ''}", remark)


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return set(next(line for line in lines if line.startswith("flags")).split())
    except (OSError, StopIteration):
        return set()


def _memory() -> Finding:
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free, total = (int(lines[name].split()[0]) / 2**20 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        return Finding("memory", "unknown")
    return Finding(
        "memory", f"{free:.1f} of {total:.1f} GiB free", "" if free > 4 else "a cell takes about 1 GiB, and more on images"
    )


def _disk(name: str, folder: Path) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    remark = "" if os.access(there, os.W_OK) else f"{there} cannot be written"
    if not remark and free < ENOUGH_DISK:
        remark = "little room: weights, predictions and resume points of a cell take some MB to some hundred MB"
    return Finding(f"disk of {name}", f"{free / 2**30:.1f} GiB free at {there}", remark)


def _data(data_dir: Path) -> Iterator[Finding]:
    from torchvision.datasets import CIFAR10, CIFAR100

    places = {
        "cifar10": (CIFAR10.filename, CIFAR10.base_folder),
        "cifar100": (CIFAR100.filename, CIFAR100.base_folder),
        "fashion_mnist": (str(source_files.FASHION),),
        "digits-spoken": (source_files.SPOKEN, source_files.RECORDINGS),
    }
    for name, files in places.items():
        there = next((data_dir / file for file in files if (data_dir / file).exists()), None)
        remark = "" if there else f"needs {files[0]} in it, which is downloaded where there is a network"
        yield Finding(name, str(there or f"not in {data_dir}"), remark)
