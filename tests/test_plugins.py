"""What comes from outside: files, folders, installed packages and papers of a user."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from dgd import cli, scaffold
from tests.helpers import start_process


def command(words, folder, site) -> None:
    os.chdir(folder)
    sys.path += [str(site)] if site else []
    sys.exit(cli.main(list(words)))


def run(folder, *words, status=0, site: Path | None = None) -> str:
    """Run dgd-bench in a process of its own, because what it loads stays loaded; return what it prints."""
    output = folder / "output"
    process = start_process(command, words, folder, site, output=output)
    process.join()
    said = output.read_text()
    assert process.exitcode == status, said
    return said


def write(folder, **changes) -> str:
    """Write a benchmark of small cells and return its name."""
    given = {
        "benchmark": "own",
        "plugins": ["blend_own.py"],
        "papers": [],
        "seeds": [0],
        "datasets": ["digits"],
        "data": {"train_images": 40},
        "pairs": [{"student": "cifar_resnet8"}],
        "methods": ["baseline", "blend-own", "grafting"],
        "recipe": {"epochs": 1, "batch_size": 20, "device": "cpu"},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump({**given, **changes}))
    return "own.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a plugin, a benchmark that uses it, and its cells."""
    folder = tmp_path_factory.mktemp("plugins")
    scaffold.new("exchange", "blend-own", folder)
    run(folder, "train", write(folder))
    return folder


def record(folder, method) -> dict:
    return json.loads((folder / f"results/own/digits/cifar_resnet8/{method}/seed0/provenance.json").read_text())["identity"]


def test_the_code_of_a_plugin_is_part_of_the_cells_that_use_it_and_of_no_others(trained):
    assert "blend_own.py" in record(trained, "blend-own")["code"]
    assert "dgd/exchange/graft.py" not in record(trained, "blend-own")["code"]
    for method in ("baseline", "grafting"):
        assert "blend_own.py" not in record(trained, method)["code"]
    assert record(trained, "blend-own")["fields"]["exchange.keep"] == 0.7
    own, other = (
        yaml.safe_load((trained / f"results/own/digits/cifar_resnet8/{method}/seed0/config.yaml").read_text())["plugins"]
        for method in ("blend-own", "baseline")
    )
    assert (own, other) == (["blend_own.py"], [])
    metrics = json.loads((trained / "results/own/digits/cifar_resnet8/blend-own/seed0/metrics.json").read_text())
    assert metrics["method"]["status"] == "own"

    code = (trained / "blend_own.py").read_text()
    try:
        (trained / "blend_own.py").write_text(code.replace("return [{", "# a comment\n        return [{"))
        assert run(trained, "status", "own.yaml").count(": done\n") == 3
        (trained / "blend_own.py").write_text(code.replace("options.keep if", "options.keep / 2 if"))
        done = run(trained, "status", "own.yaml", status=1)
        assert done.count(": done\n") == 2
        assert "blend-own/seed0: stale: the code of blend_own.py differs" in done
    finally:
        (trained / "blend_own.py").write_text(code)


def test_a_cell_with_a_plugin_trains_again_from_its_config_and_a_folder_of_results_runs_nothing(trained, tmp_path):
    path = "results/own/digits/cifar_resnet8/blend-own/seed0"
    run(trained, "train", f"{path}/config.yaml", "--results", str(tmp_path))
    for name in ("history.csv", "predictions.npz", "model.safetensors"):
        assert (tmp_path / "own/digits/cifar_resnet8/blend-own/seed0" / name).read_bytes() == (
            trained / path / name
        ).read_bytes()
    said = run(trained, "status", "results/own", status=1)  # what it holds is read, and no code is run that a config.yaml names
    assert "exchange.name is 'blend-own'; it is no exchange" in said
    assert "it uses plugins: ['blend_own.py']; give them by --plugin" in said
    assert run(trained, "status", "results/own", "--plugin", "blend_own.py").count(": done\n") == 3


