"""The named methods: how many networks learn together, what each step minimises, what they exchange at an epoch's end.

A method is a row of data. The loop in `dgd.training` knows no name of this table.
"""

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Method:
    """A composition of terms, a group and an exchange.

    Attributes:
        objective: Term name -> weight, or term name -> {'weight': ..., option: ...}. The step minimises the weighted sum.
        exchange: {'name': ..., option: ...}, what the group's networks do to each other's weights at an epoch's end.
        networks: Networks that learn together. The first one is reported (CVPR paper, section 4.1).
        teachers: Frozen networks whose logits the terms may use.
        recipe: Keys of the recipe that this method overrides.
    """

    objective: Mapping = field(default_factory=lambda: {"ce": 1.0})
    exchange: Mapping | None = None
    networks: int = 1
    teachers: int = 0
    recipe: Mapping = field(default_factory=dict)


# What an exchange does, as data: every option with its default. dgd.grafting computes it.
WHEN = {"every": 1, "from": 1, "until": None, "evaluate": "before"}  # epochs, counted from 1
AROUND = {"momentum": "keep", "batch_norm": "blend"}
EXCHANGES: dict[str, dict] = {
    "graft": {
        "a": 0.4,
        "c": 500.0,
        "criterion": "entropy",
        "level": "layer",
        "rule": "arctan",
        "share": None,
        "protocol": "paper",
    },
    "average": {},
    "swap": {},
    "noise": {"gamma": 0.1, "base": 0.975},
    "internal": {"gamma": 0.1},
    "repr": {"share": 0.3, "normal": 20, "pruned": 10, "cycles": 3, "skip_first": True},
}
ALONE = ("noise", "internal", "repr")
"""Exchanges that work on each network by itself."""
CYCLES = ("repr",)
"""Exchanges that say by themselves in which epochs they do something."""

PROTOCOLS: dict[str, dict] = {
    "paper": {"layers": "dimension", "non_conv": "last", "include_max": True, "digits": None, "counters": "keep"},
    "reference-code": {"layers": "name", "non_conv": "last", "include_max": False, "digits": 2, "counters": "blend"},
}
"""Where the papers' text and the published CIFAR script differ in an exchange; each is an option of `graft` too."""

CHOICES = {
    "criterion": ("entropy", "l1", "bn-gamma"),
    "level": ("layer", "filter"),
    "rule": ("arctan", "ratio"),
    "protocol": tuple(PROTOCOLS),
    "layers": ("dimension", "name"),
    "non_conv": ("last", "own", "none"),
    "counters": ("keep", "blend"),
    "momentum": ("keep", "reset", "graft"),
    "batch_norm": ("blend", "reestimate"),
    "evaluate": ("before", "after"),
}

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
    "dml": Method({"ce": 1.0, "mutual": 1.0}, networks=2),
    "ffsd": Method({"ce": 1.0, "ffsd": 1.0}, networks=3),
    "self-explanation": Method({"ce": 1.0, "explanation": 1.0}),
    "repr": Method(exchange={"name": "repr"}),
    # What they are held against.
    "independent": Method(networks=2),
    "label-smoothing": Method({"ce": {"weight": 1.0, "smoothing": 0.1}}),
    "self-explanation-shuffled": Method({"ce": 1.0, "explanation": {"weight": 1.0, "shuffle": True}}),
}

GRAFTED = "+graft"
NAMED = {"baseline": "grafting", "kd": "dgd", "independent": "grafting"}
"""Rows whose combination with grafting has a name of its own."""


def grafted(name: str) -> str:
    """The name of a row's combination with grafting: the same terms, in a group of at least two networks that are grafted."""
    return NAMED.get(name, name + GRAFTED)


