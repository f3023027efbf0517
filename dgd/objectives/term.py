"""Define a term of the loss, the batch that it is given, and the declaration of what it requires."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

STATUSES = ("faithful", "deviates", "proxy", "reconstruction", "own")


@dataclass
class Output:
    """The output of one network for a batch (B examples, K classes).

    Attributes:
        logits: (B, K), of a network that classifies.
        value: (B,), of a network that predicts a number.
        raw: (B, ...), of any other network.
        stages: Feature maps (B, C, H, W), shallow to deep: the last one of each resolution, or those that a
            pair's `out_indices` choose. Empty where no term reads features.
        before: The same maps before the stage's last activation; the stage's output itself where no activation ends it.
        pooled: (B, C), the input of the classifier; None where the network has no single one.
        heads: Outputs of sub-networks by name.
    """

    logits: Tensor | None = None
    stages: Sequence[Tensor] = ()
    before: Sequence[Tensor] = ()
    pooled: Tensor | None = None
    value: Tensor | None = None
    heads: Mapping[str, "Output"] = field(default_factory=dict)
    raw: Tensor | None = None

    @property
    def answer(self) -> Tensor | None:
        """Return the logits, or the value or raw output of a network that has none; None where it was not run."""
        return next((x for x in (self.logits, self.value) if x is not None), self.raw)

    def detach(self) -> "Output":
        """Return the same output without gradient."""
        maps = {name: [x.detach() for x in getattr(self, name)] for name in ("stages", "before")}
        single = {name: getattr(self, name) for name in ("logits", "value", "pooled", "raw")}
        single = {name: None if x is None else x.detach() for name, x in single.items()}
        return replace(self, **single, **maps, heads={name: head.detach() for name, head in self.heads.items()})


@dataclass(frozen=True)
class Runs:
    """The networks of a step, for terms that run them on inputs that they make.

    Each is a function of inputs by name that returns an `Output`.

    Attributes:
        own: The network that learns, with gradient.
        peers: The group's other networks by their number, with gradient with respect to the inputs and none to the weights;
            batch norm's running statistics stay as they are.
        teachers: The teachers, without gradient.
    """

    own: Callable[[Mapping[str, Tensor]], Output]
    peers: Mapping[int, Callable[[Mapping[str, Tensor]], Output]] = field(default_factory=dict)
    teachers: Sequence[Callable[[Mapping[str, Tensor]], Output]] = ()


@dataclass
class Batch:
    """The input of one network's terms in one step (B examples).

    Attributes:
        inputs: Name -> (B, ...), augmented and normalised: `image` (B, C, H, W), and the data set's other inputs.
        labels: (B,), int64 classes or float32 values.
        index: (B,) int64, positions in the training split.
        own: Output of the network that learns.
        teachers: Output of each teacher on the same examples, without gradient.
        peers: Outputs of the group's other networks by their number, on the same examples, without gradient.
        generator: What a term draws random numbers from that says so in `Requires.draws`, on the device; None is torch's own.
        runs: The networks, for a term that runs them itself; `own`, `teachers` and `peers` are then empty.
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor
    index: Tensor
    own: Output
    teachers: Sequence[Output] = ()
    peers: Mapping[int, Output] = field(default_factory=dict)
    generator: torch.Generator | None = None
    runs: Runs | None = None


@dataclass
class Setting:
    """The facts from which a term may build its modules, besides an example batch.

    Attributes:
        network: Number of the network that learns, from 0; the first is the one that is reported.
        networks: Number of networks in the group.
        labels: (N,), of the whole training split, on the device.
        classes: Number of classes; 0 where labels are numbers.
        takes: Name of the input that the network takes.
    """

    network: int
    networks: int
    labels: Tensor
    classes: int = 0
    takes: str = "image"


WORDS = {"pooled": "pooled features", "heads": "sub-nets", "draws": "random numbers"}
"""Requirements that are called otherwise in a text."""


