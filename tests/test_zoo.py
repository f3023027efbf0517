"""Every method of the table, and each with grafting: one step on every kind of network, the same bytes twice and after
resuming, and terms that can be learned. Whoever adds a method adds nothing here."""

from dataclasses import fields, replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from dgd import data
from dgd.config import ConfigError
from dgd.methods import METHODS, NAMED, find, resolve
from dgd.objectives import STATUSES, TERMS, Requires
from dgd.train import train_cell
from dgd.train.device import set_arithmetic
from dgd.train.outcomes import CannotExchange, NotApplicable
from dgd.train.step import losses, train_epoch
from tests.helpers import (
    NAMES,
    ROOT,
    covering,
    files_but_timings,
    fresh_group,
    make_teacher,
    method_cell,
    seeds,
    train_loader,
    train_stopped,
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Ten random images of 32x32, of ten classes: few_digits are so small that deep networks end in one pixel too early."""
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split in ("train", "test"):
        for name in "abcdefghij":
            (root / split / name).mkdir(parents=True)
            Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / split / name / "0.png")
    data.prepare(f"imagefolder:{root}", root / "out", image_size=32)
    return root / "out"


def test_every_row_says_how_it_stands_to_its_source():
    for name, term in TERMS.items():
        assert term.source, name
        assert term.status in STATUSES, name
        assert (term.status == "faithful") == (not term.deviations), f"{name}: what is not faithful says why"
        assert isinstance(term.requires, Requires), name


def test_a_method_and_grafting_is_the_same_method_in_a_group_that_grafts():
    for name in NAMES:
        if name.endswith("+graft"):
            _, plain = resolve(name.removesuffix("+graft"))
            _, both = resolve(name)
            differs = {field.name for field in fields(plain) if getattr(plain, field.name) != getattr(both, field.name)}
            assert differs <= {"exchange", "networks"}
            assert both.exchange["name"] == "graft"
            assert both.networks == max(2, plain.networks)
    for name, other in NAMED.items():
        assert find(other).exchange["name"] == "graft"
        with pytest.raises(ValueError, match=f"has a name of its own, '{other}'"):
            find(name + "+graft")


# Every set of terms is met in both: in one alone, in the other in a group that grafts.
PRECISIONS = [(name, "fp32" if name.endswith("+graft") else "bf16") for name in NAMES]


@pytest.mark.parametrize(("name", "precision"), [*PRECISIONS, ("baseline", "fp32"), ("kd", "fp32"), ("repr", "fp32")])
def test_a_step_moves_every_network_and_every_module_and_no_teacher(few_digits, name, precision):
    own = method_cell(name, precision=precision)
    learns = fresh_group(own, few_digits)
    before = [{key: value.clone() for key, value in member.named_parameters()} for member in learns.members]
    frozen = [{k: v.clone() for k, v in teacher.network.named_parameters()} for teacher in learns.teachers]
    rows = train_epoch(learns, train_loader(own, few_digits), 1)  # in the first one some terms have no weight yet
    for row in rows:
        assert all(np.isfinite(value) for value in row.values())
    for member, old in zip(learns.members, before):
        still = [key for key, value in member.named_parameters() if torch.equal(value, old[key])]
        assert still == []
    for teacher, old in zip(learns.teachers, frozen):
        assert all(torch.equal(value, old[key]) for key, value in teacher.network.named_parameters())
        assert not any(value.requires_grad for value in teacher.network.parameters())


# What timm calls a backbone: residual, inverted bottlenecks, no stages at all; wide and deep ones of our own.
NETWORKS = ("test_resnet", "test_efficientnet", "test_vit", "cifar_mobilenetv2", "cifar_wrn10_1", "cifar_vgg16_bn")
LONG = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("crd_shufflenetv1", "crd_shufflenetv2", "crd_wrn_16_2", "crd_vgg8")
]
# A transformer has no convolutions and one stage; the teacher of test_efficientnet has none beside its second one.
NONE = {"test_vit": {"grafting", "dgd", "repr", "ffsd", "fitnet", "ddnn"}, "test_efficientnet": {"fitnet"}}


@pytest.mark.parametrize("student", [*NETWORKS, *LONG])
@pytest.mark.parametrize("name", covering(METHODS))
def test_every_method_on_every_kind_of_network(pictures, name, student):
    """Teacher and student of different kinds; where a method has no meaning for one, it says so."""
    teacher = "test_efficientnet" if student != "test_efficientnet" else "cifar_resnet8"

    def cell():
        return replace(method_cell(name, student, teacher, batch_size=8), adapt_stem=True)

    if name in NONE.get(student, ()):
        with pytest.raises((NotApplicable, CannotExchange, ConfigError), match=f"{student}.*(stage|filters|resolution)"):
            fresh_group(cell(), pictures)
        return
    own = cell()
    learns = fresh_group(own, pictures)
    batch = next(iter(train_loader(own, pictures).batches()))
    sums = torch.zeros(own.networks, 2 + len(own.objective))
    for turn in learns.plan.turns:
        for k, loss in losses(learns, turn, batch, seeds(learns, 1), sums):
            assert loss.isfinite()
            loss.backward()
            gradients = [value.grad for value in learns.networks[k].parameters()]
            assert any(grad is not None and grad.abs().sum() > 0 for grad in gradients)
            assert all(grad is None or grad.isfinite().all() for grad in gradients)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_cuda_gives_the_same_bits_twice_and_nearly_the_cpus(few_digits, name):
    own = method_cell(name, lr=1.0e-4)
    set_arithmetic(own.recipe)
    try:
        means, states = [], []
        for device in ("cpu", "cuda", "cuda"):
            learns = fresh_group(own, few_digits, device)
            means.append([row["loss"] for row in train_epoch(learns, train_loader(own, few_digits, device), 1)])
            states.append(learns.networks[0].state_dict())
    finally:
        torch.use_deterministic_algorithms(False)
    assert means[1] == means[2]
    assert all(torch.equal(states[1][key], states[2][key]) for key in states[1])
    if not (learns.requires.indices or learns.requires.input_gradient):  # those draw on the device
        assert means[0] == pytest.approx(means[1], rel=1e-2)


@pytest.mark.parametrize("name", covering(NAMES))
def test_same_bytes_twice_and_when_resumed_in_every_epoch(few_digits, tmp_path, monkeypatch, name):
    own = method_cell(name, precision="bf16")
    own = replace(own, teachers=("teacher",) * len(own.teachers))
    for root in ("whole", "stopped"):
        make_teacher(own, few_digits, tmp_path / root / "teacher")
    train_cell(own, results=tmp_path / "whole", data=few_digits)
    train_stopped(own, tmp_path / "stopped", few_digits, monkeypatch)
    assert files_but_timings(tmp_path / "stopped" / own.path) == files_but_timings(tmp_path / "whole" / own.path)


# Weights that make a term large enough, and a temperature at which little of `kd` is the teacher's own entropy.
LEARN = {"at": {"weight": 1000.0}, "sp": {"weight": 3000.0}, "kd": {"weight": 1.0, "tau": 1.0}}


LEARNED = {term: name for name in reversed(METHODS) for term in METHODS[name].objective if term != "ce"}
"""Each term, and the first method that has it."""


@pytest.mark.parametrize(("term", "name"), LEARNED.items())
def test_every_term_can_be_learned_by_itself(few_digits, term, name):
    """Without cross-entropy, on 16 images: a gradient of the wrong sign, or none, would not bring a term down."""
    own = method_cell(name, batch_size=16, lr=0.01)
    own = replace(own, objective={term: own.objective[term] | LEARN.get(term, {"weight": 1.0})})
    learns = fresh_group(own, few_digits)
    batch = next(iter(train_loader(own, few_digits).batches()))
    values = []
    for _ in range(200 if learns.requires.indices else 40):  # what a bank holds has to follow first
        sums = torch.zeros(own.networks, 3)
        for turn in learns.plan.turns:
            for k, loss in losses(learns, turn, batch, seeds(learns, 30), sums):
                loss.backward()
                for optimiser in learns.optimisers[k]:
                    optimiser.step()
                    optimiser.zero_grad()
        values.append(float(sums[:, 1].sum()))
    assert np.mean(values[-5:]) < 0.8 * values[0], values


def test_a_term_works_in_a_loop_of_ones_own():
    """The documentation's lines, with what they leave to the reader."""
    texts = [path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    blocks = [part.partition("```")[0] for text in texts for part in text.split("```python\n")[1:]]
    (code,) = [block for block in blocks if block.startswith("from dgd.objectives")]
    torch.manual_seed(0)
    images, labels, index = torch.randn(8, 3, 16, 16), torch.arange(8) % 4, torch.arange(8)
    student, teacher = (timm.create_model(name, num_classes=4) for name in ("cifar_resnet8", "cifar_resnet20"))
    names = {"torch": torch, "student": student, "teacher": teacher, "train_labels": labels}
    names |= {"images": images, "labels": labels, "index": index, "loader": [(images, labels, index)]}
    exec(code, names)
    assert set(names["parts"]) == {"ce", "at"}
    names["loss"].backward()
    assert student.conv1.weight.grad.abs().sum() > 0
    assert teacher.conv1.weight.grad is None