def find(name: str) -> Method:
    """The row of a name: one of `METHODS`, or `<row>+graft`.

    Raises:
        ValueError: There is no such row.
    """
    if name in METHODS:
        return METHODS[name]
    plain = str(name).removesuffix(GRAFTED)
    if plain == name or plain not in METHODS:
        raise ValueError(f"methods: unknown method {name!r}; known: {', '.join(METHODS)}, and each with {GRAFTED} after it")
    if plain in NAMED:
        raise ValueError(f"methods: {name!r} has a name of its own, {NAMED[plain]!r}")
    if METHODS[plain].exchange:
        raise ValueError(f"methods: {name!r}: {plain} has an exchange, and a method has one at most")
    return replace(METHODS[plain], exchange=GRAFT, networks=max(2, METHODS[plain].networks))


def _known(name: str) -> bool:
    try:
        return bool(find(name))
    except ValueError:
        return False


def resolve(entry: str | Mapping) -> tuple[str, dict]:
    """Turn an item of a config's `methods` into a name and the method's fields.

    Args:
        entry: A name that `find` knows, or a one-key mapping `{name: {base: <name>, <field>: <value>, ...}}`.

    Raises:
        ValueError: Unknown method or field, or counts that make no sense.
    """
    if isinstance(entry, str):
        name, changes = entry, {}
        base = name
    elif isinstance(entry, Mapping) and len(entry) == 1:
        name, changes = next(iter(entry.items()))
        changes = dict(changes or {})
        base = changes.pop("base", name)
    else:
        raise ValueError(f"methods: {entry!r} is neither a name nor one `name: {{base: ..., ...}}` mapping")
    row = find(base)
    if not re.fullmatch(r"[\w.+-]+", str(name)):
        raise ValueError(f"methods: {name!r} names folders; use letters, digits, and any of _ . + -")
    if changes and _known(name):
        raise ValueError(
            f"methods: {name} is what published numbers and gains are held against; give the changed row a name of its own"
        )
    known = [f.name for f in fields(Method)]
    for key in changes:
        if key not in known:
            raise ValueError(f"methods.{name}: unknown key {key!r}; known: base, {', '.join(known)}")
    exchange = changes.get("exchange")
    if exchange is not None and (not isinstance(exchange, Mapping) or not exchange):
        raise ValueError(f"methods.{name}: exchange is {exchange!r}; write {{name: ..., <option>: ...}}, or null for none")
    if exchange and "name" not in exchange:  # options for the exchange that the base has
        if not row.exchange:
            raise ValueError(f"methods.{name}: exchange has no name, and {base} has no exchange to take it from")
        changes["exchange"] = {**row.exchange, **exchange}
    method = replace(row, **changes)
    if not method.objective:
        raise ValueError(f"methods.{name}: objective is empty; it needs at least one term")
    if method.networks < 1 or method.teachers < 0:
        raise ValueError(f"methods.{name}: networks must be at least 1 and teachers at least 0")
    if method.exchange and method.exchange["name"] not in ALONE and method.networks < 2:
        raise ValueError(f"methods.{name}: {method.exchange['name']} needs at least 2 networks, networks is {method.networks}")
    return name, asdict(method)


def given_options(objective: Mapping) -> dict[str, dict]:
    """Return the terms with the options that are given, in which a bare number is `{'weight': number}`."""
    return {term: dict(value) if isinstance(value, Mapping) else {"weight": value} for term, value in objective.items()}


def written_out(objective: Mapping) -> dict[str, dict]:
    """Return the terms with their weights and every option, so that two objectives that are the same are equal.

    Args:
        objective: Term -> weight, or term -> {'weight': ..., option: ...}.

    Returns:
        Term -> {'weight': float, option: value, ...}. Of a term outside this package only what is given is known.
    """
    found = {}
    for term, given in given_options(objective).items():
        full = {"weight": 1.0, **_defaults(term), **given}
        found[term] = full | {"weight": float(full["weight"])}
    return found


@cache
def _defaults(term: str) -> Mapping:
    """Return the options of a term with their defaults, read from its source: nothing here needs torch."""
    path = Path(__file__).parent / "objectives" / f"{term}.py"
    if not path.is_file():
        return {}
    for node in ast.parse(path.read_text("utf-8")).body:
        assigned = [target.id for line in getattr(node, "body", ()) if isinstance(line, ast.Assign) for target in line.targets]
        if isinstance(node, ast.ClassDef) and "source" in assigned:
            makers = [line for line in node.body if isinstance(line, ast.FunctionDef) and line.name == "__init__"]
            pairs = [pair for line in makers for pair in zip(line.args.args[1:], line.args.defaults, strict=True)]
            return {argument.arg: ast.literal_eval(default) for argument, default in pairs}
    return {}


