"""Record what produced a number: code, config, data, teacher, machine, versions, command."""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from dgd import codehash

PACKAGE = Path(__file__).parent
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "pandas", "scikit-learn", "safetensors")


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def git() -> dict | None:
    """Return commit, whether tracked files differ from it, and a SHA-256 of the difference; None outside a repository."""
    commit = _run("git", "rev-parse", "HEAD")
    if commit is None:
        return None
    diff = _run("git", "diff", "HEAD", "--", ".") or ""
    return {
        "commit": commit,
        "dirty": bool(diff),
        "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
    }


def cpu() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Return the installed versions of the packages that results depend on; None where one is not installed."""
    return {name: _version(name) for name in PACKAGES}


@cache
def _environment() -> str:
    """Return the SHA-256 over `name==version` of every installed distribution."""
    names = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()})
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _gpu() -> dict | None:
    import torch

    if not torch.cuda.is_available():
        return None
    driver = _run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "name": torch.cuda.get_device_name(),
        "count": torch.cuda.device_count(),
        "driver": driver.splitlines()[0] if driver else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def record(**facts) -> dict:
    """Return a provenance record: the given facts beside all that can be read off the process.

    The host's name is hashed: it tells two machines apart without naming them.
    """
    import torch

    return {
        **facts,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "code_sha256": codehash.digest(codehash.package_files()),
        "git": git(),
        "python": platform.python_version(),
        "packages": versions(),
        "environment_sha256": _environment(),
        "machine": {
            "host": hashlib.sha256(platform.node().encode()).hexdigest()[:12],
            "system": f"{platform.system()} {platform.release()}",
            "cpu": cpu(),
            "cores": os.cpu_count(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "gpu": _gpu(),
        },
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
