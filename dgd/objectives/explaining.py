"""Gradients of a network's logits by its images, each image's own: batch norm's statistics count as constants in them."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_explaining = False  # not local to a thread: on CUDA the backward pass runs in another one


def explain(logits: Tensor, images: Tensor, chosen: Tensor) -> Tensor:
    """The gradient of each image's chosen logit by the image, for the whole batch in one backward pass.

    Args:
        logits: (B, K), from a forward pass within `explainable(images)`; of another one, batch norm mixes into an image's
            gradient what the image does to the others' logits.
        images: (B, C, H, W). They have a gradient.
        chosen: (B, K), True once a row.

    Returns:
        (B, C*H*W) float32, without a graph. The graph of the logits is kept.
    """
    global _explaining
    _explaining = True
    try:
        (gradient,) = torch.autograd.grad(logits, images, chosen.to(logits.dtype), retain_graph=True)
    finally:
        _explaining = False
    return gradient.float().flatten(1)


def explainable(images: Tensor) -> AbstractContextManager:
    """For a network's forward pass on images that `explain` is to be asked about; nothing for images without gradient.

    Losses and the parameters' gradients stay the same.
    """
    return _Explainable(images) if images.requires_grad and torch.is_grad_enabled() else nullcontext()


class _Explainable(TorchFunctionMode):
    """Has batch norm in training mode, and the convolution before it, go backward in two ways: see `_Normalised`."""

    def __init__(self, images: Tensor):
        super().__init__()
        self.images = images
        self.made: dict[int, tuple] = {}  # with the tensor, or another would get its id

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.conv2d:
            return self._conv(*args, **kwargs)
        if function is F.batch_norm:
            return self._norm(*args, **kwargs)
        return function(*args, **kwargs)

    def _conv(self, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        y = torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
        if not isinstance(padding, str):
            wanted = x is not self.images  # nothing but `explain` wants the images' gradient
            self.made[id(y)] = y, x, weight, bias, (*map(_pair, (stride, padding, dilation)), groups, wanted)
        return y

    def _norm(self, y, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
        if not training or y.numel() == y.shape[1]:  # torch refuses the latter
            return F.batch_norm(y, mean, var, weight, bias, training, momentum, eps)
        made = self.made.pop(id(y), None)
        if made is None:
            return _Normalised.apply(y, None, None, weight, bias, y.detach(), (mean, var, momentum, eps), None)
        _, x, kernel, shift, how = made
        x, kernel = x.to(y.dtype), kernel.to(y.dtype)  # as autocast has done
        return _Normalised.apply(x, kernel, shift, weight, bias, y.detach(), (mean, var, momentum, eps), how)


def _pair(value) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


class _Normalised(torch.autograd.Function):
    """Batch norm in training mode of `y`, which is x or, where there is a kernel, x convolved.

    In `explain` it is an affine map of each channel, whose factor goes into the kernel; then a backward pass to the images is
    little more than one through the convolutions.
    """

    @staticmethod
    def forward(ctx, x, kernel, shift, weight, bias, y, norm, how):
        running_mean, running_var, momentum, eps = norm
        made, mean, invstd = torch.ops.aten.native_batch_norm(y, weight, bias, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x if how else None, kernel, weight, y, mean, invstd)
        ctx.eps, ctx.how, ctx.shifted = eps, how, shift is not None
        return made

    @staticmethod
    def backward(ctx, grad):
        x, kernel, weight, y, mean, invstd = ctx.saved_tensors
        if _explaining:
            factor = invstd if weight is None else weight * invstd
            if kernel is None:
                grad = (grad * factor.view(-1, *[1] * (y.ndim - 2))).to(y.dtype)
            else:
                kernel = (kernel * factor.view(-1, 1, 1, 1)).to(kernel.dtype)
                grad = _convolved(ctx, grad, x, kernel, [True, False, False])[0]
            return grad, *[None] * 7
        affine = weight is not None
        mask = [True, affine, affine]
        grad, *grads = torch.ops.aten.native_batch_norm_backward(grad, y, weight, None, None, mean, invstd, True, ctx.eps, mask)
        if kernel is None:
            return grad, None, None, *grads, None, None, None
        wanted = [ctx.needs_input_grad[0] and ctx.how[-1], ctx.needs_input_grad[1], ctx.shifted]
        return *_convolved(ctx, grad, x, kernel, wanted), *grads, None, None, None


def _convolved(ctx, grad, x, kernel, wanted):
    stride, padding, dilation, groups, _ = ctx.how
    sizes = [len(kernel)] if wanted[2] else None
    return torch.ops.aten.convolution_backward(grad, x, kernel, sizes, stride, padding, dilation, False, [0, 0], groups, wanted)
