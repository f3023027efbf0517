"""The step that reads nothing from the host: with less to launch, captured and replayed, and cells side by side on a GPU."""

import json
from dataclasses import replace

import pytest
import torch
import yaml
from torch import nn

from dgd import data
from dgd.train import CannotCapture, Order, graphs, launches, train_cell, train_side_by_side
from dgd.train.device import set_arithmetic
from dgd.train.evaluate import Evaluator
from dgd.train.exchanging import exchange_weights
from dgd.train.graphs import WARM_UP, Replays
from dgd.train.step import Steps
from dgd.train.streams import Seeds
from tests.helpers import NAMES, covering, files_but_timings, fresh_group, make_teacher, method_cell, train_loader
from tests.launches import FILE, STEPS
from tests.launches import launches as count

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
MODELS = ("test_resnet", "test_vit", "cifar_mobilenetv2", "cifar_wrn10_1", "cifar_vgg16_bn")


def trained(cell, prepared, device="cpu", epochs=2, exchanges=False):
    """The rows and evaluations of a group's epochs, all that it has then learned, and how its steps ran."""
    group = fresh_group(cell, prepared, device)
    loader = train_loader(cell, prepared, device)
    test = data.load(prepared).loader("test", batch_size=cell.recipe.batch_size, device=torch.device(device))
    steps, evaluator, rows, tensors = Steps(group, loader), Evaluator(group, test), [], []
    for epoch in range(epochs):
        steps.start(epoch)
        rows += steps.read()
        scores, losses, predictions = evaluator()
        rows += [scores, losses]
        tensors.append(predictions)
        if exchanges and cell.exchange:
            exchange_weights(group, epoch, loader)
    tensors += [value for member in group.members for value in member.state_dict().values()]
    kept = [one.state[p] for own in group.optimisers for one in own for g in one.param_groups for p in g["params"]]
    tensors += [value for state in kept for value in state.values() if isinstance(value, torch.Tensor)]
    return rows, tensors, steps.launch.how


def same(one, other):
    assert one[0] == other[0]
    assert len(one[1]) == len(other[1])
    assert all(torch.equal(a, b) for a, b in zip(one[1], other[1]))


# --------------------------------------------------------------------------------------------- less to launch, the same bits


@pytest.mark.parametrize(("name", "precision"), [*((name, "bf16") for name in covering(NAMES)), ("dml", "fp32")])
def test_what_is_launched_less_changes_no_bit(few_digits, monkeypatch, name, precision):
    own = method_cell(name, precision=precision, batch_size=20)
    light = trained(own, few_digits)
    monkeypatch.setattr(launches, "_can", lambda group: False)
    same(light, trained(own, few_digits))


@pytest.mark.parametrize("model", MODELS)
def test_what_is_launched_less_changes_no_bit_of_any_network(few_digits, monkeypatch, model):
    own = method_cell("baseline", model, precision="bf16", batch_size=20)
    own = replace(own, adapt_stem=True)
    light = trained(own, few_digits, epochs=1)
    monkeypatch.setattr(launches, "_can", lambda group: False)
    same(light, trained(own, few_digits, epochs=1))


