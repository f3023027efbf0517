"""A frozen network made cheaper to run: batch norms folded into convolutions, blocks fused, weights cast once."""

import copy

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3


@torch.no_grad()
def freeze(net: nn.Module, example: Tensor, precision: str = "fp32", fuse: bool = True) -> nn.Module:
    """The network for inference only: in eval mode, without gradients, folded where that can be done.

    Which batch norm follows which convolution is seen in one forward pass, so this works on any network; what fails, or changes
    the logits by more than rounding (because something else reads a convolution), is left out.

    Args:
        net: A trained network; it is not changed.
        example: Images (B, C, H, W) on the network's device to try it on.
        precision: 'bf16' casts the weights of convolutions and linear layers once; autocast would cast them to the same
            numbers in every step.
        fuse: Put blocks in their fused form too, inside which no activation can be seen.

    Returns:
        A network whose float32 logits differ from the given one's by rounding: at most `TOLERANCE` of their largest.
    """
    chosen = copy.deepcopy(net).eval().requires_grad_(False)
    for attempt in (_fold, _fuse)[: 1 + fuse]:
        changed = attempt(copy.deepcopy(chosen), example)
        if _agree(chosen, changed, example, precision):
            chosen = changed
    return _cast(chosen) if precision == "bf16" else chosen


def _agree(net: nn.Module, changed: nn.Module, example: Tensor, precision: str) -> bool:
    kind = example.device.type
    try:
        with torch.autocast(kind, enabled=False):
            wanted, got = net(example), changed(example)
        if precision == "bf16":
            with torch.autocast(kind, dtype=torch.bfloat16):
                _cast(copy.deepcopy(changed))(example)
    except (AttributeError, RuntimeError):  # an operator that this build of torch does not have, or not for these tensors
        return False
    return bool((got - wanted).abs().max() <= TOLERANCE * wanted.abs().max())


def _cast(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if type(module) in (nn.Conv2d, nn.Linear):  # a subclass may compute its weight
            module.to(torch.bfloat16)
    return net


def _fuse(net: nn.Module, example: Tensor) -> nn.Module:
    """Put in their fused form the blocks that have one, on a CPU."""
    if example.device.type == "cpu":
        for name, module in list(net.named_modules()):
            if hasattr(module, "fused"):
                net.set_submodule(name, module.fused())
    return net


def followers(net: nn.Module, example: Tensor) -> tuple[dict[nn.Module, nn.Module], dict[nn.Module, int]]:
    """Which batch norm directly follows which convolution, seen in one forward pass of a network of any make.

    Args:
        net: In eval mode; it is not changed.
        example: Images (B, C, H, W) on the network's device.

    Returns:
        Batch norm -> the convolution that gave its input, the very tensor; and how often each of these modules was called.
    """
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor is kept, or another would get its id
    pairs: dict[nn.Module, nn.Module] = {}
    calls: dict[nn.Module, int] = {}

    def seen(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = module, output
        elif id(inputs[0]) in made:
            pairs[module] = made[id(inputs[0])][0]

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [module.register_forward_hook(seen) for module in net.modules() if isinstance(module, kinds)]
    try:
        net(example)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs, calls


def _fold(net: nn.Module, example: Tensor) -> nn.Module:
    """Fold every batch norm whose input is the very tensor that a convolution gave."""
    names = {module: name for name, module in net.named_modules()}
    pairs, calls = followers(net, example)
    for norm, conv in pairs.items():
        if calls[norm] > 1 or calls[conv] > 1 or norm.running_mean is None or type(conv) is not nn.Conv2d:
            continue
        if type(norm) is BatchNormAct2d:
            rest = nn.Sequential(norm.drop, norm.act)
        elif type(norm) is nn.BatchNorm2d:
            rest = nn.Identity()
        else:
            continue
        net.set_submodule(names[conv], fuse_conv_bn_eval(conv, norm))
        net.set_submodule(names[norm], rest)
    return net
