"""A paper with a claim, and cells that it is held against; every number is made up."""

import copy
from pathlib import Path

import pandas as pd
import yaml
from made_up import R56, R110

from dgd import methods
from dgd.cell import Cell, Data, Recipe, exchange
from dgd.read import claims
from dgd.read.cells import COLUMNS, conditions

ROOT = Path(__file__).parents[1]
PAPERS = [ROOT / "papers" / f"{name}.yaml" for name in ("dgd", "filter-grafting")]
ROWS = {name: methods.resolve(name)[1] for name in ("baseline", "kd", "grafting", "dgd")}
ROWS["pair"] = methods.resolve({"pair": {"base": "baseline", "networks": 2}})[1]


def published(id, method, value, metric="top1", teacher=None, **more):
    of = ROWS["pair" if method == "ensemble" else method]
    networks, teachers = of.networks, of.teachers
    row = {"id": id, "table": "T", "dataset": "cifar10", "model": R56, "method": method, "networks": networks}
    row |= {"teachers": teachers, "metric": metric, "value": value, "source": "T"} | more
    return row | ({"teacher": teacher} if teacher else {})


PAPER = {
    "paper": "p",
    "headline": ["T"],
    "methods": ["baseline", "kd", "grafting", "dgd", {"pair": {"base": "baseline", "networks": 2}}],
    "networks": {},
    "conditions": {
        "cifar10": {
            **{"epochs": 200, "lr": 0.1, "batch_size": [128, 256], "schedule": "slr", "step_epochs": 60},
            **{"precision": "fp32", "train_images": None, "validation_images": 0},
        }
    },
    "results": [
        published("base", "baseline", 90.0),
        published("graft", "grafting", 91.0),
        published("base-ratio", "baseline", 0.5, "invalid_ratio", threshold=0.1),
        published("graft-ratio", "grafting", 0.2, "invalid_ratio", threshold=0.1),
        published("base-9", "baseline", 40.0, "top1_at_epoch", epoch=9),
        published("graft-9", "grafting", 50.0, "top1_at_epoch", epoch=9),
        published("kd", "kd", 92.0, teacher=R110),
        published("dgd", "dgd", 93.0, teacher=R110),
        published("both", "ensemble", 90.5),
        published("base-conv2", "baseline", 1.0, "median_l1"),
        published("graft-conv2", "grafting", 2.0, "median_l1"),
    ],
    "claims": [
        {
            "id": "gain",
            "claim": "Grafting helps.",
            "source": "T",
            "compares": {
                "metric": "top1",
                "method": "grafting",
                "over": "baseline",
                "better": "higher",
                "where": [{"dataset": "cifar10", "student": R56, "published": ["graft", "base"]}],
            },
            "reproduced_if": "it does",
        }
    ],
}


def paper(tmp_path, **compares):
    """Write a paper with one claim, its `compares` changed; the keys of its one setting can be given too.

    The published rows count the layers that the claim measures.
    """
    document = copy.deepcopy(PAPER)
    own = document["claims"][0]["compares"]
    if "layers" in compares:
        document["results"] = [row | {"counts": compares["layers"]} for row in document["results"]]
    for key, value in compares.items():
        target = own["where"][0] if key in ("dataset", "student", "teacher", "published") else own
        target[key] = value
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def made(method, row, **changes):
    """Return the columns of cells.csv about what a cell is made of, for a row of methods and changed keys of recipe or data."""
    recipe = {"precision": "fp32", **row.recipe} | {key: changes[key] for key in changes if hasattr(Recipe(), key)}
    data = {key: changes[key] for key in changes if hasattr(Data(), key)}
    cell = Cell(
        **{"benchmark": "b", "dataset": "cifar10", "model": R56, "method": method, "seed": 0, "student": R56},
        **{"networks": row.networks, "objective": methods.written_out(row.objective)},
        **{"exchange": exchange(row.exchange), "recipe": Recipe(**recipe), "data": Data(**data)},
    )
    return conditions(cell) | {"networks": row.networks, "teachers": row.teachers, "metric": "top1"}


def frame(*groups, benchmark="b", **common):
    """Cells as in cells.csv: each group is (method, values of top-1, changes)."""
    rows = []
    for method, values, *more in groups:
        changes = common | (more[0] if more else {})
        of = changes.get("of", ROWS.get(method))
        for seed, value in enumerate(values):
            row = {"benchmark": benchmark, "dataset": "cifar10", "model": R56, "student": R56, "method": method, "seed": seed}
            row |= {"network": 0, "status": "finished", "teacher": R110 if of.teachers else None, "protocol": "paper"}
            row |= made(method, of, **{key: changes[key] for key in changes if changes[key] is not None})
            row |= {"last": value} | {key: changes[key] for key in changes if key in COLUMNS}
            row["folder"] = f"{row['dataset']}/{row['student']}/{method}/seed{seed}"
            rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def judge(path, *benchmarks):
    return claims.evaluate(claims.read([path]), [b if isinstance(b, tuple) else (b, None) for b in benchmarks])
