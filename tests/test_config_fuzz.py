"""Configs that nobody wrote: whatever a file holds, it gives cells or lines that say what is wrong with it."""

import copy
import random
import re
from pathlib import Path

import pytest
import yaml

from dgd import checks, config, keys
from dgd.benchmark import Benchmark
from dgd.config import ConfigError
from tests.test_config_files import said_by_snakemake, said_by_the_command

ROOT = Path(__file__).parents[1]
CONFIGS = [*sorted(ROOT.glob("config/*.yaml")), ROOT / "config" / "test" / "tiny.yaml"]
VALUES = [
    *(None, True, False, 0, -1, 1, 2, 3.5, 1e-9, 1e308, 10**40, float("nan"), float("inf"), float("-inf")),
    *("", " ", "abc", "5e-4", "a/b", "..", "/", "-x", "x\0y", "x\ny", "é", "\ud800", "x" * 300, "~", "null", "{", "@", "kd"),
    *([], [[]], [None], [1, 1], ["a"], [{}], {}, {"": 1}, {"a": None}, {"name": []}, {"weight": {}}, {1: 2}, {None: 3}),
]
BYTES = (b"", b":", b"\n", b"- ", b"&a ", b"*a", b"\xff", b"{", b"\t", b"'")
KEYS = ["", "a", "sedes", "lr", "name", "base", "weight", "\0", "x" * 200, "..", "\n"]


def places(node, path=()):
    """Every place in a config: the paths of all keys and items."""
    found = [path] if path else []
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return found + [place for key, child in children for place in places(child, (*path, key))]


def at(node, path):
    for key in path:
        node = node[key]
    return node


def mutated(given: dict, draw: random.Random) -> dict:
    """One to three changes: a value replaced, a key or an item deleted, doubled, renamed, nested, or moved elsewhere."""
    given = copy.deepcopy(given)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        found = places(given)
        if not found:
            break
        *path, key = draw.choice(found)
        parent, value = at(given, path), at(given, (*path, key))
        how = draw.randrange(8)
        if how < 3:
            parent[key] = copy.deepcopy(draw.choice(VALUES))
        elif how == 3:
            del parent[key]
        elif how == 4 and isinstance(parent, list):
            parent.append(copy.deepcopy(value))
        elif how == 4 or (how == 5 and isinstance(parent, dict)):
            parent[draw.choice(KEYS)] = parent[key] if how == 4 else parent.pop(key)
        elif how == 5 or how == 6:
            parent[key] = draw.choice(([value], {draw.choice(KEYS): value}))
        else:
            parent[key] = copy.deepcopy(at(given, draw.choice(found)))
    return given


def names(given) -> set[str]:
    return {str(name) for name in given} | set(keys.specs(Benchmark)) if isinstance(given, dict) else {"a benchmark"}


def verdict(given) -> str:
    """What is said about a config; "" if it has cells. Any other exception fails the test."""
    try:
        found = config.cells(config.check(given, "fuzzed.yaml", folders=False))
    except ConfigError as error:
        lines = str(error).split("\n")
        assert lines == list(dict.fromkeys(lines))
        for line in lines:
            assert line.startswith("fuzzed.yaml: "), line
            assert line.isprintable(), ascii(line)
            assert len(line) < 700, line
            said = line.removeprefix("fuzzed.yaml: ")
            assert re.match(r"a benchmark is ", said) or re.split(r"[.:\[ ]", said)[0] in NAMED or said[0] in "'\"<", line
        return str(error)
    for cell in found[:50]:
        assert type(cell).from_plain(cell.plain()) == cell
        assert not {"", ".", ".."} & set(cell.path.split("/")[:1] + cell.path.split("/")[2:])
    return ""


NAMED = {*keys.specs(Benchmark), *KEYS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_mutated_config_gives_cells_or_lines(path, monkeypatch):
    """40 mutations of each committed config, always the same ones."""
    monkeypatch.setattr(checks, "MOST_CELLS", 20_000)
    draw, original, said = random.Random(path.stem), config.read(path), set()
    for _ in range(40):
        NAMED.update(names(given := mutated(original, draw)))
        said.add(bool(verdict(given)))
    assert said == {True, False}


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if path.stem in ("quick", "cifar10", "tiny")], ids=lambda path: path.stem
)
def test_a_mutated_file_has_one_verdict(path, tmp_path):
    """Its text is mutated, too: characters are lost, doubled and swapped. Snakemake and dgd-bench say the same lines."""
    draw, original = random.Random(f"{path.stem} as a file"), config.read(path)
    file, said = tmp_path / "b.yaml", set()
    for i in range(30):
        given = mutated(original, draw) if i else original
        text = bytearray(yaml.safe_dump(given, sort_keys=False).encode())
        for _ in range(i % 3):
            where = draw.randrange(len(text))
            text[where : where + draw.randrange(3)] = draw.choice(BYTES)
        file.write_bytes(text)
        lines = said_by_snakemake(file)
        assert lines == said_by_the_command(file)
        assert all(line.startswith(f"{file}: ") and line.isprintable() for line in lines.split("\n") if lines)
        said.add(bool(lines))
    assert said == {True, False}
