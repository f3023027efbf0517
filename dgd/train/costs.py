"""Measure what an answer of a network costs: parameters, multiply-adds, and seconds on the device at hand."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dgd.models.nested import plain_parameters
from dgd.train.device import Arithmetic

WARM_UP, REPEATS = 5, 50


def size(network: nn.Module, image: Tensor) -> dict[str, int]:
    """Return the parameters of a network without its sub-nets, and the multiply-adds of its layers for one image.

    Multiply-adds are counted by torch as convolutions and matrix products run; batch norm, activations and sums have none.

    Args:
        network: The network, in evaluation mode.
        image: (1, C, H, W).
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        network.forward(image)
    return {"parameters": sum(p.numel() for p in plain_parameters(network)), "multiply_adds": counted.get_total_flops() // 2}


@torch.no_grad()
def latency(networks: Mapping[str, nn.Module], image: Tensor, arithmetic: Arithmetic) -> dict:
    """Return the least time of `REPEATS` that each network takes for one image, with the conditions of the measurement.

    The least, because whatever else a machine does only adds to it. The networks take turns, so that this falls on all of them.

    Args:
        networks: Networks by name, in evaluation mode.
        image: (1, C, H, W), on the device.
        arithmetic: Device, precision and memory layout.
    """
    taken: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(WARM_UP + REPEATS):
        for name, network in networks.items():
            _wait(arithmetic.device)
            start = time.perf_counter()
            with arithmetic.autocast():
                network(image)
            _wait(arithmetic.device)
            taken[name].append(1000 * (time.perf_counter() - start))
    return {
        "device": arithmetic.device.type,
        "threads": torch.get_num_threads(),
        "precision": arithmetic.precision,
        "batch": len(image),
        "milliseconds": {name: round(min(times[WARM_UP:]), 4) for name, times in taken.items()},
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
