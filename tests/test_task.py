"""Tasks by hand-computed numbers, and a regression from its data to its files."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from dgd.metrics import METRICS, best
from dgd.task import TASKS
from dgd.train import train_cell
from tests.helpers import cells_of, prepare_digits

CLASSES, NUMBERS = TASKS["classification"], TASKS["regression"]


def test_classification_is_cross_entropy_and_the_share_that_is_right():
    logits, labels = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0]]), torch.tensor([0, 1])
    assert CLASSES.width(10) == 10
    assert CLASSES.read(logits) is logits
    assert float(CLASSES.loss(logits, labels)) == pytest.approx(float(F.cross_entropy(logits, labels)) * 2)
    assert CLASSES.predict(torch.stack([logits, -logits])).tolist() == [[0, 2], [1, 0]]
    assert CLASSES.total(torch.tensor([[0, 1], [0, 2], [1, 2]]), labels).tolist() == [2, 1, 0]
    assert CLASSES.score(3, 4) == 75.0
    votes = sum(CLASSES.vote(z, 2) for z in (logits, -logits))
    assert torch.allclose(votes, logits.softmax(1) + (-logits).softmax(1))
    assert CLASSES.stored(labels, 10).dtype == np.uint8
    assert CLASSES.stored(labels, 1000).dtype == np.uint16


def test_regression_is_squared_error_and_its_root_mean():
    raw, labels = torch.tensor([[1.0], [-2.0]]), torch.tensor([0.5, 1.0])
    assert NUMBERS.width(1) == 1
    values = NUMBERS.read(raw)
    assert values.tolist() == [1.0, -2.0]
    assert float(NUMBERS.loss(values, labels)) == pytest.approx(0.25 + 9)
    assert torch.equal(NUMBERS.predict(values), values)
    assert NUMBERS.total(torch.stack([values, labels]), labels).tolist() == pytest.approx([9.25, 0])
    assert NUMBERS.score(9.25, 2) == pytest.approx(math.sqrt(4.625))
    votes = sum(NUMBERS.vote(value, 2) for value in (values, labels))
    assert votes.tolist() == pytest.approx([0.75, -0.5])
    assert NUMBERS.stored(values, 1).dtype == np.float32


def test_the_best_is_by_the_metric_and_the_first_of_equals():
    assert best([1.0, 3.0, 3.0, 2.0], METRICS["classification"]) == 1
    assert best([2.0, 1.0, 1.0, 3.0], METRICS["regression"]) == 1
    assert [METRICS[name].sign for name in ("classification", "regression")] == [1, -1]


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """Return the folder of 60 digits to train on, whose labels are the angles by which they are turned."""
    folder = tmp_path_factory.mktemp("turned")
    return prepare_digits(folder, 50, "digits-rotation", train_images=60, validation_images=20)


@pytest.mark.parametrize("method", ["baseline", "grafting"])
def test_a_regression_leaves_the_files_of_any_cell(turned, tmp_path, method):
    (cell,) = cells_of(
        {
            "benchmark": "t",
            "seeds": [0],
            "datasets": ["digits-rotation"],
            "pairs": [{"student": "cifar_resnet8"}],
            "methods": [method],
            "recipe": {"epochs": 12, "batch_size": 16, "lr": 0.02, "device": "cpu", "precision": "fp32"},
        }
    )
    assert (cell.task, list(cell.objective)) == ("regression", ["mse"])
    metrics = train_cell(cell, results=tmp_path, data=turned)
    folder = tmp_path / cell.path
    assert metrics == json.loads((folder / "metrics.json").read_text())
    with np.load(folder / "predictions.npz") as arrays:
        predictions, labels = arrays["predictions"].astype(np.float64), arrays["labels"].astype(np.float64)
    assert predictions.shape == (cell.networks, 50)
    errors = np.sqrt(((predictions - labels) ** 2).mean(1))
    assert [net["last"]["rmse"] for net in metrics["networks"]] == pytest.approx(errors.tolist(), rel=1e-5)
    history = pd.read_csv(folder / "history.csv")
    assert history["train_rmse_0"].tolist() == pytest.approx(np.sqrt(history["mse_0"]).tolist(), rel=1e-5)
    assert history["test_loss_0"].iloc[-1] == pytest.approx(errors[0] ** 2, rel=1e-5)
    assert metrics["networks"][0]["best_on_test"]["rmse"] == history["test_rmse_0"].min()
    assert history["mse_0"].iloc[-1] < 0.5 * history["mse_0"].iloc[0]
    if method == "grafting":
        together = math.sqrt(((predictions.mean(0) - labels) ** 2).mean())
        assert metrics["ensemble"]["rmse"] == pytest.approx(together, rel=1e-5)
