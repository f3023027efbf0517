"""What a term of the loss is, and what it is given."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

NEEDS = (
    "teacher",
    "teacher_train",
    "peers",
    "same_batch",
    "together",
    "taps",
    "before",
    "teacher_before",
    "indices",
    "input_gradient",
)
STATUSES = ("faithful", "deviates", "proxy", "reconstruction")


@dataclass
class Output:
    """What one network gives for a batch (B images, K classes).

    Attributes:
        logits: (B, K).
        stages: Feature maps (B, C, H, W), shallow to deep: the last one of each resolution. Empty where nothing asked for taps.
        before: The same before the stage's last activation, and the stage's output itself where it ends without one.
        pooled: (B, C), what the classifier reads.
    """

    logits: Tensor
    stages: Sequence[Tensor] = ()
    before: Sequence[Tensor] = ()
    pooled: Tensor | None = None

    def detach(self) -> "Output":
        """The same numbers without gradient."""
        maps = {name: [x.detach() for x in getattr(self, name)] for name in ("stages", "before")}
        return replace(self, logits=self.logits.detach(), pooled=None if self.pooled is None else self.pooled.detach(), **maps)


@dataclass
class Batch:
    """What one network's terms see in one step (B images, K classes).

    Attributes:
        images: (B, C, H, W), augmented and normalised.
        labels: (B,) int64.
        index: (B,) int64, positions in the training split.
        own: Of the network that learns.
        teachers: One a teacher, without gradient, on the same images.
        peers: The group's other networks by their number, without gradient, on the same images.
        time: Epochs trained so far; a fraction within an epoch.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    own: Output
    teachers: Sequence[Output] = ()
    peers: Mapping[int, Output] = field(default_factory=dict)
    time: float = 0.0


@dataclass
class Setting:
    """What a term may build its modules from, besides an example batch.

    Attributes:
        network: Number of the network that learns, from 0; the first is the one that is reported.
        networks: In the group.
        labels: (N,) int64, of the whole training split, on the device.
    """

    network: int
    networks: int
    labels: Tensor


class Term(nn.Module):
    """A module that takes a `Batch` and gives a scalar. It may own trainable modules, made by `setup`.

    Attributes:
        source: Paper and code that it follows.
        status: faithful | deviates (in what `deviations` says) | proxy | reconstruction (the details are not public).
        deviations: A short sentence each.
        needs: Of `NEEDS`: teacher; teacher_train (teachers run in training mode); peers; same_batch (all networks of the group
            see the same batches, instead of each its own); together (they all learn from the same state, instead of in turn;
            with same_batch); taps (`stages` and `pooled` of every
            network); before, teacher_before (`before` of the own network, of teachers); indices; input_gradient
            (`dgd.objectives.explaining.explain` can differentiate `own.logits` by `images`). An instance may need more than
            its class.
        autocast: Gives the context in which a term's convolutions run, as the network's do. Losses are computed outside it, in
            float32.
    """

    source = ""
    status = "faithful"
    deviations: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    autocast: Callable[[], AbstractContextManager] = nullcontext

    def setup(self, example: Batch, setting: Setting) -> None:
        """Build the modules that need sizes; called once, before anything is trained.

        Args:
            example: Two random images, and what the networks in evaluation mode give for them.
            setting: The rest.

        Raises:
            ValueError: The term has no meaning for these networks; the message says why.
        """

    def groups(self) -> list[dict]:
        """Parameters that are not trained as the network's are: {'params': [...]} with any of 'optimiser' ('sgd' or 'adam'),
        'lr' (at the start; it follows the schedule, unless 'scheduled' is False) and 'weight_decay'."""
        return []

    def memory(self, batch_size: int, train_images: int) -> int:
        """Bytes that the term holds besides what its networks' features take: banks, negatives."""
        return 0
