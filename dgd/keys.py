"""Define a key once: its type, default, bounds and sentence, from which checks, the JSON schema and the reference are made.

A frozen dataclass whose fields are made by `key` is a *kind*. `problems` checks what a YAML file gave for a kind, `build` makes
the kind of it, `plain` turns it back into what YAML and JSON can hold, and `schema` gives its JSON schema.
"""

import difflib
import json
import math
import re
import reprlib
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
        names: A text, or each text of a list, that names a folder or a file: see `NAME`.
        nonempty: A list or a mapping that holds something.
        of: A mapping holds some keys of this kind, which replace those of another place.
        repeats: A list may hold a value more than once.
        later: It is younger than recorded identities, which are those of its default; an identity leaves that out.
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
    names: bool = False
    nonempty: bool = False
    of: type | None = None
    repeats: bool = False
    later: bool = False


# The end is written as JSON schema's regular expressions know it too: `$` would let a line's end through.
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}(?![\s\S])"
NAMED = "a name of at most 100 letters, digits, `_`, `.`, `+`, `-` that begins with a letter or a digit"
TEXT = r"^[^\u0000-\u001f\u007f\ud800-\udfff]+(?![\s\S])"


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


def folder(value: str, where: str) -> list[str]:
    """Check a path that Snakemake makes outputs below: it takes braces for wildcards."""
    return [f"{where} is {short(value)}; it must have no braces"] if set(value) & set("{}") else []


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
        return [f"{where or 'the whole'} is {short(given)}; it must be a mapping of keys"]
    return [line for lines in by_key(kind, given, where).values() for line in lines]


def by_key(kind: type, given: Mapping, where: str = "") -> dict[Any, list[str]]:
    """Return what `problems` says about each key that has any, unknown and missing keys included."""
    known, prefix = specs(kind), f"{where}." if where else ""
    found = {name: [f"{prefix}{spelled(name)}: unknown key{nearest(name, known)}"] for name in given if name not in known}
    for name, spec in known.items():
        if name in given:
            found[name] = of_type(spec.hint, given[name], prefix + name, spec.key)
        elif spec.default is MISSING:
            found[name] = [f"{prefix}{name} is missing"]
    return {name: lines for name, lines in found.items() if lines}


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


def is_name(text: str) -> bool:
    """Return whether a text can name a folder or a file: see `NAME`."""
    return bool(re.match(NAME, text))


def nearest(name: Any, known: Iterable) -> str:
    """End a message about an unknown name: the known one that is most like it, or all of them."""
    names = [str(other) for other in known]
    near = difflib.get_close_matches(str(name)[:100], names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(names)}"


def spelled(name: Any) -> str:
    """Return a key as a message names it: on one line, and no longer than that."""
    return name if isinstance(name, str) and name.isprintable() and len(name) <= 60 else short(name)


def short(value: Any) -> str:
    """Return a value as a message shows it: in one line, however large it is."""
    text = SHORT.repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 60
SHORT.maxlevel = 3


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


def of_type(hint: Any, value: Any, where: str, about: Key) -> list[str]:
    """Say what is wrong with a value for a type hint and what is known of its key; see `problems`."""
    if hint is Any:
        return about.check(value, where) if about.check else []
    kinds = [get_origin(kind) or kind for kind in _alternatives(hint)]
    if not any(_is(kind, value) for kind in kinds):
        words = " or ".join(WORDS.get(kind, "a mapping of keys") for kind in kinds)
        bounds = "" if tuple in kinds or about.names else f" {_wanted(about)}"
        wanted = _wanted(about) if about.choices else f"{words}{bounds}".rstrip()
        return [f"{where} is {short(value)}; it must be {wanted}{_number_hint(value, kinds)}"]
    if value is None:
        return []
    if about.nonempty and isinstance(value, list | tuple | Mapping) and not value:
        return [f"{where} is empty; it needs at least one item"]
    lines: list[str] = []
    nested = next((kind for kind in kinds if is_dataclass(kind)), about.of)
    if isinstance(value, list | tuple):
        (inner,) = [get_args(kind)[0] for kind in _alternatives(hint) if get_origin(kind) is tuple]
        each = _of_items(about)
        lines = [line for i, item in enumerate(value) for line in of_type(inner, item, f"{where}[{i}]", each)]
        twice = [] if about.repeats else _twice(value, inner)[:1]
        lines = lines or [f"{where} has {short(item)} twice; name each once" for item in twice]
    elif nested and isinstance(value, Mapping):
        lines = problems(nested, value, where)
    elif not _allowed(value, about):
        wanted = _wanted(about) if isinstance(value, str) or _is_usual(value) else ""
        lines = [f"{where} is {short(value)}; it must be {wanted or _usual(value)}"]
    return lines or (about.check(value, where) if about.check else [])


