"""Benchmarks to cells, by one validator: what it refuses and in which words, for Snakemake, dgd-bench and Python alike."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dgd import config, keys, methods, objectives, terms
from dgd import exchange as exchanges
from dgd.cell import EXCHANGES, Cell, Data, Graft, Recipe, exchange
from dgd.config import ConfigError
from pipeline import reference

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(ROOT.glob("config/*.yaml")) + sorted(ROOT.glob("config/test/*.yaml"))
BENCHMARK = {
    "benchmark": "b",
    "seeds": [0, 1],
    "datasets": ["digits"],
    "pairs": [{"student": "cifar_resnet8", "teacher": "cifar_resnet20"}],
    "methods": ["baseline", "kd", "grafting", "dgd"],
}


def cells(**changes) -> list[Cell]:
    return config.cells(config.check({**BENCHMARK, **changes}, "b.yaml"))


def paths(**changes) -> list[str]:
    return [cell.path for cell in cells(**changes)]


def lines(given, source: str = "b.yaml") -> list[str]:
    """What the validator says, a line each; each names the source."""
    with pytest.raises(ConfigError) as error:
        config.check(given, source)
    found = str(error.value).split("\n")
    assert all(line.startswith(f"{source}: ") and line.isprintable() for line in found), found
    return [line.removeprefix(f"{source}: ") for line in found]


# ------------------------------------------------------------------------------------------------ methods and cells


def test_dgd_is_kd_and_graft():
    assert methods.METHODS["dgd"] == replace(methods.METHODS["kd"], exchange=methods.GRAFT, networks=2)
    assert {name: (m.networks, m.teachers) for name, m in list(methods.METHODS.items())[:4]} == {
        "baseline": (1, 0),
        "kd": (1, 1),
        "grafting": (2, 0),
        "dgd": (2, 1),
    }


def test_every_row_names_terms_and_exchanges_that_exist():
    for name, method in methods.METHODS.items():
        assert method.objective.keys() <= objectives.TERMS.keys()
        assert not method.exchange or exchanges.find(method.exchange["name"])
        assert not keys.problems(methods.Method, keys.plain(method)), name
    for name, kind in EXCHANGES.items():
        assert any(hasattr(exchanges.find(name), what) for what in ("shares", "within", "surgery")), kind


def test_terms_have_the_options_of_their_classes():
    """What is read from the source without torch is what the classes take."""
    import inspect

    assert terms.known().keys() == objectives.TERMS.keys()
    for name, term in objectives.TERMS.items():
        parameters = inspect.signature(term).parameters.values()
        wanted = {p.name: (p.annotation, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
        assert terms.options(name) == wanted, name


def test_an_objective_is_written_out_with_every_default():
    assert methods.written_out({"ce": 1, "kd": {"tau": 4}}) == {
        "ce": {"weight": 1.0, "smoothing": 0.0},
        "kd": {"weight": 1.0, "tau": 4.0, "teachers": "mean"},
    }
    assert methods.written_out({"kd": 1.0}) == methods.written_out({"kd": {"weight": 1, "tau": 2}})
    assert methods.written_out({"elsewhere": {"weight": 2, "x": 1}}) == {"elsewhere": {"weight": 2.0, "x": 1}}


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
    teacher, student, *_ = cells(teacher_recipe={"epochs": 400})
    assert (teacher.student, teacher.recipe.epochs) == ("cifar_resnet20", 400)
    assert student.recipe.epochs == 200
    pairs = [*BENCHMARK["pairs"], {"student": "cifar_resnet20", "teacher": "cifar_resnet32"}]
    (line,) = lines({**BENCHMARK, "pairs": pairs, "teacher_recipe": {"epochs": 400}})
    assert "cifar_resnet20 is a student and a teacher, and its baseline is one cell" in line


def test_protocol_reaches_the_cell():
    for protocol, teachers in (("paper", "mean"), ("reference-code", "sum")):
        cell = cells(protocol=protocol)[-1]
        assert cell.exchange == exchange({"name": "graft"}, protocol)
        assert cell.exchange.layers == {"paper": "dimension", "reference-code": "name"}[protocol]
        assert cell.objective["kd"] == {"weight": 1.0, "teachers": teachers}


def test_options_of_an_exchange_need_no_name():
    cell = cells(methods=[{"grafting-a0": {"base": "grafting", "exchange": {"a": 0.0}}}])[-1]
    assert cell.exchange == Graft(a=0.0)


def test_a_pair_may_name_its_methods():
    pairs = [*BENCHMARK["pairs"], {"student": "cifar_resnet32", "methods": ["baseline"]}]
    found = [path for path in paths(pairs=pairs) if "cifar_resnet32" in path]
    assert found == ["b/digits/cifar_resnet32/baseline/seed0", "b/digits/cifar_resnet32/baseline/seed1"]


def test_a_method_may_change_its_recipe_and_options():
    rows = [{"kd-t4": {"base": "kd", "objective": {"ce": 0.1, "kd": {"weight": 0.9, "tau": 4}}, "recipe": {"lr": 0.05}}}]
    cell = cells(methods=rows)[-1]
    assert cell.method == "kd-t4"
    assert cell.objective == {"ce": {"weight": 0.1}, "kd": {"weight": 0.9, "tau": 4, "teachers": "mean"}}
    assert cell.recipe.lr == 0.05


def test_the_loss_on_the_labels_is_that_of_the_task():
    """Of a regression, `ce` stands for the squared error; that of other data sets stays."""
    given = {**BENCHMARK, "datasets": ["digits-rotation", "cifar10"], "methods": ["baseline", {"x": {"base": "at"}}]}
    found = {cell.slug: cell for cell in config.cells(config.check(given)) if cell.method == "x"}
    assert found["digits-rotation"].task == "regression"
    assert found["digits-rotation"].objective == {"at": {"weight": 1000.0}, "mse": {"weight": 1.0}}
    assert (found["cifar10"].task, *found["cifar10"].objective) == ("classification", "at", "ce")
    smooth = {"x": {"base": "baseline", "objective": {"ce": {"smoothing": 0.1}}}}
    (line,) = lines({**given, "methods": [smooth]})
    assert line.endswith("regression minimises mse instead of ce, which has no option 'smoothing'")
    (line,) = lines({**given, "methods": ["kd"]})
    assert line.endswith("methods.kd: kd is for classification, and the data sets have a regression; take another term")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_give_cells_that_their_own_yaml_gives_again(path):
    found = config.cells(config.load(path, folders=False))
    assert found
    assert len({cell.path for cell in found}) == len(found)
    for cell in found[:: max(1, len(found) // 20)]:
        assert Cell.from_plain(yaml.safe_load(yaml.safe_dump(cell.plain()))) == cell


COMMITTED = sorted(
    path.name for path in (ROOT / "results").iterdir() if path.is_dir() and (ROOT / "config" / f"{path.name}.yaml").is_file()
)


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_cells_are_those_of_their_configs(name):
    found = {path.parent: yaml.safe_load(path.read_text()) for path in (ROOT / "results" / name).glob("*/*/*/*/config.yaml")}
    wanted = {ROOT / "results" / cell.path: cell for cell in config.cells(config.load(ROOT / f"config/{name}.yaml"))}
    assert found
    for folder, given in found.items():
        assert Cell.from_plain(given) == wanted[folder], folder


def test_a_checked_benchmark_is_read_back_from_its_plain_form():
    benchmark = config.check({**BENCHMARK, "recipe": {"lr": 1}, "pruning": [0, 0.5]})
    again = config.check(benchmark.plain())
    assert again == benchmark
    assert again.plain() == benchmark.plain()
    assert (benchmark.recipe, benchmark.data, benchmark.results) == (Recipe(lr=1.0), Data(), "results")


def test_checking_changes_nothing_of_what_is_given():
    given = {**BENCHMARK, "controls": {"dgd": ["kd"]}}
    before = yaml.safe_dump(given)
    config.check(given).plain()["data"]["dir"] = "elsewhere"
    assert yaml.safe_dump(given) == before
    assert config.check(given).data.dir == "data"


# ------------------------------------------------------------------------------------------------ mistakes in a config

NAMED = "it must be a name of at most 100 letters"
ROW = {"base": "kd"}
MISTAKES = [
    # A key alone.
    ({"seeds": []}, "seeds is empty; it needs at least one item"),
    ({"methods": []}, "methods is empty"),
    ({"datasets": []}, "datasets is empty"),
    ({"pairs": []}, "pairs is empty"),
    ({"pairs": [{"student": "cifar_resnet8", "methods": []}]}, "pairs[0].methods is empty"),
    ({"controls": {"dgd": []}}, "controls.dgd is empty"),
    ({"controls": {"dgd": "kd"}}, "controls.dgd is 'kd'; it must be a list"),
    ({"seeds": "abc"}, "seeds is 'abc'; it must be a list"),
    ({"seeds": [0, 0]}, "seeds has 0 twice; name each once"),
    ({"seeds": [0, "1"]}, "seeds[1] is '1'; it must be a whole number at least 0 and at most 4294967295"),
    ({"seeds": [True]}, "seeds[0] is True; it must be a whole number"),
    ({"seeds": [-1]}, "seeds[0] is -1; it must be at least 0"),
    ({"seeds": [2**32]}, "seeds[0] is 4294967296; it must be at least 0 and at most 4294967295"),
    ({"pairs": BENCHMARK["pairs"] * 2}, "pairs has {'student': 'cifar_resnet8', 'teacher': 'cifar_resnet20'} twice"),
    ({"pairs": [{"teacher": "cifar_resnet20"}]}, "pairs[0].student is missing"),
    ({"pairs": [{"student": "cifar_resnet8", "techer": "x"}]}, "pairs[0].techer: unknown key; did you mean teacher?"),
    ({"datasets": "digits"}, "datasets is 'digits'; it must be a list"),
    ({"benchmark": "my bench"}, f"benchmark is 'my bench'; {NAMED}"),
    ({"benchmark": "."}, f"benchmark is '.'; {NAMED}"),
    ({"benchmark": ".."}, f"benchmark is '..'; {NAMED}"),
    ({"benchmark": "/tmp/b"}, f"benchmark is '/tmp/b'; {NAMED}"),
    ({"benchmark": "a/b"}, f"benchmark is 'a/b'; {NAMED}"),
    ({"benchmark": "-b"}, f"benchmark is '-b'; {NAMED}"),
    ({"benchmark": "b\n"}, f"benchmark is 'b\\n'; {NAMED}"),
    ({"benchmark": "b" * 101}, NAMED),
    ({"benchmark": 7}, "benchmark is 7; it must be a text"),
    ({"benchmark": ""}, f"benchmark is ''; {NAMED}"),
    ({"results": "a\0b"}, "results is 'a\\x00b'; it must be a text of at least one character, without control characters"),
    ({"results": ""}, "results is ''; it must be a text of at least one character"),
    ({"data": {"dir": "a\nb"}}, "data.dir is 'a\\nb'; it must be a text of at least one character"),
    ({"papers": ["../dgd"]}, f"papers[0] is '../dgd'; {NAMED}"),
    ({"papers": ["dgdd"]}, "papers: no file papers/dgdd.yaml; did you mean dgd?"),
    ({"protocol": "papers"}, "protocol is 'papers'; it must be one of paper, reference-code"),
    ({"report": "second"}, "report is 'second'; it must be one of first, mean, best"),
    ({"pruning": [1.5]}, "pruning[0] is 1.5; it must be at least 0 and at most 1"),
    ({"sedes": 3}, "sedes: unknown key; did you mean seeds?"),
    ({"zzz": 3}, "zzz: unknown key; known: benchmark, results, plugins, papers"),
    ({7: 3}, "7: unknown key; known: benchmark"),
    ({"data": {"zzz": 3}}, "data.zzz: unknown key; known: dir, train_images"),
    ({"data": {"train_images": 0}}, "data.train_images is 0; it must be at least 1"),
    ({"data": None}, "data is None; it must be a mapping of keys"),
    ({"data": {"dir": "a{b}"}}, "data.dir is 'a{b}'; it must have no braces"),
    ({"results": "a{b"}, "results is 'a{b'; it must have no braces"),
    # The recipe.
    ({"recipe": {"epoch": 3}}, "recipe.epoch: unknown key; did you mean epochs?"),
    ({"recipe": {"epochs": 0}}, "recipe.epochs is 0; it must be at least 1"),
    ({"recipe": {"step_epochs": 0}}, "recipe.step_epochs is 0; it must be at least 1"),
    ({"recipe": {"epochs": True}}, "recipe.epochs is True; it must be a whole number at least 1"),
    ({"recipe": {"epochs": 10**30}}, "recipe.epochs is 1000000000000000000000000000000; it must be a number that 64 bits hold"),
    ({"recipe": {"lr": "5e-4"}}, "recipe.lr is '5e-4'; it must be a number above 0 (YAML takes 5e-4 for a text, write 0.0005)"),
    ({"recipe": {"lr": float("nan")}}, "recipe.lr is nan; it must be a finite number"),
    ({"recipe": {"lr": float("inf")}}, "recipe.lr is inf; it must be a finite number"),
    ({"recipe": {"milestones": [3, 2]}}, "recipe.milestones is [3, 2]; epochs must rise"),
    ({"recipe": {"milestones": [3, 3]}}, "recipe.milestones has 3 twice"),
    ({"recipe": {"nesterov": True, "momentum": 0.0}}, "recipe.nesterov is true and recipe.momentum 0"),
    ({"teacher_recipe": {"nesterov": True, "momentum": 0}}, "teacher_recipe.nesterov is true and teacher_recipe.momentum 0"),
    ({"teacher_recipe": {"epochs": "many"}}, "teacher_recipe.epochs is 'many'; it must be a whole number"),
    ({"teacher_recipe": {"epoch": 1}}, "teacher_recipe.epoch: unknown key; did you mean epochs?"),
    ({"recipe": {"weight_average": "mean"}}, "recipe.weight_average is 'mean'; it must be one of none, ema, swa"),
    ({"recipe": {"average_decay": 1.0}}, "recipe.average_decay is 1.0; it must be at least 0 and below 1"),
    ({"recipe": {"filters_every": 0}}, "recipe.filters_every is 0; it must be at least 1"),
    ({"recipe": {"precision": "fp16"}}, "recipe.precision is 'fp16'; it must be one of auto, bf16, fp32, tf32"),
    # Methods.
    ({"methods": ["kdd"]}, "methods[0]: unknown method 'kdd'; did you mean kd?"),
    ({"methods": ["zzzz"]}, "methods[0]: unknown method 'zzzz'; known: baseline"),
    ({"methods": ["kdd+graft"]}, "methods[0]: unknown method 'kdd+graft'; did you mean kd?"),
    ({"methods": ["kd", "kd"]}, "methods has 'kd' twice"),
    ({"methods": [{"x": ROW}, {"x": ROW}]}, "methods: 'x' is there twice; give one of them another name"),
    ({"methods": [3]}, "methods[0] is 3; it must be a text or a mapping of keys"),
    ({"methods": [{"a": {}, "b": {}}]}, "methods[0] is {'a': {}, 'b': {}}; it must be a name, or one mapping"),
    ({"methods": [{"a": ["kd"]}]}, "methods.a is ['kd']; it must be a mapping of keys"),
    ({"methods": [{"x": {"bse": "kd"}}]}, "methods.x.bse: unknown key; did you mean base?"),
    ({"methods": [{"x": {"base": "kd", "nets": 2}}]}, "methods.x.nets: unknown key"),
    ({"methods": [{"x": {"base": "kdd"}}]}, "methods.x.base: unknown method 'kdd'; did you mean kd?"),
    ({"methods": [{"x": {"networks": 2}}]}, "methods.x: unknown method 'x'; known: baseline"),
    *(
        ({"methods": [{name: ROW}]}, "names folders; it must be a name of")
        for name in (".", "..", "/a", "a/b", "-x", "x" * 101, 3)
    ),
    ({"methods": [{"baseline": {"recipe": {"lr": 1.0}}}]}, "baseline is what published numbers and gains are held against"),
    ({"methods": [{"dgd": {"networks": 4}}]}, "dgd is what published numbers and gains are held against"),
    ({"methods": ["kd+graft"]}, "methods[0]: 'kd+graft' has a name of its own, 'dgd'"),
    ({"methods": ["repr+graft"]}, "repr has an exchange, and a method has one at most"),
    ({"methods": [{"x": {"base": "grafting", "networks": 1}}]}, "graft needs at least 2 networks, networks is 1"),
    (
        {"methods": [{"x": {"base": "grafting", "networks": 0}}]},
        "methods.x.networks is 0; it must be at least 1 and at most 1000",
    ),
    ({"methods": [{"x": {"base": "kd", "recipe": {"lr": 0}}}]}, "methods.x.recipe.lr is 0; it must be above 0"),
    ({"methods": [{"x": {"base": "kd", "recipe": {"lrr": 1}}}]}, "methods.x.recipe.lrr: unknown key; did you mean lr?"),
    (
        {"methods": [{"x": {"base": "kd", "recipe": {"nesterov": True, "momentum": 0}}}]},
        "methods.x.recipe.nesterov is true and methods.x.recipe.momentum 0",
    ),
    # Objectives.
    ({"methods": [{"x": {"base": "kd", "objective": {}}}]}, "methods.x.objective is empty"),
    ({"methods": [{"x": {"base": "kd", "objective": {"dk": 1}}}]}, "methods.x.objective.dk: unknown term 'dk'; did you mean"),
    (
        {"methods": [{"x": {"base": "kd", "objective": {"kd": {"taau": 4}}}}]},
        "methods.x.objective.kd.taau: unknown option; did you mean tau?",
    ),
    (
        {"methods": [{"x": {"base": "kd", "objective": {"kd": {"tau": "hot"}}}}]},
        "objective.kd.tau is 'hot'; it must be a number",
    ),
    ({"methods": [{"x": {"base": "kd", "objective": {"kd": {"tau": 0}}}}]}, "methods.x: kd: tau is 0; it must be above 0"),
    ({"methods": [{"x": {"base": "kd", "objective": {"crd": {"dim": 1.5}}}}]}, "crd.dim is 1.5; it must be a whole number"),
    (
        {"methods": [{"x": {"base": "kd", "objective": {"ce": "1e-1"}}}]},
        "methods.x.objective.ce is '1e-1'; it must be a number",
    ),
    (
        {"methods": [{"x": {"base": "kd", "objective": {"ce": float("nan")}}}]},
        "objective.ce is nan; it must be a finite number",
    ),
    (
        {"methods": [{"x": {"base": "kd", "objective": {"ce": {"weight": None}}}}]},
        "objective.ce.weight is None; it must be a number",
    ),
    ({"methods": [{"x": {"base": "kd", "objective": {"ce": True}}}]}, "objective.ce is True; it must be a number"),
    ({"methods": [{"x": {"base": "baseline", "objective": {"kd": 1}}}]}, "a term of kd needs a teacher; set teachers: 1"),
    ({"methods": [{"x": {"base": "dml", "networks": 1}}]}, "a term of ce, mutual needs other networks in its group"),
    ({"methods": ["dml"], "recipe": {"ranks_per_network": 1}}, "needs all networks in one process; set recipe.ranks_per"),
    ({"methods": ["hkd"], "recipe": {"ranks_per_network": 2}}, "needs all images of its network in one process"),
    ({"methods": ["self-explanation"], "recipe": {"compile": True}}, "needs a network that is not compiled"),
    ({"recipe": {"fused_norm": True, "compile": True}}, "recipe.fused_norm is true; it needs compile: false and channels_last"),
    ({"recipe": {"fused_norm": True, "channels_last": False}}, "recipe.fused_norm is true; it needs compile: false and chan"),
    # Exchanges.
    ({"methods": [{"x": {"base": "dgd", "exchange": {}}}]}, "methods.x.exchange is {}; write {name: ..., <option>: ...}"),
    (
        {"methods": [{"x": {"base": "dgd", "exchange": "swap"}}]},
        "methods.x.exchange is 'swap'; it must be a mapping of keys or null",
    ),
    (
        {"methods": [{"x": {"base": "dgd", "exchange": {"name": "grift"}}}]},
        "methods.x.exchange.name is 'grift'; it is no exchange; did you mean graft?",
    ),
    ({"methods": [{"x": {"base": "dgd", "exchange": {"cc": 4}}}]}, "methods.x.exchange.cc: unknown key; did you mean"),
    ({"methods": [{"x": {"base": "dgd", "exchange": {"c": float("inf")}}}]}, "exchange.c is inf; it must be a finite number"),
    ({"methods": [{"x": {"base": "kd", "exchange": {"a": 0}}}]}, "methods.x.exchange has no name, and kd has no exchange"),
    (
        {"methods": [{"x": {"base": "repr", "exchange": {"every": 2}}}]},
        "exchange.every: repr keeps its own time: share, normal",
    ),
    (
        {"methods": [{"x": {"base": "repr", "exchange": {"share": None}}}]},
        "exchange.share is None; it must be a number above 0",
    ),
    (
        {"methods": [{"x": {"base": "repr", "exchange": {"share": 1.0}}}]},
        "exchange.share is 1.0; it must be above 0 and below 1",
    ),
    ({"methods": ["repr"], "recipe": {"epochs": 90}}, "the cycles of 'repr' take 90 epochs, and recipe.epochs is 90"),
    (
        {"methods": [{"x": {"base": "grafting", "exchange": {"level": "filter"}}}], "protocol": "reference-code"},
        "methods.x.exchange.criterion is 'entropy'; the published filter-level script",
    ),
    (
        {"methods": [{"x": {"base": "grafting", "exchange": {"from": 3, "until": 2}}}]},
        "methods.x.exchange.until is 2, before from, 3: it would never take place",
    ),
    # Data sets, pairs, controls.
    ({"datasets": ["digit"]}, "datasets: unknown data set 'digit'; did you mean digits?"),
    ({"datasets": ["digits", "digits"]}, "datasets has 'digits' twice"),
    ({"datasets": ["imagefolder:/nowhere/at/all"], "data": {"image_size": 8}}, "'/nowhere/at/all' is no folder"),
    ({"datasets": ["imagefolder:config"]}, "data.image_size is needed for 'imagefolder:config'"),
    ({"datasets": ["imagefolder:/"], "data": {"image_size": 8}}, "'imagefolder:/' has no name for a folder of results"),
    (
        {"datasets": ["imagefolder:config/test", "imagefolder:papers/../tests/../config/test"], "data": {"image_size": 8}},
        "datasets: two of them would share the folder 'imagefolder-test'; rename one",
    ),
    (
        {"pairs": [{"student": "cifar_resnet9"}], "methods": ["baseline"]},
        "pairs[0].student: unknown model 'cifar_resnet9': did you",
    ),
    ({"pairs": [{"student": "../cifar_resnet8"}], "methods": ["baseline"]}, f"pairs[0].student is '../cifar_resnet8'; {NAMED}"),
    (
        {"pairs": [{"student": "cifar_resnet8"}], "methods": ["kd"]},
        "method 'kd' needs a teacher and the pair of cifar_resnet8 has",
    ),
    (
        {"methods": [{"x": {"base": "kd", "teachers": 2}}]},
        "method 'x' needs 2 teachers and teacher_seeds has 1; give it 2 seeds",
    ),
    (
        {"pairs": [{"student": "cifar_resnet8", "methods": ["kdd"]}]},
        "pairs[0].methods: 'kdd' of cifar_resnet8 is no name of methods; did you mean kd?",
    ),
    ({"controls": {"dgd": ["baseline@worst"]}}, "controls: 'baseline@worst' is no reading; write a name of methods"),
    ({"controls": {"dml": ["baseline"]}}, "controls: 'dml' has no gain; write a name of methods other than baseline"),
    ({"controls": {"dgd@mean": ["baseline"]}}, "controls: 'dgd@mean' has no gain"),
    ({"controls": {"dgd": ["dgd"]}}, "controls: dgd is held against itself"),
    ({"controls": {"dgd": ["kd@ensemble"]}}, "controls: 'kd@ensemble' reads a group, and kd has one network"),
    (
        {"controls": {"dgd": ["kd"]}, "methods": ["kd", "dgd"]},
        "controls: gains are over the baseline, which is not in methods",
    ),
    (
        {"seeds": list(range(62_501)), "datasets": ["digits", "cifar10", "cifar100", "fashion_mnist"]},
        "datasets x pairs x methods x seeds are 1,000,016 cells; it must be at most 1,000,000",
    ),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=[message[:60] for _, message in MISTAKES])
def test_a_mistake_is_one_line_that_names_the_key(changes, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = lines({**BENCHMARK, **changes})
    assert len(found) == 1, found
    assert message in found[0]


def test_an_absolute_folder_of_results_is_fine(tmp_path):
    assert config.check({**BENCHMARK, "results": str(tmp_path)}).results == str(tmp_path)


def test_every_mistake_is_told_at_once():
    given = {
        "benchmark": "my bench",
        "sedes": [0],
        "methods": ["kdd", {"x": {"base": "kd", "recipe": {"lr": 0}}}],
        "datasets": ["digit"],
        "pairs": [{"student": "cifar_resnet9"}],
        "recipe": {"lr": 0, "epochs": 0},
        "controls": {"dgd": "kd"},
    }
    found = lines(given)
    assert [re.split(r":? ", line)[0] for line in found] == [
        "sedes",
        "benchmark",
        "seeds",
        "controls.dgd",
        "recipe.epochs",
        "recipe.lr",
        "methods[0]",
        "methods.x.recipe.lr",
        "datasets",
        "pairs[0].student",
    ]


@pytest.mark.parametrize("given", [None, [1, 2], "text", 3])
def test_what_is_no_mapping_is_said_to_be_none(given):
    (line,) = lines(given)
    assert re.fullmatch(r"a benchmark is .*; it must be a mapping of keys, see config/README.md", line)


# ------------------------------------------------------------------------------------------------------- the reference


def test_the_reference_is_that_of_the_kinds():
    text = (ROOT / "config" / "README.md").read_text()
    assert reference.render() in text, "run `python -m pipeline.reference`"
    for path in sorted(ROOT.glob("config/*.yaml")):
        assert f"`{path.name}`" in text, f"config/README.md does not name {path.name}"
