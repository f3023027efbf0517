"""Define a key once: its type, default, bounds and sentence, from which checks, the JSON schema and the reference are made.

A frozen dataclass whose fields are made by `key` is a *kind*. `problems` checks what a YAML file gave for a kind, `build` makes
the kind of it, `plain` turns it back into what YAML and JSON can hold, and `schema` gives its JSON schema.
"""

import difflib
import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Key:
    """What is known of a key besides its type and default.

    Attributes:
        says: One sentence for the reference.
        choices: The values that it can have; empty for any of its type.
        least, most: Bounds that are allowed; of each item where the key is a list.
        above, below: Bounds that are not.
        condition: A published number was measured under it: a cell that has another value departs from the publication.
        decides: The cell's result depends on it, so it is part of the cell's identity.
        spelled: Its name in YAML, where Python keeps the word for itself.
        check: Further check of a value of the right type: (value, where) -> problems.
        filled: Default that the reference states, where it depends on other keys.
    """

    says: str
    choices: tuple = ()
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    condition: bool = False
    decides: bool = True
    spelled: str = ""
    check: Callable[[Any, str], list[str]] | None = None
    filled: str = ""


@dataclass(frozen=True)
class Spec:
    """A key of a kind: its `name` in YAML, its `attribute` in Python, type hint, default (`MISSING`: required) and `Key`."""

    name: str
    attribute: str
    hint: Any
    default: Any
    key: Key


def key(default: Any = MISSING, says: str = "", **about) -> Any:
    """Make the field of a kind; `about` are the attributes of `Key`."""
    metadata = {"key": Key(says, **about)}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


@cache
def specs(kind: type) -> dict[str, Spec]:
    """Return the keys of a kind by their names in YAML, in order."""
    hints = get_type_hints(kind)
    found = [_spec(f, hints[f.name]) for f in fields(kind) if "key" in f.metadata]
    return {spec.name: spec for spec in found}


def _spec(f: Field, hint: Any) -> Spec:
    default = f.default if f.default_factory is MISSING else f.default_factory()
    about = f.metadata["key"]
    return Spec(about.spelled or f.name, f.name, hint, default, about)


def problems(kind: type, given: Any, where: str = "") -> list[str]:
    """Say in a line each what is wrong with what was given for a kind, and what would be right.

    Args:
        kind: A dataclass whose fields were made by `key`.
        given: What YAML or JSON holds.
        where: The name of the place, such as `recipe`; "" at the top.
    """
    if not isinstance(given, Mapping):
        return [f"{where or 'the whole'} is {_short(given)}; it must be a mapping of keys"]
    known, prefix = specs(kind), f"{where}." if where else ""
    lines = [f"{prefix}{name}: unknown key{nearest(name, known)}" for name in given if name not in known]
    for name, spec in known.items():
        if name in given:
            lines += _problems(spec.hint, given[name], prefix + name, spec.key)
        elif spec.default is MISSING:
            lines.append(f"{prefix}{name} is missing")
    return lines


def build(kind: type, given: Mapping) -> Any:
    """Make a kind of what `problems` found nothing wrong with; missing keys get their defaults."""
    return kind(**{spec.attribute: _built(spec.hint, given[name]) for name, spec in specs(kind).items() if name in given})


def plain(value: Any) -> Any:
    """Return a kind, or anything in it, as mappings, lists and values that YAML and JSON can hold."""
    if is_dataclass(value):
        return {name: plain(getattr(value, spec.attribute)) for name, spec in specs(type(value)).items()}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def nearest(name: Any, known: Iterable) -> str:
    """End a message about an unknown name: the known one that is most like it, or all of them."""
    names = [str(other) for other in known]
    near = difflib.get_close_matches(str(name), names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(names)}"


def _alternatives(hint: Any) -> tuple:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    tuple: "a list",
    Mapping: "a mapping of keys",
    type(None): "null",
}
NAMES = {
    int: "integer",
    float: "number",
    bool: "boolean",
    str: "string",
    tuple: "array",
    Mapping: "object",
    type(None): "null",
}


