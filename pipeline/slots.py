"""Which GPU a cell takes where a machine has several: Snakemake counts GPUs and never says which one a job has.

A cell holds a lock on a slot of a device for as long as its process lives; the kernel frees it however that ends.
"""

import fcntl
import os
import re
import subprocess
import tempfile
from itertools import count
from pathlib import Path
from typing import IO


def devices() -> list[str]:
    """Return the GPUs that this process may use, by UUID: those in CUDA_VISIBLE_DEVICES (set by SLURM), else all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        # As CUDA reads it: what follows an unusable entry does not count.
        end = next((i for i, name in enumerate(names) if name in ("", "-1", "NoDevFiles")), len(names))
        return names[:end]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    names = re.findall(r"\(UUID: ([^)]+)\)", listed)
    # CUDA sees the parts of a GPU that was cut up by MIG, and not the whole.
    return [name for name in names if name.startswith("MIG-")] or names


def claim(devices: list[str]) -> tuple[str, IO]:
    """Take a slot on the device with the fewest taken: slot 0 of each, then slot 1 of each, ...

    Args:
        devices: Names of GPUs, at least one.

    Returns:
        The device, and the open file whose lock holds the slot: keep it until the end.

    Raises:
        OSError: The folder of the locks cannot be written, or belongs to another user.
    """
    folder = Path(tempfile.gettempdir()) / f"dgd-gpu-slots-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise PermissionError("it belongs to another user")
        for slot in count():
            for device in devices:
                file = open(folder / re.sub(r"[^\w.-]", "-", f"{device}.{slot}"), "w")  # noqa: SIM115
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return device, file
                except BlockingIOError:
                    file.close()
    except OSError as error:
        raise OSError(f"{folder}: no lock for a GPU can be made there ({error}); set TMPDIR to a folder of your own") from error


def take() -> IO | None:
    """Let CUDA see one GPU only, claimed by `claim`; call it before anything starts CUDA, and keep what it returns.

    None, and nothing is changed, without a GPU.
    """
    there = devices()
    if not there:
        return None
    os.environ["CUDA_VISIBLE_DEVICES"], handle = claim(there)
    return handle
