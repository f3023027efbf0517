"""Where a cell is trained and in which arithmetic: device, precision, memory layout, determinism, allocator."""

import ctypes
import os
import resource
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dgd.cell import Recipe


@dataclass(frozen=True)
class Arithmetic:
    """The device, and how numbers are computed and laid out on it."""

    device: torch.device
    precision: str = "fp32"
    channels_last: bool = False

    def autocast(self) -> AbstractContextManager:
        """Return the context in which networks run."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def place(self, module: nn.Module) -> nn.Module:
        """Move a network to the device, in the memory layout, and return it."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        return module.to(self.device, memory_format=layout)


def arithmetic(recipe: Recipe, device: torch.device) -> Arithmetic:
    """Return the arithmetic of a recipe on a device."""
    return Arithmetic(device, recipe.precision, recipe.channels_last)


def pick_device(name: str) -> torch.device:
    """Return the device of a recipe: 'auto' is CUDA where there is one.

    Under torchrun each process of a machine takes a device of its own.

    Raises:
        ValueError: CUDA is asked for and not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("recipe.device is 'cuda' and no CUDA device is available; use 'auto' or 'cpu'")
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device(name)


def set_up(recipe: Recipe) -> None:
    """Set this process's threads, arithmetic and allocator as a cell of this recipe has them."""
    torch.set_num_threads(recipe.threads)
    if recipe.precision == "bf16" and pick_device(recipe.device).type == "cpu" and not _has_bf16():
        print("this processor has no bf16 instructions: `precision: fp32` would be faster", file=sys.stderr)
    set_arithmetic(recipe)
    _keep_freed_memory()


def set_arithmetic(recipe: Recipe) -> None:
    """Set determinism, and whether CUDA may round float32 to TF32: only if the recipe says so; torch would in convolutions."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = recipe.precision == "tf32"
    wanted = recipe.deterministic
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.deterministic = wanted
    torch.backends.cudnn.benchmark = not wanted


def _has_bf16() -> bool:
    """Return whether the processor multiplies bf16 (avx512_bf16, amx_bf16, Arm's bf16); True where nothing says."""
    try:
        return "bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return True


def _keep_freed_memory() -> None:
    """Stop glibc from returning freed memory to the system: each step would fault its pages in again."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    trim_threshold, mmap_threshold = -1, -3
    # 32 MiB is the most that glibc takes: an activation of a step is smaller, one of the evaluation may not be.
    set_option(mmap_threshold, 32 << 20)
    set_option(trim_threshold, 2**31 - 1)


def start_measuring_memory(device: torch.device) -> None:
    """Forget the peak of what was allocated on a CUDA device so far."""
    if device.type == "cuda":
        torch.cuda.init()  # the next line does not
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> tuple[float, float | None]:
    """Return MiB resident in this process at its peak, and MiB allocated on its CUDA device (None on a CPU)."""
    allocated = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return _peak_resident() / 2**10, allocated


def _peak_resident() -> int:
    """Return KiB. Linux's own mark comes first: what getrusage says of a process counts its parent's size at the fork."""
    try:
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
