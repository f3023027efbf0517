"""Nest shallower networks in a full one: their layers are the full net's layers of the same names.

A sub-net is a plain network that runs the first blocks of each stage of the full net: `cifar_resnet8` in `cifar_resnet20`,
timm's `resnet18` in `resnet34`. It stays a plain network: its state dict loads into a network of its own.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

NAME = "subnets"
"""The child of a full net that holds its sub-nets, and the first part of their keys in its state dict."""


class Subnets(nn.ModuleDict):
    """Sub-nets by name.

    Attributes:
        own: Keys of the state dict of each that are not the full net's.
    """

    def __init__(self, networks: Mapping[str, nn.Module], own: Mapping[str, list[str]]):
        super().__init__(networks)
        self.own = {f"{NAME}.{name}.{key}": key for name, keys in own.items() for key in keys}


def nest(
    full: nn.Module, networks: Mapping[str, nn.Module], *, batch_norm: str = "own", classifier: str = "shared"
) -> nn.Module:
    """Make networks sub-nets of a full one, in place, and return it.

    The state dict of the full net then has each tensor once: what a sub-net has of its own stands behind the full net's tensor
    of that name, so that exchanges see a batch norm after its convolution.

    Args:
        full: The full net.
        networks: Networks by name.
        batch_norm: `own`: a sub-net keeps its batch norms; `shared`: it takes the full net's, statistics included.
        classifier: The same for the classifier.

    Raises:
        ValueError: A network has a layer that the full net has not; the message says which.
    """
    layers, own = dict(full.named_modules()), {}
    for name, network in networks.items():
        head, own[name] = network.get_classifier(), []
        for path, layer in list(network.named_modules()):
            if not (layer._parameters or layer._buffers):
                continue
            if not path:
                raise ValueError(
                    f"{name} has parameters outside its layers; sub-nets are the first blocks of a ResNet's stages"
                )
            theirs = layers.get(path)
            if repr(theirs) != repr(layer):
                lacks = "no such layer" if theirs is None else f"{_first_line(theirs)} there"
                raise ValueError(
                    f"{name} is no sub-net: its layer {path} is {_first_line(layer)}, and the full net has {lacks}; take a "
                    "network with the same blocks and fewer of them in a stage"
                )
            if (batch_norm if isinstance(layer, _BatchNorm) else classifier if layer is head else "shared") == "own":
                own[name] += [f"{path}.{key}" for key in layer.state_dict()]
            else:
                network.set_submodule(path, theirs)
    full.add_module(NAME, Subnets(networks, own))
    full.register_state_dict_post_hook(_leave_out_shared)
    full.register_load_state_dict_pre_hook(_add_shared)
    return full


def subnets(network: nn.Module) -> Mapping[str, nn.Module]:
    """Return the sub-nets of a network by name; none of a plain one."""
    found = getattr(network, NAME, None)
    return found if isinstance(found, Subnets) else {}


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a full net without its sub-nets: that of a plain network."""
    return {key: value for key, value in network.state_dict().items() if not (subnets(network) and key.startswith(f"{NAME}."))}


def plain_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a full net without those that only its sub-nets have."""
    return [value for key, value in network.named_parameters() if not (subnets(network) and key.startswith(f"{NAME}."))]


def _first_line(layer: nn.Module) -> str:
    return repr(layer).splitlines()[0].removesuffix("(")


def _leave_out_shared(full: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: Mapping) -> None:
    held = {key.removeprefix(prefix): state.pop(key) for key in list(state) if key.startswith(prefix)}
    behind: dict[str, list[str]] = {}
    for key, twin in full.subnets.own.items():
        behind.setdefault(twin, []).append(key)
    for key in [key for key in held if not key.startswith(f"{NAME}.")]:
        state |= {prefix + one: held[one] for one in (key, *behind.get(key, ()))}


def _add_shared(full: nn.Module, state: dict[str, Tensor], prefix: str, *_) -> None:
    for name, network in full.subnets.items():
        keys = {f"{NAME}.{name}.{key}": key for key in network.state_dict()}
        missing = {prefix + key: prefix + twin for key, twin in keys.items() if key not in full.subnets.own}
        state |= {key: state[twin] for key, twin in missing.items() if twin in state}
