"""Batch norm, the sum after it and the activation: as modules, or as fewer kernels on a GPU where a network was asked to."""

import os

import torch
from torch import Tensor, nn
from torch.overrides import has_torch_function

MARK = "fused_norm"
"""Attribute of a batch norm that is to be fused: the function that computes it."""


def norm_act(norm: nn.Module, x: Tensor, act: nn.Module | None = None, residual: Tensor | None = None) -> Tensor:
    """Return act(norm(x) + residual), without what is None.

    The modules run as they are, unless `fuse` has marked the norm and its kernels cover the case.
    """
    fused = getattr(norm, MARK, None)
    if fused is not None and _covered(norm, x, act, residual):
        return fused(norm, x, slope(act), residual)
    x = norm(x)
    x = x if residual is None else x + residual
    return x if act is None else act(x)


def fuse(network: nn.Module, device: torch.device) -> None:
    """Mark the batch norms of a network, its sub-nets' included, so that `norm_act` fuses them in training mode.

    Raises:
        ValueError: The kernels cannot run here.
    """
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"recipe.fused_norm is true and the device is {device.type!r}; it needs 'cuda', else set it to false")
    try:
        from dgd.models.triton_norm import normalise
    except ImportError as error:
        raise ValueError(f"recipe.fused_norm is true and Triton cannot be imported ({error}); set it to false") from None
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            setattr(module, MARK, normalise)


def slope(act: nn.Module | None) -> float | None:
    """Return the factor that an activation gives negative numbers: 1 for no activation, None for one of another kind."""
    if type(act) is nn.LeakyReLU and act.negative_slope > 0:
        return act.negative_slope
    return {type(None): 1.0, nn.ReLU: 0.0}.get(type(act))


def _covered(norm: nn.BatchNorm2d, x: Tensor, act: nn.Module | None, residual: Tensor | None) -> bool:
    """Return whether the kernels compute what the modules would, and nothing looks at what is between them."""
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in (norm, act) if module is not None)
    return (
        norm.training
        and norm.affine
        and norm.running_mean is not None
        and norm.momentum is not None
        and slope(act) is not None
        and not hooked
        and x.dtype in (torch.bfloat16, torch.float32)
        and x.numel() > x.shape[1]  # torch raises its own error for one value in each channel
        and all(
            one.shape == x.shape and one.dtype == x.dtype and one.is_contiguous(memory_format=torch.channels_last)
            for one in (x, residual)
            if one is not None
        )
        and not has_torch_function((x,))  # a mode, such as that of explanations, replaces torch's own batch norm
    )