def test_an_installed_package_is_a_plugin_by_its_entry_point(trained, tmp_path):
    """Its submodules count as code; so that nothing is installed here, the package is put on the path."""
    site = tmp_path / "site"
    (site / "their_pkg").mkdir(parents=True)
    about = site / "their_pkg-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-pkg\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[dgd_bench.plugins]\ntheirs = their_pkg.exchanges\n")
    (site / "their_pkg/__init__.py").write_text("")
    (site / "their_pkg/part.py").write_text("HALF = 0.5\n")
    code = (trained / "blend_own.py").read_text().replace("blend-own", "theirs")
    code = code.replace("from dgd.keys", "from their_pkg.part import HALF\nfrom dgd.keys").replace("key(0.7", "key(HALF")
    (site / "their_pkg/exchanges.py").write_text(code)
    folder = tmp_path / "work"
    folder.mkdir()
    run(folder, "train", write(folder, plugins=[], methods=["baseline", "theirs"]), site=site)
    assert {"their_pkg/exchanges.py", "their_pkg/part.py"} <= record(folder, "theirs")["code"].keys()
    assert record(folder, "theirs")["fields"]["exchange.keep"] == 0.5
    assert not {"their_pkg/exchanges.py"} & record(folder, "baseline")["code"].keys()


BAD = {
    "missing.py": (None, "missing.py: .*missing.py is not there"),
    "two words.py": ("", "two words.py: a plugin is imported by its name, and 'two words' cannot be one in Python; rename it"),
    "numpy.py": ("", "numpy.py: there is another module 'numpy'; rename the plugin"),
    "broken.py": ("import dgd\n1 / 0\n", "broken.py: ZeroDivisionError: division by zero"),
    "syntax.py": ("def f(:\n", "syntax.py: SyntaxError: "),
    "sibling.py": ("import their_helpers\n", "sibling.py: ModuleNotFoundError: .*lie in one folder with it"),
    "taken.py": (
        "from dgd.cell import Method\nMETHODS = {'kd': Method()}\n",
        "taken.py: METHODS has 'kd', which is there already; take another name",
    ),
    "kind.py": ("TERMS = {'mine': int}\n", r"kind.py: TERMS\['mine'\] is no subclass of dgd.objectives.Term"),
    "form.py": ("TERMS = ['mine']\n", "form.py: TERMS must be a mapping of names"),
    "named.py": ("METHODS = {'a/b': 1}\n", "named.py: METHODS has 'a/b'; it must be a name of"),
    "option.py": (
        "from dgd.objectives import Term\nclass Mine(Term):\n    def __init__(self, tau): pass\nTERMS = {'mine': Mine}\n",
        r"option.py: TERMS\['mine'\] has the option 'tau', which needs a default and one of the types float, int, bool, str",
    ),
    "nothing": (None, "nothing: no Python file, no folder, and no entry point 'dgd_bench.plugins' of an installed package"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_plugin_that_cannot_be_is_one_line_that_names_it(tmp_path, name):
    """In this process, because a plugin that is refused adds nothing."""
    from dgd import config, methods, plugins, terms

    before = dict(methods.METHODS), dict(terms.known()), dict(plugins._MODULES)
    code, message = BAD[name]
    if code is not None:
        (tmp_path / name).write_text(code)
    given = {"plugins": [str(tmp_path / name)] if "." in name else [name]}
    with pytest.raises(config.ConfigError, match=message) as error:
        config.check(given, "own.yaml")
    assert str(error.value).startswith("own.yaml: plugins: ")
    assert "\n" not in str(error.value)
    assert (dict(methods.METHODS), dict(terms.known()), dict(plugins._MODULES)) == before


@pytest.mark.parametrize(
    "kind", ["term", "paper", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("exchange", "model", "dataset"))]
)
def test_a_new_file_is_right_as_it_is(tmp_path, kind):
    name = "own-thing" if kind != "paper" else "own_paper"
    said = run(tmp_path, "new", kind, name)
    (path,) = tmp_path.glob("own*")
    assert str(path.name) in said
    assert run(tmp_path, "check", path.name).count(": right") == {"term": 2, "model": 4}.get(kind, 1)
    assert f"{path.name} is there already" in run(tmp_path, "new", kind, name, status=1)


@pytest.mark.slow
def test_what_is_wrong_with_a_term_is_found(tmp_path):
    """A gradient of the wrong sign, a module that nothing moves, and random numbers that nothing seeds."""
    path = scaffold.new("term", "odd", tmp_path)
    code = path.read_text()
    faults = {
        "return self.scale * sum(losses) / len(losses)": (
            "x = 0.01 * sum(losses)\n        return 2 * x.detach() - x",
            "it does not come down",
        ),
        "        self.scale = scale\n": (
            "        self.scale = scale\n        import torch\n        self.unused = torch.nn.Linear(1, 1)\n",
            "no step moves it",
        ),
        "losses = [": ("import random\n        losses = [random.random() * ", "differs when the cell is trained again"),
    }
    for name, (fault, (wrong, said)) in zip("abc", faults.items()):
        (tmp_path / f"{name}.py").write_text(code.replace(fault, wrong))
        assert said in run(tmp_path, "check", f"{name}.py", status=1)


COUNTING = """
import numpy as np
import torch.nn.functional as F
from sklearn.datasets import load_digits

from dgd.data import Part, Raw, Source
from dgd.metrics import Metric
from dgd.objectives import Requires, Term
from dgd.task import Regression


class Poisson(Term):
    source = "textbook"
    requires = Requires(task="counting")

    def forward(self, batch):
        return F.poisson_nll_loss(F.softplus(batch.own.value.float()), batch.labels, log_input=False)


class Counting(Regression):
    metric = Metric("mae", "mean absolute error", "", False, ".3f")
    term = "poisson"

    def predict(self, answers):
        return F.softplus(answers)

    def total(self, predictions, labels):
        return (predictions.float() - labels).abs().sum(-1)

    def score(self, total, images):
        return total / images


def read(data_dir):
    images, labels = load_digits(return_X_y=True)
    images = np.round(images * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    parts = [Part(labels.astype(np.float32)[start::4], images[start::4]) for start in (0, 1)]
    return Raw(train=parts[0], test=parts[1], classes=[], sha256={})


TASKS = {"counting": Counting()}
TERMS = {"poisson": Poisson}
DATASETS = {"counted": Source(read, pad=1, flip=False, shape=(0, 1, 8, 450, 449), task="counting", files=lambda data_dir: [])}
"""


@pytest.fixture(scope="module")
def counting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counting")
    (folder / "counting.py").write_text(COUNTING)
    return folder


def test_a_task_has_its_own_metric_from_training_to_the_table(counting):
    own = {"plugins": ["counting.py"], "datasets": ["counted"], "methods": ["baseline", "grafting"]}
    run(counting, "train", write(counting, **own, recipe={"epochs": 2, "batch_size": 20, "lr": 0.01, "device": "cpu"}))
    with_plugin = ("--plugin", "counting.py")
    table = run(counting, *with_plugin, "table", "results/own")
    assert "Mean absolute error on the test split" in table
    assert table.count("(n=1)") == 2
    assert run(counting, *with_plugin, "status", "results/own").count(": done\n") == 2
    run(counting, *with_plugin, "freeze", "results/own")
    assert "2 cells" in run(counting, *with_plugin, "verify", "results/own")
    metrics = json.loads((counting / "results/own/counted/cifar_resnet8/baseline/seed0/metrics.json").read_text())
    history = (counting / "results/own/counted/cifar_resnet8/baseline/seed0/history.csv").read_text()
    assert next(iter(metrics["networks"][0]["last"])) == "mae"
    assert "test_mae_0" in history


@pytest.mark.slow
def test_a_term_of_a_task_is_tried_on_a_data_set_of_it(counting):
    said = run(counting, "check", "counting.py")
    assert "row poisson: right" in said
    assert "data set counted: right" in said
    alone = COUNTING.partition("DATASETS")[0]
    (counting / "alone.py").write_text(alone)
    assert "row poisson: it is for counting, and no data set is; add one to DATASETS" in run(
        counting, "check", "alone.py", status=1
    )