def _is(kind: Any, value: Any) -> bool:
    """Return whether a value is of a type as YAML knows it: true is no number, and a whole number is a number."""
    if kind is tuple:
        return isinstance(value, list | tuple)
    if is_dataclass(kind):
        return isinstance(value, Mapping)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def _problems(hint: Any, value: Any, where: str, about: Key) -> list[str]:
    if hint is Any:
        return about.check(value, where) if about.check else []
    kinds = [get_origin(kind) or kind for kind in _alternatives(hint)]
    if not any(_is(kind, value) for kind in kinds):
        words = " or ".join(WORDS.get(kind, "a mapping of keys") for kind in kinds)
        bounds = "" if tuple in kinds else f" {_wanted(about)}"
        wanted = _wanted(about) if about.choices else f"{words}{bounds}".rstrip()
        return [f"{where} is {_short(value)}; it must be {wanted}{_number_hint(value, kinds)}"]
    if value is None:
        return []
    if isinstance(value, list | tuple):
        (inner,) = [get_args(kind)[0] for kind in _alternatives(hint) if get_origin(kind) is tuple]
        lines = [line for i, item in enumerate(value) for line in _problems(inner, item, f"{where}[{i}]", _of_items(about))]
        twice = [item for i, item in enumerate(value) if item in value[:i]]
        lines += [f"{where} has {_short(twice[0])} twice; name each once"] if twice else []
        return lines or (about.check(value, where) if about.check else [])
    nested = [kind for kind in kinds if is_dataclass(kind)]
    if nested and isinstance(value, Mapping):
        return problems(nested[0], value, where) or (about.check(value, where) if about.check else [])
    if not _allowed(value, about):
        return [f"{where} is {_short(value)}; it must be {_wanted(about) or 'a finite number'}"]
    return about.check(value, where) if about.check else []


def _of_items(about: Key) -> Key:
    return Key(about.says, about.choices, about.least, about.most, about.above, about.below)


def _allowed(value: Any, about: Key) -> bool:
    if isinstance(value, bool | str):
        return not about.choices or value in about.choices
    if not isinstance(value, int | float):
        return True
    if not math.isfinite(value) or (isinstance(value, int) and abs(value) >= 2**63):
        return False
    if about.choices and not any(bound is not None for bound in (about.least, about.most)):
        return value in about.choices
    return (
        (about.least is None or value >= about.least)
        and (about.most is None or value <= about.most)
        and (about.above is None or value > about.above)
        and (about.below is None or value < about.below)
    )


def _wanted(about: Key) -> str:
    """Say which values a key can have; "" where its type says all."""
    bounds = {"at least": about.least, "above": about.above, "at most": about.most, "below": about.below}
    text = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    if about.choices:
        text = f"one of {', '.join(map(str, about.choices))}" + (f", or a number {text}" if text else "")
    return text


def _number_hint(value: Any, kinds: list) -> str:
    """YAML reads 5e-4 as a text; say so instead of leaving the reader to wonder."""
    if isinstance(value, str) and float in kinds:
        try:
            return f" (YAML takes {value} for a text, write {float(value)!r})"
        except ValueError:
            return ""
    return ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _built(hint: Any, value: Any) -> Any:
    if hint is Any or value is None:
        return value
    for kind in _alternatives(hint):
        origin = get_origin(kind) or kind
        if origin is tuple and isinstance(value, list | tuple):
            return tuple(_built(get_args(kind)[0], item) for item in value)
        if is_dataclass(kind) and isinstance(value, Mapping):
            return build(kind, value)
        if kind is float and _is(float, value):
            return float(value)
    return value


def schema(kind: type) -> dict:
    """Return the JSON schema of a kind, with descriptions and defaults."""
    known = specs(kind)
    found: dict[str, Any] = {"type": "object", "additionalProperties": False}
    required = [name for name, spec in known.items() if spec.default is MISSING]
    found |= {"required": required} if required else {}
    return found | {"properties": {name: _schema(spec) for name, spec in known.items()}}


def _schema(spec: Spec) -> dict:
    found = {"description": spec.key.says} | _of_type(spec.hint, spec.key)
    if spec.default is not MISSING and not spec.key.filled:
        found["default"] = plain(spec.default)
    return found


def _of_type(hint: Any, about: Key) -> dict:
    if hint is Any:
        return {}
    found: dict[str, Any] = {}
    names = []
    for kind in _alternatives(hint):
        origin = get_origin(kind) or kind
        names.append("object" if is_dataclass(kind) else NAMES[origin])
        if is_dataclass(kind):
            found |= {name: value for name, value in schema(kind).items() if name != "type"}
        if origin is tuple:
            found |= {"items": _of_type(get_args(kind)[0], _of_items(about)), "uniqueItems": True}
    found["type"] = names[0] if len(names) == 1 else names
    if "array" in names:
        return found
    bounds = {"minimum": about.least, "maximum": about.most, "exclusiveMinimum": about.above, "exclusiveMaximum": about.below}
    found |= {name: bound for name, bound in bounds.items() if bound is not None}
    if about.choices:
        texts = {"enum": [*about.choices, *([None] if "null" in names else [])]}
        found = {"anyOf": [texts, {"type": "number"} | found]} if {"number", "integer"} & set(names) else found | texts
        if "anyOf" in found:
            found["anyOf"][1]["type"] = [name for name in names if name != "string"]
    return found