@dataclass(frozen=True)
class Requires:
    """The requirements of a term; the loop makes its plan from the union over all terms of an objective.

    Attributes:
        teacher: Mode of the teachers: `eval`, `train`, or "" for a term without teachers.
        peers: Whether the term needs the group's other networks, and in which order the networks learn. `own`: in turn, each on
            a batch of its own; `turns`: in turn, all on the same batch; `together`: all on the same batch, from outputs that
            were computed before the step; "": no peers.
        features: The term reads `stages` of every network.
        before: The term needs `before` of the network that learns.
        teacher_before: The term needs `before` of the teachers.
        indices: The term keeps state for each training image, so one process must see all of them.
        input_gradient: `dgd.objectives.explaining.explain` must be able to differentiate `own.logits` with respect to the
            images.
        inputs: Names of the inputs that the term reads itself.
        task: The only task for which the term is defined; "" for any.
        heads: The term needs `heads`: the network that learns has sub-nets.
        runs: The term runs networks itself, by `Batch.runs`: `peers` or `teachers`. All terms of an objective do, or none.
        teacher_features: The term needs `pooled` of the teachers.
        draws: The term draws random numbers from `Batch.generator`.
        pooled: The term reads `pooled` of every network, which then has to have a single classifier.
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
    heads: bool = False
    runs: str = ""
    teacher_features: bool = False
    draws: bool = False
    pooled: bool = False

    TEACHER: ClassVar[tuple[str, ...]] = ("", "eval", "train")
    PEERS: ClassVar[tuple[str, ...]] = ("", "own", "turns", "together")

    def __or__(self, other: "Requires") -> "Requires":
        """Return the union; of two modes of teachers or two orders of peers, the one that is later in `TEACHER` or `PEERS`."""
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
        """Return the requirements as text, such as `teacher, features`."""
        words = [WORDS.get(f.name, f.name.replace("_", " ")) for f in fields(self) if getattr(self, f.name) is True]
        teacher = {"eval": ["teacher"], "train": ["teacher in training mode"]}.get(self.teacher, [])
        peers = {"own": ["peers"], "turns": ["peers on the same batch"], "together": ["peers on the same batch at once"]}
        runs = {"peers": ["runs peers itself"], "teachers": ["runs teachers itself"]}.get(self.runs, [])
        return ", ".join([*teacher, *peers.get(self.peers, []), *runs, *words, *sorted(self.inputs)])


class Term(nn.Module):
    """A module that maps a `Batch` to a scalar loss. It may own trainable modules, which `setup` builds.

    Attributes:
        source: Paper and code that it follows.
        status: faithful | deviates (see `deviations`) | proxy | reconstruction (the details are not public) | own (held to no
            source, which is so until it says otherwise).
        deviations: Differences from the source, one short sentence for each.
        requires: What the loop must provide. An instance may require more than its class.
        autocast: Returns the context in which a term's convolutions run, the same as the network's. Losses are computed outside
            it, in float32.
        factor: Float64 scalar on the device, 1 before the first `start_epoch`: `ramp` of the epoch, for terms that ramp up.
            It is a tensor, because a number would keep its first value in a step that is replayed as a CUDA graph.
    """

    source = ""
    status = "own"
    deviations: tuple[str, ...] = ()
    requires = Requires()
    autocast: Callable[[], AbstractContextManager] = nullcontext

    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.ones((), dtype=torch.float64), persistent=False)

    def setup(self, example: Batch, setting: Setting) -> None:
        """Build the modules that need sizes; called once, before anything is trained.

        Args:
            example: Two random images, and the outputs of the networks for them in evaluation mode.
            setting: The network's place in its group, and the training labels.

        Raises:
            ValueError: The term is not defined for these networks; the message says why.
        """

    def ramp(self, epoch: int) -> float:
        """Return what `factor` is in an epoch, from 0."""
        return 1.0

    def start_epoch(self, epoch: int) -> None:
        """Set `factor` for an epoch; the loop calls it before each one."""
        self.factor.fill_(self.ramp(epoch))

    def groups(self) -> list[dict]:
        """Return the optimiser's parameter groups for parameters that are not trained as the network is.

        Each is {'params': [...]} with any of 'optimiser' ('sgd' or 'adam'), 'lr' (the initial learning rate, which follows the
        schedule unless 'scheduled' is False) and 'weight_decay'.
        """
        return []

    def memory(self, batch_size: int, train_images: int) -> int:
        """Return the bytes that the term needs besides its networks' features, such as memory banks and negatives."""
        return 0
