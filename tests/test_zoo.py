"""Every method of the table, and each with grafting: one step on every kind of network, the same bytes twice and after
resuming, and terms that can be learned. Whoever adds a method adds nothing here."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.nn.modules.batchnorm import _BatchNorm

from dgd import checkpoint, config, data, training
from dgd.methods import METHODS, NAMED, find, grafted, resolve
from dgd.objectives import NEEDS, STATUSES, TERMS
from dgd.outcomes import CannotExchange, NotApplicable

NAMES = [*METHODS, *(grafted(name) for name in METHODS if name not in NAMED and not METHODS[name].exchange)]
# Published numbers of negatives are larger than these data sets.
SMALL = {"crd": {"negatives": 16}, "hkd": {"negatives": 16, "neighbours": 3}}
EXCHANGE = {"repr": {"name": "repr", "normal": 1, "pruned": 1, "cycles": 1}}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits")
    data.prepare("digits", out, train_images=48, validation_images=0)
    return out


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Ten random images of 32x32, of ten classes: digits are so small that deep networks end in one pixel too early."""
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split in ("train", "test"):
        for name in "abcdefghij":
            (root / split / name).mkdir(parents=True)
            Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / split / name / "0.png")
    data.prepare(f"imagefolder:{root}", root / "out", image_size=32)
    return root / "out"


def cell(name, student="cifar_resnet8", teacher="cifar_resnet20", **recipe):
    """A cell of a method, its teacher `fresh`, and with what its terms have too large made small."""
    method = find(name)
    objective = {}
    for term, value in method.objective.items():
        options = dict(value) if isinstance(value, dict) else {"weight": value}
        objective[term] = options | SMALL.get(term, {})
    row = {"base": name, "objective": objective}
    if name in EXCHANGE:
        row["exchange"] = EXCHANGE[name]
    benchmark = {
        "benchmark": "t",
        "seeds": [0],
        "datasets": ["digits"],
        "pairs": [{"student": student, "teacher": teacher}],
        "methods": [{"m": row}],
        "adapt_stem": not student.startswith("cifar_"),
        "recipe": {"epochs": 3, "batch_size": 16, "lr": 0.02, "device": "cpu", "precision": "fp32", **recipe},
    }
    config.check(benchmark, "test")
    (found,) = [cell for cell in config.cells(benchmark) if cell["method"] == "m"]
    return found


@torch.no_grad()
def take_statistics(teacher, images):
    """A network that was never trained has no batch statistics, and answers and features in the thousands or far beyond."""
    for norm in [module for module in teacher.modules() if isinstance(module, _BatchNorm)]:
        norm.momentum = 1.0
    teacher.train()(images)


def group(cell, digits, device="cpu"):
    torch.manual_seed(1)
    dataset = data.load(digits)
    teachers = [training._create(cell["teacher"], dataset, cell) for _ in cell["teachers"]]
    images, _, _ = next(iter(loader(cell, digits).batches()))  # on the CPU, as the teachers are
    for teacher in teachers:
        take_statistics(teacher, images)
    return training.Group(cell, dataset, teachers, torch.device(device))


def loader(cell, digits, device="cpu"):
    return data.load(digits).loader("train", batch_size=cell["recipe"]["batch_size"], device=torch.device(device), workers=0)


def test_every_row_says_how_it_stands_to_its_source():
    for name, term in TERMS.items():
        assert term.source, name
        assert term.status in STATUSES, name
        assert (term.status == "faithful") == (not term.deviations), f"{name}: what is not faithful says why"
        assert term.needs <= set(NEEDS), name


def test_a_method_and_grafting_is_the_same_method_in_a_group_that_grafts():
    for name in NAMES:
        if name.endswith("+graft"):
            _, plain = resolve(name.removesuffix("+graft"))
            _, both = resolve(name)
            differs = {key for key in plain if plain[key] != both[key]}
            assert differs <= {"exchange", "networks"}
            assert both["exchange"]["name"] == "graft"
            assert both["networks"] == max(2, plain["networks"])
    for name, other in NAMED.items():
        assert find(other).exchange["name"] == "graft"
        with pytest.raises(ValueError, match=f"has a name of its own, '{other}'"):
            find(name + "+graft")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_moves_every_network_and_every_module_and_no_teacher(digits, name, precision):
    own = cell(name, precision=precision)
    learns = group(own, digits)
    before = [{key: value.clone() for key, value in learner.named_parameters()} for learner in learns.learners]
    frozen = [{k: v.clone() for k, v in teacher.network.named_parameters()} for teacher in learns.teachers]
    rows = learns.train_epoch(loader(own, digits), 1)  # in the first one some terms have no weight yet
    for row in rows:
        assert all(np.isfinite(value) for value in row.values())
    for learner, old in zip(learns.learners, before):
        still = [key for key, value in learner.named_parameters() if torch.equal(value, old[key])]
        assert still == []
    for teacher, old in zip(learns.teachers, frozen):
        assert all(torch.equal(value, old[key]) for key, value in teacher.network.named_parameters())
        assert not any(value.requires_grad for value in teacher.network.parameters())


# What timm calls a backbone: residual, inverted bottlenecks, no stages at all; wide and deep ones of our own.
NETWORKS = ("test_resnet", "test_efficientnet", "test_vit", "cifar_mobilenetv2", "cifar_wrn10_1", "cifar_vgg16_bn")
# A transformer has no convolutions and one stage; the teacher of test_efficientnet has none beside its second one.
NONE = {"test_vit": {"grafting", "dgd", "repr", "ffsd", "fitnet"}, "test_efficientnet": {"fitnet"}}


