"""The config schema: what it refuses and in which words, its defaults, and the reference that is made from it."""

from pathlib import Path

import pytest
import yaml

from dgd import config as semantics
from dgd.config import ConfigError
from pipeline import reference
from pipeline.config import load, resolve, schema

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(ROOT.glob("config/*.yaml")) + sorted(ROOT.glob("config/test/*.yaml"))


def small(**changes) -> dict:
    config = {
        "benchmark": "small",
        "seeds": [0],
        "datasets": ["digits"],
        "pairs": [{"student": "cifar_resnet8", "teacher": "cifar_resnet20"}],
        "methods": ["baseline", "dgd"],
    }
    return {**config, **changes}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path):
    assert semantics.cells(load(path, folders=False))


def test_defaults_are_those_of_the_library():
    filled = resolve(small(), "small.yaml")
    assert filled["recipe"] == semantics.RECIPE
    assert filled["data"] == semantics.DATA
    assert {key: filled[key] for key in semantics.DEFAULTS} == semantics.DEFAULTS
    assert filled["results"] == "results"


def test_filling_changes_nothing_of_the_given_config():
    config = small()
    before = yaml.safe_dump(config)
    resolve(config, "small.yaml")["data"]["dir"] = "elsewhere"
    assert yaml.safe_dump(config) == before
    assert resolve(config, "small.yaml")["data"]["dir"] == "data"


MISTAKES = {
    "a wrong key": ({"seed": [0]}, "s.yaml: seed: unknown key; did you mean seeds?"),
    "a wrong key inside": ({"recipe": {"epoch": 3}}, "s.yaml: recipe.epoch: unknown key; did you mean epochs?"),
    "a key like no other": ({"data": {"zzz": 3}}, "s.yaml: data.zzz: unknown key; known: dir, train_images"),
    "a text for a number": ({"recipe": {"lr": "5e-4"}}, "YAML takes 5e-4 for a text, write 0.0005"),
    "a word for a list": ({"datasets": "digits"}, "s.yaml: datasets is 'digits'; it must be a list"),
    "a wrong choice": ({"protocol": "papers"}, "s.yaml: protocol is 'papers'; it must be one of paper, reference-code"),
    "an empty list": ({"seeds": []}, "s.yaml: seeds is empty"),
    "a seed twice": ({"seeds": [0, 0]}, "s.yaml: seeds is [0, 0]; an item is there twice"),
    "a number too small": ({"recipe": {"epochs": 0}}, "s.yaml: recipe.epochs is 0; it must be at least 1"),
    "a bad name": ({"benchmark": "a/b"}, "s.yaml: benchmark is 'a/b'; it must be a name"),
    "a pair without student": ({"pairs": [{"teacher": "cifar_resnet20"}]}, "s.yaml: pairs[0].student is missing"),
    "a method of two keys": ({"methods": [{"a": {}, "b": {}}]}, "s.yaml: methods[0] is"),
    "a method's wrong key": ({"methods": [{"a": {"bse": "kd"}}]}, "s.yaml: methods[0].a.bse: unknown key; did you mean base?"),
    "a method without its teacher": ({"pairs": [{"student": "cifar_resnet8"}]}, "method 'dgd' needs a teacher"),
    "an unknown method": ({"methods": ["dgdd"]}, "unknown method 'dgdd'"),
    "an unknown model": ({"pairs": [{"student": "cifar_resnet9", "teacher": "cifar_resnet20"}]}, "cifar_resnet9"),
    "an unknown data set": ({"datasets": ["digit"]}, "unknown data set 'digit'"),
}


@pytest.mark.parametrize(("changes", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gives_one_readable_line(changes, expected):
    with pytest.raises(ConfigError) as error:
        resolve(small(**changes), "s.yaml")
    assert expected in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_every_missing_key_and_every_mistake_has_its_line():
    with pytest.raises(ConfigError) as error:
        resolve({"benchmark": "x", "sedes": [0], "recipe": {"lr": 0}}, "s.yaml")
    lines = str(error.value).splitlines()
    assert len(lines) == 6
    assert all(line.startswith("s.yaml: ") for line in lines)


@pytest.mark.parametrize("content", ["", "[1, 2]", "text"])
def test_what_is_no_mapping_is_said_to_be_none(tmp_path, content):
    path = tmp_path / "s.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"s\.yaml: a benchmark is .*it must be a mapping of keys"):
        load(path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load(tmp_path / "none.yaml")


def test_every_key_is_described():
    def walk(rules, where):
        for key, rule in rules["properties"].items():
            assert rule.get("description"), f"{where}{key}"
            if "properties" in rule:
                walk(rule, f"{where}{key}.")

    walk(schema(), "")


def test_the_reference_is_that_of_the_schema():
    text = (ROOT / "config" / "README.md").read_text()
    assert reference.render() in text, "run `python -m pipeline.reference`"
    for path in sorted(ROOT.glob("config/*.yaml")):
        assert f"`{path.name}`" in text, f"config/README.md does not name {path.name}"