def filled_exchange(exchange: Mapping | None, protocol: str = "paper") -> dict | None:
    """An exchange with every option written out, those of the protocol included; None is none.

    Args:
        exchange: {'name': ..., option: ...}.
        protocol: What `graft` follows where the exchange does not say.

    Raises:
        ValueError: Unknown exchange or option, or a value that it cannot have.
    """
    if not exchange:
        return None
    name = exchange["name"]
    if name not in EXCHANGES:
        raise ValueError(f"unknown exchange {name!r}; known: {', '.join(EXCHANGES)}")
    options = {**EXCHANGES[name], **({} if name in ALONE else AROUND), **WHEN}
    if name == "graft":
        protocol = exchange.get("protocol", protocol)
        options |= {"protocol": protocol, **PROTOCOLS.get(protocol, {})}
        if exchange.get("level") == "filter":
            options["layers"] = "dimension"  # the published filter-level script goes by the kind of module, not by name
    for key, value in exchange.items():
        if key == "name":
            continue
        if key not in options:
            raise ValueError(f"exchange {name!r} has no option {key!r}; known: {', '.join(options)}")
        _check_option(key, value)
    filled = {"name": name, **options, **exchange}
    if name in CYCLES:
        for key, value in WHEN.items():
            if filled[key] != value:
                raise ValueError(f"exchange {name!r} has no option {key!r}; it keeps its own time: normal, pruned, cycles")
        if not filled["share"] or filled["share"] == 1:
            raise ValueError(f"exchange option share of {name!r} is {filled['share']}; it must be above 0 and below 1")
    if filled["until"] is not None and filled["until"] < filled["from"]:
        raise ValueError(
            f"exchange option until is {filled['until']}, before from, {filled['from']}: it would never take place"
        )
    if name == "graft":
        _check_together(filled)
    return filled


def _check_together(options: Mapping) -> None:
    """Check options of `graft` that depend on each other."""
    if options["non_conv"] == "own" and options["criterion"] == "bn-gamma":
        raise ValueError("exchange option non_conv is 'own', and only filters have the criterion 'bn-gamma'; use another one")
    if options["level"] == "filter" and options["protocol"] == "reference-code":
        wanted = {"criterion": "bn-gamma", "rule": "ratio", "share": None}
        for key, value in wanted.items():
            if options[key] != value:
                raise ValueError(
                    f"exchange option {key} is {options[key]!r}; the published filter-level script (level: filter, protocol: "
                    f"reference-code) knows only {'null' if value is None else value}"
                )


def _check_option(key: str, value) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if key == "non_conv":
        good = 0 <= value <= 1 if number else value in CHOICES[key]
        wanted = f"one of {', '.join(CHOICES[key])}, or a number from 0 to 1"
    elif key in CHOICES:
        good, wanted = value in CHOICES[key], f"one of {', '.join(CHOICES[key])}"
    elif key in ("every", "from", "normal", "pruned", "cycles"):
        good, wanted = whole and value >= 1, "a whole number of at least 1"
    elif key in ("until", "digits"):
        good, wanted = value is None or (whole and value >= 0), "a whole number or null"
    elif key in ("include_max", "skip_first"):
        good, wanted = isinstance(value, bool), "true or false"
    elif key == "share":
        good, wanted = value is None or (number and 0 <= value <= 1), "a number from 0 to 1, or null"
    elif key == "base":
        good, wanted = number and 0 < value <= 1, "a number above 0 and at most 1"
    elif key == "a":
        good, wanted = number and 0 <= value <= 1, "a number from 0 to 1, so that shares are too"
    else:
        good, wanted = number and math.isfinite(value), "a number"
    if not good:
        raise ValueError(f"exchange option {key} is {value!r}; it must be {wanted}")