def test_networks_are_as_they_were_after_an_epoch(few_digits):
    group = fresh_group(method_cell("dml", precision="bf16"), few_digits)
    before = [dict(member.named_parameters()) for member in group.members]
    steps = Steps(group, train_loader(group.cell, few_digits))
    steps.start(0)
    for member, old in zip(group.members, before):
        assert all(value is old[key] for key, value in member.named_parameters())
        counts = [int(norm.num_batches_tracked) for norm in member.network.modules() if isinstance(norm, nn.BatchNorm2d)]
        assert set(counts) == {3 * group.cell.networks // 2}  # steps, and whatever peers read of it


@pytest.mark.parametrize("what", STEPS)
def test_a_step_launches_no_more_than_it_did(few_digits, what):
    found = count(what, few_digits)
    assert sum(found.values()) == yaml.safe_load(FILE.read_text())[what], dict(found)


# ------------------------------------------------------------------------------------------------------------------ replays


class Replayed:
    """What stands for a CUDA graph where there is none: it runs the step, and the modules' notes on the host are undone."""

    def __init__(self, replays: Replays, size: int):
        self.replays, self.size, self.ran = replays, size, False
        replays.step(size)  # a capture runs nothing; here it is the first replay

    def replay(self):
        if self.ran:
            lighter, seeds = self.replays.lighter, self.replays.seeds
            before, seeds.held = lighter.passes(), True
            self.replays.step(self.size)
            seeds.held = False
            lighter.count({norm: before[norm] - number for norm, number in lighter.passes().items()})
        self.ran = True


@pytest.fixture
def replaying(monkeypatch):
    """Steps that are replayed on a CPU; gives the sizes that were captured."""
    captured = []

    def record(self, size):
        captured.append(size)
        return Replayed(self, size)

    monkeypatch.setattr(graphs, "launcher", lambda step, group, *rest: Replays(step, group.cell.path, *rest[1:]))
    nothing = Seeds(0, torch.device("cpu"), "", [], generators=False), launches.Lighter([], halves=False)
    monkeypatch.setattr(graphs, "evaluation", lambda batch, group, *_: Replays(batch, group.cell.path, *nothing))
    monkeypatch.setattr(Replays, "_record", record)
    monkeypatch.setattr(graphs, "WARM_UP", 1)
    return captured


@pytest.mark.parametrize("name", covering(NAMES))
def test_replays_run_the_same_steps(few_digits, monkeypatch, replaying, name):
    """With a smaller last batch, which is a graph of its own; seeds are held and passes counted as in a real one."""
    own = method_cell(name, precision="bf16", batch_size=20)
    replayed = trained(own, few_digits, epochs=3, exchanges=True)
    monkeypatch.undo()
    plain = trained(own, few_digits, epochs=3, exchanges=True)
    same(replayed, plain)
    if "random" not in replayed[2]:
        assert {*replaying} == {8, 10, 20}  # the sizes of batches of training and of evaluation
        assert replayed[2] == "replayed as a CUDA graph"
    assert plain[2] == "eager"


def test_a_step_that_draws_random_numbers_is_not_captured(few_digits, replaying):
    """Dropout draws from torch's own generator, which cannot be seeded within a graph."""
    own, made = method_cell("baseline", batch_size=20), []
    for drop in (0.0, 0.5):
        group = fresh_group(own, few_digits)
        group.networks[0].drop.p = drop
        steps = Steps(group, train_loader(own, few_digits))
        for epoch in range(2):
            steps.start(epoch)
        made.append(steps.launch.how)
    assert made == ["replayed as a CUDA graph", "eager, because its networks or terms draw random numbers"]
    assert replaying == [20, 8]


def test_a_capture_that_fails_names_the_cell_and_the_reason(few_digits, monkeypatch, replaying):
    def fails(self, size):
        raise RuntimeError("operation not permitted\n when stream is capturing")

    monkeypatch.setattr(Replays, "_record", fails)
    own = method_cell("baseline", batch_size=8)
    with pytest.raises(CannotCapture, match="seed0: its step cannot be captured as a CUDA graph: operation not permitted when"):
        trained(own, few_digits)
    assert not torch.are_deterministic_algorithms_enabled() or torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"recipe": {"graphs": False}}, "recipe.graphs is false"),
        ({"recipe": {"compile": True}}, "recipe.compile is true"),
        ({"recipe": {"ranks_per_network": 1}}, "the cell has several processes"),
        ({"name": "self-explanation"}, "its terms differentiate a network by its images"),
        ({"eager": True}, "it could not be"),
        ({}, None),
    ],
)
def test_what_stands_against_a_capture(few_digits, monkeypatch, changes, why):
    own = method_cell(changes.get("name", "baseline"))
    if changes.get("eager"):
        monkeypatch.setenv(graphs.EAGER, json.dumps({own.path: why, "another": "that"}))
    group, loader = fresh_group(own, few_digits), train_loader(own, few_digits)
    group.recipe = replace(own.recipe, **changes.get("recipe", {}))
    group.cell = replace(own, networks=2, recipe=group.recipe)
    assert graphs.obstacle(group, loader) == why
    loader.captured = False
    assert graphs.obstacle(group, loader) in (why, "its images are read from files")


