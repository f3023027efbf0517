"""The terms that a step can minimise: one file a term, looked up by name in `TERMS`.

A new term is a new file (a `Term`, see `dgd.objectives.term`) named as the term; the loop gives it what it declares to need.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from pathlib import Path

from torch import Tensor, nn

from dgd.objectives.term import NEEDS, STATUSES, Batch, Output, Setting, Term

__all__ = ["NEEDS", "STATUSES", "TERMS", "Batch", "Objective", "Output", "Setting", "Term", "weakest"]


class Terms(Mapping[str, type[Term]]):
    """The terms by name. A module is only imported when its term is asked for."""

    def __getitem__(self, name: str) -> type[Term]:
        if name not in _names():
            raise KeyError(name)
        module = import_module(f"{__name__}.{name}")
        return next(
            kind for kind in vars(module).values() if getattr(kind, "__module__", "") == module.__name__ and _is_term(kind)
        )

    def __iter__(self) -> Iterator[str]:
        return iter(_names())

    def __len__(self) -> int:
        return len(_names())


def _is_term(kind) -> bool:
    return isinstance(kind, type) and issubclass(kind, Term)


@cache
def _names() -> tuple[str, ...]:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple(path.stem for path in files if "Term):\n" in path.read_text() and path.stem not in ("banks", "__init__"))


TERMS = Terms()


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
