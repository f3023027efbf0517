"""What a benchmark is: every key of its YAML, with default, bounds and sentence.

`dgd.config` reads and checks one and makes its cells.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dgd import keys, methods, task
from dgd.cell import LAST_SEED, PROTOCOL_NAMES, Data, Method, Recipe
from dgd.keys import key


@dataclass(frozen=True)
class Pair:
    """A student, and the teacher that its methods may learn from."""

    student: str = key(says="Network that is trained: a model of timm, ours (`cifar_resnet8`, ...) included.", names=True)
    teacher: str | None = key(None, "Network that it learns from; it may be left out where no method needs one.", names=True)
    methods: tuple[str, ...] | None = key(
        None, "Rows that this pair is trained by; all where it is left out.", names=True, nonempty=True
    )


def _control_problems(value: Mapping, where: str) -> list[str]:
    """Check the form of `controls`: method -> list of readings."""
    readings = keys.Key("", nonempty=True)
    return [line for name, items in value.items() for line in keys.of_type(tuple[str, ...], items, f"{where}.{name}", readings)]


@dataclass(frozen=True)
class Benchmark:
    """One YAML in config/: what is trained, how, and which published numbers stand beside the results."""

    benchmark: str = key(says="Name of the benchmark; its results lie in `<results>/<benchmark>/`.", names=True)
    seeds: tuple[int, ...] = key(
        says="One cell of every method is trained for each seed.", least=0, most=LAST_SEED, nonempty=True
    )
    datasets: tuple[str, ...] = key(
        says="Data sets: `digits`, `cifar10`, `cifar100`, `fashion_mnist` or `imagefolder:<path>`.", nonempty=True
    )
    pairs: tuple[Pair, ...] = key(says="Students and their teachers.", nonempty=True)
    methods: tuple[str | Mapping, ...] = key(
        says="Names of the method table (`baseline`, `kd`, `grafting`, `dgd`, ...: `dgd-bench list` has all), each also with "
        "`+graft` after it, or a one-key mapping that changes a row of it, such as `dgd-4s: {base: dgd, networks: 4}`.",
        nonempty=True,
    )
    results: str = key("results", "Folder that all results go to.")
    papers: tuple[str, ...] = key(
        ("dgd",), "Files in `papers/` (without `.yaml`) whose published numbers stand beside ours.", names=True
    )
    teacher_seeds: tuple[int, ...] = key(
        (0,),
        "Seeds of the teachers. A teacher is a `baseline` cell; a method with M teachers takes the first M seeds.",
        least=0,
        most=LAST_SEED,
    )
    data: Data = key(Data(), "Where the data sets are and how they are prepared.")
    adapt_stem: bool = key(
        False, "Adapt a model's ImageNet stem to small images (3x3 convolution, stride 1, no pooling).", condition=True
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
        "Keys of the recipe that teachers' cells override; for teachers that are no students of the benchmark.",
        of=Recipe,
    )

    @property
    def rows(self) -> dict[str, Method]:
        """The methods by name, in order."""
        return dict(map(methods.resolve, self.methods))

    def plain(self) -> dict:
        """Return the benchmark with every default written out, as YAML and JSON can hold it; `check` reads it back."""
        return keys.plain(self)


def rows_of(pair: Pair, rows: Mapping[str, Method]) -> dict[str, Method]:
    """Return the methods that a pair is trained by: all, or those that it names."""
    return {name: row for name, row in rows.items() if pair.methods is None or name in pair.methods}


def overridden(recipe: Recipe, changes: Mapping) -> Recipe:
    """Return a recipe with some keys replaced."""
    return keys.build(Recipe, {**keys.plain(recipe), **changes})


def objective_of(row: Method, protocol: str, kind: str) -> dict[str, dict]:
    """Return the terms with the options that are given, and those that the protocol and the task decide."""
    given = methods.given_options(row.objective)
    objective = {task.TERMS[kind] if term == "ce" else term: options for term, options in given.items()}
    if "kd" in objective:
        # With several teachers the paper averages probabilities, the released code adds the losses up.
        objective["kd"].setdefault("teachers", "mean" if protocol == "paper" else "sum")
    return objective
