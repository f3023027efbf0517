"""What a benchmark is: every key of its YAML, with default, bounds and sentence.

`dgd.config` reads and checks one and makes its cells.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from dgd import keys, methods, metrics
from dgd.cell import (
    EXCHANGES,
    IMAGE,
    LAST_SEED,
    MEAN,
    OPTIONS,
    OUT_INDICES,
    PROTOCOL_NAMES,
    STD,
    Data,
    Generated,
    Generator,
    Method,
    Recipe,
)
from dgd.keys import key


@dataclass(frozen=True)
class Teacher:
    """A teacher of which more is said than its name."""

    name: str = key(says="Network that it is, a model of timm.", names=True)
    checkpoint_path: str | None = key(
        None,
        "File with its weights: safetensors, or one of `torch.save` that holds weights alone. Where it is left out, the "
        "teacher is trained here.",
    )
    mean: tuple[float, ...] = key((), MEAN, repeats=True)
    std: tuple[float, ...] = key((), STD, above=0, repeats=True)
    options: Mapping = key({}, OPTIONS)
    out_indices: tuple[int, ...] = key((), OUT_INDICES)


@dataclass(frozen=True)
class Pair:
    """A student, and the teacher that its methods may learn from."""

    student: str = key(says="Network that is trained: a model of timm, ours (`cifar_resnet8`, ...) included.", names=True)
    given_teacher: str | Teacher | None = key(
        None,
        "Network that it learns from, or `{name: ..., checkpoint_path: ..., ...}` to say more of it; it may be left out where "
        "no method needs one.",
        names=True,
        spelled="teacher",
    )
    subnets: tuple[str, ...] = key(
        (),
        "Shallower networks of the student's kind that methods with `subnets` train within it: those that run the first blocks "
        "of each of its stages, such as `cifar_resnet8` of `cifar_resnet20`.",
        names=True,
    )
    methods: tuple[str, ...] | None = key(
        None, "Rows that this pair is trained by; all where it is left out.", names=True, nonempty=True
    )
    input: str = key(IMAGE, "Input of the data set that the student takes: `image`, or `audio` of `digits-spoken`.", names=True)
    teacher_input: str = key(
        IMAGE,
        "Input that the teacher takes. Where it is not the student's, each training example has a partner of that input, drawn "
        "from its class anew in each epoch.",
        names=True,
    )
    options: Mapping = key({}, OPTIONS)
    adapt_stem: bool | None = key(None, "The benchmark's `adapt_stem`, for this pair's networks.")
    out_indices: tuple[int, ...] = key((), OUT_INDICES)

    @property
    def about_teacher(self) -> Teacher | None:
        """Return what is said of the teacher; None where there is none."""
        return Teacher(self.given_teacher) if isinstance(self.given_teacher, str) else self.given_teacher

    @property
    def teacher(self) -> str | None:
        """Return the teacher's name."""
        return self.about_teacher.name if self.about_teacher else None

    @property
    def checkpoint(self) -> str | None:
        """Return the file with the teacher's weights; None where it is trained here, or there is none."""
        return self.about_teacher.checkpoint_path if self.about_teacher else None


BASELINE = "baseline"
"""The row that gains are over, and that teachers are cells of, where a row names no other one."""


def _control_problems(value: Mapping, where: str) -> list[str]:
    """Check the form of `controls`: method -> list of readings."""
    readings = keys.Key("", nonempty=True)
    return [line for name, items in value.items() for line in keys.of_type(tuple[str, ...], items, f"{where}.{name}", readings)]


GAN_RECIPE = {
    **{"optimiser": "adam", "lr": 2e-4, "beta1": 0.0, "beta2": 0.999, "weight_decay": 0.0, "schedule": "slr", "gamma": 1.0},
    **{"weight_average": "ema", "average_every": "step", "average_decay": 0.999, "average_from": 1, "evaluate_every": 10},
}
"""Keys in which the recipe of a GAN differs from the benchmark's unless `generator.recipe` says otherwise."""

