"""Describe the machine: processor, versions, and its rates of matrix multiplication and of copying memory."""

from collections.abc import Callable, Mapping
from functools import partial

import torch

from dgd import provenance
from speed.measure.setup import Size
from speed.measure.timing import timed
from speed.ours import pick_device


def describe(size: Size, threads: int) -> dict:
    """Return what this machine is, with TFLOP/s of matrix products and GB/s of copies, each the best of five."""
    record = provenance.record()
    facts = {key: value for key, value in record["machine"].items() if key != "host"}
    device = pick_device()
    scale = 4 if device.type == "cuda" else 1
    side, copied = size.matrix * scale, size.copied * scale

    def best(function: Callable[[], object]) -> float:
        function()  # warm-up
        return min(timed(function)[0] for _ in range(5))

    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        rates[name] = float(f"{2 * side**3 / best(partial(torch.matmul, a, b)) / 1e12:.3g}")
    source = torch.ones(copied, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    bandwidth = 2 * copied / best(partial(target.copy_, source)) / 1e9  # each byte is read and written
    processor = facts["gpu"]["name"] if facts["gpu"] else facts["cpu"]
    return {
        "name": f"{processor}, {threads} thread" + "s" * (threads > 1),
        **facts,
        "threads": threads,
        "python": record["python"],
        "packages": {name: record["packages"][name] for name in ("torch", "torchvision", "timm")},
        "matrix_tflops": rates,
        "bandwidth_gb_s": float(f"{bandwidth:.3g}"),
    }


def fastest(machine: Mapping, before: Mapping) -> dict:
    """Return the better rates of two descriptions of one machine: it may have been busy at one."""
    rates, earlier = machine["matrix_tflops"], before["matrix_tflops"]
    return {
        "matrix_tflops": {name: max(rate, earlier[name]) for name, rate in rates.items()},
        "bandwidth_gb_s": max(machine["bandwidth_gb_s"], before["bandwidth_gb_s"]),
    }
