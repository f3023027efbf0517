"""Contrastive losses with memory banks: what the terms `crd` and `hkd` share.

A bank holds one embedding for each training image. An image of the batch is compared with K other images' rows. K is large:
gathering those rows (537 MB for 64 images, K = 16384 and 128 numbers in each row) would cost more than the network's step. Two
measures keep the cost small. The sums over negatives are computed for a few images at a time, together with their gradients
with respect to the embeddings, so that nothing is kept for the backward pass (and a bank can be changed in place before it).
And where K is not far below the number of training images, all scores come from one matrix product and are weighted by how
often each image was drawn.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dgd.objectives.term import Requires, Term

# One product with the whole bank is faster than gathering rows if the bank has fewer rows than this times K (on one CPU
# thread).
DENSE = 5
# Numbers that are processed at a time: few enough for the caches of a CPU, enough to keep a GPU busy.
CHUNK = {"cpu": 2**20, "cuda": 2**24}


class Embedding(nn.Module):
    """A linear layer followed by L2 normalisation."""

    def __init__(self, features: int, dim: int):
        super().__init__()
        self.linear = nn.Linear(features, dim)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map (B, features) of any float type to (B, dim) float32 of unit norm."""
        return F.normalize(self.linear(pooled.float()))


class Bank(nn.Module):
    """A memory bank: for each training image a row, the moving average of its embeddings, without gradient.

    Args:
        images: Number of images in the training split.
        dim: Dimension of the embeddings.
        momentum: Share of the old row that `update` keeps.
        device: Device of the rows.

    Attributes:
        rows: (images, dim) float32; initially uniform in +-sqrt(3 / dim), so that their mean squared norm is 1.
    """

    def __init__(self, images: int, dim: int, momentum: float, device: torch.device | None = None):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("rows", (torch.rand(images, dim, device=device) * 2 - 1) * (3 / dim) ** 0.5)

    @torch.no_grad()
    def mixed(self, index: Tensor, embedding: Tensor, share: float) -> Tensor:
        """Return (B, dim): `share` times the rows (B,) `index` plus (1 - share) times the embeddings, L2-normalised."""
        return F.normalize(self.rows[index].mul_(share).add_(embedding, alpha=1 - share))

    @torch.no_grad()
    def update(self, index: Tensor, embedding: Tensor) -> None:
        """Update the rows of the images (B,) `index`, none of which may occur twice, with new embeddings (B, dim)."""
        self.rows.index_copy_(0, index, self.mixed(index, embedding, self.momentum))


