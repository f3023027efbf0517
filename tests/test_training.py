"""The loop: the same bytes twice and after being killed, every method, divergence, files."""

import io
import json
import math
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from dgd import data, files
from dgd.cell import Cell
from dgd.identity import OUTPUTS
from dgd.methods import METHODS
from dgd.metrics import METRICS
from dgd.read.cells import collect
from dgd.read.filter_sets import filters_table
from dgd.read.results import results_table
from dgd.read.table import write
from dgd.running import Order
from dgd.running import planned as planned_cells
from dgd.train import checkpoint, evaluate, train_cell
from dgd.train.group import Group
from dgd.train.outcomes import CannotExchange, Diverged, NotApplicable, NoTeacher
from dgd.train.record import RESUME, _summary
from dgd.train.step import train_epoch
from dgd.train.streams import generator, stream
from tests.helpers import Stopped, digits_cells, files_but_timings, start_process, stopping, unseal

FOUR = ("baseline", "kd", "grafting", "dgd")  # tests/test_zoo.py takes the others


def cells(recipe=None, methods=FOUR, **keys) -> dict[tuple[str, str], Cell]:
    found = digits_cells(methods, recipe={"step_epochs": 2, **(recipe or {})}, **keys)
    return {(cell.student, cell.method): cell for cell in found}


def train(cell, results, digits):
    return train_cell(cell, results=results, data=digits)


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory):
    """Every method of the table, with its teacher, for three epochs."""
    results = tmp_path_factory.mktemp("results")
    for cell in cells().values():
        train(cell, results, digits)
    return results


def test_every_method_leaves_its_files(trained):
    for (_, method), cell in cells().items():
        folder = trained / cell.path
        assert sorted(p.name for p in folder.iterdir()) == sorted(OUTPUTS)
        metrics = json.loads((folder / "metrics.json").read_text())
        n = METHODS[method].networks
        assert metrics["status"] == "finished"
        assert len(metrics["networks"]) == n
        assert metrics["networks"][0]["last"]["epoch"] == 2
        assert metrics["top1"]["last"] == metrics["networks"][0]["last"]["top1"]
        assert metrics["timings"]["peak_memory_mib"] > 0
        history = pd.read_csv(folder / "history.csv")
        assert list(history["epoch"]) == [0, 1, 2]
        assert history[f"test_top1_{n - 1}"].iloc[-1] == pytest.approx(metrics["networks"][n - 1]["last"]["top1"])
        assert history["lr_0"].tolist() == pytest.approx([0.1, 0.1, 0.01])
        assert not any(column.startswith("correct") for column in history)
        with np.load(folder / "predictions.npz") as arrays:
            hits = (arrays["predictions"] == arrays["labels"]).mean(1) * 100
        assert hits.tolist() == pytest.approx([net["last"]["top1"] for net in metrics["networks"]])
        with np.load(folder / "filters.npz") as arrays:
            assert sum(arrays[key].size for key in arrays if key.startswith("l1/0/")) == metrics["conv_filters"]
        weights = checkpoint.load_weights(folder / "model.safetensors")
        assert {key.split(".")[0] for key in weights} == {str(i) for i in range(n)}
        assert Cell.from_plain(yaml.safe_load((folder / "config.yaml").read_text())) == cell
        provenance = json.loads((folder / "provenance.json").read_text())
        assert provenance["code_sha256"]
        assert provenance["packages"]["torch"]
        assert list(provenance["teachers"]) == list(cell.teachers)


def test_objectives_are_in_the_history(trained):
    found = cells()
    history = pd.read_csv(trained / found["cifar_resnet8", "dgd"].path / "history.csv")
    assert np.allclose(history["loss_1"], history["ce_1"] + history["kd_1"], rtol=1e-5)


@pytest.mark.parametrize("method", ["kd", "dgd"])
def test_same_seed_same_bytes(trained, digits, tmp_path, method):
    found = cells()
    teacher = found["cifar_resnet20", "baseline"].path
    (tmp_path / teacher).parent.mkdir(parents=True)
    (tmp_path / teacher).symlink_to(trained / teacher)
    cell = found["cifar_resnet8", method]
    train(cell, tmp_path, digits)
    assert files_but_timings(tmp_path / cell.path) == files_but_timings(trained / cell.path)