def test_seeds_hold_and_watch():
    seeds = Seeds(0, torch.device("cpu"), "terms", [0, 1], generators=True)
    seeds.at(1, 2, 0)
    drawn = [torch.rand(3, generator=generator) for generator in seeds.generators]
    seeds.watched = True
    seeds.set("terms", 0)
    assert torch.equal(torch.rand(3), drawn[0])
    assert not torch.equal(*drawn)
    assert not seeds.drew
    seeds.set("terms", 1)
    assert seeds.drew
    seeds.held = True
    state = torch.get_rng_state()
    seeds.set("terms", 0)
    assert torch.equal(torch.get_rng_state(), state)


# -------------------------------------------------------------------------------------------------------------------- a GPU


@pytest.fixture
def arithmetic():
    yield set_arithmetic
    torch.use_deterministic_algorithms(False)


@pytest.mark.cuda
@CUDA
@pytest.mark.parametrize(("name", "size"), [*((name, 20) for name in NAMES), ("baseline", 24), ("dgd", 24)])
def test_cuda_a_replayed_step_has_the_bits_of_an_eager_one(few_digits, arithmetic, name, size):
    own = method_cell(name, batch_size=size, precision="bf16", lr=1.0e-4)
    arithmetic(own.recipe)
    eager = replace(own, recipe=replace(own.recipe, graphs=False))
    with torch.cuda.stream(torch.cuda.Stream()):
        replayed = trained(own, few_digits, "cuda", WARM_UP + 1, exchanges=True)
        plain = trained(eager, few_digits, "cuda", WARM_UP + 1, exchanges=True)
    same(replayed, plain)
    assert replayed[2] == "replayed as a CUDA graph" or own.objective.keys() & {"explanation", "ccl"}
    assert plain[2] == "eager, because recipe.graphs is false"


@pytest.mark.cuda
@CUDA
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", MODELS)
def test_cuda_a_replayed_step_of_any_network(few_digits, arithmetic, model, precision):
    own = replace(method_cell("baseline", model, precision=precision, batch_size=20), adapt_stem=True)
    arithmetic(own.recipe)
    eager = replace(own, recipe=replace(own.recipe, graphs=False))
    with torch.cuda.stream(torch.cuda.Stream()):
        replayed, plain = (trained(cell, few_digits, "cuda", WARM_UP + 1) for cell in (own, eager))
    same(replayed, plain)
    assert replayed[2].startswith("replayed") or "random" in replayed[2]


@pytest.mark.cuda
@CUDA
def test_cuda_cells_side_by_side_leave_the_bytes_that_they_leave_alone(few_digits, tmp_path, arithmetic):
    own = [method_cell(name, epochs=6, batch_size=20, precision="bf16") for name in ("baseline", "dgd", "crd", "grafting")]
    own = [replace(cell, teachers=("teacher",) * len(cell.teachers)) for cell in own]
    own = [replace(cell, recipe=replace(cell.recipe, device="cuda")) for cell in own]
    make_teacher(own[1], few_digits, tmp_path / "teacher")
    for k, cell in enumerate(own):
        train_cell(cell, results=tmp_path, data=few_digits, out=tmp_path / "alone" / str(k))
    orders = [Order(cell, few_digits, tmp_path / "together" / str(k)) for k, cell in enumerate(own)]
    train_side_by_side(orders, results=tmp_path)
    for k in range(len(own)):
        assert files_but_timings(tmp_path / "together" / str(k)) == files_but_timings(tmp_path / "alone" / str(k))
    metrics = json.loads((tmp_path / "alone" / "0" / "metrics.json").read_text())
    assert metrics["timings"]["steps"] == "replayed as a CUDA graph"
