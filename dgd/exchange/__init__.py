"""What networks do to their weights at an epoch's end: one file for each exchange, named as the exchange.

Options and their defaults are kinds in `dgd.cell`. The kind of an exchange decides which function its file defines:

* `cell.Ring`: `shares(states, options)` returns the share that each tensor of each network keeps of itself;
  `blending.blend` applies it.
* `cell.Within`: `within(state, options, epoch=..., generator=...)` returns the new state of one network.
* `cell.Surgery`: `surgery(network, example, options)` returns a module that acts on one network after every step and epoch.

An exchange of a plugin has its function as a static method of its kind.

`grafter.Grafter` grafts the networks of a user's own training loop.
"""

from importlib import import_module
from types import ModuleType
from typing import NamedTuple

from dgd.cell import EXCHANGES
from dgd.exchange.blending import GraftingError, blend
from dgd.keys import nearest

__all__ = ["GraftingError", "blend", "find", "source", "standing"]


class Standing(NamedTuple):
    """How something stands to its source; see `dgd.objectives.Term`."""

    status: str
    deviations: tuple[str, ...]


def find(name: str) -> ModuleType | type:
    """Return what has the function of an exchange: its module, or its kind where a plugin brings it.

    Raises:
        ValueError: There is no such exchange.
    """
    if name not in EXCHANGES:
        raise ValueError(f"unknown exchange {name!r}{nearest(name, EXCHANGES)}")
    return EXCHANGES[name] if is_own(name) else import_module(f"{__name__}.{name}")


def is_own(name: str) -> bool:
    """Return whether an exchange is a user's, of a plugin."""
    return EXCHANGES[name].__module__ != "dgd.cell"


def source(name: str) -> str:
    """Return the paper and code that an exchange follows; "" where it follows none."""
    found = find(name)
    return getattr(found, "SOURCE", "") or getattr(getattr(found, "STANDING", found), "source", "")


def standing(name: str) -> list[Standing]:
    """Return how an exchange stands to its source, where that counts for a method's status: of surgery, and of users' own."""
    if is_own(name):
        kind = EXCHANGES[name]
        return [Standing(getattr(kind, "status", "own"), tuple(getattr(kind, "deviations", ())))]
    part = getattr(find(name), "STANDING", None)
    return [Standing(part.status, part.deviations)] if part else []
