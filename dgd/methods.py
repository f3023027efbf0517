"""The named methods: how many networks learn together, what each step minimises, what they exchange at an epoch's end.

A method is a row of data. The loop in `dgd.training` knows no name of this table.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace


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


GRAFT = {"name": "graft"}
BASELINE = Method()
KD = Method({"ce": 1.0, "kd": 1.0}, teachers=1)

METHODS: dict[str, Method] = {
    "baseline": BASELINE,
    "kd": KD,
    "grafting": replace(BASELINE, exchange=GRAFT, networks=2),
    "dgd": replace(KD, exchange=GRAFT, networks=2),
}


def resolve(entry: str | Mapping) -> tuple[str, dict]:
    """Turn an item of a config's `methods` into a name and the method's fields.

    Args:
        entry: A name of `METHODS`, or a one-key mapping `{name: {base: <name>, <field>: <value>, ...}}`.

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
    if base not in METHODS:
        raise ValueError(f"methods: unknown method {base!r}; known: {', '.join(METHODS)}")
    if not re.fullmatch(r"[\w.+-]+", str(name)):
        raise ValueError(f"methods: {name!r} names folders; use letters, digits, and any of _ . + -")
    if name == "baseline" and changes:
        raise ValueError("methods: baseline is what gains are measured against; give the changed row a name of its own")
    known = [f.name for f in fields(Method)]
    for key in changes:
        if key not in known:
            raise ValueError(f"methods.{name}: unknown key {key!r}; known: base, {', '.join(known)}")
    exchange = changes.get("exchange")
    if exchange and "name" not in exchange:  # options for the exchange that the base has
        if not METHODS[base].exchange:
            raise ValueError(f"methods.{name}: exchange has no name, and {base} has no exchange to take it from")
        changes["exchange"] = {**METHODS[base].exchange, **exchange}
    method = replace(METHODS[base], **changes)
    if not method.objective:
        raise ValueError(f"methods.{name}: objective is empty; it needs at least one term")
    if method.networks < 1 or method.teachers < 0:
        raise ValueError(f"methods.{name}: networks must be at least 1 and teachers at least 0")
    if method.exchange and method.networks < 2:
        raise ValueError(f"methods.{name}: {method.exchange['name']} needs at least 2 networks, networks is {method.networks}")
    return name, asdict(method)
