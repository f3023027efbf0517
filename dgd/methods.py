"""The named methods: how many networks learn together, what each step minimises, what they exchange at an epoch's end.

A method is a row of data, a `dgd.cell.Method`. The loop knows no name of this table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dgd import keys, terms
from dgd.cell import EXCHANGES, Cell, Method, exchange_problems
from dgd.keys import key

GRAFT = {"name": "graft"}
BASELINE = Method()
KD = Method({"ce": 1.0, "kd": 1.0}, teachers=1)


def _taught(**terms) -> Method:
    return Method({"ce": 1.0, **terms}, teachers=1)


METHODS: dict[str, Method] = {
    "baseline": BASELINE,
    "kd": KD,
    "grafting": replace(BASELINE, exchange=GRAFT, networks=2),
    "dgd": replace(KD, exchange=GRAFT, networks=2),
    # Weights as published with each method's code; where they differ from pair to pair, the general one.
    "kd-crd": Method({"ce": 0.1, "kd": {"weight": 0.9, "tau": 4.0}}, teachers=1),
    "fitnet": _taught(fitnet=100.0),
    "at": _taught(at=1000.0),
    "sp": _taught(sp=3000.0),
    "rkd": _taught(rkd=1.0),
    "crd": _taught(crd=0.8),
    "dkd": _taught(dkd=1.0),
    "review": _taught(review=1.0),
    "hkd": _taught(hkd=3.0),
    "hkd+kd": _taught(kd={"weight": 1.0, "tau": 4.0}, hkd=3.0),
    "kr": _taught(kr=1.0),
    "kr+kd": _taught(kd={"weight": 1.0, "tau": 4.0}, kr=1.0),
    "ccl": _taught(ccl=1.0),
    "dml": Method({"ce": 1.0, "mutual": 1.0}, networks=2),
    "ffsd": Method({"ce": 1.0, "ffsd": 1.0}, networks=3),
    "ddnn": Method({"ce": 1.0, "subnet_ce": 1.0, "ekd": 1.5, "ekd_attention": 1.0}, subnets=True),
    "self-explanation": Method({"ce": 1.0, "explanation": 1.0}),
    "repr": Method(exchange={"name": "repr"}),
    # What they are held against.
    "independent": Method(networks=2),
    "label-smoothing": Method({"ce": {"weight": 1.0, "smoothing": 0.1}}),
    "ccl-uncomposed": _taught(ccl={"weight": 1.0, "compose": False}),
    "ccl-shuffled": _taught(ccl={"weight": 1.0, "shuffle": True}),
    "self-explanation-shuffled": Method({"ce": 1.0, "explanation": {"weight": 1.0, "shuffle": True}}),
}

GRAFTED = "+graft"
NAMED = {"baseline": "grafting", "kd": "dgd", "independent": "grafting"}
"""Rows whose combination with grafting has a name of its own."""


@dataclass(frozen=True)
class Row(Method):
    """What a config writes of a changed row: the keys that differ from those of its `base`."""

    base: str | None = key(None, "The row that is changed: a name of the method table, also with `+graft` after it.")


def grafted(name: str) -> str:
    """Return the name of a row's combination with grafting: the same terms, in a group of at least two that are grafted."""
    return NAMED.get(name, name + GRAFTED)


def find(name: str) -> Method:
    """Return the row of a name: one of `METHODS`, or `<row>+graft`.

    Raises:
        ValueError: There is no such row.
    """
    if name in METHODS:
        return METHODS[name]
    plain = str(name).removesuffix(GRAFTED)
    if plain == name or plain not in METHODS:
        near = keys.nearest(plain, METHODS)
        raise ValueError(f"unknown method {keys.short(name)}{near}" + (f", and each with {GRAFTED} after it" * (": " in near)))
    if plain in NAMED:
        raise ValueError(f"{name!r} has a name of its own, {NAMED[plain]!r}")
    if METHODS[plain].exchange:
        raise ValueError(f"{name!r}: {plain} has an exchange, and a method has one at most")
    return replace(METHODS[plain], exchange=GRAFT, networks=max(2, METHODS[plain].networks))


def _known(name: str) -> bool:
    try:
        return bool(find(name))
    except ValueError:
        return False


