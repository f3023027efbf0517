"""Benchmarks to cells; methods as rows; mistakes in one line; what belongs to training and what only reads."""

import subprocess
import sys
from dataclasses import replace

import pytest

from dgd import config, grafting, methods, objectives, provenance, surgery
from dgd.config import ConfigError

BENCHMARK = {
    "benchmark": "b",
    "seeds": [0, 1],
    "datasets": ["digits"],
    "pairs": [{"student": "cifar_resnet8", "teacher": "cifar_resnet20"}],
    "methods": ["baseline", "kd", "grafting", "dgd"],
}


def paths(**keys):
    return [cell["path"] for cell in config.cells({**BENCHMARK, **keys})]


def test_dgd_is_kd_and_graft():
    assert methods.METHODS["dgd"] == replace(methods.METHODS["kd"], exchange=methods.GRAFT, networks=2)
    assert {name: (m.networks, m.teachers) for name, m in list(methods.METHODS.items())[:4]} == {
        "baseline": (1, 0),
        "kd": (1, 1),
        "grafting": (2, 0),
        "dgd": (2, 1),
    }


def test_every_row_names_terms_and_exchanges_that_exist():
    for method in methods.METHODS.values():
        assert method.objective.keys() <= objectives.TERMS.keys()
        assert not method.exchange or method.exchange["name"] in {**grafting.RING, **grafting.WITHIN, **surgery.SURGERY}
    assert methods.EXCHANGES.keys() == {**grafting.RING, **grafting.WITHIN, **surgery.SURGERY}.keys()


def test_cells_are_the_cross_product_and_the_teachers():
    found = paths()
    assert len(found) == len(set(found)) == 1 + 4 * 2
    assert found[0] == "b/digits/cifar_resnet20/baseline/seed0"
    assert "b/digits/cifar_resnet8/dgd/seed1" in found


def test_a_teacher_that_is_also_a_student_is_one_cell():
    pairs = [
        {"student": "cifar_resnet8", "teacher": "cifar_resnet20"},
        {"student": "cifar_resnet20", "teacher": "cifar_resnet32"},
    ]
    found = paths(pairs=pairs)
    assert found.count("b/digits/cifar_resnet20/baseline/seed0") == 1
    assert len(found) == 8 * 2 + 1


def test_a_student_of_two_teachers_has_a_folder_for_each():
    pairs = [{"student": "cifar_resnet8", "teacher": t} for t in ("cifar_resnet20", "cifar_resnet32")]
    found = paths(pairs=pairs, methods=["baseline", "kd"], seeds=[0])
    assert found[2:] == [
        "b/digits/cifar_resnet8/baseline/seed0",
        "b/digits/cifar_resnet8-by-cifar_resnet20/kd/seed0",
        "b/digits/cifar_resnet8-by-cifar_resnet32/kd/seed0",
    ]


def test_a_teacher_may_have_a_recipe_of_its_own():
    teacher, student, *_ = config.cells({**BENCHMARK, "teacher_recipe": {"epochs": 400}})
    assert (teacher["student"], teacher["recipe"]["epochs"]) == ("cifar_resnet20", 400)
    assert student["recipe"]["epochs"] == 200
    pairs = [*BENCHMARK["pairs"], {"student": "cifar_resnet20", "teacher": "cifar_resnet32"}]
    with pytest.raises(ConfigError, match="cifar_resnet20 is a student and a teacher, and its baseline is one cell"):
        config.check({**BENCHMARK, "pairs": pairs, "teacher_recipe": {"epochs": 400}}, "b.yaml")


def test_protocol_reaches_the_cell():
    for protocol, teachers in (("paper", "mean"), ("reference-code", "sum")):
        cell = config.cells({**BENCHMARK, "protocol": protocol})[-1]
        assert cell["exchange"] == methods.filled_exchange({"name": "graft"}, protocol)
        assert cell["exchange"]["layers"] == {"paper": "dimension", "reference-code": "name"}[protocol]
        assert cell["objective"]["kd"] == {"weight": 1.0, "teachers": teachers}


def test_options_of_an_exchange_need_no_name():
    cell = config.cells({**BENCHMARK, "methods": [{"grafting-a0": {"base": "grafting", "exchange": {"a": 0.0}}}]})[-1]
    assert cell["exchange"] == {**methods.filled_exchange({"name": "graft"}), "a": 0.0}


