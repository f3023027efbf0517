"""Read published numbers from `papers/*.yaml` and check them, with what each was measured under as typed fields."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

import pandas as pd

from dgd import json_files, keys, methods, yaml_files
from dgd.cell import PRECISIONS, Data, Method, Recipe
from dgd.json_files import Each, Null, Value
from dgd.metrics import METRICS

ROW = {
    "id": str,
    "table": str,
    "dataset": str,
    "model": str,
    "teacher": str,
    "method": str,
    "networks": int,
    "teachers": int,
    "metric": str,
    "threshold": float,
    "epoch": int,
    "value": float,
    "sd": float,
    "n": int,
    "reported": str,
    "copied_from": str,
    "counts": str,
    "who": str,
    "source": str,
    "note": str,
}
"""Fields of a published number and their types."""

OPTIONAL = ("teacher", "threshold", "epoch", "sd", "n", "reported", "copied_from", "counts", "who", "note")

LAST, BEST = "last", "best on test"
REPORTED = (LAST, BEST)
"""Which epoch of a run a published number is of: `reported` of a row, or of the conditions of its data set; absent where the
source does not say."""

READINGS = ("ensemble",)
"""What a row may have as its method besides a name of the paper's `methods`: a reading of a whole group."""

FORM = {
    **{"paper": Value(str), "headline": [Value(str)], "methods": Null([Value(str | Mapping)])},
    **{"conditions": Each(Each(Value(Any))), "networks?": Null(Each(Value(str)))},
    **{"teachers?": Null(Each(Each(Value(Any)))), "by_network?": Null(Each(Each(Value(Any))))},
    **{"results": Null([Value(Mapping)]), "reruns?": Null([Value(Mapping)]), "claims?": Null([Value(Mapping)])},
}
"""The form of a paper's file, as far as it is read here."""

PERCENT = ("top5", "map", "rank1")
"""Metrics of published numbers, besides those of `dgd.metrics`, that are in percent."""

ACCURACIES = (*(one.name for one in METRICS.values()), *PERCENT)
"""Metrics of published numbers that are a network's result at one epoch of its training."""

LEAST = {"networks": 1, "teachers": 0, "threshold": 0, "epoch": 0, "sd": 0, "n": 1}
"""The smallest values of fields of `ROW`."""


@dataclass(frozen=True)
class Conditions:
    """What a published number was measured under, as `dgd.read.departures` compares it: key -> the values that it may have.

    Attributes:
        own: Of the row's cells.
        baseline: Of the baseline that they are held against.
        teacher: Of their teacher.
    """

    own: Mapping[str, tuple] = field(default_factory=dict)
    baseline: Mapping[str, tuple] = field(default_factory=dict)
    teacher: Mapping[str, tuple] = field(default_factory=dict)


TYPED = ("composition", "overrides", "conditions", "model_here", "teacher_here")
"""What `read_papers` adds to a row: its `Method` (None for a reading), the keys of the recipe that this method overrides, its
`Conditions` (of which `reported` is the teacher's only: the row's own is the row's field, filled in), and the names that its
network and its teacher will have here (the row's own where ours are theirs)."""


def load(path: str | Path) -> dict:
    """Return what a paper's file holds, unchecked.

    Raises:
        ValueError: It is not there, or is not strict YAML, see `dgd.yaml_files`.
    """
    return yaml_files.read_mapping(path)


