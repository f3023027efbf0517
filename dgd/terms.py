"""The options of the terms of an objective, read from their source: nothing here needs torch.

A term `kd` is the file `dgd/objectives/kd.py` that holds a class with a `source`; its options are that class's arguments. Terms
that are registered from outside this package are known where torch is.
"""

import ast
import inspect
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import dgd
from dgd import keys

FOLDER = Path(__file__).parent / "objectives"
TYPES = {"float": float, "int": int, "bool": bool, "str": str}


@cache
def known() -> dict[str, dict[str, tuple[type, Any]]]:
    """Return the terms of this package by name: option -> its type and its default."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        classes = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
        for node in filter(_is_term, classes):
            found[path.stem] = _options(node)
    return found


def _is_term(node: ast.ClassDef) -> bool:
    assigned = [target.id for line in node.body if isinstance(line, ast.Assign) for target in line.targets]
    return "source" in assigned and node.name != "Term"


def _options(node: ast.ClassDef) -> dict[str, tuple[type, Any]]:
    makers = [line for line in node.body if isinstance(line, ast.FunctionDef) and line.name == "__init__"]
    if not makers:
        return {}
    arguments = makers[0].args
    pairs = zip(arguments.args[1:], arguments.defaults, strict=True)
    return {argument.arg: (TYPES[ast.unparse(argument.annotation)], ast.literal_eval(value)) for argument, value in pairs}


def names() -> list[str]:
    """Return the names of all terms that can be asked for here."""
    if not dgd.NETWORKS:
        return sorted(known())
    from dgd.objectives import TERMS

    return sorted({*known(), *TERMS})


def options(term: str) -> dict[str, tuple[type, Any]]:
    """Return the options of a term: name -> type and default.

    Raises:
        KeyError: There is no such term.
    """
    if term in known() or not dgd.NETWORKS:
        return known()[term]
    from dgd.objectives import TERMS

    hints = typing.get_type_hints(TERMS[term].__init__)
    parameters = inspect.signature(TERMS[term]).parameters.values()
    return {p.name: (hints.get(p.name, Any), p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}


def objective_problems(given: Any, where: str) -> list[str]:
    """Say what is wrong with an objective of a config: term -> weight, or term -> {weight: ..., <option>: ...}."""
    lines = []
    for term, value in given.items():
        place = f"{where}.{keys.spelled(term)}"
        if not isinstance(term, str) or term not in names():
            lines.append(f"{place}: unknown term {keys.short(term)}{keys.nearest(term, names())}")
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
