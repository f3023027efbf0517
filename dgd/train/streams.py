"""Streams of random numbers, named by seed, purpose, network and epoch, so that any epoch can be repeated by itself."""

import hashlib

import torch


def stream(seed: int, *names) -> int:
    """Return the seed of a stream of random numbers: a hash of the cell's seed and the stream's names."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names) -> torch.Generator:
    """Return a CPU generator for one stream."""
    return torch.Generator().manual_seed(stream(seed, *names))
