"""Streams of random numbers, named by seed, purpose, network and epoch, so that any epoch can be repeated by itself."""

import hashlib
from collections.abc import Sequence

import torch


def stream(seed: int, *names) -> int:
    """Return the seed of a stream of random numbers: a hash of the cell's seed and the stream's names."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names) -> torch.Generator:
    """Return a CPU generator for one stream."""
    return torch.Generator().manual_seed(stream(seed, *names))


def device_generator(device: torch.device) -> torch.Generator:
    """Return a generator of a device."""
    return torch.Generator(device)


class Seeds:
    """The seeds of a step's random numbers: torch's global generators, and a generator for each member whose terms draw.

    Args:
        seed: The cell's seed.
        device: The device of the generators.
        own_stream: Name of the stream of a member's terms.
        numbers: The members' numbers in the cell.
        generators: Whether terms draw from generators of their own.

    Attributes:
        generators: One for each member, or None.
        held: Leave all generators alone: a step is captured, in which they cannot be seeded.
        watched: Note in `drew` whether the global generators have drawn.
    """

    def __init__(self, seed: int, device: torch.device, own_stream: str, numbers: Sequence[int], *, generators: bool):
        self.seed, self.device, self.own_stream, self.numbers = seed, device, own_stream, numbers
        self.generators = [device_generator(device) if generators else None for _ in numbers]
        self.held = self.watched = self.drew = False
        self._set_to = None

    def at(self, *where: int) -> None:
        """Seed the members' generators for a step: its epoch, its number and the shard are part of the streams' names."""
        self.where = where
        for number, generator in zip(self.numbers, self.generators):
            if generator is not None:
                generator.manual_seed(stream(self.seed, self.own_stream, number, *where))

    def set(self, *names) -> None:
        """Seed torch's global generators for a stream of the step."""
        if not self.held:
            self.look()
            torch.manual_seed(stream(self.seed, *names, *self.where))
            self._set_to = self._states() if self.watched else None

    def look(self) -> None:
        """Note whether the global generators have drawn since they were seeded, if they are watched."""
        if self._set_to is not None:
            self.drew |= any(not torch.equal(now, then) for now, then in zip(self._states(), self._set_to))

    def _states(self) -> list[torch.Tensor]:
        states = [torch.get_rng_state()]
        return [*states, torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else states