class Negatives(nn.Module):
    """A sampler of negatives: training images of other classes, uniformly and with replacement.

    Args:
        labels: (N,) int64, of the training split.
        number: K, negatives for each image.

    Raises:
        ValueError: There is only one class.
    """

    def __init__(self, labels: Tensor, number: int):
        super().__init__()
        sizes = torch.bincount(labels)
        if (sizes > 0).sum() < 2:
            raise ValueError("all training images are of one class; negatives are images of other classes")
        self.number = number
        # Not saved: they are computed from the labels again when a cell is resumed.
        self.register_buffer("order", labels.argsort(stable=True), persistent=False)
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("starts", sizes.cumsum(0) - sizes, persistent=False)

    @torch.no_grad()
    def forward(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return positions (B, K) int64 in the training split, for images of classes (B,) `labels`."""
        size, start = self.sizes[labels, None], self.starts[labels, None]
        # float64, because with the 24 bits of float32 some of a million images would be drawn more often than others.
        draw = torch.rand(len(labels), self.number, dtype=torch.float64, device=labels.device, generator=generator)
        place = draw.mul_(len(self.order) - size).long()  # position in the order by class, without the image's own class
        return self.order[place.add_((place >= start) * size)]


def log_sum_exp(scores: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return log of the sum of exp(score) over the last dimension, and its derivatives with respect to the scores.

    Args:
        scores: (B, Q, M); overwritten.
        counts: (B, 1, M), how often each score is in the sum; None for once.
    """
    if counts is not None:  # large but finite, because log(0) and exp(-inf) take ten times as long as other values
        scores.add_((counts - 1).clamp_(max=0).mul_(1e30))
    top = scores.amax(-1, keepdim=True)
    parts = scores.sub_(top).clamp_(min=-87).exp_()
    if counts is not None:
        parts.mul_(counts)
    total = parts.sum(-1, keepdim=True)
    return (top + total.log()).squeeze(-1), parts.div_(total)


def sum_softplus(scores: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the sum of log(1 + exp(score)) over the last dimension, and its derivatives; arguments as in `log_sum_exp`."""
    slopes = scores.sigmoid()
    # F.softplus by vectorised operations: log(1 + exp(x)) = max(x, 0) - log(max(p, 1 - p)), where p is the slope.
    values = scores.clamp_(min=0).sub_((slopes - 0.5).abs_().add_(0.5).log_())
    if counts is not None:
        values, slopes = values.mul_(counts), slopes.mul_(counts)
    return values.sum(-1), slopes


def over_negatives(reduce: Callable, queries: Tensor, rows: Tensor, index: Tensor, shift: Tensor | None = None) -> Tensor:
    """Return `reduce` of the scores of each query: its dot products with its image's negatives, minus `shift`.

    Args:
        reduce: `log_sum_exp` or `sum_softplus`.
        queries: (B, Q, D); the only argument that gets a gradient.
        rows: (N, D), the rows of a bank. They may be changed between the forward and the backward pass.
        index: (B, K) int64, rows of the negatives of each image; one that occurs twice counts twice.
        shift: Scalar.

    Returns:
        (B, Q).
    """
    return _OverNegatives.apply(queries, rows, index, reduce, shift)


class _OverNegatives(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries: Tensor, rows: Tensor, index: Tensor, reduce: Callable, shift: Tensor | None) -> Tensor:
        (n, dim), number = rows.shape, index.shape[1]
        dense = n < DENSE * number
        at_once = max(1, CHUNK.get(rows.device.type, CHUNK["cpu"]) // (queries.shape[1] * n if dense else number * dim))
        values, gradients = [], []
        for query, place in zip(queries.split(at_once), index.split(at_once), strict=True):
            if dense:
                one = rows.new_ones(()).expand(place.shape)
                # Sums of small whole numbers are exact in any order, so this is deterministic.
                counts = rows.new_zeros(len(place), n).scatter_add_(1, place, one)[:, None]
                others = rows
            else:
                counts, others = None, F.embedding(place, rows)
            scores = query @ others.mT
            value, slope = reduce(scores if shift is None else scores.sub_(shift), counts)
            values.append(value)
            gradients.append(slope @ others)
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        return gradient[..., None] * ctx.saved_tensors[0], None, None, None, None


class BankTerm(Term):
    """A term that contrasts embeddings of a network and of its one teacher by two memory banks.

    Args:
        dim: Dimension of the embeddings.
        negatives: K, images of other classes that each image is compared with.
        temperature: Divisor of the scores.
        momentum: Share of a bank's row that an update keeps, from 0 to below 1.
    """

    name = ""
    status = "deviates"
    requires = Requires(teacher="eval", features=True, pooled=True, indices=True, task="classification", draws=True)

    def __init__(self, dim: int, negatives: int, temperature: float, momentum: float):
        super().__init__()
        for option, value in (("dim", dim), ("negatives", negatives)):
            if value < 1:
                raise ValueError(f"{self.name}: {option} is {value}; it must be at least 1")
        if temperature <= 0:
            raise ValueError(f"{self.name}: temperature is {temperature}; it must be above 0")
        if not 0 <= momentum < 1:
            raise ValueError(f"{self.name}: momentum is {momentum}; it must be from 0 to below 1")
        self.dim, self.number, self.temperature, self.momentum = dim, negatives, temperature, momentum

    def setup(self, example, setting) -> None:
        """Build two embeddings and two banks, for the network and its teacher."""
        if len(example.teachers) != 1:
            raise ValueError(f"{self.name}: there are {len(example.teachers)} teachers; the term has a memory bank for one")
        outputs = {"own": example.own, "teacher": example.teachers[0]}
        self.embeddings, self.banks = nn.ModuleDict(), nn.ModuleDict()
        for which, output in outputs.items():
            if output.pooled is None:
                raise ValueError(f"{self.name}: the pooled feature of the {which} network cannot be read")
            self.embeddings[which] = Embedding(output.pooled.shape[1], self.dim).to(output.pooled.device)
            self.banks[which] = Bank(len(setting.labels), self.dim, self.momentum, output.pooled.device)
        try:
            self.negatives = Negatives(setting.labels, self.number)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def embed(self, batch) -> tuple[Tensor, Tensor]:
        """Return the embeddings (B, dim) of the batch by the network and by the teacher.

        Raises:
            ValueError: The batch has not one teacher.
        """
        if len(batch.teachers) != 1:
            raise ValueError(f"{self.name}: the batch has {len(batch.teachers)} teachers; the term needs one")
        return self.embeddings["own"](batch.own.pooled), self.embeddings["teacher"](batch.teachers[0].pooled)

    def memory(self, batch_size: int, train_images: int) -> int:
        """Return the bytes of the banks, the order by class, the draws, and one chunk of scores and rows (on CUDA)."""
        held = train_images * (2 * self.dim * 4 + 8)
        drawn = 4 * 8 * batch_size * self.number
        dense = train_images < DENSE * self.number
        row = 8 * train_images if dense else self.number * (self.dim + 8)  # counts, scores, and values and slopes of `reduce`
        return held + drawn + 4 * min(batch_size * row, max(4 * CHUNK["cuda"], row))
