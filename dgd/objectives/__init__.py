"""The terms that a step can minimise: one file for each, named as the term and ending in `TERM = <its class>`.

A new term is a new file (a `Term`, see `dgd.objectives.term`); the loop gives it what it requires.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from importlib import import_module
from operator import or_

from torch import Tensor, nn

from dgd import terms
from dgd.keys import nearest
from dgd.objectives.term import STATUSES, Batch, Output, Requires, Runs, Setting, Term
from dgd.task import TASKS

__all__ = ["STATUSES", "TERMS", "Batch", "Objective", "Output", "Requires", "Runs", "Setting", "Term", "least_faithful"]


class Terms(Mapping[str, type[Term]]):
    """A read-only mapping of names to terms, which imports a term's module when the term is first asked for."""

    def __getitem__(self, name: str) -> type[Term]:
        if name not in terms.known():
            raise KeyError(name)
        return terms.ADDED.get(name) or import_module(f"{__name__}.{name}").TERM

    def __contains__(self, name: object) -> bool:
        return name in terms.known()

    def __iter__(self) -> Iterator[str]:
        return iter(terms.known())

    def __len__(self) -> int:
        return len(terms.known())


TERMS = Terms()


def least_faithful(parts: Iterable) -> str:
    """Return the `status` of the least faithful part of a method: its terms, and its surgery if it has one."""
    return max((part.status for part in parts), key=STATUSES.index)


class Objective(nn.Module):
    """A weighted sum of terms, as one module.

    Args:
        spec: Term name -> {'weight': float, option: value, ...}.
        autocast: Returns the context in which the terms' own convolutions run.

    Attributes:
        requires: The union of what its terms require.

    Raises:
        ValueError: Unknown term or option.
    """

    def __init__(self, spec: Mapping[str, Mapping], autocast: Callable[[], AbstractContextManager] = nullcontext):
        super().__init__()
        self.weights, terms = {}, {}
        for name, options in spec.items():
            if name not in TERMS:
                raise ValueError(f"unknown term {name!r}{nearest(name, TERMS)}")
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
        self.requires = reduce(or_, (term.requires for term in terms.values()), Requires())
        if self.requires.runs and not all(term.requires.runs for term in terms.values()):
            raise ValueError(
                f"{', '.join(terms)}: some of these terms run their networks themselves; they cannot stand with others"
            )

    def setup(self, example: Batch, setting: Setting) -> None:
        """Build the modules of every term; see `Term.setup`.

        Raises:
            ValueError: A term has no meaning for these networks, or lacks a teacher, peers or an input.
        """
        for name, term in self.terms.items():
            needs = term.requires
            for what, needed, given in (("teacher", needs.teacher, example.teachers), ("peer", needs.peers, example.peers)):
                if needed and not given:
                    raise ValueError(f"{name}: there is no {what}; a method with this term needs at least one")
            if needs.heads and not example.own.heads:
                raise ValueError(f"{name}: the network has no sub-nets; a method with this term has `subnets: true`")
            if missing := sorted(needs.inputs - example.inputs.keys()):
                raise ValueError(f"{name}: the data set has no input {missing[0]!r}; it has {', '.join(example.inputs)}")
            if needs.task and example.own.answer is not getattr(example.own, TASKS[needs.task].answer):
                raise ValueError(f"{name}: the term is for {needs.task}, and the data set has another task")
            term.setup(example, setting)

    def start_epoch(self, epoch: int) -> None:
        """Tell the terms, some of which rise in weight, that an epoch starts, from 0; without it all have their full weight."""
        for term in self.terms.values():
            term.start_epoch(epoch)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total, and each term before its weight."""
        parts = {name: term(batch) for name, term in self.terms.items()}
        return sum(self.weights[name] * part for name, part in parts.items()), parts
