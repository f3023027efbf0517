"""Cells that nobody trained, as files and as frames: every number is made up."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from dgd import methods
from dgd.cell import Cell, Data, Recipe, exchange
from dgd.metrics import METRICS

R56, R110 = "cifar_resnet56", "cifar_resnet110"
NAMED = {"dgd-1t4s": {"base": "dgd", "networks": 4}}
"""Methods that no table of methods has."""


def cell_of(
    method="baseline",
    seed=0,
    student=R56,
    teacher=None,
    dataset="cifar100",
    model=None,
    recipe=None,
    data=None,
    **more,
) -> Cell:
    """Return a cell of 3 epochs.

    Args:
        method: Its label, and what it is made of unless `more` says otherwise.
        recipe, data: Keys that are not the defaults'.
        more: Other fields of the cell.
    """
    entry = {method: NAMED[method]} if method in NAMED else method
    _, row = methods.resolve(entry)
    teachers = [f"fake/{dataset}/{teacher}/baseline/seed{number}" for number in range(row.teachers)]
    return replace(
        Cell(
            benchmark="fake",
            dataset=dataset,
            model=model or student,
            method=method,
            seed=seed,
            student=student,
            teacher=teacher,
            networks=row.networks,
            teachers=tuple(teachers),
            objective=methods.given_options(row.objective),
            exchange=exchange(row.exchange),
            data=Data(**(data or {})),
            recipe=Recipe(**({"epochs": 3} | dict(row.recipe) | (recipe or {}))),
        ),
        **more,
    )


def fake_cell(folder, cell: Cell, values=(72.0, 60.0), norms=None, status="finished", validation=True) -> Path:
    """Write a made-up cell below the folder of its benchmark and return its own folder.

    Args:
        folder: `results/<benchmark>`.
        cell: What it is made of.
        values: The metric by network at the last epoch.
        norms: The L1 norms of two layers by network.
        status: How it ended.
        validation: Whether there are results on a validation split, or those of each network at the last epoch.
    """
    path = Path(folder) / cell.slug / cell.model / cell.method / f"seed{cell.seed}"
    path.mkdir(parents=True)
    metric = METRICS[cell.task].name
    labels = ("benchmark", "dataset", "model", "student", "teacher", "method", "seed")
    metrics = {"status": status, "cell": {name: getattr(cell, name) for name in labels}}
    if status != "finished":
        metrics["error"] = "loss is not finite at epoch 1"
    else:
        networks, arrays = [], {}
        for i in range(cell.networks):
            l1 = np.asarray((norms or {}).get(i, [0.05, 0.5, 2.0, 3.0]), dtype=np.float32)
            arrays |= {f"l1/{i}/conv1.weight": l1[:1], f"l1/{i}/conv2.weight": l1[1:], f"entropy/{i}": np.ones(2)}
            value = values[min(i, len(values) - 1)]
            last = validation[i] if isinstance(validation, list) else value - 1 if validation else None
            networks.append(
                {
                    "last": {metric: value, f"validation_{metric}": last, "loss": 1.0, "epoch": 2},
                    "best_on_test": {metric: value + 0.5, "epoch": 1},
                    "validation_selected": {metric: value - 0.25, "epoch": 0} if validation else None,
                    "filters": {
                        "count": len(l1),
                        "invalid_ratio": {t: float((l1 <= float(t)).mean()) for t in ("1", "0.1", "0.01", "0.001")},
                        "mean_l1": float(l1.mean()),
                        "entropy_sum": 2.0,
                    },
                }
            )
        timings = {"seconds": 9.0, "images_per_second": 100.0, "peak_memory_mib": 50.0, "epochs_run": 3}
        metrics |= {
            "parameters": 858868,
            "conv_filters": networks[0]["filters"]["count"],
            "networks": networks,
            "timings": timings,
        }
        np.savez(path / "filters.npz", **arrays)
    (path / "metrics.json").write_text(json.dumps(metrics))
    (path / "config.yaml").write_text(yaml.safe_dump(cell.plain()))
    return path


def fake_benchmark(folder: Path) -> Path:
    """Write three seeds of the paper's four methods for ResNet-56 <- ResNet-110, and the teacher; one dgd cell diverged."""
    fake_cell(folder, cell_of(student=R110), [74.0])
    for seed in range(3):
        fake_cell(folder, cell_of("baseline", seed), [70.0 + 0.1 * seed])
        fake_cell(folder, cell_of("kd", seed, teacher=R110), [72.0 + 0.1 * seed])
        fake_cell(folder, cell_of("grafting", seed), [70.0 - 0.1 * seed, 50.0])
        status = "diverged" if seed == 2 else "finished"
        fake_cell(folder, cell_of("dgd", seed, teacher=R110), [72.5 + 0.1 * seed, 60.0], status=status)
    return folder


def row_of(frame: pd.DataFrame, **wanted) -> pd.Series:
    """Return the one row that fits."""
    for field, value in wanted.items():
        frame = frame[frame[field] == value]
    assert len(frame) == 1, f"{len(frame)} rows fit {wanted}"
    return frame.iloc[0]