RATIO_RECIPE = {
    **{"optimiser": "adam", "lr": 1e-4, "beta1": 0.5, "beta2": 0.999, "weight_decay": 1e-4, "weight_average": "none"},
    **{"evaluate_every": 10},
}
"""The same of a density ratio, and `generator.ratio_recipe`."""


def _generated_problems(value: Mapping, where: str) -> list[str]:
    """Check the form of `generated`: name -> the keys of `Generated`."""
    lines = []
    for name, given in value.items():
        if not isinstance(name, str) or not re.match(keys.NAME, name):
            lines.append(f"{where}: {keys.short(name)} names folders; it must be {keys.NAMED}")
        else:
            lines += keys.problems(Generated, given, f"{where}.{name}")
    return lines


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One YAML in config/: what is trained, how, and which published numbers stand beside the results."""

    benchmark: str = key(says="Name of the benchmark; its results lie in `<results>/<benchmark>/`.", names=True)
    results: str = key("results", "Folder that all results go to.", check=keys.folder)
    plugins: tuple[str, ...] = key(
        (),
        "Python files, packages' folders or papers' YAML files that add terms, exchanges, networks, data sets, tasks, rows or "
        "papers (docs/extending.md). Their code is run.",
        decides=False,
    )
    papers: tuple[str, ...] = key(
        ("dgd",), "Files in `papers/` (without `.yaml`) whose published numbers stand beside ours.", names=True
    )
    seeds: tuple[int, ...] = key(
        says="One cell of every method is trained for each seed.", least=0, most=LAST_SEED, nonempty=True
    )
    teacher_seeds: tuple[int, ...] = key(
        (0,),
        "Seeds of the teachers. A teacher is a cell of `baseline`, or of the row that `taught_by` names; a method with M "
        "teachers takes the first M seeds.",
        least=0,
        most=LAST_SEED,
    )
    datasets: tuple[str, ...] = key(
        says="Data sets: `digits`, `digits-spoken`, `cifar10`, `cifar100`, `fashion_mnist` or `imagefolder:<path>`.",
        nonempty=True,
    )
    data: Data = key(Data(), "Where the data sets are and how they are prepared.")
    pairs: tuple[Pair, ...] = key(says="Students and their teachers.", nonempty=True)
    adapt_stem: bool = key(
        False, "Adapt a model's ImageNet stem to small images (3x3 convolution, stride 1, no pooling).", condition=True
    )
    methods: tuple[str | Mapping, ...] = key(
        says="Names of the method table (`baseline`, `kd`, `grafting`, `dgd`, ...: `dgd-bench list` has all), each also with "
        "`+graft` after it, or a one-key mapping that changes a row of it, such as `dgd-4s: {base: dgd, networks: 4}`.",
        nonempty=True,
    )
    generator: Generator = key(Generator(), "The cells that generate training images, for rows of `methods` with some.")
    generated: Mapping = key(
        {},
        "Training images that are generated: name -> keys of `generated`. A row of `methods` trains on those that it names.",
        check=_generated_problems,
    )
    protocol: str = key(
        "paper",
        "`paper` follows the papers' text, `reference-code` their published scripts, where the two differ.",
        choices=PROTOCOL_NAMES,
    )
    report: str = key(
        "first",
        "Which network of a group the tables report. `first`: as the papers do. `mean`: of the whole group. `best`: the one "
        "that is best on validation images, or on test images where there is no validation split.",
        choices=("first", "mean", "best"),
    )
    controls: Mapping = key(
        {},
        "What each method's gain is held against: method -> readings. A reading is a name of `methods`, or `<name>@<how>` with "
        "how one of `last` (epoch), `best-on-test`, `mean`, `best` or `ensemble` (of the group's networks).",
        check=_control_problems,
    )
    pruning: tuple[float, ...] = key(
        (),
        "Shares of the filters, from 0 to 1, at which each cell's first network is evaluated without its smallest filters; an "
        "empty list makes no pruning curves.",
        least=0,
        most=1,
    )
    recipe: Recipe = key(Recipe(), "How every network is trained. A method's own `recipe` overrides single keys.")
    teacher_recipe: Mapping = key(
        {},
        "Keys of the recipe that teachers' cells override; for teachers that are no students of the benchmark. Rows with "
        "`taught_by` have teachers of another recipe.",
        of=Recipe,
    )
    together: int | None = key(
        None,
        "Cells that a job trains side by side, each with the bytes that it has alone. `null`: on a GPU as many as its memory "
        "takes, and 8 at most; on a CPU one.",
        least=1,
        decides=False,
    )
    stop_after: float | None = key(
        None,
        "Seconds after which a job stops, after an epoch, with exit status 75: started again it goes on. `null` is never.",
        above=0,
        decides=False,
    )

    @cached_property
    def rows(self) -> dict[str, Method]:
        """Return the methods by name, in order."""
        return dict(map(methods.resolve, self.methods))

    def plain(self) -> dict:
        """Return the benchmark with every default written out, as YAML and JSON can hold it; `check` reads it back."""
        return keys.plain(self)


def rows_of(pair: Pair, rows: Mapping[str, Method]) -> dict[str, Method]:
    """Return the methods that a pair is trained by: all, or those that it names."""
    return {name: row for name, row in rows.items() if pair.methods is None or name in pair.methods}


def teacher_row(benchmark: Benchmark, row: Method) -> tuple[str, Method]:
    """Return the name and the method of the cells that teach a row: of the one that it names, or the baseline's."""
    if row.taught_by not in (None, BASELINE):
        return row.taught_by, benchmark.rows[row.taught_by]
    baseline = methods.METHODS[BASELINE]
    return BASELINE, replace(baseline, recipe={**baseline.recipe, **benchmark.teacher_recipe})