def read_papers(papers: Iterable[str | Path | dict], section: str = "results") -> pd.DataFrame:
    """Read published numbers, most authoritative first.

    Args:
        papers: Paths of `papers/*.yaml`, or what was loaded from them; an earlier file wins over a later one.
        section: "results", or "reruns" for what others published about the paper.

    Returns:
        One row a number with `paper`, the fields of `ROW` and those of `TYPED`, sorted by file, then by the file's `headline`
        list of tables. Absent fields are None or NaN.

    Raises:
        ValueError: A file lacks a key, a method or a condition cannot be, a row has an unknown or missing field or one of the
            wrong type, its method or its counts are not those of `methods`, or an id is there twice.
    """
    rows, seen = [], {}
    for paper in papers:
        document = paper if isinstance(paper, dict) else load(paper)
        path = document.get("paper", "a paper") if document is paper else paper
        check_form(document, path)
        order = {table: place for place, table in enumerate(document["headline"])}
        about = _About(
            paper_methods(document, path),
            *(_checked(document, key, path) for key in ("conditions", "teachers", "by_network")),
            document.get("networks") or {},
        )
        found = [_row(path, row) | {"paper": document["paper"]} for row in document.get(section) or []]
        for row in found:
            row |= _typed(row, about, f"{path}: row {keys.short(row['id'])}", section == "results")
        for row in found:
            if row["id"] in seen:
                raise ValueError(f"{path}: id {keys.short(row['id'])} is already used in {seen[row['id']]}")
            seen[row["id"]] = path
        rows += sorted(found, key=lambda row: order.get(row["table"], len(order)))
    return pd.DataFrame(rows, columns=["paper", *ROW, *TYPED])


def check_form(document: Mapping, path: str | Path) -> None:
    """Raise ValueError where a paper's file is not of the form that it must have; the message names the file and the key."""
    for line in json_files.problems(document, FORM):
        raise ValueError(f"{path}: {line}; see papers/dgd.yaml for the form")


def paper_methods(document: Mapping, path: str | Path) -> dict[str, Method]:
    """Return the methods that a paper's file names: label -> method.

    Raises:
        ValueError: An entry cannot be; the message names the file.
    """
    found = {}
    for entry in document["methods"] or []:
        try:
            name, method = methods.resolve(entry)
        except ValueError as error:
            raise ValueError(f"{path}: {str(error).partition(chr(10))[0]}") from None  # the first mistake
        found[name] = method
    return found


def shared_conditions(document: Mapping, path: str | Path) -> dict[str, dict[str, tuple]]:
    """Return the conditions that a paper's file has for each data set, without which epoch is reported.

    Raises:
        ValueError: A condition cannot be; the message names the file.
    """
    found = _checked(document, "conditions", path)
    return {name: {key: values for key, values in of.items() if key != "reported"} for name, of in found.items()}


def _checked(document: Mapping, key: str, path: str | Path) -> dict[str, dict[str, tuple]]:
    """Return the conditions below a key of a paper's file, which may say which epoch is reported."""
    found = {}
    for name, given in (document.get(key) or {}).items():
        where, given = f"{path}: {key}.{name}", dict(given)
        reported = given.pop("reported", None)
        _check_reported(reported, where)
        found[name] = checked_conditions(given, where) | ({"reported": (reported,)} if reported else {})
    return found


def _check_reported(value: Any, where: str) -> None:
    if value is not None and value not in REPORTED:
        raise ValueError(f"{where}.reported is {keys.short(value)}; it must be one of {', '.join(REPORTED)}")


@dataclass(frozen=True)
class _About:
    """What holds for all rows of a paper's file.

    Attributes:
        methods: Label -> method.
        conditions: Data set -> conditions.
        teachers: Data set -> in what the teachers' differ from those.
        by_network: Published name of a network -> in what its conditions differ, whatever its role.
        networks: Published name of a network -> its name here.
    """

    methods: Mapping[str, Method]
    conditions: Mapping[str, Mapping[str, tuple]]
    teachers: Mapping[str, Mapping[str, tuple]]
    by_network: Mapping[str, Mapping[str, tuple]]
    networks: Mapping[str, str]


def _row(path: str | Path, row: dict) -> dict:
    """Check one published number and return it with all fields of `ROW`."""
    name = f"{path}: row {keys.short(row.get('id', row))}"
    unknown, missing = set(row) - set(ROW), set(ROW) - set(OPTIONAL) - set(row)
    if unknown or missing:
        raise ValueError(f"{name}: unknown fields {keys.short(sorted(unknown))}, missing fields {sorted(missing)}")
    for key, kind in ROW.items():
        value = row.get(key)
        nullable = key in OPTIONAL or key == "dataset"
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not fits and not (value is None and nullable):
            raise ValueError(f"{name}: {key} must be {kind.__name__}, got {keys.short(value)}")
        for line in keys.of_type(kind | None, value, key, keys.Key("", least=LEAST.get(key))):
            raise ValueError(f"{name}: {line}")
    _check_reported(row.get("reported"), name)
    least, most = _bounds(row["metric"])
    if not least <= row["value"] <= most:
        raise ValueError(f"{name}: value is {row['value']:g}; {row['metric']} is from {least:g} to {most:g}")
    return {key: row.get(key) for key in ROW}


