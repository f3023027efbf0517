"""Gradients of a network's logits by its images, each image's own: batch norm's statistics count as constants in them."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
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

    Losses and the parameters' gradients stay the same, up to the order of sums where several things read one tensor; the
    images' own gradient is left out of an ordinary backward pass.
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

    def _conv(self, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        y = torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
        if y.requires_grad and not isinstance(padding, str):
            wanted = input is not self.images  # nothing but `explain` wants the images' gradient
            how = *map(_pair, (stride, padding, dilation)), groups, wanted
            self.made[id(y)] = y, y._version, input, weight, bias, how
        return y

    def _norm(self, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
        y, norm = input, (running_mean, running_var, momentum, eps)
        if not training or y.numel() == y.shape[1]:  # torch refuses the latter
            return F.batch_norm(y, running_mean, running_var, weight, bias, training, momentum, eps)
        _, version, x, kernel, shift, how = self.made.pop(id(y), (None,) * 6)
        if version != y._version:  # no convolution's, or changed in place since
            return _Normalised.apply(y, None, None, weight, bias, y.detach(), norm, None)
        x, kernel = x.to(y.dtype), kernel.to(y.dtype)  # as autocast has done
        return _Normalised.apply(x, kernel, shift, weight, bias, y.detach(), norm, how)


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
        if not (y.is_contiguous() or (y.ndim == 4 and y.is_contiguous(memory_format=torch.channels_last))):
            y = y.contiguous()  # cuDNN's backward pass wants that
        # What torch.batch_norm calls: cuDNN's where it would take that.
        made, mean, invstd, reserve, ctx.which = torch.ops.aten._batch_norm_impl_index(
            y, weight, bias, running_mean, running_var, True, momentum, eps, torch.backends.cudnn.enabled
        )
        ctx.save_for_backward(x if how else None, kernel, weight, y, mean, invstd, reserve)
        ctx.eps, ctx.how, ctx.given = eps, how, (weight is not None, bias is not None, shift is not None)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, kernel, weight, y, mean, invstd, reserve = ctx.saved_tensors
        if _explaining:
            factor = invstd if weight is None else weight * invstd
            if kernel is None:
                grad = (grad * factor.view(-1, *[1] * (y.ndim - 2))).to(y.dtype)
            else:
                kernel = (kernel * factor.view(-1, 1, 1, 1)).to(kernel.dtype)
                grad = _convolved(ctx, grad, x, kernel, [True, False, False])[0]
            return grad, *[None] * 7
        weighted, biased, shifted = ctx.given
        grad, *grads = torch.ops.aten._batch_norm_impl_index_backward(
            *(ctx.which, y, grad, weight, None, None, mean, invstd, True, ctx.eps), [True, weighted, biased], reserve
        )
        if kernel is None:
            return grad, None, None, *grads, None, None, None
        wanted = [ctx.needs_input_grad[0] and ctx.how[-1], ctx.needs_input_grad[1], shifted]
        return *_convolved(ctx, grad, x, kernel, wanted), *grads, None, None, None


def _convolved(ctx, grad, x, kernel, wanted):
    stride, padding, dilation, groups, _ = ctx.how
    sizes = [len(kernel)] if wanted[2] else None
    return torch.ops.aten.convolution_backward(grad, x, kernel, sizes, stride, padding, dilation, False, [0, 0], groups, wanted)
