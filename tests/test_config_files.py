"""Files of configs: what YAML they may hold, and that Snakemake, dgd-bench and Python say the same of each."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dgd import cli, config, frozen, identity
from dgd.config import ConfigError
from dgd.read import papers
from dgd.read.claims import read as read_claims
from dgd.read.files import read_config
from pipeline.config import resolve
from tests.test_config import BENCHMARK, ROOT, lines

FILES = {
    "no mapping": (b"[1, 2]", "a benchmark is [1, 2]; it must be a mapping of keys"),
    "empty": (b"", "a benchmark is None; it must be a mapping of keys"),
    "two keys of one name": (
        b"seeds: [0]\nbenchmark: b\nseeds: [1]\n",
        "line 3, column 1: the key 'seeds' is there twice; keep one",
    ),
    "two keys of one name inside": (b"recipe: {lr: 1, lr: 2}", "line 1, column 17: the key 'lr' is there twice"),
    "not a number": (b"recipe: {lr: .nan}", "line 1, column 14: .nan is no finite number; write a number"),
    "infinity": (b"recipe:\n  lr: -.inf\n", "line 2, column 7: -.inf is no finite number"),
    "a number for a key": (b"7: 1\n", 'line 1, column 1: the key 7 is no text; write "7"'),
    "yes for a key": (b"recipe: {on: 1}", 'line 1, column 10: the key on is no text; write "on"'),
    "a list for a key": (b"? [a]\n: 1\n", "line 1, column 3: the key a list or a mapping is no text"),
    "a line break in a key": (
        b'recipe: {"\\n": 1}',
        r"line 1, column 10: the key '\n' has a character that cannot be seen; leave it out",
    ),
    "a zero in a key": (b'controls: {"\\0": 2}', r"the key '\x00' has a character that cannot be seen"),
    "latin-1": ("benchmark: caf\u00e9".encode("latin-1"), "not UTF-8 (byte 14); save it as UTF-8"),
    "binary": (b"\x00\x01\x02", "not YAML: "),
    "utf-16": ("benchmark: b".encode("utf-16"), "not UTF-8 (byte 0); save it as UTF-8"),
    "no YAML": (b"a: [1, 2", "not YAML: "),
    "no date": (b"benchmark: 2020-13-45", "line 1, column 12: '2020-13-45' cannot be read as timestamp"),
    "another tag": (b"benchmark: !!python/object:os.system {}", "could not determine a constructor"),
    "a wrong tag": (b"benchmark: !!int ''", "line 1, column 12: '' cannot be read as int"),
    "nested without end": (b"[" * 500, "not YAML: nested too deeply"),
    "nested beyond a stack": (b"[" * 1_000_000, "not YAML: nested too deeply"),
    "nested by dashes": (b"- " * 5000, "not YAML: nested too deeply"),
    "an alias of itself": (b"recipe: &r {lr: *r}", "line 1: the alias *r holds itself; write it out"),
    "no such alias": (b"recipe: *r", "found undefined alias"),
    "a very long key": (b"k" * 100_000 + b": 1", "not YAML: "),
    "a number of many digits": (b"seeds: [" + b"9" * 5000 + b"]", "cannot be read as int"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_a_file_that_nobody_could_have_meant_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "b.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        config.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert str(error.value).isprintable()
    assert said_by_snakemake(path) == said_by_the_command(path) == str(error.value)


def test_what_cannot_be_read_is_named(tmp_path):
    for path, message in ((tmp_path / "none.yaml", "no such file"), (tmp_path, "a folder; give a YAML file")):
        with pytest.raises(ConfigError) as error:
            config.load(path)
        assert str(error.value) == f"{path}: {message}"
    with pytest.raises(ConfigError, match="cannot be read: "):
        config.load(tmp_path / ("x" * 300))
    if os.geteuid():
        (tmp_path / "closed.yaml").touch(0o000)
        with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
            config.load(tmp_path / "closed.yaml")


def test_aliases_and_merges_are_read(tmp_path):
    path = tmp_path / "b.yaml"
    merged = "recipe: &r {epochs: 3, lr: 0.5}\nteacher_recipe: {<<: *r, lr: 0.25}\n"
    path.write_text(yaml.safe_dump(BENCHMARK) + merged)
    found = config.load(path)
    assert (found.recipe.lr, found.teacher_recipe) == (0.5, {"epochs": 3, "lr": 0.25})


def test_aliases_that_grow_without_end_are_refused_in_one_line(tmp_path):
    path = tmp_path / "b.yaml"
    laughs = "".join(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefghi", "bcdefghij"))
    for text, message in (
        ("a: &a [x]\n" + laughs, "line 8: aliases make more than 1,000,000 values of it"),
        ("recipe: &r {lr: *r}\n", "line 2: the alias *r holds itself; write it out"),
        ("methods: &m [*m]\n", "line 2: the alias *m holds itself; write it out"),
        ("pairs: &p [{student: *p}]\n", "line 2: the alias *p holds itself; write it out"),
    ):
        path.write_text(yaml.safe_dump({"benchmark": "b"}) + text)
        with pytest.raises(ConfigError) as error:
            config.load(path)
        assert str(error.value) == f"{path}: {message}"


def cell_of(path: Path):
    """Read the config.yaml of a cell's folder, which the file is put to."""
    path.parent.joinpath("config.yaml").write_bytes(path.read_bytes())
    return identity.cell_of(path.parent)