def test_networks_of_a_group_start_apart_and_the_first_is_the_baseline(digits):
    found = cells()
    dataset = data.load(digits)
    group = Group(found["cifar_resnet8", "grafting"], dataset, [], torch.device("cpu"))
    alone = Group(found["cifar_resnet8", "baseline"], dataset, [], torch.device("cpu"))
    first, second = (net.state_dict()["conv1.weight"] for net in group.networks)
    assert torch.equal(first, alone.networks[0].state_dict()["conv1.weight"])
    assert not torch.equal(first, second)


def test_no_exchange_after_the_last_epoch(trained):
    cell = cells()["cifar_resnet8", "grafting"]
    weights = checkpoint.load_weights(trained / cell.path / "model.safetensors")
    assert not torch.equal(weights["0.conv1.weight"], weights["1.conv1.weight"])


SCRIPT = """
import json, sys
from dgd.train import train_cell
train_cell(json.loads(sys.argv[1]), results=sys.argv[2], data=sys.argv[3])
"""


# The second one draws random numbers (drop path). In float32: it shrinks 8x8 images to 1x1, where torch 2.14's bf16 gradient of
# a strided depthwise convolution holds memory that nobody wrote.
EVERYTHING = {
    "base": "grafting",
    "exchange": {"momentum": "graft", "batch_norm": "reestimate", "every": 2},
    "recipe": {"weight_average": "swa", "filters_every": 2},
}


@pytest.mark.parametrize(
    ("student", "method"),
    [("cifar_resnet8", "grafting"), ("cifar_resnet8", {"everything": EVERYTHING}), ("test_efficientnet", "grafting")],
)
def test_killed_and_started_again_ends_in_the_same_bytes(digits, tmp_path, student, method):
    found = cells({"epochs": 8, "precision": "fp32"}, methods=[method], student=student)
    (cell,) = [cell for (name, _), cell in found.items() if name == student]
    whole = train(cell, tmp_path / "whole", digits)
    assert whole["status"] == "finished"
    folder = tmp_path / "killed" / cell.path
    process = start_process(train, cell, tmp_path / "killed", digits, output=tmp_path / "printed")
    deadline = time.monotonic() + 120
    while not (folder / RESUME).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not (folder / "metrics.json").exists()
    assert (folder / RESUME).exists()
    state = torch.load(io.BytesIO((folder / RESUME).read_bytes()[checkpoint.DIGEST :]), weights_only=True)
    assert state["epoch"] < 7
    train(cell, tmp_path / "killed", digits)
    assert files_but_timings(folder) == files_but_timings(tmp_path / "whole" / cell.path)
    assert not (folder / RESUME).exists()


def test_a_resume_point_of_another_config_is_not_taken_up(digits, tmp_path):
    cell = cells(methods=["baseline"])["cifar_resnet8", "baseline"]
    checkpoint.save_state(tmp_path / "x", {"stamp": "other", "epoch": 1})
    assert checkpoint.load_state(tmp_path / "x", "mine") is None
    folder = tmp_path / cell.path
    checkpoint.save_state(folder / RESUME, {"stamp": "other", "epoch": 1})
    assert (
        len(pd.read_csv(tmp_path / train(cell, tmp_path, digits)["cell"]["benchmark"] / ".." / cell.path / "history.csv")) == 3
    )