def _of_items(about: Key) -> Key:
    return Key(about.says, about.choices, about.least, about.most, about.above, about.below, names=about.names)


def _twice(items: Iterable, inner: Any) -> list:
    """Return the items that stood earlier in the list already; free mappings, which may be endless, are left to `check`."""
    seen, found = set(), []
    for item in items:
        if isinstance(item, Mapping) and not is_dataclass(inner):
            continue
        mark = json.dumps(item, sort_keys=True, default=str) if isinstance(item, Mapping | list) else item
        if mark in seen:
            found.append(item)
        seen.add(mark)
    return found


def _usual(value: Any) -> str:
    """Say what every text and every number must be."""
    if isinstance(value, str):
        return "a text of at least one character, without control characters"
    return "a finite number" if isinstance(value, float) else "a number that 64 bits hold"


def _is_usual(value: float) -> bool:
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63


def _allowed(value: Any, about: Key) -> bool:
    if isinstance(value, str):
        return value in about.choices if about.choices else bool(re.match(NAME if about.names else TEXT, value))
    if isinstance(value, bool):
        return not about.choices or value in about.choices
    if not isinstance(value, int | float):
        return True
    if not _is_usual(value):
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
    if about.names:
        return NAMED
    bounds = {"at least": about.least, "above": about.above, "at most": about.most, "below": about.below}
    text = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
    if about.choices:
        text = f"one of {', '.join(map(str, about.choices))}" + (f", or a number {text}" if text else "")
    return text


def _number_hint(value: Any, kinds: list) -> str:
    """Return a hint for numbers such as 5e-4, which YAML reads as a text; "" where it does not apply."""
    if isinstance(value, str) and float in kinds:
        try:
            return f" (YAML takes {value} for a text, write {float(value)!r})"
        except ValueError:
            return ""
    return ""


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


def summary(kind: type) -> str:
    """Return the first paragraph of a kind's docstring, on one line."""
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


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
        if is_dataclass(kind) or (origin is Mapping and about.of):
            found |= {name: value for name, value in schema(about.of or kind).items() if name != "type"}
        if origin is tuple:
            inner = get_args(kind)[0]
            found |= {"items": _of_type(inner, _of_items(about)), "uniqueItems": not about.repeats}
    found["type"] = names[0] if len(names) == 1 else names
    if about.nonempty:
        found |= {"array": {"minItems": 1}, "object": {"minProperties": 1}}[names[0]]
    if "array" in names:
        return found
    if "string" in names and not about.choices:
        found["pattern"] = NAME if about.names else TEXT
    bounds = {"minimum": about.least, "maximum": about.most, "exclusiveMinimum": about.above, "exclusiveMaximum": about.below}
    found |= {name: bound for name, bound in bounds.items() if bound is not None}
    if about.choices:
        texts = {"enum": [*about.choices, *([None] if "null" in names else [])]}
        found = {"anyOf": [texts, {"type": "number"} | found]} if {"number", "integer"} & set(names) else found | texts
        if "anyOf" in found:
            found["anyOf"][1]["type"] = [name for name in names if name != "string"]
    return found
