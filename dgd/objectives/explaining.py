"""Gradients of a network's logits with respect to each image by itself: batch norm's statistics count as constants."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

_explaining = False  # global, not local to a thread, because on CUDA the backward pass runs in another thread


def explain(logits: Tensor, images: Tensor, chosen: Tensor) -> Tensor:
    """Return the gradient of each image's chosen logit with respect to the image, for the batch in one backward pass.

    Args:
        logits: (B, K), from a forward pass within `explainable(images)`. From any other forward pass, an image's gradient would
            also contain its effect, through batch norm, on the other images' logits.
        images: (B, C, H, W), which require a gradient.
        chosen: Bool (B, K), True once in each row.

    Returns:
        (B, C*H*W) float32, detached. The graph of the logits is kept.
    """
    global _explaining
    _explaining = True
    try:
        (gradient,) = torch.autograd.grad(logits, images, chosen.to(logits.dtype), retain_graph=True)
    finally:
        _explaining = False
    return gradient.float().flatten(1)


def explainable(images: Tensor) -> AbstractContextManager:
    """Return the context for a forward pass on images that `explain` will differentiate; it does nothing without gradient.

    Losses and the parameters' gradients stay the same, up to the order of summation where a tensor is read several times; an
    ordinary backward pass does not compute the gradient of the images.
    """
    return _Explainable(images) if images.requires_grad and torch.is_grad_enabled() else nullcontext()


class _Explainable(TorchFunctionMode):
    """A mode that replaces batch norm in training mode, with the convolution before it, by `_Normalised`."""

    def __init__(self, images: Tensor):
        super().__init__()
        self.images = images
        self.convolved: dict[int, tuple] = {}  # by id; it holds the tensor too, or a new tensor could get the same id

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
            wanted = input is not self.images  # only `explain` needs the images' gradient
            how = *map(_pair, (stride, padding, dilation)), groups, wanted
            self.convolved[id(y)] = y, y._version, input, weight, bias, how
        return y

    def _norm(self, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
        y, norm = input, (running_mean, running_var, momentum, eps)
        if not training or y.numel() == y.shape[1]:  # torch raises its own error for one value in each channel
            return F.batch_norm(y, running_mean, running_var, weight, bias, training, momentum, eps)
        _, version, x, kernel, shift, how = self.convolved.pop(id(y), (None,) * 6)
        if version != y._version:  # not the output of a convolution, or changed in place since
            return _Normalised.apply(y, None, None, weight, bias, y.detach(), norm, None)
        x, kernel = x.to(y.dtype), kernel.to(y.dtype)  # as autocast has cast them in the convolution
        return _Normalised.apply(x, kernel, shift, weight, bias, y.detach(), norm, how)


def _pair(value) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


class _Normalised(torch.autograd.Function):
    """A batch norm in training mode of `y`, which is x or, if there is a kernel, x convolved with it.

    Its backward pass within `explain` treats it as an affine map of each channel and multiplies the factor into the kernel, so
    that a backward pass to the images costs little more than one through the convolutions.
    """

    @staticmethod
    def forward(ctx, x, kernel, shift, weight, bias, y, norm, how):
        running_mean, running_var, momentum, eps = norm
        if not (y.is_contiguous() or (y.ndim == 4 and y.is_contiguous(memory_format=torch.channels_last))):
            y = y.contiguous()  # cuDNN's backward pass requires it
        # The function behind torch.batch_norm, so that cuDNN runs in the same cases.
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
