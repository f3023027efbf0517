"""Find the published numbers that a cell stands beside, by typed fields; no label of either side is looked at."""

import json
from collections.abc import Hashable, Mapping
from functools import cache
from itertools import product

import pandas as pd

from dgd import keys, methods
from dgd.cell import Exchange, exchange
from dgd.read.departures import departures

BY_PROTOCOL = {"kd": ("teachers",)}
"""Options of terms that a protocol sets; either value stands for a published number, as for those of `graft`."""

Composition = Hashable
"""What a step minimises and what the networks exchange, as far as it is a condition; equal where both are the same."""


def composition(objective: Mapping, exchanged: Mapping | Exchange | None) -> Composition:
    """Return what is compared of an objective and an exchange, with every default written out.

    Args:
        objective: Term -> weight, or term -> {'weight': ..., option: ...}.
        exchanged: {'name': ..., option: ...}, or an `Exchange`; None without one.
    """
    terms = methods.written_out(objective)
    terms = {
        term: {option: value for option, value in options.items() if option not in BY_PROTOCOL.get(term, ())}
        for term, options in terms.items()
    }
    return _frozen(terms), exchange_composition(exchanged)


def exchange_composition(exchanged: Mapping | Exchange | None) -> Hashable:
    """Return what is compared of an exchange: its name and the options that are conditions."""
    found = exchange(exchanged)
    if found is None:
        return None
    specs = keys.specs(type(found)).items()
    return found.name, _frozen({name: getattr(found, spec.attribute) for name, spec in specs if spec.key.condition})


def _frozen(value):
    return tuple(sorted((key, _frozen(item)) for key, item in value.items())) if isinstance(value, Mapping) else value


def composition_of(row: Mapping) -> Composition:
    """Return the composition of a row of cells.csv."""
    exchanged, generated = row["exchange"], row.get("generated")
    found = _of_text(row["objective"], None if pd.isna(exchanged) else exchanged)
    # No published number of a method stands for one that trains on generated images.
    return found if generated is None or pd.isna(generated) else (*found, generated)


@cache
def _of_text(objective: str, exchanged: str | None) -> Composition:
    return composition(json.loads(objective), json.loads(exchanged) if exchanged else None)


@cache
def plain() -> Composition:
    """Return the composition of a network that is trained alone, on the labels."""
    return composition(methods.METHODS["baseline"].objective, None)


def is_baseline(published: Mapping) -> bool:
    """Return whether a published row is that of one network trained alone by the recipe of its data set."""
    method = published["composition"]
    if method is None or published["overrides"] or (published["networks"], published["teachers"]) != (1, 0):
        return False
    return composition(method.objective, method.exchange) == plain()


class Published:
    """Published numbers, to be asked for those of a cell.

    Args:
        papers: From `dgd.read.papers.read_papers`.
    """

    def __init__(self, papers: pd.DataFrame):
        absent = {"teacher": "", "teacher_here": "", "counts": None, "copied_from": None, "reported": None}
        self.rows = [
            row | {key: value for key, value in absent.items() if pd.isna(row[key])} for row in papers.to_dict("records")
        ]
        self._found: dict[tuple, list[dict]] = {}
        for row in self.rows:
            if row["composition"] is None:
                continue
            method = row["composition"]
            composed = composition(method.objective, method.exchange)
            composed = (*composed, method.generated) if method.generated else composed
            # A cell of the paper's own network, once there is one here, stands beside it as one of ours does.
            names = ({row["model"], row["model_here"]}, {row["teacher"], row["teacher_here"]})
            for model, teacher in product(*names):
                key = row["metric"], row["dataset"], model, teacher, row["networks"], row["teachers"], composed
                self._found.setdefault(key, []).append(row)

    def of(self, cell: Mapping, metric: str) -> tuple[list[dict], list[dict]]:
        """Return the published numbers of a cell, and those of its method by another recipe, best first.

        Data set, networks, teacher, their numbers, objective and exchange must agree. Of rows whose methods override keys of
        the recipe, those stand for the cell that say most of what it has.

        Args:
            cell: A row of cells.csv.
            metric: What was measured, by the name that published rows have for it.
        """
        dataset = cell["dataset"].removeprefix("imagefolder-").lower()
        teacher = "" if pd.isna(cell["teacher"]) else cell["teacher"]
        key = metric, dataset, cell["student"], teacher, cell["networks"], cell["teachers"], composition_of(cell)
        found = self._found.get(key, [])
        agree = [row for row in found if not departures(cell, row["overrides"])]
        most = max((len(row["overrides"]) for row in agree), default=0)
        own = [row for row in agree if len(row["overrides"]) == most]
        ids = {row["id"] for row in own}
        return own, [row for row in found if row["id"] not in ids]

    def baseline(self, row: Mapping) -> dict | None:
        """Return the published baseline of a published row: of the same table, else the paper's first; None without one."""
        same = ("paper", "dataset", "model", "metric")
        found = [other for other in self.rows if all(other[key] == row[key] for key in same) and is_baseline(other)]
        return next((other for other in found if other["table"] == row["table"]), found[0] if found else None)