@pytest.mark.parametrize("student", NETWORKS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_on_every_kind_of_network(pictures, name, student):
    """Teacher and student of different kinds; where a method has no meaning for one, it says so."""
    teacher = "test_efficientnet" if student != "test_efficientnet" else "cifar_resnet8"
    own = cell(name, student, teacher, batch_size=8) | {"adapt_stem": True}
    if name in NONE.get(student, ()):
        with pytest.raises((NotApplicable, CannotExchange), match=f"{student}.*(stage|filters|resolution)"):
            group(own, pictures)
        return
    learns = group(own, pictures)
    batch = next(iter(loader(own, pictures).batches()))
    sums = torch.zeros(own["networks"], 2 + len(own["objective"]))
    for turn in learns.turns:
        for k, loss in learns._losses(turn, batch, 1.5, (1, 0, 0), sums):
            assert loss.isfinite()
            loss.backward()
            gradients = [value.grad for value in learns.networks[k].parameters()]
            assert any(grad is not None and grad.abs().sum() > 0 for grad in gradients)
            assert all(grad is None or grad.isfinite().all() for grad in gradients)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_cuda_gives_the_same_bits_twice_and_nearly_the_cpus(digits, name):
    own = cell(name, lr=1.0e-4)
    training._set_arithmetic(own["recipe"])
    try:
        losses, states = [], []
        for device in ("cpu", "cuda", "cuda"):
            learns = group(own, digits, device)
            losses.append([row["loss"] for row in learns.train_epoch(loader(own, digits, device), 1)])
            states.append(learns.networks[0].state_dict())
    finally:
        torch.use_deterministic_algorithms(False)
    assert losses[1] == losses[2]
    assert all(torch.equal(states[1][key], states[2][key]) for key in states[1])
    if not {"indices", "input_gradient"} & learns.needs:  # those draw on the device
        assert losses[0] == pytest.approx(losses[1], rel=1e-2)


class Stopped(Exception):
    pass


def stopping(save):
    """`checkpoint.save_state` that has saved when the process is killed."""

    def save_and_stop(*args):
        save(*args)
        raise Stopped

    return save_and_stop


def make_teacher(own, digits, folder):
    """The folder of a finished teacher that was never trained."""
    torch.manual_seed(3)
    weights = training._create(own["teacher"] or own["student"], data.load(digits), own).state_dict()
    checkpoint.save_weights(folder / "model.safetensors", {f"0.{k}": v for k, v in weights.items()})
    checkpoint.write_json(folder / "metrics.json", {"status": "finished", "cell": {"student": own["teacher"]}})


def files(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["timings"]
    names = ("history.csv", "predictions.npz", "filters.npz", "model.safetensors")
    return json.dumps(metrics), [(folder / name).read_bytes() for name in names]


@pytest.mark.parametrize("name", NAMES)
def test_same_bytes_twice_and_when_resumed_in_every_epoch(digits, tmp_path, monkeypatch, name):
    own = cell(name, precision="bf16")
    own["teachers"] = ["teacher"] * len(own["teachers"])
    for root in ("whole", "stopped"):
        make_teacher(own, digits, tmp_path / root / "teacher")
    monkeypatch.setattr(training.provenance, "_environment", lambda *_, **__: {})
    training.train_cell(own, results=tmp_path / "whole", data=digits)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", stopping(checkpoint.save_state))
        for _ in range(own["recipe"]["epochs"] - 1):
            with pytest.raises(Stopped):
                training.train_cell(own, results=tmp_path / "stopped", data=digits)
    training.train_cell(own, results=tmp_path / "stopped", data=digits)
    assert files(tmp_path / "stopped" / own["path"]) == files(tmp_path / "whole" / own["path"])


# Weights that make a term large enough, and a temperature at which little of `kd` is the teacher's own entropy.
LEARN = {"at": {"weight": 1000.0}, "sp": {"weight": 3000.0}, "kd": {"weight": 1.0, "tau": 1.0}}


@pytest.mark.parametrize("name", [name for name in METHODS if len(METHODS[name].objective) > 1])
def test_every_term_can_be_learned_by_itself(digits, name):
    """Without cross-entropy, on 16 images: a gradient of the wrong sign, or none, would not bring a term down."""
    own = cell(name, batch_size=16, lr=0.01)
    term = [term for term in own["objective"] if term != "ce"][-1]
    own["objective"] = {term: own["objective"][term] | LEARN.get(term, {"weight": 1.0})}
    learns = group(own, digits)
    batch = next(iter(loader(own, digits).batches()))
    values = []
    for _ in range(200 if "indices" in learns.needs else 40):  # what a bank holds has to follow first
        sums = torch.zeros(own["networks"], 3)
        for turn in learns.turns:
            for k, loss in learns._losses(turn, batch, 30.0, (30, 0, 0), sums):
                loss.backward()
                for optimiser in learns.optimisers[k]:
                    optimiser.step()
                    optimiser.zero_grad()
        values.append(float(sums[:, 1].sum()))
    assert np.mean(values[-5:]) < 0.8 * values[0], values


def test_a_term_works_in_a_loop_of_ones_own():
    """The README's lines, with what they leave to the reader."""
    text = (Path(__file__).parents[1] / "README.md").read_text()
    code = next(part for part in text.split("```python\n") if part.startswith("from dgd.objectives")).partition("```")[0]
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
