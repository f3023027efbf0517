"""`dgd-bench`, called as a user calls it."""

import pytest

from dgd import cli

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
    for word in ("dgd", "ce + kd", "graft", "digits", "imagefolder:<path>", "cifar_resnet110"):
        assert word in out
    assert cli.main(["list", str(benchmark)]) == 0
    assert capsys.readouterr().out.split() == [
        "t/digits/cifar_resnet20/baseline/seed0",
        "t/digits/cifar_resnet8/baseline/seed0",
        "t/digits/cifar_resnet8/kd/seed0",
    ]


def test_train_filters_and_table(capsys, benchmark, tmp_path):
    results = tmp_path / "results"
    assert cli.main(["train", str(benchmark), "digits/cifar_resnet8/kd/seed0", "--results", str(results)]) == 0
    assert capsys.readouterr().out.count("% test top-1 at the last epoch") == 2  # the teacher came first, by itself
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


def test_mistakes_are_one_line(capsys, benchmark, tmp_path):
    assert cli.main(["train", str(tmp_path / "no.yaml")]) == 1
    assert capsys.readouterr().err.strip() == f"dgd-bench: {tmp_path / 'no.yaml'}: no such file"
    with pytest.raises(SystemExit, match=r"no cell matches 'x'; `dgd-bench list"):
        cli.main(["train", str(benchmark), "x"])
    assert cli.main(["filters", str(tmp_path)]) == 1
    assert "model.safetensors: no such file" in capsys.readouterr().err
