"""dgd-bench: filter grafting and knowledge distillation, measured.

Importing the package registers its CIFAR networks with timm, so that `timm.create_model('cifar_resnet32')` works.
"""

import os
from importlib.util import find_spec

from dgd import signals

__version__ = "0.1.0"

signals.watch()  # before the imports below, which take seconds

# A workflow launcher may hold snakemake alone: it reads configs and plans, and never builds a network. Nor do the steps that
# only read results: they say so by DGD_NETWORKS=no, and are spared the seconds that importing torch and timm takes.
NETWORKS = find_spec("timm") is not None and os.environ.get("DGD_NETWORKS") != "no"
# So are our own commands until they ask for a network: `dgd-bench --help` would take seconds.
if NETWORKS and not signals.command():
    from dgd import models as models

if os.environ.get("DGD_PLUGINS"):
    from dgd import plugins

    plugins.load_named()
