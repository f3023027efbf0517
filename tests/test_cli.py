"""`dgd-bench`, called as a user calls it."""

import json
import shutil

import pytest
import torch
import yaml

from dgd import cli
from dgd.methods import METHODS
from tests.helpers import unseal

BENCHMARK = """
benchmark: t
seeds: [0]
datasets: [digits]
data: {dir: %s, train_images: 40}
pairs: [{student: cifar_resnet8, teacher: cifar_resnet20}]
methods: [baseline, kd]
recipe: {epochs: 1, batch_size: 20, device: cpu}
"""


@pytest.fixture
def benchmark(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(BENCHMARK % (tmp_path / "data"))
    return path


def test_list(capsys, benchmark):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    for word in ("dgd", "ce + kd", "graft", "digits", "imagefolder:<path>", "cifar_resnet110", "sp+graft", "kd+graft is dgd"):
        assert word in out
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    for name, rest in {
        "kd-crd": "0.1 ce + 0.9 kd(tau=4.0) - 1 1 faithful teacher",
        "label-smoothing": "ce(smoothing=0.1) - 1 0 faithful",
        # The least faithful part decides, an exchange's class is a part, and a need may come from an option's default.
        "kr+kd": "ce + kd(tau=4.0) + kr - 1 1 reconstruction teacher, features",
        "repr": "ce repr 1 0 deviates",
        "dml": "ce + mutual - 2 0 deviates peers on the same batch at once",
        "self-explanation-shuffled": "ce + explanation(shuffle) - 1 0 reconstruction input gradient, image",
    }.items():
        assert rows[name].split() == [name, *rest.split()]
    assert all(len(rows[name]) < 185 for name in METHODS)
    assert cli.main(["list", "cells", str(benchmark)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "t/digits/cifar_resnet20/baseline/seed0",
        "t/digits/cifar_resnet8/baseline/seed0",
        "t/digits/cifar_resnet8/kd/seed0",
    ]


def test_train_filters_and_table(capsys, benchmark, tmp_path):
    results = tmp_path / "results"
    assert cli.main(["train", str(benchmark), "digits/cifar_resnet8/kd/seed0", "--results", str(results)]) == 0
    assert capsys.readouterr().out.count("% test top-1 accuracy at the last epoch") == 2  # the teacher came first, by itself
    cell = results / "t/digits/cifar_resnet8/kd/seed0"
    assert cli.main(["filters", str(cell)]) == 0
    out = capsys.readouterr().out
    assert "invalid L1 (position)" in out
    assert " 240 " in out
    assert cli.main(["table", str(results / "t")]) == 0
    assert "kd" in capsys.readouterr().out

    weights = (cell / "model.safetensors").read_bytes()
    assert cli.main(["train", str(cell / "config.yaml"), "--results", str(results)]) == 0
    assert "already there" in capsys.readouterr().err
    assert cli.main(["train", str(cell / "config.yaml"), "--results", str(results), "--again"]) == 0
    assert (cell / "model.safetensors").read_bytes() == weights
    # The teacher's config.yaml is found beside the cell's, and comes first.
    assert cli.main(["train", str(cell / "config.yaml"), "--results", str(tmp_path / "elsewhere")]) == 0
    assert (tmp_path / "elsewhere" / cell.relative_to(results) / "model.safetensors").read_bytes() == weights
    # A cell of an older version, whose recipe lacks what came since.
    older = yaml.safe_load((cell / "config.yaml").read_text())
    for key in ("filters_every", "weight_average", "average_decay", "average_from"):
        del older["recipe"][key]
    (cell / "config.yaml").write_text(yaml.safe_dump(older))
    assert cli.main(["train", str(cell / "config.yaml"), "--results", str(results), "--again"]) == 0
    assert (cell / "model.safetensors").read_bytes() == weights

    capsys.readouterr()
    rows = set()
    for _ in range(3):  # safetensors gives its keys in any order
        assert cli.main(["filters", str(cell), "--baseline", str(results / "t/digits/cifar_resnet8/kd/seed0")]) == 0
        rows.add(capsys.readouterr().out)
    assert len(rows) == 1


def test_a_cell_that_is_not_what_is_asked_for_is_only_trained_again_on_request(capsys, benchmark, tmp_path):
    command = ["train", str(benchmark), "*/cifar_resnet8/baseline/*", "--results", str(tmp_path / "results")]
    assert cli.main(command) == 0
    benchmark.write_text(benchmark.read_text().replace("train_images: 40", "train_images: 50"))
    before = (tmp_path / "results/t/digits/cifar_resnet8/baseline/seed0/metrics.json").read_bytes()
    assert cli.main(command) == 1
    assert "is stale: data.train_images was 40 and is 50 (--again trains again)" in capsys.readouterr().err
    assert (tmp_path / "results/t/digits/cifar_resnet8/baseline/seed0/metrics.json").read_bytes() == before
    assert cli.main([*command, "--again"]) == 0
    assert "already there" not in capsys.readouterr().err
    manifest = json.loads((tmp_path / "data/prepared/t/digits/manifest.json").read_text())
    assert manifest["sizes"]["train"] == 50


def test_a_diverged_cell_does_not_stop_the_others(capsys, benchmark, tmp_path):
    text = benchmark.read_text().replace(
        "methods: [baseline, kd]", "methods: [{wild: {base: baseline, recipe: {lr: 1.0e+30}}}, kd]"
    )
    benchmark.write_text(text)
    assert cli.main(["train", str(benchmark), "--results", str(tmp_path / "results")]) == 1
    captured = capsys.readouterr()
    assert "wild/seed0: diverged: the loss of network 0 is not finite" in captured.err
    assert captured.out.count("% test top-1 accuracy") == 2


def test_mistakes_are_one_line(capsys, benchmark, tmp_path):
    assert cli.main(["train", str(tmp_path / "no.yaml")]) == 1
    assert capsys.readouterr().err.strip() == f"dgd-bench: {tmp_path / 'no.yaml'}: no such file"
    assert cli.main(["train", str(benchmark), "x"]) == 1
    assert "no cell matches 'x'; `dgd-bench list cells" in capsys.readouterr().err
    assert cli.main(["train"]) == 2
    assert cli.main(["train", str(benchmark), "--agian"]) == 2
    assert cli.main(["filters", str(tmp_path)]) == 1
    assert "model.safetensors: no such file" in capsys.readouterr().err


def test_status_says_what_is_stale_and_why(capsys, benchmark, tmp_path):
    results = str(tmp_path / "results")
    assert cli.main(["train", str(benchmark), "*/kd/*", "--results", results]) == 0
    capsys.readouterr()
    assert cli.main(["status", str(benchmark), "--results", results]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "t/digits/cifar_resnet20/baseline/seed0: done",
        "t/digits/cifar_resnet8/baseline/seed0: missing",
        "t/digits/cifar_resnet8/kd/seed0: done",
        "3 cells: 2 done, 1 missing",
    ]
    assert cli.main(["status", f"{results}/t"]) == 1  # benchmark.yaml in it says what was asked for
    assert "baseline/seed0: missing" in capsys.readouterr().out
    benchmark.write_text(benchmark.read_text().replace("batch_size: 20", "batch_size: 10"))
    assert cli.main(["status", str(benchmark), "--results", results]) == 1
    assert "kd/seed0: stale: recipe.batch_size was 20 and is 10; the teacher t/digits" in capsys.readouterr().out


def test_the_same_cell_of_another_benchmark_is_taken_over(capsys, benchmark, tmp_path):
    results = tmp_path / "results"
    assert cli.main(["train", str(benchmark), "--results", str(results)]) == 0
    benchmark.write_text(benchmark.read_text().replace("benchmark: t", "benchmark: renamed"))
    capsys.readouterr()
    assert cli.main(["train", str(benchmark), "--results", str(results)]) == 0
    assert capsys.readouterr().out.count("taken over from") == 3
    was, now = (results / name / "digits/cifar_resnet8/kd/seed0" for name in ("t", "renamed"))
    assert (was / "model.safetensors").read_bytes() == (now / "model.safetensors").read_bytes()
    assert json.loads((now / "metrics.json").read_text())["cell"]["benchmark"] == "renamed"
    assert json.loads((now / "provenance.json").read_text())["origin"] == "t/digits/cifar_resnet8/kd/seed0"
    assert yaml.safe_load((now / "config.yaml").read_text())["path"] == "renamed/digits/cifar_resnet8/kd/seed0"
    assert cli.main(["status", str(benchmark), "--results", str(results)]) == 0


@pytest.mark.parametrize("top1", [99.9, 1000, -5])
def test_an_edited_result_is_noticed(capsys, benchmark, tmp_path, top1):
    """By all who read it; a cell of older code has no seal, and what cannot be is noticed all the same."""
    results = tmp_path / "results"
    assert cli.main(["train", str(benchmark), "*/cifar_resnet8/baseline/*", "--results", str(results)]) == 0
    cell = results / "t/digits/cifar_resnet8/baseline/seed0"
    metrics = json.loads((cell / "metrics.json").read_text())
    metrics["networks"][0]["last"]["top1"] = top1
    (cell / "metrics.json").write_text(json.dumps(metrics))
    capsys.readouterr()
    for command in (
        ["table", str(results / "t")],
        ["train", str(benchmark), "*/cifar_resnet8/baseline/*"],
        ["reproduce", str(cell)],
    ):
        root = ["--results", str(results)] if command[0] == "train" else []
        assert cli.main([*command, *root]) == 1
        captured = capsys.readouterr()
        assert "metrics.json was changed or damaged after it was written" in captured.out + captured.err
    unseal(cell)
    assert cli.main(["table", str(results / "t")]) == 1
    assert "the file was changed; delete the cell's folder and train it again" in capsys.readouterr().err


def test_filters_of_weights_in_other_files(capsys, tmp_path):
    """Of `torch.save`, whatever wrapped the network; two networks, code and damage are refused in a line."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3))
    state = network.state_dict()
    rows = set()
    for name, content in {
        "plain.pt": state,
        "wrapped.pth": {f"module._orig_mod.{key}": value for key, value in state.items()},
        "beside.pt": {
            "epoch": 3,
            "state_dict": state,
            "optimizer": {"state": {0: {"step": torch.ones(())}}, "param_groups": []},
        },
    }.items():
        torch.save(content, tmp_path / name)
        assert cli.main(["filters", str(tmp_path / name), "--baseline", str(tmp_path / "plain.pt")]) == 0
        rows.add(capsys.readouterr().out)
    assert len(rows) == 1
    torch.save({"model": state, "ema": state}, tmp_path / "two.pt")
    torch.save(network, tmp_path / "code.pt")
    torch.save([1], tmp_path / "list.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "plain.pt").read_bytes()[:-100])
    (tmp_path / "cut.safetensors").write_bytes(b"x" * 20)
    for name, message in {
        "two.pt": "state dicts in it: model, ema; save the one that is meant as a file of its own",
        "code.pt": "damaged, or not a file of weights alone (",
        "list.pt": "holds a list; it must be a state dict",
        "cut.pt": "damaged, or not a file of weights alone (",
        "cut.safetensors": "not a safetensors file (",
        "none.pt": "no such file",
    }.items():
        assert cli.main(["filters", str(tmp_path / name)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"dgd-bench: {tmp_path / name}: {message}")


def test_a_frozen_benchmark_is_read_and_not_trained(capsys, benchmark, tmp_path):
    results = tmp_path / "results"
    command = ["train", str(benchmark), "*/cifar_resnet8/baseline/*", "--results", str(results)]
    assert cli.main(["freeze", str(results / "t")]) == 1
    assert cli.main(command) == 0
    copy = results / "t/digits/cifar_resnet8/baseline/seed0.bak"
    shutil.copytree(copy.with_name("seed0"), copy)
    for copied in (["freeze", results / "t"], ["status", results / "t"], ["table", results / "t"], ["prune", copy]):
        assert cli.main(list(map(str, copied))) == 1
        assert "is that of the cell t/digits/cifar_resnet8/baseline/seed0; a copy counts as no" in capsys.readouterr().err
    for copied in (["reproduce", copy], ["train", copy / "config.yaml", "--results", tmp_path / "elsewhere"]):
        assert cli.main(list(map(str, copied))) == 1
        assert "is that of the cell t/digits/cifar_resnet8/baseline/seed0; a copy counts as no" in capsys.readouterr().err
    shutil.rmtree(copy)
    assert cli.main(["freeze", str(results / "t")]) == 0
    assert "frozen, 1 cell made by " in capsys.readouterr().out
    assert cli.main([*command, "--again"]) == 1
    assert "t is frozen: it is read and not trained" in capsys.readouterr().err
    assert cli.main(["table", str(results / "t")]) == 0
    assert "Frozen: 1 cell made by " in capsys.readouterr().out
    benchmark.write_text(benchmark.read_text().replace("batch_size: 20", "batch_size: 10"))
    assert cli.main(["status", str(benchmark), "--results", str(results)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "recipe.batch_size was 20 and is 10 (t/digits/cifar_resnet8/baseline/seed0)" in line
    assert cli.main(["freeze", "--thaw", str(results / "t")]) == 0
    assert cli.main([*command, "--again"]) == 0