def test_a_pair_may_name_its_methods():
    pairs = [*BENCHMARK["pairs"], {"student": "cifar_resnet32", "methods": ["baseline"]}]
    found = [path for path in paths(pairs=pairs) if "cifar_resnet32" in path]
    assert found == ["b/digits/cifar_resnet32/baseline/seed0", "b/digits/cifar_resnet32/baseline/seed1"]


def test_a_method_may_change_its_recipe_and_options():
    rows = [{"kd-t4": {"base": "kd", "objective": {"ce": 0.1, "kd": {"weight": 0.9, "tau": 4}}, "recipe": {"lr": 0.05}}}]
    cell = config.cells({**BENCHMARK, "methods": rows})[-1]
    assert cell["method"] == "kd-t4"
    assert cell["objective"] == {"ce": {"weight": 0.1}, "kd": {"weight": 0.9, "tau": 4, "teachers": "mean"}}
    assert cell["recipe"]["lr"] == 0.05


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seeds": []}, "b.yaml: seeds is missing or empty"),
        ({"methods": ["kdd"]}, "methods: unknown method 'kdd'; known: baseline"),
        ({"methods": ["kd", "kd"]}, "'kd' is there twice"),
        ({"methods": [{"x": {"base": "kd", "nets": 2}}]}, "methods.x: unknown key 'nets'"),
        ({"methods": [{"x": {"base": "grafting", "networks": 1}}]}, "graft needs at least 2 networks, networks is 1"),
        ({"methods": [{"x": {"base": "kd", "teachers": 2}}]}, "needs 2 teachers and teacher_seeds has 1"),
        ({"methods": [{"x": {"base": "kd", "objective": {"dk": 1}}}]}, "unknown term 'dk'; known: at, ce"),
        ({"methods": [{"x": {"base": "dgd", "exchange": {"name": "grift"}}}]}, "unknown exchange 'grift'; known: graft"),
        ({"methods": [{"x": {"base": "dgd", "exchange": {"cc": 4}}}]}, "exchange 'graft' has no option 'cc'; known: a, c"),
        ({"methods": [{"x": {"base": "kd", "exchange": {"a": 0}}}]}, "exchange has no name, and kd has no exchange"),
        ({"methods": [{"x": {"base": "kd", "objective": {}}}]}, "methods.x: objective is empty"),
        ({"methods": [{"x": {"base": "kd", "objective": {"kd": {"taau": 4}}}}]}, "term 'kd': "),
        ({"methods": [{"x": {"base": "kd", "objective": {"ce": "1e-1"}}}]}, "the weight of 'ce' is '1e-1'"),
        ({"methods": [{"x": {"base": "baseline", "objective": {"kd": 1}}}]}, "a term of kd needs a teacher; set teachers: 1"),
        ({"methods": [{"x": {"base": "dml", "networks": 1}}]}, "a term of ce, mutual needs other networks in its group"),
        ({"methods": ["dml"], "recipe": {"ranks_per_network": 1}}, "needs all networks in one process; set recipe.ranks_per"),
        ({"methods": ["hkd"], "recipe": {"ranks_per_network": 2}}, "needs all images of its network in one process"),
        ({"methods": ["self-explanation"], "recipe": {"compile": True}}, "needs a network that is not compiled"),
        ({"methods": ["kd+graft"]}, "methods: 'kd+graft' has a name of its own, 'dgd'"),
        ({"methods": ["repr+graft"]}, "repr has an exchange, and a method has one at most"),
        ({"methods": ["repr"], "recipe": {"epochs": 90}}, "the cycles of 'repr' take 90 epochs, and recipe.epochs is 90"),
        ({"methods": [{"x": {"base": "repr", "exchange": {"every": 2}}}]}, "exchange 'repr' has no option 'every'"),
        ({"methods": [{"x": {"base": "repr", "exchange": {"share": None}}}]}, "share of 'repr' is None; it must be above 0"),
        ({"recipe": {"milestones": [3, 2]}}, "recipe.milestones is [3, 2]; it must be rising"),
        ({"recipe": {"nesterov": True, "momentum": 0.0}}, "recipe.nesterov is true and recipe.momentum 0"),
        ({"methods": [{"a/b": {"base": "kd"}}]}, "'a/b' names folders"),
        ({"methods": [{"baseline": {"recipe": {"lr": 1.0}}}]}, "baseline is what published numbers and gains are held against"),
        ({"datasets": ["imagefolder:/nowhere/at/all"]}, "'/nowhere/at/all' is no folder"),
        ({"datasets": ["imagefolder:."]}, "data.image_size is needed for imagefolder:."),
        ({"datasets": ["digits", "digits"]}, "two of them would share the folder 'digits'"),
        ({"pairs": [{"student": "cifar_resnet8", "methods": ["kdd"]}]}, "pairs: 'kdd' of cifar_resnet8 is no name of methods"),
        ({"controls": {"dgd": ["baseline@worst"]}}, "controls: 'baseline@worst' is no reading; write a name of methods"),
        ({"controls": {"dml": ["baseline"]}}, "controls: 'dml' has no gain; write a name of methods other than baseline"),
        ({"controls": {"dgd@mean": ["baseline"]}}, "controls: 'dgd@mean' has no gain"),
        ({"controls": {"dgd": ["dgd"]}}, "controls: dgd is held against itself"),
        ({"controls": {"dgd": ["kd@ensemble"]}}, "controls: 'kd@ensemble' reads a group, and kd has one network"),
        (
            {"controls": {"dgd": ["kd"]}, "methods": ["kd", "dgd"]},
            "controls: gains are over the baseline, which is not in methods",
        ),
        ({"methods": [{"dgd": {"networks": 4}}]}, "dgd is what published numbers and gains are held against"),
        ({"methods": [{"x": {"base": "dgd", "exchange": {}}}]}, "methods.x: exchange is {}; write {name: ..., <option>: ...}"),
        ({"methods": [{"x": {"base": "dgd", "exchange": "swap"}}]}, "methods.x: exchange is 'swap'; write"),
        ({"report": "second"}, "report is 'second'; it must be one of first, mean, best"),
        ({"recipe": {"weight_average": "mean"}}, "recipe.weight_average is 'mean'; it must be one of none, ema, swa"),
        ({"recipe": {"average_decay": 1.0}}, "recipe.average_decay is 1.0; it must be from 0 to below 1"),
        ({"recipe": {"filters_every": 0}}, "recipe.filters_every is 0; it must be 1 or more"),
        ({"sedes": 3}, "sedes: unknown key; known: benchmark"),
        ({"recipe": {"lr": "5e-2"}}, "recipe.lr is '5e-2'; it must be of type float; YAML takes 5e-4 for a text"),
        ({"recipe": {"epochs": True}}, "recipe.epochs is True; it must be of type int"),
        ({"pairs": [{"student": "cifar_resnet8"}]}, "method 'kd' needs a teacher and the pair of cifar_resnet8 has none"),
        ({"pairs": [{"student": "cifar_resnet9", "teacher": "cifar_resnet20"}]}, "cifar_resnet9"),
        ({"datasets": ["digit"]}, "unknown data set 'digit'; known: digits"),
        ({"protocol": "code"}, "protocol is 'code'; it must be one of paper, reference-code"),
        ({"recipe": {"epoch": 3}}, "recipe.epoch: unknown key"),
        ({"recipe": {"precision": "fp16"}}, "recipe.precision is 'fp16'; it must be one of fp32, tf32, bf16"),
    ],
)
def test_mistakes_are_named_in_one_line(keys, message):
    with pytest.raises(ConfigError) as error:
        config.check({**BENCHMARK, **keys}, "b.yaml")
    assert message in str(error.value)
    assert str(error.value).startswith("b.yaml: ")
    assert "\n" not in str(error.value)


def test_nothing_that_trains_imports_what_only_reads():
    """The readers are left out of the code hash; that is only right while training cannot depend on them."""
    code = (
        "import sys, dgd.training;"
        "parts = [m.split('.')[1] for m in sys.modules if m.startswith('dgd.')];"
        f"bad = [part for part in parts if part == 'read' or part + '.py' in {provenance.READERS!r}];"
        "sys.exit(' '.join(bad) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_library_never_imports_the_pipeline():
    for path in provenance.PACKAGE.rglob("*.py"):
        assert "import pipeline" not in path.read_text()
        assert "from pipeline" not in path.read_text()


def test_the_code_hash_sees_every_training_file(tmp_path, monkeypatch):
    import shutil

    copy = tmp_path / "dgd"
    shutil.copytree(provenance.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    before = provenance.code_hash()
    for name, changes in (
        ("grafting.py", True),
        ("objectives/kd.py", True),
        ("tables.py", False),
        ("cli.py", False),
        ("claims.py", False),
    ):
        (copy / name).write_text((copy / name).read_text() + "\n# edited\n")
        assert (provenance.code_hash() != before) is changes, name
        before = provenance.code_hash()