def _bounds(metric: str) -> tuple[float, float]:
    """Return the smallest and the largest value that a published metric can have."""
    known = [(one.least, one.most) for one in METRICS.values() if one.name == metric]
    return known[0] if known else (0, 100) if metric in PERCENT else (-math.inf, math.inf)


def _typed(row: dict, about: _About, name: str, check: bool) -> dict:
    """Return the fields of `TYPED` of a row; what others re-ran need not be a method of the paper. Fill in `reported`."""
    method = about.methods.get(row["method"])
    if method is None and row["method"] not in READINGS and check:
        raise ValueError(
            f"{name}: method {keys.short(row['method'])} is not in methods{keys.nearest(row['method'], about.methods)}"
        )
    if method and check and (method.networks, method.teachers) != (row["networks"], row["teachers"]):
        raise ValueError(
            f"{name}: networks {row['networks']} and teachers {row['teachers']}; its method has {method.networks} and "
            f"{method.teachers}"
        )
    model, teacher = (about.networks.get(row[key], row[key]) for key in ("model", "teacher"))
    shared = about.conditions.get(row["dataset"], {})
    overrides = checked_conditions(method.recipe, name) if method else {}
    own = {key: (row[key],) for key in ("copied_from", "counts") if row[key] is not None}
    if not shared:
        return dict(zip(TYPED, (method, overrides, Conditions(own), model, teacher), strict=True))
    alone = shared | about.by_network.get(row["model"], {}) | {"network": (model,)}
    taught = (
        shared | about.by_network.get(row["teacher"], {}) | about.teachers.get(row["dataset"], {}) | {"network": (teacher,)}
    )
    (said,) = alone.pop("reported", (None,))
    if "reported" not in about.teachers.get(row["dataset"], {}):
        taught.pop("reported", None)
    # What is counted of filters is of an epoch of its own.
    row["reported"] = row["reported"] or (said if row["metric"] in ACCURACIES else None)
    conditions = Conditions({**alone, **overrides, **own}, alone, taught if teacher else {})
    values = method, overrides, conditions, model, teacher
    return dict(zip(TYPED, values, strict=True))


def checked_conditions(given: Mapping, where: str) -> dict[str, tuple]:
    """Check conditions of a recipe and of data, and return them as key -> the values that it may have."""
    known = {name: (kind, spec) for kind in (Recipe, Data) for name, spec in keys.specs(kind).items() if spec.key.condition}
    found: dict[str, tuple] = {}
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{where}: {name}: unknown key{keys.nearest(name, known)}")
        kind, spec = known[name]
        values = value if isinstance(value, list) and not _one(spec, value) else [value]
        for item in values:
            if lines := keys.problems(kind, {name: item}, where):
                raise ValueError(lines[0])
            if (name, item) == ("precision", "auto"):
                known = ", ".join(name for name in PRECISIONS if name != "auto")
                raise ValueError(f"{where}.precision is 'auto'; a number was published under one of {known}")
        found[name] = tuple(getattr(keys.build(kind, {name: item}), spec.attribute) for item in values)
    return found


def _one(spec: keys.Spec, value: list) -> bool:
    """Return whether a list is one value of a key, such as the epochs of `milestones`, and not several to choose from."""
    return get_origin(spec.hint) is tuple and not any(isinstance(item, list) for item in value)


def value_text(row: Mapping[str, Any]) -> str:
    """Return a published value as "mean ± sd (n=5)", as far as given."""
    text = f"{row['value']:.2f}"
    text += f" ± {row['sd']:.2f}" if pd.notna(row["sd"]) else ""
    return text + (f" (n={int(row['n'])})" if pd.notna(row["n"]) else "")


def source_text(row: Mapping[str, Any]) -> str:
    """Return where a published value stands."""
    return f"{row['paper']}, {row['table']}"
