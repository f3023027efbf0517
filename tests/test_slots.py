"""Which GPU a cell takes, with real processes and made-up devices."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline import slots

HOLD = "import sys; from pipeline import slots; d, held = slots.claim(sys.argv[1:]); print(d, flush=True); sys.stdin.read()"


def hold(folder: Path, *devices: str) -> tuple[subprocess.Popen, str]:
    """Start a process that claims a device and keeps it; returns it and the device."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, *devices],
        env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().strip()


def test_cells_are_spread_over_gpus_and_a_killed_one_frees_its_slot(tmp_path):
    running = [hold(tmp_path, "GPU-a", "GPU-b") for _ in range(4)]
    try:
        assert Counter(device for _, device in running) == {"GPU-a": 2, "GPU-b": 2}
        killed, device = running[1]
        killed.kill()
        killed.wait()
        running.append(hold(tmp_path, "GPU-a", "GPU-b"))
        assert running[-1][1] == device
    finally:
        for process, _ in running:
            process.kill()
            process.communicate()


def test_a_folder_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(slots.tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"dgd-gpu-slots-{os.getuid()}").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="dgd-gpu-slots-.*set TMPDIR"):
        slots.claim(["0"])


def test_a_folder_of_another_user_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(slots.tempfile, "tempdir", str(tmp_path))
    user = os.getuid()
    (tmp_path / f"dgd-gpu-slots-{user + 1}").mkdir()
    monkeypatch.setattr(slots.os, "getuid", lambda: user + 1)
    with pytest.raises(OSError, match="belongs to another user"):
        slots.claim(["0"])


@pytest.mark.parametrize(
    ("visible", "listed", "expected"),
    [
        ("3,5", "", ["3", "5"]),
        ("", "GPU 0: X (UUID: GPU-0a)\n", []),
        ("1,-1,2", "", ["1"]),
        (None, "GPU 0: X (UUID: GPU-0a)\nGPU 1: X (UUID: GPU-1b)\n", ["GPU-0a", "GPU-1b"]),
        (
            None,
            "GPU 0: X (UUID: GPU-0a)\n  MIG 1g Device 0: (UUID: MIG-1)\n  MIG 1g Device 1: (UUID: MIG-2)\n",
            ["MIG-1", "MIG-2"],
        ),
        (None, None, []),
    ],
)
def test_devices_are_those_of_the_variable_or_of_nvidia_smi(visible, listed, expected, tmp_path, monkeypatch):
    if listed is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '%s' '{listed}'\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert slots.devices() == expected


def test_each_process_sees_one_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(slots.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,8")
    held = []
    for expected in ("7", "8"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,8")
        held.append(slots.take())
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slots.take() is None