def test_a_damaged_resume_point_is_not_used_and_the_one_before_it_is(tmp_path, capsys):
    path = tmp_path / RESUME
    for epoch in range(3):
        checkpoint.save_state(path, {"stamp": "mine", "epoch": epoch, "weights": torch.rand(50)})
    whole = path.read_bytes()
    assert checkpoint.load_state(path, "mine")["epoch"] == 2
    assert capsys.readouterr().err == ""
    for place in (0, 31, 32, *range(40, len(whole), 97), len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert checkpoint.load_state(path, "mine")["epoch"] == 1
        assert capsys.readouterr().err == f"{path} is damaged and is not used (its checksum is another one)\n"
    checkpoint.save_state(path, {"stamp": "mine", "epoch": 3})  # the damaged one did not take the place of the one before
    path.write_bytes(b"")
    assert checkpoint.load_state(path, "mine")["epoch"] == 1
    checkpoint.remove_state(path)
    assert list(tmp_path.iterdir()) == []


def test_a_resume_point_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / RESUME
    checkpoint.save_state(path, {"stamp": "mine", "epoch": 0})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save_state(path, {"stamp": "mine", "epoch": 1})
    assert checkpoint.load_state(path, "mine")["epoch"] == 0


def test_a_cell_goes_on_from_the_point_before_a_damaged_one_and_gives_the_same_bytes(few_digits, tmp_path, monkeypatch, capsys):
    cell = cells({"epochs": 4}, methods=["grafting"])["cifar_resnet8", "grafting"]
    train(cell, tmp_path / "whole", few_digits)
    folder = tmp_path / "stopped" / cell.path
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", stopping(checkpoint.save_state))
        for _ in range(3):
            with pytest.raises(Stopped):
                train(cell, tmp_path / "stopped", few_digits)
    content = bytearray((folder / RESUME).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / RESUME).write_bytes(content)
    capsys.readouterr()
    train(cell, tmp_path / "stopped", few_digits)
    assert f"{RESUME} is damaged and is not used" in capsys.readouterr().err
    assert files_but_timings(folder) == files_but_timings(tmp_path / "whole" / cell.path)
    assert sorted(path.name for path in folder.iterdir()) == sorted(OUTPUTS)


def test_weights_of_a_teacher_that_are_not_those_it_was_trained_to_are_refused(trained, digits, tmp_path, capsys):
    found = cells()
    teacher, student = found["cifar_resnet20", "baseline"], found["cifar_resnet8", "kd"]
    folder = tmp_path / teacher.path
    shutil.copytree(trained / teacher.path, folder)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors was changed or damaged after it was written .*train it again$"):
        train(student, tmp_path, digits)
    assert not (tmp_path / student.path / "metrics.json").exists()
    unseal(folder)
    whole = checkpoint.load_weights(trained / teacher.path / "model.safetensors")
    for change, message in {
        lambda w: w.to(torch.int8): r"0\.conv1\.weight is torch\.int8; weights are floating-point numbers",
        lambda w: torch.where(w == w.max(), torch.nan, w): r"0\.conv1\.weight has values that are not finite",
        lambda w: w[:1]: r"model\.safetensors: size mismatch for conv1\.weight",
    }.items():
        checkpoint.save_weights(path, whole | {"0.conv1.weight": change(whole["0.conv1.weight"])})
        with pytest.raises(ValueError, match=message):
            train(student, tmp_path, digits)
    shutil.copy(trained / teacher.path / "model.safetensors", path)
    capsys.readouterr()
    assert train(student, tmp_path, digits)["status"] == "finished"
    assert f"{folder} is not sealed, because older code trained it" in capsys.readouterr().err


def test_two_processes_do_not_train_one_cell(digits, tmp_path):
    cell = cells({"epochs": 8}, methods=["grafting"])["cifar_resnet8", "grafting"]
    folder = tmp_path / cell.path
    folder.mkdir(parents=True)
    (folder / f".{RESUME}.killed.tmp").touch()
    process = start_process(train, cell, tmp_path, digits, output=tmp_path / "printed")
    deadline = time.monotonic() + 120
    while not (folder / RESUME).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(files.Locked, match=rf"seed0 is being trained by process {process.pid} on .*; wait for it, or end it$"):
        train(cell, tmp_path, digits)
    process.join()
    assert process.exitcode == 0, (tmp_path / "printed").read_text()
    assert sorted(path.name for path in folder.iterdir()) == sorted(OUTPUTS)


class Bomb:
    """Unpickled, it would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_foreign_objects_are_never_unpickled(tmp_path):
    torch.save({"stamp": "mine", "bomb": Bomb(tmp_path / "boom")}, tmp_path / "resume.pt")
    assert checkpoint.load_state(tmp_path / "resume.pt", "mine") is None
    torch.save({"w": Bomb(tmp_path / "boom")}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        checkpoint.load_weights(tmp_path / "model.safetensors")
    assert not (tmp_path / "boom").exists()


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a", "old")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_text(tmp_path / "a", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_divergence_is_an_outcome_and_reaches_the_students(digits, tmp_path):
    found = cells({"lr": 1e12})
    teacher, student = found["cifar_resnet20", "baseline"], found["cifar_resnet8", "kd"]
    with pytest.raises(Diverged, match="network 0 is not finite in epoch 0 at learning rate 1e\\+12"):
        train(teacher, tmp_path, digits)
    with pytest.raises(NoTeacher, match="has no result: the loss of network 0"):
        train(student, tmp_path, digits)
    for cell, status in ((teacher, "diverged"), (student, "no teacher")):
        folder = tmp_path / cell.path
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["status"] == status
        assert "networks" not in metrics
        assert sorted(p.name for p in folder.iterdir()) == sorted(OUTPUTS)


def test_weights_keep_their_order(tmp_path):
    """Grafting gives a batch norm the weight of the convolution before it: the order is part of a state."""
    names = [f"{c}.{i}" for i in range(20) for c in "zab"]
    checkpoint.save_weights(tmp_path / "w", {name: torch.ones(1) for name in names})
    assert list(checkpoint.load_weights(tmp_path / "w")) == names


@pytest.fixture(scope="module")
def transformers(few_digits, tmp_path_factory):
    """Return the folder of a benchmark in which a transformer was trained alone and could not be grafted."""
    results = tmp_path_factory.mktemp("transformers")
    found = cells({"epochs": 1}, methods=["baseline", "grafting"], student="test_vit", adapt_stem=True)
    train(found["test_vit", "baseline"], results, few_digits)
    with pytest.raises(CannotExchange, match="test_vit cannot take part in 'grafting': network 0 has no convolution filters"):
        train(found["test_vit", "grafting"], results, few_digits)
    return results / "t"


def test_networks_that_cannot_be_built_are_not_applicable(few_digits, tmp_path):
    """Their cells have that outcome, those that learn from them have no teacher, and a dry run says it before."""
    found = cells({"epochs": 1}, methods=["baseline", "kd"], teacher="nf_resnet26", adapt_stem=True)
    taught, teacher = found["cifar_resnet8", "kd"], found["nf_resnet26", "baseline"]
    known = {cell.path: cell for cell in found.values()}
    planned = planned_cells(Order([taught], known), tmp_path)
    assert ["not applicable: model 'nf_resnet26' does not work" in state.why for state in planned] == [True, True]
    with pytest.raises(NotApplicable, match="^model 'nf_resnet26' does not work on 1x8x8 images .*ScaledStdConv2d"):
        train(teacher, tmp_path, few_digits)
    with pytest.raises(NoTeacher, match="has no result: model 'nf_resnet26' does not work"):
        train(taught, tmp_path, few_digits)
    train(found["cifar_resnet8", "baseline"], tmp_path, few_digits)
    frame = collect(tmp_path / "t")
    assert sorted(frame["status"]) == ["finished", "no teacher", "not applicable"]
    assert "0 of 1: 1 not applicable" in list(results_table(frame, []).text["seeds"])


def test_transformers_train_and_cannot_be_grafted(transformers, tmp_path):
    frame = collect(transformers)
    assert sorted(frame["status"]) == ["cannot exchange", "finished"]
    write(results_table(frame, []), tmp_path / "results")
    write(filters_table(frame, []), tmp_path / "filters")
    assert (tmp_path / "results.md").is_file()
    assert (tmp_path / "filters.md").is_file()


def test_a_transformers_cells_have_figures(transformers, tmp_path):
    from dgd.read import figures

    assert figures.from_cells(transformers, tmp_path)


def test_an_infinite_test_loss_is_a_divergence(digits, tmp_path, monkeypatch):
    found = evaluate.Evaluation([10.0], [math.inf], torch.zeros(1, 100))
    monkeypatch.setattr(sys.modules["dgd.train.cell"], "Evaluator", lambda *_: lambda: found)
    with pytest.raises(Diverged, match="test loss is not finite in epoch 0"):
        train(cells(methods=["baseline"])["cifar_resnet8", "baseline"], tmp_path, digits)


def test_a_teacher_that_is_not_there_is_named(digits, tmp_path):
    with pytest.raises(ValueError, match=r"cifar_resnet20/baseline/seed0/metrics.json: no such file; train the teacher first"):
        train(cells()["cifar_resnet8", "kd"], tmp_path, digits)


@pytest.mark.parametrize("recipe", [{"precision": "bf16", "channels_last": True}, {"schedule": "dlr"}, {"schedule": "difflr"}])
def test_recipes_run_and_repeat(digits, tmp_path, recipe):
    cell = cells({"epochs": 2, **recipe}, methods=["grafting"])["cifar_resnet8", "grafting"]
    for k in range(2):
        train(cell, tmp_path / str(k), digits)
    assert files_but_timings(tmp_path / "0" / cell.path) == files_but_timings(tmp_path / "1" / cell.path)


PLAIN = {"precision": "fp32", "channels_last": False, "compile": False, "fold_teacher": False}


@pytest.mark.parametrize(
    ("fast", "rel"),
    [
        ({"channels_last": True}, 1e-3),
        ({"fold_teacher": True}, 1e-3),
        ({"precision": "bf16"}, 1e-2),  # eight bits of every product
        ({"precision": "bf16", "channels_last": True, "fold_teacher": True}, 1e-2),
        pytest.param({"compile": True}, 1e-3, marks=pytest.mark.slow),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_fast_paths_are_the_same_law(trained, digits, tmp_path, fast, rel):
    """They move rounding only: after one epoch with a teacher the losses agree."""
    losses = []
    for k, recipe in enumerate((PLAIN, PLAIN | fast)):
        cell = cells({"epochs": 1, **recipe}, methods=["kd"])["cifar_resnet8", "kd"]
        (tmp_path / str(k) / cell.teachers[0]).parent.mkdir(parents=True)
        (tmp_path / str(k) / cell.teachers[0]).symlink_to(trained / cell.teachers[0])
        train(cell, tmp_path / str(k), digits)
        losses.append(pd.read_csv(tmp_path / str(k) / cell.path / "history.csv").filter(regex="^(loss|ce|kd)_0").iloc[0])
    assert losses[0].tolist() == pytest.approx(losses[1].tolist(), rel=rel)


def test_streams_are_apart():
    names = [("init", 0), ("init", 1), ("order", 0, 0), ("order", 0, 1), ("order", 1, 0), ("augment", 0, 0)]
    seeds = {stream(k, *name) for k in range(3) for name in names}
    assert len(seeds) == 3 * len(names)
    assert stream(0, "init", 0) == stream(0, "init", 0)


def test_a_stream_can_be_drawn_again_by_itself():
    """What was drawn before, from it or from torch's own generator, changes nothing."""
    state = torch.get_rng_state()
    first = torch.rand(3, generator=generator(0, "order", 1, 7))
    torch.rand(5, generator=generator(0, "order", 1, 6))
    assert torch.equal(torch.rand(3, generator=generator(0, "order", 1, 7)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(torch.rand(3, generator=generator(1, "order", 1, 7)), first)
    assert 0 <= stream(0, "order", 1, 7) < 2**63


def test_two_teachers_and_three_students(few_digits, tmp_path):
    rows = [{"dgd-2t3s": {"base": "dgd", "teachers": 2, "networks": 3}}]
    found = digits_cells(rows, recipe={"epochs": 1}, teacher_seeds=[0, 1])
    assert [cell.path for cell in found][:2] == [f"t/digits/cifar_resnet20/baseline/seed{k}" for k in (0, 1)]
    for cell in found:
        metrics = train(cell, tmp_path, few_digits)
    assert metrics["cell"]["teachers"] == 2
    assert len(metrics["networks"]) == 3


def test_last_best_and_validation_selected():
    rows = [
        {"epoch": e, "test_top1_0": t, "validation_top1_0": v, "test_loss_0": 1.0}
        for e, t, v in ((0, 50.0, 60.0), (1, 90.0, 70.0), (2, 80.0, 75.0), (3, None, None), (4, 70.0, 75.0))
    ]
    found = _summary(rows, 0, METRICS["classification"])
    assert found["last"] == {"top1": 70.0, "validation_top1": 75.0, "loss": 1.0, "epoch": 4}
    assert found["best_on_test"] == {"top1": 90.0, "epoch": 1}
    assert found["validation_selected"] == {"top1": 80.0, "epoch": 2}  # the first of two equal ones
    assert math.isfinite(found["last"]["loss"])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cuda_same_bytes_when_deterministic(digits, tmp_path, precision):
    recipe = {"device": "cuda", "deterministic": True, "precision": precision, "channels_last": True}
    cell = cells(recipe, methods=["grafting"])["cifar_resnet8", "grafting"]
    train(cell, tmp_path / "0", digits)
    # In a process that has not used CUDA before.
    subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(cell.plain()), str(tmp_path / "1"), str(digits)], check=True)
    assert files_but_timings(tmp_path / "0" / cell.path) == files_but_timings(tmp_path / "1" / cell.path)


def test_nesterov_is_that_of_torch(digits):
    """One step from the same start, by hand: with no momentum yet, Nesterov's moves (1 + momentum) times the gradient."""
    dataset, moved = data.load(digits), {}
    for nesterov in (False, True):
        cell = cells({"nesterov": nesterov, "weight_decay": 0.0, "batch_size": 60}, methods=["baseline"])
        group = Group(cell["cifar_resnet8", "baseline"], dataset, [], torch.device("cpu"))
        before = group.networks[0].conv1.weight.detach().clone()
        train_epoch(group, dataset.loader("train", batch_size=60, device=torch.device("cpu")), 0)
        moved[nesterov] = group.networks[0].conv1.weight.detach() - before
    assert torch.allclose(moved[True], 1.9 * moved[False], atol=1e-6)
