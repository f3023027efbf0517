"""What networks do to their weights at an epoch's end: one file for each exchange, named as the exchange.

Options and their defaults are kinds in `dgd.cell`. The kind of an exchange decides which function its file defines:

* `cell.Ring`: `shares(states, options)` returns the share that each tensor of each network keeps of itself;
  `blending.blend` applies it.
* `cell.Within`: `within(state, options, epoch=..., generator=...)` returns the new state of one network.
* `cell.Surgery`: `surgery(network, example, options)` returns a module that acts on one network after every step and epoch.

`grafter.Grafter` grafts the networks of a user's own training loop.
"""

from importlib import import_module
from types import ModuleType

from dgd.cell import EXCHANGES
from dgd.exchange.blending import GraftingError, blend
from dgd.keys import nearest

__all__ = ["GraftingError", "blend", "find"]


def find(name: str) -> ModuleType:
    """Import and return the module of an exchange.

    Raises:
        ValueError: There is no such exchange.
    """
    if name not in EXCHANGES:
        raise ValueError(f"unknown exchange {name!r}{nearest(name, EXCHANGES)}")
    return import_module(f"{__name__}.{name}")
