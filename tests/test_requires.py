"""What terms require, the registry of terms, and what an objective refuses."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from dgd.objectives import TERMS, Batch, Objective, Output, Requires, Setting
from tests.helpers import ROOT


def test_two_terms_together_require_what_either_does():
    one = Requires(teacher="eval", features=True, inputs=frozenset({"image"}))
    other = Requires(teacher="train", peers="own", indices=True, inputs=frozenset({"audio"}))
    both = Requires(teacher="train", peers="own", features=True, indices=True, inputs=frozenset({"audio", "image"}))
    assert one | other == other | one == both
    assert one | one == one
    assert one | Requires() == one


@pytest.mark.parametrize(("field", "order"), [("teacher", Requires.TEACHER), ("peers", Requires.PEERS)])
def test_of_two_modes_the_one_that_asks_for_more_is_taken(field, order):
    for i, one in enumerate(order):
        for j, other in enumerate(order):
            both = Requires(**{field: one}) | Requires(**{field: other})
            assert getattr(both, field) == order[max(i, j)]


def test_requirements_are_words_for_a_reader():
    assert str(Requires()) == ""
    assert str(Requires(teacher="eval", features=True)) == "teacher, features"
    every = Requires("train", "together", True, True, True, True, True, frozenset({"audio"}), heads=True)
    assert str(every) == (
        "teacher in training mode, peers on the same batch at once, features, before, teacher before, indices, "
        "input gradient, sub-nets, audio"
    )


def test_an_objective_requires_what_its_terms_do():
    objective = Objective({"ce": {}, "kd": {}, "crd": {}, "mutual": {"batches": "turns"}})
    wanted = Requires(teacher="eval", peers="turns", features=True, pooled=True, indices=True, draws=True)
    wanted |= Requires(task="classification")
    assert objective.requires == wanted


def test_a_term_of_another_task_or_input_is_refused():
    images, labels = torch.zeros(2, 1, 4, 4), torch.zeros(2)
    batch = Batch({"image": images}, labels, torch.arange(2), Output(value=torch.zeros(2)))
    with pytest.raises(ValueError, match="ce: the term is for classification, and the data set has another task"):
        Objective({"ce": {}}).setup(batch, Setting(0, 1, labels))
    Objective({"mse": {}}).setup(batch, Setting(0, 1, labels))
    listening = Objective({"mse": {}})
    listening.terms["mse"].requires = Requires(inputs=frozenset({"audio"}))
    with pytest.raises(ValueError, match="mse: the data set has no input 'audio'; it has image"):
        listening.setup(batch, Setting(0, 1, labels))


def test_the_registry_is_a_mapping_of_names():
    assert list(TERMS) == sorted(TERMS)
    assert len(TERMS) == len(list(TERMS)) > 15
    assert "ce" in TERMS
    assert "term" not in TERMS  # a module beside the terms
    with pytest.raises(KeyError):
        TERMS["nothing"]


LAZY = """
import sys
from dgd.objectives import TERMS, Objective
assert "mine" in TERMS and "crd" in TERMS
loaded = lambda: {name for name in sys.modules if name.startswith("dgd.objectives.")}
before = loaded()
assert not before & {"dgd.objectives.mine", "dgd.objectives.crd"}, before
objective = Objective({"mine": {"weight": 3.0, "height": 2.0}})
assert loaded() - before == {"dgd.objectives.mine"}, loaded() - before
assert float(objective(None)[0]) == 6.0
print(objective.requires)
"""
MINE = """
import torch
from dgd.objectives.term import Requires, Term

class Mine(Term):
    source = "nobody"
    requires = Requires(features=True)

    def __init__(self, height: float = 1.0):
        super().__init__()
        self.height = height

    def forward(self, batch):
        return torch.tensor(self.height)

TERM = Mine
"""


def test_a_new_file_is_a_new_term_and_only_what_is_asked_for_is_imported(tmp_path):
    shutil.copytree(ROOT / "dgd", tmp_path / "dgd", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "dgd/objectives/mine.py").write_text(MINE)
    own = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", LAZY], cwd=tmp_path, env=own, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "features"
