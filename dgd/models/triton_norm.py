"""Batch norm in training mode with the sum and the activation after it, by Triton: two kernels forward, two backward.

A channels-last map (N, C, H, W) is a matrix of N*H*W rows and C columns. A program reads tiles of it, of ROWS x CHANNELS. The
first kernel of each pass leaves sums of parts of the rows; every program of the second one adds these up in one order, so that
all have the same bits, in every run, without a kernel between the two. Only `dgd.models.fused_norm` imports this module, and
only where it is asked to, because Triton comes with torch's CUDA builds alone.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

WIDEST = 64
"""Most channels of a tile."""
TILE = 4096
"""Elements of a tile."""
SUMS = 2048
"""Most parts times channels of a tile, of which the second kernel's programs read the sums."""


@triton.jit
def _tile(number, rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    row = number * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    at = row[:, None].to(tl.int64) * channels + column[None, :]
    return at, (row < rows)[:, None] & (column < channels)[None, :]


@triton.jit
def _parts(sums, part, parts, channels, CHANNELS: tl.constexpr):
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = column < channels
    return column, there, (part < parts)[:, None] & there[None, :], sums + part[:, None] * channels + column[None, :]


@triton.jit
def _rectified(values, signs, SLOPE: tl.constexpr):
    """Multiply values by the slope where `signs` are not positive; NaN stays NaN, so that a divergence shows."""
    if SLOPE == 0:
        low = tl.zeros_like(values)
    else:
        low = values * SLOPE
    return tl.where(signs <= 0, low, values)


@triton.jit
def _statistics(x, sums, rows, channels, tiles, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Write each part's means and its sums of squared deviations from them, two matrices of parts x channels."""
    part, parts = tl.program_id(0), tl.num_programs(0)
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    # Deviations from the part's first row: their squares do not cancel where a mean is large.
    start = part.to(tl.int64) * tiles * ROWS
    shift = tl.load(x + start * channels + column, column < channels, 0).to(tl.float32)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    square = tl.zeros((ROWS, CHANNELS), tl.float32)
    for number in range(part * tiles, (part + 1) * tiles):
        at, inside = _tile(number, rows, channels, ROWS, CHANNELS)
        apart = tl.where(inside, tl.load(x + at, inside, 0).to(tl.float32) - shift[None, :], 0.0)
        total += apart
        square += apart * apart
    count = tl.minimum(rows - start, tiles * ROWS).to(tl.float32)
    mean = tl.sum(total, 0) / count
    here = sums + part * channels + column
    tl.store(here, shift + mean, column < channels)
    tl.store(here + parts * channels, tl.sum(square, 0) - count * mean * mean, column < channels)


@triton.jit
def _apply(
    x, residual, weight, bias, sums, running_mean, running_var, saved, out, rows, channels, parts, tiles, own_tiles, momentum,
    eps, SLOPE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Combine the parts' statistics; write the output, and once the running statistics, the mean and 1 / deviation."""
    part = tl.arange(0, PARTS)
    column, there, held, of_part = _parts(sums, part, parts, channels, CHANNELS)
    count = tl.where(part < parts, tl.minimum(rows - part * tiles * ROWS, tiles * ROWS), 0).to(tl.float32)[:, None]
    means = tl.load(of_part, held, 0)
    mean = tl.sum(means * count, 0) / rows
    apart = tl.where(held, means - mean[None, :], 0.0)
    squares = tl.sum(tl.load(of_part + parts * channels, held, 0) + count * apart * apart, 0)
    invstd = 1 / tl.sqrt(squares / rows + eps)
    if tl.program_id(0) == 0:
        tl.store(saved + column, mean, there)
        tl.store(saved + channels + column, invstd, there)
        before = tl.load(running_mean + column, there, 0)
        tl.store(running_mean + column, (1 - momentum) * before + momentum * mean, there)
        before = tl.load(running_var + column, there, 0)
        tl.store(running_var + column, (1 - momentum) * before + momentum * squares / (rows - 1), there)
    factor = invstd * tl.load(weight + column, there, 0)
    shift = tl.load(bias + column, there, 0)
    for number in range(tl.program_id(0) * own_tiles, (tl.program_id(0) + 1) * own_tiles):
        at, inside = _tile(number, rows, channels, ROWS, CHANNELS)
        value = (tl.load(x + at, inside, 0).to(tl.float32) - mean[None, :]) * factor[None, :] + shift[None, :]
        if residual is not None:
            value += tl.load(residual + at, inside, 0).to(tl.float32)
        tl.store(out + at, _rectified(value, value, SLOPE).to(out.dtype.element_ty), inside)


@triton.jit
def _gradient(grad, out, at, inside, SLOPE: tl.constexpr):
    """Load the gradient with respect to what the activation took; with a slope of 1 there is no output to read."""
    value = tl.load(grad + at, inside, 0).to(tl.float32)
    if SLOPE != 1:
        value = _rectified(value, tl.load(out + at, inside, 0).to(tl.float32), SLOPE)
    return value


@triton.jit
def _reduce(
    grad, x, out, saved, sums, rows, channels, tiles, SLOPE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """Write each part's sums of gradient times normalised input, and of the gradient: those of the weight and the bias."""
    part, parts = tl.program_id(0), tl.num_programs(0)
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    mean = tl.load(saved + column, column < channels, 0)
    invstd = tl.load(saved + channels + column, column < channels, 0)
    weighted = tl.zeros((ROWS, CHANNELS), tl.float32)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for number in range(part * tiles, (part + 1) * tiles):
        at, inside = _tile(number, rows, channels, ROWS, CHANNELS)
        value = _gradient(grad, out, at, inside, SLOPE)
        weighted += value * (tl.load(x + at, inside, 0).to(tl.float32) - mean[None, :])
        total += value
    here = sums + part * channels + column
    tl.store(here, tl.sum(weighted, 0) * invstd, column < channels)
    tl.store(here + parts * channels, tl.sum(total, 0), column < channels)


@triton.jit
def _differentiate(
    grad, x, out, weight, saved, sums, of_x, of_residual, of_affine, rows, channels, parts, own_tiles, SLOPE: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Combine the parts' sums; write the gradients of the input and the residual, and once those of weight and bias."""
    part = tl.arange(0, PARTS)
    column, there, held, of_part = _parts(sums, part, parts, channels, CHANNELS)
    of_weight = tl.sum(tl.load(of_part, held, 0), 0)
    of_bias = tl.sum(tl.load(of_part + parts * channels, held, 0), 0)
    if tl.program_id(0) == 0:
        tl.store(of_affine + column, of_weight, there)
        tl.store(of_affine + channels + column, of_bias, there)
    mean = tl.load(saved + column, there, 0)
    invstd = tl.load(saved + channels + column, there, 0)
    factor = invstd * tl.load(weight + column, there, 0)
    for number in range(tl.program_id(0) * own_tiles, (tl.program_id(0) + 1) * own_tiles):
        at, inside = _tile(number, rows, channels, ROWS, CHANNELS)
        value = _gradient(grad, out, at, inside, SLOPE)
        if of_residual is not None:
            tl.store(of_residual + at, value.to(of_residual.dtype.element_ty), inside)
        normalised = (tl.load(x + at, inside, 0).to(tl.float32) - mean[None, :]) * invstd[None, :]
        value = (value - (of_bias[None, :] + normalised * of_weight[None, :]) / rows) * factor[None, :]
        tl.store(of_x + at, value.to(of_x.dtype.element_ty), inside)


class _Work:
    """How a map is divided: what the first and the second kernel of a pass are given."""

    def __init__(self, x: Tensor):
        channels = x.shape[1]
        width = min(WIDEST, max(16, triton.next_power_of_2(channels)))
        self.rows, self.most = x.numel() // channels, SUMS // width
        tiles, blocks = triton.cdiv(self.rows, TILE // width), triton.cdiv(channels, width)
        self.tiles, self.own_tiles = triton.cdiv(tiles, self.most), triton.cdiv(tiles, 2 * self.most)
        self.parts = triton.cdiv(tiles, self.tiles)  # none is empty
        self.first, self.second = (self.parts, blocks), (triton.cdiv(tiles, self.own_tiles), blocks)
        self.tile = {"ROWS": TILE // width, "CHANNELS": width, "num_warps": 8}
        self.sums = torch.empty(2, self.parts, channels, dtype=torch.float32, device=x.device)


class _Normalised(torch.autograd.Function):
    """A batch norm in training mode of channels-last maps, with a residual and an activation after it."""

    @staticmethod
    def forward(ctx, x, residual, weight, bias, running_mean, running_var, momentum, eps, slope):
        work, channels = _Work(x), x.shape[1]
        out, saved = torch.empty_like(x), torch.empty(2, channels, dtype=torch.float32, device=x.device)
        _statistics[work.first](x, work.sums, work.rows, channels, work.tiles, **work.tile)
        _apply[work.second](
            *(x, residual, weight, bias, work.sums, running_mean, running_var, saved, out, work.rows, channels),
            *(work.parts, work.tiles, work.own_tiles, momentum, eps),
            **{"SLOPE": slope, "PARTS": work.most, **work.tile},
        )
        ctx.save_for_backward(x, None if slope == 1 else out, weight, saved)
        ctx.slope = slope
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, out, weight, saved = ctx.saved_tensors
        work, channels, grad = _Work(x), x.shape[1], grad.contiguous(memory_format=torch.channels_last)
        of_residual = grad if ctx.needs_input_grad[1] else None
        of_x, of_affine = torch.empty_like(x), torch.empty_like(saved)
        masked = torch.empty_like(x) if ctx.needs_input_grad[1] and ctx.slope != 1 else None
        _reduce[work.first](
            *(grad, x, out, saved, work.sums, work.rows, channels, work.tiles), **{"SLOPE": ctx.slope, **work.tile}
        )
        _differentiate[work.second](
            *(grad, x, out, weight, saved, work.sums, of_x, masked, of_affine, work.rows, channels),
            *(work.parts, work.own_tiles),
            **{"SLOPE": ctx.slope, "PARTS": work.most, **work.tile},
        )
        return of_x, of_residual if masked is None else masked, *of_affine, *[None] * 5


def normalise(norm: nn.BatchNorm2d, x: Tensor, slope: float, residual: Tensor | None) -> Tensor:
    """Return a norm's batch norm of x (N, C, H, W), plus the residual, negative sums times the slope; update its statistics."""
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return _Normalised.apply(
        x, residual, norm.weight, norm.bias, norm.running_mean, norm.running_var, float(norm.momentum), norm.eps, slope
    )