def made_by(path: Path):
    """Read the marker of a frozen benchmark, which the file is put to."""
    path.parent.joinpath(frozen.MARKER).write_bytes(path.read_bytes())
    return frozen.made_by(path.parent)


READERS = {
    "a benchmark": config.load,
    "a paper": lambda path: papers.read_papers([path]),
    "a paper's claims": lambda path: read_claims([path]),
    "a cell, to train it": cell_of,
    "a cell, to read it": read_config,
    "a frozen benchmark": made_by,
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_every_reader_of_yaml_refuses_the_same_in_one_line(tmp_path, reader):
    path = tmp_path / "b.yaml"
    for content, message in FILES.values():
        path.write_bytes(content)
        if content in (b"", b"[1, 2]"):
            continue
        with pytest.raises(ValueError) as error:  # noqa: PT011
            reader(path)
        assert str(error.value).startswith(f"{tmp_path}/")
        assert message in str(error.value)
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 500


def test_empty_files_missing_ones_and_folders_are_one_line_to_every_reader(tmp_path):
    (tmp_path / "empty.yaml").write_bytes(b"")
    (tmp_path / "folder.yaml").mkdir()
    for name, reader in READERS.items():
        if reader in (cell_of, made_by):
            continue  # where there is no such file, there is no cell, and nothing is frozen
        for path in (tmp_path / "empty.yaml", tmp_path / "folder.yaml", tmp_path / "none.yaml"):
            with pytest.raises(ValueError) as error:  # noqa: PT011
                reader(path)
            assert str(error.value).startswith(f"{path}: "), name
            assert str(error.value).isprintable()
    (tmp_path / frozen.MARKER).write_text("frozen: 2020-01-01\n")
    with pytest.raises(ValueError, match="frozen.yaml: made_by is missing; "):
        frozen.made_by(tmp_path)


def said_by_snakemake(path: Path) -> str:
    """What the Snakefile says about a config; "" if nothing is wrong with it."""
    try:
        resolve([path])
    except ConfigError as error:
        return str(error)
    return ""


def said_by_the_command(path: Path) -> str:
    """What `dgd-bench list` says about a config; "" if it lists its cells."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["list", "cells", str(path)])
    assert bool(out.getvalue()) == (code == 0)
    return err.getvalue().removeprefix("dgd-bench: ").rstrip("\n")


def test_command_line_of_snakemake_replaces_keys_of_files(tmp_path):
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(BENCHMARK | {"recipe": {"epochs": 7, "lr": 0.5}}))
    (tmp_path / "c.yaml").write_text("recipe: {lr: 0.25}\n")
    found = resolve([tmp_path / "b.yaml", tmp_path / "c.yaml"], {"recipe": {"batch_size": "9"}, "seeds": ["3"]})
    assert (found.recipe.epochs, found.recipe.lr, found.recipe.batch_size, found.seeds) == (7, 0.25, 9, (3,))
    with pytest.raises(ConfigError, match=r"^b\.yaml: no such file$"):
        resolve(["b.yaml"], {})
    with pytest.raises(ConfigError, match=r"^--config: '\[1': line \d, column \d: not YAML"):
        resolve([tmp_path / "b.yaml"], {"seeds": "[1"})


def test_a_launcher_without_networks_says_the_same_but_for_registries():
    """Snakemake's own environment has no torch: terms and their options are known there too."""
    code = (
        "import sys, yaml\nfrom dgd import config\n"
        "try: config.check(yaml.safe_load(sys.stdin.read()), 'b.yaml')\n"
        "except config.ConfigError as error: print(error)\n"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules\n"
    )
    rows = [{"x": {"base": "kd", "objective": {"kd": {"taau": 1}, "dk": 1}}}, {"y": {"base": "grafting", "exchange": {"a": 2}}}]
    given = {**BENCHMARK, "methods": rows, "seeds": "abc", "recipe": {"epochs": 0}}
    text, env = yaml.safe_dump(given, sort_keys=False), os.environ | {"DGD_NETWORKS": "no"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=text, env=env, text=True, capture_output=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == [f"b.yaml: {line}" for line in lines(given)]
