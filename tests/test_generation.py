"""A GAN and a density ratio as cells of the one loop: terms by values of the authors' functions, training, resuming, files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dgd.cell import Cell, Recipe
from dgd.task import TASKS
from dgd.train import checkpoint, train_cell
from tests.helpers import Stopped, files_but_timings, make_teacher, stopping

GAN_RECIPE = Recipe(
    epochs=3, batch_size=16, lr=1e-3, optimiser="adam", beta1=0.0, weight_decay=0.0, precision="fp32", device="cpu"
)


def gan_cell(**changes) -> Cell:
    given = {
        "benchmark": "t",
        "dataset": "digits",
        "model": "gan_generator",
        "method": "gan",
        "seed": 0,
        "student": "gan_generator",
        "teacher": "cifar_resnet8",
        "networks": 2,
        "partners": ("gan_discriminator",),
        "teachers": ("teacher",),
        "objective": {"adversarial": {"weight": 1.0}},
        "task": "generation",
        "recipe": replace(GAN_RECIPE, weight_average="ema", average_every="step", average_decay=0.9),
    }
    return Cell(**given | changes)


def ratio_cell(**changes) -> Cell:
    given = {
        "model": "ratio_mlp3",
        "method": "ratio",
        "student": "ratio_mlp3",
        "networks": 1,
        "partners": (),
        "teachers": ("teacher", gan_cell().path),
        "objective": {"ratio": {"weight": 1.0}},
        "task": "density-ratio",
        "recipe": GAN_RECIPE,
    }
    return gan_cell(**given | changes)


def a_teacher(folder: Path, prepared: Path) -> None:
    make_teacher(gan_cell(task="classification", partners=(), networks=1), prepared, folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["cell"]["task"] = "classification"
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_a_cell_of_a_generator_and_one_of_a_density_ratio(few_digits, tmp_path, monkeypatch):
    """Same bytes twice and when stopped in every epoch; both networks learn, one is evaluated and saved."""
    for root in ("whole", "stopped"):
        a_teacher(tmp_path / root / "teacher", few_digits)
    for own in (gan_cell(partner_steps=2), ratio_cell()):
        metrics = train_cell(own, results=tmp_path / "whole", data=few_digits)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save_state", stopping(checkpoint.save_state))
            for _ in range(own.recipe.epochs - 1):
                with pytest.raises(Stopped):
                    train_cell(own, results=tmp_path / "stopped", data=few_digits)
        train_cell(own, results=tmp_path / "stopped", data=few_digits)
        assert files_but_timings(tmp_path / "stopped" / own.path) == files_but_timings(tmp_path / "whole" / own.path)
        metric = TASKS[own.task].metric.name
        assert len(metrics["networks"]) == 1
        assert np.isfinite(metrics[metric]["last"])
        assert metrics["method"]["status"] == "deviates"
