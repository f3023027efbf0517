"""One loop for every method: the members of a group learn together, in one process or several.

Methods differ in data only: what the objective's terms require, the teachers, and the exchange at an epoch's end. `train_cell`
trains a cell; the other modules are its parts.
"""

from dgd.train.cell import load_network, train_cell
from dgd.train.outcomes import NoResult

__all__ = ["NoResult", "load_network", "train_cell"]