def problems(entry: Any, where: str = "methods", protocol: str = "paper") -> list[str]:
    """Say in a line each what is wrong with an item of a config's `methods`, and what would be right.

    Args:
        entry: What YAML holds: a name that `find` knows, or `{name: {base: <name>, <key>: <value>, ...}}`.
        where: The name of the place.
        protocol: What the exchange follows where the row does not say.
    """
    if isinstance(entry, str):
        return _base_problems(entry, where)
    if not isinstance(entry, Mapping) or len(entry) != 1:
        return [f"{where} is {keys.short(entry)}; it must be a name, or one mapping of a name to {{base: ..., <key>: ...}}"]
    name, changes = next(iter(entry.items()))
    if not isinstance(name, str) or not re.match(keys.NAME, name):
        return [f"{where}: {keys.short(name)} names folders; it must be {keys.NAMED}"]
    where = f"{where.partition('[')[0]}.{name}"
    changes = {} if changes is None else changes
    lines = keys.problems(Row, changes, where)
    if lines:
        return lines
    base = changes.get("base") or name
    if lines := _base_problems(base, where if base == name else f"{where}.base"):
        return lines
    if set(changes) - {"base"} and _known(name):
        return [f"{where}: {name} is what published numbers and gains are held against; give the changed row a name of its own"]
    row, exchange = find(base), changes.get("exchange")
    if exchange and "name" not in exchange and not row.exchange:
        return [f"{where}.exchange has no name, and {base} has no exchange to take it from; known: {', '.join(EXCHANGES)}"]
    if exchange is not None:
        given = {**(row.exchange or {}), **exchange} if exchange and "name" not in exchange else exchange
        lines += exchange_problems(given, f"{where}.exchange", protocol)
    if "objective" in changes:
        lines += terms.objective_problems(changes["objective"], f"{where}.objective")
    return lines or _count_problems(_resolved(entry)[1], where)


def _base_problems(name: str, where: str) -> list[str]:
    try:
        find(name)
    except ValueError as error:
        return [f"{where}: {error}"]
    return []


def _count_problems(method: Method, where: str) -> list[str]:
    exchange = method.exchange
    if exchange and method.networks < EXCHANGES[exchange["name"]].networks:
        return [
            f"{where}: {exchange['name']} needs at least 2 networks, networks is {method.networks}; set networks: 2 or more"
        ]
    return []


def resolve(entry: str | Mapping) -> tuple[str, Method]:
    """Return the name and the method of an item of a config's `methods`.

    Args:
        entry: A name that `find` knows, or a one-key mapping `{name: {base: <name>, <key>: <value>, ...}}`.

    Raises:
        ValueError: What `problems` says of it.
    """
    if lines := problems(entry):
        raise ValueError("\n".join(lines))
    return _resolved(entry)


def _resolved(entry: str | Mapping) -> tuple[str, Method]:
    if isinstance(entry, str):
        return entry, find(entry)
    name, changes = next(iter(entry.items()))
    changes = dict(changes or {})
    row = find(changes.pop("base", None) or name)
    exchange = changes.get("exchange")
    if exchange and "name" not in exchange:  # options for the exchange that the base has
        changes["exchange"] = {**(row.exchange or {}), **exchange}
    return name, replace(row, **changes)


def cell_of(given: Any) -> Cell:
    """Return the cell of a config.yaml, also of an older version: what it lacks has its default, which changes nothing.

    Raises:
        ValueError: Something in it cannot be.
    """
    cell = Cell.from_plain(given)
    for term, value in given_options(cell.objective).items():
        known = terms.known()  # a term that is not known here is somebody's own
        if lines := terms.objective_problems({term: value}, "objective") if term in known else []:
            raise ValueError(lines[0])
    return cell


def name_of(entry: str | Mapping) -> str:
    """Return the name of an item of a config's `methods`."""
    return entry if isinstance(entry, str) else next(iter(entry))


def given_options(objective: Mapping) -> dict[str, dict]:
    """Return the terms with the options that are given, in which a bare number is `{'weight': number}`."""
    return {term: dict(value) if isinstance(value, Mapping) else {"weight": value} for term, value in objective.items()}


def written_out(objective: Mapping) -> dict[str, dict]:
    """Return the terms with their weights and every option, so that two objectives that are the same are equal.

    Args:
        objective: Term -> weight, or term -> {'weight': ..., option: ...}.

    Returns:
        Term -> {'weight': float, option: value, ...}. Of a term that is not known here only what is given.
    """
    found = {}
    for term, given in given_options(objective).items():
        options = terms.options(term)
        full = {"weight": 1.0} | {option: default for option, (_, default) in options.items()} | given
        numbers = {"weight", *(option for option, (kind, _) in options.items() if kind is float)}
        found[term] = {option: float(value) if option in numbers else value for option, value in full.items()}
    return found
