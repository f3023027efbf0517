"""Device and arithmetic of a training: precision, memory layout, determinism, allocator."""

import contextlib
import ctypes
import gc
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
    """The device, the precision of the computations and the memory layout of a training."""

    device: torch.device
    precision: str = "fp32"
    channels_last: bool = False

    def autocast(self) -> AbstractContextManager:
        """Return the context in which networks run."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def place(self, module: nn.Module) -> nn.Module:
        """Move a network to the device and into the memory layout, and return it."""
        if not self.channels_last or all(tensor.ndim < 5 for tensor in (*module.parameters(), *module.buffers())):
            return module.to(self.device, memory_format=torch.channels_last if self.channels_last else torch.preserve_format)

        def last(tensor: torch.Tensor) -> torch.Tensor:  # a Conv3d's weight has no such layout
            return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

        return module.to(self.device)._apply(last)


def arithmetic(recipe: Recipe, device: torch.device) -> Arithmetic:
    """Return the arithmetic of a recipe on a device."""
    return Arithmetic(device, recipe.precision, recipe.channels_last)


def pick_device(name: str) -> torch.device:
    """Return the device of a recipe; 'auto' is CUDA if a device is available.

    Under torchrun each process of a machine takes a device of its own.

    Raises:
        ValueError: The recipe asks for CUDA and no device is available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("recipe.device is 'cuda' and no CUDA device is available; use 'auto' or 'cpu'")
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device(name)


def set_up(recipe: Recipe) -> None:
    """Set this process's threads, arithmetic and allocator for a cell of this recipe."""
    torch.set_num_threads(recipe.threads)
    if recipe.precision == "bf16" and pick_device(recipe.device).type == "cpu" and not _has_bf16():
        print("this processor has no bf16 instructions: `precision: fp32` would be faster", file=sys.stderr)
    set_arithmetic(recipe)
    _keep_freed_memory()


def set_arithmetic(recipe: Recipe) -> None:
    """Set determinism, and let CUDA round float32 to TF32 only if the recipe says so, which torch by default does in cuDNN."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = recipe.precision == "tf32"
    deterministic = recipe.deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic


def _has_bf16() -> bool:
    """Return whether the processor has bf16 instructions (avx512_bf16, amx_bf16, Arm's bf16); True if that is unknown."""
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
    # 32 MiB is glibc's maximum. A training step's activations are smaller; those of an evaluation may be larger.
    set_option(mmap_threshold, 32 << 20)
    set_option(trim_threshold, 2**31 - 1)


def release_memory(device: torch.device) -> None:
    """Return freed memory to the system and the driver, after a cell for which it did not suffice: others may need it."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    if device.type == "cuda":
        torch.cuda.empty_cache()


def start_measuring_memory(device: torch.device) -> None:
    """Reset the peak of allocated memory on a CUDA device."""
    if device.type == "cuda":
        torch.cuda.init()  # resetting the statistics does not initialise CUDA by itself
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> tuple[float, float | None]:
    """Return MiB resident in this process at its peak, and MiB allocated on its CUDA device (None on a CPU)."""
    allocated = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return _peak_resident() / 2**10, allocated


def _peak_resident() -> int:
    """Return the peak resident memory in KiB.

    Linux's VmHWM is read first, because getrusage includes the parent's size at the fork.
    """
    try:
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
