"""The terms of an objective and their options, read from their source: nothing here needs torch.

A term `kd` is the file `dgd/objectives/kd.py`, which ends in `TERM = <its class>`; its options are that class's arguments.
"""

import ast
import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from dgd import keys

FOLDER = Path(__file__).parent / "objectives"
TYPES = {"float": float, "int": int, "bool": bool, "str": str}
ADDED: dict[str, type] = {}
"""Terms of plugins by name; `known` has them too."""


@cache
def known() -> dict[str, dict[str, tuple[type, Any]]]:
    """Return the terms by name: option -> its type and its default."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        body = ast.parse(path.read_text("utf-8")).body
        names = [node.value.id for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TERM"]
        for node in body:
            if isinstance(node, ast.ClassDef) and node.name in names:
                found[path.stem] = _options(node)
    return found


def _options(node: ast.ClassDef) -> dict[str, tuple[type, Any]]:
    makers = [line for line in node.body if isinstance(line, ast.FunctionDef) and line.name == "__init__"]
    if not makers:
        return {}
    arguments = makers[0].args
    pairs = zip(arguments.args[1:], arguments.defaults, strict=True)
    return {argument.arg: (TYPES[ast.unparse(argument.annotation)], ast.literal_eval(value)) for argument, value in pairs}


def signature(term: type) -> dict[str, tuple[type, Any]]:
    """Return the options of a term's class: name -> type and default.

    Raises:
        TypeError: An argument has no default, or its type is none of `TYPES`.
    """
    found = {}
    for name, argument in inspect.signature(term).parameters.items():
        kind = TYPES.get(getattr(argument.annotation, "__name__", argument.annotation))
        if kind is None or argument.default is argument.empty:
            raise TypeError(f"has the option {name!r}, which needs a default and one of the types {', '.join(TYPES)}")
        found[name] = (kind, argument.default)
    return found


def options(term: str) -> dict[str, tuple[type, Any]]:
    """Return the options of a term: name -> type and default; none of a term that is not known here."""
    return known().get(term, {})


def objective_problems(given: Any, where: str) -> list[str]:
    """Say what is wrong with an objective of a config: term -> weight, or term -> {weight: ..., <option>: ...}."""
    lines = []
    for term, value in given.items():
        place = f"{where}.{keys.spelled(term)}"
        if not isinstance(term, str) or term not in known():
            lines.append(f"{place}: unknown term {keys.short(term)}{keys.nearest(term, known())}")
        elif isinstance(value, Mapping):
            wanted = {"weight": (float, 1.0), **options(term)}
            for option, item in value.items():
                if option in wanted:
                    lines += keys.of_type(wanted[option][0], item, f"{place}.{option}", keys.Key(""))
                else:
                    lines.append(f"{place}.{keys.spelled(option)}: unknown option{keys.nearest(option, wanted)}")
        else:
            lines += keys.of_type(float, value, place, keys.Key("Its weight."))
    return lines
