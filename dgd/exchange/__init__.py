"""What networks do to their weights at an epoch's end: one file for each exchange, named as the exchange.

Options and their defaults are kinds in `dgd.cell`. What the file of an exchange holds follows from its kind:

* `cell.Ring`: `shares(states, options)`, what each tensor of each network keeps of itself; `blending.blend` applies it.
* `cell.Within`: `within(state, options, epoch=..., generator=...)`, the new state of one network.
* `cell.Surgery`: `surgery(network, example, options)`, a module that acts on one network after every step and epoch.

`Grafter` grafts the networks of a training loop of one's own.
"""

from importlib import import_module
from types import ModuleType

from dgd.cell import EXCHANGES
from dgd.exchange.blending import GraftingError, blend
from dgd.keys import nearest

__all__ = ["GraftingError", "blend", "find"]


def find(name: str) -> ModuleType:
    """Return the module of an exchange; only that one is imported.

    Raises:
        ValueError: There is no such exchange.
    """
    if name not in EXCHANGES:
        raise ValueError(f"unknown exchange {name!r}{nearest(name, EXCHANGES)}")
    return import_module(f"{__name__}.{name}")
