"""What a term of the loss is, what it is given, and how it says what it requires."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

from torch import Tensor, nn

STATUSES = ("faithful", "deviates", "proxy", "reconstruction")


@dataclass
class Output:
    """What one network gives for a batch (B examples, K classes).

    Attributes:
        logits: (B, K), of a network that classifies.
        value: (B,), of a network that predicts a number.
        stages: Feature maps (B, C, H, W), shallow to deep: the last one of each resolution. Empty where no term reads features.
        before: The same before the stage's last activation, and the stage's output itself where it ends without one.
        pooled: (B, C), what the classifier reads.
        heads: Outputs of sub-networks by name.
    """

    logits: Tensor | None = None
    stages: Sequence[Tensor] = ()
    before: Sequence[Tensor] = ()
    pooled: Tensor | None = None
    value: Tensor | None = None
    heads: Mapping[str, "Output"] = field(default_factory=dict)

    @property
    def answer(self) -> Tensor:
        """The logits, or the value of a network that has none."""
        return self.value if self.logits is None else self.logits

    def detach(self) -> "Output":
        """Return the same numbers without gradient."""
        maps = {name: [x.detach() for x in getattr(self, name)] for name in ("stages", "before")}
        single = {name: getattr(self, name) for name in ("logits", "value", "pooled")}
        single = {name: None if x is None else x.detach() for name, x in single.items()}
        return replace(self, **single, **maps, heads={name: head.detach() for name, head in self.heads.items()})


@dataclass
class Batch:
    """What one network's terms see in one step (B examples).

    Attributes:
        inputs: Name -> (B, ...), augmented and normalised: `image` (B, C, H, W), and what else the data set has.
        labels: (B,), int64 classes or float32 values.
        index: (B,) int64, positions in the training split.
        own: Of the network that learns.
        teachers: One for each teacher, without gradient, on the same examples.
        peers: The group's other networks by their number, without gradient, on the same examples.
        time: Epochs trained so far; a fraction within an epoch.
    """

    inputs: Mapping[str, Tensor]
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
        networks: Number of networks in the group.
        labels: (N,), of the whole training split, on the device.
    """

    network: int
    networks: int
    labels: Tensor


@dataclass(frozen=True)
class Requires:
    """What a term is to be given; the loop makes its plan from the union over all terms of an objective.

    Attributes:
        teacher: `eval`: teachers, in evaluation mode; `train`: in training mode; "": none.
        peers: The group's other networks, and the order in which networks learn. `own`: in turn, each on a batch of its own;
            `turns`: in turn, all on the same batch; `together`: on the same batch, from outputs of before the step; "": none.
        features: `stages` and `pooled` of every network.
        before: `before` of the network that learns.
        teacher_before: `before` of the teachers.
        indices: `index` names every training image of the network, so one process sees all of them.
        input_gradient: `dgd.objectives.explaining.explain` can differentiate `own.logits` by the images.
        inputs: Names of inputs that the term reads itself.
        task: The only task that it has a meaning for; "": any.
    """

    teacher: str = ""
    peers: str = ""
    features: bool = False
    before: bool = False
    teacher_before: bool = False
    indices: bool = False
    input_gradient: bool = False
    inputs: frozenset[str] = frozenset()
    task: str = ""

    TEACHER: ClassVar[tuple[str, ...]] = ("", "eval", "train")
    PEERS: ClassVar[tuple[str, ...]] = ("", "own", "turns", "together")

    def __or__(self, other: "Requires") -> "Requires":
        """Return what both need; of two modes of teachers or orders of peers the one that comes later in the lists."""
        flags = {f.name: getattr(self, f.name) or getattr(other, f.name) for f in fields(self)}
        return Requires(
            **flags
            | {
                "teacher": max(self.teacher, other.teacher, key=self.TEACHER.index),
                "peers": max(self.peers, other.peers, key=self.PEERS.index),
                "inputs": self.inputs | other.inputs,
            }
        )

    def __str__(self) -> str:
        """Return the requirements for a reader: `teacher, features`."""
        words = [f.name.replace("_", " ") for f in fields(self) if getattr(self, f.name) is True]
        teacher = {"eval": ["teacher"], "train": ["teacher in training mode"]}.get(self.teacher, [])
        peers = {"own": ["peers"], "turns": ["peers on the same batch"], "together": ["peers on the same batch, at once"]}
        return ", ".join([*teacher, *peers.get(self.peers, []), *words, *sorted(self.inputs)])


class Term(nn.Module):
    """A module that takes a `Batch` and gives a scalar. It may own trainable modules, made by `setup`.

    Attributes:
        source: Paper and code that it follows.
        status: faithful | deviates (in what `deviations` says) | proxy | reconstruction (the details are not public).
        deviations: A short sentence each.
        requires: What it is to be given. An instance may require more than its class.
        autocast: Gives the context in which a term's convolutions run, as the network's do. Losses are computed outside it, in
            float32.
    """

    source = ""
    status = "faithful"
    deviations: tuple[str, ...] = ()
    requires = Requires()
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
        """Return parameters that are not trained as the network's are: {'params': [...]} with any of 'optimiser' ('sgd' or
        'adam'), 'lr' (at the start; it follows the schedule, unless 'scheduled' is False) and 'weight_decay'."""
        return []

    def memory(self, batch_size: int, train_images: int) -> int:
        """Return the bytes that the term holds besides what its networks' features take: banks, negatives."""
        return 0
