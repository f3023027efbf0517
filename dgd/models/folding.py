"""Make a frozen network cheaper to run: fold batch norms into convolutions, fuse blocks, cast weights once."""

import copy
from collections.abc import Sequence

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3


@torch.no_grad()
def freeze(net: nn.Module, example: Tensor, precision: str = "fp32", fuse: bool = True) -> nn.Module:
    """Return a copy of a network for inference only: in eval mode, without gradients, and folded where possible.

    Which batch norm follows which convolution is found in one forward pass, so this works on any network. A change that fails,
    or that changes the logits by more than rounding (because something else reads the convolution's output), is not made; the
    others are.

    Args:
        net: A trained network; it is not changed.
        example: Images (B, C, H, W) on the network's device to try it on.
        precision: 'bf16' casts the weights of convolutions and linear layers once; autocast would cast them to the same
            numbers in every step.
        fuse: Put blocks in their fused form too, which hides their inner activations from hooks.

    Returns:
        A network whose float32 logits differ from the given one's by rounding: at most `TOLERANCE` of their largest.
    """
    plain = copy.deepcopy(net).eval().requires_grad_(False)
    chosen = _folded(plain, plain, _pairs(plain, example), example, precision)
    if fuse:
        changed = _fuse(copy.deepcopy(chosen), example)
        if _agree(chosen, changed, example, precision):
            chosen = changed
    return _cast(chosen) if precision == "bf16" else chosen


def _folded(
    plain: nn.Module, chosen: nn.Module, pairs: Sequence[tuple[str, str]], example: Tensor, precision: str
) -> nn.Module:
    """Return a network with those of some pairs folded that leave its logits as they are; halves are tried where all do not."""
    if not pairs:
        return chosen
    changed = _fold(copy.deepcopy(chosen), pairs)
    if _agree(plain, changed, example, precision):
        return changed
    half = len(pairs) // 2
    for part in (pairs[:half], pairs[half:]) if half else ():
        chosen = _folded(plain, chosen, part, example, precision)
    return chosen


def _agree(net: nn.Module, changed: nn.Module, example: Tensor, precision: str) -> bool:
    kind = example.device.type
    try:
        with torch.autocast(kind, enabled=False):
            wanted, got = net(example), changed(example)
        if precision == "bf16":
            with torch.autocast(kind, dtype=torch.bfloat16):
                _cast(copy.deepcopy(changed))(example)
    except (AttributeError, RuntimeError):  # an operator is missing in this build of torch, or does not take these tensors
        return False
    return bool((got - wanted).abs().max() <= TOLERANCE * wanted.abs().max())


def _cast(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if type(module) in (nn.Conv2d, nn.Linear):  # a subclass may compute its weight
            module.to(torch.bfloat16)
    return net


def _fuse(net: nn.Module, example: Tensor) -> nn.Module:
    """Replace the blocks that have a fused form by it, on a CPU."""
    if example.device.type == "cpu":
        for name, module in list(net.named_modules()):
            if hasattr(module, "fused"):
                net.set_submodule(name, module.fused())
    return net


def followers(net: nn.Module, example: Tensor) -> tuple[dict[nn.Module, nn.Module], dict[nn.Module, int]]:
    """Find out in one forward pass which batch norm directly follows which convolution, in any network.

    Args:
        net: A network in eval mode; it is not changed.
        example: Images (B, C, H, W) on the network's device.

    Returns:
        Batch norm -> the convolution whose output is its input (the same tensor); and the number of calls of each batch norm
        and convolution.
    """
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}  # by id; it holds the tensor too, or a new one could get the same id
    pairs: dict[nn.Module, nn.Module] = {}
    calls: dict[nn.Module, int] = {}

    def record(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            outputs[id(output)] = module, output
        elif id(inputs[0]) in outputs:
            pairs[module] = outputs[id(inputs[0])][0]

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [module.register_forward_hook(record) for module in net.modules() if isinstance(module, kinds)]
    try:
        net(example)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs, calls


def _pairs(net: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Return the names of the convolutions and batch norms that can be folded: the norm's input is the convolution's output."""
    names = {module: name for name, module in net.named_modules()}
    pairs, calls = followers(net, example)
    return [
        (names[conv], names[norm])
        for norm, conv in pairs.items()
        if calls[norm] == calls[conv] == 1
        and norm.running_mean is not None
        and type(conv) is nn.Conv2d
        and type(norm) in (nn.BatchNorm2d, BatchNormAct2d)
    ]


def _fold(net: nn.Module, pairs: Sequence[tuple[str, str]]) -> nn.Module:
    """Fold batch norms into convolutions, in place."""
    for name, follower in pairs:
        conv, norm = net.get_submodule(name), net.get_submodule(follower)
        rest = nn.Sequential(norm.drop, norm.act) if type(norm) is BatchNormAct2d else nn.Identity()
        net.set_submodule(name, fuse_conv_bn_eval(conv, norm))
        net.set_submodule(follower, rest)
    return net
