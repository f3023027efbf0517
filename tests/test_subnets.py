"""Sub-nets: what is shared and what is not, the terms that train them, what a cell keeps of them, and their table."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from dgd import config, data, filters, models
from dgd.cell import exchange
from dgd.exchange.blending import blend
from dgd.exchange.graft import shares
from dgd.models.nested import nest, plain_parameters, plain_state, subnets
from dgd.objectives import TERMS, Batch, Output
from dgd.read.cells import COLUMNS, SUBNETS, collect, members, reported
from dgd.read.results import results_table
from dgd.read.subnets import subnets_table
from dgd.read.table import markdown
from dgd.read.thresholds import column
from dgd.train import load_network, train_cell
from dgd.train.averages import reestimate
from dgd.train.checkpoint import load_weights
from dgd.train.costs import size
from dgd.train.member import create
from pipeline import tabulate
from tests.helpers import ROOT, fresh_group, method_cell, train_loader

GOLDEN = json.loads((ROOT / "tests" / "golden" / "ekd.json").read_text())


def make(name, **options):
    return models.create(name, num_classes=10, **options)


def nested(full="cifar_resnet32", inside=("cifar_resnet20", "cifar_resnet8"), **options):
    torch.manual_seed(0)
    return nest(make(full), {name: make(name) for name in inside}, **options)


# ----------------------------------------------------------------------------------------------------------- networks

PAIRS = [("cifar_resnet32", "cifar_resnet20"), ("cifar_resnet20", "cifar_resnet8"), ("resnet34", "resnet18")]
LARGE = [("resnet101", "resnet50"), ("resnet152", "resnet101"), ("resnet50d", "resnet26d")]


@pytest.mark.parametrize(("full", "inner"), PAIRS)
def test_a_subnet_is_a_plain_network_whose_outputs_are_those_of_the_plain_one(full, inner):
    net = nested(full, [inner])
    images = torch.randn(4, 3, 32, 32)
    own = subnets(net)[inner]
    own.train()(images)  # statistics of its own
    exported = make(inner)
    exported.load_state_dict(own.state_dict())
    assert torch.equal(exported.eval()(images), own.eval()(images))
    torch.manual_seed(0)
    alone = make(full)
    assert {key: value.tolist() for key, value in plain_state(net).items() if value.ndim < 2} == {
        key: value.tolist() for key, value in alone.state_dict().items() if value.ndim < 2
    }
    alone.load_state_dict(plain_state(net))
    assert list(alone.state_dict()) == list(plain_state(net))
    assert torch.equal(alone.eval()(images), net.eval()(images))


@pytest.mark.slow
@pytest.mark.parametrize(("full", "inner"), LARGE)
def test_so_it_is_with_bottlenecks_and_other_stems(full, inner):
    test_a_subnet_is_a_plain_network_whose_outputs_are_those_of_the_plain_one(full, inner)


@pytest.mark.parametrize("batch_norm", ["own", "shared"])
@pytest.mark.parametrize("classifier", ["own", "shared"])
def test_what_is_shared_and_what_is_not(batch_norm, classifier):
    net = nested(batch_norm=batch_norm, classifier=classifier)
    for inner in subnets(net).values():
        for name, layer in inner.named_modules():
            if layer._parameters:
                kind = batch_norm if isinstance(layer, _BatchNorm) else classifier if name == "linear" else "shared"
                assert (layer is net.get_submodule(name)) == (kind == "shared"), name
    state = net.state_dict()
    assert len({value.data_ptr() for value in state.values() if value.ndim}) == sum(value.ndim > 0 for value in state.values())
    own = [key for key in state if key.startswith("subnets.")]
    assert any(".bn1." in key for key in own) == (batch_norm == "own")
    assert any("linear" in key for key in own) == (classifier == "own")
    assert sum(p.numel() for p in net.parameters()) == sum(state[key].numel() for key, _ in net.named_parameters())
    assert sum(map(torch.numel, plain_parameters(net))) == sum(p.numel() for p in make("cifar_resnet32").parameters())


def test_a_state_is_loaded_and_copied_with_what_is_shared():
    net, other = nested(), nested()
    with torch.no_grad():
        for value in net.parameters():
            value.add_(1)
    for one in (net, copy.deepcopy(net)):
        other.load_state_dict(one.state_dict())
        for name, inner in subnets(other).items():
            assert inner.layer1[0].conv1 is other.layer1[0].conv1
            theirs = subnets(net)[name].state_dict()
            assert all(torch.equal(value, theirs[key]) for key, value in inner.state_dict().items())
    state = net.state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key.*conv1.weight"):
        other.load_state_dict({key: value for key, value in state.items() if key != "conv1.weight"})
    with pytest.raises(RuntimeError, match=r"Missing key.*subnets.cifar_resnet8.bn1.weight"):
        other.load_state_dict({key: value for key, value in state.items() if key != "subnets.cifar_resnet8.bn1.weight"})


@pytest.mark.parametrize(
    ("full", "inner", "message"),
    [
        (
            "cifar_resnet8",
            "cifar_resnet20",
            "its layer layer1.1.conv1 is Conv2d.*has no such layer; take a network with the same",
        ),
        ("resnet50", "resnet18", r"its layer layer1.0.conv1 is .*kernel_size=\(3, 3\).*has .*kernel_size=\(1, 1\).* there"),
        ("cifar_resnet20", "resnet18", "its layer conv1 is Conv2d"),
        ("cifar_resnet20", "cifar_resnet20_leaky", None),  # activations are no layers with parameters
        ("test_vit", "test_vit", "parameters outside its layers"),
    ],
)
def test_what_is_no_part_of_the_full_net_is_refused(full, inner, message):
    if message is None:
        nested(full, [inner])
        return
    with pytest.raises(ValueError, match=message):
        nested(full, [inner])


def test_grafting_gives_a_subnets_batch_norm_the_share_of_its_convolution():
    states = [nested().state_dict(), nested(batch_norm="own").state_dict()]
    with torch.no_grad():
        states[1] = {
            key: value * 3 + 0.1 * torch.rand(value.shape) if value.is_floating_point() else value
            for key, value in states[1].items()
        }
    options = exchange({"name": "graft"})
    for own in shares(states, options):
        for key, share in own.items():
            if key.startswith("subnets.") and share is not None:
                assert share == own[key.split(".", 2)[2]], key
    grafted = blend(states[0], states[1], shares(states, options)[0])
    assert grafted.keys() == states[0].keys()


def test_statistics_are_estimated_for_subnets_too(few_digits):
    for kind in ("own", "shared"):
        cell = method_cell("ddnn", weight_average="swa")
        group = fresh_group(replace(cell, subnet_batch_norm=kind), few_digits)
        reestimate(group, group.eval_networks, train_loader(cell, few_digits), "average", 0)
        (net,), (inner,) = group.eval_networks, group.eval_subnets
        batches = len(train_loader(cell, few_digits))
        assert int(inner.bn1.num_batches_tracked) == batches * (2 if kind == "shared" else 1)
        # The stem sees the same images in both, so its statistics are the same whichever way they are held.
        torch.testing.assert_close(inner.bn1.running_mean, net.bn1.running_mean)
        assert float(inner.bn1.running_mean.abs().sum()) > 0


def test_multiply_adds_are_those_that_one_counts_by_hand():
    net = nested("cifar_resnet20", ["cifar_resnet8"]).eval()
    image = torch.zeros(1, 3, 32, 32)

    def by_hand(blocks: int) -> int:
        stem = 32 * 32 * 16 * 3 * 9
        first = 2 * blocks * 32 * 32 * 16 * 16 * 9
        second = 16 * 16 * 32 * 9 * (16 + 32 * (2 * blocks - 1))
        third = 8 * 8 * 64 * 9 * (32 + 64 * (2 * blocks - 1))
        return stem + first + second + third + 640

    assert size(net, image)["multiply_adds"] == by_hand(3)
    assert size(subnets(net)["cifar_resnet8"], image)["multiply_adds"] == by_hand(1)
    assert size(net, image)["parameters"] == sum(p.numel() for p in make("cifar_resnet20").parameters())


# -------------------------------------------------------------------------------------------------------------- terms


def fill(t: int, *shape: int) -> torch.Tensor:
    return torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + 0.1 * t).reshape(shape)


def batch_of(own: Output, *heads: Output, labels=None) -> Batch:
    own.heads = {str(i): head for i, head in enumerate(heads)}
    return Batch({}, labels, None, own)


@pytest.mark.parametrize(("per", "value"), [("element", "kl_T3_mean_over_all_elements"), ("image", "kl_T3_batchmean")])
def test_ekd_has_the_siblings_values(per, value):
    teacher, student = (3 * fill(t, 8, 4) for t in (100, 101))
    loss = TERMS["ekd"](per=per)(batch_of(Output(logits=teacher), Output(logits=student)))
    assert float(loss) == pytest.approx(GOLDEN[value], rel=1e-8)


def test_ekd_has_the_siblings_gradients():
    for detach in (True, False):
        teacher, student = ((3 * fill(t, 8, 4)).requires_grad_() for t in (100, 101))
        TERMS["ekd"](per="element", detach=detach)(batch_of(Output(logits=teacher), Output(logits=student))).backward()
        assert float(student.grad.norm()) == pytest.approx(GOLDEN["gradnorm_student"], rel=1e-8)
        assert (teacher.grad is None) == detach
    assert float(teacher.grad.norm()) == pytest.approx(GOLDEN["gradnorm_teacher_not_detached"], rel=1e-8)


def test_ekds_gradient_is_tau_times_the_difference_of_probabilities():
    teacher, student = fill(1, 5, 7), fill(2, 5, 7).requires_grad_()
    TERMS["ekd"](tau=2.0)(batch_of(Output(logits=teacher), Output(logits=student))).backward()
    closed = 2.0 / 5 * ((student / 2).softmax(1) - (teacher / 2).softmax(1))
    torch.testing.assert_close(student.grad, closed.detach())


def test_the_attention_has_the_siblings_value():
    full, inner = (fill(t, 8, 6, 4, 4).relu() for t in (102, 103))
    loss = TERMS["ekd_attention"]()(batch_of(Output(stages=[full]), Output(stages=[inner])))
    assert float(loss) == pytest.approx(GOLDEN["attention_mse"], rel=1e-8)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("stages", ["last", "all"])
def test_the_attentions_gradient_is_that_of_differences(stages, detach):
    maps = [fill(t, 2, 3, n, n) for t, n in ((1, 4), (2, 2), (3, 4), (4, 2))]
    term = TERMS["ekd_attention"](stages=stages, detach=detach)

    def loss(a, b, c, d):
        return term(batch_of(Output(stages=[a, b]), Output(stages=[c, d])))

    given = [x.requires_grad_() for x in maps]
    wanted = given if not detach else [*(x.detach() for x in given[:2]), *given[2:]]
    assert torch.autograd.gradcheck(loss, wanted)
    loss(*given).backward()
    assert [x.grad is None or not bool(x.grad.any()) for x in given] == [
        *((detach or stages == "last"), detach),
        *(stages == "last", False),
    ]


def test_the_attention_compares_equal_resolutions_and_no_single_pixel():
    one, four, sixteen = torch.rand(2, 3, 1, 1), torch.rand(2, 3, 2, 2), torch.rand(2, 5, 4, 4)
    own, other = Output(stages=[sixteen, four, one]), Output(stages=[torch.rand(2, 7, 4, 4), one])
    last, every = (TERMS["ekd_attention"](stages=name)(batch_of(own, other)) for name in ("last", "all"))
    assert last == every > 0
    with pytest.raises(ValueError, match="ekd_attention: 0 has no stage of more than one pixel"):
        TERMS["ekd_attention"]().setup(batch_of(own, Output(stages=[one])), None)


def test_a_map_without_attention_has_a_loss_and_no_nan():
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = TERMS["ekd_attention"]()(batch_of(Output(stages=[torch.rand(2, 3, 4, 4)]), Output(stages=[dead])))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(15 / 16)  # the mean square of a map with standard deviation 1 (n - 1)
    assert dead.grad.isfinite().all()


def test_subnets_cross_entropy_is_the_mean_or_the_sum():
    labels, logits = torch.tensor([0, 1, 2]), [fill(t, 3, 4).float() for t in (1, 2)]
    single = [F.cross_entropy(z, labels, label_smoothing=0.1) for z in logits]
    for reduce, value in (("mean", sum(single) / 2), ("sum", sum(single))):
        term = TERMS["subnet_ce"](reduce=reduce, smoothing=0.1)
        found = term(batch_of(Output(logits=logits[0]), *(Output(logits=z) for z in logits), labels=labels))
        torch.testing.assert_close(found, value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("subnet_ce", {"reduce": "max"}),
        ("subnet_ce", {"smoothing": 2.0}),
        ("ekd", {"tau": 0.0}),
        ("ekd", {"per": "class"}),
        ("ekd", {"reduce": "max"}),
        ("ekd_attention", {"stages": "first"}),
        ("ekd_attention", {"reduce": "max"}),
    ],
)
def test_an_option_that_cannot_be_is_named(name, options):
    (option, value) = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name}: {option} is {value!r}; it must be"):
        TERMS[name](**options)


# ------------------------------------------------------------------------------------------------------------- configs

CONFIG = {
    "benchmark": "t",
    "papers": [],
    "seeds": [0],
    "datasets": ["digits"],
    "pairs": [
        {"student": "cifar_resnet20", "subnets": ["cifar_resnet8"]},
        {"student": "cifar_resnet8", "methods": ["baseline"]},
    ],
    "methods": ["baseline", "ddnn"],
    "recipe": {"epochs": 2, "batch_size": 16, "lr": 0.02, "precision": "fp32", "device": "cpu"},
}


def test_a_pair_says_which_subnets_a_method_has():
    found = {(cell.student, cell.method): cell.subnets for cell in config.cells(config.check(CONFIG))}
    assert found == {
        ("cifar_resnet20", "baseline"): (),
        ("cifar_resnet20", "ddnn"): ("cifar_resnet8",),
        ("cifar_resnet8", "baseline"): (),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pairs": [{"student": "cifar_resnet20"}]},
            r"pairs\[0\].subnets: method 'ddnn' needs sub-nets and the pair of .* names none",
        ),
        (
            {"pairs": [{"student": "cifar_resnet20", "subnets": ["cifar_resnet8"] * 2}]},
            r"pairs\[0\].subnets has 'cifar_resnet8' twice; name each once",
        ),
        (
            {"pairs": [{"student": "cifar_resnet8", "subnets": ["cifar_resnet20"]}]},
            r"pairs\[0\].subnets: cifar_resnet8 cannot contain cifar_resnet20: .*layer1.1.conv1",
        ),
        ({"pairs": [{"student": "cifar_resnet20", "subnets": ["cifar_resnet9"]}]}, r"subnets: unknown model 'cifar_resnet9'"),
        (
            {"methods": ["baseline", {"x": {"base": "baseline", "subnets": True}}]},
            "methods.x: subnets is true and no term trains",
        ),
        (
            {"methods": ["baseline", {"x": {"base": "baseline", "objective": {"ce": 1, "ekd": 1}}}]},
            "methods.x: a term of ce, ekd needs sub-nets; set subnets: true",
        ),
        (
            {"methods": ["baseline", {"x": {"base": "ddnn", "exchange": {"name": "repr"}}}], "recipe": {"epochs": 200}},
            "methods.x: 'repr' drops filters of one network, which its sub-nets share",
        ),
        (
            {"methods": [{"x": {"base": "ddnn", "subnet_classifier": "none"}}]},
            "subnet_classifier is 'none'; it must be one of own",
        ),
    ],
)
def test_a_config_that_cannot_be_is_refused_in_a_line(changes, message):
    with pytest.raises(config.ConfigError, match=message):
        config.check(CONFIG | changes)


# --------------------------------------------------------------------------------------------------------------- cells


@pytest.fixture(scope="module")
def results(tmp_path_factory, few_digits):
    """Two seeds of a network with a sub-net, of two such that are grafted, and of both networks alone."""
    root = tmp_path_factory.mktemp("results")
    methods = ["baseline", "ddnn", "ddnn+graft", {"ddnn-own": {"base": "ddnn", "subnet_classifier": "own"}}]
    for cell in config.cells(config.check(CONFIG | {"methods": methods, "seeds": [0, 1]})):
        train_cell(cell, results=root, data=few_digits)
    return root


def test_every_network_of_a_cell_is_saved_as_a_plain_one(results, few_digits):
    """What predictions.npz says of each comes out again from model.safetensors, in plain networks of the registry."""
    dataset = data.load(few_digits)
    for method in ("ddnn", "ddnn+graft", "ddnn-own"):
        folder = results / "t" / "digits" / "cifar_resnet20" / method / "seed0"
        (cell,) = [
            cell
            for cell in config.cells(config.check(CONFIG | {"methods": ["baseline", "ddnn"]}))
            if (cell.student, cell.method) == ("cifar_resnet20", "ddnn")
        ]
        networks = json.loads((folder / "metrics.json").read_text())["networks"]
        weights, arrays = load_weights(folder / "model.safetensors"), np.load(folder / "predictions.npz")
        norms = np.load(folder / "filters.npz")
        assert [network["model"] for network in networks] == ["cifar_resnet20"] * (len(networks) // 2) + ["cifar_resnet8"] * (
            len(networks) // 2
        )
        assert len(arrays["predictions"]) == len(networks)
        for i, network in enumerate(networks):
            plain = create(network["model"], dataset, cell)
            plain.load_state_dict({key.split(".", 1)[1]: value for key, value in weights.items() if key.startswith(f"{i}.")})
            (batch,) = dataset.loader("test", batch_size=100, device=torch.device("cpu"), workers=0).batches()
            with torch.no_grad():
                predicted = plain.eval().to(memory_format=torch.channels_last)(batch.inputs["image"]).argmax(1)
            assert predicted.tolist() == arrays["predictions"][i].tolist()
            right = 100 * float((predicted == batch.labels).float().mean())
            assert network["last"]["top1"] == pytest.approx(right)
            own = {key: value.numpy() for key, value in filters.l1_norms(plain).items()}
            assert all(np.array_equal(norms[f"l1/{i}/{key}"], value) for key, value in own.items())


def test_a_full_net_with_subnets_is_no_baseline_and_can_be_a_teacher(results, few_digits):
    folder = results / "t" / "digits" / "cifar_resnet20" / "ddnn" / "seed0"
    network = load_network(folder, data.load(few_digits), method_cell("kd"))
    assert not subnets(network)


def test_readings_of_a_group_leave_subnets_out(results):
    cells = collect(results / "t")
    assert list(cells.columns) == [*COLUMNS, *SUBNETS]
    both = cells[cells["method"] == "ddnn+graft"]
    assert len(both) == 8
    assert len(members(both)) == 4
    for report in ("first", "mean", "best"):
        rows, _ = reported(both, report)
        assert rows["seed"].tolist() == [0, 1]
        assert rows["subnet"].isna().all()
    means = reported(both, "mean")[0]["last"].tolist()
    assert means == [both[(both["seed"] == seed) & (both["network"] < 2)]["last"].mean() for seed in (0, 1)]
    alone, _ = reported(cells[(cells["method"] == "ddnn") & (cells["student"] == "cifar_resnet20")], "best")
    assert (alone["network"] == 0).all()
    table = results_table(cells, []).frame.set_index(["student", "method"])
    assert table.loc[("cifar_resnet20", "ddnn+graft"), "mean_of_networks"] == pytest.approx(members(both)["last"].mean())


def test_a_subnets_row_has_its_own_numbers(results):
    cells = collect(results / "t")
    own = cells[(cells["method"] == "ddnn") & (cells["subnet"] == "cifar_resnet8")]
    alone = cells[(cells["method"] == "baseline") & (cells["student"] == "cifar_resnet8")]
    assert set(own["parameters"]) == set(alone["parameters"])
    assert set(own["conv_filters"]) == set(alone["conv_filters"])
    # Its filters are counted against the baseline of its own network.
    assert own[column("mean_l1_valid_rank", 1.0)].notna().all()
    assert (own["multiply_adds"].iloc[0] < cells[cells["network"] == 0]["multiply_adds"].dropna()).all()


def test_the_table_sets_joint_training_beside_training_alone(results):
    cells = collect(results / "t")
    table = subnets_table(cells)
    frame = table.frame
    assert list(zip(frame["method"], frame["network"])) == [
        (method, name) for method in ("ddnn", "ddnn+graft", "ddnn-own") for name in ("cifar_resnet20", "cifar_resnet8")
    ]
    for row in frame.itertuples():
        own = cells[(cells["method"] == row.method) & (cells["subnet"].fillna("cifar_resnet20") == row.network)]
        own = own[own["network"] == own["network"].min()]
        alone = cells[(cells["method"] == "baseline") & (cells["student"] == row.network)]
        assert row.mean == pytest.approx(own["last"].mean())
        assert row.alone_mean == pytest.approx(alone["last"].mean())
        assert row.gain == pytest.approx(own["last"].mean() - alone["last"].mean())
        assert row.n == row.alone_n == 2
        assert row.latency_ms > 0
    text = markdown(table)
    assert "cifar_resnet20 (full)" in text
    assert "cpu, 1 thread, fp32, batch 1" in text
    without = subnets_table(cells[cells["method"] != "baseline"]).frame
    assert without["gain"].isna().all()
    assert (without["alone_n"] == 0).all()


def test_a_csv_gives_the_same_table(results, tmp_path):
    cells = collect(results / "t")
    cells.to_csv(tmp_path / "cells.csv", index=False)
    assert markdown(subnets_table(pd.read_csv(tmp_path / "cells.csv"))) == markdown(subnets_table(cells))


def test_the_workflow_writes_it_where_there_are_subnets(results, tmp_path):
    cells = collect(results / "t")
    cells.to_csv(results / "t" / "cells.csv", index=False)
    tabulate.main(["--cells", str(results / "t" / "cells.csv"), "--out", str(tmp_path / "tables")])
    assert "trained jointly" in (tmp_path / "tables" / "subnets.md").read_text()
    plain = collect(results / "t", [cell for cell in config.cells(config.check(CONFIG | {"methods": ["baseline"]}))])
    assert list(plain.columns) == list(COLUMNS)


def test_a_trace_has_every_network(results):
    folder = results / "t" / "digits" / "cifar_resnet20" / "ddnn+graft" / "seed0"
    arrays = np.load(folder / "filters.npz")
    assert sorted(name for name in arrays if name.startswith("trace/l1")) == [f"trace/l1/{i}" for i in range(4)]
    assert sorted(name for name in arrays if name.startswith("trace/share")) == ["trace/share/0", "trace/share/1"]
    history = pd.read_csv(folder / "history.csv")
    assert {"test_top1_3", "loss_1", "subnet_ce_0"} <= set(history)
    assert "loss_2" not in history
