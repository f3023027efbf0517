"""The terms that a step can minimise: one file a term.

A term is a module that takes a `Batch` and returns a scalar. It may own trainable modules. `needs_teacher = True`
on its class says that it reads the teachers' logits. Terms are looked up by name in `TERMS`; a new one is a new file and its
line here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from dgd.objectives.ce import CrossEntropy
from dgd.objectives.kd import KnowledgeDistillation
from dgd.objectives.smoothing import TeacherSmoothing

TERMS: dict[str, type[nn.Module]] = {
    "ce": CrossEntropy,
    "kd": KnowledgeDistillation,
    "smoothing": TeacherSmoothing,
}


@dataclass
class Batch:
    """What one network's terms see in one step (B images, K classes).

    Attributes:
        images: (B, C, H, W), augmented and normalised.
        labels: (B,) int64.
        index: (B,) int64, positions in the training split.
        logits: (B, K) of the network that learns.
        teacher_logits: One (B, K) per teacher, without gradient, on the same images.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    logits: Tensor
    teacher_logits: Sequence[Tensor] = field(default_factory=tuple)


class Objective(nn.Module):
    """The weighted sum of terms.

    Args:
        spec: Term name -> {'weight': float, option: value, ...}.

    Raises:
        ValueError: Unknown term or option.
    """

    def __init__(self, spec: Mapping[str, Mapping]):
        super().__init__()
        self.weights, terms = {}, {}
        for name, options in spec.items():
            if name not in TERMS:
                raise ValueError(f"unknown term {name!r}; known: {', '.join(TERMS)}")
            options = dict(options)
            weight = options.pop("weight", 1.0)
            if not isinstance(weight, int | float):
                raise ValueError(f"the weight of {name!r} is {weight!r}; it must be a number")
            self.weights[name] = float(weight)
            try:
                terms[name] = TERMS[name](**options)
            except TypeError as error:
                raise ValueError(f"term {name!r}: {error}") from None
        self.terms = nn.ModuleDict(terms)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and each term before its weight."""
        parts = {name: term(batch) for name, term in self.terms.items()}
        return sum(self.weights[name] * part for name, part in parts.items()), parts
