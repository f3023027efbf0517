"""What is said of a training while it runs: lines, the lock, TensorBoard; and that its results do not depend on it."""

import io
import json
import sys

import pandas as pd
import pytest
import yaml

from dgd import cli, files, logs
from dgd.train import live
from dgd.train.live import Live
from tests.helpers import digits_cells, files_but_timings

BENCHMARK = {
    "benchmark": "t",
    "seeds": [0, 1],
    "datasets": ["digits"],
    "pairs": [{"student": "cifar_resnet8"}],
    "methods": ["dml"],
    "recipe": {"epochs": 2, "batch_size": 20, "device": "cpu"},
}


class Terminal(io.StringIO):
    """A stream that is a terminal's."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def benchmark(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(BENCHMARK | {"data": {"dir": str(tmp_path / "data"), "train_images": 40}}))
    return path


def test_an_epoch_is_a_line_and_the_lock_says_how_far(tmp_path, capsys, monkeypatch):
    (cell,) = digits_cells(["baseline"], recipe={"epochs": 3})[:1]
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    told = []
    with files.locked(tmp_path) as lock, Live(cell, 0, lock, lambda *seen: told.append(seen)) as here:
        here.begin(1)
        now[0] = 160.0
        history = [{"epoch": 0, "loss_0": 2.0}, {"epoch": 1, "loss_0": 1.23456, "test_top1_0": 56.789}]
        here.tell(history, 99.0, 12345.6)
        assert files.holder(tmp_path).items() >= {"epoch": 2, "epochs": 3, "seconds": 99.0}.items()
    assert told == [(cell, history)]
    assert capsys.readouterr().err == f"{cell.path}: epoch 2/3, loss 1.235, test 56.79 %, 12,346 images/s, 01:00 left\n"


def test_a_terminal_has_a_line_a_cell(benchmark, tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "140")
    assert cli.main(["train", str(benchmark), "--results", str(tmp_path / "results"), "--together", "2"]) == 0
    text = terminal.getvalue()
    for seed in (0, 1):
        assert f"t/digits/cifar_resnet8/dml/seed{seed}: epoch 2/2 |" in text
    assert " images/s [00:" in text
    assert "\x1b[A" in text  # the second cell's line is below the first one's


def test_tensorboard_has_each_row_once_and_results_do_not_change(benchmark, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain, logged, folder = tmp_path / "plain", tmp_path / "logged", tmp_path / "logs"
    assert cli.main(["train", str(benchmark), "*/seed0", "--results", str(plain)]) == 0
    command = ["train", str(benchmark), "*/seed0", "--results", str(logged), "--tensorboard", str(folder)]
    assert cli.main(command) == 0
    assert cli.main([*command, "--again"]) == 0  # the points of before are gone, not there twice
    cell = "t/digits/cifar_resnet8/dml/seed0"
    assert files_but_timings(plain / cell) == files_but_timings(logged / cell)
    identities = [json.loads((root / cell / "provenance.json").read_text())["identity"] for root in (plain, logged)]
    assert identities[0] == identities[1]
    history = pd.read_csv(logged / cell / "history.csv")
    for network in (0, 1):
        events = EventAccumulator(str(folder / cell / f"network{network}")).Reload()
        columns = {"loss/training": "loss", "loss/test": "test_loss", "top1/test": "test_top1", "learning rate": "lr"}
        for tag, column in columns.items():
            points = events.Scalars(tag)
            assert [point.step for point in points] == [0, 1]
            assert [point.value for point in points] == pytest.approx(history[f"{column}_{network}"].tolist(), rel=1e-6)


def test_without_tensorboard_nothing_is_trained(benchmark, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    assert cli.main(["train", str(benchmark), "--results", str(tmp_path / "results"), "--tensorboard", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("tensorboard; install it by `pip install 'dgd-bench[logs]'`\n")
    assert not (tmp_path / "results").exists()