def own_baseline(benchmark: Benchmark, name: str) -> str:
    """Return the row that a row's gain is over: itself where other rows name it as their baseline, or as their teachers'."""
    row = benchmark.rows.get(name)
    named = {other for one in benchmark.rows.values() for other in (one.baseline, one.taught_by)}
    return (row.baseline if row else None) or (name if name in named else BASELINE)


def overridden(recipe: Recipe, changes: Mapping) -> Recipe:
    """Return a recipe with some keys replaced."""
    return keys.build(Recipe, {**keys.plain(recipe), **changes})


def objective_of(row: Method, protocol: str, kind: str) -> dict[str, dict]:
    """Return the terms with the options that are given, and those that the protocol and the task decide.

    Args:
        row: The method.
        protocol: Of the benchmark.
        kind: The task, whose own term stands where the row has `ce`; options of `ce` mean nothing to it.
    """
    objective = methods.given_options(row.objective)
    own = metrics.TERMS[kind]
    if own != "ce":
        weights = {"weight": objective.get("ce", {}).get("weight", 1.0)}
        objective = {own if term == "ce" else term: weights if term == "ce" else given for term, given in objective.items()}
    if "kd" in objective:
        # With several teachers the paper averages probabilities, the released code adds the losses up.
        objective["kd"].setdefault("teachers", "mean" if protocol == "paper" else "sum")
    return objective


def schema() -> dict:
    """Return the JSON schema of a benchmark's YAML, for editors and other programs; `dgd.config.check` refuses more."""
    found = keys.schema(Benchmark)
    row = keys.schema(methods.Row)
    exchanges = [{"description": keys.summary(kind), **keys.schema(kind)} for kind in EXCHANGES.values()]
    for name, exchange in zip(EXCHANGES, exchanges):
        exchange["properties"] = {"name": {"const": name}, **exchange["properties"]}
    options = {"type": "object", "description": "Options of the exchange that the base has."}
    unnamed = options | {"minProperties": 1, "not": {"required": ["name"]}}
    named = [exchange | {"required": ["name"]} for exchange in exchanges]
    row["properties"]["exchange"] |= {"type": ["object", "null"], "anyOf": [{"type": "null"}, unnamed, *named]}
    changed = {"minProperties": 1, "maxProperties": 1, "additionalProperties": {**row, "type": ["object", "null"]}}
    found["properties"]["methods"]["items"] |= changed
    found["properties"]["generated"] |= {
        "propertyNames": {"pattern": keys.NAME},
        "additionalProperties": keys.schema(Generated),
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A benchmark", **found}
