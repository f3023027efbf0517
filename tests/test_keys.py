"""Keys that are defined once: what is checked, what the JSON schema says, and what is built are the same thing."""

import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest

from dgd import benchmark, config, keys, methods
from dgd.cell import EXCHANGES, Cell, Data, Method, Recipe
from dgd.keys import key
from tests.test_config_fuzz import CONFIGS, mutated

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Inner:
    """What is inside."""

    size: int = key(3, "Its size.", least=1, most=9)


@dataclass(frozen=True)
class Kind:
    """A kind with a key of every sort."""

    name: str = key(says="Its name.", names=True)
    text: str = key("a", "Its text.")
    rate: float | None = key(0.5, "Its rate.", above=0, below=1)
    mode: str = key("a", "Its mode.", choices=("a", "b"))
    share: str | float = key("a", "Its share.", choices=("a", "b"), least=0, most=1)
    flag: bool = key(False, "Its flag.", spelled="from")
    sizes: tuple[int, ...] = key((1,), "Its sizes.", least=0, nonempty=True)
    names: tuple[str, ...] | None = key(None, "Its names.", names=True)
    inner: Inner = key(Inner(), "What is inside.")
    inners: tuple[Inner, ...] = key((), "What is inside, often.")
    changes: Mapping = key({}, "Some keys of what is inside.", of=Inner)
    free: Mapping | None = key({"a": 1}, "Anything.", nonempty=True)


KINDS = [Kind, Recipe, Data, Method, benchmark.Pair, methods.Row, *EXCHANGES.values()]
VALUES = [
    *(None, True, False, 0, -1, 1, 2, 9, 10, 0.0, 0.5, 1.5, -0.5, 1e-9, 1e300, 2**40, "", "a", "b", "5e-4", "a b", "..", "x\n"),
    *("x" * 100, "x" * 101, "é", "none", [], [1], [1, 1], [2, 1], [True], [0.5], ["a"], ["a", "a"], [None], [[]], [{}]),
    *(
        {},
        {"a": 1},
        {"size": 1},
        {"size": 0},
        {"sizes": 1},
        [{"size": 1}, {"size": 1}],
        [{"size": 2}, {"size": 1}],
        {"lr": 0.1},
    ),
]


def whole(checker, value) -> bool:
    """JSON has one kind of number, and to JSON schema 2.0 is an integer; to YAML and to us it is none."""
    return isinstance(value, int) and not isinstance(value, bool)


base = jsonschema.Draft202012Validator
Validator = jsonschema.validators.extend(base, type_checker=base.TYPE_CHECKER.redefine("integer", whole))


def validator(schema: dict) -> Validator:
    Validator.check_schema(schema)
    return Validator(schema)


def fuzzed(kind: type, draw: random.Random) -> dict:
    found = {} if kind not in (Kind, benchmark.Pair) else {"name" if kind is Kind else "student": "a"}
    names = [*keys.specs(kind), *keys.specs(kind), "zzz"]
    return found | {draw.choice(names): copy.deepcopy(draw.choice(VALUES)) for _ in range(draw.randrange(4))}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_check_and_the_json_schema_have_the_same_verdict(kind):
    """Milestones that fall are the one thing that only the check can refuse."""
    draw, schema, said = random.Random(kind.__name__), validator(keys.schema(kind)), set()
    for _ in range(400):
        given = fuzzed(kind, draw)
        lines = [line for line in keys.problems(kind, given) if not line.endswith("epochs must rise")]
        assert bool(lines) != schema.is_valid(given), (given, lines)
        said.add(bool(lines))
        if not lines and not keys.problems(kind, given):
            made = keys.build(kind, given)
            assert not keys.problems(kind, keys.plain(made)), given
            assert keys.build(kind, keys.plain(made)) == made
    assert said == {True, False}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_schema_of_a_benchmark_takes_all_that_is_taken(path):
    """It is for editors: it may know less than the check, and must refuse nothing that has cells."""
    schema, draw, original = validator(benchmark.schema()), random.Random(path.stem), config.read(path)
    schema.validate(original)
    refused = 0
    for _ in range(40):
        given = mutated(original, draw)
        if not schema.is_valid(given):
            refused += 1
            with pytest.raises(config.ConfigError):
                config.check(given, folders=False)
    assert refused


def test_every_key_has_a_sentence():
    for kind in (benchmark.Benchmark, Cell, *KINDS[1:]):
        for name, spec in keys.specs(kind).items():
            assert spec.key.says.endswith("."), f"{kind.__name__}.{name}"
        assert keys.summary(kind), kind


def test_what_is_built_has_the_types_of_the_kind():
    made = keys.build(Kind, {"name": "a", "rate": None, "from": True, "sizes": [1, 2], "inners": [{"size": 2}], "share": 1})
    assert made == Kind("a", rate=None, flag=True, sizes=(1, 2), inners=(Inner(2),), share=1.0)
    assert isinstance(keys.build(Recipe, {"lr": 1}).lr, float)


def test_a_message_is_one_line_however_large_the_value_is():
    endless: list = []
    endless.append(endless)
    for value in (
        endless,
        "x" * 10**6,
        [[[[[[1] * 99] * 99] * 99] * 99] * 99] * 99,
        {"a\n" * 999: 1},
        "\n",
        "\ud800",
        10**4000,
    ):
        (line,) = keys.problems(Recipe, {"schedule": value})
        assert len(line) < 400
        assert line.isprintable()
    (line,) = keys.problems(Recipe, {"x\n" * 999: 1})
    assert line.isprintable()
    assert len(line) < 700


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_unknown_key_near_a_known_one_is_explained(kind):
    for name in keys.specs(kind):
        if len(name) > 4 and name[:-1] not in keys.specs(kind):
            (line,) = [line for line in keys.problems(kind, {name[:-1]: 1}) if "unknown" in line]
            assert f"{name[:-1]}: unknown key; did you mean " in line
