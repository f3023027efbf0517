"""One loop for every method: the members of a group learn together, in one process or several.

Methods differ in data only: what the objective's terms require, the teachers, and the exchange at an epoch's end. `train_cell`
trains a cell, `train_side_by_side` several in one process; the other modules are their parts.
"""

from dgd.train.cell import Order, load_network, train_cell, train_side_by_side
from dgd.train.outcomes import CannotCapture, NoResult, OutOfTime

__all__ = ["CannotCapture", "NoResult", "Order", "OutOfTime", "load_network", "train_cell", "train_side_by_side"]
