"""The terms that a step can minimise: one file a term, looked up by name in `TERMS`.

A new term is a new file (a `Term`, see `dgd.objectives.term`) and its line here; the loop gives it what it declares to need.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from dgd.objectives.at import AttentionTransfer
from dgd.objectives.ce import CrossEntropy
from dgd.objectives.crd import ContrastiveRepresentation
from dgd.objectives.dkd import DecoupledDistillation
from dgd.objectives.explanation import SelfExplanation
from dgd.objectives.ffsd import FeatureFusionSelfDistillation
from dgd.objectives.fitnet import FitNet
from dgd.objectives.hkd import HolisticKnowledge
from dgd.objectives.kd import KnowledgeDistillation
from dgd.objectives.kr import KnowledgeRepresenting
from dgd.objectives.mutual import MutualLearning
from dgd.objectives.review import KnowledgeReview
from dgd.objectives.rkd import RelationalDistillation
from dgd.objectives.smoothing import TeacherSmoothing
from dgd.objectives.sp import SimilarityPreserving
from dgd.objectives.term import NEEDS, STATUSES, Batch, Output, Setting, Term

__all__ = ["NEEDS", "STATUSES", "TERMS", "Batch", "Objective", "Output", "Setting", "Term", "weakest"]

TERMS: dict[str, type[Term]] = {
    "at": AttentionTransfer,
    "ce": CrossEntropy,
    "crd": ContrastiveRepresentation,
    "dkd": DecoupledDistillation,
    "explanation": SelfExplanation,
    "ffsd": FeatureFusionSelfDistillation,
    "fitnet": FitNet,
    "hkd": HolisticKnowledge,
    "kd": KnowledgeDistillation,
    "kr": KnowledgeRepresenting,
    "mutual": MutualLearning,
    "review": KnowledgeReview,
    "rkd": RelationalDistillation,
    "smoothing": TeacherSmoothing,
    "sp": SimilarityPreserving,
}


def weakest(parts: Iterable) -> str:
    """The `status` of the least faithful of a method's terms (and its surgery)."""
    return max((part.status for part in parts), key=STATUSES.index)


class Objective(nn.Module):
    """The weighted sum of terms.

    Args:
        spec: Term name -> {'weight': float, option: value, ...}.
        autocast: Gives the context in which the terms' own convolutions run.

    Raises:
        ValueError: Unknown term or option.
    """

    def __init__(self, spec: Mapping[str, Mapping], autocast: Callable[[], AbstractContextManager] = nullcontext):
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
            terms[name].autocast = autocast
        self.terms = nn.ModuleDict(terms)
        self.needs = frozenset().union(*(term.needs for term in terms.values()))

    def setup(self, example: Batch, setting: Setting) -> None:
        """Have every term build its modules; see `Term.setup`.

        Raises:
            ValueError: A term has no meaning for these networks, or lacks a teacher or peers.
        """
        for name, term in self.terms.items():
            for need, given in (("teacher", example.teachers), ("peers", example.peers)):
                if need in term.needs and not given:
                    raise ValueError(f"{name}: there is no {need.rstrip('s')}; a method with this term needs at least one")
            term.setup(example, setting)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and each term before its weight."""
        parts = {name: term(batch) for name, term in self.terms.items()}
        return sum(self.weights[name] * part for name, part in parts.items()), parts
