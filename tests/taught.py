"""A teacher and its student, and what their trainings leave."""

import json
from dataclasses import replace
from pathlib import Path

from dgd import identity
from dgd.cell import Cell, Recipe, exchange

TEACHER = Cell("b", "digits", "cifar_resnet20", "baseline", 0, "cifar_resnet20", recipe=Recipe(epochs=1, batch_size=20))
STUDENT = replace(
    TEACHER,
    model="cifar_resnet8",
    method="dgd",
    student="cifar_resnet8",
    teacher="cifar_resnet20",
    networks=2,
    teachers=(TEACHER.path,),
    objective={"ce": {"weight": 1.0}, "kd": {"weight": 1.0}},
    exchange=exchange({"name": "graft"}),
)


def of(cell: Cell) -> identity.Identity:
    return identity.of_cell(cell, [TEACHER])


def leave(results: Path) -> None:
    """Write the folders of both as `train_cell` leaves them, but for what no status reads."""
    for cell in (TEACHER, STUDENT):
        folder = results / cell.path
        folder.mkdir(parents=True)
        for name in identity.OUTPUTS:
            (folder / name).write_bytes(b"{}")
        (folder / "config.yaml").write_text(json.dumps(cell.plain()))
        (folder / "metrics.json").write_text(json.dumps({"status": "finished", "cell": {}}))
        record = identity.record(cell, results=results, data=results / "nothing")
        (folder / "provenance.json").write_text(json.dumps({"cell": cell.path, "identity": record | {"data": "d"}}))
