"""dgd-bench: filter grafting and knowledge distillation, measured.

Importing the package registers its CIFAR networks with timm, so that `timm.create_model('cifar_resnet32')` works.
"""

from importlib.util import find_spec

__version__ = "0.1.0"

# A workflow launcher may hold snakemake alone: it reads configs and plans, and never builds a network.
if find_spec("timm"):
    from dgd import models as models
